"""Policies of an Explorer's datasets: read once with patience, then never waited for."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from unittest import mock

import pytest

from invariant_addon import outgoing
from invariant_addon.core.verdict import Action, Guardrail
from invariant_addon.engines.base import Defect, EngineError
from invariant_addon.rules import explorer as rules
from invariant_addon.rules import explorer_client as client
from invariant_addon.rules.explorer import DatasetRules, RulesUnavailableError, Vet

from ..e2e.stage.explorer import IDENTITY, KEY, Explorer, policy

AUTH = f"Bearer {KEY}"
RULE = 'raise "no" if:\n    (m: Message)\n    "x" in m.content\n'
NEXT = 60.0
"""Seconds after which a dataset is due again, whatever the dice say."""


@pytest.fixture(scope="module")
def _the_explorer() -> Iterator[Explorer]:
    explorer = Explorer().start()
    yield explorer
    explorer.stop()


@pytest.fixture
def explorer(_the_explorer: Explorer) -> Iterator[Explorer]:
    """The fake, as new for each test."""
    _the_explorer.reset()
    yield _the_explorer
    assert not _the_explorer.errors, "the fake itself failed"


@pytest.fixture(autouse=True)
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[int], list[str]]]:
    """What was logged with this level. Never a key."""
    caplog.set_level(logging.DEBUG, logger="invariant_addon")
    yield lambda level: [r.getMessage() for r in caplog.records if r.levelno == level]
    assert KEY not in caplog.text


class Clock:
    """Time goes on when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Rules(DatasetRules):
    """With a clock of the test's own, and a way to wait for what runs in the background."""

    def __init__(self, url: str, *, timeout: float = 5.0, vet: Vet | None = None) -> None:
        self.clock = Clock()
        super().__init__(url, timeout=timeout, vet=vet, clock=self.clock)

    async def settle(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def later(self, dataset: str = "agents", key: str | None = AUTH) -> list[str]:
        """The next refresh is due; what is in force when it is done."""
        self.clock.now += NEXT
        await self.get(dataset, key)
        await self.settle()
        return names(await self.get(dataset, key))


def names(guardrails: Sequence[Guardrail]) -> list[str]:
    return [guardrail.name for guardrail in guardrails]


def play(
    explorer: Explorer,
    scene: Callable[[Rules], Awaitable[None]],
    *,
    timeout: float = 5.0,
    vet: Vet | None = None,
) -> None:
    async def run() -> None:
        found = Rules(explorer.url, timeout=timeout, vet=vet)
        try:
            await scene(found)
        finally:
            await found.aclose()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


async def refused(found: DatasetRules, dataset: str = "agents", key: str | None = AUTH) -> str:
    with pytest.raises(RulesUnavailableError) as caught:
        await found.get(dataset, key)
    assert KEY not in repr(caught.value)
    return str(caught.value)


async def arrived(explorer: Explorer, count: int) -> None:
    async with asyncio.timeout(10):
        while explorer.count() < count:  # noqa: ASYNC110  # the fake lives in another thread
            await asyncio.sleep(0.005)


# -- what is read


def test_the_enabled_policies_are_guardrails(explorer: Explorer) -> None:
    """As they stand in the Explorer, and never trusted: anybody with an account wrote them."""
    explorer.set(
        "agents",
        policy("one", RULE, identity="8f0c"),
        policy("off", RULE, enabled=False),
        *(policy(action, RULE + "#" * n, action=action) for n, action in enumerate(Action)),
    )

    async def scene(found: Rules) -> None:
        guardrails = await found.get("agents", AUTH)
        assert guardrails[0] == Guardrail("8f0c", "one", RULE, Action.BLOCK, False, "dataset")
        assert [g.action for g in guardrails[1:]] == list(Action)
        assert [r.path for r in explorer.requests] == [
            IDENTITY,
            "/api/v1/dataset/byuser/ada/agents/policy",
        ]
        assert {r.headers["authorization"] for r in explorer.requests} == {AUTH}

    play(explorer, scene)


def test_what_cannot_be_used_is_skipped_and_said_once(
    explorer: Explorer, said: Callable[[int], list[str]]
) -> None:
    """The Explorer stores any text and any action; one bad entry must not cost the others."""
    explorer.set(
        "agents",
        policy("good", RULE),
        policy("odd", RULE, action="explode"),
        {**policy("torn", RULE), "content": None},
        {**policy("", RULE), "id": 7},
        {**policy("unsure", RULE), "enabled": "yes"},
        policy("again", RULE, identity="id-good"),
        policy("a\nforged line", RULE, identity="multi"),
        policy("no action", RULE, action="x\ny"),
    )

    async def scene(found: Rules) -> None:
        assert names(await found.get("agents", AUTH)) == ["good", "a forged line"]
        before = said(logging.WARNING)
        assert len(before) == 6 and not any("\n" in line for line in before)
        assert "dataset agents: policy id-odd was skipped: its action is explode" in before[0]
        assert await found.later() == ["good", "a forged line"]
        assert said(logging.WARNING) == before

    play(explorer, scene)


def test_another_user_name_is_quoted_in_the_path(explorer: Explorer) -> None:
    """It is a text that somebody chose."""
    explorer.users["k2"] = "a b/c?d"
    explorer.set("agents", policy("one", RULE), user="a b/c?d")

    async def scene(found: Rules) -> None:
        assert names(await found.get("agents", "Bearer k2")) == ["one"]

    play(explorer, scene)


def test_a_new_name_of_the_user_does_not_drop_the_rules(explorer: Explorer) -> None:
    """The name is remembered for each key, and a 404 may only mean that it is old."""
    explorer.set("agents", policy("one", RULE))

    async def scene(found: Rules) -> None:
        await found.get("agents", AUTH)
        await found.get("others", AUTH)
        asked = explorer.count(IDENTITY)
        await found.later()
        assert explorer.count(IDENTITY) == asked
        explorer.users[KEY] = "grace"
        explorer.remove("agents")
        explorer.set("agents", policy("two", RULE), user="grace")
        assert await found.later() == ["two"]

    play(explorer, scene)


def test_a_key_that_went_to_another_user_is_asked_for_its_name_again(explorer: Explorer) -> None:
    """Its datasets are others now, and the old ones are none of its business."""
    explorer.set("agents", policy("one", RULE))
    explorer.set("agents", policy("two", RULE), user="grace")

    async def scene(found: Rules) -> None:
        await found.get("agents", AUTH)
        explorer.users[KEY] = "grace"
        assert await found.later() == ["one"]
        found.clock.now += NEXT
        assert await found.later() == ["two"]

    play(explorer, scene)


def test_a_dataset_that_is_not_there_yet_has_no_rules(explorer: Explorer) -> None:
    """It is made by the first trace."""

    async def scene(found: Rules) -> None:
        assert await found.get("agents", AUTH) == ()
        explorer.set("agents", policy("one", RULE))
        assert await found.later() == ["one"]

    play(explorer, scene)


def test_a_dataset_that_was_deleted_has_no_rules_any_more(
    explorer: Explorer, said: Callable[[int], list[str]]
) -> None:
    """It is its owner's to delete; but whoever reads the log should know."""
    explorer.set("agents", policy("one", RULE))

    async def scene(found: Rules) -> None:
        await found.get("agents", AUTH)
        explorer.remove("agents")
        assert await found.later() == []
        assert await found.later() == []
        assert said(logging.WARNING) == ["dataset agents is gone: its policies no longer apply"]

    play(explorer, scene)


def test_a_404_of_somebody_else_drops_nothing(explorer: Explorer) -> None:
    """Reverse proxies answer so while the Explorer behind them is down."""
    explorer.set("agents", policy("one", RULE))

    async def scene(found: Rules) -> None:
        await found.get("agents", AUTH)
        explorer.status, explorer.only = 404, "/policy"
        assert await found.later() == ["one"]
        assert "status 404" in await refused(found, "others")

    play(explorer, scene)


# -- who asks


def test_keys_do_not_see_each_others_policies(explorer: Explorer) -> None:
    """The same dataset name is another dataset for another user."""
    explorer.users["k2"] = "grace"
    explorer.set("agents", policy("adas", RULE))
    explorer.set("agents", policy("graces", RULE), user="grace")
    explorer.cookie = "session=adas; Path=/"

    async def scene(found: Rules) -> None:
        assert names(await found.get("agents", AUTH)) == ["adas"]
        assert names(await found.get("agents", "Bearer k2")) == ["graces"]
        assert names(await found.get("agents", AUTH)) == ["adas"]
        assert not any("cookie" in request.headers for request in explorer.requests)

    play(explorer, scene)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("Bearer wrong", "the Explorer did not accept the Invariant API key"),
        (None, "the Explorer wants an Invariant API key, and the call has none"),
        (f"bearer {KEY}", "not of the form Bearer KEY"),
        (f"Bearer {KEY}\r\nx: y", "not of the form Bearer KEY"),
        (f"Bearer {KEY}é", "not of the form Bearer KEY"),
    ],
)
def test_a_key_that_will_not_do_is_named_without_being_told(
    explorer: Explorer, key: str | None, reason: str
) -> None:
    """The person must know what to mend, and the log must not know the key."""
    explorer.set("agents", policy("one", RULE))

    async def scene(found: Rules) -> None:
        assert reason in await refused(found, key=key)

    play(explorer, scene)


