"""Which endpoint is guarded how: every path of the API, and every other spelling of one."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.core import api_paths
from invariant_addon.core.endpoints import Endpoint, find, normal_path, stored_id

PATHS = """
chat.completions   POST   /v1/chat/completions
responses          POST   /v1/responses
completions        POST   /v1/completions
responses.stored   GET    /v1/responses/resp_1
responses.stored   POST   /v1/responses/resp_1/cancel
text out           GET    /v1/responses/resp_1/input_items
responses          POST   /v1/responses/compact
text in            POST   /v1/responses/input_tokens
harmless           DELETE /v1/responses/resp_1
text out           GET    /v1/chat/completions
text out           GET    /v1/chat/completions/chatcmpl-1
text out           GET    /v1/chat/completions/chatcmpl-1/messages
text               POST   /v1/chat/completions/chatcmpl-1
harmless           DELETE /v1/chat/completions/chatcmpl-1
text               POST   /v1/conversations
text out           GET    /v1/conversations/conv_1
text in            POST   /v1/conversations/conv_1
harmless           DELETE /v1/conversations/conv_1
text               POST   /v1/conversations/conv_1/items
text out           GET    /v1/conversations/conv_1/items
text out           GET    /v1/conversations/conv_1/items/msg_1
harmless           DELETE /v1/conversations/conv_1/items/msg_1
text in            POST   /v1/embeddings
text in            POST   /v1/moderations
text               POST   /v1/images/generations
text               POST   /v1/images/edits
text               POST   /v1/images/variations
media              POST   /v1/audio/speech
text               POST   /v1/audio/transcriptions
text               POST   /v1/audio/translations
text in            POST   /v1/audio/voices
text in            POST   /v1/audio/voice_consents
harmless           GET    /v1/audio/voice_consents
text               POST   /v1/videos
text               POST   /v1/videos/video_1/remix
text out           GET    /v1/videos/video_1
media              GET    /v1/videos/video_1/content
harmless           DELETE /v1/videos/video_1
text in            POST   /v1/files
harmless           GET    /v1/files
harmless           GET    /v1/files/file-1
harmless           DELETE /v1/files/file-1
text out           GET    /v1/files/file-1/content
text in            POST   /v1/uploads
unknown            POST   /v1/uploads/upload_1/parts
harmless           POST   /v1/uploads/upload_1/complete
harmless           POST   /v1/uploads/upload_1/cancel
text in            POST   /v1/batches
harmless           GET    /v1/batches
harmless           GET    /v1/batches/batch_1
harmless           POST   /v1/batches/batch_1/cancel
text               POST   /v1/assistants
text out           GET    /v1/assistants/asst_1
harmless           DELETE /v1/assistants/asst_1
text               POST   /v1/threads
text               POST   /v1/threads/runs
text               POST   /v1/threads/thread_1
text out           GET    /v1/threads/thread_1
harmless           DELETE /v1/threads/thread_1
text               POST   /v1/threads/thread_1/messages
text out           GET    /v1/threads/thread_1/messages
text out           GET    /v1/threads/thread_1/messages/msg_1
text               POST   /v1/threads/thread_1/runs
text out           GET    /v1/threads/thread_1/runs/run_1
text out           GET    /v1/threads/thread_1/runs/run_1/steps
text               POST   /v1/threads/thread_1/runs/run_1/submit_tool_outputs
text in            POST   /v1/vector_stores
text               POST   /v1/vector_stores/vs_1/search
text in            POST   /v1/vector_stores/vs_1/files
text out           GET    /v1/vector_stores/vs_1/files/file-1/content
text in            POST   /v1/vector_stores/vs_1/file_batches
harmless           GET    /v1/vector_stores/vs_1/file_batches/vsfb_1/files
harmless           DELETE /v1/vector_stores/vs_1
text in            POST   /v1/containers
text in            POST   /v1/containers/cntr_1/files
text out           GET    /v1/containers/cntr_1/files/cfile_1/content
harmless           GET    /v1/containers/cntr_1/files
text in            POST   /v1/skills
text out           GET    /v1/skills/skill_1/content
text out           GET    /v1/skills/skill_1/versions/1/content
harmless           DELETE /v1/skills/skill_1
text               POST   /v1/evals
text               POST   /v1/evals/eval_1/runs
text out           GET    /v1/evals/eval_1/runs/run_1/output_items
text out           GET    /v1/evals/eval_1/runs/run_1/output_items/item_1
harmless           DELETE /v1/evals/eval_1
text in            POST   /v1/fine_tuning/jobs
harmless           GET    /v1/fine_tuning/jobs/ft_1/events
harmless           POST   /v1/fine_tuning/jobs/ft_1/cancel
text               POST   /v1/fine_tuning/alpha/graders/run
text in            POST   /v1/fine_tuning/alpha/graders/validate
text               POST   /v1/agents
text out           GET    /v1/agents/agent_1
harmless           DELETE /v1/agents/agent_1
text               POST   /v1/agents/sessions
text               POST   /v1/agents/sessions/sess_1/events
text out           GET    /v1/agents/sessions/sess_1/events
text out           GET    /v1/agents/sessions/sess_1/items
text out           GET    /v1/agents/sessions/sess_1/turns/turn_1/items
text out           GET    /v1/agents/sessions/sess_1/artifacts/art_1/content
text out           GET    /v1/agents/sessions/sess_1/subagents/sub_1/turns/turn_1/items
text               POST   /v1/agents/automations
text out           GET    /v1/agents/automations/auto_1/invocations
text               POST   /v1/decisions
unknown            POST   /v1/chatkit/sessions
text out           GET    /v1/chatkit/threads/cthr_1/items
unknown            POST   /v1/realtime/calls
unknown            POST   /v1/realtime/client_secrets
unknown            POST   /v1/realtime/sessions
unknown            POST   /v1/realtime/transcription_sessions
unknown            POST   /v1/realtime/translations/client_secrets
unknown            GET    /v1/realtime
unknown            POST   /v1/live/sessions
unknown            POST   /v1/live/sessions/sess_1/fork
text in            POST   /v1/content_provenance_checks
text in            POST   /v1/vaults/vault_1/credentials
harmless           GET    /v1/vaults
harmless           GET    /v1/models
harmless           GET    /v1/models/gpt-4.1
harmless           DELETE /v1/models/ft:gpt-4.1:org::id
harmless           GET    /v1/organization/usage/completions
harmless           POST   /v1/organization/projects/proj_1/service_accounts
harmless           DELETE /v1/organization/users/user-1
harmless           GET    /v1/projects/proj_1/roles
harmless           GET    /v1/safety/cases/case_1
harmless           POST   /v1/webhook_endpoints
harmless           OPTIONS /v1/chat/completions
harmless           HEAD   /v1/models
unknown            PUT    /v1/chat/completions
unknown            PATCH  /v1/models/gpt-4.1
unknown            GET    /v1/responses
unknown            POST   /v1/models
unknown            GET    /v1/tomorrow
unknown            POST   /v1/tomorrow
unknown            GET    /
invariant.health   GET    /.invariant/health
chat.completions   POST   /chat/completions
chat.completions   POST   /openai/deployments/gpt/chat/completions?api-version=2024-10-21
chat.completions   POST   /openai/v1/chat/completions
chat.completions   POST   /api/paas/v4/chat/completions
chat.completions   POST   /v1/projects/p/locations/l/endpoints/openapi/chat/completions
responses          POST   /v1/organization/x/responses
responses          POST   /openai/responses?api-version=preview
completions        POST   /openai/deployments/gpt/completions
text in            POST   /openai/deployments/gpt/embeddings
harmless           GET    /openai/models
unknown            GET    /openai/deployments/gpt
"""
TABLE = [line.split(maxsplit=0)[0] for line in PATHS.strip().split("\n")]


def parsed(line: str) -> tuple[Endpoint, str, str]:
    words = line.split()
    return Endpoint(" ".join(words[:-2])), words[-2], words[-1]


@pytest.mark.parametrize("line", TABLE)
def test_every_path_of_the_api_is_guarded_as_it_should_be(line: str) -> None:
    """Whoever switches the endpoint must not get around the rules."""
    endpoint, method, path = parsed(line)
    assert find(method, path) is endpoint


def test_the_table_is_as_long_as_the_api() -> None:
    """A path that is missing here is one that nobody has thought about."""
    assert len({parsed(line)[1:] for line in TABLE}) > 130


def test_no_path_stands_in_two_tables() -> None:
    """Which of them counted would be chance."""
    names = (
        "CHAT",
        "RESPONSES",
        "STORED_RESPONSE",
        "COMPLETIONS",
        "TEXT",
        "TEXT_IN",
        "TEXT_OUT",
        "MEDIA",
    )
    tables = [getattr(api_paths, name) for name in (*names, "HARMLESS", "UNKNOWN")]
    lines = [" ".join(line.split()) for table in tables for line in table.split("\n") if line]
    assert len(lines) == len(set(lines)) > 240


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions/",
        "//v1//chat///completions",
        "/v1/chat/completions?x=1#y",
        "/v1/chat/completions;x=1",
        "/v1;a/chat;b=2/completions;c",
        "/v1/./chat/./completions",
        "/v1/models/../chat/completions",
        "/v1/chat%2Fcompletions",
        "/v1/chat%252Fcompletions",
        "/v1/%63hat/completions",
        "/v1/%2563hat/completions",
        "/%76%31/chat/completions",
        "/V1/Chat/COMPLETIONS",
        "/v1\\chat\\completions",
        "/v1/models/..%2fchat/completions",
        "/v1/models/%2e%2e/chat/completions",
        "/v1/organization/..%2f..%2fv1/chat/completions",
        "/v1/organization/x/../../chat/completions",
        "/v1/chat/completion\u017f",
        "/v1/ｃhat/completions",
        "/v1/chat/completions%20",
        "/v1/v1/chat/completions",
        "/v1/organization/..;/chat/completions",
    ],
)
def test_another_spelling_of_a_guarded_path_is_guarded(path: str) -> None:
    """A lenient server takes it for the same; a strict one answers 404."""
    assert find("POST", path) is Endpoint.CHAT
    assert find("post", path) is Endpoint.CHAT


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models/..%2ffiles/file-1/content"),
        ("POST", "/v1/organization/..%2fembeddings"),
        ("DELETE", "/v1/models/x%2fy"),
        ("GET", "/v1/models?_method=POST"),
        ("GET", "/v1/models;_method=POST"),
    ],
)
def test_a_path_that_can_be_read_in_two_ways_is_unknown(method: str, path: str) -> None:
    """As whom it would be judged is a guess, and harmless would be the wrong one."""
    assert find(method, path) is Endpoint.UNKNOWN


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
def test_a_header_that_changes_the_method_makes_a_call_unknown(method: str) -> None:
    """Some frameworks heed X-HTTP-Method-Override; no client of OpenAI sends it."""
    assert find(method, "/v1/chat/completions", override="POST") is Endpoint.UNKNOWN
    assert find(method, "/v1/models/x", override=method) is Endpoint.HARMLESS


_GUARDED = ["/v1/chat/completions", "/v1/responses", "/v1/completions"]


@given(
    path=st.sampled_from(_GUARDED),
    picks=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 3)), max_size=6),
    slashes=st.integers(0, 2),
    upper=st.booleans(),
)
def test_no_encoding_of_a_guarded_path_is_harmless(
    path: str, picks: list[tuple[int, int]], slashes: int, upper: bool
) -> None:
    """Any letter, encoded up to three times, in any place."""
    wanted = find("POST", path)
    letters = list(path)
    for place, times in picks:
        at = place % len(letters)
        letter = letters[at]
        if len(letter) == 1:
            encoded = f"%{ord(letter):02X}"
            for _ in range(times - 1):
                encoded = quote(encoded)
            letters[at] = encoded
    spelled = "".join(letters).replace("/", "/" * (slashes + 1))
    assert find("POST", spelled.upper() if upper else spelled) is wanted


@given(st.text(max_size=60), st.sampled_from(["GET", "POST", "DELETE", "BREW"]))
def test_any_path_has_an_answer(path: str, method: str) -> None:
    """What comes from outside never makes it fail, and rubbish is not known."""
    found = find(method, "/" + path)
    if method == "BREW":
        assert found is Endpoint.UNKNOWN


@pytest.mark.parametrize(
    ("method", "path", "endpoint"),
    [
        ("post", "//v1/./RESPONSES/?x=y", Endpoint.RESPONSES),
        ("POST", "/v1/%72esponses", Endpoint.RESPONSES),
        ("GET", "/v1/responses/resp_1?stream=true&starting_after=3", Endpoint.STORED_RESPONSE),
        ("GET", "/v1/Responses//resp_1/", Endpoint.STORED_RESPONSE),
    ],
)
def test_another_spelling_of_a_response_is_guarded(
    method: str, path: str, endpoint: Endpoint
) -> None:
    """A lenient server would answer it all the same."""
    assert find(method, path) is endpoint


def test_the_id_is_read_as_it_is_spelled() -> None:
    """Ids know upper and lower case."""
    assert stored_id("/v1/responses/resp_aB%31?stream=true") == "resp_aB1"
    assert stored_id("/v1/responses/resp_aB/cancel") == "resp_aB"
    assert stored_id("/v1/responses") is None


@given(st.text(alphabet="aZ9._~:@,=+-/", max_size=30))
def test_a_path_that_hides_nothing_is_read_at_once(path: str) -> None:
    """As it would be read letter by letter."""
    hidden = "".join(f"%{ord(letter):02x}" for letter in path)
    assert normal_path(f"/{path}") == normal_path(f"/{hidden}%20")
