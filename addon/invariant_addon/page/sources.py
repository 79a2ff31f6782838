"""The text of a rule, for a finding that names it: found by the id, which is made from the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..rules.files import RulesError, from_files


def texts(files: Sequence[Path]) -> Mapping[str, str]:
    """Id -> text, of the starter rules and of these files. Raises RulesError for a bad file."""
    found = {rule.id: rule.text for rule in from_files(files)}
    try:
        found |= {rule.id: rule.text for rule in from_files(starter=True)}
    except RulesError:  # they are not needed for anything here
        return found
    return found