def test_an_explorer_in_development_needs_no_key(explorer: Explorer) -> None:
    """Tried at home, everybody is "developer"."""
    explorer.dev_mode = True
    explorer.set("agents", policy("one", RULE), user="developer")

    async def scene(found: Rules) -> None:
        assert names(await found.get("agents", None)) == ["one"]

    play(explorer, scene)


def test_a_wrong_key_is_not_tried_for_every_call(explorer: Explorer) -> None:
    """A client that is set up wrongly calls as often as any other."""

    async def scene(found: Rules) -> None:
        for _ in range(5):
            await refused(found, key="Bearer wrong")
        assert explorer.count() == 1
        found.clock.now += 3
        await refused(found, key="Bearer wrong")
        assert explorer.count() == 2
        found.clock.now += 3
        await refused(found, key="Bearer wrong")
        assert explorer.count() == 2
        explorer.users["wrong"] = "ada"
        found.clock.now += 3
        assert await found.get("agents", "Bearer wrong") == ()

    play(explorer, scene)


@pytest.mark.parametrize("name", ["", "a b", "ab\n", "../x", "ä", "a/b", "x" * 257])
def test_a_dataset_name_that_the_explorer_would_not_take_is_refused(
    explorer: Explorer, name: str
) -> None:
    """Nothing of it gets into a path, and the person reads what is allowed."""

    async def scene(found: Rules) -> None:
        assert "letters, digits, '_' and '-'" in await refused(found, name)
        assert explorer.count() == 0

    play(explorer, scene)


