"""A tool's name and its arguments -> which of the arguments are commands that destroy.

Tools have many names and shapes: a line, a list of words, a program beside its arguments, a list
of lines, source code. What is written to a file or says something to a person is none of these.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from . import commands

type Argument = object  # what JSON can hold

_MAX_DEPTH = 100
_MAX_TEXTS = 64
_WORDS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
_SHELL_NAMES = frozenset({
    "bash", "sh", "zsh", "shell", "terminal", "console", "cmd", "command", "commands",
    "powershell", "pwsh", "ssh", "subprocess", "tmux"
})  # fmt: skip
_RUN_NAMES = frozenset({"run", "exec", "execute"})
_PROGRAM_NAMES = frozenset({"python", "ipython", "jupyter", "notebook", "interpreter", "repl"})
# A tool that tells about a shell, or keeps something, is none: get_command_history.
_QUIET_NAMES = frozenset({
    "get", "list", "read", "search", "find", "describe", "status", "history", "docs", "help",
    "edit", "save", "create", "update", "delete"
})  # fmt: skip
# Whole words at the end of a key: `description` holds "script", and is prose.
_LINE_KEY = re.compile(
    r"(?:^|[^a-z])(?:commands?|cmds?|command_?lines?|scripts?|argv|shell|bash)"
    r"(?:_(?:to_run|string|str|text|line)s?)?$"
    r"|(?-i:[a-z](?:Command|CommandLine|Cmd|Script|Shell)s?$)",
    re.IGNORECASE,
)
_CODE_KEY = re.compile(r"code|source_?code|python", re.IGNORECASE)
_PROSE_KEY = re.compile(
    r"description|explanation|justification|reason(?:ing)?|notes?|title|summary|thoughts?|message"
    r"|path|file_?path|content|file_text|query|pattern|url",
    re.IGNORECASE,
)
_LINES_KEY = re.compile(r"(?:commands|cmds|scripts|steps|lines)$", re.IGNORECASE)
_CWD_KEY = re.compile(r"cwd|work_?dir|working_?dir(?:ectory)?|dir(?:ectory)?|chdir", re.IGNORECASE)
_PROGRAM_KEY = re.compile(r"program|executable|binary|command|cmd", re.IGNORECASE)
_ARGUMENTS_KEY = re.compile(r"args|arguments|argv|params|parameters", re.IGNORECASE)
_LANGUAGE_KEY = re.compile(r"lang(?:uage)?|interpreter|kernel|shell", re.IGNORECASE)
_SHELL_LANGUAGE = re.compile(
    r"(?:/\S*/)?(?:ba|z|da|k)?sh|shell|(?:shell)?script|terminal", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class _Around:
    """What is known of a text by what stands around it.

    line: a shell reads it. program: it is source code, of which only what a shell gets counts.
    """

    kinds: Collection[str]
    line: bool = False
    program: bool = False
    cwd: str | None = None


def find(name: str, arguments: Argument, kinds: Collection[str]) -> Iterator[Argument]:
    """Each text, list or object in the arguments that does one of these.

    ValueError: no such kind, or a command that is too long to be read.
    """
    words = {w.lower() for w in _WORDS.findall(name)}
    last = {w.lower() for w in _WORDS.findall(re.split(r"__|[./:]", name)[-1])}
    is_shell = bool(_SHELL_NAMES & words) or (bool(last) and last <= _RUN_NAMES)
    around = _Around(
        kinds,
        line=is_shell and not _QUIET_NAMES & last,
        program=bool(_PROGRAM_NAMES & words) or {"run", "script"} <= words,
    )
    if isinstance(arguments, str) and arguments.lstrip().startswith("{"):
        texts = arguments.split('"', _MAX_TEXTS)  # JSON that broke off: a client may mend it
        if any(_is_destructive(text, around) for text in texts):
            yield arguments
    else:
        yield from _find(arguments, around, 0)


def _find(value: Argument, around: _Around, depth: int) -> Iterator[Argument]:
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, str):
        if _is_destructive(value, around):
            yield value
    elif isinstance(value, list):
        yield from _find_in_list(value, around, depth)
    elif isinstance(value, Mapping):
        yield from _find_in_object(value, around, depth)


def _is_destructive(text: str, around: _Around) -> bool:
    if around.line and commands.find(text, around.kinds, around.cwd) is not None:
        return True
    if not around.program:
        return False
    return commands.find_in_program(text, around.kinds, around.cwd) is not None


def _find_in_list(value: list[Argument], around: _Around, depth: int) -> Iterator[Argument]:
    words = [v for v in value if isinstance(v, str)]
    if words and len(words) == len(value) and around.line:
        if commands.find_in_words(words, around.kinds, around.cwd) is not None:
            yield value
        elif not any(c.isspace() for c in words[0]):
            return  # ["bash", "-lc", "..."]: a text among these is an argument
        if len(words) == 1:
            return
    for each in value:
        yield from _find(each, around, depth + 1)


def _find_in_object(
    value: Mapping[str, Argument], around: _Around, depth: int
) -> Iterator[Argument]:
    cwd = _text(value, _CWD_KEY)
    around = replace(around, cwd=cwd or around.cwd)
    if _is_destructive_pair(value, around):
        yield value
        return
    language = _text(value, _LANGUAGE_KEY)
    is_shell = language is not None and _SHELL_LANGUAGE.fullmatch(language) is not None
    for key, each in value.items():
        inner = _inside(key, around, is_shell)
        if isinstance(each, list) and _LINES_KEY.search(key):
            for line in each:
                yield from _find(line, inner, depth + 1)
        if not (isinstance(each, list) and _LINES_KEY.search(key)) or _is_words(each):
            yield from _find(each, inner, depth + 1)


def _inside(key: str, around: _Around, is_shell: bool) -> _Around:
    if _CODE_KEY.fullmatch(key):
        is_line = around.line or is_shell
        return replace(around, line=is_line, program=not is_line)
    if _LINE_KEY.search(key):
        is_script = "script" in key.lower()  # in whatever language
        return replace(around, line=True, program=around.program or is_script)
    if _PROSE_KEY.fullmatch(key) or _CWD_KEY.fullmatch(key):
        return replace(around, line=False, program=False)
    return around


def _is_words(value: list[Argument]) -> bool:
    return bool(value) and isinstance(value[0], str) and not any(c.isspace() for c in value[0])


def _is_destructive_pair(value: Mapping[str, Argument], around: _Around) -> bool:
    """A program, and its arguments beside it."""
    program = _text(value, _PROGRAM_KEY)
    rest = next((v for k, v in value.items() if _ARGUMENTS_KEY.fullmatch(k)), None)
    if not program or not rest:
        return False
    if isinstance(rest, str):
        return commands.find(f"{program} {rest}", around.kinds, around.cwd) is not None
    if not isinstance(rest, list):
        return False
    words = [program, *(v for v in rest if isinstance(v, str))]
    return commands.find_in_words(words, around.kinds, around.cwd) is not None


def _text(value: Mapping[str, Argument], key: re.Pattern[str]) -> str | None:
    found = (v for k, v in value.items() if isinstance(k, str) and key.fullmatch(k))
    first = next((v for v in found if v), None)
    return first if isinstance(first, str) else None
