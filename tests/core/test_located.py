"""Where a finding is: in the words that a person sees."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.core.conversation import Message, Part
from invariant_addon.core.located import in_content, plain_arguments, texts_at
from invariant_addon.core.verdict import Address

KINDS = st.sampled_from(["text", "text", "refusal", "image", "other"])
PARTS = st.lists(st.builds(Part, KINDS, st.text("ab 😀\n", max_size=5)), max_size=6)


def whole(message: Message, path: str) -> str:
    (text,) = texts_at(message, path, plain_arguments)
    return text.whole


@given(PARTS, st.data())
def test_the_joined_texts_are_found_in_the_content(parts: list[Part], data: st.DataObject) -> None:
    """The same characters, but for the line ends and what stands between the parts."""
    message = Message("user", tuple(parts))
    other = whole(message, "other")
    if not other:
        return
    start = data.draw(st.integers(0, len(other) - 1))
    end = data.draw(st.integers(start + 1, len(other)))
    given_ = Address(3, "other", start, end)
    got = in_content(message, given_)
    joined = message.joined or ""
    if start < len(other) - len(joined):
        assert got == given_
        return
    assert got.path == "content" and got.start is not None and got.end is not None
    content = whole(message, "content")[got.start : got.end]
    wanted = other[start:end]
    assert content[0] == wanted[0] and content[-1] == wanted[-1]
    rest = iter(content)
    assert all(character in rest for character in wanted), "in order"


def test_other_addresses_stay_as_they_are() -> None:
    """What is judged apart from the content has no place in it."""
    message = Message("user", (Part("text", "BLUE"), Part("text", "BIRD"), Part("image", "[i]")))
    for address in (Address(0, "content", 1, 2), Address(0), Address(0, "other")):
        assert in_content(message, address) == address
    assert in_content(message, Address(0, "other", 0, 3)).path == "other"
    assert in_content(message, Address(0, "other", 6, 10)) == Address(0, "content", 2, 7)
    parts = message.parts[:2]
    assert in_content(Message("user", parts), Address(0, "other")) == Address(0, "content")