def test_made_up_names_and_keys_take_no_room_from_real_ones(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered is bounded, and what costs nothing to forget is forgotten first."""
    monkeypatch.setattr(rules, "MAX_DATASETS", 8)
    monkeypatch.setattr(client, "MAX_USERS", 8)
    explorer.set("agents", policy("one", RULE))

    async def scene(found: Rules) -> None:
        await found.get("agents", AUTH)
        for number in range(20):
            await refused(found, key=f"Bearer wrong-{number}")
            assert await found.get(f"empty-{number}", AUTH) == ()
        assert len(found._known) == 8 and len(found._explorer._users) <= 8
        asked = explorer.count("/agents/")
        assert names(await found.get("agents", AUTH)) == ["one"]
        assert explorer.count("/agents/") == asked
        explorer.hang = True
        waiting = [asyncio.ensure_future(found.get(f"more-{n}", AUTH)) for n in range(8)]
        await asyncio.sleep(0)
        assert "too many datasets" in await refused(found, "one-more")
        explorer.hang = False
        await asyncio.gather(*waiting)

    play(explorer, scene)


def test_what_is_remembered_is_bounded_in_size(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few large datasets would fill the memory as well as many small ones. Used ones stay."""
    monkeypatch.setattr(rules, "MAX_TEXT", 100_000)

    async def scene(found: Rules) -> None:
        for number in range(4):
            explorer.set(f"d{number}", policy("big", "#" * 40_000))
            await found.get(f"d{number}", AUTH)
            await found.get("d0", AUTH)
        assert [known.name for known in found._known.values()] == ["d3", "d0"]

    play(explorer, scene)


# -- first sight


def test_many_first_calls_are_one_question(explorer: Explorer) -> None:
    """An agent opens with ten calls at once."""
    explorer.set("agents", policy("one", RULE))
    explorer.delay = 0.05

    async def scene(found: Rules) -> None:
        calls = await asyncio.gather(*(found.get("agents", AUTH) for _ in range(10)))
        assert [names(call) for call in calls] == [["one"]] * 10
        assert explorer.count() == 2

    play(explorer, scene)


def test_a_client_that_leaves_takes_nobody_with_it(explorer: Explorer) -> None:
    """The question was everybody's."""
    explorer.set("agents", policy("one", RULE))
    explorer.hang = True

    async def scene(found: Rules) -> None:
        first = asyncio.ensure_future(found.get("agents", AUTH))
        second = asyncio.ensure_future(found.get("agents", AUTH))
        await arrived(explorer, 1)
        first.cancel()
        explorer.hang = False
        assert names(await second) == ["one"]
        assert first.cancelled()

    play(explorer, scene)


def test_first_sight_has_an_end(explorer: Explorer) -> None:
    """A call that hangs is worse than one that fails."""
    explorer.hang = True

    async def scene(found: Rules) -> None:
        began = time.monotonic()
        assert "no policies within 0.2 s" in await refused(found)
        assert 0.15 < time.monotonic() - began < 2

    play(explorer, scene, timeout=0.2)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "cannot be read"),
        (b'{"policies": 3}', "cannot be read"),
        (b'{"username": ""}', "cannot be read"),
        (b'["username"]', "cannot be read"),
        (b"\xff", "cannot be read"),
        (b'{"policies": [3, {"content": "x"}]}', "cannot be read"),
        (b"x" * (client.REPLY_LIMIT + 1), "larger than 4194304 bytes"),
    ],
)
def test_a_garbled_reply_is_no_reply(explorer: Explorer, body: bytes, reason: str) -> None:
    """It is not "no policies" either."""
    explorer.set("agents", policy("one", RULE))

    async def scene(found: Rules) -> None:
        await found.get("agents", AUTH)
        explorer.users["k2"] = "grace"
        explorer.body = body
        assert await found.later() == ["one"]
        assert reason in await refused(found, "others")
        assert reason in await refused(found, "others", key="Bearer k2")

    play(explorer, scene)


