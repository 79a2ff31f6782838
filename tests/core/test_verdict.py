"""Verdicts: what is said of where a violation lies."""

from invariant_addon.core.verdict import Address, most_specific


def test_a_whole_message_is_not_named_beside_the_words_in_it() -> None:
    """The engine gives both; the person wants the words."""
    words = Address(1, "content", 4, 12)
    assert most_specific((Address(1), words, Address(1, "content"))) == (words,)


def test_other_messages_and_other_paths_stay() -> None:
    """Less precise about something else is still news."""
    call = Address(1, "tool_calls.0")
    kept = (Address(0), Address(1, "content", 0, 1), call, Address(1, "content", 5, 6))
    assert most_specific(kept) == kept
    deeper = Address(1, "tool_calls.0.function.arguments.cmd", 0, 2)
    assert most_specific((call, deeper)) == (deeper,)
