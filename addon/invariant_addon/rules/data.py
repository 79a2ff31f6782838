"""Where this project keeps what belongs to a person: one private folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

NAME = "invariant"


def default_folder(base: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """$INVARIANT_DATA, or the platform's folder for a user's data.

    base: the environment. Raises RuntimeError where there is no home folder.
    """
    if own := base.get("INVARIANT_DATA"):
        return Path(own).expanduser()
    if platform == "darwin":
        return Path.home() / "Library" / "Application Support" / NAME
    if platform == "win32":
        local = base.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / NAME
    data = base.get("XDG_DATA_HOME", "")
    # The XDG Base Directory Specification: a path that is not absolute is ignored.
    return (Path(data) if data.startswith("/") else Path.home() / ".local" / "share") / NAME
