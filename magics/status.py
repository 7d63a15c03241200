"""The status line above a cell's output: where the cell is, on what, since when, at what cost.

One display, updated in place: in a saved notebook it is the last of its texts, as plain HTML and as text, and
as the data from which our JupyterLab extension shows the same line, live and with a button to stop the cell.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeAlias

from skylift.wire import CallState, CallStatus, ContainerInfo, End, Usage

STATUS_MIME = "application/vnd.skylift.status+json"
"""What `CellState.data` is displayed as; who does not know it shows the HTML."""

UPDATE_INTERVAL = 1.0
"""Seconds between two updates of a line, unless the cell's state changes."""

Phase: TypeAlias = Literal["sending"] | CallState | Literal["interrupted", "detached"]

_WORDS = {
    "sending": "starting",
    "queued": "queued",
    "running": "running",
    "done": "done in",
    "failed": "failed after",
    "cancelled": "cancelled after",
    "timeout": "timed out after",
    "interrupted": "interrupted after",
    "detached": "runs on without the notebook",
}
# Each reads on white and on black; the word beside it says the same.
_COLOURS = {
    "sending": "#8b8f98",
    "queued": "#c8881a",
    "running": "#3b82f6",
    "done": "#2f9e62",
    "failed": "#dc4c4c",
    "timeout": "#dc4c4c",
}
_QUIET = "#8b8f98"
_STYLE = (
    "font-family: var(--jp-ui-font-family, system-ui, sans-serif); font-size: 12px; line-height: 1.6; "
    "color: var(--jp-ui-font-color2, var(--vscode-descriptionForeground, #767b85)); "
    "font-variant-numeric: tabular-nums"
)
_GIB = 1024**3


@dataclass(frozen=True)
class CellState:
    """What a status line shows."""

    asked_for: str
    """``"H100"``, ``"H100 or A100-80GB"``, ``"cpu"``: shown until a container is known."""
    phase: Phase = "sending"
    seconds: float = 0.0
    """In this phase; of a finished cell: that it ran."""
    container: ContainerInfo | None = None
    new_container: bool = False
    """The container was made for this cell, so how it came is of interest."""
    detail: str = ""
    """Why it waits."""
    usage: Usage | None = None
    cost: float = 0.0
    price: float = 0.0
    note: str = ""
    """A second line."""
    call_id: str = ""
    """Once it is known."""

    @property
    def parts(self) -> list[str]:
        """The parts of the line, most lasting first."""
        return [
            *self._where(),
            self._phase_text(),
            *filter(None, [self._use()]),
            *([dollars(self.cost)] if self.phase not in ("sending", "queued", "detached") else []),
        ]

    def _where(self) -> list[str]:
        parts = [self.asked_for]
        container = self.container
        if container is not None:
            parts[0] = container.gpu or "cpu"
            parts.append("local")
            if container.simulated:
                parts.append("simulated")
        if self.price > 0:
            parts.append(f"${self.price:.2f}/h")
        if container is not None and self.phase not in ("sending", "queued"):
            parts.append(_start_path(container) if self.new_container else "warm")
        return parts

    def _use(self) -> str:
        if self.phase != "running" or self.usage is None or not self.usage.gpu_memory_total:
            return ""
        return _gpu_use(self.usage)

    def _phase_text(self) -> str:
        words = _WORDS[self.phase]
        if self.phase == "queued":
            waited = f" {duration(self.seconds)}" if self.seconds >= 1 else ""
            return f"{words}{waited}: {self.detail}" if self.detail else words + waited
        if self.phase in ("sending", "detached"):
            return words
        return f"{words} {duration(self.seconds)}"

    def text(self) -> str:
        """As plain text."""
        return "\n".join(filter(None, [" · ".join(self.parts), self.note]))

    def data(self) -> dict[str, Any]:
        """As what the JupyterLab extension shows (labextension/src/notebook/status.ts)."""
        return {
            "call_id": self.call_id,
            "where": self._where(),
            "phase": self.phase,
            "seconds": round(self.seconds, 3),
            "detail": self.detail,
            "use": self._use(),
            "price": self.price,
            "cost": self.cost,
            "note": self.note,
        }

    def html(self) -> str:
        """As HTML that needs no style sheet and no script, for light and dark pages."""
        colour = _COLOURS.get(self.phase, _QUIET)
        first, *others = (html.escape(part) for part in self.parts)
        line = " · ".join([f"<b>{first}</b>", *others])
        note = f"<br>{html.escape(self.note)}" if self.note else ""
        return f'<div style="{_STYLE}"><span style="color: {colour}">●</span> {line}{note}</div>'


def _start_path(container: ContainerInfo) -> str:
    if container.path == "running":
        return "warm"
    words = {"cold": "cold start", "fork": "forked in", "restore": "restored in"}
    text = f"{words[container.path]} {duration(container.path_seconds)}"
    # Why there was no faster way to it.
    return f"{text}: {container.path_reason}" if container.path == "cold" and container.path_reason else text


