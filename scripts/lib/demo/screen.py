"""What the audience sees: 80 columns, wrapped between words, colour only at a terminal."""

from __future__ import annotations

import os
import re
import textwrap
import time
from typing import TextIO

WIDTH = 80
_INDENT = " " * 9
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "cyan": "36"}


class Screen:
    """say() writes whole lines, speak() writes words as they come."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self.is_terminal = out.isatty()
        self._colour = (
            self.is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        )
        self._column = 0
        self._label = "agent"

    def title(self, text: str) -> None:
        self._end_line()
        self._write(f"\n{self._styled(f'--- {text} '.ljust(WIDTH - 1, '-'), 'bold')}\n")

    def say(self, text: str, style: str = "", *, label: str = "", hang: str = "") -> None:
        """One paragraph, to the right of its label. hang: stands before its further lines."""
        self._end_line()
        self._label = "agent"
        if label:
            first, rest = f"{label:>7}  ", _INDENT
        else:
            first, rest = "", hang
        lines = textwrap.wrap(
            text,
            WIDTH,
            initial_indent=first,
            subsequent_indent=rest,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in lines or [""]:
            self._write(self._styled(line, style) + "\n")

    def show(self, text: str) -> None:
        """Lines as they are: commands are there to be copied."""
        self._end_line()
        self._write(text + "\n")

    def speak(self, piece: str) -> None:
        """More words of the agent."""
        for part in re.findall(r"\n|[^\S\n]*\S+|[^\S\n]+", piece):
            if part == "\n":
                self._end_line()
                continue
            word = part
            if self._column == 0:
                self._write(f"{self._label:>7}  ")
                self._column, self._label = len(_INDENT), ""
                word = part.lstrip()
            elif self._column + len(part) > WIDTH:
                self._write("\n" + _INDENT)
                self._column = len(_INDENT)
                word = part.lstrip()
            self._write(self._styled(word, "cyan"))
            self._column += len(word)

    def pause(self, seconds: float) -> None:
        """Time to read, if somebody reads."""
        if self.is_terminal:
            time.sleep(seconds)

    def _end_line(self) -> None:
        if self._column:
            self._write("\n")
            self._column = 0

    def _styled(self, text: str, style: str) -> str:
        return f"\033[{_STYLES[style]}m{text}\033[0m" if style and self._colour else text

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
