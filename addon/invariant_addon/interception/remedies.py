"""A program that does not trust the certificate -> what to type so that it does.

Pure. Each runtime reads another variable (environment.py sets all of them); which one was measured.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

_BUNDLE, _OWN = "bundle.pem", "ca.pem"
_VARIABLES: tuple[tuple[str, str, str], ...] = (
    (r"(python|pypy|ipython|uvicorn|gunicorn|celery).*", "SSL_CERT_FILE", _BUNDLE),
    (r"(node|npm|npx|tsx|electron|bun)", "NODE_EXTRA_CA_CERTS", _OWN),
    (r"deno", "DENO_CERT", _OWN),
    (r"codex.*", "CODEX_CA_CERTIFICATE", _OWN),
    (r"curl", "CURL_CA_BUNDLE", _BUNDLE),
)
_EVERYTHING = 'eval "$(scripts/env)"'


def remedy(program: str, folder: Path) -> str:
    """For a program of this name (the executable's alone: a path would mislead)."""
    name = program.lower().removesuffix(".exe")
    if re.fullmatch(r"javaw?", name):
        return f"{_EVERYTHING} in its shell sets JAVA_TOOL_OPTIONS, the one thing that Java reads"
    if re.fullmatch(r"(chrom(e|ium)|firefox|msedge|brave).*", name):
        return "scripts/system on: browsers have a trust store of their own"
    for pattern, variable, file in _VARIABLES:
        if re.fullmatch(pattern, name):
            return f"{_EVERYTHING} in its shell{_or(variable, folder / file)}"
    return f"{_EVERYTHING} in its shell{_or('SSL_CERT_FILE', folder / _BUNDLE)}"


def _or(variable: str, file: Path) -> str:
    # The bundle is made by scripts/run and scripts/env: a line that names no file helps nobody.
    return f", or {variable}={shlex.quote(str(file))}" if file.is_file() else ""
