"""The rules that count now, while files are edited and engines fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from invariant_addon import judges
from invariant_addon.core.verdict import Guardrail, Verdict
from invariant_addon.engines.base import Defect, EngineError, Question, Remark
from invariant_addon.judges import Judges
from invariant_addon.rules.files import Files
from invariant_addon.rules.watch import Watch

RULE = 'raise "no {0}" if:\n    (m: Message)\n    "{0}" in m.content\n'


class Failing:
    """An engine that loads nothing as often as it is told to."""

    def __init__(self) -> None:
        self.failures = 0
        self.loads: list[str] = []
        self.defective = ""

    async def load(
        self, guardrails: Sequence[Guardrail], *, everywhere: bool = True
    ) -> tuple[Defect, ...]:
        (rule,) = guardrails
        self.loads.append(rule.text)
        if self.failures:
            self.failures -= 1
            raise EngineError("a worker died")
        return (Defect(rule, "bad"),) if self.defective and self.defective in rule.text else ()

    async def start(self) -> None: ...

    async def check(self, question: Question) -> tuple[Verdict, ...]:
        raise AssertionError("nobody asks")

    async def aclose(self) -> None: ...


def edit(file: Path, word: str) -> None:
    file.write_text(RULE.format(word))


async def until(what: Callable[[], bool]) -> None:
    for _ in range(2000):
        if what():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to this")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(judges, "WATCH_SECONDS", 0.002)
    monkeypatch.setattr(judges, "RETRY_SECONDS", (0.002, 0.01))
    path = tmp_path / "mine.inv"
    edit(path, "BLUEBIRD")
    return path


def run(
    file: Path,
    engine: Failing,
    scene: Callable[[Callable[[str], bool]], Coroutine[None, None, None]],
    reader: object = None,
    service: str = "",
) -> None:
    """scene: gets a question: do these words stand in the rules that count?"""

    async def play() -> None:
        files = Files(block=(file,), starter=False)
        found = Judges()
        found._settings = SimpleNamespace(  # type: ignore[assignment]  # what is used of it
            files=files, parameters={}, dataset="", explorer="", header_rules=False, engine=service
        )
        found._reader = reader  # type: ignore[assignment]  # what is asked of it
        found._guardrails, found._watch = files.read(), Watch(files.paths)
        assert await found._adopt(engine)
        watching = asyncio.ensure_future(found._keep_watch(engine))
        try:
            assert found.current is not None
            await scene(lambda word: word in found.current.blocking[0].text)  # type: ignore[union-attr]
        finally:
            watching.cancel()
            await asyncio.wait((watching,))
        assert watching.cancelled()

    asyncio.run(play())


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_rules_that_an_engine_failed_to_load_are_tried_again(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file is fine; its owner saw one warning, and would wonder why nothing is blocked."""
    engine = Failing()

    async def scene(has: Callable[[str], bool]) -> None:
        engine.failures = 3
        edit(file, "REDFOX")
        await until(lambda: has("REDFOX"))

    run(file, engine, scene)
    assert len([source for source in engine.loads if "REDFOX" in source]) == 4
    assert told(caplog) == [
        "the rules could not be loaded: a worker died. The rules stay as they were; this is tried "
        "again"
    ]


def test_an_edit_meanwhile_is_what_is_tried(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And the next outage is told of again."""
    engine = Failing()

    async def scene(has: Callable[[str], bool]) -> None:
        engine.failures = 10_000
        edit(file, "REDFOX")
        await until(lambda: "REDFOX" in engine.loads[-1])
        edit(file, "GREENFROG")
        await until(lambda: "GREENFROG" in engine.loads[-1])
        assert has("BLUEBIRD")
        engine.failures = 0
        await until(lambda: has("GREENFROG"))
        engine.failures = 1
        edit(file, "GREYCAT")
        await until(lambda: has("GREYCAT"))

    run(file, engine, scene)
    assert len(told(caplog)) == 2


def test_a_bad_file_is_not_tried_again(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Until it is edited."""
    engine = Failing()
    engine.defective = "REDFOX"

    async def scene(has: Callable[[str], bool]) -> None:
        engine.failures = 1  # and then the engine can read it, and says what is wrong
        edit(file, "REDFOX")
        await until(lambda: len(told(caplog)) == 2)
        loads = len(engine.loads)
        await asyncio.sleep(0.05)
        assert len(engine.loads) == loads and has("BLUEBIRD")
        edit(file, "GREENFROG")
        await until(lambda: has("GREENFROG"))

    run(file, engine, scene)
    assert "mine cannot be used: bad" in told(caplog)[1]


class Reader:
    """Has something to say to every guardrail, as the local engine may."""

    def remarks(self, guardrails: Sequence[Guardrail]) -> tuple[Remark, ...]:
        lacks = (Remark(g, "line 1: pii needs spacy", lacks=True) for g in guardrails)
        return (*lacks, *(Remark(g, "line 2: it always holds", lacks=False) for g in guardrails))


@pytest.mark.parametrize("service", ["", "https://judge.example"])
def test_what_is_odd_about_a_rule_is_said_when_it_counts(
    file: Path, caplog: pytest.LogCaptureFixture, service: str
) -> None:
    """Without its package every call would be refused, and its owner had read "judging by mine".

    A service that judges has packages of its own: what is missing here is no matter then.
    """

    async def scene(has: Callable[[str], bool]) -> None:
        assert has("BLUEBIRD")

    run(file, Failing(), scene, Reader(), service)
    lacks = "rule file mine gives no verdict: line 1: pii needs spacy"
    assert told(caplog) == [
        *([] if service else [lacks]),
        "rule file mine, line 2: it always holds",
    ]
