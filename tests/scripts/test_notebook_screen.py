"""How a notebook's outputs look on a terminal and in a log."""

from __future__ import annotations

import base64
import io
import struct
from typing import Any

from scripts.notebook_screen import Screen, describe

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", 640, 480)).decode()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def stream(text: str) -> dict[str, Any]:
    return {"msg_type": "stream", "content": {"name": "stdout", "text": text}}


def display(text: str, name: str = "", *, update: bool = False) -> dict[str, Any]:
    kind = "update_display_data" if update else "display_data"
    transient = {"display_id": name} if name else {}
    return {"msg_type": kind, "content": {"data": {"text/plain": text}, "transient": transient}}


def test_a_log_has_each_line_once() -> None:
    out = io.StringIO()
    screen = Screen(out)
    screen.cell(3, "%%gpu H100\ntrain()")
    screen.output(display("queued", "status"))
    screen.output(stream("one\ntw"))
    screen.output(display("running", "status", update=True))
    screen.output(stream("o\n 10%|#  |\r 50%|## |"))
    screen.output(stream("\r100%|###|"))
    screen.output(display("done in 2 s", "status", update=True))
    screen.end_of_cell()
    assert out.getvalue() == "\n[3]\n    %%gpu H100\n    train()\none\ntwo\ndone in 2 s\n100%|###|\n"


def test_a_terminal_sees_what_is_updated_in_place() -> None:
    out = Terminal()
    screen = Screen(out)
    screen.output(display("queued", "status"))
    screen.output(stream("one\n"))
    screen.output(display("running", "status", update=True))
    screen.end_of_cell()
    up = "\x1b[1A\x1b[J"
    assert out.getvalue() == f"queued\n{up}one\nqueued\n{up}running\n{up}running\n"


def test_pictures_tracebacks_and_values() -> None:
    out = io.StringIO()
    screen = Screen(out)
    screen.output(
        {"msg_type": "display_data", "content": {"data": {"image/png": PNG, "text/plain": "<Figure>"}}}
    )
    screen.output({"msg_type": "execute_result", "content": {"data": {"text/plain": "42"}}})
    screen.output(
        {"msg_type": "error", "content": {"traceback": ["Traceback", "\x1b[31mValueError\x1b[39m: no"]}}
    )
    screen.output({"msg_type": "status", "content": {"execution_state": "idle"}})
    screen.end_of_cell()
    assert out.getvalue() == "[plot 640×480 png]\n42\nTraceback\nValueError: no\n"


def test_a_display_without_text_is_named_by_its_type() -> None:
    assert describe({"application/json": {}}) == "[application/json]"
