"""A template: a process that has done its imports, and waits to be forked.

The host says on a socket what to import, and then for which containers to fork. The connection can let go
before the process is written by CRIU, and comes back afterwards, in a restored copy too.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from typing import Any, NoReturn

from . import kernel
from .functions import Functions
from .newborn import Newborn

TEMPLATE_VARIABLE = "SKYLIFT_TEMPLATE"
"""Path of the host's socket for templates; where it is set, the runner is one."""

MAX_MESSAGE = 1 << 18
MAX_DESCRIPTORS = 32
COME_BACK_SECONDS = 60.0

Message = dict[str, Any]


def main() -> NoReturn:
    """Serves the host at ``$SKYLIFT_TEMPLATE``."""
    kernel.set_process_name("skylift-template")
    newborn = Template(os.environ.pop(TEMPLATE_VARIABLE)).run()
    newborn.live()


class Template:
    """The template's one thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._functions = Functions()
        self._socket: socket.socket | None = None
        self._woken, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(self._woken, False)
        self._wake = wake
        self._children: dict[int, str] = {}
        """Containers by the pid of their first process."""
        self._untold: list[Message] = []

    def run(self) -> Newborn:
        """Serves; returns in the process that is to be a container."""
        self._wake_up_for_children()
        self._dial(COME_BACK_SECONDS)
        while True:
            newborn = self._turn()
            if newborn is not None:
                return newborn

    def _wake_up_for_children(self) -> None:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def _turn(self) -> Newborn | None:
        sock = self._socket
        assert sock is not None
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        events = dict(poll.poll())
        if self._woken in events:
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 4096)
            self._reap()
        if sock.fileno() not in events:
            return None
        try:
            data, descriptors, _, _ = socket.recv_fds(sock, MAX_MESSAGE, MAX_DESCRIPTORS)
        except OSError:
            data, descriptors = b"", []
        if not data:
            self._let_go()
            self._dial(COME_BACK_SECONDS)
            return None
        return self._obey(json.loads(data), descriptors)

    def _obey(self, message: Message, descriptors: list[int]) -> Newborn | None:
        kind = message["t"]
        if kind == "preload":
            self._preload(message, descriptors)
        elif kind == "fork":
            return self._fork(message, descriptors)
        elif kind == "become":
            self._let_go()
            self._close_own()
            gc.unfreeze()
            return Newborn(message, descriptors, self._functions)
        elif kind == "release":
            self._let_go()
            self._dial(None)
        return None

    # --- its imports -----------------------------------------------------------------------------

    def _preload(self, message: Message, descriptors: list[int]) -> None:
        problem = ""
        try:
            # What a container needs at once is shared by all.
            importlib.import_module(f"{__package__}.serve")
            for name in message["modules"]:
                # What is missing or broken is told to the call that needs it.
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
            if message.get("session"):
                importlib.import_module(f"{__package__}.cells")
                importlib.import_module(f"{__package__}.shell")
            if descriptors:
                self._prepare_class(message["code"], descriptors[0])
        except BaseException as error:
            problem = f"{type(error).__name__}: {error}"
        # An event loop that ran meanwhile has taken that away.
        self._wake_up_for_children()
        gc.collect()
        unforkable = self._why_unforkable()
        gc.freeze()
        self._say({"t": "prepared", "problem": problem, "unforkable": unforkable})

    def _prepare_class(self, function_id: str, descriptor: int) -> None:
        with open(descriptor, "rb") as file:
            file.seek(0)
            self._functions.define(function_id, file.read())
        prepare: Any = self._functions.get(function_id)
        prepare.prepare()

    def _why_unforkable(self) -> str:
        """Why a child that is forked from this process would not work; "" where it would."""
        # Libraries that know how to fork (OpenBLAS) end their threads before it.
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{name}").startswith("/dev/nvidia"):
                    return "the template has initialised CUDA"
        names = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        tasks = [int(name) for name in os.listdir("/proc/self/task")]
        if len(tasks) > 1:
            for task in tasks:
                if not names and task != os.getpid():
                    with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/comm") as file:
                        names.append(file.read().strip())
            return f"the template started {_count(len(tasks) - 1, 'thread')} ({', '.join(names[:4])})"
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            children = file.read().split()
        if children:
            return f"the template started {_count(len(children), 'process')}"
        return ""

    # --- its children ----------------------------------------------------------------------------

    def _fork(self, message: Message, descriptors: list[int]) -> Newborn | None:
        own, pid = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC), os.getpid()
        try:
            kernel.unshare(kernel.CLONE_NEWPID)
            try:
                child = os.fork()
                if child == 0:
                    if self._socket is not None:
                        self._socket.close()
                    self._close_own()
                    return Newborn(message, descriptors, self._functions, pid)
            finally:
                # In the child it fails: it has no way up.
                with contextlib.suppress(OSError):
                    kernel.setns(own, kernel.CLONE_NEWPID)
        except OSError as error:
            self._say({"t": "failed", "id": message["id"], "reason": f"cannot fork: {error.strerror}"})
            return None
        finally:
            os.close(own)
        for descriptor in descriptors:
            os.close(descriptor)
        self._children[child] = message["id"]
        self._say({"t": "forked", "id": message["id"]})
        return None

    def _reap(self) -> None:
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            container_id = self._children.pop(pid, None)
            if container_id is not None:
                self._say({"t": "ended", "id": container_id, "status": os.waitstatus_to_exitcode(status)})

    def _close_own(self) -> None:
        """In a process that is a template no more."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self._wake)
        os.close(self._woken)

    # --- its host --------------------------------------------------------------------------------

    def _say(self, message: Message) -> None:
        self._untold.append(message)
        self._tell()

    def _tell(self) -> None:
        while self._untold and self._socket is not None:
            try:
                self._socket.send(json.dumps(self._untold[0]).encode(), socket.MSG_NOSIGNAL)
            except OSError:
                return  # the host is told when it is back
            del self._untold[0]

    def _let_go(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _dial(self, within: float | None) -> None:
        """Connects, again and again: for `within` seconds, or for ever."""
        deadline = None if within is None else time.monotonic() + within
        pause = 0.002
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                sock.connect(self._path)
                break
            except OSError:
                sock.close()
            if deadline is not None and time.monotonic() > deadline:
                sys.exit(f"skylift: the host did not come to the template within {within:.0f} s")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)
        self._socket = sock
        self._tell()


def _count(number: int, what: str) -> str:
    plural = "es" if what.endswith("s") else "s"
    return f"a {what}" if number == 1 else f"{number} {what}{plural}"
