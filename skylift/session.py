"""Sessions: the container behind the ``%%gpu`` cells of one notebook, as the magics see it.

A `Session` describes and drives one container whose variables live from cell to cell. `Session.run_cell`
returns a `CellRun`, an iterator over what the cell does; it can be interrupted, detached and attached again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from skylift.wire import CallStatus, ContainerInfo, End, Event, FunctionSpec

CellItem: TypeAlias = "Event | CallStatus"


class Pickled:
    """A value that is pickled already: for `Session.run_cell` and `Session.put`, in the place of the value.

    The magics pickle by themselves, because a function of the notebook goes with its globals bound to the
    session's namespace (docs/protocol.md), and what it reads from there goes as names of their own.
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class Session:
    """One session. Constructing it talks to nobody: the container starts with the first cell.

    `gpu`: as in ``@app.function``; None for no GPU. `cpu`: cores. `memory`: MiB. `timeout`: seconds for one
    cell. `idle_timeout`: seconds that the container is kept when nothing runs. `image`: None is
    `Image.from_environment()`. Raises `InvalidError` for anything unknown, naming it.
    """

    def __init__(
        self,
        *,
        name: str = "",
        gpu: str | Sequence[str] | None = None,
        cpu: float | tuple[float, float] | None = None,
        memory: int | tuple[int, int] | None = None,
        timeout: float = 24 * 3600,
        idle_timeout: float = 600,
        image: Any = None,
        env: Mapping[str, str] | None = None,
        block_network: bool = False,
        app: str = "notebook",
    ) -> None:
        self.session_id: str = ""
        self.name = name

    @property
    def spec(self) -> FunctionSpec:
        """What the container is made of (the environment is looked at on first use)."""
        raise NotImplementedError

    @property
    def container(self) -> ContainerInfo | None:
        """The container, as last reported while a cell ran."""
        raise NotImplementedError

    def run_cell(
        self,
        code: str,
        *,
        filename: str,
        first_line: int = 1,
        execution_count: int = 0,
        send: Mapping[str, Any] | None = None,
        assigned: Sequence[str] = (),
        limit: int | None = None,
        silent: bool = False,
        detached: bool = False,
        summary: str = "",
        cell: str = "",
    ) -> CellRun:
        """Sends a cell and returns at once.

        `send`: names that the cell reads, with their local values; only those that the session does not
        already hold as they are now are sent (compared by their pickles' hash), and a `RemoteRef` of this
        session goes by reference. Where the container turns out to be a new one that lacks them (``missing`` in
        the protocol), all of `send` goes again; the caller notices nothing.
        `assigned`: names to bring back. `limit`: bytes up to which a value comes back as itself (default
        1 MiB). `first_line`: the number of the code's first line in `filename`. `detached`: the cell runs on
        without this client.

        Raises `SerializationError` naming the variable that cannot travel; nothing has been sent then.
        """
        raise NotImplementedError

    def attach(self, call_id: str, *, from_start: bool = True) -> CellRun:
        """Takes up a cell that runs, or has run, in this or another client; from its start or from now."""
        raise NotImplementedError

    def get(self, ref: RemoteRef) -> Any:
        """The value that a reference stands for. Raises `NotFoundError` when the session has lost it."""
        raise NotImplementedError

    def put(self, values: Mapping[str, Any]) -> None:
        """Binds names in the session without running anything."""
        raise NotImplementedError

    def names(self) -> dict[str, RemoteRef]:
        """What the session holds, by name."""
        raise NotImplementedError

    def holds(self, values: Mapping[str, Pickled]) -> None:
        """Notes that the session has these names in just this form, so that they need not be sent: for what
        came back from a cell, as it looks when it is pickled here."""
        raise NotImplementedError

    def stop(self) -> None:
        """Ends the container; its variables are gone. The next cell starts a new one."""
        raise NotImplementedError


class CellRun:
    """A cell that runs in a session.

    ::

        run = session.run_cell(code, filename="In[3]")
        while (item := run.next(timeout=0.5)) is not TICK:
            ...

    or, without ticks, ``for item in run``. Items are `wire.Event` (output, display, clear, value, error) in
    their order, each exactly once, and `wire.CallStatus` whenever the status changes. Events of kind ``names``
    are taken in here and not passed on: see `assigned`. A ``KeyboardInterrupt`` raised while waiting leaves
    the run as it was, so that the caller can `interrupt` and go on iterating.
    """

    call_id: str
    end: End | None
    """How it ended, once iteration has stopped."""
    status: CallStatus | None
    """The latest status."""
    assigned: dict[str, Any]
    """After the end: the names that the cell assigned, as values or `RemoteRef`."""
    gone: tuple[str, ...]
    """After the end: names that were to come back and are unbound in the session."""
    error: BaseException | None
    """After the end: what the cell raised, with the remote traceback; None if it did not."""

    def next(self, timeout: float | None = None) -> CellItem | None:
        """The next item, or None when none came within `timeout` seconds. Raises StopIteration at the end."""
        raise NotImplementedError

    def __iter__(self) -> CellRun:
        return self

    def __next__(self) -> CellItem:
        raise NotImplementedError

    def interrupt(self) -> None:
        """Raises KeyboardInterrupt in the cell (takes it out of the queue if it has not started)."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Ends the cell for good, with `InputCancellation`."""
        raise NotImplementedError

    def detach(self) -> None:
        """Stops following; the cell runs on. Take it up again with `Session.attach`."""
        raise NotImplementedError


class RemoteRef:
    """A value that lives in a session. Works in its next ``%%gpu`` cells without moving.

    When the last reference here to the value is gone the session is told, with its next cell, to let go of it.
    """

    session: Session
    ref_id: str
    type_name: str
    """As in ``torch.Tensor``."""
    shape: tuple[int, ...] | None
    dtype: str | None
    device: str | None
    nbytes: int | None
    why: str
    """Why it did not come as itself: ``"size"``, ``"generator"`` or ``"unpicklable: …"``."""

    def get(self) -> Any:
        """The value itself, brought here. Raises `SerializationError` where it cannot travel."""
        raise NotImplementedError
