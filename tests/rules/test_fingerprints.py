"""The key of fingerprints and placeholders."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from invariant_addon.rules.fingerprints import load_key


def test_the_key_is_made_once(tmp_path: Path, caplog: Any) -> None:
    """Placeholders and fingerprints must be the same after a restart."""
    keys = []
    threads = [
        threading.Thread(target=lambda: keys.append(load_key(tmp_path / "a" / "b")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == 1 and len(keys[0]) == 32
    (path,) = (tmp_path / "a" / "b").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    assert load_key(tmp_path / "a" / "b") != keys[0]
    assert "others have access" in caplog.text
