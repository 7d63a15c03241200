"""Tables: HTML in a notebook, text in a terminal."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from typing import Any

_CELL = "text-align: left; padding: 2px 14px 2px 0; vertical-align: top"
_NOTE = "opacity: 0.7; font-size: 90%"


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
            "<tr>" + "".join(f'<td style="{_style(text)}">{html.escape(text)}</td>' for text in row) + "</tr>"
            for row in self.rows
        )
        note = f'<div style="{_NOTE}">{html.escape(self.note)}</div>' if self.note else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"


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
