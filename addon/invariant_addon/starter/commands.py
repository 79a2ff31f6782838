"""A shell's command line -> what in it destroys.

It is read as a shell reads it (words, quotes, pipes, `sudo`, `bash -c`), so that `echo "rm -rf /"`
and a commit message are nothing, and `FOO=1 sudo /bin/rm --force -r -- "$HOME"` is something.
It follows no variables, no encodings and no scripts: this stops accidents, not an attacker.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

KINDS = frozenset({"delete", "disk", "fork_bomb", "permissions", "pipe_to_shell", "power", "git"})

_MAX_DEPTH = 4
_MAX_TOKENS = 120_000
"""Words and signs that are read of one command, about half a second. More is an error."""
_MAX_PATH = 4096
_MAX_PIPE = 16
_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r]+ | \\\n)
  | (?P<here><<-?[ \t]*(?P<mark>\\?\w+|'\w+'|"\w+"))
  | (?P<to>&?\d?>>?[|&]?)
  | (?P<op>\|\|?&? | &+ | \n+ | [();]+ | [{}] (?=[\s;)}|&]|\Z) )
  | (?P<word>(?: \\. | '[^']*' | "(?:\\.|[^"\\])*+" | \$\{[^}\n]{0,200}\} | [^\s'"\\|&;()<>`] )++)
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_QUOTED = re.compile(r"""\\(.)|'([^']*)'|"((?:\\.|[^"\\])*+)\"""", re.DOTALL)
_FORK_BOMB = re.compile(
    r"(?<![\w:.])([\w:.]{1,32})\s{0,4}\(\)\s{0,4}\{\s{0,4}\1\s{0,4}\|\s{0,4}\1\s{0,4}&\s{0,4}\}"
)
_FETCHED_FILE = re.compile(r"\b(?:ba|z|da|k)?sh[ ]<\([ ]?(?:curl|wget)[ ]")
_SHELLS = frozenset({"sh", "bash", "zsh", "dash", "ksh", "ash", "fish"})
_INTERPRETERS = frozenset({"python", "python3", "perl", "ruby", "node"})
# fmt: off
_BEFORE_COMMANDS = frozenset(
    {"sudo", "doas", "env", "nohup", "time", "exec", "command", "builtin", "nice", "ionice",
     "stdbuf", "setsid", "busybox", "then", "do", "else", "if", "while", "until", "!", "timeout",
     "xargs", "chroot", "unshare", "watch"}
)
# fmt: on
_WITH_VALUE = frozenset({"-u", "-g", "-n", "-c", "-C", "-h", "-p", "-k", "-s", "-I", "-L", "-P"})
_NO_VALUE = {"sudo": frozenset({"-n", "-k", "-s"}), "time": frozenset({"-p"})}
_DESCRIPTOR = re.compile(r"\d+-?|-")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_TOP = re.compile(
    r"/(?:bin|boot|dev|etc|home|lib|lib32|lib64|mnt|opt|proc|root|run|sbin|srv|sys|usr|var|Users"
    r"|System|Library|Applications|Volumes|private)?|(?:/home|/Users)/[^/*]+"
)
_HOME = re.compile(r"~\w*|\$HOME|\$\{HOME[^}]*\}|%USERPROFILE%|\$env:USERPROFILE")
_DEVICE = re.compile(r"/dev/(?:r?disk|sd[a-z]|hd[a-z]|x?vd[a-z]|nvme\d|mmcblk\d|md\d|dm-|mapper/)")
_FETCH = re.compile(r"\s*(?:sudo\s+)?(?:curl|wget|fetch)\s")


@dataclass(slots=True)
class _Command:
    """words: unquoted. piped: it reads what the one before it writes."""

    words: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    here: str = ""
    piped: bool = False


class _Budget:
    """How much more may be read: all levels of a command share the words."""

    def __init__(self, depth: int = 0, words: list[int] | None = None) -> None:
        self.depth = depth
        self._words = words or [_MAX_TOKENS]

    def inner(self) -> _Budget:
        return _Budget(self.depth + 1, self._words)

    def take(self) -> None:
        self._words[0] -= 1
        if self._words[0] < 0:
            raise ValueError("a command of too many words")


def find(line: str, kinds: Collection[str] = KINDS) -> str | None:
    """The first of these kinds that the line does, or None. ValueError: too long to be read."""
    _check(kinds)
    return next((kind for kind in _line(line, _Budget()) if kind in kinds), None)


def find_in_words(words: Sequence[str], kinds: Collection[str] = KINDS) -> str | None:
    """The same for a command that is split into words already."""
    _check(kinds)
    found = _command(_Command(words=list(words)), [], _Budget())
    return next((kind for kind in found if kind in kinds), None)


