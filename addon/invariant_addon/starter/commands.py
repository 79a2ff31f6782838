"""A shell's command line -> what in it destroys.

`echo "rm -rf /"` and a commit message are nothing, and `FOO=1 sudo /bin/rm --force -r -- "$HOME"`
is something. It follows no variables, no encodings and no scripts: this stops accidents, not an
attacker. Around it: shell.py reads the line, wrappers.py finds what is run, targets.py knows which
folders matter, programs.py what a `python -c` runs, effects.py and git.py what one program does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from . import effects, git, programs, shell, targets, wrappers
from .shell import Command
from .wrappers import base

KINDS = frozenset({"delete", "disk", "fork_bomb", "permissions", "pipe_to_shell", "power", "git"})

_MAX_DEPTH = 4
_MAX_PIPE = 16
_MAX_LINES = 16
_CALL_COSTS = 30
"""Pieces that a call in a program counts as: finding it and reading it take as long."""
_SHELLS = frozenset({"sh", "bash", "zsh", "dash", "ksh", "ash", "fish"})
_INTERPRETER = re.compile(r"(?:python|pypy|perl|ruby|node|nodejs|php|deno|bun)[\d.]*")
_FETCHERS = frozenset(
    {"curl", "wget", "fetch", "http", "irm", "iwr", "invoke-webrequest", "invoke-restmethod"}
)
_FETCHED = re.compile(r"(?:[$<]\(|`)\s{0,8}(?:sudo\s{1,8})?(?:curl|wget|fetch)\s")
_SWITCHES = re.compile(r"/proc/sysrq-trigger")


@dataclass(slots=True)
class _Place:
    """cwd: where the shell is, as far as that is known from where it began. depth: of texts in
    texts. budget: all levels share it."""

    cwd: str | None
    depth: int = 0
    budget: shell.Budget = field(default_factory=shell.Budget)

    def inner(self) -> _Place:
        return replace(self, depth=self.depth + 1)


def find(line: str, kinds: Collection[str] = KINDS, cwd: str | None = None) -> str | None:
    """The first of these kinds that the line does, or None. ValueError: too long to be read."""
    _check(kinds)
    return next((kind for kind in _line(line, _Place(cwd)) if kind in kinds), None)


def find_in_words(
    words: Sequence[str], kinds: Collection[str] = KINDS, cwd: str | None = None
) -> str | None:
    """The same for a command that is split into words already, the first perhaps in part."""
    _check(kinds)
    place = _Place(cwd)
    found = _words(list(words), place)
    return next((kind for kind in found if kind in kinds), None)


def find_in_program(
    text: str, kinds: Collection[str] = KINDS, cwd: str | None = None
) -> str | None:
    """The same for what a program in another language has a shell do."""
    _check(kinds)
    return next((kind for kind in _program_text(text, _Place(cwd)) if kind in kinds), None)


def _check(kinds: Collection[str]) -> None:
    if unknown := set(kinds) - KINDS:
        raise ValueError(f"no such kind of command: {', '.join(sorted(unknown))}")


def _line(line: str, place: _Place) -> Iterator[str]:
    if place.depth <= _MAX_DEPTH:
        yield from _commands(shell.read(line, place.budget), place.inner())


def _words(words: list[str], place: _Place) -> Iterator[str]:
    if place.depth > _MAX_DEPTH:
        return
    commands = [Command(words=words)]
    if words and any(c.isspace() for c in words[0]):  # ["rm -rf", "/"]
        commands = shell.read(words[0], place.budget) or commands
        commands[-1].words += words[1:]
    yield from _commands(commands, place.inner())


def _program_text(text: str, place: _Place) -> Iterator[str]:
    if place.depth > _MAX_DEPTH:
        return
    for found in programs.read(text):
        place.budget.take(_CALL_COSTS)
        if isinstance(found, str):
            yield from _line(found, place.inner())
        else:
            yield from _words(found, place.inner())


def _commands(
    commands: list[Command], place: _Place, fed_by: Sequence[Command] = ()
) -> Iterator[str]:
    """One shell's: where it changes to is a matter of those that follow in it."""
    before = list(fed_by)
    functions: set[str] = set()
    for command in commands:
        if not command.piped:
            before = []
        elif before and _is_pair(before[-1], command, functions):
            yield "fork_bomb"
        if command.called:
            functions.update(command.words[:1])
        yield from _command(command, before[-_MAX_PIPE:], place)
        before.append(command)


def _is_pair(first: Command, second: Command, functions: set[str]) -> bool:
    """Whether it is name | name of a function."""
    name = second.words
    return len(name) == 1 and name[0] in functions and [w.lstrip("{") for w in first.words] == name


def _command(command: Command, before: list[Command], place: _Place) -> Iterator[str]:
    for inner in command.inner:
        yield from _commands(inner, replace(place))
    for target in command.writes:
        if targets.is_device(target):
            yield "disk"
        if _SWITCHES.fullmatch(target):
            yield "power"
    words, given = wrappers.unwrap(command.words)
    if not words or command.called:
        if command.stdin and {"-s", "-i"} & set(command.words):  # sudo -s <<EOF
            yield from _line(command.stdin, place)
        return
    if words is not command.words and any(c.isspace() for c in words[0]):  # env -S "...", watch
        yield from _words(words, place.inner())
        return
    name, args = base(words[0]), words[1:]
    if given:
        args = [*args, *_listed(before)]
    if name in ("cd", "pushd"):
        place.cwd = _changed(place.cwd, args)
    elif name in _SHELLS or _INTERPRETER.fullmatch(name):
        yield from _interpreted(name, args, command, before, place)
    elif name in ("eval", "source", ".", "trap", "ssh", "su", "runuser", "iex", "tmux"):
        yield from _handed_on(name, args, command, before, place)
    elif name in ("docker", "podman"):
        yield from _words(wrappers.in_container(args), place.inner())
    else:
        yield from _program(name, args, place)


