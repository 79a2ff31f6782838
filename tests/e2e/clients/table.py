"""Prints what tests/e2e/test_clients.py wrote down: for each client and case, what its user sees.

argv: the file of rows, each a JSON list (client, version, way, case, sees, requests). Ways of a
client that saw the same share a line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import wrap

WIDTH = 100

type Row = tuple[str, tuple[str, ...], int]
"""case, lines of what was seen, requests"""


def rows_by_client(lines: Iterable[str]) -> dict[str, dict[Row, list[str]]]:
    """Client -> row -> its ways; all in the order in which they were written."""
    found: dict[str, dict[Row, list[str]]] = {}
    for line in lines:
        client, version, way, case, sees, requests = json.loads(line)
        shown = tuple(wrap(sees, WIDTH, max_lines=2, placeholder=" ...")) or ("",)
        rows = found.setdefault(f"{client} ({version})", {})
        rows.setdefault((case, shown, requests), []).append(way)
    return found


def table(clients: dict[str, dict[Row, list[str]]]) -> Iterator[str]:
    yield f"  {'case':25}{'way':21}{'requests':10}what the user sees"
    for client, rows in clients.items():
        yield f"\n{client}"
        for (case, (first, *rest), requests), ways in rows.items():
            yield f"  {case:25}{' + '.join(ways):21}{requests:<10}{first}"
            yield from (" " * 58 + line for line in rest)


def main() -> None:
    lines = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    for line in table(rows_by_client(lines)):
        print(line)


main()
