"""The legacy /v1/completions dialect: a prompt to messages, `choices[].text` to a reply.

What it has in common with chat is left to chat: a chunk is turned into a chunk of chat and merged
there. Prompts may be given as numbers of tokens, which no rule can read: not understood.
"""

from __future__ import annotations

from typing import Any

from .chat.bodies import ChunkMerger, reply_from_completion
from .chat.known import check_keys
from .chat.limits import MAX_CHOICES, MAX_MESSAGES, check_count
from .conversation import Conversation, Exchange, Message, Part, Reply
from .draft import ChoiceDraft, Lengths, Need, Step
from .effects import only_answers
from .errors import NotUnderstoodError
from .json_text import check_duplicates, decode, encode
from .plain.texts import messages_of
from .request_fields import beside

ENDPOINT = "completions"

ON_WIRE = frozenset(("prompt", "suffix"))
"""The fields whose texts are the messages."""
_REQUEST_NAMES = frozenset(("prompt", "suffix", "stream", "n", "best_of"))
_REPLY_NAMES = frozenset(("choices", "text", "index", "delta", "message", "logprobs"))
_LONGEST_DONE = 16


def parse_request(body: bytes) -> Exchange:
    """One message of the user for each prompt, then its suffix. Raises NotUnderstoodError."""
    request = decode(body)
    if not isinstance(request, dict):
        raise NotUnderstoodError("the request is not a JSON object")
    check_keys(request, _REQUEST_NAMES)
    check_duplicates(body, frozenset(), all_keys=True)
    found = [Message("user", (Part("text", prompt),)) for prompt in _prompts(request.get("prompt"))]
    if suffix := request.get("suffix"):
        found += messages_of({"suffix": suffix}, "user")
    more = [message for _, message in beside(request, ON_WIRE)]
    model, n = request.get("model"), request.get("n")
    return Exchange(
        endpoint=ENDPOINT,
        model=model if isinstance(model, str) else "",
        stream=request.get("stream") is True,
        n=n if type(n) is int and n > 0 else 1,
        conversation=Conversation((*found, *more), beside=len(more)),
        only_answers=only_answers(request, keeps=False),
    )


def _prompts(prompt: Any) -> list[str]:
    if prompt is None:
        return []
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and all(isinstance(item, str) for item in prompt):
        check_count(len(prompt), MAX_MESSAGES, "prompts")
        return prompt
    raise NotUnderstoodError("the prompt is given as tokens, which no rule can read")


def parse_reply(body: bytes) -> Reply:
    """Raises NotUnderstoodError if it is no JSON object with a list `choices`."""
    completion = decode(body)
    check_duplicates(body, frozenset(), all_keys=True)
    return reply_from_completion(as_chat(completion, "message"))


def as_chat(value: Any, place: str) -> Any:
    """A completion, or a chunk of one, as chat has it. place: `message` or `delta`."""
    if not isinstance(value, dict) or not isinstance(value.get("choices"), list):
        return value
    check_count(len(value["choices"]), MAX_CHOICES, "choices")
    return {**value, "choices": [_choice(choice, place) for choice in value["choices"]]}


def _choice(choice: Any, place: str) -> Any:
    if not isinstance(choice, dict) or "text" not in choice:
        return choice
    text = choice["text"]
    if text is not None and not isinstance(text, str):
        raise NotUnderstoodError("a choice's text is no text")
    if "message" in choice or "delta" in choice:
        raise NotUnderstoodError("a choice has a text in two places")
    rest = {key: value for key, value in choice.items() if key not in ("text", "logprobs")}
    said = {"role": "assistant", "content": text} if place == "message" else {"content": text}
    return {**rest, place: said, "logprobs": _logprobs(choice.get("logprobs"))}


def _logprobs(logprobs: Any) -> Any:
    """The tokens in the form of chat, where they are compared with the text."""
    if not isinstance(logprobs, dict) or not isinstance(logprobs.get("tokens"), list):
        return logprobs
    return {"content": [{"token": token} for token in logprobs["tokens"]]}


class TextMerger:
    """Streamed chunks of completions. Implements draft.Merger."""

    alternatives = True

    def __init__(self) -> None:
        self._merger = ChunkMerger()
        self.choices: dict[int, ChoiceDraft] = self._merger.choices

    def add(self, data: str) -> Step:
        """See draft.Merger."""
        if not data or len(data) <= _LONGEST_DONE:
            return self._merger.add(data)
        chunk = decode(data)
        check_duplicates(data, _REPLY_NAMES)
        return self._merger.add(encode(as_chat(chunk, "delta")))

    def aside(self, words: str) -> tuple[Need, ...]:
        """See draft.Merger."""
        return self._merger.aside(words)

    def end(self) -> None:
        """See draft.Merger."""
        self._merger.end()

    def snapshot(self, lengths: Lengths | None = None) -> Reply:
        """See draft.Merger."""
        return self._merger.snapshot(lengths)

    def completion(self) -> dict[str, Any]:
        """The `text_completion` object that `stream: false` would have returned."""
        found = self._merger.completion()
        choices = [
            {
                "index": choice["index"],
                "text": choice["message"].get("content") or "",
                "finish_reason": choice["finish_reason"],
            }
            for choice in found["choices"]
        ]
        return {**found, "object": "text_completion", "choices": choices}
