"""From a template's child to a container: namespaces, a root of its own, and no privileges.

What it is to be comes in a request of the host's:

``id``           the container's
``hold``         true where it waits, when all else is done, for the host to say that it may begin
``fork``         false in a restored process that becomes the container itself: its namespaces are its own
``env``          its whole environment
``hostname``
``workdir``      where its code begins; "" is its home
``layer``        folder with ``upper``, ``work`` and ``root`` for its overlay
``binds``        paths that are mounted in the template, and here too
``run``          folder that becomes ``/run/skylift``
``devices``      files in ``/dev`` that it sees besides the usual ones
``shm_size``     bytes
``terminals``    options of ``/dev/pts``
``masked``, ``read_only``   paths that are hidden, or cannot be written
``network``      ``{"address", "mask", "gateway"}`` of ``eth0``, or null for a loopback alone
``cgroups``, ``seccomp``    how many of the descriptors are for that

The descriptors: standard output and error, the cgroups' files, the seccomp program, the host's ear. The host
hears when the namespaces are there, and answers when the network's device is in them; and it hears when all
is done, just before the runner begins.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from . import kernel
from .randomness import reseed

if TYPE_CHECKING:
    from .functions import Functions

_NEW = kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWNET
"""Besides that of cgroups, which must begin in the container's own."""
_PLAIN = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
    "core": "/proc/kcore",
}
_HOME = "/root"


class Newborn:
    """A process that becomes a container."""

    def __init__(
        self, request: dict[str, Any], descriptors: list[int], functions: Functions, pid: int = 0
    ) -> None:
        """`pid` is that of the template in its own namespace."""
        self._pid = pid
        self._request = request
        self._descriptors = descriptors
        self._functions = functions
        self._ear = -1

    def live(self) -> NoReturn:
        """Becomes the container, and is its runner until it ends."""
        from .init import supervise

        if self._request["fork"]:
            try:
                self._settle()
            except BaseException as error:
                os.write(2, f"skylift: the container could not be set up: {error}\n".encode())
                os._exit(71)
            # The first process of the container waits for the others; the runner is its child.
            supervise(self._serve, keep_not=self._ear)
        self._serve()

    def _serve(self) -> NoReturn:
        from .serve import SOCKET_VARIABLE, Runner

        environment = self._request["env"]
        os.environ.clear()
        os.environ.update(environment)
        time.tzset()
        reseed()
        faulthandler.enable(file=2)
        if self._ear >= 0:
            if not os.read(self._ear, 16):
                os._exit(0)  # nobody needs it
            os.close(self._ear)
        kernel.set_process_name(os.path.basename(sys.executable))
        Runner(environment[SOCKET_VARIABLE], self._functions).run()

    def _settle(self) -> None:
        """Everything that takes privileges, and their end."""
        request, (out, err, *others) = self._request, self._descriptors
        os.dup2(out, 1)
        os.dup2(err, 2)
        count, ear = request["cgroups"], others[-1]
        kernel.unshare(_NEW)
        os.write(ear, b"unshared")
        # The kernel takes a while for this, and for the network's device: so both at once.
        for descriptor in others[:count]:
            os.write(descriptor, b"0")
        kernel.unshare(kernel.CLONE_NEWCGROUP)
        os.setsid()
        self._skip_pid()
        kernel.set_host_name(request["hostname"])
        self._make_root()
        if not os.read(ear, 16):
            os._exit(71)  # the host has given up
        self._connect()
        program = _read(others[count]) if request["seccomp"] else b""
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        for descriptor in {null, *self._descriptors} - {0, 1, 2, ear}:
            os.close(descriptor)
        kernel.drop_capabilities()
        if program:
            kernel.load_seccomp(program)
        os.write(ear, b"ready")
        if request.get("hold"):
            self._ear = ear
        else:
            os.close(ear)

    def _skip_pid(self) -> None:
        """The runner must not have the template's pid: by another libraries notice that they were forked."""
        try:
            with open("/proc/sys/kernel/ns_last_pid", "w") as file:
                file.write(str(self._pid))
        except OSError:
            last = 0
            while last < self._pid:
                last = os.fork()
                if last == 0:
                    os._exit(0)
                os.waitpid(last, 0)

    # --- its root --------------------------------------------------------------------------------

    def _make_root(self) -> None:
        request = self._request
        layer = request["layer"]
        root = f"{layer}/root"
        kernel.mount("", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        layers = f"lowerdir=/,upperdir={layer}/upper,workdir={layer}/work,userxattr"
        kernel.mount("overlay", root, "overlay", kernel.MS_NOSUID | kernel.MS_NODEV, layers)
        self._make_devices(f"{root}/dev")
        for path in request["binds"]:
            kernel.mount(path, root + path, None, kernel.MS_BIND | kernel.MS_REC)
        kernel.mount(request["run"], f"{root}/run/skylift", None, kernel.MS_BIND)
        flags = kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
        kernel.mount(f"{root}/run/skylift", f"{root}/run/skylift", None, flags)
        kernel.mount("proc", f"{root}/proc", "proc", _PLAIN)
        kernel.mount("sysfs", f"{root}/sys", "sysfs", _PLAIN | kernel.MS_RDONLY)
        _hide(root, request["masked"], request["read_only"])
        kernel.enter_root(root)
        os.chdir(request["workdir"] or _HOME)

    def _make_devices(self, dev: str) -> None:
        kernel.mount(
            "tmpfs",
            dev,
            "tmpfs",
            kernel.MS_NOSUID | kernel.MS_NOEXEC | kernel.MS_STRICTATIME,
            "mode=755,size=65536k",
        )
        for name in (*_DEVICES, *self._request["devices"]):
            os.makedirs(os.path.dirname(f"{dev}/{name}"), exist_ok=True)
            os.close(os.open(f"{dev}/{name}", os.O_CREAT | os.O_RDONLY))
            kernel.mount(f"/dev/{name}", f"{dev}/{name}", None, kernel.MS_BIND)
        for name, target in _LINKS.items():
            if name != "core" or os.path.exists(target):
                os.symlink(target, f"{dev}/{name}")
        for name in ("pts", "shm", "mqueue"):
            os.mkdir(f"{dev}/{name}")
        kernel.mount(
            "devpts",
            f"{dev}/pts",
            "devpts",
            kernel.MS_NOSUID | kernel.MS_NOEXEC,
            self._request["terminals"],
        )
        size = self._request["shm_size"]
        options = f"mode=1777,size={size}" if size else "mode=1777"
        kernel.mount("shm", f"{dev}/shm", "tmpfs", _PLAIN, options)
        kernel.mount("mqueue", f"{dev}/mqueue", "mqueue", _PLAIN)

    def _connect(self) -> None:
        kernel.bring_up("lo")
        network = self._request["network"]
        if network is not None:
            kernel.set_address("eth0", network["address"], network["mask"])
            kernel.bring_up("eth0")
            kernel.route_by(network["gateway"])


def _hide(root: str, masked: list[str], read_only: list[str]) -> None:
    for path in masked:
        target = root + path
        if os.path.isdir(target):
            kernel.mount("tmpfs", target, "tmpfs", kernel.MS_RDONLY)
        elif os.path.exists(target):
            kernel.mount(f"{root}/dev/null", target, None, kernel.MS_BIND)
    for path in read_only:
        target = root + path
        if os.path.exists(target):
            kernel.mount(target, target, None, kernel.MS_BIND | kernel.MS_REC)
            flags = kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY | _PLAIN
            kernel.mount(target, target, None, flags)


def _read(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0)
