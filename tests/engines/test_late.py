"""What a worker does not import until it is used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

STARTED = Path(__file__).with_name("started.py")


def started(*arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-P", str(STARTED), *arguments],
        env={"OPENAI_API_KEY": "sk-none"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_stand_ins_change_nothing_but_what_is_imported() -> None:
    """Each worker pays for its imports; a rule must not see that some come later."""
    plain, late = started(), started("late")
    assert plain.pop("loaded") == ["openai.types", "aiohttp.client"]
    assert late.pop("loaded") == []
    assert late == plain
    assert late["used"]["made"][1:] == ["aiohttp.client.ClientSession", "openai.AsyncOpenAI"]


def test_a_module_that_is_not_there_is_missed_when_it_is_used() -> None:
    """The error is the one of an import, each time."""
    program = """
from invariant_addon.engines.late import late_imports
with late_imports({"no_such_module": ("Client",)}):
    import no_such_module
    from no_such_module import Client
for use in (Client, Client, lambda: no_such_module.other):
    try:
        use()
    except ModuleNotFoundError as e:
        print(e.name)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(STARTED.parents[2] / "addon")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["no_such_module"] * 3