def _gpu_use(usage: Usage) -> str:
    used, total = usage.gpu_memory / _GIB, usage.gpu_memory_total / _GIB
    return f"GPU {usage.gpu:.0%} · {used:.1f}/{total:.0f} GB"


def duration(seconds: float) -> str:
    """``4 ms``, ``0.24 s``, ``12 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds < 0.0995:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 0.995:
        return f"{seconds:.2f} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def dollars(amount: float) -> str:
    """``$0.00`` for nothing, four decimals below a dollar, two above."""
    return f"${amount:.4f}" if 0 < amount < 1 else f"${amount:.2f}"


class Line(Protocol):
    """Where a status line is shown."""

    def show(self, state: CellState) -> None:
        """Shows it for the first time, or again after the output was cleared."""

    def update(self, state: CellState) -> None:
        """Shows it in the place where it was shown."""


class DisplayLine:
    """In a notebook: one display, updated in place."""

    def __init__(self, shell: Any, display_id: str) -> None:
        self._shell = shell
        self._display_id = display_id

    def show(self, state: CellState) -> None:
        self._send(state, update=False)

    def update(self, state: CellState) -> None:
        self._send(state, update=True)

    def _send(self, state: CellState, *, update: bool) -> None:
        self._shell.display_pub.publish(
            {STATUS_MIME: state.data(), "text/html": state.html(), "text/plain": state.text()},
            {},
            transient={"display_id": self._display_id},
            update=update,
        )


class TerminalLine:
    """In a terminal, where nothing is updated in place: why the cell waits, and how it ended."""

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._write = write
        self._said = ""

    def show(self, state: CellState) -> None:
        pass

    def update(self, state: CellState) -> None:
        said = state.detail if state.phase == "queued" else ""
        if state.phase in ("sending", "running") or (state.phase == "queued" and said in ("", self._said)):
            return
        self._said = said
        self._write(state.text() + "\n")


@dataclass
class StatusLine:
    """Keeps a status line current: told what happens, it updates at once when the phase changes and else at
    most every `UPDATE_INTERVAL`."""

    line: Line
    state: CellState
    clock: Callable[[], float] = time.monotonic
    _since: float = field(init=False)
    _updated: float = field(init=False)
    _shown: CellState = field(init=False)

    def __post_init__(self) -> None:
        self._since = self._updated = self.clock()
        self._shown = self.state

    def show(self) -> None:
        """Shows the line, below what the cell has put out by now."""
        self._tick()
        self._shown = self.state
        self.line.show(self.state)

    def belongs_to(self, call_id: str) -> None:
        """The cell's call is this one; shown with the next update."""
        self.state = replace(self.state, call_id=call_id)

    def take(self, status: CallStatus, *, new_container: bool, note: str = "") -> None:
        """Takes over what the gateway reports; `note` is for the second line."""
        if status.state != self.state.phase and status.state in ("queued", "running"):
            self._enter(status.state)
        self.state = replace(
            self.state,
            detail=status.detail,
            container=status.container or self.state.container,
            new_container=new_container,
            usage=status.usage or self.state.usage,
            cost=status.cost,
            price=status.price,
            note=note,
        )
        self._update()

    def started(self) -> None:
        """The cell has put something out, so it runs: said before the gateway says so."""
        if self.state.phase in ("sending", "queued"):
            self._enter("running")

    def tick(self) -> None:
        """Time has passed."""
        self._update()

    def note(self, text: str) -> None:
        """Puts `text` into the second line."""
        self.state = replace(self.state, note=text)
        self._update()

    def end(
        self,
        end: End,
        *,
        interrupted: bool,
        container: ContainerInfo | None,
        new_container: bool,
        note: str = "",
    ) -> None:
        """The cell is over."""
        phase: Phase = "interrupted" if interrupted else end.state
        # A container that died has not told when it began.
        times = end.times
        seconds = times.ended - times.started if times.started else self.clock() - self._since
        self.state = replace(
            self.state,
            phase=phase,
            seconds=max(seconds, 0.0),
            detail="",
            container=container or self.state.container,
            new_container=new_container,
            note=note,
        )
        self._update()

    def leave(self, phase: Phase, note: str) -> None:
        """The cell goes on, or not, without being followed here."""
        self.state = replace(self.state, phase=phase, note=note)
        self._update()

    def _enter(self, phase: Phase) -> None:
        self._since = self.clock()
        self.state = replace(self.state, phase=phase, seconds=0.0)

    def _tick(self) -> None:
        if self.state.phase in ("sending", "queued", "running"):
            self.state = replace(self.state, seconds=self.clock() - self._since)

    def _update(self) -> None:
        now = self.clock()
        if not self._changed() and now - self._updated < UPDATE_INTERVAL:
            return
        self._updated = now
        self._tick()
        self._shown = self.state
        self.line.update(self.state)

    def _changed(self) -> bool:
        """More than its figures."""
        shown, state = self._shown, self.state
        return (state.phase, state.detail, state.container, state.note) != (
            shown.phase,
            shown.detail,
            shown.container,
            shown.note,
        )
