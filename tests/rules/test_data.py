"""Where what the proxy keeps is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from invariant_addon.rules.data import default_folder


@pytest.mark.parametrize(
    ("base", "platform", "folder"),
    [
        ({"INVARIANT_DATA": "/d"}, "linux", "/d"),
        ({"XDG_DATA_HOME": "/x"}, "linux", "/x/invariant"),
        ({"XDG_DATA_HOME": "x"}, "linux", "/home/me/.local/share/invariant"),
        ({}, "linux", "/home/me/.local/share/invariant"),
        ({}, "darwin", "/home/me/Library/Application Support/invariant"),
        ({"LOCALAPPDATA": "/l"}, "win32", "/l/invariant"),
        ({}, "win32", "/home/me/AppData/Local/invariant"),
    ],
)
def test_the_folder_is_the_platforms(
    base: dict[str, str], platform: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where people, backups and cleaners expect it."""
    monkeypatch.setenv("HOME", "/home/me")
    assert default_folder(base, platform) == Path(folder)
