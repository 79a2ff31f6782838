"""The words of a command -> without the programs that only start another one.

`sudo -u x timeout 5 rm -rf /` is `rm -rf /`. And where ssh, su and docker say what they run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")


@dataclass(frozen=True, slots=True)
class _Wrapper:
    """valued: options that take the next word, too. leading: words before the program."""

    valued: frozenset[str] = frozenset()
    leading: int = 0
    silent: frozenset[str] = frozenset()
    """Options with which it runs nothing."""


def _wrapper(valued: str = "", leading: int = 0, silent: str = "") -> _Wrapper:
    return _Wrapper(frozenset(valued.split()), leading, frozenset(silent.split()))


_WRAPPERS = {
    "sudo": _wrapper("-u -g -h -p -C -r -t -T -U -D -R --user --group --host --prompt --chdir",
                     silent="-l -v -V --list --version"),
    "doas": _wrapper("-u -C"),
    "env": _wrapper("-u -C --unset --chdir"),
    "command": _wrapper(silent="-v -V"),
    "exec": _wrapper("-a"),
    "time": _wrapper("-f -o --format --output"),
    "nice": _wrapper("-n --adjustment"),
    "ionice": _wrapper("-c -n --class --classdata"),
    "timeout": _wrapper("-k -s --kill-after --signal", 1),
    "stdbuf": _wrapper("-i -o -e"),
    "xargs": _wrapper("-I -L -P -n -s -d -a -E --max-args --max-procs --delimiter --replace"),
    "chroot": _wrapper("", 1),
    "flock": _wrapper("-w -E --timeout", 1),
    "watch": _wrapper("-n --interval"),
    "strace": _wrapper("-o -e -p -s"),
    "runuser": _wrapper("-u -g"),
    "gosu": _wrapper("", 1),
    "su-exec": _wrapper("", 1),
    "npx": _wrapper("-p --package"),
    "bunx": _wrapper(),
    "screen": _wrapper("-S -c -h -p -s -T -t"),
    "systemd-run": _wrapper("-p --unit -u"),
    **{name: _wrapper() for name in ("nohup", "builtin", "setsid", "busybox", "unshare", "pkexec",
                                     "caffeinate", "fakeroot", "noglob", "winpty", "gtimeout")},
}  # fmt: skip
_SSH_VALUED = frozenset(f"-{letter}" for letter in "bcDEeFIiJLlmOopQRSWw")
_MAX_WORDS = 100
_MOUNT = re.compile(r"(?:-v|--volume)=?")


def unwrap(words: list[str]) -> tuple[list[str], bool]:
    """From the program's name on, and whether xargs gives it more words."""
    position, given = 0, False
    while position < len(words):
        word = words[position]
        if _ASSIGNMENT.match(word):
            position += 1
            continue
        wrapper = _WRAPPERS.get(base(word))
        if wrapper is None or (base(word) == "runuser" and "-u" not in words):
            return words[position:], given
        given = given or base(word) == "xargs"
        position += 1
        while position < len(words) and words[position].startswith("-"):
            option = words[position]
            if option in wrapper.silent:
                return [], given
            position += 2 if option in wrapper.valued else 1
            if option == "--":
                break
        position += wrapper.leading
    return [], given


def over_ssh(args: list[str]) -> str:
    """The line that the other machine's shell gets; its words lost their quotes on the way."""
    position = _first_plain(args, _SSH_VALUED)
    return " ".join(args[position + 1 :])


def as_other_user(args: list[str]) -> str:
    """What `su` has a shell run: options may stand on both sides of the name."""
    for position, arg in enumerate(args):
        if arg in ("-c", "--command", "--session-command") or re.fullmatch(r"-[a-z]+c", arg):
            return args[position + 1] if position + 1 < len(args) else ""
        if arg.startswith("--command="):
            return arg.partition("=")[2]
    return ""


def in_container(args: list[str]) -> list[str]:
    """What a container runs on folders of this machine: their names here, or nothing.

    What it does to its own files is not of interest: it is there to be thrown away.
    """
    if args[:1] not in (["run"], ["exec"]):
        return []
    mounts: list[tuple[str, str]] = []
    args = args[:_MAX_WORDS]
    for arg, after in zip(args, [*args[1:], ""], strict=True):
        if option := _MOUNT.match(arg):
            outside, _, inside = (arg[option.end() :] or after).partition(":")
            mounts.append((inside.partition(":")[0].rstrip("/"), outside))
    programs = (i for i, a in enumerate(args) if base(a) in ("rm", "find", "sh", "bash", "chmod"))
    start = next(programs, len(args))
    return [_seen_outside(arg, mounts) for arg in args[start:]] if mounts else []


def _seen_outside(arg: str, mounts: list[tuple[str, str]]) -> str:
    for inside, outside in mounts:
        if inside and outside.startswith(("/", "~", "$HOME")):
            arg = re.sub(rf"(?<!\S){re.escape(inside)}(?=/|\s|\Z)", lambda _: outside, arg)  # noqa: B023  # called at once
    return arg.replace("//", "/")


def _first_plain(args: list[str], valued: frozenset[str]) -> int:
    position = 0
    while position < len(args) and args[position].startswith("-"):
        position += 2 if args[position] in valued else 1
    return position


def base(word: str) -> str:
    """A program's name: /bin/rm is rm."""
    return word.rsplit("/", 1)[-1] if "/" in word and " " not in word else word