def _check(kinds: Collection[str]) -> None:
    if unknown := set(kinds) - KINDS:
        raise ValueError(f"no such kind of command: {', '.join(sorted(unknown))}")


def _line(line: str, budget: _Budget) -> Iterator[str]:
    if budget.depth > _MAX_DEPTH:
        return
    before: list[_Command] = []
    outside: list[str] = []
    for command in _split(line, budget, outside):
        before = before if command.piped else []
        yield from _command(command, before, budget)
        before.append(command)
    own = "".join(outside)
    if "(" in own and _FORK_BOMB.search(own):
        yield "fork_bomb"
    if "<(" in own and _FETCHED_FILE.search(own):
        yield "pipe_to_shell"


def _split(line: str, budget: _Budget, outside: list[str]) -> Iterator[_Command]:
    """outside: gets what is in no here-document."""
    seen = 0
    command, position, marks = _Command(), 0, list[str]()
    to_target = to_descriptor = False
    while match := _TOKEN.match(line, position):
        position = match.end()
        token = match[0]
        budget.take()
        match match.lastgroup:
            case "word" if token.startswith("#"):
                end = line.find("\n", position)
                position = len(line) if end < 0 else end
            case "word" if to_target:
                if not (to_descriptor and _DESCRIPTOR.fullmatch(token)):  # 2>&1 is no file
                    command.targets.append(_unquote(token))
                to_target = False
            case "word":
                command.words.append(_unquote(token))
            case "mark" | "here":
                marks.append(match["mark"].strip("'\"\\"))
            case "to":
                to_target, to_descriptor = True, token.endswith("&")
            case "op" | "other":
                if token[0] == "\n" and marks:
                    outside.append(line[seen:position])
                    command.here, position = _here(line, position, marks.pop(0))
                    marks.clear()
                    seen = position
                if command.words or command.targets:
                    yield command
                command = _Command(piped=token in ("|", "|&"))
    outside.append(line[seen:])
    if command.words or command.targets:
        yield command


def _here(line: str, start: int, mark: str) -> tuple[str, int]:
    """The text of a here-document, which is no command of this shell, and where it ends."""
    end = re.compile(rf"^[ \t]*{re.escape(mark)}[ \t]*$", re.MULTILINE).search(line, start)
    return (line[start : end.start()], end.end()) if end else (line[start:], len(line))


def _unquote(token: str) -> str:
    if "'" not in token and '"' not in token and "\\" not in token:
        return token
    return _QUOTED.sub(lambda m: next((g for g in m.groups() if g is not None), ""), token)


def _command(command: _Command, before: list[_Command], budget: _Budget) -> Iterator[str]:
    words = command.words
    if budget.depth > _MAX_DEPTH:
        return
    for target in command.targets:
        if _DEVICE.match(target):
            yield "disk"
    for word in words:
        inner = max(word.find("$("), word.find("`"))
        if inner >= 0:  # in double quotes: the shell runs it
            yield from _line(word[inner + 1 :], budget.inner())
    words = _without_wrappers(words)
    if not words:
        return
    name, args = _base(words[0]), words[1:]
    if " " in name or "\n" in name:  # a quoted line: system("..."), ssh host "..."
        yield from _line(words[0], budget.inner())
    if name in _SHELLS or name in _INTERPRETERS:
        yield from _shell(name, args, command, before, budget)
    elif name in ("eval", "ssh", "su", "trap"):
        if args and _FETCH.match(args[-1].lstrip('$(`"')):
            yield "pipe_to_shell"
        yield from _line(
            " ".join(args) if name == "eval" else args[-1] if args else "", budget.inner()
        )
    else:
        yield from _program(name, args, budget)


def _without_wrappers(words: list[str]) -> list[str]:
    """From the program's name on: no assignments, no `sudo -u x`, no `timeout 5`."""
    position, wrapped = 0, ""
    while position < len(words):
        word = words[position]
        if _base(word) in _BEFORE_COMMANDS:
            wrapped = _base(word)
        elif wrapped and word.startswith("-"):
            position += word in _WITH_VALUE and word not in _NO_VALUE.get(wrapped, ())
        elif not _ASSIGNMENT.match(word) and not (wrapped and re.match(r"\d", word)):
            return words[position:]
        position += 1
    return []


