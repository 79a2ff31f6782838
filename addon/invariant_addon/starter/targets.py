"""A path as a shell gets it -> whether losing what it names would be a disaster.

Nothing is looked up on a disk: the path is all that is known, and perhaps the folder it starts in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_MAX_PATH = 4096
_MAX_EXPANDED = 64
_MAX_BRACES = 512
_MAX_CWD = 512
_HERE = re.compile(r"(?:\$PWD|\$\{PWD\}|\$\(\s?pwd\s?\)|`pwd`)(?=/|\Z)")
_HOME = re.compile(
    r"(?:\$HOME|\$\{HOME(?:[:?%#-][^}]{0,64})?\}|\$\(echo ~\)"
    r"|(?i:%USERPROFILE%|\$env:(?:USERPROFILE|HOME)))"
    r"(?=[/\\]|\Z)"
)
_DRIVE = re.compile(r"[A-Za-z]:[/\\]*(?:\*(?:\.\*)?|(?:Windows|Users)[/\\]?\*?)?", re.IGNORECASE)
_ABSOLUTE = re.compile(r"[/~$`%]|[A-Za-z]:")
_BRACES = re.compile(r"\{([^{},]*+,[^{}]*+)\}")
_ALL = re.compile(r"\*+|\?\*|\.\*|\.\[[!^]\.\]\*|\.\?\?\*|\.\.\?\*|\.\[[!^]\.\][?]\*")

# What belongs to the system: it does not start again without these, or only by hand.
_SYSTEM = re.compile(
    r"/(?:bin|boot|dev|etc|lib|lib32|lib64|proc|sbin|sys|usr|var|home|Users|System|Library|private)?"
    r"|/usr/(?:bin|sbin|lib|lib32|lib64|libexec|share|include)"
    r"|/var/(?:lib|mail|spool)|/var/lib/(?:dpkg|rpm)|/lib/modules|/private/(?:etc|var)"
    r"|/(?:mnt/)?c(?:/Windows|/Users)?"
)
_OTHERS = re.compile(
    r"/(?:mnt|opt|root|run|srv|Applications|Volumes)|/usr/local(?:/(?:bin|lib|share|etc|sbin))?"
    r"|(?:/home|/Users|/mnt/c/Users|/c/Users)/[^/]+"
    r"|/var/lib/(?:docker|mysql|postgresql|mongodb)"
)
_OF_A_HOME = re.compile(
    r"(?:/root|(?:/home|/Users)/[^/]+|~\w*)/"
    r"(?:\.ssh|\.gnupg|\.config|\.local(?:/share)?|Desktop|Documents|Pictures|Library)"
)
_DEVICE = re.compile(r"/dev/(?:r?disk|sd[a-z]|hd[a-z]|x?vd[a-z]|nvme\d|mmcblk\d|md\d|dm-|mapper/)")


def is_precious(path: str, cwd: str | None = None) -> bool:
    """Whether it is the root, a folder of the system, a home, or all that is here.

    All that is here is precious if nobody knows where here is: after `cd build` it is not.
    """
    return any(is_broad(place) or not place for place in places(path, cwd))


def is_broad(place: str) -> bool:
    """The same for one of `places`, but all that is here does not count."""
    return (
        is_system(place)
        or _OTHERS.fullmatch(place) is not None
        or _OF_A_HOME.fullmatch(place) is not None
        or re.fullmatch(r"~\w*|\.\.(?:/\.\.)*", place) is not None
        or _DRIVE.fullmatch(place) is not None
    )


def is_system(place: str) -> bool:
    return _SYSTEM.fullmatch(place) is not None


def is_device(path: str) -> bool:
    return _DEVICE.match(path) is not None


def places(path: str, cwd: str | None = None) -> Iterator[str]:
    """The folders that it means all of, or all in them; "" is here, if that is unknown."""
    if len(path) <= _MAX_PATH:
        for each in _expanded(path):
            yield _plain(within(each, cwd))


def within(path: str, cwd: str | None) -> str:
    """The path, seen from where `cwd` is seen from."""
    if variable := _HERE.match(path):
        path = "." + path[variable.end() :]
    elif variable := _HOME.match(path):
        path = "~" + path[variable.end() :]
    if not cwd or _ABSOLUTE.match(path):
        return path
    return f"{cwd[-_MAX_CWD:]}/{path}"


def _expanded(path: str) -> list[str]:
    """~/{*,.*} is ~/* and ~/.*"""
    found = [path]
    for _ in range(3):
        if "{" not in path or len(path) > _MAX_BRACES:
            break
        found = [each for p in found for each in _without_braces(p)][:_MAX_EXPANDED]
    return found


def _without_braces(path: str) -> list[str]:
    braces = None if path.startswith("${") and path.count("{") == 1 else _BRACES.search(path)
    if not braces:
        return [path]
    before, after = path[: braces.start()], path[braces.end() :]
    return [f"{before}{choice}{after}" for choice in braces[1].split(",")[:_MAX_EXPANDED]]


def _plain(path: str) -> str:
    """Without . and .. and a last * (~/x/../* is ~), and "" if nothing is left."""
    if _DRIVE.fullmatch(path):
        return path
    root = "/" if path.startswith("/") else ""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if not parts and root:
                continue
            if not parts or parts[-1] == "..":
                parts.append("..")
            elif parts[-1].startswith("~"):
                root, parts = "/", ["home"]
            elif parts[-1].startswith(("$", "`")):
                return path  # nobody knows
            else:
                parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    while parts and _ALL.fullmatch(parts[-1]):
        parts.pop()
    if parts and parts[0].startswith("~") and path.startswith("./"):
        return "./" + "/".join(parts)  # a file that is called ~
    return root + "/".join(parts)
