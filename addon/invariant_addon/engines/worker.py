"""The worker: questions come in on one pipe, answers go out on another, nothing else gets in.

Run as `python -P worker.py <memory in MB>`. `-P`, because this file's folder is not to be
searched; and the addon's folder goes to the end of the path, because the script that mitmproxy
loads is called invariant.py and would hide the package `invariant`.

Frames hold JSON (see frames.py). After the start the worker says `{"ready": true, "sandbox":
[text]}` or why not.
    {"op": "load", "guardrails": [[text, trusted]], "trees": [tree or ""], "keep": bool}
      -> {"errors": [text or null], "trees": [tree or ""], "remarks": [[{"text", "lacks"}]]}
    {"op": "check", "continuations": [[...]], "parameters": {...}}, newline,
    [[text, trusted]], newline, [[text, trusted]], newline, [messages]
      -> {"outcomes": [[{"violations": [{"message", "ranges", "final"}], "error", "notes"}]]}
The second line has the guardrails. If the third has any, there are two answers: of those in the
second, which goes out at once, and then of those in the third; {"outcomes": null} if the first was
not clean. Guardrails and messages have lines of their own so that those which are known already
need not be parsed. Any may be answered by {"error": text}, which never quotes a conversation.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

PR_SET_PDEATHSIG = 1  # linux/prctl.h
NONE = b"[]"
"""No guardrails."""


_ENCODER = json.JSONEncoder(ensure_ascii=False)


def main(memory_mb: int) -> None:
    questions, answers = _take_pipes()
    _shield(memory_mb)
    addon = str(Path(__file__).resolve().parents[2])
    sys.path.append(addon)
    from invariant_addon.engines import late  # noqa: PLC0415  # only now can it be found

    sys.path.remove(addon)  # else ours could answer to the next name
    try:
        with late.late_imports():
            import invariant.analyzer  # noqa: F401, PLC0415  # the stand-ins have to be there
    except ImportError as e:
        _refuse(answers, f"invariant-ai cannot be imported: {e}")
        return
    sys.path.append(addon)
    from invariant_addon.engines import frames, sandbox  # noqa: PLC0415  # the same

    try:
        from invariant_addon.engines.judge import Judge  # noqa: PLC0415  # the same

        judge = Judge()
    except Exception as e:  # noqa: BLE001  # edge: another version of the library fails in any way
        _refuse(answers, f"invariant-ai does not fit: {type(e).__name__}: {e}")
        return
    gc.freeze()  # a thousand modules that are never garbage
    _send(answers, {"ready": True, "sandbox": sandbox.confine()})
    while (body := frames.read(questions)) is not None:
        for part in _parts(judge, body):
            try:
                answer = part()
            except Exception as e:  # noqa: BLE001  # edge: the next question may fare better
                answer = {"error": f"{type(e).__name__} in the worker"}
            _send(answers, answer)


def _parts(judge: Any, body: bytes) -> list[Callable[[], dict[str, Any]]]:
    """What makes the answers, one after the other. As many as are waited for, whatever fails."""
    head, *lines = body.split(b"\n", 3)
    if not lines:
        return [lambda: _load(judge, json.loads(head))]
    keys, then, messages = lines
    read: list[Any] = []
    is_clean = False

    def first() -> dict[str, Any]:
        nonlocal is_clean
        question = json.loads(head)
        read.extend(judge.read(messages, question["continuations"], question["parameters"]))
        outcomes = judge.check(read, keys)
        is_clean = not any(o["violations"] or o["error"] for each in outcomes for o in each)
        return {"outcomes": outcomes}

    def second() -> dict[str, Any]:
        return {"outcomes": judge.check(read, then) if is_clean else None}

    return [first] if then == NONE else [first, second]


def _load(judge: Any, question: dict[str, Any]) -> dict[str, Any]:
    keys = [(text, trusted) for text, trusted in question["guardrails"]]
    return {**judge.load(keys, question["trees"], keep=question["keep"])}


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Our pipes under other numbers: what a library or a policy prints or asks for goes nowhere."""
    questions, answers = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nowhere, fd)
    os.close(nowhere)
    return os.fdopen(questions, "rb"), os.fdopen(answers, "wb")


def _shield(memory_mb: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the proxy, which ends us
    warnings.simplefilter("ignore")  # the library's warnings quote the conversation
    with contextlib.suppress(ImportError, OSError, ValueError):  # best effort: not on Windows
        import resource  # noqa: PLC0415  # not on Windows

        if memory_mb:
            limit = memory_mb * 1024 * 1024
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if sys.platform == "linux":
        with contextlib.suppress(ImportError, OSError, AttributeError):
            import ctypes  # noqa: PLC0415  # only here

            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _refuse(answers: BinaryIO, reason: str) -> None:
    _send(answers, {"ready": False, "reason": reason})


def _send(answers: BinaryIO, answer: dict[str, Any]) -> None:
    body = _ENCODER.encode(answer).encode("utf-8", "replace")
    # The parent may have gone: then there is nobody to tell.
    with contextlib.suppress(BrokenPipeError):
        answers.write(len(body).to_bytes(4, "big") + body)
        answers.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
