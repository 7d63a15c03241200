"""Restoring a container from CRIU's images without ``runc restore``.

CRIU is run in the mount namespace that the container's root is mounted in, and in the container's cgroup. It
is told what to do over its own protocol (``criu swrk``: messages of protobuf on a socket), and asks back at
certain steps: so its work on namespaces, mounts and processes goes on while the pages are still unpacked.

What makes it faster than ``runc restore``: the kernel's features are not probed each time
(`criu.kernel_facts`), cgroups are joined instead of restored, and no firewall rules are touched
(`criu_images.make_quick_to_restore`), there is no log but for errors, and no state is written of a container
that runc need not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

import msgspec

from skylift.runtime.criu import Criu
from skylift.runtime.criu_complaints import errors_in
from skylift.runtime.criu_protobuf import encode, fields, numbers
from skylift.runtime.runc.commands import within

CLONE_NEWNET = 0x40000000

TIMEOUT = 60.0
"""Seconds for all of it."""
END_TIMEOUT = 5.0
"""Seconds that CRIU has to clean up when it has failed."""
MAX_MESSAGE = 65536
"""Bytes."""

_RESTORE, _NOTIFY = 2, 6
"""Kinds of messages (``criu_req_type``)."""
_IGNORE_CGROUPS = 0
_ERRORS_ONLY = 1
_LOG = "restore.log"
_BEFORE_PAGES = "post-setup-namespaces"
"""The last step before processes are made and their memory is read."""
_BEFORE_IT_RUNS = "post-restore"

_JOIN = 'while [ "$1" != -- ]; do echo 0 >"$1" || exit 1; shift; done; shift; exec unshare --cgroup "$@"'
"""Moves itself into cgroups, and makes them the root of what the container sees of them."""
_SHOW_FACTS = """for attempt in 1 2 3; do
[ -e /run/criu.kdat ] || : >/run/criu.kdat
mount --bind "$1" /run/criu.kdat 2>/dev/null && break
done; shift; exec "$@\""""
"""Another CRIU may remove the file or put another in its place meanwhile. Without it, CRIU probes."""


class CriuError(Exception):
    """CRIU could not write or restore a container. The message says why."""


class RestorePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is restored, and into what."""

    images: Path
    """Folder of the images."""
    work: Path
    """Folder for CRIU's log."""
    root: Path
    """Where the container's root is mounted, in the mount namespace that `command` makes."""
    mounts: Mapping[str, str]
    """Where in the container something of the host is mounted, and what."""
    descriptors: Sequence[str]
    """How the images call the container's standard input, output and error (``"pipe:[123]"``)."""
    cgroup: Sequence[Path] = ()
    """Files (``cgroup.procs``) of the cgroup that it is to be in, one for each hierarchy."""
    empty_network: bool = True
    """Whether its network namespace has nothing in it but the loopback, which is down."""
    kernel_facts: Path | None = None
    """See `criu.kernel_facts`."""