def _shell(
    name: str, args: list[str], command: _Command, before: list[_Command], budget: _Budget
) -> Iterator[str]:
    script = next((i for i, a in enumerate(args) if re.fullmatch(r"-[a-z]*c", a)), None)
    if name in _SHELLS and script is not None and script + 1 < len(args):
        line = args[script + 1]
        if _FETCH.match(line.removeprefix("$(").removeprefix("`")) and line[:1] in "$`":
            yield "pipe_to_shell"
        yield from _line(line, budget.inner())
        return
    if name in _INTERPRETERS and len(args) > 1 and args[0] in ("-c", "-e"):
        yield from _line(args[1], budget.inner())
    plain = [a for a in args if not a.startswith("-")]
    reads_input = not args or "-" in args or (name in _SHELLS and (not plain or "-s" in args))
    if not reads_input:
        return
    if command.here and name in _SHELLS:
        yield from _line(command.here, budget.inner())
    for source in before[-_MAX_PIPE:]:
        words = _without_wrappers(source.words)
        if words and _base(words[0]) in ("curl", "wget", "fetch"):
            yield "pipe_to_shell"
        if words and _base(words[0]) in ("echo", "printf"):
            yield from _line(" ".join(words[1:]), budget.inner())


def _program(name: str, args: list[str], budget: _Budget) -> Iterator[str]:
    flags = [a for a in args if a.startswith("-")]
    plain = [a for a in args if not a.startswith("-")]
    match name:
        case "rm" | "find":
            if _deletes(name, args, flags, plain):
                yield "delete"
        case "chmod" | "chown" | "chgrp":
            opened = name != "chmod" or any(
                re.fullmatch(r"0?777|[ugoa]*\+\w*w\w*", a) for a in plain
            )
            broad = any(_is_precious(a) and a not in ("*", ".", "./*") for a in plain[1:])
            if _has(flags, "R", "--recursive") and opened and broad:
                yield "permissions"
        case "dd":
            if any(a.startswith("of=") and _DEVICE.match(a[3:]) for a in args):
                yield "disk"
        case "tee" | "shred" | "wipefs" | "blkdiscard" | "cp":
            if plain and _DEVICE.match(plain[-1]):
                yield "disk"
        case "shutdown" | "reboot" | "halt" | "poweroff" | "init" | "telinit" | "systemctl":
            if _switches_off(name, args, plain):
                yield "power"
        case "git":
            yield from _git(args)
    if (name == "mkfs" or name.startswith("mkfs.")) and plain:
        yield "disk"


def _deletes(name: str, args: list[str], flags: list[str], plain: list[str]) -> bool:
    if name == "rm":
        return _has(flags, "rR", "--recursive") and any(map(_is_precious, plain))
    deletes = "-delete" in args or ("-exec" in args and "rm" in map(_base, args))
    # `find . -name x -delete` is how caches are cleaned.
    narrowed = bool({"-name", "-iname", "-path", "-empty", "-mtime", "-mmin", "-regex"} & set(args))
    return deletes and not narrowed and bool(plain) and _is_precious(plain[0])


def _switches_off(name: str, args: list[str], plain: list[str]) -> bool:
    if name in ("init", "telinit"):
        return plain[:1] in (["0"], ["6"])
    if name == "systemctl":
        return plain[:1] in (["reboot"], ["poweroff"], ["halt"], ["kexec"])
    return not {"--help", "-c", "--version"} & set(args)


def _git(args: list[str]) -> Iterator[str]:
    if "push" in args:
        forced = _has(args, "f", "--force") or any(a.startswith("+") for a in args)
        main = any(re.search(r"(?:^|[:+/])(?:main|master)$", a) for a in args)
        if forced and main:
            yield "git"
    elif "reset" in args and "--hard" in args:
        yield "git"


def _has(flags: list[str], letters: str, long: str) -> bool:
    """Whether one of these is set: alone, among other letters, or as a long option cut short."""
    return any(
        long.startswith(flag) and len(flag) > 4
        if flag.startswith("--")
        else flag.startswith("-") and any(letter in flag for letter in letters)
        for flag in flags
    )


def _is_precious(path: str) -> bool:
    """Whether this is the root, a folder right below it, a home, or all that is here."""
    if len(path) > _MAX_PATH:
        return False
    path = path.rstrip("/") or ("/" if path.startswith("/") else "")
    path = re.sub(r"/(?:\.?/)+", "/", path)
    while path.endswith(("/*", "/.", "/..", "/.*")):
        path = path[: path.rindex("/")] or "/"
    path = path.rstrip("/") or ("/" if path.startswith("/") else "")
    if path in ("*", ".", "..", ".*") or re.fullmatch(r"[A-Za-z]:\\?\*?", path):
        return True
    return bool(_TOP.fullmatch(path) or _HOME.fullmatch(path))


def _base(word: str) -> str:
    return word.rsplit("/", 1)[-1] if "/" in word and " " not in word else word
