"""This process's link to its gateway: one WebSocket that carries all calls, and comes back by itself.

State lives in the calls: after a reconnect each says again what the gateway needs to go on with it. While no
call is open a lost connection is left alone; the next call makes a new one.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable

import msgspec

from skylift import exceptions
from skylift.calls import Lost, RemoteCall
from skylift.connection import Connection, ConnectionLost
from skylift.context import is_local
from skylift.exceptions import AuthError, PermissionDeniedError, VersionError
from skylift.followed_builds import FollowedBuild
from skylift.gateway_process import Gateway, container_token, find_again, find_gateway
from skylift.handshake import open_connection
from skylift.http import Http
from skylift.remote_errors import problem_error
from skylift.wire import (
    PROTOCOL,
    Accepted,
    BuildEnded,
    BuildOutput,
    Cancel,
    CancelBuild,
    ClientMessage,
    Define,
    Events,
    Hello,
    Problem,
    Refused,
    Status,
    Welcome,
    decode_gateway_message,
    encode,
    machine_id,
    new_id,
)

GIVE_UP_AFTER = 90.0
"""Seconds of reconnecting after which open calls fail here (they may well go on over there)."""
_CONNECT_TIMEOUT = 15.0
_START_GATEWAY_AFTER = 2.0
_DO_NOT_COME_BACK = frozenset({1002, 1003, 1007, 1009})
"""Close codes with which the gateway says that another connection would fare no better."""
_MAX_FAULTS = 3
_PERMANENT = (AuthError, PermissionDeniedError, VersionError)
_NEW_TOKEN_WITHIN = 10.0
"""Seconds after which a container that was restored has its new token at the latest."""

_client: Client | None = None
_client_lock = threading.Lock()


class Client:
    """One process's link to the gateway."""

    def __init__(self) -> None:
        self.client_id = new_id("cl")
        self._token = container_token()
        self.gateway_id = ""
        self.elsewhere = False
        """Whether no host shares this machine's files, as far as the gateway knew at the last connect."""
        self._gateway: Gateway | None = None
        self._http: Http | None = None
        self._connect_lock = threading.Lock()
        self._lock = threading.Lock()
        # All below are guarded by `_lock`.
        self._connection: Connection | None = None
        self._reader: threading.Thread | None = None
        self._calls: dict[str, list[RemoteCall]] = {}
        self._builds: dict[str, FollowedBuild] = {}
        self._outbox: list[ClientMessage] = []
        self._announced: dict[str, Define] = {}
        self._closed = False
        # Only the reader thread looks at these.
        self._fault: Problem | None = None
        self._faults = 0

    @classmethod
    def current(cls) -> Client:
        """The client of this process."""
        global _client
        client = _client
        if client is None:
            with _client_lock:
                client = _client
                if client is None:
                    client = _client = cls()
        return client

    @property
    def http(self) -> Http:
        """REST requests to the gateway. Call `connect` first."""
        if self._http is None:
            self.connect()
            assert self._http is not None
        gateway = self._gateway
        if gateway is not None and container_token() not in ("", gateway.token):
            # It was restored meanwhile, and has not connected again yet.
            self._gateway = find_gateway(start=False)
            self._http = Http(self._gateway)
        return self._http

    @property
    def connected(self) -> bool:
        """Whether calls can be made without `connect`: there is a connection, or one is being made again."""
        return self._connection is not None or self._reader is not None

    def connect(self, progress: Callable[[str], None] | None = None) -> None:
        """Connects, and starts a local gateway where there is none; does nothing when that is done.

        Raises `AuthError`, `VersionError`, `exceptions.ConnectionError`.
        """
        if self.connected:
            return
        with self._connect_lock:
            if self.connected:
                return
            deadline = time.monotonic() + _CONNECT_TIMEOUT
            while True:
                gateway = find_gateway(progress=progress)
                try:
                    connection, rest = self._open(gateway)
                    break
                except ConnectionLost as lost:
                    # A local gateway's file may speak of one that is just going down or coming up.
                    if time.monotonic() > deadline or gateway.home is None:
                        raise exceptions.ConnectionError(
                            f"the gateway at {gateway.url} cannot be reached: {lost}"
                        ) from None
                    time.sleep(0.1)
            with self._lock:
                self._connection = connection
                self._start_reader(connection, rest)

    def announce(self, define: Define) -> None:
        """Makes a function known before it is called, and again on every connection to come: so its
        ``min_containers`` are there. Connects."""
        self.connect()
        with self._lock:
            self._announced[define.function_id] = define
            connection = self._connection
        if connection is not None:
            with contextlib.suppress(ConnectionLost):
                _define(define, connection)

    def call(self, call: RemoteCall) -> None:
        """Submits a call, or attaches to it; from now on the connection keeps it going."""
        with self._lock:
            self._calls.setdefault(call.call_id, []).append(call)
            connection = self._connection
            if connection is None:
                self._start_reader(None, [])
                return
        with contextlib.suppress(ConnectionLost):
            self._introduce(call, connection, again=False)

    def say(self, call: RemoteCall, message: ClientMessage) -> None:
        """Sends a message about a call. What does not get through is not lost: the call says all that matters
        again on the next connection."""
        with call.link_lock:
            connection = call.link
            if connection is not None and connection is self._connection:
                with contextlib.suppress(ConnectionLost):
                    connection.send(encode(message))

    def send(self, message: ClientMessage) -> None:
        """Sends a message that no open call stands behind: now, or on the next connection."""
        connection = self._connection
        if connection is not None:
            try:
                connection.send(encode(message))
                return
            except ConnectionLost:
                pass
        with self._lock:
            self._outbox.append(message)
            if self._connection is None:
                self._start_reader(None, [])

    def build(self, build: FollowedBuild) -> None:
        """Asks for an image, now and on every connection to come, until `build` is over or forgotten."""
        with self._lock:
            self._builds[build.message.build_id] = build
            connection = self._connection
            if connection is None:
                self._start_reader(None, [])
                return
        with contextlib.suppress(ConnectionLost):
            connection.send(encode(build.asked(self.gateway_id)))

    def forget_build(self, build: FollowedBuild) -> None:
        """An image is wanted no more; where it is still being built for nobody else, that is cancelled."""
        with self._lock:
            followed = self._builds.pop(build.message.build_id, None)
        if followed is not None:
            self.send(CancelBuild(build_id=build.message.build_id))

    def cancel_all(self, call_ids: Iterable[str], reason: str) -> None:
        """Cancels calls of which nothing more is wanted; those that have ended are left as they are."""
        for call_id in call_ids:
            self.send(Cancel(call_id=call_id, reason=reason))

    def forget(self, call: RemoteCall) -> bool:
        """Nothing more is wanted of it here. Returns whether another in this process follows it."""
        with self._lock:
            followers = self._calls.get(call.call_id, [])
            if call in followers:
                followers.remove(call)
            if not followers:
                self._calls.pop(call.call_id, None)
            return bool(followers)

    def close(self) -> None:
        """Cancels the calls that are open, and ends the connection."""
        with self._lock:
            self._closed = True
            connection, self._connection = self._connection, None
            calls = self._all_calls()
            builds = self._all_builds()
            self._calls.clear()
            self._outbox.clear()
        if connection is not None:
            for build in builds:
                with contextlib.suppress(ConnectionLost):
                    connection.send(encode(CancelBuild(build_id=build.message.build_id)))
            for call in calls:
                if call.submit is not None and not call.submit.detached:
                    with contextlib.suppress(ConnectionLost):
                        connection.send(encode(Cancel(call_id=call.call_id, reason="the client has ended")))
            connection.close()
        _lose(calls, builds, exceptions.ConnectionError("the connection to the gateway was closed"))

    def abandon(self, error: BaseException) -> None:
        """In the child of a fork: lets go of the parent's connection without a word to the gateway."""
        connection = self._connection
        if connection is not None:
            connection.abandon()
        _lose(self._all_calls(), self._all_builds(), error)

    # --- the connection --------------------------------------------------------------------------

    def _open(self, gateway: Gateway) -> tuple[Connection, list[bytes]]:
        """A connection that has been welcomed, and the messages that came behind the welcome."""
        if (token := container_token()) != self._token:
            # This process was restored from a snapshot, perhaps not only here: it is another client now.
            self.client_id, self._token = new_id("cl"), token
        connection = open_connection(gateway.url, gateway.token, _CONNECT_TIMEOUT)
        try:
            connection.send(
                encode(
                    Hello(
                        protocol=PROTOCOL,
                        client_id=self.client_id,
                        notebook=notebook_name(),
                        python=".".join(map(str, sys.version_info[:3])),
                        machine=machine_id(),
                    )
                )
            )
            messages: list[bytes] = []
            while not messages:
                messages = connection.receive()
            answer = decode_gateway_message(messages[0])
            if isinstance(answer, Refused):
                raise problem_error(answer.problem)
            if not isinstance(answer, Welcome):
                raise exceptions.ConnectionError(f"the gateway at {gateway.url} did not say welcome")
        except msgspec.DecodeError as error:
            connection.close()
            raise VersionError(
                f"the gateway at {gateway.url} speaks another version of the protocol: {error}"
            ) from error
        except BaseException:
            connection.close()
            raise
        if gateway != self._gateway:
            self._gateway, self._http = gateway, Http(gateway)
        if answer.gateway_id != self.gateway_id and self._http is not None:
            self._http.forget_blobs()
        self.gateway_id = answer.gateway_id
        self.elsewhere = bool(answer.machines) and machine_id() not in answer.machines
        return connection, messages[1:]

    def _start_reader(self, connection: Connection | None, messages: list[bytes]) -> None:
        """Starts the reader thread, with a connection or to make one. `_lock` is held."""
        if self._reader is None and not self._closed:
            self._reader = threading.Thread(
                target=self._run, args=(connection, messages), name="skylift-connection", daemon=True
            )
            self._reader.start()

    def _run(self, connection: Connection | None, messages: list[bytes]) -> None:
        reason = ""
        while True:
            if connection is None:
                reconnected = self._reconnect(reason)
                if reconnected is None:
                    return
                connection, messages = reconnected
            try:
                while True:
                    for message in messages:
                        self._dispatch(message)
                    messages = connection.receive()
            except ConnectionLost as lost:
                reason = str(lost)
            except msgspec.DecodeError as error:
                reason = f"the gateway sent what is no message: {error}"
                connection.close()
            with self._lock:
                if self._connection is connection:
                    self._connection = None
                if self._closed or not (self._calls or self._builds or self._outbox or self._announced):
                    self._reader = None
                    return
            problem = self._lasting_fault(connection.close_code)
            if problem is not None:
                self._fail_all(problem_error(problem))
                return
            connection = None

    def _lasting_fault(self, close_code: int) -> Problem | None:
        """What the gateway closed the connection for, if it would do so again."""
        fault, self._fault = self._fault, None
        if fault is None:
            self._faults = 0
            return None
        self._faults += 1
        return fault if close_code in _DO_NOT_COME_BACK or self._faults >= _MAX_FAULTS else None

    def _dispatch(self, frame: bytes) -> None:
        message = decode_gateway_message(frame)
        if isinstance(message, Events):
            for call in tuple(self._calls.get(message.call_id, ())):
                call.deliver(message)
        elif isinstance(message, Status):
            for call in tuple(self._calls.get(message.status.call_id, ())):
                call.deliver(message)
        elif isinstance(message, Accepted):
            for call in tuple(self._calls.get(message.call_id, ())):
                call.deliver(message)
        elif isinstance(message, (BuildOutput, BuildEnded)):
            self._of_build(message)
        elif isinstance(message, Refused):
            self._refused(message)

    def _of_build(self, message: BuildOutput | BuildEnded) -> None:
        with self._lock:
            over = isinstance(message, BuildEnded)
            builds = self._builds
            build = builds.pop(message.build_id, None) if over else builds.get(message.build_id)
        if build is not None:
            build.deliver(message)

    def _refused(self, message: Refused) -> None:
        concerned: Iterable[RemoteCall]
        if message.call_id:
            concerned = tuple(self._calls.get(message.call_id, ()))
        elif message.function_id:
            concerned = [
                call
                for call in self._all_calls()
                if call.define is not None and call.define.function_id == message.function_id
            ]
        else:
            # About the connection: it is closed next, with a code that says whether to come back.
            self._fault = message.problem
            return
        for call in concerned:
            self.forget(call)
            call.deliver(message)

    def _all_calls(self) -> list[RemoteCall]:
        return [call for followers in list(self._calls.values()) for call in followers]

    def _all_builds(self) -> list[FollowedBuild]:
        """Those that are not over; they are forgotten."""
        builds = list(self._builds.values())
        self._builds.clear()
        return builds

    def _fail_all(self, error: BaseException) -> None:
        with self._lock:
            calls = self._all_calls()
            builds = self._all_builds()
            self._calls.clear()
            self._outbox.clear()
            self._reader = None
        _lose(calls, builds, error)

    def _reconnect(self, reason: str) -> tuple[Connection, list[bytes]] | None:
        """Tries to connect again and takes up all open calls; None when that has failed for good."""
        started = time.monotonic()
        delay = 0.05
        error: BaseException
        while True:
            waited = time.monotonic() - started
            if self._closed:
                return None
            try:
                # Who restarts a gateway by hand gets the time to; then we do.
                start = waited >= _START_GATEWAY_AFTER
                known = self._gateway
                gateway = find_gateway(start=start) if known is None else find_again(known, start=start)
                connection, messages = self._open(gateway)
                with self._lock:
                    if self._closed:
                        connection.close()
                        self._reader = None
                        return None
                    self._connection = connection
                # Not in this thread, which has to read: a gateway that nobody reads from reads no more.
                threading.Thread(
                    target=self._resume, args=(connection,), name="skylift-resume", daemon=True
                ).start()
                return connection, messages
            except _PERMANENT as permanent:
                # In a container that has just been restored the new token may be yet to come.
                if is_local() or not isinstance(permanent, AuthError) or waited > _NEW_TOKEN_WITHIN:
                    error = permanent
                    break
            except (ConnectionLost, exceptions.Error, OSError) as failure:
                reason = str(failure) or reason
            with self._lock:
                if self._closed:
                    self._reader = None
                    return None
            if waited > GIVE_UP_AFTER:
                error = exceptions.ConnectionError(
                    f"the connection to the gateway was lost and did not come back in {waited:.0f} seconds: "
                    f"{reason}"
                )
                break
            time.sleep(delay)
            delay = min(delay * 1.6, 2.0)
        self._fail_all(error)
        return None

    def _resume(self, connection: Connection) -> None:
        """Says on a new connection what the gateway needs to go on with every open call."""
        with contextlib.suppress(ConnectionLost):
            for define in list(self._announced.values()):
                _define(define, connection)
            for build in list(self._builds.values()):
                connection.send(encode(build.asked(self.gateway_id)))
            for call in self._all_calls():
                self._introduce(call, connection, again=True)
            while self._outbox:
                connection.send(encode(self._outbox[0]))
                del self._outbox[0]

    def _introduce(self, call: RemoteCall, connection: Connection, *, again: bool) -> None:
        """Makes a call known on a connection, once."""
        with call.link_lock:
            if call.link is connection:
                return
            if call.define is not None:
                _define(call.define, connection)
            if call.submit is not None and not again:
                connection.send(encode(call.submit))
            else:
                for message in call.resume():
                    connection.send(encode(message))
            call.link = connection


