"""What cells show: values, ``display()`` and its like, as events."""

from __future__ import annotations

import base64
import json
import types
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher

from .capture import Capture


class ValueHook(DisplayHook):
    """Shows the value of a cell's last line, as `value` events; a generator's items one by one."""

    async_items: Any = None
    """An async generator that was the last line and is shown when the cell's own code is through."""

    def __call__(self, result: Any = None) -> None:
        hook: Any = super()
        if not isinstance(result, (types.GeneratorType, types.AsyncGeneratorType)) or hook.quiet():
            hook.__call__(result)
        elif isinstance(result, types.AsyncGeneratorType):
            self.async_items = result
        else:
            for item in result:
                self._show(item)

    async def show_each(self, items: Any) -> None:
        """Shows what an async generator yields."""
        async for item in items:
            self._show(item)

    def _show(self, item: Any) -> None:
        if item is not None:
            compute: Any = self.compute_format_data
            self.write_format_data(*compute(item))

    def write_output_prompt(self) -> None:
        """Nothing: the notebook writes it."""

    def write_format_data(self, format_dict: Any, md_dict: Any = None) -> None:
        meta = {"execution_count": self.prompt_count}
        send_event(_capture_of(self.shell), "value", meta, format_dict, md_dict)

    def log_output(self, format_dict: Any) -> None:
        """Nothing: see `CellShell._forget`."""

    def finish_displayhook(self) -> None:
        self._is_active = False


class StreamPublisher(DisplayPublisher):
    """``display()`` and ``clear_output()`` as `display` and `clear` events."""

    def publish(
        self,
        data: Any,
        metadata: Any = None,
        *_source: Any,
        transient: Any = None,
        update: bool = False,
        **_options: Any,
    ) -> None:
        meta: dict[str, Any] = {}
        display_id = (transient or {}).get("display_id")
        if display_id:
            meta["display_id"] = display_id
        if update:
            meta["update"] = True
        send_event(_capture_of(self.shell), "display", meta, data, metadata)

    def clear_output(self, wait: bool = False) -> None:
        stream = _capture_of(self.shell).stream
        if stream is not None:
            stream.add("clear", json.dumps({"wait": bool(wait)}), b"")


def _capture_of(shell: Any) -> Capture:
    capture: Capture = shell.capture
    return capture


def send_event(capture: Capture, kind: str, meta: dict[str, Any], data: Any, metadata: Any) -> None:
    """A MIME bundle on its way to the notebook."""
    stream = capture.stream
    if stream is not None:
        bundle = json.dumps({"data": data, "metadata": metadata or {}}, default=_jsonable)
        stream.add(kind, json.dumps(meta), bundle.encode())


def _jsonable(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (set, frozenset)):
        return list(value)
    item = getattr(value, "item", None)
    return item() if callable(item) else repr(value)
