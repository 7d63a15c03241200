"""Shows what remote functions print and display, and, while they wait, what they wait for."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from skylift.context import ipython, output_enabled
from skylift.wire import CallStatus, ContainerInfo, Event

FIRST_STATUS_AFTER = 1.0
"""Seconds that a call waits before it says so."""
STATUS_EVERY = 0.5


class Output:
    """Shows the events of one call; does nothing where output is not enabled."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._enabled = output_enabled()
        self._began = time.monotonic()
        self._working = False
        self._line: Line | None = None

    @property
    def poll(self) -> float | None:
        """How long to wait for a message before `waiting` is to be called."""
        if not self._enabled or self._working:
            return None
        return STATUS_EVERY if self._line is not None else FIRST_STATUS_AFTER

    def event(self, event: Event) -> None:
        """Shows an event that is for people; others are not."""
        if not self._enabled:
            return
        self.began()
        if event.kind == "output":
            stream = sys.stderr if event.meta.get("stream") == "stderr" else sys.stdout
            stream.write(event.data.decode("utf-8", "replace"))
            stream.flush()
        elif event.kind in ("display", "value"):
            _display(json.loads(event.data), event.meta)
        elif event.kind == "clear":
            shell = ipython()
            if shell is not None:
                shell.display_pub.clear_output(wait=bool(event.meta.get("wait")))

    def waiting(self, status: CallStatus | None) -> None:
        """Says what the call waits for; called when no message has come for `poll` seconds."""
        if not self._enabled or self._working:
            return
        if status is not None and status.state == "running":
            self.began(status)
            return
        if self._line is None:
            self._line = new_line()
        detail = (status.detail if status is not None else "") or "queued"
        self._line.show(f"{self._what}: {detail} · {time.monotonic() - self._began:.0f} s")

    def began(self, status: CallStatus | None = None) -> None:
        """The call waits no longer: something came of it, or it is over."""
        self._working = True
        if self._line is not None:
            container = status.container if status is not None else None
            waited = time.monotonic() - self._began
            self._line.finish(f"{self._what}: started after {waited:.1f} s{_describe(container)}")
            self._line = None


class Line:
    """One line that is written over. This one, for where nobody looks, shows nothing."""

    shown = False

    def show(self, text: str) -> None:
        """Writes the line, over what it said before."""

    def finish(self, text: str) -> None:
        """The line says no more; where it stays, it ends as `text`."""

    def finish_if_shown(self, text: str) -> None:
        """As `finish`, if anything was shown."""
        if self.shown:
            self.finish(text)


class _TerminalLine(Line):
    def show(self, text: str) -> None:
        self.shown = True
        sys.stderr.write(f"\r\x1b[K{text[:200]}")
        sys.stderr.flush()

    def finish(self, text: str) -> None:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


class _NotebookLine(Line):
    """A display that is updated in place. It cannot be taken away, so it ends as a line worth keeping."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        from IPython.display import display

        self.shown = True
        bundle = {"text/plain": text}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)

    def finish(self, text: str) -> None:
        self.show(text)


def new_line() -> Line:
    """A line where this process shows things to people: the cell's output, or the terminal."""
    shell = ipython()
    if shell is not None and getattr(shell, "kernel", None) is not None:
        return _NotebookLine()
    return _TerminalLine() if sys.stderr.isatty() else Line()


def _describe(container: ContainerInfo | None) -> str:
    if container is None:
        return ""
    where = f" on {container.gpu}" if container.gpu else ""
    return f"{where} ({container.path} in {container.path_seconds:.1f} s)"


def _display(bundle: dict[str, Any], meta: dict[str, Any]) -> None:
    data, metadata = bundle.get("data", {}), bundle.get("metadata", {})
    shell = ipython()
    if shell is None:
        text = data.get("text/plain")
        if text:
            print(text)
        return
    transient = {"display_id": meta["display_id"]} if meta.get("display_id") else {}
    shell.display_pub.publish(
        data=data, metadata=metadata, transient=transient, update=bool(meta.get("update", False))
    )
