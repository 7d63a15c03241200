"""How the build of an image looks to people: one line that says where it is, and what its commands print."""

from __future__ import annotations

import html
import re
import sys
import time
from typing import Any

from skylift.context import ipython, output_enabled
from skylift.wire import BuildOutput

TICK = 0.5
"""Seconds between two updates of the line."""

FIRST_AFTER = 1.0
"""Seconds before the line is shown, where nothing is printed: an image that is there shows nothing."""

_STYLE = (
    "font-family: var(--jp-ui-font-family, system-ui, sans-serif); font-size: 12px; line-height: 1.6; "
    "color: var(--jp-ui-font-color2, var(--vscode-descriptionForeground, #767b85)); "
    "font-variant-numeric: tabular-nums"
)
_COLOURS = {"building": "#3b82f6", "built": "#2f9e62", "failed": "#dc4c4c"}
_LONGEST = 160
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-ln-z]")
"""What moves a terminal's cursor; colours may stay."""


class BuildView:
    """Shows one build, from the files that are sent for it to its end.

    In a notebook the line is a display that is updated in place, above the log; in a terminal it is the last
    line. Where output is not enabled, a terminal shows the line and nothing else does.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._log = output_enabled()
        shell = ipython()
        self._display = (
            _Display() if shell is not None and getattr(shell, "kernel", None) is not None else None
        )
        self._terminal = self._display is None and sys.stderr.isatty()
        self.visible = self._display is not None or self._terminal or self._log
        self._what = "looking for it"
        self._updated = 0.0
        self._line_there = False
        self._partial = ""
        self._headings: dict[int, str] = {}
        """Of steps of which nothing has been printed yet."""
        self._step = -1
        self._cached: set[int] = set()
        self._steps = 0
        self._over = False

    def hide(self) -> None:
        """Show nothing: somebody else does."""
        self.visible = False

    def sending(self, done: int, total: int) -> None:
        """So many bytes of local files have been read and, where they were missing, sent."""
        self._what = f"sending files, {_megabytes(done)} of {_megabytes(total)}"
        self.tick()

    def output(self, message: BuildOutput) -> None:
        """Something was heard of the build."""
        self._steps = message.steps
        heading = f"Step {message.step + 1} of {message.steps}: {message.label}".rstrip(": ")
        if message.state == "cached":
            if message.step not in self._cached:
                self._cached.add(message.step)
                self._headings[message.step] = f"{heading} (there already)"
        elif message.state == "running":
            if message.step != self._step:
                self._step = message.step
                if message.label:
                    self._headings[message.step] = heading
            if message.label or not self._what.startswith("step "):
                self._what = heading[0].lower() + heading[1:]
        what = self._what
        if message.total:
            self._what += f", {_megabytes(message.done)} of {_megabytes(message.total)}"
        if message.text:
            self._print(message.text)
        self.tick(now=message.state == "running" and not message.total)
        self._what = what

    def tick(self, *, now: bool = False) -> None:
        """Time has passed."""
        clock = time.monotonic()
        if not self.visible or self._over or clock - self._began < FIRST_AFTER:
            return
        if now or clock - self._updated >= TICK:
            self._updated = clock
            self._show("building", f"{self._what} · {clock - self._began:.0f} s")

    def built(self) -> None:
        """It is there."""
        self._flush()
        seconds = time.monotonic() - self._began
        cached = f" · {len(self._cached)} of {self._steps} steps were there already" if self._cached else ""
        self._end("built", f"built in {seconds:.1f} s{cached}")

    def failed(self) -> None:
        """It could not be built; the error says why."""
        self._flush()
        self._end("failed", f"failed after {time.monotonic() - self._began:.1f} s, {self._what}")

    def close(self) -> None:
        """Nobody waits for it any more."""
        if not self._over:
            self._flush()
            self._end("failed", f"not built, given up after {time.monotonic() - self._began:.1f} s")

    # --- how it is done --------------------------------------------------------------------------

    def _print(self, text: str) -> None:
        """Prints whole lines; of a line that is written over and over, its last form."""
        if not (self.visible and self._log):
            return
        *lines, self._partial = (self._partial + text).split("\n")
        self._write(lines)
        if len(self._partial) > 4096:
            self._partial = self._partial[-4096:].rpartition("\r")[2]

    def _write(self, lines: list[str]) -> None:
        lines = [_ESCAPE.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in lines]
        if not lines:
            return
        lines = [*self._headings.values(), *lines]
        self._headings.clear()
        if self._display is not None and not self._line_there:
            self._show("building", self._what)
        elif self._terminal and self._line_there:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        sys.stdout.write("".join(line + "\n" for line in lines))
        sys.stdout.flush()

    def _flush(self) -> None:
        partial, self._partial = self._partial, ""
        if partial:
            self._write([partial])

    def _show(self, phase: str, text: str) -> None:
        if not self.visible:
            return
        self._line_there = True
        text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
        if self._display is not None:
            self._display.show(phase, text)
        elif self._terminal:
            sys.stderr.write(f"\r\x1b[Kimage · {text}")
            sys.stderr.flush()

    def _end(self, phase: str, text: str) -> None:
        if self._line_there and self._display is not None:
            self._show(phase, text)
        elif self._line_there and self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        self._over = True


class _Display:
    """A line in a notebook; its last form stays."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, phase: str, text: str) -> None:
        from IPython.display import display

        dot = f'<span style="color: {_COLOURS[phase]}">●</span>'
        bundle = {
            "text/html": f'<div style="{_STYLE}">{dot} <b>image</b> · {html.escape(text)}</div>',
            "text/plain": f"image · {text}",
        }
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"
