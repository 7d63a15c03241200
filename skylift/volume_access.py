"""What the gateway is asked about volumes, over REST: each function blocks. See docs/volumes.md."""

from __future__ import annotations

import contextlib
import enum
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, urlencode

import msgspec

from skylift import exceptions
from skylift.remote_errors import problem_error
from skylift.wire import Problem
from skylift.wire.volumes import AskedChunk, CommitBody, SentEntry, encode_entries

if TYPE_CHECKING:
    from skylift.http import Http, Query

Path: TypeAlias = str | os.PathLike[str] | bytes

_PIECE = 1024 * 1024
_BROKEN_OFF = 5
"""A download that brings nothing new so often is given up."""


class FileEntryType(enum.IntEnum):
    """What a `FileEntry` is."""

    UNSPECIFIED = 0
    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3


_KINDS = {"file": FileEntryType.FILE, "dir": FileEntryType.DIRECTORY, "link": FileEntryType.SYMLINK}


@dataclass(frozen=True)
class FileEntry:
    """A file, directory or symlink of a volume."""

    path: str
    """From the volume's root, without a slash before it."""
    type: FileEntryType
    mtime: float
    """Seconds since 1970."""
    size: int
    """Bytes; of a directory those of all files below it."""
    mode: int = 0
    """Permission bits."""
    target: str = ""
    """Where a symlink leads."""


@dataclass(frozen=True)
class VolumeInfo:
    """What is known of a volume."""

    name: str
    created: float
    """Seconds since 1970."""
    version: int
    """The newest one's number."""
    changed: float
    """Seconds since 1970."""
    files: int
    size: int
    """Bytes."""
    volume_id: str = ""


@dataclass(frozen=True)
class VolumeVersion:
    """One version of a volume: what a commit made of it."""

    version: int
    """0 is the empty volume."""
    time: float
    """Seconds since 1970."""
    who: str
    message: str
    files: int
    size: int
    """Bytes of all files."""
    added: int
    """Files, against the version before."""
    changed: int
    removed: int
    overwritten: tuple[str, ...]
    """Paths that another commit had changed just before: the first 100."""


class ChunksMissing(Exception):  # noqa: N818
    """A commit named chunks that the store has not."""