def test_a_known_policy_whose_entry_is_torn_stays(
    explorer: Explorer, said: Callable[[int], list[str]]
) -> None:
    """Whatever garbled it, nobody said that the rule no longer holds."""
    explorer.set("agents", policy("one", RULE), policy("two", RULE + "#"))

    async def scene(found: Rules) -> None:
        await found.get("agents", AUTH)
        explorer.set("agents", {**policy("one", RULE), "content": None}, policy("two", RULE))
        for _ in range(2):
            assert sorted(await found.later()) == ["one", "two"]
        (line,) = said(logging.WARNING)
        assert "policy id-one was skipped: its content is not a text" in line
        explorer.set("agents", policy("two", RULE))
        assert await found.later() == ["two"]

    play(explorer, scene)


def test_a_call_may_be_less_patient_than_the_question(explorer: Explorer) -> None:
    """A slow Explorer is given its time, but the call ends within its deadline."""
    explorer.set("agents", policy("one", RULE))
    explorer.hang = True

    async def run() -> None:
        found = DatasetRules(explorer.url, patience=0.1)
        began = time.monotonic()
        assert "still being read" in await refused(found)
        assert time.monotonic() - began < 2
        explorer.hang = False
        async with asyncio.timeout(5):
            while explorer.count("/policy") == 0:  # noqa: ASYNC110  # as in `arrived`
                await asyncio.sleep(0.005)
        assert names(await found.get("agents", AUTH)) == ["one"]
        await found.aclose()

    asyncio.run(run())


def test_an_outage_from_the_start_is_said_too(
    explorer: Explorer, said: Callable[[int], list[str]]
) -> None:
    """Under invariant_on_failure=pass nothing else would show that calls are not judged."""
    explorer.set("agents", policy("one", RULE))
    explorer.status = 401

    async def scene(found: Rules) -> None:
        for _ in range(3):
            with pytest.raises(RulesUnavailableError) as caught:
                await found.get("agents", AUTH)
            assert caught.value.is_key and "set INVARIANT_API_KEY" in str(caught.value)
            found.clock.now += NEXT
        (line,) = said(logging.WARNING)
        assert "did not accept" in line and "none from before" in line
        explorer.status = None
        assert names(await found.get("agents", AUTH)) == ["one"]
        assert [s for s in said(logging.INFO) if "again" in s]

    play(explorer, scene)


