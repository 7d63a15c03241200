"""A real kernel, driven as a notebook drives it, with every message and the time when it came."""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

PATIENCE = 90.0
"""Seconds that anything here may take before a test gives up."""


@dataclass
class Message:
    """One message of the kernel, and when it came."""

    time: float
    kind: str
    content: dict[str, Any]


@dataclass
class Cell:
    """A cell that runs, or has run, in a kernel: what it put out, in order."""

    client: BlockingKernelClient
    request: str
    messages: list[Message] = field(default_factory=list)
    reply: dict[str, Any] = field(default_factory=dict)

    def wait(self, until: Callable[[Cell], bool] | None = None, patience: float = PATIENCE) -> Cell:
        """Takes in messages until the cell is over, or until `until` holds; for so many seconds."""
        deadline = time.monotonic() + patience
        while until is None or not until(self):
            message = self.client.get_iopub_msg(timeout=max(deadline - time.monotonic(), 0.01))
            if message["parent_header"].get("msg_id") != self.request:
                continue
            content = message["content"]
            if message["msg_type"] == "status" and content["execution_state"] == "idle":
                break
            self.messages.append(Message(time.monotonic(), message["msg_type"], content))
        else:
            return self
        while not self.reply:
            reply = self.client.get_shell_msg(timeout=max(deadline - time.monotonic(), 0.01))
            if reply["parent_header"].get("msg_id") == self.request:
                self.reply = reply["content"]
        return self

    def text(self, stream: str = "stdout") -> str:
        """What was printed."""
        return "".join(
            m.content["text"] for m in self.messages if m.kind == "stream" and m.content["name"] == stream
        )

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """What the notebook would hold, without the status line and with streams joined."""
        outputs: list[dict[str, Any]] = []
        for message in self.messages:
            content = message.content
            if message.kind == "stream":
                last = outputs[-1] if outputs else {}
                if last.get("name") == content["name"]:
                    last["text"] += content["text"]
                else:
                    outputs.append({"name": content["name"], "text": content["text"]})
            elif message.kind in ("display_data", "execute_result") and not is_status(content):
                outputs.append({"kind": message.kind, "data": content["data"]})
            elif message.kind == "error":
                outputs.append({"ename": content["ename"], "evalue": content["evalue"]})
        return outputs

    @property
    def values(self) -> list[str]:
        """The values that were shown, as text."""
        return [m.content["data"]["text/plain"] for m in self.messages if m.kind == "execute_result"]

    @property
    def statuses(self) -> list[str]:
        """The texts that the status line had."""
        return [
            m.content["data"]["text/plain"]
            for m in self.messages
            if m.kind in ("display_data", "update_display_data") and is_status(m.content)
        ]

    @property
    def traceback(self) -> str:
        """What was shown of an error, without colours."""
        errors = [m.content for m in self.messages if m.kind == "error"]
        return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(errors[-1]["traceback"])) if errors else ""

    @property
    def error(self) -> str:
        """``"ValueError: no"``, or "" where the cell succeeded."""
        if self.reply.get("status") != "error":
            return ""
        return f"{self.reply['ename']}: {self.reply['evalue']}"


def is_status(content: dict[str, Any]) -> bool:
    """Whether a display is our status line."""
    return str(content.get("transient", {}).get("display_id", "")).startswith("skylift-")


class Notebook:
    """A kernel with the magics loaded."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.manager = KernelManager(kernel_name="python3", shutdown_wait_time=60.0)
        self.manager.start_kernel(env=environment, cwd=str(folder))
        self.client: BlockingKernelClient = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)

    def start(self, code: str, **options: Any) -> Cell:
        """Sends a cell, and does not wait."""
        return Cell(self.client, self.client.execute(textwrap.dedent(code).strip(), **options))

    def run(self, code: str, patience: float = PATIENCE) -> Cell:
        """Runs a cell to its end."""
        return self.start(code).wait(patience=patience)

    def ok(self, code: str) -> Cell:
        """Runs a cell that must succeed."""
        cell = self.run(code)
        assert cell.error == "", cell.traceback
        return cell

    def interrupt(self) -> None:
        """What the stop button does."""
        self.manager.interrupt_kernel()

    def restart(self) -> None:
        """What the restart button does."""
        self.manager.restart_kernel()
        self.client.wait_for_ready(timeout=PATIENCE)

    def close(self) -> None:
        """Ends the kernel."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
