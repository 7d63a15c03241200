"""Sessions: the container behind the ``%%gpu`` cells of one notebook, as the magics see it.

A `Session` describes and drives one container whose variables live from cell to cell. `Session.run_cell`
returns a `CellRun`, an iterator over what the cell does; it can be interrupted, detached and attached again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from blake3 import blake3

from skylift.calls import RemoteCall, unexpected_end
from skylift.cell_envelope import Pickled, envelope, pickled
from skylift.cell_run import CellItem, CellRun
from skylift.client import Client
from skylift.exceptions import InvalidError, NotFoundError, SerializationError
from skylift.image import Image, default_image
from skylift.image_checks import check_built, check_python
from skylift.local_modules import in_notebook, local_modules
from skylift.options import check_options
from skylift.remote_errors import rebuild
from skylift.remote_ref import References, RemoteRef
from skylift.results import connected_client, event_data
from skylift.serialization import loads, warn_large
from skylift.volume_options import mounts_of
from skylift.waiting import BLOCKING
from skylift.waiting import run as run_blocking
from skylift.wire import (
    WARN_SIZE,
    ContainerInfo,
    Define,
    Event,
    FunctionSpec,
    ImageSpec,
    StopSession,
    Submit,
    VolumeMount,
    new_id,
)

__all__ = ["CellItem", "CellRun", "Pickled", "RemoteRef", "Session"]

DEFAULT_LIMIT = 1024 * 1024

SLEEP_SECONDS = 150.0
"""That `Session.sleep` and `Session.wake` wait for the gateway, which says after two minutes that it takes
longer."""


@dataclass(frozen=True)
class Slept:
    """A session sleeps."""

    seconds: float
    """That it took; 0 where it did sleep already."""
    size: int
    """Bytes in the store."""
    unpacked: int
    """Bytes of its memory and files."""


class Session:
    """One session. Constructing it talks to nobody: the container starts with the first cell.

    `gpu`: as in ``@app.function``; None for no GPU. `cpu`: cores. `memory`: MiB. `timeout`: seconds for one
    cell. `idle_timeout`: seconds that the container is kept when nothing runs. `idle_policy`: what becomes of
    it then: ``"sleep"`` (it is kept where it cannot), ``"sleep-or-stop"``, ``"stop"``, ``"keep"``. `image`:
    None is `Image.from_environment()`. `session_id`: takes up a session that another client started, instead
    of a new one. Raises `InvalidError` for anything unknown, naming it.
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
        idle_policy: str = "sleep",
        image: Any = None,
        env: Mapping[str, str] | None = None,
        block_network: bool = False,
        volumes: Mapping[str, Any] | None = None,
        app: str = "notebook",
        session_id: str = "",
    ) -> None:
        given = {
            "gpu": gpu,
            "cpu": cpu,
            "memory": memory,
            "timeout": timeout,
            "scaledown_window": idle_timeout,
            "idle_policy": idle_policy,
            "image": image,
            "env": env,
            "block_network": block_network,
            "volumes": volumes,
        }
        # One container is the session: a second one would have none of its variables.
        self._options = replace(check_options(given), max_containers=1)
        self._app = app
        self.name = name
        self._begin(session_id)
        if session_id:
            self._defined()

    def _begin(self, session_id: str = "") -> None:
        self.session_id = session_id or new_id("se")
        self._define: Define | None = None
        self._container: ContainerInfo | None = None
        self._references = References(self)
        # What the session is known to hold: the hash of each name's pickle.
        self._held: dict[str, bytes] = {}

    @property
    def spec(self) -> FunctionSpec:
        """What the container is made of (the environment is looked at on first use)."""
        return self._defined().spec

    @property
    def image(self) -> Image:
        """What its container holds."""
        return self._options.image or default_image()

    @property
    def container(self) -> ContainerInfo | None:
        """The container, as last reported while a cell ran."""
        return self._container

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
        timeout: float | None = None,
    ) -> CellRun:
        """Sends a cell and returns at once.

        `send`: names that the cell reads, with their local values, or `Pickled`; only those that the session
        does not hold in just this form are sent, and a `RemoteRef` of this session goes by reference. Where
        the container turns out to be a new one that lacks them, everything goes again; the caller notices
        nothing. `assigned`: names to bring back. `limit`: bytes up to which a value comes back as itself
        (default 1 MiB). `first_line`: the number of the code's first line in `filename`. `detached`: the cell
        runs on without this client. `timeout`: seconds for this cell, in the place of the session's.

        Raises `SerializationError` naming the variable that cannot travel; nothing has been sent then.
        """
        values = pickled(send or {})
        self._check_sendable(values)
        new, held = self._split(values)
        _warn_of_large(new)
        header: dict[str, Any] = {
            "op": "run",
            "code": code,
            "filename": filename,
            "first_line": first_line,
            "execution_count": execution_count,
            "assigned": list(assigned),
            "limit": DEFAULT_LIMIT if limit is None else limit,
            "drop": self._references.take_gone(),
            "silent": silent,
        }

        def everything() -> RemoteCall:
            data = envelope(header, values)
            return self._submit(data, summary=summary, cell=cell, detached=detached, timeout=timeout)

        if detached:
            # Nobody would be there to send again what a new container lacks.
            run = self._accepted(everything())
        else:
            data = envelope({**header, "have": held}, new)
            call = self._submit(data, summary=summary, cell=cell, timeout=timeout)
            run = CellRun(self, call, again=everything if held else None)
        self._note_sent(values)
        for name in assigned:
            self._held.pop(name, None)
        return run

    def _accepted(self, call: RemoteCall) -> CellRun:
        """A detached cell, once it is on disk; followed from its start if anyone asks."""
        try:
            _, message = call.mailbox.take()
            call.take_in(message)
        finally:
            call.client.forget(call)
        return CellRun(self, RemoteCall(call.client, call.call_id, follow_status=True), followed=False)

    def attach(self, call_id: str, *, from_start: bool = True) -> CellRun:
        """Takes up a cell that runs, or has run, in this or another client; from its start or from now."""
        client = run_blocking(connected_client(BLOCKING))
        call = RemoteCall(client, call_id, first_seq=0 if from_start else -1, follow_status=True)
        client.call(call)
        return CellRun(self, call)

    def get(self, ref: RemoteRef) -> Any:
        """The value that a reference stands for. Raises `NotFoundError` when the session has lost it."""
        event = self._ask({"op": "get", "ref": ref.ref_id}, f"{ref.type_name}.get()")
        data = event_data(event, Client.current())
        return loads(data, f"the {ref.type_name} of session {self.name or self.session_id}")

    def put(self, values: Mapping[str, Any]) -> None:
        """Binds names in the session without running anything."""
        travelling = pickled(values)
        self._check_sendable(travelling)
        _warn_of_large(travelling)
        self._finish(self._submit(envelope({"op": "put"}, travelling), summary=f"put {', '.join(values)}"))
        self._note_sent(travelling)

    def names(self) -> dict[str, RemoteRef]:
        """What the session holds, by name."""
        event = self._ask({"op": "names"}, "names")
        listed = json.loads(event_data(event, Client.current()))
        return {entry["name"]: self._references.of(entry) for entry in listed}

    def holds(self, values: Mapping[str, Pickled]) -> None:
        """Notes that the session has these names in just this form, so that they need not be sent: for what
        came back from a cell, as it looks when it is pickled here."""
        self._note_sent(values)

    def sleep(self) -> Slept:
        """Writes the container to the store with all its variables and ends it, so that its GPU is free. The
        next cell wakes it.

        Raises `ConflictError` where a cell runs or it cannot sleep, saying why (it runs on then),
        `NotFoundError` where it is not up, `exceptions.TimeoutError` where it takes over two minutes.
        """
        return Slept(**self._post("sleep"))

    def wake(self) -> float:
        """Wakes the session, without a cell, and waits until it is up. Returns how many seconds that took; 0
        where it was awake.

        Raises `RemoteError` where it cannot be woken, saying why (what is kept of it stays), `NotFoundError`
        where there is none, `exceptions.TimeoutError` where it takes over two minutes.
        """
        return float(self._post("wake")["seconds"])

    def _post(self, what: str) -> dict[str, Any]:
        if self._define is None:
            raise NotFoundError(f"session {self.name or self.session_id} has not run a cell yet")
        client = run_blocking(connected_client(BLOCKING))
        answer: dict[str, Any] = client.http.post(f"/v1/sessions/{self.session_id}/{what}", SLEEP_SECONDS)
        return answer

    def stop(self) -> None:
        """Ends the container, or what is kept of it where it sleeps; its variables are gone. The next cell
        starts a new session."""
        if self._define is not None:
            client = run_blocking(connected_client(BLOCKING))
            client.send(StopSession(session=self.session_id))
        self._begin()

    # --- how it is done --------------------------------------------------------------------------

    def _defined(self, timeout: float | None = None) -> Define:
        """What calls of the session run in: its container, with `timeout` or the session's own."""
        if self._define is None:
            image = self._image()
            spec = self._options.spec(
                self._app,
                self.name or "session",
                image,
                session=self.session_id,
                session_name=self.name,
                volumes=self._mounts(),
            )
            self._define = _define(spec)
        if timeout is None or timeout == self._define.spec.timeout:
            return self._define
        return _define(msgspec.structs.replace(self._define.spec, timeout=timeout))

    def _mounts(self) -> tuple[VolumeMount, ...]:
        if not self._options.volumes:
            return ()
        client = run_blocking(connected_client(BLOCKING))
        return run_blocking(mounts_of(BLOCKING, client.http, self._options.volumes))

    def _image(self) -> ImageSpec:
        """Built, where that has not been done yet."""
        image = self.image
        if image._chain is None and not Client.current().elsewhere:
            return image._spec()
        what = f"session {self.name or self.session_id}"
        check_python(image._python, what, by_value=True)
        client = run_blocking(connected_client(BLOCKING))
        spec = run_blocking(image._ready(BLOCKING, client, None, local_modules(in_notebook())))
        check_built(spec, what, by_value=True)
        return spec

    def _split(self, values: Mapping[str, Pickled | RemoteRef]) -> tuple[dict[str, Any], list[str]]:
        """What has to be sent, and the names that the session has in this form."""
        new: dict[str, Any] = {}
        held: list[str] = []
        for name, value in values.items():
            if isinstance(value, Pickled) and self._held.get(name) == _digest(value):
                held.append(name)
            else:
                new[name] = value
        return new, held

    def _note_sent(self, values: Mapping[str, Pickled | RemoteRef]) -> None:
        for name, value in values.items():
            if isinstance(value, Pickled):
                self._held[name] = _digest(value)
            else:
                self._held.pop(name, None)

    def _check_sendable(self, values: Mapping[str, Pickled | RemoteRef]) -> None:
        for name, value in values.items():
            if isinstance(value, RemoteRef) and value.session is not self:
                raise SerializationError(
                    f"{name!r} lives in session {value.session.name or value.session.session_id}, and this "
                    f"cell runs in session {self.name or self.session_id}. Bring it here first: "
                    f"{name} = {name}.get()"
                )

    def _submit(
        self,
        data: bytes,
        *,
        summary: str = "",
        cell: str = "",
        detached: bool = False,
        timeout: float | None = None,
    ) -> RemoteCall:
        client = run_blocking(connected_client(BLOCKING))
        define = self._defined(timeout)
        submit = Submit(
            call_id=new_id("fc"),
            function_id=define.function_id,
            kind="cell",
            args=client.http.payload(data),
            summary=summary,
            cell=cell,
            detached=detached,
            durable=detached,
        )
        call = RemoteCall(client, submit.call_id, submit=submit, define=define, follow_status=True)
        try:
            client.call(call)
        except BaseException:
            call.abandon("interrupted while it was sent")
            raise
        return call

    def _ask(self, header: Mapping[str, Any], summary: str) -> Event:
        if self._define is None:
            raise InvalidError(f"session {self.name or self.session_id} has not run a cell yet")
        event = self._finish(self._submit(envelope(header), summary=summary))
        assert event is not None
        return event

    def _finish(self, call: RemoteCall) -> Event | None:
        """Waits for an operation to end. Raises what it raised."""
        result: Event | None = None
        try:
            while (events := run_blocking(call.events(BLOCKING))) is not None:
                for event in events:
                    if event.kind == "error":
                        raise rebuild(event.meta, event_data(event, call.client))
                    if event.kind == "result":
                        result = event
        except BaseException:
            call.abandon("its caller no longer waits for it")
            raise
        if call.end is not None and call.end.state != "done":
            raise unexpected_end(call, "the session")
        return result


def _define(spec: FunctionSpec) -> Define:
    digest = blake3(msgspec.msgpack.encode(spec)).hexdigest()
    return Define(function_id=f"fu-{digest[:40]}", spec=spec)


def _warn_of_large(values: Mapping[str, Pickled | RemoteRef]) -> None:
    for name, value in values.items():
        if isinstance(value, Pickled) and len(value.data) > WARN_SIZE:
            warn_large(f"the variable {name!r}", len(value.data))


def _digest(value: Pickled) -> bytes:
    return blake3(value.data).digest()