def test_more_policies_than_anybody_means_are_refused(explorer: Explorer) -> None:
    """Cut off, the list would lack a rule that somebody relies on."""
    explorer.set("agents", *(policy(f"p{n}", RULE) for n in range(client.MAX_POLICIES + 1)))

    async def scene(found: Rules) -> None:
        assert "more than 200 policies" in await refused(found)

    play(explorer, scene)


# -- ever after


def test_known_policies_cost_no_wait_and_one_request_now_and_then(explorer: Explorer) -> None:
    """A model call must not depend on a second server."""
    explorer.set("agents", policy("one", RULE))

    async def scene(found: Rules) -> None:
        await found.get("agents", AUTH)
        explorer.delay = 0.5
        explorer.set("agents", policy("two", RULE))
        for _ in range(100):
            assert names(await found.get("agents", AUTH)) == ["one"]
        assert explorer.count("/policy") == 1
        found.clock.now += NEXT
        began = time.monotonic()
        for _ in range(100):
            assert names(await found.get("agents", AUTH)) == ["one"]
        assert time.monotonic() - began < 0.4
        await found.settle()
        assert names(await found.get("agents", AUTH)) == ["two"]
        assert explorer.count("/policy") == 2

    play(explorer, scene)


def test_an_outage_is_survived_and_said_once(
    explorer: Explorer, said: Callable[[int], list[str]]
) -> None:
    """Known policies stay in force; the log has one line for it, and one when it is over."""
    explorer.set("agents", policy("one", RULE))
    explorer.set("others", policy("other", RULE))

    async def scene(found: Rules) -> None:
        await found.get("agents", AUTH)
        await found.get("others", AUTH)
        explorer.down()
        for _ in range(4):
            assert await found.later("agents") == ["one"]
            assert await found.later("others") == ["other"]
        (line,) = said(logging.WARNING)
        assert "cannot be reached" in line and "stay in force" in line
        assert "cannot be reached" in await refused(found, "new")
        explorer.up()
        explorer.set("agents", policy("two", RULE))
        for _ in range(4):
            await found.later("agents")
            await found.later("others")
        assert names(await found.get("agents", AUTH)) == ["two"]
        assert len(said(logging.WARNING)) == 1
        assert [s for s in said(logging.INFO) if "again" in s] == ["the Explorer answers again"]

    play(explorer, scene)


@pytest.mark.parametrize(("status", "reason"), [(500, "status 500"), (401, "did not accept")])
def test_a_dataset_that_fails_alone_is_said_once(
    explorer: Explorer, said: Callable[[int], list[str]], status: int, reason: str
) -> None:
    """The Explorer has many 500s for a cause that does not go away; and keys are revoked."""
    explorer.set("agents", policy("one", RULE))

    async def scene(found: Rules) -> None:
        await found.get("agents", AUTH)
        explorer.status = status
        for _ in range(4):
            assert await found.later() == ["one"]
        (line,) = said(logging.WARNING)
        assert line.startswith("dataset agents: ") and reason in line
        explorer.status = None
        found.clock.now += NEXT * 4
        assert await found.later() == ["one"]
        assert [s for s in said(logging.INFO) if "again" in s] == [
            "dataset agents: its policies are refreshed again"
        ]

    play(explorer, scene)


def test_an_explorer_that_is_down_is_asked_less_often(explorer: Explorer) -> None:
    """It has enough to do with coming up."""
    explorer.set("agents", policy("one", RULE))

    async def scene(found: Rules) -> None:
        await found.get("agents", AUTH)
        explorer.status = 500
        before = explorer.count()
        for _ in range(200):
            found.clock.now += 6
            await found.get("agents", AUTH)
            await found.settle()
        assert 7 <= explorer.count() - before <= 12  # 20 minutes: after 1, then every 2

    play(explorer, scene)


# -- policies that cannot be read


def vet_by(*defects: str) -> tuple[Vet, list[str]]:
    """An engine that cannot read texts with one of these words; and what it was asked."""
    asked: list[str] = []

    async def vet(guardrails: Sequence[Guardrail]) -> tuple[Defect, ...]:
        asked.extend(guardrail.text for guardrail in guardrails)
        return tuple(Defect(g, "line 1: this is no rule") for g in guardrails if g.text in defects)

    return vet, asked


