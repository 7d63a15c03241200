"""A notebook's cells and outputs on a terminal, as they come."""

from __future__ import annotations

import base64
import re
import shutil
import struct
from typing import Any, TextIO

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_BOLD, _DIM, _RED, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[0m"


class Screen:
    """Writes outputs in their order; what is updated in place stays below until it is final.

    On a terminal that live part (an unfinished line, a status line) is redrawn. Elsewhere it is
    written once, when its cell is over, so that a log has no repetitions.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._line = ""
        self._displays: dict[str, str] = {}
        self._drawn = 0

    def cell(self, number: int, source: str) -> None:
        """A code cell that is about to run."""
        self._print(f"\n{self._styled(_BOLD, f'[{number}]')}")
        for line in source.splitlines():
            self._print(self._styled(_DIM, f"    {line}"))

    def text(self, source: str) -> None:
        """A text cell."""
        self._print("")
        for line in source.splitlines():
            heading = line.startswith("#")
            self._print(self._styled(_BOLD, line.lstrip("# ")) if heading else line)

    def output(self, message: dict[str, Any]) -> None:
        """A message of the kernel's output channel; those that show nothing are passed over."""
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            self._write(content["text"])
        elif kind == "error":
            self._write("\n".join(content["traceback"]) + "\n")
        elif kind == "clear_output":
            self._line = ""
        elif kind in ("display_data", "execute_result", "update_display_data"):
            text = describe(content["data"])
            name = content.get("transient", {}).get("display_id")
            if name is None:
                self._write(text + "\n")
            elif kind == "display_data" or name in self._displays:
                self._displays[name] = text
                self._redraw()

    def end_of_cell(self) -> None:
        """Makes what was live final."""
        live = self._live()
        self._erase()
        self._line = ""
        self._displays.clear()
        for line in live:
            self._print(line)

    def note(self, text: str, *, bad: bool = False) -> None:
        """A line that is not the notebook's."""
        self._print(self._styled(_RED if bad else _DIM, text))

    def _write(self, text: str) -> None:
        if not self._terminal:
            text = _ANSI.sub("", text)
        *lines, self._line = (self._line + text).split("\n")
        self._erase()
        for line in lines:
            self._out.write(_overwritten(line) + "\n")
        self._redraw()

    def _live(self) -> list[str]:
        lines = [line for text in self._displays.values() for line in text.split("\n")]
        unfinished = _overwritten(self._line)
        return [*lines, unfinished] if unfinished else lines

    def _redraw(self) -> None:
        self._erase()
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            for line in self._live():
                self._out.write(_ANSI.sub("", line)[:width] + "\n")
                self._drawn += 1
        self._out.flush()

    def _erase(self) -> None:
        if self._drawn:
            self._out.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _print(self, line: str) -> None:
        self._out.write(line + "\n")
        self._out.flush()

    def _styled(self, style: str, text: str) -> str:
        return f"{style}{text}{_RESET}" if self._terminal else _ANSI.sub("", text)


def describe(data: dict[str, Any]) -> str:
    """One display as text: a picture by its size, anything else by its plain text."""
    if "image/png" in data:
        width, height = struct.unpack(">II", base64.b64decode(data["image/png"])[16:24])
        return f"[plot {width}×{height} png]"
    if "text/plain" in data:
        return str(data["text/plain"])
    return f"[{next(iter(data), 'nothing')}]"


def _overwritten(line: str) -> str:
    """What a terminal shows of a line with carriage returns in it, where each text covers the last one."""
    return next((part for part in reversed(line.split("\r")) if part), "")
