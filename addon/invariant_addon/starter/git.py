"""A program and its arguments -> whether commits or changes in git are thrown away."""

from __future__ import annotations

import re

_VALUED = frozenset({"-C", "-c", "--git-dir", "--work-tree", "--namespace", "--exec-path"})
_MAIN = re.compile(r"(?:\+|.*[:/])?(?:main|master)")
_ALL_HERE = frozenset({".", "./", "*", ":/", "-f", "--force"})


def loses_work(name: str, args: list[str]) -> bool:
    match name:
        case "git":
            return _loses_work(args)
        case "rm":
            last = [a.rstrip("/").rpartition("/")[2] for a in args]
            return ".git" in last and has_flag(args, "rR", "--recursive")
    return name in ("git-filter-repo", "git-filter-branch")


def _loses_work(args: list[str]) -> bool:
    """A push by force counts if it is to main, or if nobody can tell where it goes."""
    position = 0
    while position < len(args) and args[position].startswith("-"):
        position += 2 if args[position] in _VALUED else 1
    if position >= len(args):
        return False
    name, args = args[position], args[position + 1 :]
    flags = [a for a in args if a.startswith("-")]
    plain = [a for a in args if not a.startswith("-")]
    if has_flag(flags, "n", "--dry-run") and name in ("push", "clean"):
        return False
    match name:
        case "push":
            return _push(flags, plain)
        case "reset":
            return "--hard" in flags
        case "clean":
            return has_flag(flags, "f", "--force")
        case "branch":
            deletes = has_flag(flags, "d", "--delete") and has_flag(flags, "f", "--force")
            return has_flag(flags, "D", "-D") or deletes
        case "checkout" | "switch":
            forced = bool({"-f", "--force", "--discard-changes"} & set(flags))
            return forced or (name == "checkout" and bool(_ALL_HERE & set(plain)))
        case "restore":
            only_staged = has_flag(flags, "S", "--staged") and not has_flag(
                flags, "W", "--worktree"
            )
            return not only_staged and bool(_ALL_HERE & set(plain))
        case "rm":
            return "--cached" not in flags and bool(_ALL_HERE & set(plain)) and bool(flags)
        case "stash":
            return plain[:1] in (["clear"], ["drop"])
        case "reflog":
            return plain[:1] in (["expire"], ["delete"])
        case "update-ref":
            return "-d" in flags
        case "gc" | "prune":
            return any(f in ("--prune=now", "--prune=all") for f in flags)
        case "worktree":
            return plain[:1] == ["remove"] and has_flag(flags, "f", "--force")
    return name in ("filter-branch", "filter-repo")


def _push(flags: list[str], plain: list[str]) -> bool:
    to = plain[1:]  # after the other repository's name
    is_open = not to or "HEAD" in to
    to_main = any(map(_MAIN.fullmatch, to))
    if "--mirror" in flags:
        return True
    if has_flag(flags, "f", "--force"):
        return is_open or to_main
    if has_flag(flags, "d", "--delete"):
        return to_main
    if any(f.partition("=")[0] == "--force-with-lease" for f in flags):
        return is_open and all("=" not in f for f in flags)
    return any(t.startswith(("+", ":")) and _MAIN.fullmatch(t) for t in to)


def has_flag(flags: list[str], letters: str, long: str) -> bool:
    """Whether one of these is set: alone, among other letters, or as a long option cut short."""
    return any(
        len(flag) > 4 and long.startswith(flag)
        if flag.startswith("--")
        else flag.startswith("-") and any(letter in flag for letter in letters)
        for flag in flags
    )