def path_bytes(path: Path) -> bytes:
    """A path of a volume as it is sent. Raises `InvalidError` for what is none."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise exceptions.InvalidError(f"{path!r} is no path in a volume: text, such as '/data/train.csv'")
    try:
        return os.fsencode(path)
    except UnicodeEncodeError:
        raise exceptions.InvalidError(f"{path!r} is no path in a volume: it is not UTF-8") from None


def list_volumes(http: Http) -> list[VolumeInfo]:
    """All volumes of this user, by name."""
    return [_info(row) for row in http.get("/v1/volumes")]


def create_volume(http: Http, name: str) -> VolumeInfo:
    """Raises `AlreadyExistsError`."""
    return _info(json.loads(_form(http, "/v1/volumes", [("name", name)])))


def find_volume(http: Http, name: str, create: bool) -> VolumeInfo:
    """Raises `NotFoundError`."""
    method = "PUT" if create else "GET"
    return _info(json.loads(http.send(method, _at(name))[1]))


def delete_volume(http: Http, name: str) -> bool:
    """Whether it was there."""
    return http.delete(_at(name))


def rename_volume(http: Http, old: str, new: str) -> VolumeInfo:
    """Raises `NotFoundError` and `AlreadyExistsError`."""
    return _info(json.loads(_form(http, _at(old, "name"), [("name", new)])))


class VolumeAccess:
    """One volume, or one version of it, on one gateway."""

    def __init__(self, http: Http, name: str, version: int | None = None) -> None:
        self.http = http
        self.name = name
        self._version = [] if version is None else [("version", str(version))]

    # Reading

    def entries(self, path: Path, recursive: bool) -> Iterator[FileEntry]:
        """What is in a directory, as it comes."""
        query: Query = [("path", path_bytes(path)), ("recursive", str(recursive).lower()), *self._version]
        lines = self._lines(_at(self.name, "entries"), query)
        for line in lines:
            row = json.loads(line)
            if "error" in row:
                raise problem_error(Problem(error=row["error"], message=row["message"]))
            yield _entry(row)

    def stat(self, path: Path) -> FileEntry:
        """What is at a path; a symlink is not followed."""
        query: Query = [("path", path_bytes(path)), *self._version]
        return _entry(json.loads(self.http.send("GET", _at(self.name, "entry"), query=query)[1]))

    def read(self, path: Path, begin: int = 0, tag: str = "") -> Download:
        """A file's bytes from `begin` on; all of it where the content of `tag` is not what it has."""
        return Download(
            self.http, _at(self.name, "file"), [("path", path_bytes(path)), *self._version], begin, tag
        )

    def history(self, limit: int | None) -> list[VolumeVersion]:
        """The newest versions first."""
        query: Query = [] if limit is None else [("limit", str(limit))]
        rows = json.loads(self.http.send("GET", _at(self.name, "history"), query=query)[1])
        return [_version(row) for row in rows]

    # Changing

    def copy(self, sources: Sequence[Path], target: Path, recursive: bool) -> VolumeVersion:
        """See `Volume.copy_files`."""
        given: list[tuple[str, str | bytes]] = [("source", path_bytes(source)) for source in sources]
        return self._change("copy", [*given, ("target", path_bytes(target)), _flag("recursive", recursive)])

    def remove(self, path: Path, recursive: bool) -> VolumeVersion:
        """See `Volume.remove_file`."""
        return self._change("remove", [("path", path_bytes(path)), _flag("recursive", recursive)])

    def rename(self, source: Path, target: Path, force: bool) -> VolumeVersion:
        """See `Volume.rename`."""
        given: Query = [("source", path_bytes(source)), ("target", path_bytes(target)), _flag("force", force)]
        return self._change("rename", given)

    def restore(self, version: int, message: str) -> VolumeVersion:
        """See `Volume.restore`."""
        return self._change("restore", [("version", str(version)), ("message", message)])

    # Uploading

    def missing(self, asked: Sequence[AskedChunk]) -> set[str]:
        """Those of these chunks that the store has not."""
        body = msgspec.json.encode(asked)
        _, data = self.http.send("POST", "/v1/chunks/missing", body=body, kind="application/json")
        return set(json.loads(data)["missing"])

    def put_chunks(self, chunks: Sequence[bytes]) -> list[str]:
        """Put them into the store; their names."""
        body = msgspec.msgpack.encode(chunks)
        _, data = self.http.send("POST", "/v1/chunks", body=body, kind="application/msgpack")
        blobs: list[str] = json.loads(data)["blobs"]
        return blobs

    def commit(self, entries: Sequence[SentEntry], force: bool, message: str) -> VolumeVersion:
        """Make these files part of the volume. Raises `ChunksMissing`, `PathExistsError`."""
        payload = self.http.payload(encode_entries(entries))
        body = CommitBody(entries=payload, force=force, message=message)
        status, data = self.http.send(
            "POST",
            _at(self.name, "commits"),
            body=msgspec.json.encode(body),
            kind="application/json",
            accept=(409,),
            again=False,
        )
        answer = json.loads(data)
        if status == 409:
            if "missing" in answer:
                raise ChunksMissing
            raise problem_error(Problem(error=answer["error"], message=answer["message"]))
        return _version(answer)

    def _change(self, what: str, given: Query) -> VolumeVersion:
        return _version(json.loads(_form(self.http, _at(self.name, what), given)))

    def _lines(self, path: str, query: Query) -> Iterator[bytes]:
        import urllib3

        response = self.http.stream(path, query)
        rest = b""
        try:
            for piece in response.stream(_PIECE):
                *lines, rest = (rest + piece).split(b"\n")
                yield from lines
            if rest:
                yield rest
        except urllib3.exceptions.HTTPError as error:
            raise exceptions.ConnectionError(f"GET {path}: the gateway broke off ({error})") from error
        finally:
            response.close()
            response.release_conn()


