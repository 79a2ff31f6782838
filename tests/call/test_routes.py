"""A request's head -> how the call is guarded."""

from __future__ import annotations

import pytest
from mitmproxy.test import tutils

from invariant_addon.call.routes import route
from invariant_addon.core.dialects import CHAT, STORED_RESPONSE
from invariant_addon.core.endpoints import Endpoint


def headed(method: str = "POST", path: str = "/v1/chat/completions", **headers: str):
    fields = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    return route(tutils.treq(method=method.encode(), path=path.encode(), headers=fields))


def test_a_dialect_is_found() -> None:
    """By method and path."""
    assert headed().dialect is CHAT and not headed().unknown
    assert headed("GET", "/v1/responses/r").dialect is STORED_RESPONSE


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json; charset=us-ascii",
        "text/plain; charset=ISO-8859-1",
        "application/json; profile=x",
        "multipart/form-data; boundary=xYz",
    ],
)
def test_usual_content_types_are_fine(content_type: str) -> None:
    """What clients send."""
    assert not headed(content_type=content_type).unknown


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json; charset=utf-7",
        "application/json; charset=cp037",
        "application/json; charset=utf-8; charset=utf-7",
        "application/json; charset=",
        "application/json; x=1; CharSet=utf-7",
        "application/json; charset*=utf-7''x",
    ],
)
def test_a_charset_in_which_letters_are_others_is_unknown(content_type: str) -> None:
    """A server that heeds it reads another text than rules do."""
    assert headed(content_type=content_type).endpoint is Endpoint.UNKNOWN


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "x-http-method", "X-Method-Override"])
def test_a_method_in_a_header_is_unknown(name: str) -> None:
    """Whether the server heeds it nobody knows."""
    assert headed("GET", "/v1/models", **{name: "POST"}).endpoint is Endpoint.UNKNOWN
    assert headed("GET", "/v1/models", **{name: "GET"}).endpoint is Endpoint.HARMLESS


def test_a_web_socket_is_refused_with_its_own_status() -> None:
    """Codex falls back to HTTP after a 426, and after nothing else at once."""
    found = headed("GET", "/v1/responses", upgrade="WebSocket")
    assert (found.endpoint, found.status) == (Endpoint.UNKNOWN, 426)


def test_what_it_says_of_an_unknown_path_is_short_and_plain() -> None:
    """It comes from the caller, and stands in a log."""
    unknown = headed("POST", "/v1/" + "%C3%A9%0A" * 500).unknown
    assert len(unknown) < 300 and unknown.isascii() and unknown.isprintable()


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/responses/r"), ("POST", "/v1/responses/r/cancel")]
)
def test_a_body_where_none_belongs_is_read_too(method: str, path: str) -> None:
    """It would reach OpenAI with words that nobody judged."""
    asked = headed(method, path).dialect.parse_request(b'{"input": "BLUEBIRD"}')
    assert [message.text for message in asked.conversation.messages] == ["BLUEBIRD"]
    assert not headed(method, path).dialect.parse_request(b"").conversation.messages


def test_a_header_that_comes_twice_is_read_twice() -> None:
    """A server may heed the one as well as the other."""
    twice = [(b"Content-Type", b"application/json"), (b"content-TYPE", b"x/y; charset=utf-7")]
    for fields in (twice, twice[::-1]):
        request = tutils.treq(method=b"POST", path=b"/v1/chat/completions", headers=fields)
        assert route(request).endpoint is Endpoint.UNKNOWN
