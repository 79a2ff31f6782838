"""What was answered arrives at the Explorer, once, whatever is killed, gone or broken meanwhile."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stage import raw, rules, streams
from stage.proxy import Proxy
from stage.raw import CHAT, RawClient
from stage.script import Call, Stream, wait_until
from stage.upstream import Upstream

from ..traces.chaos import KEY, ChaosExplorer, Stored
from ..traces.seen import marked

ANSWERED = 200
AT_ONCE = 4
MARK = "MARK😀-7"
NOTES = f"""
raise "a mark in a message" if:
    (m: Message)
    "{MARK}" in m.content

raise "a mark in a call" if:
    (c: ToolCall)
    "{MARK}" in c.function.arguments.to
"""


@pytest.fixture
def explorer() -> Iterator[ChaosExplorer]:
    explorer = ChaosExplorer(seed=7)
    yield explorer
    explorer.down()
    assert not explorer.errors, "the fake itself failed"


def asked(number: int) -> streams.Json:
    """Every fifth in each way; the number is in the text."""
    said: object = f"{'😀' * (number % 4)} call {number}: hello"
    if number % 5 == 0:
        said = f"{said} {MARK} ok"
    elif number % 5 == 1:
        parts = ("one 😀", f"call {number}: {MARK}", "three")
        said = [{"type": "text", "text": part} for part in parts]
    messages = [{"role": "system", "content": "be brief 😀"}, {"role": "user", "content": said}]
    return streams.chat(messages=messages)


def answer(call: Call) -> Stream:
    number = number_of(call.body.decode())
    if number % 5 == 2:
        arguments = json.dumps({"n": 1, "to": f"😀 {MARK}, you"}, ensure_ascii=False)
        return Stream(streams.tool_stream("😀 calling", [("send", arguments)]))
    words = ["so ", "😀😀 ", "and "]
    words += ["a BLUEBIRD ", "flies"] if number % 5 == 3 else []
    words += [f"{MARK} ", "here"] if number % 5 == 4 else ["done"]
    return Stream(streams.text_stream(words))


def number_of(text: str) -> int:
    found = re.search(r"call (\d+):", text)
    assert found
    return int(found[1])


def number_in(trace: Stored) -> int:
    return number_of(json.dumps(trace.messages, ensure_ascii=False))


class Callers:
    """Programs that call one after the other, and go on when the proxy is back."""

    def __init__(self) -> None:
        self.answered: list[int] = []
        self.begun = 0
        self._lock = threading.Lock()

    def run(self, proxy: Proxy, until: int) -> None:
        """Until so many were answered, or the proxy is gone."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for done in [pool.submit(self._call, proxy, until) for _ in range(AT_ONCE)]:
                done.result()

    def _call(self, proxy: Proxy, until: int) -> None:
        with contextlib.suppress(raw.Lost, OSError), RawClient.through(proxy) as client:
            while True:
                with self._lock:
                    if len(self.answered) >= until:
                        return
                    number, self.begun = self.begun, self.begun + 1
                reply = client.post(CHAT, asked(number)).wait_end()
                if not reply.is_complete:
                    return
                assert reply.status == 200
                with self._lock:
                    self.answered.append(number)


def change(data: Path, statement: str) -> None:
    connection = sqlite3.connect(data / "traces.db", timeout=10)
    with contextlib.closing(connection), connection:
        connection.execute(statement)


def test_what_was_answered_arrives_once(
    upstream: Upstream, start_proxy, explorer: ChaosExplorer, tmp_path: Path
) -> None:
    """The proxy is killed, the Explorer is gone for a third of the calls, and of all pushes two
    in five fail, most of them after they were stored."""
    explorer.faults = 0.4
    data, notes = tmp_path / "data", tmp_path / "notes.inv"
    notes.write_text(NOTES)
    proxy = start_proxy(
        rules=[rules.NO_BLUEBIRD],
        options={
            "invariant_data": str(data),
            "invariant_log_rules": [str(notes)],
            "invariant_explorer": explorer.url,
            "invariant_push_dataset": "agents",
            "invariant_push": "all",
        },
        environment={"INVARIANT_API_KEY": KEY},
    )
    upstream.script(answer)
    callers = Callers()

    killer = threading.Thread(
        target=lambda: (
            wait_until(lambda: len(callers.answered) >= 60, 60, "60 answers"),
            proxy.kill(),
        )
    )
    killer.start()
    callers.run(proxy, ANSWERED)
    killer.join()
    last = set(callers.answered[-3 * AT_ONCE :])
    assert len(callers.answered) < ANSWERED

    explorer.down()
    proxy.port = 0
    proxy.log_file.unlink()
    proxy.start()
    callers.run(proxy, 130)
    explorer.up()
    callers.run(proxy, ANSWERED)

    def all_arrived() -> bool:
        # Time goes faster here: nobody waits for a trace's next try.
        change(data, "UPDATE deliveries SET next = 0 WHERE state = 'pending' AND lease = 0")
        threading.Event().wait(0.1)
        return {number_in(trace) for trace in explorer.stored} >= set(callers.answered)

    wait_until(all_arrived, 60, "all traces")
    ended = proxy.stop()
    assert ended.code == 0 and "Traceback" not in ended.log

    stored = explorer.stored
    identities = Counter(trace.metadata["client_trace_id"] for trace in stored)
    assert max(identities.values()) == 1
    numbers = Counter(number_in(trace) for trace in stored)
    assert all(numbers[number] == 1 for number in callers.answered)
    assert len(stored) <= callers.begun
    seen = Counter[str]()
    for trace in stored:
        number = number_in(trace)
        if not trace.annotations:  # killed before its log rules had looked at it
            unanswered = set(range(callers.begun)) - set(callers.answered)
            assert number % 5 != 3 and number in last | unanswered
        for annotation in trace.annotations:
            texts = marked(trace.messages, annotation["address"])
            word = "BLUEBIRD" if number % 5 == 3 else MARK
            assert word in texts, (annotation["address"], texts)
            seen[annotation["content"]] += 1
    assert set(seen) == {"a mark in a message", "a mark in a call", "no bluebirds here"}
