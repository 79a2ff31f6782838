"""A program and its arguments -> what is lost: files, permissions, a disk, or the machine.

These programs are judged by their own words; what runs other programs is in commands.py.
"""

from __future__ import annotations

import re

from . import targets
from .git import has_flag

_OPENS = re.compile(r"0?[0-7]?777|[ug]*[oa][ugoa]*[+=]r?w\w*|\+r?w\w*")
_ON_WINDOWS = frozenset({"remove-item", "ri", "rd", "rmdir", "del", "erase"})
_ALL_BELOW = re.compile(r"-r(?:ec\w*)?|/s", re.IGNORECASE)
# find's options that do not make it take fewer files.
_FIND_ALL = frozenset({
    "-H", "-L", "-P", "-type", "-mindepth", "-maxdepth", "-depth", "-d", "-xdev", "-mount",
    "-follow", "-print", "-print0", "-printf", "-ls", "-delete", "-o", "-or", "-a", "-and",
    "-noleaf", "-daystart", "-ignore_readdir_race", "-not"
})  # fmt: skip
_TIME = re.compile(r"now|\+?\d+|\d{1,2}:\d\d|/[a-z]{1,2}")


def deletes(name: str, args: list[str], cwd: str | None) -> bool:
    """Whether nothing is left of a folder that matters. `find` may do so, too: see there."""
    flags = [a for a in args if a.startswith("-")]
    plain = [a for a in args if not a.startswith("-")]
    precious = any(targets.is_precious(p, cwd) for p in plain)
    match name:
        case "rm" | "srm":
            return precious and has_flag(flags, "rR", "--recursive")
        case "rimraf":
            return precious
        case "mv":
            return precious and plain[-1] == "/dev/null"
        case "rsync":
            into = targets.places(plain[-1], cwd) if plain else ()
            return any(f.startswith("--delete") for f in flags) and any(map(targets.is_broad, into))
    if name.lower() in _ON_WINDOWS and any(map(_ALL_BELOW.fullmatch, args)):
        return any(targets.is_broad(place) for p in plain for place in targets.places(p, cwd))
    return False


def breaks_permissions(name: str, args: list[str], cwd: str | None) -> bool:
    """An owner is changed all day, a mode as well: what counts is the system, and 777."""
    flags = [a for a in args if a.startswith("-")]
    plain = [a for a in args if not a.startswith("-")]
    known = name in ("chmod", "chown", "chgrp")
    if not known or len(plain) < 2 or not has_flag(flags, "R", "--recursive"):
        return False
    folders = [p for path in plain[1:] for p in targets.places(path, cwd)]
    if name == "chmod" and _OPENS.fullmatch(plain[0]):
        return any(map(targets.is_broad, folders))
    if name == "chmod" and not plain[0].isdigit():
        return False
    return any(map(targets.is_system, folders))


def find_starts(args: list[str]) -> list[str]:
    """Where it begins, if it takes everything there (`find . -name x -delete` cleans caches)."""
    options = [a for a in args if a not in ("-H", "-L", "-P")]
    run = next((i for i, a in enumerate(options) if a.startswith("-exec")), len(options))
    first = next((i for i, a in enumerate(options) if a[:1] in ("-", "(", "!")), len(options))
    starts = options[:first] or ["."]
    tests = list(zip(options[first:run], [*options[first + 1 : run], ""], strict=False))
    # All but a few is all, unless it may be a folder of no weight: `find . ! -name keep -delete`.
    is_far = all(s.startswith(("/", "~", "$HOME")) for s in starts)
    negated = False
    for option, value in tests:
        if option in ("!", "-not"):
            negated = True
        elif option.startswith("-"):
            takes_all = option in _FIND_ALL or (negated and is_far) or set(value) == {"*"}
            if not takes_all or (option == "-type" and value not in ("f", "d")):
                return []
            negated = False
    return starts


def overwrites(name: str, args: list[str]) -> bool:
    """Whether what is on a disk is gone afterwards."""
    flags = [a for a in args if a.startswith("-")]
    plain = [a for a in args if not a.startswith("-")]
    devices = [p for p in plain if targets.is_device(p)]
    match name:
        case "dd":
            return any(a.startswith("of=") and targets.is_device(a[3:]) for a in args)
        case "cp" | "pv":
            return bool(plain) and targets.is_device(plain[-1])
        case "wipefs":
            return bool(devices) and has_flag(flags, "ao", "--all")
        case "parted" | "sgdisk" | "cryptsetup" | "nvme" | "hdparm" | "badblocks":
            wipes = {"mklabel", "mktable", "rm", "luksFormat", "erase", "format", "sanitize", "-Z",
                     "--zap-all", "-o", "--clear", "-w", "--security-erase"}  # fmt: skip
            return bool(devices) and bool(wipes & set(args))
        case "diskutil":
            return plain[:1] in (["eraseDisk"], ["eraseVolume"], ["partitionDisk"], ["zeroDisk"])
        case "format" | "format.com":
            return any(re.fullmatch(r"[A-Za-z]:", p) for p in plain)
    writers = ("tee", "shred", "blkdiscard", "truncate", "mkswap", "pvcreate", "sfdisk", "newfs")
    return bool(devices) and (name in writers or name.partition(".")[0] in ("mkfs", "mke2fs"))


def switches_off(name: str, args: list[str]) -> bool:
    plain = [a for a in args if not a.startswith("-")]
    match name:
        case "init" | "telinit":
            return plain in (["0"], ["6"])
        case "systemctl" | "loginctl":
            return plain[:1] in (["reboot"], ["poweroff"], ["halt"], ["kexec"])
        case "shutdown" | "reboot" | "halt" | "poweroff":
            if {"--help", "-c", "--version", "--show", "/a", "/?"} & set(args):
                return False
            # `shutdown = Event()` and "reboot the server" are other languages.
            return not plain or bool(_TIME.fullmatch(plain[0]))
        case "kill":
            return "-1" in args[1:] and args[0] in ("-9", "-KILL", "-SIGKILL", "-s")
    return False