async def restore(
    criu: Criu,
    plan: RestorePlan,
    command: Callable[[Sequence[str]], list[str]],
    *,
    stdout: int,
    stderr: int,
    pages: Future[None] | None = None,
    prepare: Callable[[int], Awaitable[None]] | None = None,
    finish: Callable[[int], Awaitable[None]] | None = None,
) -> int:
    """The pid of the restored container's first process, which is a child of this one.

    `command` makes of a command another that runs it where the container's root is mounted. `stdout` and
    `stderr` are descriptors for the container. CRIU waits for `pages` before it reads the memory; the other
    images must be there. `prepare` is called with the pid of the first process when its namespaces are there,
    and CRIU waits for it before files are opened and memory is read; `finish` when all is there, before
    anything of it runs. Raises `CriuError`, and what `pages`, `prepare` and `finish` raise; of the container
    nothing runs then.
    """
    (plan.work / _LOG).unlink(missing_ok=True)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with ours, theirs, _folder(plan.images) as images, _folder(plan.work) as work:
        process = await asyncio.create_subprocess_exec(
            *_placed(criu, plan, command, theirs.fileno()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        begun: list[int] = []
        try:
            request = _request(plan, images, work)
            pid = await within(_converse(ours, request, pages, prepare, finish, begun), TIMEOUT)
        except BaseException as error:
            ours.close()
            await _end(process, plan, begun)
            if isinstance(error, asyncio.TimeoutError):
                raise CriuError(f"CRIU did not restore the container within {TIMEOUT:.0f} s.") from error
            if isinstance(error, _RefusedError):
                raise CriuError(_complaint(plan.work, str(error))) from error
            raise
        # It has nothing left to do but to end.
        ending = asyncio.ensure_future(process.wait())
        _ending.add(ending)
        ending.add_done_callback(_ending.discard)
        return pid


_ending: set[asyncio.Future[int]] = set()
"""Holds on to what waits for the end of a CRIU."""


class _RefusedError(Exception):
    """CRIU has ended, or says that it failed."""


async def _converse(
    connection: socket.socket,
    request: bytes,
    pages: Future[None] | None,
    prepare: Callable[[int], Awaitable[None]] | None,
    finish: Callable[[int], Awaitable[None]] | None,
    begun: list[int],
) -> int:
    """The pid of what was restored. Puts it into `begun` as soon as it is known."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, request)
    while True:
        answer = await loop.sock_recv(connection, MAX_MESSAGE)
        if not answer:
            raise _RefusedError
        values = numbers(answer)
        if values.get(1) == _NOTIFY:
            step = _nested(answer, 5)
            begun += [pid for number, pid in numbers(step).items() if number == 2 and pid]
            try:
                if _text(step, 1) == _BEFORE_PAGES:
                    if prepare is not None:
                        await prepare(begun[0])
                    if pages is not None:
                        await wait_for(pages)
                if _text(step, 1) == _BEFORE_IT_RUNS and finish is not None:
                    await finish(begun[0])
            except BaseException:
                await loop.sock_sendall(connection, encode([(1, _NOTIFY), (3, False)]))
                raise
            await loop.sock_sendall(connection, encode([(1, _NOTIFY), (3, True)]))
        elif values.get(2):
            return numbers(_nested(answer, 4))[1]
        else:
            raise _RefusedError(_text(answer, 9))


async def wait_for(pages: Future[None]) -> None:
    """Wait. Raises what `pages` raises. A cancellation leaves it as it is."""
    waiting = asyncio.wrap_future(pages)
    waiting.add_done_callback(
        lambda done: done.cancelled() or done.exception()
    )  # nobody may be left to see it
    await asyncio.shield(waiting)


async def _end(process: asyncio.subprocess.Process, plan: RestorePlan, begun: Iterable[int]) -> None:
    """Let CRIU clean up, and see to it that nothing of the container is left."""
    try:
        await within(process.wait(), END_TIMEOUT)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()
    # Its first process is a child of this one: nobody else has its pid before it is waited for.
    for pid in {*begun, *_members(plan)}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            await asyncio.to_thread(os.waitpid, pid, 0)


def _members(plan: RestorePlan) -> set[int]:
    """The processes in the container's cgroup."""
    pids: set[int] = set()
    for path in plan.cgroup[:1]:
        pids.update(map(int, path.read_text(encoding="ascii").split()))
    return pids


def _request(plan: RestorePlan, images: int, work: int) -> bytes:
    options: list[tuple[int, int | str | bytes]] = [
        (1, images),
        (9, _ERRORS_ONLY),
        (10, _LOG),
        (12, True),  # ask back
        (13, str(plan.root)),
        (17, work),
        (26, True),  # the container is to be a sibling of CRIU, not its child
        (34, _IGNORE_CGROUPS),
    ]
    if plan.empty_network:
        options.append((38, CLONE_NEWNET))
    for number, name in enumerate(plan.descriptors):
        if not name.startswith("/"):
            options.append((27, encode([(1, name), (2, number)])))
    options += [(37, f"mnt[{inside}]:{outside}") for inside, outside in plan.mounts.items()]
    return encode([(1, _RESTORE), (2, encode(options))])


def with_kernel_facts(command: Sequence[str], facts: Path) -> list[str]:
    """The command, to be run in a mount namespace of its own, with what CRIU knows of this kernel."""
    return ["sh", "-c", _SHOW_FACTS, "sh", str(facts), *command]


def _placed(
    criu: Criu, plan: RestorePlan, command: Callable[[Sequence[str]], list[str]], descriptor: int
) -> list[str]:
    """The command that runs CRIU in the container's place."""
    worker = [str(criu.path), "swrk", str(descriptor)]
    if plan.kernel_facts is not None:
        worker = with_kernel_facts(worker, plan.kernel_facts)
    placed = command(worker)
    if plan.cgroup:
        placed = ["sh", "-c", _JOIN, "sh", *map(str, plan.cgroup), "--", *placed]
    return placed


def _complaint(work: Path, said: str) -> str:
    """Why it failed: the first error in what CRIU answered, or else in its log."""
    with contextlib.suppress(OSError):
        said += (work / _LOG).read_text(encoding="utf-8", errors="replace")
    errors = errors_in(said)
    return f"CRIU could not restore the container: {errors[0] if errors else 'it does not say why'}."


def _nested(message: bytes, number: int) -> bytes:
    """A field that is a message; empty where it is not there."""
    found = (value for each, _, value, _ in fields(message) if each == number)
    value = next(found, b"")
    return value if isinstance(value, bytes) else b""


def _text(message: bytes, number: int) -> str:
    return _nested(message, number).decode(errors="replace")


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