def _lose(calls: Iterable[RemoteCall], builds: Iterable[FollowedBuild], error: BaseException) -> None:
    """Nothing more will be heard of these."""
    for call in calls:
        call.deliver(Lost(error))
    for build in builds:
        build.deliver(Lost(error))


def _define(define: Define, connection: Connection) -> None:
    """Makes a function known on a connection, once."""
    with connection.defining:
        if define.function_id not in connection.defined:
            connection.send(encode(define))
            connection.defined.add(define.function_id)


def notebook_name() -> str:
    """The notebook or script that this process runs, for people."""
    session = os.environ.get("JPY_SESSION_NAME")
    if session:
        return session
    shell_namespace = sys.modules["__main__"].__dict__
    vscode = shell_namespace.get("__vsc_ipynb_file__")
    if vscode:
        return str(vscode)
    script = getattr(sys.modules["__main__"], "__file__", None)
    return os.path.abspath(script) if script else os.getcwd()


def close_client() -> None:
    """Ends this process's connection; the next call makes a new one."""
    global _client
    with _client_lock:
        client, _client = _client, None
    if client is not None:
        client.close()


def _forget_client() -> None:
    global _client, _client_lock
    client, _client = _client, None
    _client_lock = threading.Lock()
    if client is not None:
        client.abandon(
            exceptions.ConnectionError("this call belongs to the process that this one was forked from")
        )


atexit.register(close_client)
os.register_at_fork(after_in_child=_forget_client)
