"""A shell's text -> the commands in it.

It is read as a shell reads it: words, quotes, pipes, subshells, substitutions, here-documents.
It knows no program, follows no variable and judges nothing (commands.py does). What no shell would
accept is read as far as it makes sense, and never an error. One pass, so time is linear.
Rules: https://pubs.opengroup.org/onlinepubs/9799919799/utilities/V3_chap02.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_MAX_PIECES = 120_000
"""Words, signs and parts of words that are read, about half a second. More is an error."""
_MAX_NESTING = 12
_KEYWORDS = frozenset({"if", "then", "elif", "else", "while", "until", "do", "!", "coproc"})
_TOKEN = re.compile(
    r"""
    (?P<space>(?:[ \t\r]|\\\r?\n)+)
  | (?P<comment>\#[^\n]*)
  | (?P<string><<<)
  | (?P<here><<-?)
  | (?P<to>&>>? | \d{0,2}(?:>>|>\||>&|<>|>)(?!\())
  | (?P<from>\d{0,2}<&?(?!\())
  | (?P<open>\()
  | (?P<close>\))
  | (?P<line>\n\s*)
  | (?P<end>\|\||\|&|\||&&|&|;+&?|[{}](?=[\s;|&)]|\Z))
  | (?P<word>)
    """,
    re.VERBOSE,
)
_SUM = r"(?P<sum>\$\(\((?:[^()]|\([^()]*+\))*+\)\))"
_VALUE = r"(?P<value>\$\{[^}\n]{0,200}\})"
_PIECE = re.compile(
    rf"""
    (?P<plain>[^\s'"\\|&;()<>`$]+)
  | \\(?P<escaped>.)
  | '(?P<single>[^']*)'
  | "(?P<double>[^"\\$`]*)"
  | (?P<quote>\$?")
  | \$'(?P<ansi>(?:\\.|[^'\\])*+)'
  | {_SUM} | {_VALUE}
  | (?P<run>\$\(|[<>]\()
  | (?P<tick>`)
  | (?P<odd>['\\$])
    """,
    re.VERBOSE | re.DOTALL,
)
_QUOTED = re.compile(
    rf"""
    (?P<plain>[^"\\$`]+)
  | \\(?P<escaped>["\\$`\n])
  | {_SUM} | {_VALUE}
  | (?P<run>\$\()
  | (?P<tick>`)
  | (?P<quote>")
  | (?P<odd>[\\$])
    """,
    re.VERBOSE,
)
_TICKS = re.compile(r"`((?:\\.|[^`\\])*+)`", re.DOTALL)
_UNTICK = re.compile(r"\\([\\`$])")
_ANSI = re.compile(r"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_ANSI_NAMES = {"n": "\n", "t": "\t", "r": "\r", "e": "\x1b", "a": "\a", "b": "\b"}
_DESCRIPTOR = re.compile(r"\d+-?|-")
_BLANK = re.compile(r"(?:[ \t]|\\\n)*")
_LINE = re.compile(r"(\t*)([^\n]*?)\r?(?:\n|\Z)")


@dataclass(slots=True)
class Command:
    """A simple command, or a subshell, which has only `inner`.

    words: without their quotes; a substitution is in them as it was written.
    inner: what runs inside: subshells and substitutions.
    stdin: a here-document or here-string that it reads. writes: the files it is redirected to.
    piped: it reads what the command before it writes. called: `name (`, which defines and runs not.
    """

    words: list[str] = field(default_factory=list)
    inner: list[list[Command]] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    stdin: str | None = None
    piped: bool = False
    called: bool = False

    def __bool__(self) -> bool:
        return bool(self.words or self.inner or self.writes or self.stdin is not None)


class Budget:
    """How much more may be read, for a text and for the texts in it. ValueError: no more."""

    def __init__(self, pieces: int = _MAX_PIECES) -> None:
        self._left = pieces

    def take(self, pieces: int = 1) -> None:
        self._left -= pieces
        if self._left < 0:
            raise ValueError("a command of too many words")


def read(text: str, budget: Budget) -> list[Command]:
    return _Reader(text, budget).commands()


class _Reader:
    """A place in a text."""

    def __init__(self, text: str, budget: Budget, depth: int = 0) -> None:
        self._text = text
        self._budget = budget
        self._depth = depth
        self._at = 0
        self._awaited: list[tuple[Command, str, bool, bool]] = []
        self._open_tick = False

    def commands(self, closer: str = "") -> list[Command]:
        """Up to the end, or to this sign of the surrounding command."""
        found: list[Command] = []
        command = Command()
        while self._at < len(self._text):
            token = _TOKEN.match(self._text, self._at)
            assert token is not None  # the last choice is empty
            self._budget.take()
            self._at = token.end()
            match token.lastgroup:
                case "word":
                    self._add_word(command)
                case "string":
                    command.stdin = self._next_word(command)
                case "here":
                    self._await_here(command, tabs=token[0].endswith("-"))
                case "to":
                    target = self._next_word(command)
                    if not (token[0][-1] == "&" and _DESCRIPTOR.fullmatch(target)):
                        command.writes.append(target)
                case "from":
                    self._next_word(command)
                case "open":
                    self._open(command)
                    if command.called:
                        found.append(command)
                        command = Command()
                case "close" if closer == ")":
                    break
                case "close" | "end" | "line":
                    if token.lastgroup == "line" and self._awaited:
                        self._at = token.start() + 1
                        self._read_here()
                    if command:
                        found.append(command)
                        command = Command()
                    if token.lastgroup != "line" or not command.piped:  # a pipe may end a line
                        command.piped = token[0] in ("|", "|&")
        if command:
            found.append(command)
        return found

    def _add_word(self, command: Command) -> None:
        start = self._at
        word = self._word(command)
        if self._at == start:  # no word starts here, and nothing else does
            self._at += 1
        elif command.words or word not in _KEYWORDS:
            command.words.append(word)

    def _open(self, command: Command) -> None:
        if self._depth >= _MAX_NESTING:
            return
        inner = self._inner()
        if command.words and command.words[-1].endswith("="):  # an array, of which $( ) still runs
            command.inner += [each for words in inner for each in words.inner]
            return
        if len(command.words) == 1 and not command.inner:
            # name() { ...; } runs nothing yet, and a program's name(3) is no command.
            command.called = True
        if inner:
            command.inner.append(inner)

    def _inner(self) -> list[Command]:
        self._depth += 1
        inner = self.commands(")")
        self._depth -= 1
        return inner

    # words

    def _next_word(self, command: Command) -> str:
        blank = _BLANK.match(self._text, self._at)
        self._at = blank.end() if blank else self._at
        return self._word(command)

    def _word(self, command: Command) -> str:
        """What is run inside of it goes to the command."""
        parts: list[str] = []
        while piece := _PIECE.match(self._text, self._at):
            if parts:
                self._budget.take()
            start, self._at = self._at, piece.end()
            match piece.lastgroup:
                case "plain" | "sum" | "value" | "odd":
                    parts.append(piece[0])
                case "escaped":
                    parts.append(_literal(piece["escaped"].removeprefix("\n"), not parts))
                case "single" | "double" as kind:
                    parts.append(_literal(piece[kind], not parts))
                case "quote":
                    parts.append(self._quoted(command, '"'))
                case "ansi":
                    parts.append(_ANSI.sub(_unescape, piece["ansi"]))
                case _:
                    parts.append(self._substitution(command, start, piece[0]))
        return "".join(parts)

    def _quoted(self, command: Command, closer: str) -> str:
        """What follows a double quote, up to the next; without one, up to the end."""
        parts: list[str] = []
        while piece := _QUOTED.match(self._text, self._at):
            self._budget.take()
            start, self._at = self._at, piece.end()
            match piece.lastgroup:
                case "quote" if closer:
                    break
                case "escaped":
                    parts.append(piece["escaped"].removeprefix("\n"))
                case "run" | "tick":
                    parts.append(self._substitution(command, start, piece[0]))
                case _:
                    parts.append(piece[0])
        return "".join(parts)

    def _substitution(self, command: Command, start: int, sign: str) -> str:
        """Of $( ), <( ), or backticks, the first sign of which was read. Gives it as written."""
        if self._depth >= _MAX_NESTING:
            return sign
        if sign != "`":
            command.inner.append(self._inner())
        elif not self._open_tick and (ticks := _TICKS.match(self._text, start)):
            self._at = ticks.end()
            text = _UNTICK.sub(r"\1", ticks[1])
            command.inner.append(_Reader(text, self._budget, self._depth + 1).commands())
        else:  # no other closes any more: one look at the rest is enough
            self._open_tick = True
        return self._text[start : self._at]

    # here-documents

    def _await_here(self, command: Command, *, tabs: bool) -> None:
        blank = _BLANK.match(self._text, self._at)
        start = blank.end() if blank else self._at
        mark = self._next_word(Command())
        self._awaited.append((command, mark, tabs, mark != self._text[start : self._at]))

    def _read_here(self) -> None:
        """The texts that the line before announced, in their order."""
        awaited, self._awaited = self._awaited, []
        for command, mark, tabs, quoted in awaited:
            start = end = self._at
            self._at = len(self._text)
            if self._text.find(mark, start) < 0:
                end = self._at
            else:
                end = self._here_end(start, mark, tabs=tabs)
            command.stdin = self._text[start:end]
            if not quoted and ("$(" in command.stdin or "`" in command.stdin):
                _Reader(command.stdin, self._budget, self._depth + 1)._quoted(command, "")

    def _here_end(self, start: int, mark: str, *, tabs: bool) -> int:
        for line in _LINE.finditer(self._text, start):
            if line[2] == mark and (tabs or not line[1]):
                # The newline stays: it ends the command that comes after the text.
                self._at = line.end(2)
                return line.start()
        return len(self._text)


def _literal(text: str, is_first: bool) -> str:
    """A quoted ~ is a file of that name: `rm -rf '~'` mends what a program did by mistake."""
    return f"./{text}" if is_first and text in ("~", "~/") else text


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] == "x" and len(code) > 1:
        return chr(int(code[1:], 16))
    return chr(int(code, 8)) if code[0] in "01234567" else _ANSI_NAMES.get(code, code)
