"""Which requests may be on their way before their verdict: those that leave only an answer."""

from __future__ import annotations

import json

import pytest

from invariant_addon.core.dialects import CHAT, COMPLETIONS, RESPONSES, plain

MESSAGES = [{"role": "user", "content": "hi"}]
FUNCTION = {"type": "function", "function": {"name": "f"}}


def chat(**more: object) -> bool:
    body = json.dumps({"model": "m", "messages": MESSAGES} | more).encode()
    return CHAT.parse_request(body).only_answers


def response(**more: object) -> bool:
    body = json.dumps({"model": "m", "input": "hi", "store": False} | more).encode()
    return RESPONSES.parse_request(body).only_answers


def test_an_answer_and_nothing_else() -> None:
    """With all that only shapes it."""
    assert chat() and chat(store=False, stream=True, temperature=1, stop="x", metadata={"a": "b"})
    assert chat(tools=[FUNCTION, {"type": "custom", "custom": {"name": "c"}}], tool_choice="auto")
    assert chat(tools=None, response_format={"type": "json_object"}, reasoning_effort="low")
    assert response(instructions="be kind", tools=[{"type": "function", "name": "f"}])
    assert response(previous_response_id="resp_1", background=False, include=["x"], text={})
    body = b'{"model": "m", "prompt": ["a", "b"], "suffix": "c", "best_of": 2}'
    assert COMPLETIONS.parse_request(body).only_answers


@pytest.mark.parametrize(
    "more",
    [{"store": True}, {"store": "yes"}, {"store": 1}, {"web_search_options": {}},
     {"tools": [{"type": "mcp"}]}, {"tools": [FUNCTION, "x"]}, {"tools": {}}, {"plugins": []},
     {"tools": [{"name": "f"}]}, {"background": True}],
)  # fmt: skip
def test_a_completion_that_does_more(more: dict[str, object]) -> None:
    """What is kept, what OpenAI runs, and what nobody knows."""
    assert not chat(**more)


@pytest.mark.parametrize(
    "more",
    [{"store": None}, {"store": True}, {"background": True}, {"background": "true"},
     {"conversation": "conv_1"}, {"conversation": {"id": "conv_1"}}, {"prompt": {"id": "p"}},
     {"tools": [{"type": "mcp", "server_label": "s", "server_url": "https://s.example"}]},
     {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
     {"tools": [{"type": "web_search"}]}, {"tools": [{"type": "shell"}]}, {"agent": "a"}],
)  # fmt: skip
def test_a_response_that_does_more(more: dict[str, object]) -> None:
    """OpenAI stores responses unless it is told not to."""
    assert not response(**more)


def told(part: dict[str, object]) -> list[dict[str, object]]:
    return [{"role": "user", "content": [{"type": "text", "text": "see https://a.example"}, part]}]


@pytest.mark.parametrize("address", ["https://evil.example/?key=sk-1", "HTTP://a.example", "//x"])
def test_what_openai_would_fetch(address: str) -> None:
    """The address of a picture reaches its server, whatever becomes of the answer."""
    assert not chat(messages=told({"type": "image_url", "image_url": {"url": address}}))
    assert not response(input=told({"type": "input_image", "image_url": address}))
    assert not response(input=told({"type": "input_file", "file_url": address}))
    screen = {"type": "computer_screenshot", "image_url": address}
    assert not response(input=[{"type": "computer_call_output", "call_id": "c", "output": screen}])


def test_pictures_that_are_sent_along() -> None:
    """Nobody fetches them."""
    for data in ("data:image/png;base64,AAAA", "DATA:,x"):
        assert chat(messages=told({"type": "image_url", "image_url": {"url": data}}))
        assert response(input=told({"type": "input_image", "image_url": data}))
    assert response(input=told({"type": "input_image", "image_url": None, "file_id": "file-1"}))


def test_other_endpoints_never_only_answer() -> None:
    """A file is there once it was sent, a batch runs."""
    for path in ("/v1/batches", "/v1/files", "/v1/fine_tuning/jobs"):
        dialect = plain(path, asked_type="application/json")
        assert not dialect.parse_request(b'{"input": "hi"}').only_answers