def test_the_last_good_version_of_a_policy_stays(
    explorer: Explorer, said: Callable[[int], list[str]]
) -> None:
    """Somebody made a slip in a text field; the rule that was there still holds."""
    explorer.set("agents", policy("one", RULE), policy("two", RULE + "#"))
    vet, asked = vet_by("garbage (((")

    async def scene(found: Rules) -> None:
        await found.get("agents", AUTH)
        explorer.set("agents", policy("one", "garbage (((", action="log"), policy("two", RULE))
        for _ in range(3):
            await found.later()
            one, two = await found.get("agents", AUTH)
            assert (one.text, one.action, two.text) == (RULE, Action.BLOCK, RULE)
        (line,) = said(logging.WARNING)
        assert "policy one cannot be used: line 1: this is no rule" in line
        assert "last good version" in line
        assert asked == [RULE, RULE + "#", "garbage ((("]
        explorer.set("agents", policy("one", RULE + "# mended"))
        await found.later()
        (one,) = await found.get("agents", AUTH)
        assert one.text == RULE + "# mended"

    play(explorer, scene, vet=vet)


@pytest.mark.parametrize("action", ["block", "mask"])
@pytest.mark.parametrize("is_new", [True, False])
def test_a_blocking_policy_that_never_was_good_is_not_passed_over(
    explorer: Explorer, action: str, is_new: bool
) -> None:
    """Who wrote it believes that it blocks. Whether calls pass is for the proxy's owner to say."""
    bad = policy("strict", "garbage (((", action=action)
    explorer.set("agents", policy("one", RULE), *([bad] if is_new else []))
    vet, asked = vet_by("garbage (((")

    async def scene(found: Rules) -> None:
        if not is_new:
            assert names(await found.get("agents", AUTH)) == ["one"]
            explorer.set("agents", policy("one", RULE), bad)
            found.clock.now += NEXT
            await found.get("agents", AUTH)
            await found.settle()
        assert await refused(found) == (
            "dataset agents: policy strict cannot be used: line 1: this is no rule"
        )
        assert asked == [RULE, "garbage ((("]
        explorer.set("agents", policy("one", RULE), policy("strict", RULE, action=action))
        found.clock.now += NEXT
        await refused(found)
        await found.settle()
        assert names(await found.get("agents", AUTH)) == ["one", "strict"]

    play(explorer, scene, vet=vet)


@pytest.mark.parametrize("action", ["log", "shadow"])
def test_a_noting_policy_that_never_was_good_is_skipped(
    explorer: Explorer, said: Callable[[int], list[str]], action: str
) -> None:
    """It would have stopped nothing."""
    explorer.set("agents", policy("one", RULE), policy("note", "garbage", action=action))
    vet, _ = vet_by("garbage")

    async def scene(found: Rules) -> None:
        assert names(await found.get("agents", AUTH)) == ["one"]
        assert await found.later() == ["one"]
        assert len(said(logging.WARNING)) == 1

    play(explorer, scene, vet=vet)


def test_a_policy_that_is_too_large_is_one_that_cannot_be_read(explorer: Explorer) -> None:
    """No engine is asked about it."""
    large = "#" * (rules.POLICY_LIMIT + 1)
    explorer.set("agents", policy("one", large))
    vet, asked = vet_by()

    async def scene(found: Rules) -> None:
        assert "policy one cannot be used: it is larger than 65536 bytes" in await refused(found)
        assert asked == []

    play(explorer, scene, vet=vet)


def test_an_engine_that_does_not_answer_leaves_all_as_it_was(
    explorer: Explorer, said: Callable[[int], list[str]]
) -> None:
    """A policy that nobody could try is neither good nor bad."""
    explorer.set("agents", policy("one", RULE))
    trouble: list[BaseException] = []

    async def vet(guardrails: Sequence[Guardrail]) -> tuple[Defect, ...]:
        if trouble:
            raise trouble[0]
        return ()

    async def scene(found: Rules) -> None:
        await found.get("agents", AUTH)
        explorer.set("agents", policy("two", RULE + "#"))
        trouble.append(EngineError("no worker"))
        assert await found.later() == ["one"]
        assert "could not be tried: no worker" in said(logging.WARNING)[0]
        trouble[:] = [RuntimeError("a bug of ours")]
        found.clock.now += NEXT * 4
        assert await found.later() == ["one"]
        trouble.clear()
        found.clock.now += NEXT * 4
        assert await found.later() == ["two"]

    play(explorer, scene, vet=vet)


