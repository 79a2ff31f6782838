"""The four scenes: what is asked, what the fake OpenAI says, what has to come of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fake_openai import Call, FakeOpenAI, Reply
from screen import Screen
from session import Session, Turn

SECRET = "PROJECT-BLUEBIRD"
PROMISE = "guaranteed"
PRECIOUS = "customers.db"


class Stage:
    """Where scenes are played. problems: what did not go as told; none at a good end."""

    def __init__(self, screen: Screen, openai: FakeOpenAI, session: Session, files: Path) -> None:
        self.screen = screen
        self.openai = openai
        self.files = files
        self.problems: list[str] = []
        self._session = session
        self._problems_before = 0

    @property
    def calls(self) -> list[Call]:
        return self.openai.calls

    def play(self, title: str, prompt: str, *replies: Reply) -> Turn:
        self.screen.title(title)
        self.screen.say(prompt, label="you")
        self.screen.pause(0.4)
        self._problems_before = len(self.problems)
        self.openai.expect(*replies)
        turn = self._session.ask(prompt, self.screen.speak)
        self.openai.wait_over()
        return turn

    def check(self, went_well: bool, expected: str) -> None:
        if not went_well:
            self.problems.append(expected)
            self.screen.say(f"NOT AS TOLD, expected: {expected}", "red")

    def sum_up(self, agent: str, proxy: str, openai: str, aside: str = "") -> None:
        """What just happened, from the three sides; nothing if it is not what was told."""
        if len(self.problems) > self._problems_before:
            return
        self.screen.say(f"=> agent: {agent} | proxy: {proxy} | {openai}", "green", hang="   ")
        if aside:
            self.screen.say(f"   {aside}", "dim", hang="   ")
        self.screen.pause(1.0)


def clean_reply(stage: Stage) -> None:
    text = (
        "It reads along: every prompt on its way out and every answer on its way in is checked "
        "against your rules, word by word, while it still streams."
    )
    turn = stage.play(
        "1. A clean answer streams through", "What does a guardrail proxy do?", Reply(text)
    )
    call = stage.calls[0] if stage.calls else None
    stage.check(turn.text.strip() == text, "the whole answer, unchanged")
    stage.check(
        call is not None and any(at < call.ended for at in turn.arrivals),
        "the first words are there before the last ones are written",
    )
    sent = f"OpenAI: {len(stage.calls)} request, {_sent(call)}"
    stage.sum_up(f"{len(text.split())} words, live", "passed", sent)


def leaking_prompt(stage: Stage) -> None:
    turn = stage.play(
        "2. A prompt that gives a secret away",
        f"Write a press release: {SECRET} starts on Monday.",
        Reply("Great news! On Monday, something big will start."),
    )
    stage.check("BadRequestError" in turn.text, "the SDK raises its BadRequestError")
    stage.check(f"{SECRET} is not for outsiders" in turn.text, "the error names the rule")
    stage.check(not stage.calls, "the request stays here")
    stage.sum_up("BadRequestError", "blocked", "the fake OpenAI saw 0 requests")


def dangerous_tool_call(stage: Stage) -> None:
    text = f"The largest file is {PRECIOUS}, so I will delete that one."
    turn = stage.play(
        "3. A tool call that must not happen",
        "My disk is full. Make some room.",
        Reply("Let me see what there is.", ("list_files", "{}")),
        Reply(text, ("delete_file", f'{{"name":"{PRECIOUS}"}}')),
    )
    last = stage.calls[-1] if stage.calls else None
    stage.check("[ran list_files()" in turn.text, "the harmless tool call gets through")
    stage.check(len(stage.calls) == 2, "the tool's result goes to the model")
    stage.check(text in turn.text, "the text before the call is there")
    stage.check(
        last is not None and any(last.started < at < last.ended for at in turn.arrivals),
        "that text is there before the call",
    )
    stage.check("APIError: " in turn.text, "the agent gets an APIError")
    stage.check("agents do not delete files" in turn.text, "the error names the rule")
    stage.check("[ran delete_file" not in turn.text, "the agent never sees the call")
    stage.check((stage.files / PRECIOUS).exists(), f"{PRECIOUS} is still there")
    stage.sum_up(
        "text, then APIError",
        "held the call",
        f"OpenAI: {len(stage.calls)} requests",
        f"{PRECIOUS} is still there. No rule is against list_files: it was run.",
    )


def refused_midway(stage: Stage) -> None:
    start = (
        "An index fund holds a little of everything, so no single company can sink it. Costs are "
        "low, and over the decades its owners did well."
    )
    rest = (
        f"In fact, your profit is {PROMISE}, and you should borrow whatever the bank will lend "
        "you, sell the car and the house, ask your parents for their savings as well, and put "
        "all of it into one fund this very afternoon, because tomorrow it will be too late and "
        "you will never forgive yourself."
    )
    turn = stage.play(
        "4. An answer that goes wrong midway",
        "Should I buy an index fund?",
        Reply(f"{start} {rest}"),
    )
    call = stage.calls[0] if stage.calls else None
    stage.check(turn.text.startswith(start), "the clean beginning is there")
    stage.check(PROMISE not in turn.text, f"nobody reads {PROMISE!r}")
    stage.check("APIError: " in turn.text, "the agent gets an APIError")
    stage.check("no promises of profit" in turn.text, "the error names the rule")
    stage.check(
        call is not None and call.cancelled and call.sent < call.total,
        "OpenAI is told to stop",
    )
    stage.sum_up(
        "APIError",
        "blocked",
        f"OpenAI: cancelled after {_sent(call)}",
        "Nobody pays for tokens that nobody reads.",
    )


SCENES: tuple[Callable[[Stage], None], ...] = (
    clean_reply,
    leaking_prompt,
    dangerous_tool_call,
    refused_midway,
)


def _sent(call: Call | None) -> str:
    return f"{call.sent} of {call.total} chunks" if call else "nothing"
