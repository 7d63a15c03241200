"""How a task reaches the runner: its function's code once, then its arguments, wherever they are."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Any

import msgspec

from skylift.lazyfs.store import Store
from skylift.runtime.calls import Call, Task
from skylift.runtime.code_cache import CodeCache
from skylift.runtime.runner_frames import Buffer
from skylift.runtime.runner_link import RunnerLink
from skylift.wire import FunctionSpec, Payload


class TaskSender:
    """Sends tasks to one runner."""

    def __init__(
        self, spec: FunctionSpec, link: RunnerLink, store: Store, codes: CodeCache, threads: Executor
    ) -> None:
        self._link = link
        self._store = store
        self._codes = codes
        self._threads = threads
        self._sent: set[str] = set()
        self._retries = msgspec.to_builtins(spec.retries) if spec.retries else None

    def try_send(self, task: Task, consumed: int) -> bool:
        """Send it if nothing has to be read first. `consumed`: see docs/protocol.md, Windows."""
        code = self._code_in_memory(task.call)
        if code is None or any(payload.blob for payload in task.payloads):
            return False
        self._send(task, code, [payload.data for payload in task.payloads], consumed)
        return True

    async def read(self, call: Call, payloads: tuple[Payload, ...]) -> tuple[bytes, list[Buffer]]:
        """The code and the arguments, for `send_read`. Raises KeyError (no such code) and `StoreError`."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, call, payloads)

    def send_read(self, task: Task, parts: tuple[bytes, list[Buffer]], consumed: int) -> None:
        """Send a task with what `read` returned for it."""
        self._send(task, *parts, consumed)

    async def send_code(self, function_id: str) -> None:
        """The runner let go of a function: send it again. Raises KeyError and `StoreError`."""
        loop = asyncio.get_running_loop()
        code = await loop.run_in_executor(self._threads, self._codes.read, function_id)
        self._link.send({"t": "code", "id": function_id}, code)

    def _code_in_memory(self, call: Call) -> bytes | None:
        """What goes before the call: nothing where the runner has it, None where it must be read first."""
        if call.kind in ("cell", "kernel") or call.function_id in self._sent:
            return b""
        return self._codes.in_memory(call.function_id)

    def _read(self, call: Call, payloads: tuple[Payload, ...]) -> tuple[bytes, list[Buffer]]:
        code = self._code_in_memory(call)
        if code is None:
            code = self._codes.read(call.function_id)
        return code, [self._store.view(each.blob) if each.blob else each.data for each in payloads]

    def _send(self, task: Task, code: bytes, data: list[Buffer], consumed: int) -> None:
        call = task.call
        if code:
            self._sent.add(call.function_id)
            self._link.send({"t": "code", "id": call.function_id}, code)
        header: dict[str, Any] = {"call": call.call_id, "window": call.window}
        if call.kind in ("cell", "kernel"):
            header["t"] = call.kind
        else:
            header["code"] = call.function_id
            header["retries"] = self._retries
            if call.kind == "map":
                header["t"] = "inputs"
                header["indexes"] = list(task.indexes)
                header["lengths"] = [len(item) for item in data]
                header["consumed"] = consumed
            else:
                header["t"] = "call"
                header["kind"] = call.kind
        self._link.send(header, data[0] if len(data) == 1 else b"".join(data))
