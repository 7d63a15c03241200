"""What a cell puts out in its session, put out here: its streams, displays and values, in their order."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from skylift.wire import Event


class Output:
    """Puts out the events of one cell.

    `scope` keeps the display ids of different sessions apart; `reshow` shows the status line again after the
    cell has cleared its output.
    """

    def __init__(self, shell: Any, scope: str, reshow: Callable[[], None]) -> None:
        self._shell = shell
        self._scope = scope
        self._reshow = reshow
        self._clear_pending = False
        self._unflushed = False

    def put(self, event: Event) -> None:
        """Puts out one event; text may wait for `flush`."""
        if event.kind == "clear":
            self._clear(wait=bool(event.meta.get("wait")))
            return
        if self._clear_pending:
            self._clear(wait=True, now=True)
        if event.kind == "output":
            stream = sys.stderr if event.meta.get("stream") == "stderr" else sys.stdout
            stream.write(event.data.decode("utf-8", "replace"))
            self._unflushed = True
        elif event.kind == "display":
            self._display(event)
        elif event.kind == "value":
            self._value(event)

    def flush(self) -> None:
        """Sends on what was written: when nothing more is there to be put out at once."""
        if self._unflushed:
            self._unflushed = False
            sys.stdout.flush()
            sys.stderr.flush()

    def _clear(self, *, wait: bool, now: bool = False) -> None:
        # With `wait` the old output stays until there is new one. The status line would be that, so the
        # clearing is put off until the cell's own next output.
        if wait and not now:
            self._clear_pending = True
            return
        self._clear_pending = False
        self.flush()
        self._shell.display_pub.clear_output(wait=wait)
        self._reshow()

    def _display(self, event: Event) -> None:
        shown = json.loads(event.data)
        transient = {}
        display_id = event.meta.get("display_id")
        if display_id:
            transient["display_id"] = f"{self._scope}-{display_id}"
        self._shell.display_pub.publish(
            shown["data"],
            shown.get("metadata") or {},
            transient=transient,
            update=bool(event.meta.get("update")),
        )

    def _value(self, event: Event) -> None:
        shown = json.loads(event.data)
        data, metadata = shown["data"], shown.get("metadata") or {}
        hook: Any = self._shell.displayhook
        captured = sys.displayhook is not hook
        if captured:
            # Inside %%capture, which wants an object.
            sys.displayhook(_Shown(data, metadata))
            return
        self.flush()
        hook.start_displayhook()
        hook.write_output_prompt()
        hook.write_format_data(data, metadata)
        hook.finish_displayhook()


class _Shown:
    """An object that looks like a value of the session."""

    def __init__(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        self._data, self._metadata = data, metadata

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._data, self._metadata

    def __repr__(self) -> str:
        return str(self._data.get("text/plain", ""))
