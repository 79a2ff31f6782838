"""Changes of an environment -> lines for a shell to evaluate: sh, fish, PowerShell.

Pure. A value may hold anything (NO_PROXY comes from anywhere), so all of it is quoted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SHELLS = ("sh", "bash", "zsh", "fish", "powershell")
"""The first three are of one kind."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def lines(changes: Mapping[str, str | None], shell: str) -> list[str]:
    """A line for each variable. None: it is unset. Raises ValueError for a name that is none."""
    if bad := [name for name in changes if not _NAME.fullmatch(name)]:
        raise ValueError(f"got {bad[0]!r}, expected the name of a variable")
    return [_line(name, value, shell) for name, value in changes.items()]


def _line(name: str, value: str | None, shell: str) -> str:
    if shell == "fish":
        if value is None:
            return f"set -e {name};"
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"set -gx {name} '{quoted}';"
    if shell == "powershell":
        if value is None:
            return f"Remove-Item Env:{name} -ErrorAction SilentlyContinue"
        # PowerShell takes typographic quotes for quotes as well.
        quoted = re.sub("(['\u2018\u2019\u201a\u201b])", r"\1\1", value)
        return f"$env:{name} = '{quoted}'"
    if value is None:
        return f"unset {name};"
    quoted = value.replace("'", "'\\''")
    return f"export {name}='{quoted}';"


def guess(environment: Mapping[str, str]) -> str:
    """The shell that this environment is of: sh unless it says otherwise."""
    return "fish" if environment.get("SHELL", "").endswith("/fish") else "sh"