def _changed(cwd: str | None, args: list[str]) -> str | None:
    to = next((a for a in args if not a.startswith("-") or a == "-"), "~")
    return None if to == "-" else targets.within(to, cwd)


def _handed_on(
    name: str, args: list[str], command: Command, before: list[Command], place: _Place
) -> Iterator[str]:
    """Programs that give a line to a shell."""
    if name in ("eval", "source", ".", "iex") and args and _FETCHED.match(args[0]):
        yield "pipe_to_shell"
    match name:
        case "eval":
            yield from _line(" ".join(args), place)
        case "tmux":
            for arg in args[:_MAX_LINES]:
                yield from _line(arg, place)
        case "trap":
            yield from _line(args[0] if args else "", place)
        case "iex":
            if any(_fetches(c) for c in before):
                yield "pipe_to_shell"
        case "ssh":
            line = wrappers.over_ssh(args)
            yield from _elsewhere(line, command, before, replace(place, cwd="~"))
        case "su" | "runuser":
            yield from _elsewhere(wrappers.as_other_user(args), command, before, place)


def _elsewhere(line: str, command: Command, before: list[Command], place: _Place) -> Iterator[str]:
    """A shell that gets a line, or else reads the input; or the line has one that does."""
    if place.depth > _MAX_DEPTH:
        return
    commands = shell.read(line, place.budget) or [Command(words=["sh"])]
    commands[0].piped = True
    commands[0].stdin = commands[0].stdin or command.stdin
    yield from _commands(commands, place.inner(), before)


def _interpreted(
    name: str, args: list[str], command: Command, before: list[Command], place: _Place
) -> Iterator[str]:
    read = _line if name in _SHELLS else _program_text
    flag = r"-[a-z]*c" if name in _SHELLS else r"-[a-zA-Z]*[ce]|--eval|-r"
    script = next((i for i, a in enumerate(args) if re.fullmatch(flag, a)), None)
    if script is not None:
        text = args[script + 1] if script + 1 < len(args) else ""
        if _FETCHED.match(text) or (not text and any(map(_fetches, before))):
            yield "pipe_to_shell"
        yield from read(text, place)
        return
    plain = [a for a in args if not a.startswith("-")]
    if plain and _FETCHED.match(plain[0]):
        yield "pipe_to_shell"
    if (plain and "-s" not in args) or "-m" in args:
        return
    if command.stdin:
        yield from read(command.stdin, place)
    for source in before:
        yield from _piped(source, read is _line, place)


def _piped(source: Command, into_shell: bool, place: _Place) -> Iterator[str]:
    """What a command says that a shell then does."""
    if _fetches(source) or any(_fetches(c) for inner in source.inner for c in inner):
        yield "pipe_to_shell"
    words, _ = wrappers.unwrap(source.words)
    if not into_shell or not words:
        return
    if base(words[0]) in ("echo", "printf"):
        yield from _line(" ".join(words[1:]), place)
    elif base(words[0]) in ("cat", "tee") and source.stdin:
        yield from _line(source.stdin, place)


def _fetches(command: Command) -> bool:
    words, _ = wrappers.unwrap(command.words)
    return bool(words) and base(words[0]).lower() in _FETCHERS


def _listed(before: list[Command]) -> list[str]:
    """What the command before xargs prints, if that is everything in a folder."""
    words, _ = wrappers.unwrap(before[-1].words) if before else ([], False)
    if not words:
        return []
    name, args = base(words[0]), words[1:]
    plain = [a for a in args if not a.startswith("-")]
    match name:
        case "echo" | "printf":
            return plain
        case "ls":
            return plain or ["*"]
        case "find" if starts := effects.find_starts(args):
            return ["-r", *starts]
    return []


def _program(name: str, args: list[str], place: _Place) -> Iterator[str]:
    if name == "find":
        yield from _find(args, place)
    if effects.deletes(name, args, place.cwd):
        yield "delete"
    if effects.breaks_permissions(name, args, place.cwd):
        yield "permissions"
    if effects.overwrites(name, args):
        yield "disk"
    if effects.switches_off(name, args):
        yield "power"
    if git.loses_work(name, args):
        yield "git"


def _find(args: list[str], place: _Place) -> Iterator[str]:
    run = next((i for i, a in enumerate(args) if a in ("-exec", "-execdir", "-ok")), len(args))
    words = args[run + 1 :]
    end = next((i for i, w in enumerate(words) if w in (";", "+")), len(words))
    starts = effects.find_starts(args)
    if words:
        yield from _words([w for w in words[:end] if w != "{}"], place.inner())
    deletes = "-delete" in args or (words and base(words[0]) in ("rm", "shred", "unlink"))
    if deletes and any(targets.is_precious(s, place.cwd) for s in starts):
        yield "delete"
    if words and base(words[0]) in ("chmod", "chown"):
        yield from _program(base(words[0]), [*words[1:end], "-R", *starts], place)
