"""Tables: HTML in a notebook, text in a terminal."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from typing import Any

_CELL = "text-align: left; padding: 2px 14px 2px 0; vertical-align: top"
_NOTE = "opacity: 0.7; font-size: 90%"
_TABLE = "border-collapse: collapse; font-variant-numeric: tabular-nums"
_GOOD, _BUSY, _WAITS, _BAD, _QUIET = "#2f9e62", "#3b82f6", "#c8881a", "#dc4c4c", "#8b8f98"
# Each reads on white and on black; the word beside it says the same.
_COLOURS = {
    **dict.fromkeys(("done", "idle", "ready", "connected"), _GOOD),
    "running": _BUSY,
    **dict.fromkeys(("queued", "waiting", "starting", "making"), _WAITS),
    **dict.fromkeys(("failed", "timeout", "not"), _BAD),
}


class Table:
    """Rows under headings; `empty` is shown where there are none, `note` below."""

    def __init__(
        self, headings: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str, note: str = ""
    ) -> None:
        self.headings = headings
        self.rows = rows
        self.empty = empty
        self.note = note

    def __repr__(self) -> str:
        if not self.rows:
            return self.empty
        lines = [self.headings, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.headings))]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        return "\n".join([*text, *filter(None, [self.note])])

    def _repr_html_(self) -> str:
        if not self.rows:
            return f"<div>{html.escape(self.empty)}</div>"
        head = "".join(f'<th style="{_CELL}">{html.escape(text)}</th>' for text in self.headings)
        body = "".join(
            "<tr>"
            + "".join(_cell(heading, text) for heading, text in zip(self.headings, row, strict=True))
            + "</tr>"
            for row in self.rows
        )
        note = f'<div style="{_NOTE}">{html.escape(self.note)}</div>' if self.note else ""
        table = f'<table style="{_TABLE}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        return f'<div style="overflow-x: auto">{table}</div>{note}'


def _cell(heading: str, text: str) -> str:
    shown = html.escape(text)
    if heading == "State" and text:
        colour = _COLOURS.get(text.partition(" ")[0].rstrip(":,"), _QUIET)
        shown = f'<span aria-hidden="true" style="color: {colour}">●</span> {shown}'
    elif heading == "ID":
        shown = f"<code>{shown}</code>"
    return f'<td style="{_style(text)}">{shown}</td>'


def _style(text: str) -> str:
    return f"{_CELL}; white-space: nowrap" if len(text) <= 40 else _CELL


def clock_time(when: float) -> str:
    """A Unix time for people: the time today, else the day too; "" for 0."""
    if not when:
        return ""
    local = time.localtime(when)
    today = time.localtime()
    same_day = local[:3] == today[:3]
    return time.strftime("%H:%M:%S" if same_day else "%b %d %H:%M", local)


def time_of_day(when: float) -> str:
    """``14:02``, with the day before it where that is not today."""
    text = clock_time(when)
    return text[:5] if text.count(":") == 2 else text


def show(value: Any) -> None:
    """Displays it."""
    from IPython.display import display

    display(value)  # type: ignore[no-untyped-call]
