"""``/v1/volumes`` and ``/v1/chunks``: volumes without a container, for the SDK, the sidebar and the CLI.

Paths are in the query, or in a form's body, percent-encoded bytes: what is no UTF-8 works too. What may block
runs in threads. See docs/volumes.md for the routes.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl

import msgspec

from skylift.kernel_gateway.blobs import unreachable
from skylift.kernel_gateway.handler import Handler, RequestError
from skylift.kernel_gateway.volume_answers import VolumeRequestError, entry_row, version_row, volume_problem
from skylift.lazyfs.chunked import ChunkedFormatError
from skylift.lazyfs.names import Names, check_name
from skylift.lazyfs.store import Store, StoreError, StoreFullError, blob_name
from skylift.lazyfs.volume_commits import Version
from skylift.lazyfs.volume_errors import VolumeError
from skylift.lazyfs.volume_reading import VolumeView
from skylift.lazyfs.volume_sent import ChunksMissingError, commit_sent, missing_chunks
from skylift.lazyfs.volumes import Volume, Volumes
from skylift.wire.volumes import (
    CHUNK_BATCH,
    CHUNK_QUESTION,
    AskedChunk,
    CommitBody,
    decode_entries,
)

if TYPE_CHECKING:
    from skylift.wire import Payload

T = TypeVar("T")

THREADS = 8
"""That work on volumes at once; further requests wait for their turn."""

_SPACES = 16
_FORM_LIMIT = 4 * 1024 * 1024
_COMMIT_LIMIT = 1024 * 1024
_QUESTION_LIMIT = 100 * CHUNK_QUESTION
_TRUE = ("1", "true", "yes")
_FALSE = ("0", "false", "no", "")


class VolumeThreads:
    """The volumes of each user, and threads for what may block."""

    def __init__(self, store: Store, names: Names) -> None:
        self.store = store
        self._names = names
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="skylift-volumes")
        self._lock = threading.Lock()
        self._volumes: OrderedDict[str, Volumes] = OrderedDict()
        self.on_changed: Callable[[str], None] = lambda user: None
        """Told, on the event loop, whose volumes have changed through here."""

    def of(self, user: str) -> Volumes:
        """The volumes of a user."""
        with self._lock:
            if user not in self._volumes:
                self._volumes[user] = Volumes(self.store, self._names, space=_space(user))
                while len(self._volumes) > _SPACES:
                    self._volumes.popitem(last=False)
            self._volumes.move_to_end(user)
            return self._volumes[user]

    async def run(self, work: Callable[[], T]) -> T:
        """Do it in a thread. Raises `RequestError` for what can go wrong with volumes."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except VolumeError as error:
            raise VolumeRequestError(*volume_problem(error)) from error
        except StoreFullError as error:
            raise RequestError(507, str(error)) from error
        except StoreError as error:
            raise unreachable(error) from error

    def close(self) -> None:
        """Wait for no one: what is under way is all done, or not at all."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _space(user: str) -> str:
    try:
        check_name(user)
    except ValueError:
        return f"user-{blob_name(user.encode('utf-8', 'surrogatepass'))[:32]}"
    return user if "/" not in user else f"user-{blob_name(user.encode())[:32]}"


class VolumeHandler(Handler):
    """Base of these routes."""

    for_containers = True

    async def prepare(self) -> None:
        """Called by Tornado before the body is read."""
        await super().prepare()
        self._given = dict[str, list[bytes]]()

    def on_finish(self) -> None:
        """Called by Tornado when it is answered: whoever watches the list of volumes may see another one."""
        changes = self.request.method in ("POST", "PUT", "DELETE") and self.request.path != "/v1/chunks"
        if changes and self.get_status() < 400:
            self.gateway.volumes.on_changed(self.user)

    @property
    def who(self) -> str:
        """Kept with a version."""
        return f"{self.user}, container {self.container_id}" if self.container_id else self.user

    async def run(self, work: Callable[[], T]) -> T:
        """See `VolumeThreads.run`."""
        return await self.gateway.volumes.run(work)

    def volumes(self) -> Volumes:
        """Those of this user."""
        return self.gateway.volumes.of(self.user)

    def values(self, name: str) -> list[bytes]:
        """All values of a parameter, from the query or from a form."""
        if not self._given:
            for key, values in self.request.query_arguments.items():
                self._given.setdefault(key, []).extend(values)
            form = self.request.headers.get("Content-Type", "").startswith(
                "application/x-www-form-urlencoded"
            )
            if form and self._received:
                text = bytes(self._received).decode("ascii", "replace")
                for key, value in parse_qsl(text, keep_blank_values=True, errors="surrogateescape"):
                    self._given.setdefault(key, []).append(value.encode("utf-8", "surrogateescape"))
        return self._given.get(name, [])

    def path_of(self, name: str = "path", default: bytes | None = b"/") -> bytes:
        """A path. Raises `RequestError` where it has to be given and is not."""
        values = self.values(name)
        if values:
            return values[-1]
        if default is None:
            raise RequestError(400, f"{self.request.path} needs {name}=.")
        return default

    def text_of(self, name: str) -> str:
        """Text, or ""."""
        values = self.values(name)
        return values[-1].decode("utf-8", "replace") if values else ""

    def flag(self, name: str) -> bool:
        """True or false. Raises `RequestError`."""
        text = self.text_of(name).lower()
        if text not in (*_TRUE, *_FALSE):
            raise RequestError(400, f"{self.request.path}: {name}={text} must be true or false.")
        return text in _TRUE

    def number(self, name: str) -> int | None:
        """A whole number, or None. Raises `RequestError`."""
        text = self.text_of(name)
        if not text:
            return None
        if not re.fullmatch(r"\d{1,15}", text):
            raise RequestError(400, f"{self.request.path}: {name}={text} must be a whole number.")
        return int(text)

    def view(self, name: str, number: int | None) -> VolumeView:
        """What is read: the newest version, or that one. In a thread."""
        volume = self.volumes().from_name(name)
        return volume.view() if number is None else volume.at(number)


class VolumesHandler(VolumeHandler):
    """``/v1/volumes``."""

    async def get(self) -> None:
        """All volumes."""
        self.reply(await self.run(lambda: self.volumes().list()))

    async def post(self) -> None:
        """Make the volume `name`: 201, or 409 where there is one."""
        name = self.text_of("name")
        self.reply(await self.run(lambda: self.volumes().create(name).info()), 201)


class OneVolumeHandler(VolumeHandler):
    """``/v1/volumes/NAME``."""

    async def get(self, name: str) -> None:
        """What it is now."""
        self.reply(await self.run(lambda: self.volumes().from_name(name).info()))

    async def put(self, name: str) -> None:
        """The same; it is made where there is none."""
        made = await self.run(lambda: self.volumes().from_name(name, create_if_missing=True).info())
        self.reply(made)

    async def delete(self, name: str) -> None:
        """It and all its versions. Code in a container may do so with what it made for itself."""
        if self.container_id and not name.startswith("ephemeral-"):
            raise self.beyond_scope(f"delete volumes ({name})")
        await self.run(lambda: self.volumes().delete(name))
        self.set_status(204)


class NameHandler(VolumeHandler):
    """``POST /v1/volumes/NAME/name``."""

    async def post(self, name: str) -> None:
        """Give it the name `name` of the form: 409 where another volume has that."""
        new = self.text_of("name")
        if self.container_id:
            raise self.beyond_scope(f"rename volumes ({name})")
        self.reply(await self.run(lambda: self.volumes().rename(name, new).info()))


class EntryHandler(VolumeHandler):
    """``GET /v1/volumes/NAME/entry``."""

    async def get(self, name: str) -> None:
        """What is at `path`."""
        path, number = self.path_of(), self.number("version")
        self.reply(entry_row(await self.run(lambda: self.view(name, number).stat(path))))


class HistoryHandler(VolumeHandler):
    """``GET /v1/volumes/NAME/history``."""

    async def get(self, name: str) -> None:
        """Its versions, the newest first; `limit` of them, or of those from `before` on downwards."""
        limit = self.number("limit")
        found = await self.run(lambda: self.volumes().from_name(name).history(limit))
        self.reply([version_row(version) for version in found])


class ChangeHandler(VolumeHandler):
    """What changes a volume without sending anything: forms, posted to ``/v1/volumes/NAME/…``.

    ``copy`` (`source`, also several, `target`, `recursive`), ``remove`` (`path`, `recursive`), ``rename``
    (`source`, `target`, `force`), ``restore`` (`version`); each with a `message` where one is wanted.
    """

    body_limit = _FORM_LIMIT

    async def post(self, name: str) -> None:
        """Answers with the version that came of it."""
        what = self.request.path.rpartition("/")[2]
        work = {"copy": self._copy, "remove": self._remove, "rename": self._rename, "restore": self._restore}
        change = work[what]()
        self.reply(version_row(await self.run(lambda: change(self.volumes().from_name(name)))))

    def _copy(self) -> Callable[[Volume], Version]:
        sources, target = self.values("source"), self.path_of("target", None)
        if not sources:
            raise RequestError(400, f"{self.request.path} needs source=.")
        recursive, message = self.flag("recursive"), self.text_of("message")
        return lambda volume: volume.copy_files(
            sources, target, recursive=recursive, who=self.who, message=message
        )

    def _remove(self) -> Callable[[Volume], Version]:
        path, recursive, message = self.path_of("path", None), self.flag("recursive"), self.text_of("message")
        return lambda volume: volume.remove_file(path, recursive=recursive, who=self.who, message=message)

    def _rename(self) -> Callable[[Volume], Version]:
        source, target = self.path_of("source", None), self.path_of("target", None)
        force, message = self.flag("force"), self.text_of("message")
        return lambda volume: volume.rename(source, target, force=force, who=self.who, message=message)

    def _restore(self) -> Callable[[Volume], Version]:
        number, message = self.number("version"), self.text_of("message")
        if number is None:
            raise RequestError(400, f"{self.request.path} needs version=.")
        return lambda volume: volume.restore(number, who=self.who, message=message)


class Missing(msgspec.Struct, frozen=True):
    """Answer of ``POST /v1/chunks/missing``, and of a commit that lacks some (409)."""

    missing: list[str]


class CommitHandler(VolumeHandler):
    """``POST /v1/volumes/NAME/commits``."""

    body_limit = _COMMIT_LIMIT

    async def post(self, name: str) -> None:
        """Files whose chunks are in the store become a version; 409 with `missing` where some are not."""
        wish: CommitBody = self.body(CommitBody)
        try:
            version = await self.run(lambda: self._commit(name, wish))
        except VolumeRequestError as problem:
            if isinstance(problem.__cause__, ChunksMissingError):
                self.reply(Missing(list(problem.__cause__.missing)), 409)
                return
            raise
        self.reply(version_row(version), 201)

    def _commit(self, name: str, wish: CommitBody) -> Version:
        volume = self.volumes().from_name(name)
        try:
            entries = decode_entries(self._bytes(wish.entries))
            return commit_sent(volume, entries, force=wish.force, who=self.who, message=wish.message)
        except (msgspec.DecodeError, ChunkedFormatError) as error:
            raise RequestError(400, f"These are no entries of files: {error}") from error

    def _bytes(self, payload: Payload) -> bytes:
        return self.gateway.store.get(payload.blob) if payload.blob else payload.data


class MissingHandler(VolumeHandler):
    """``POST /v1/chunks/missing``."""

    body_limit = _QUESTION_LIMIT

    async def post(self) -> None:
        """Body: JSON, a list of [blob, bytes in the store]. Answers with those that are to be sent."""
        try:
            asked = msgspec.json.decode(bytes(self._received), type=list[AskedChunk])
        except msgspec.DecodeError as error:
            raise RequestError(400, f"The body of POST {self.request.path}: {error}.") from None
        if len(asked) > CHUNK_QUESTION or any(not re.fullmatch("[0-9a-f]{64}", one.blob) for one in asked):
            raise RequestError(
                400, f"POST {self.request.path} takes up to {CHUNK_QUESTION:,} names of blobs at once."
            )
        self.reply(Missing(await self.run(lambda: missing_chunks(self.gateway.store, asked))))


class Kept(msgspec.Struct, frozen=True):
    """Answer of ``POST /v1/chunks``."""

    blobs: list[str]


class ChunksHandler(VolumeHandler):
    """``POST /v1/chunks``."""

    body_limit = CHUNK_BATCH + 64 * 1024

    async def post(self) -> None:
        """Body: msgpack, a list of bytes, each a chunk. Answers with their names."""
        try:
            chunks = msgspec.msgpack.decode(bytes(self._received), type=list[bytes])
        except msgspec.DecodeError as error:
            raise RequestError(400, f"The body of POST {self.request.path}: {error}.") from None
        self._received = bytearray()
        store = self.gateway.store
        self.reply(Kept(await self.run(lambda: [store.put(chunk) for chunk in chunks])), 201)
