"""Puts the runner together: the main loop, and what the control thread is told."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
import types
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NoReturn

from . import current
from .aio import EventLoop
from .cancel import Guard, Request
from .capture import Capture
from .errors import describe_ours
from .functions import Caller, Functions, finish_failed
from .inputs import Inputs, run_inputs
from .link import Header, Link
from .pulse import Pulse
from .stream import DEFAULT_WINDOW, Stream, Window

if TYPE_CHECKING:
    from .hosted_kernel import HostedKernel

SOCKET_VARIABLE = "SKYLIFT_SOCKET"
_STOP_GRACE = 5.0
_KEPT_MAPS = 64


def main() -> NoReturn:
    """Serves the host at ``$SKYLIFT_SOCKET`` until it says `exit`."""
    path = os.environ.get(SOCKET_VARIABLE)
    if not path:
        sys.exit(f"skylift runner: {SOCKET_VARIABLE} is not set; the runner is started by a Skylift host")
    faulthandler.enable(file=2)
    Runner(path).run()


class _Stopped(BaseException):
    """SIGTERM came while nothing ran."""


class Runner:
    """One runner. Everything that is not about the control channel happens in the main thread."""

    def __init__(self, path: str, functions: Functions | None = None) -> None:
        """`functions`: those that a template has prepared."""
        self.link = Link(path, self._on_control)
        self.guard = current.guard = Guard(self.link.held_by_me)
        self.pulse = Pulse(self.link.lock, self.guard)
        self.capture = Capture()
        self.loop = EventLoop(self.guard)
        self.functions = functions if functions is not None else Functions()
        self.caller = Caller(self.functions, self.guard, self.loop)
        self._cells: Any = None
        self._kernel: HostedKernel | None = None
        self._stream: Stream | None = None
        self._inputs: Inputs | None = None
        self._maps: OrderedDict[str, Window] = OrderedDict()
        self._waiting: dict[str, list[tuple[Header, bytes | memoryview]]] = {}
        self._own_main = sys.modules["__main__"]
        self._leaving = False

    def run(self) -> NoReturn:
        """Connects and serves. Ends the process."""
        try:
            self.link.connect()
        except OSError as error:
            sys.exit(f"skylift runner: no host at {os.environ.get(SOCKET_VARIABLE)}: {error}")
        # A SIGTERM that comes while a child is forked would be lost to a handler that is not the child's.
        os.register_at_fork(
            before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}),
            after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM}),
            after_in_child=self._forked,
        )
        self.guard.install()
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self._become_main()
        self.capture.install()
        version = "{}.{}.{}".format(*sys.version_info[:3])
        self.link.send(json.dumps({"t": "ready", "python": version, "pid": os.getpid()}).encode())
        try:
            while self.guard.stopping is None:
                header, payload = self.link.receive()
                self._handle(header, payload)
                del payload
        except _Stopped:
            pass
        self._leave(128 + signal.SIGTERM, _STOP_GRACE)

    def _become_main(self) -> None:
        """Gives user code a ``__main__`` and an ``argv`` of its own, as in a notebook."""
        module = types.ModuleType("__main__")
        module.__dict__["__builtins__"] = __builtins__
        sys.modules["__main__"] = module
        sys.argv = [""]

    # --- data frames -----------------------------------------------------------------------------

    def _handle(self, header: Header, payload: bytes | memoryview) -> None:
        kind = header["t"]
        if kind in ("call", "inputs"):
            if header["code"] in self.functions:
                self._call(header, payload)
            else:
                function_id = header["code"]
                self._waiting.setdefault(function_id, []).append((header, payload))
                self.link.send(json.dumps({"t": "need", "code": function_id}).encode())
        elif kind in ("cell", "kernel"):
            self._call(header, payload)
        elif kind == "code":
            self.functions.define(header["id"], payload)
            for waiting in self._waiting.pop(header["id"], ()):
                self._call(*waiting)
        elif kind == "exit":
            self._leave(0, header.get("grace", _STOP_GRACE))

    def _call(self, header: Header, payload: bytes | memoryview) -> None:
        call = header["call"]
        if header["t"] == "inputs":
            window = self._window_of_map(call, header)
        else:
            window = Window(header.get("window", DEFAULT_WINDOW), header.get("consumed", 0))
        stream = Stream(self.link, self.pulse, call, window, prompt=header["t"] != "inputs")
        self._stream = self.capture.stream = stream
        if header["t"] != "kernel":
            self.pulse.begin(stream)
        try:
            if header["t"] == "inputs":
                self._inputs = Inputs(header, payload)
                run_inputs(self.caller, header, self._inputs, stream)
                stream.close()
            elif header["t"] == "cell":
                self._cell(header, payload, stream)
            elif header["t"] == "kernel":
                from .hosted_kernel import HostedKernel

                self._kernel = HostedKernel(header, stream, self.guard, self.pulse)
                self._kernel.run(payload)
            elif header["kind"] == "generator":
                self.caller.generate(header, payload, stream)
            else:
                self.caller.call(header, payload, stream)
        except BaseException as error:
            # A second cancellation on the heels of the first, or a mistake of ours.
            self.guard.active = False
            self._finish_anyhow(stream, error)
        finally:
            self.guard.active = False
            self.guard.end(forget=header["t"] != "inputs")
            self.pulse.stream = self.capture.stream = self._stream = self._inputs = None
        if self.link.severed:
            # A child that user code forked came back from the call, which is its parent's to answer.
            os._exit(0)

    def _cell(self, header: Header, payload: bytes | memoryview, stream: Stream) -> None:
        if self._cells is None:
            from .cells import Cells

            self._cells = Cells(self.guard, self.loop, self.capture)
        self._cells.run(header, payload, stream)

    def _finish_anyhow(self, stream: Stream, error: BaseException) -> None:
        request = self.guard.delivered
        if request is not None:
            finish_failed(stream, request, error)
        else:
            message = "the runner failed; please report this with the traceback below"
            event = describe_ours("InternalFailure", message, error, cause=True)
            stream.finish("failed", event.summary, (event.event(),))

    def _window_of_map(self, call: str, header: Header) -> Window:
        window = self._maps.pop(call, None) or Window(header.get("window", DEFAULT_WINDOW))
        window.consumed = max(window.consumed, header.get("consumed", 0))
        self._maps[call] = window
        if len(self._maps) > _KEPT_MAPS:
            self._maps.popitem(last=False)
        return window

    # --- control messages, in the control thread -------------------------------------------------

    def _on_control(self, message: Header) -> None:
        kind, call = message["t"], message.get("call", "")
        if kind == "window":
            stream = self._stream
            if stream is not None and stream.call == call:
                stream.consumed(message["consumed"])
            elif (window := self._maps.get(call)) is not None:
                window.consumed = max(window.consumed, message["consumed"])
        elif kind == "cancel" and self._kernel is not None and self._kernel.call == call:
            self._kernel.cancel(message["mode"], message.get("reason", ""))
        elif kind == "cancel":
            self.guard.request(
                call, Request(message["mode"], message.get("reason", ""), message.get("index"))
            )
            self.pulse.hurry()
        elif kind == "recall":
            inputs = self._inputs
            indexes = inputs.recall() if inputs is not None and inputs.call == call else []
            self.link.send_control({"t": "recalled", "call": call, "indexes": indexes})

    # --- ends ------------------------------------------------------------------------------------

    def _on_sigterm(self, _number: int, _frame: types.FrameType | None) -> None:
        self.guard.stopping = Request("cancel", "the container is being stopped", None)
        if self._leaving:
            return
        if self._stream is None:
            raise _Stopped
        self.guard.kick()

    def _leave(self, code: int, grace: float) -> NoReturn:
        """Runs exit hooks of classes and Python's exit handlers, for `grace` seconds at most, and ends the
        process."""
        self._leaving = True
        timer = threading.Timer(grace, os._exit, (code,))
        timer.daemon = True
        timer.start()
        self.caller.leave()
        sys.exit(code)

    def _forked(self) -> None:
        """In a forked child: what it prints goes to the file descriptors, and it has no link."""
        self.capture.stream = None
        if self._stream is not None:
            self._stream.forked()
        self.link.sever()
        self.pulse.forked()
        self.guard.active = False
        if signal.getsignal(signal.SIGTERM) == self._on_sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
