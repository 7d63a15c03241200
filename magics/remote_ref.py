"""How a `RemoteRef` looks in a notebook: what it is and where, and how to get at it."""

from __future__ import annotations

import html
from typing import Any

from skylift.session import RemoteRef

_UNITS = ("B", "kB", "MB", "GB", "TB")


def register(shell: Any) -> None:
    """Has IPython show references this way."""
    formatters = shell.display_formatter.formatters
    formatters["text/plain"].for_type(RemoteRef, lambda ref, printer, cycle: printer.text(text(ref)))
    formatters["text/html"].for_type(RemoteRef, markup)


def text(ref: RemoteRef) -> str:
    """``RemoteRef to a torch.Tensor (4096, 4096) float16 on cuda:0, 34 MB, in session H100``."""
    return f"RemoteRef to {_article(ref.type_name)} {' '.join(_what(ref))}, in session {ref.session.name}"


def markup(ref: RemoteRef) -> str:
    """The same as HTML, with what can be done with it."""
    kind, *rest = _what(ref)
    what = " ".join([f"<b>{html.escape(kind)}</b>", *map(html.escape, rest)])
    return (
        f"<div>{what} · in session {html.escape(ref.session.name)}"
        '<br><span style="opacity: 0.7; font-size: 90%">'
        f"{html.escape(_reason(ref.why))} Works in the next <code>%%gpu</code> cell without moving; "
        "<code>.get()</code> brings it here.</span></div>"
    )


def _what(ref: RemoteRef) -> list[str]:
    parts = [ref.type_name]
    if ref.shape is not None:
        parts.append(str(tuple(ref.shape)))
    if ref.dtype:
        parts.append(ref.dtype)
    if ref.device and ref.device != "cpu":
        parts.append(f"on {ref.device}")
    if ref.nbytes is not None:
        parts[-1] += ","
        parts.append(size(ref.nbytes))
    return parts


def _reason(why: str) -> str:
    if why == "size":
        return "Too large to come by itself."
    if why == "device":
        return "It stays on its GPU."
    if why == "generator":
        return "A generator stays where it runs."
    return "It cannot be pickled." if why.startswith("unpicklable") else ""


def _article(noun: str) -> str:
    return "an" if noun[:1].lower() in "aeiou" else "a"


def size(count: float) -> str:
    """Bytes for people: ``512 B``, ``34 MB``, ``1.3 GB``."""
    for unit in _UNITS:
        if count < 999.5 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if count >= 9.95 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
