"""Which requests are judged, and as what."""

from __future__ import annotations

import pytest

from invariant_addon.core.endpoints import Endpoint, find, stored_id


@pytest.mark.parametrize(
    ("method", "path", "endpoint"),
    [
        ("POST", "/v1/chat/completions", Endpoint.CHAT),
        ("POST", "/v1/responses", Endpoint.RESPONSES),
        ("post", "//v1/./RESPONSES/?x=y", Endpoint.RESPONSES),
        ("POST", "/v1/%72esponses", Endpoint.RESPONSES),
        ("GET", "/v1/responses/resp_1", Endpoint.STORED_RESPONSE),
        ("GET", "/v1/responses/resp_1?stream=true&starting_after=3", Endpoint.STORED_RESPONSE),
        ("GET", "/v1/Responses//resp_1/", Endpoint.STORED_RESPONSE),
        ("POST", "/v1/responses/resp_1/cancel", Endpoint.STORED_RESPONSE),
        ("DELETE", "/v1/responses/resp_1", Endpoint.OTHER),
        ("GET", "/v1/responses", Endpoint.OTHER),
        ("GET", "/v1/models", Endpoint.OTHER),
    ],
)
def test_another_spelling_is_the_same_endpoint(method: str, path: str, endpoint: Endpoint) -> None:
    """A lenient server would answer it all the same."""
    assert find(method, path) is endpoint


def test_the_id_is_read_as_it_is_spelled() -> None:
    """Ids know upper and lower case."""
    assert stored_id("/v1/responses/resp_aB%31?stream=true") == "resp_aB1"
    assert stored_id("/v1/responses/resp_aB/cancel") == "resp_aB"
    assert stored_id("/v1/responses") is None
