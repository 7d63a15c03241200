"""A Jupyter kernel: IPython's own, on the sockets that the host has bound (docs/protocol.md).

It lives in the main thread for as long as its call does, and talks to its clients past the host. What it
prints goes to them too, that of its child processes and of C code included.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import tempfile
from typing import TYPE_CHECKING, Any

from .cancel import Guard, Request
from .functions import described, finish_failed
from .pickling import RunnerError
from .stream import Stream

if TYPE_CHECKING:
    from .link import Header
    from .pulse import Pulse

HANDOVER_SOCKET = "kernel.sock"
CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
"""In the order of the host's descriptors."""

_HANDOVER_SECONDS = 10.0


class HostedKernel:
    """The process's one kernel."""

    def __init__(self, header: Header, stream: Stream, guard: Guard, pulse: Pulse) -> None:
        self.call: str = header["call"]
        self._stream = stream
        self._guard = guard
        self._pulse = pulse
        self._app: Any = None
        self._loop: Any = None
        self._ending: Request | None = None
        """What ends it."""

    # --- the main thread -------------------------------------------------------------------------

    def run(self, payload: bytes | memoryview) -> None:
        """The kernel, from its start to its end."""
        early = self._guard.begin(self.call)
        if early is not None:
            finish_failed(self._stream, early, None)
            return
        try:
            self._begin(json.loads(bytes(payload)))
            # From now on it is running, for those who wait for it.
            self._stream.announce()
            self._pulse.begin(self._stream)
            if self._ending is None:
                self._app.start()
        except BaseException as error:
            if isinstance(error, SystemExit):
                error = RunnerError(
                    "ExecutionError", f"the kernel's start ended with exit status {error.code}"
                )
            state, event = described(None, error)
            self._stream.finish(state, event.summary, (event.event(),))
        else:
            if self._ending is not None:
                finish_failed(self._stream, self._ending, None)
            else:
                self._stream.finish("done")

    def _begin(self, request: Header) -> None:
        os.environ.update(request.get("env", {}))
        try:
            import zmq
            from ipykernel.kernelapp import IPKernelApp
            from tornado.ioloop import IOLoop
        except ImportError as error:
            raise RunnerError(
                "NotFoundError",
                f"a Jupyter kernel needs ipykernel, which this image does not have ({error}). Add it to the "
                "image, with pip_install('ipykernel'), or to the environment that the image shows, with pip "
                "install ipykernel",
            ) from error
        folder = tempfile.mkdtemp(prefix="kernel-")
        ip = f"{folder}/kernel"
        _bind_to(zmq, ip, _take_over())
        file = f"{folder}/connection.json"
        connection = {
            "transport": "ipc",
            "ip": ip,
            "key": request["key"],
            "signature_scheme": request["signature_scheme"],
            **{f"{channel}_port": number for number, channel in enumerate(CHANNELS, 1)},
        }
        with open(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as opened:
            json.dump(connection, opened)
        # In a group of its own: an interrupt is for it and its children, and for nobody else.
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, lambda *_: self.cancel("cancel", "the container is being stopped"))
        # A parent to look after; where it has none it says so on standard output. Init is never gone.
        self._app = IPKernelApp.instance(connection_file=file, parent_handle=1)
        self._app.initialize([])
        self._loop = IOLoop.current()

    # --- the control thread, and the handler of SIGTERM --------------------------------------------

    def cancel(self, mode: str, reason: str) -> None:
        """``interrupt``: as Ctrl-C, to it and its child processes. Any other mode ends it."""
        if mode != "interrupt":
            self._ending = self._ending or Request(mode, reason, None)
            if self._loop is not None:
                self._loop.add_callback_from_signal(self._loop.stop)
        if self._app is not None and self._app.kernel is not None and os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGINT)


def _take_over() -> list[int]:
    """The descriptors of the sockets that the host has bound."""
    path = f"{os.path.dirname(os.environ['SKYLIFT_SOCKET'])}/{HANDOVER_SOCKET}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.settimeout(_HANDOVER_SECONDS)
        door.connect(path)
        _, descriptors, _, _ = socket.recv_fds(door, 64, len(CHANNELS))
    if len(descriptors) != len(CHANNELS):
        raise RunnerError("InternalFailure", f"the host gave the kernel {len(descriptors)} sockets")
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return descriptors


def _bind_to(zmq: Any, ip: str, descriptors: list[int]) -> None:
    """Has ZeroMQ listen on these where it is told to bind the kernel's sockets; and there as well, in the
    container."""
    left = {f"ipc://{ip}-{number}": descriptor for number, descriptor in enumerate(descriptors, 1)}
    bind = zmq.Socket.bind

    def bind_here_too(self: Any, address: Any) -> Any:
        descriptor = left.pop(address, None) if isinstance(address, str) else None
        if descriptor is not None:
            self.setsockopt(zmq.USE_FD, descriptor)
            # Where the host has bound it is no path in here, and none is needed.
            bind(self, address)
            self.setsockopt(zmq.USE_FD, -1)
        return bind(self, address)

    zmq.Socket.bind = bind_here_too
