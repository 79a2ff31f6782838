"""A program's text (Python, JavaScript, Ruby, ...) -> the commands that it has a shell run.

Only what is written out in a call counts: os.system("..."), subprocess.run(["rm", "-r", x]). What
a program says, or keeps in a variable of another name, is prose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_MAX_LITERALS = 64
_RUNS = re.compile(
    r"(?:\b(?:system|[pP]open|run|call|check_call|check_output|getoutput|getstatusoutput"
    r"|create_subprocess_(?:shell|exec)|spawn(?:Sync|v?p?e?)?|exec(?:Sync|File|FileSync|v?p?e?)?"
    r"|execa|shell_exec|passthru|Command::new)\s{0,8}\("
    r"|\b\w{0,32}(?:cmd|command)s?\s{0,8}=(?!=)|\b(?:system|exec)(?=\s{1,8}[\"']))\s{0,8}"
)
_REMOVES = re.compile(
    r"(?:rmtree|rmSync|rmdirSync|removeSync|rimraf(?:\.sync)?|remove_dir_all|RemoveAll|rm_rf|rm_r)"
    r"[(\s]\s{0,8}(?:(?:os\.path\.|pathlib\.)?(?:expanduser|Path|expand_path)\(\s{0,8})?"
)
_HOME = re.compile(r"(?:pathlib\.)?Path\.home\(\)|os\.homedir\(\)|os\.environ\[[\"']HOME[\"']\]")
_LITERAL = re.compile(
    r"[rbfuRBFU]{0,2}(?:\"\"\"(?P<long>.*?)\"\"\"|'''(?P<long2>.*?)'''"
    r"|\"(?P<double>(?:\\.|[^\"\\\n])*+)\"|'(?P<single>(?:\\.|[^'\\\n])*+)'|`(?P<tick>[^`]*)`)",
    re.DOTALL,
)
_BETWEEN = re.compile(r"[\s,\[\]()]{0,40}")
_MAGIC = re.compile(r"^[ \t]*(?:!{1,2}|%(?:sx|system)[ \t])([^\n=][^\n]*)", re.MULTILINE)
_SHELL_CELL = re.compile(
    r"\s*(?:%%(?:bash|sh|script)\b[^\n]*|#![^\n]*\b(?:ba|z|da|k)?sh\b[^\n]*)\n"
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_CONTROL = {"n": "\n", "t": "\t", "r": "\r"}


def read(text: str) -> Iterator[str | list[str]]:
    """Lines for a shell, and lists of words."""
    if cell := _SHELL_CELL.match(text):
        yield text[cell.end() :]
        return
    yield from (line[1] for line in _MAGIC.finditer(text))
    yield from _run(text)
    yield from _removed(text)


def _run(text: str) -> Iterator[str | list[str]]:
    at = 0
    while call := _RUNS.search(text, at):
        words, at = _literals(text, call.end())
        if words and any(c.isspace() for c in words[0].strip()):
            yield words[0]
        elif words:
            yield words


def _removed(text: str) -> Iterator[list[str]]:
    for call in _REMOVES.finditer(text):
        if literal := _LITERAL.match(text, call.end()):
            yield ["rm", "-r", "--", _value(literal)]
        elif _HOME.match(text, call.end()):
            yield ["rm", "-r", "~"]


def _literals(text: str, at: int) -> tuple[list[str], int]:
    """Those that follow each other, and where they end: no text is looked at twice."""
    found: list[str] = []
    while len(found) < _MAX_LITERALS:
        between = _BETWEEN.match(text, at)
        literal = _LITERAL.match(text, between.end() if between else at)
        if not literal:
            break
        found.append(_value(literal))
        at = literal.end()
    return found, at


def _value(literal: re.Match[str]) -> str:
    value = next((group for group in literal.groups() if group is not None), "")
    return _ESCAPED.sub(lambda m: _CONTROL.get(m[1], m[1]), value) if "\\" in value else value
