"""What a template does before it is forked, in a plain process. Forks are tested in tests/runtime/runc."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from fake_host import RUNNER

from skylift.runtime.runner.template import Template

TIMEOUT = 20.0


class Started:
    """A template, and its host's end of the socket."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.path = str(folder / "t.sock")
        self.listening: socket.socket | None = None
        self.listen()
        self.process = subprocess.Popen(
            [sys.executable, str(RUNNER)],
            env={**os.environ, **env, "SKYLIFT_TEMPLATE": self.path},
            stderr=subprocess.PIPE,
        )
        self.accept()

    def listen(self) -> None:
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listening.settimeout(TIMEOUT)
        self.listening.bind(self.path)
        self.listening.listen()

    def accept(self) -> None:
        assert self.listening is not None
        self.sock, _ = self.listening.accept()
        self.sock.settimeout(TIMEOUT)

    def preload(self, *modules: str, code: bytes = b"", session: bool = False) -> dict[str, Any]:
        message: dict[str, Any] = {"t": "preload", "modules": list(modules), "session": session}
        descriptors = []
        if code:
            message["code"] = "fu-1"
            descriptors.append(os.memfd_create("code"))
            os.write(descriptors[0], code)
        socket.send_fds(self.sock, [json.dumps(message).encode()], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        answer: dict[str, Any] = json.loads(self.sock.recv(1 << 18))
        return answer

    def say(self, **message: Any) -> None:
        self.sock.send(json.dumps(message).encode())

    def let_go(self) -> None:
        """Stop listening, and see that the template hangs up."""
        assert self.listening is not None
        self.listening.close()
        os.unlink(self.path)
        self.say(t="release")
        assert b"" == self.sock.recv(10)
        self.sock.close()

    def close(self) -> None:
        for sock in (self.sock, self.listening):
            if sock is not None:
                sock.close()
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with contextlib.suppress(OSError):
            for pid in children.read_text().split():
                os.kill(int(pid), 9)
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def template(tmp_path: Path) -> Iterator[Started]:
    (tmp_path / "starts_a_thread.py").write_text(
        "import threading\n"
        "for name in ('one', 'two'):\n"
        "    threading.Thread(target=threading.Event().wait, name=name, daemon=True).start()\n"
    )
    (tmp_path / "leaves.py").write_text("raise SystemExit('it leaves')")
    (tmp_path / "breaks.py").write_text("1 / 0")
    started = Started(tmp_path, PYTHONPATH=str(tmp_path))
    try:
        yield started
    finally:
        started.close()


def test_modules_that_are_missing_or_broken_are_no_problem(template: Started) -> None:
    assert {"t": "prepared", "problem": "", "unforkable": ""} == template.preload(
        "json", "no_such_module", "breaks", "colorsys"
    )


def test_a_module_that_leaves_is_a_problem(template: Started) -> None:
    assert "SystemExit: it leaves" == template.preload("leaves")["problem"]


def test_threads_are_named(template: Started) -> None:
    assert "the template started 2 threads (one, two)" == template.preload("starts_a_thread")["unforkable"]


def test_code_that_cannot_be_unpickled_is_a_problem(template: Started) -> None:
    assert template.preload(code=b"no pickle")["problem"].startswith("RunnerError: ")


def test_what_cells_need_is_imported(template: Started) -> None:
    assert ("", "") == tuple(template.preload(session=True)[name] for name in ("problem", "unforkable"))


def test_it_lets_go_and_comes_back(template: Started) -> None:
    template.preload()
    template.let_go()
    template.listen()
    template.accept()
    assert "prepared" == template.preload("json")["t"]


def test_it_comes_back_when_the_host_hangs_up(template: Started) -> None:
    template.sock.close()
    template.accept()
    assert "prepared" == template.preload()["t"]


def test_it_becomes_a_runner(template: Started, tmp_path: Path) -> None:
    """As a restored one does that cannot be forked."""
    (tmp_path / "made.py").write_text(
        "import random\nrandom.seed(1)\nnumber = random.random()\nrandom.seed(1)\n"
    )
    template.preload("made")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "r.sock"))
        listening.listen()
        listening.settimeout(TIMEOUT)
        env = {**os.environ, "SKYLIFT_SOCKET": str(tmp_path / "r.sock"), "ASKED_FOR": "yes"}
        template.say(t="become", fork=False, env=env)
        assert b"" == template.sock.recv(10)
        data, _ = listening.accept()
        control, _ = listening.accept()
        with data, control:
            assert ["data", "control"] == [receive(each)[0]["channel"] for each in (data, control)]
            for each in (data, control):
                send(each, {"t": "hello", "sent": 0, "got": 0})
            assert "ready" == receive(data)[0]["t"]
            cloudpickle.register_pickle_by_value(sys.modules[__name__])
            send(data, {"t": "code", "id": "fu-2"}, cloudpickle.dumps(look))
            header = {"t": "call", "call": "fc-1", "code": "fu-2", "kind": "call", "window": 1 << 20}
            send(data, {**header, "consumed": 0}, cloudpickle.dumps(((), {})))
            message, payload = receive(data)
            while "end" not in message:
                message, payload = receive(data)
            environment, same = cloudpickle.loads(payload)
    assert "yes" == environment["ASKED_FOR"]
    assert "SKYLIFT_TEMPLATE" not in environment
    assert not same


def look() -> tuple[dict[str, str], bool]:
    import random

    import made  # type: ignore[import-not-found]

    return dict(os.environ), random.random() == made.number


PREFIX = struct.Struct(">IQ")


def send(sock: socket.socket, header: dict[str, Any], payload: bytes = b"") -> None:
    head = json.dumps(header).encode()
    sock.sendall(PREFIX.pack(len(head), len(payload)) + head + payload)


def receive(sock: socket.socket) -> tuple[dict[str, Any], bytes]:
    sock.settimeout(TIMEOUT)
    with sock.makefile("rb", buffering=0) as file:

        def exactly(size: int) -> bytes:
            data = b""
            while len(data) < size:
                data += file.read(size - len(data)) or b""
            return data

        head, length = PREFIX.unpack(exactly(PREFIX.size))
        header: dict[str, Any] = json.loads(exactly(head))
        return header, exactly(length)


# --- what cannot be made here --------------------------------------------------------------------


def test_an_open_gpu_makes_it_unforkable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "readlink", lambda _: "/dev/nvidiactl")
    template = Template("/nowhere")
    try:
        assert "the template has initialised CUDA" == template._why_unforkable()
    finally:
        os.close(template._wake)
        os.close(template._woken)