def test_an_engine_that_is_slow_does_not_make_the_explorer_look_dead(
    explorer: Explorer, said: Callable[[int], list[str]]
) -> None:
    """The call fails in time, saying why; the work goes on and is not done twice."""
    explorer.set("agents", policy("one", RULE))
    ready = asyncio.Event()
    asked: list[str] = []

    async def vet(guardrails: Sequence[Guardrail]) -> tuple[Defect, ...]:
        asked.extend(guardrail.name for guardrail in guardrails)
        await ready.wait()
        return ()

    async def scene(found: Rules) -> None:
        assert await refused(found) == (
            "dataset agents: its policies are still being read; try again in a moment"
        )
        waiting = asyncio.ensure_future(found.get("agents", AUTH))
        ready.set()
        assert names(await waiting) == ["one"]
        assert asked == ["one"] and explorer.count() == 2
        assert said(logging.WARNING) == []

    play(explorer, scene, timeout=1, vet=vet)


def test_an_engine_that_gives_up_halfway_goes_on_from_there(explorer: Explorer) -> None:
    """With many policies it would otherwise never come to an end."""
    explorer.set("agents", *(policy(f"p{n}", RULE + "#" * n) for n in range(20)))
    asked: list[int] = []

    async def vet(guardrails: Sequence[Guardrail]) -> tuple[Defect, ...]:
        asked.append(len(guardrails))
        if len(asked) == 2:
            raise EngineError("a worker died")
        return ()

    async def scene(found: Rules) -> None:
        assert "a worker died" in await refused(found)
        found.clock.now += 3
        assert len(await found.get("agents", AUTH)) == 20
        assert asked == [8, 8, 8, 4]

    play(explorer, scene, vet=vet)


def test_an_engine_that_never_answers_is_not_waited_for(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dataset would never be refreshed again."""
    monkeypatch.setattr(rules, "BATCH_SECONDS", 0.05)
    explorer.set("agents", policy("one", RULE))

    async def vet(guardrails: Sequence[Guardrail]) -> tuple[Defect, ...]:
        await asyncio.sleep(60)
        return ()

    async def scene(found: Rules) -> None:
        assert "could not be tried: no answer within 0.05 s" in await refused(found)

    play(explorer, scene, vet=vet)


# -- the connection


def test_the_environments_proxy_is_not_asked(explorer: Explorer) -> None:
    """It may be this very proxy."""
    explorer.set("agents", policy("one", RULE))
    ours = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:9")

    async def scene(found: Rules) -> None:
        assert names(await found.get("agents", AUTH)) == ["one"]

    with mock.patch.dict(os.environ, ours):
        play(explorer, scene)


def test_closing_ends_what_is_on_its_way(explorer: Explorer) -> None:
    """Nobody waits for an answer that does not come; what is known stays known."""
    explorer.set("agents", policy("one", RULE))

    async def scene(found: Rules) -> None:
        await found.get("agents", AUTH)
        explorer.hang = True
        waiting = asyncio.ensure_future(found.get("others", AUTH))
        await arrived(explorer, explorer.count() + 1)
        await found.aclose()
        with pytest.raises(RulesUnavailableError, match="shutting down"):
            await waiting
        found.clock.now += NEXT
        assert names(await found.get("agents", AUTH)) == ["one"]
        assert "shutting down" in await refused(found, "third")

    play(explorer, scene)


def test_the_loop_turns_while_the_connection_is_made_ready(explorer: Explorer) -> None:
    """CA certificates take tens of milliseconds to read; streams are under way."""
    threads: list[bool] = []
    make = outgoing.trust

    def watched() -> object:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            threads.append(True)
        else:
            threads.append(False)
        return make()

    async def scene(found: Rules) -> None:
        await asyncio.gather(*(found.get(f"d{n}", AUTH) for n in range(5)))

    with mock.patch.object(client, "trust", watched):
        play(explorer, scene)
    assert threads == [True]


@pytest.mark.parametrize(
    "url",
    [
        "explorer.example.com",
        "ftp://e.example",
        "https://",
        "https://me:pw@e.example",
        "http://e?q",
    ],
)
def test_a_url_that_is_none_is_refused_at_once(url: str) -> None:
    """And a password in it is not repeated."""
    with pytest.raises(ValueError, match="expected") as caught:
        DatasetRules(url)
    assert "pw" not in str(caught.value)