class Download:
    """A file on its way from a volume: an iterator over its bytes. A connection that breaks off is made
    again."""

    def __init__(self, http: Http, path: str, query: Query, begin: int = 0, tag: str = "") -> None:
        """Raises `PathNotFoundError` and so on at once."""
        self._http = http
        self._path = path
        self._query = query
        self.begin = begin
        """Where it begins in the file."""
        self._open(begin, tag)
        self.begin = self._at

    def __iter__(self) -> Iterator[bytes]:
        fruitless = 0
        try:
            while self._at < self.size:
                before = self._at
                yield from self._pieces()
                if self._at >= self.size:
                    return
                fruitless = 0 if self._at > before else fruitless + 1
                if fruitless >= _BROKEN_OFF:
                    raise exceptions.ConnectionError(
                        f"GET {self._path}: the gateway broke off at {self._at:,} of {self.size:,} bytes"
                    )
                self._again()
        finally:
            self.close()

    def _pieces(self) -> Iterator[bytes]:
        """Until the connection breaks off."""
        import urllib3

        with contextlib.suppress(urllib3.exceptions.HTTPError):
            for piece in self._response.stream(_PIECE):
                self._at += len(piece)
                yield piece

    def close(self) -> None:
        """Let go of it."""
        self._response.close()
        self._response.release_conn()

    def _again(self) -> None:
        at, size, tag = self._at, self.size, self.tag
        self.close()
        self._open(at, tag)
        if self._at != at or self.size != size:
            self.close()
            raise exceptions.ConflictError(
                "the file was changed while it was being read, and the connection broke off meanwhile: read "
                "it "
                "again, or a fixed version of it with at(version)"
            )

    def _open(self, begin: int, tag: str) -> None:
        headers = {"Range": f"bytes={begin}-", **({"If-Range": tag} if tag else {})} if begin else {}
        try:
            self._response = self._http.stream(self._path, self._query, headers)
        except exceptions.InvalidError:
            if not begin:
                raise
            # It ends where we stand, or before.
            self._response = self._http.stream(self._path, self._query)
        partial = self._response.status == 206
        whole = 0 if partial else _length(self._response)
        self._at = begin if partial or (tag and self._response.headers.get("ETag") == tag) else 0
        self.size = self._at + _length(self._response) if partial else whole
        """Of the whole file, in bytes."""
        self.tag = self._response.headers.get("ETag", "")
        """Says which content it is."""
        self.mtime_ns, self.mode = _facts(self._response)


def _length(response: Any) -> int:
    return int(response.headers.get("Content-Length", "0"))


def _facts(response: Any) -> tuple[int, int]:
    headers = response.headers
    return int(headers.get("Last-Modified-Nanoseconds", "0")), int(headers.get("File-Mode", "644"), 8)


def _at(name: str, what: str = "") -> str:
    return f"/v1/volumes/{quote(name, safe='')}" + (f"/{what}" if what else "")


def _form(http: Http, path: str, given: Query) -> bytes:
    # Not sent again: whether it was done is not known.
    kind = "application/x-www-form-urlencoded"
    return http.send("POST", path, body=urlencode(given).encode(), kind=kind, again=False)[1]


def _flag(name: str, value: bool) -> tuple[str, str]:
    return name, "true" if value else "false"


def _info(row: dict[str, Any]) -> VolumeInfo:
    return VolumeInfo(
        row["name"],
        row["created"],
        row["version"],
        row["changed"],
        row["files"],
        row["size"],
        row["volume_id"],
    )


def _entry(row: dict[str, Any]) -> FileEntry:
    path = os.fsdecode(bytes.fromhex(row["raw"])) if "raw" in row else row["path"]
    return FileEntry(path, _KINDS[row["kind"]], row["mtime"], row["size"], row["mode"], row.get("target", ""))


def _version(row: dict[str, Any]) -> VolumeVersion:
    changes = row["changes"]
    return VolumeVersion(
        row["version"],
        row["time"],
        row["who"],
        row["message"],
        row["files"],
        row["size"],
        changes["added"],
        changes["changed"],
        changes["removed"],
        tuple(row["overwritten"]),
    )
