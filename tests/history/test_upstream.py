"""What OpenAI is asked for: bounded, with the caller's key, and never believed blindly."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from invariant_addon.core.conversation import Message
from invariant_addon.core.references import Reference
from invariant_addon.history import upstream
from invariant_addon.history.upstream import Caller, UnseenError, Upstream

CALLER = Caller("https://api.openai.com", {"authorization": "Bearer sk-mine"})
MESSAGE = {"type": "message", "id": "m", "role": "user", "content": "hi"}
DONE = {"id": "r", "status": "completed", "output": [{**MESSAGE, "id": "a", "role": "assistant"}]}

type Answer = Callable[[httpx.Request], httpx.Response]


def fetch(
    answer: Answer, reference: Reference, *, seconds: float = 5, known: Any = None
) -> tuple[Message, ...]:
    async def go() -> tuple[Message, ...]:
        asking = Upstream(ssl.create_default_context, seconds)
        client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
        asking._client = client
        try:
            return await asking.fetch(CALLER, reference, known or (lambda _: None))
        finally:
            await asking.aclose()

    return asyncio.run(go())


def chain(request: httpx.Request) -> httpx.Response:
    """Each reply goes on from one more, for ever."""
    assert request.headers["authorization"] == "Bearer sk-mine"
    if request.url.path.endswith("/input_items"):
        return httpx.Response(200, json={"data": [MESSAGE]})
    number = int(request.url.path.rpartition("_")[2])
    return httpx.Response(200, json={**DONE, "previous_response_id": f"resp_{number + 1}"})


def test_a_chain_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server could keep us busy for ever."""
    monkeypatch.setattr(upstream, "_MAX_TURNS", 5)
    with pytest.raises(UnseenError, match="more than 5 turns"):
        fetch(chain, Reference("response", "resp_0"))


def test_a_chain_is_followed_to_what_is_known() -> None:
    """What the proxy has need not be asked for; what is listed twice is one message."""
    known = (Message("user"), Message("assistant"))

    def find(reference: Reference) -> tuple[Message, ...] | None:
        return known if reference.id == "resp_3" else None

    found = fetch(chain, Reference("response", "resp_0"), known=find)
    assert found[:2] == known and [m.text for m in found[2:]] == ["hi", "hi"]


def test_pages_without_an_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As above."""
    monkeypatch.setattr(upstream, "_MAX_PAGES", 5)
    count = iter(range(1000))

    def answer(_: httpx.Request) -> httpx.Response:
        page = {"data": [MESSAGE], "has_more": True, "last_id": str(next(count))}
        return httpx.Response(200, json=page)

    with pytest.raises(UnseenError, match="more than 5 pages"):
        fetch(answer, Reference("conversation", "conv_1"))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"not JSON", "could not be read"),
        (b"[]", "could not be read"),
        (b'{"data": {}}', "could not be read"),
        (b'{"data": [], "has_more": true}', "could not be read"),
        (b" " * 3000, "more than 2000 bytes"),
    ],
)
def test_odd_answers_are_none(monkeypatch: pytest.MonkeyPatch, body: bytes, why: str) -> None:
    """Then the option decides, as for everything that was not seen."""
    monkeypatch.setattr(upstream, "_LIMIT", 2000)
    with pytest.raises(UnseenError, match=why):
        fetch(lambda _: httpx.Response(200, content=body), Reference("conversation", "conv_1"))


@pytest.mark.parametrize("status", [301, 401, 404, 500])
def test_a_refusal_is_an_answer(status: int) -> None:
    """A redirect too: the key goes nowhere else."""
    answer = httpx.Response(status, headers={"location": "https://elsewhere.example"})
    with pytest.raises(UnseenError, match=str(status)):
        fetch(lambda _: answer, Reference("response", "resp_1"))


@pytest.mark.parametrize("name", ["../files", "a/b", "a?b", "a#b", "%2e%2e", "", "ä", "a" * 300])
def test_an_id_cannot_lead_elsewhere(name: str) -> None:
    """It is the caller's own text, and becomes part of an address."""

    def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"asked for {request.url}")

    for kind in ("response", "conversation"):
        with pytest.raises(UnseenError):
            fetch(answer, Reference(kind, name))


@pytest.mark.parametrize(
    "more",
    [
        {"status": "in_progress"},
        {"prompt": {"id": "pmpt_1"}},
        {"conversation": {"id": "conv_1"}},
        {"output": {}},
    ],
)
def test_a_reply_that_rests_on_what_is_not_told_is_unseen(more: Any) -> None:
    """Half of a history is none."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/input_items"):
            return httpx.Response(200, json={"data": [MESSAGE]})
        return httpx.Response(200, json={**DONE, **more})

    with pytest.raises(UnseenError):
        fetch(answer, Reference("response", "resp_1"))


def test_a_slow_answer_is_given_up() -> None:
    """A program waits for it."""

    async def answer(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60)
        raise AssertionError

    with pytest.raises(UnseenError, match=r"in 0\.05 s"):
        fetch(answer, Reference("response", "resp_1"), seconds=0.05)  # type: ignore[arg-type]  # httpx takes both


def test_single_items_cannot_be_asked_for() -> None:
    """OpenAI has no such endpoint."""
    with pytest.raises(UnseenError):
        fetch(chain, Reference("item", "msg_1"))
