"""The objects of a bucket as a tree of files: keys are paths, and what they have in common are folders.

A folder is there as long as an object is below it; one that is made is an empty object whose key ends with a
slash. Where there is an object ``a`` and one ``a/b``, ``a`` is a folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from skylift.lazyfs.s3_bucket import Bucket, MissingObjectError, ObjectExistsError

LISTED_SECONDS = 3.0
"""For so long a folder is not listed again: what others change is seen after that."""

BLOCK = 4 << 20
"""Bytes that are read at once."""

MAX_COPY = 5 << 30
"""Bytes of an object that S3 copies in one request."""

_KEPT_BLOCKS = 24
_KEPT_LISTS = 256
_PART = 16 << 20
_MOST_PARTS = 10_000
_PARALLEL = 4
_LONGEST_NAME = 255


class Found(NamedTuple):
    """A file or folder."""

    folder: bool
    size: int = 0
    """Bytes."""
    mtime: float = 0.0
    """Seconds since 1970."""
    etag: str = ""
    """Another one where the content is another."""


FOLDER = Found(folder=True)


class BucketObjects:
    """The objects below one prefix of a bucket. Thread-safe.

    A path is the rest of a key, without a slash at its ends; "" is the root. Methods raise `BucketError`, and
    FileNotFoundError for what is not there.
    """

    def __init__(self, bucket: Bucket, clock: Callable[[], float] = time.monotonic) -> None:
        self.bucket = bucket
        self._clock = clock
        self._lock = threading.Lock()
        self._lists: OrderedDict[str, tuple[float, dict[str, Found]]] = OrderedDict()
        self._changes = 0
        self._blocks: OrderedDict[tuple[str, str, int], bytes] = OrderedDict()

    def check(self) -> None:
        """Ask for something, so that it is known whether the bucket answers."""
        self._has_below("")

    def find(self, path: str) -> Found | None:
        """What is at a path, or None."""
        if not path:
            return FOLDER
        parent, _, name = path.rpartition("/")
        if (listed := self._listed(parent)) is not None:
            return listed.get(name)
        if self._has_below(path):
            return FOLDER
        with contextlib.suppress(MissingObjectError):
            return self.bucket.request("head_object", _found, Key=self.bucket.key(path))
        return None

    def list(self, path: str) -> dict[str, Found]:
        """What is in a folder, by name. What cannot be the name of a file is left out."""
        if (listed := self._listed(path)) is not None:
            return listed
        changes = self._changes
        prefix = self.bucket.key(f"{path}/" if path else "")
        found: dict[str, Found] = {}
        there = not path
        for answer in self._pages(prefix):
            there = there or bool(answer.get("Contents") or answer.get("CommonPrefixes"))
            for each in answer.get("Contents", ()):
                name = str(each["Key"])[len(prefix) :]
                if _may_be_name(name):
                    mtime = each["LastModified"].timestamp()
                    found.setdefault(name, Found(False, int(each["Size"]), mtime, str(each["ETag"])))
            for each in answer.get("CommonPrefixes", ()):
                name = str(each["Prefix"])[len(prefix) : -1]
                if _may_be_name(name):
                    found[name] = FOLDER
        if not there:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        with self._lock:
            if changes == self._changes:
                self._lists[path] = self._clock(), found
                self._lists.move_to_end(path)
                if len(self._lists) > _KEPT_LISTS:
                    self._lists.popitem(last=False)
        return found

    def read(self, path: str, found: Found, offset: int, length: int) -> bytes:
        """Bytes of a file as it was found. Where it is another by now, that is an OSError (ESTALE)."""
        end = min(offset + length, found.size)
        parts = []
        while offset < end:
            number, within = divmod(offset, BLOCK)
            block = self._block(path, found, number)
            parts.append(block[within : within + end - offset])
            offset += len(parts[-1])
        return b"".join(parts)

    def read_ahead(self, path: str, found: Found, offset: int) -> None:
        """Have the block ready that begins there or before it."""
        if offset < found.size:
            self._block(path, found, offset // BLOCK)

    def upload(self, path: str, file: int) -> Found:
        """Make an object of all of an open file, in place of one that is there."""
        size = os.fstat(file).st_size
        key = self.bucket.key(path)
        if size <= _PART:
            data = os.pread(file, size, 0) if size else b""
            etag = self.bucket.request("put_object", lambda answer: str(answer["ETag"]), Key=key, Body=data)
        else:
            etag = self._upload_parts(key, file, size)
        self._changed(path)
        return Found(False, size, time.time(), etag)

    def remove(self, path: str) -> None:
        """Remove a file."""
        self._delete(self.bucket.key(path))
        self._changed(path)

    def copy(self, source: str, target: str) -> None:
        """Make an object of a file of up to `MAX_COPY` bytes, in place of one that is there."""
        copied = {"Bucket": self.bucket.name, "Key": self.bucket.key(source)}
        try:
            self.bucket.request(
                "copy_object", lambda answer: None, Key=self.bucket.key(target), CopySource=copied
            )
        except MissingObjectError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source) from None
        self._changed(target)

    def make_folder(self, path: str) -> None:
        """Make a folder that is there without anything in it."""
        key = self.bucket.key(f"{path}/")
        self.bucket.request("put_object", lambda answer: None, Key=key, Body=b"")
        self._changed(path)

    def remove_folder(self, path: str) -> None:
        """Remove an empty one. Raises OSError (ENOTEMPTY) for another."""
        with self._lock:
            self._lists.pop(path, None)
        if self.list(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        self._delete(self.bucket.key(f"{path}/"))
        self._changed(path)

    def _listed(self, path: str) -> dict[str, Found] | None:
        with self._lock:
            when, found = self._lists.get(path, (0.0, None))
            return found if found is not None and self._clock() - when < LISTED_SECONDS else None

    def _changed(self, path: str) -> None:
        """Of what was listed, forget the folders that may have changed."""
        with self._lock:
            self._changes += 1
            while path:
                self._lists.pop(path, None)
                path = path.rpartition("/")[0]
            self._lists.pop("", None)

    def _has_below(self, path: str) -> bool:
        prefix = self.bucket.key(f"{path}/" if path else "")
        return self.bucket.request(
            "list_objects_v2", lambda answer: bool(answer.get("KeyCount")), Prefix=prefix, MaxKeys=1
        )

    def _pages(self, prefix: str) -> Iterator[dict[str, Any]]:
        page: dict[str, Any] = {"Prefix": prefix, "Delimiter": "/"}
        while True:
            answer = self.bucket.request("list_objects_v2", lambda answer: answer, **page)
            yield answer
            if not answer.get("IsTruncated"):
                return
            page["ContinuationToken"] = answer["NextContinuationToken"]

    def _block(self, path: str, found: Found, number: int) -> bytes:
        key = path, found.etag, number
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
                return self._blocks[key]
        first, last = number * BLOCK, min((number + 1) * BLOCK, found.size) - 1
        try:
            block = self.bucket.request(
                "get_object",
                _read_body,
                Key=self.bucket.key(path),
                Range=f"bytes={first}-{last}",
                IfMatch=found.etag,
            )
        except (MissingObjectError, ObjectExistsError):
            raise OSError(errno.ESTALE, "it was changed or removed since it was opened", path) from None
        if len(block) != last + 1 - first:
            raise OSError(errno.EIO, f"{len(block)} bytes came in place of {last + 1 - first}", path)
        with self._lock:
            self._blocks[key] = block
            while len(self._blocks) > _KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        return block

    def _upload_parts(self, key: str, file: int, size: int) -> str:
        length = max(_PART, -(-size // _MOST_PARTS))
        upload = self.bucket.request(
            "create_multipart_upload", lambda answer: str(answer["UploadId"]), Key=key
        )

        def part(number: int) -> dict[str, Any]:
            tag = self.bucket.request(
                "upload_part",
                lambda answer: str(answer["ETag"]),
                Key=key,
                UploadId=upload,
                PartNumber=number,
                Body=os.pread(file, length, (number - 1) * length),
            )
            return {"PartNumber": number, "ETag": tag}

        try:
            with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="upload") as pool:
                parts = list(pool.map(part, range(1, -(-size // length) + 1)))
            return self.bucket.request(
                "complete_multipart_upload",
                lambda answer: str(answer["ETag"]),
                Key=key,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
            )
        except BaseException:
            with contextlib.suppress(Exception):
                self.bucket.request("abort_multipart_upload", lambda answer: None, Key=key, UploadId=upload)
            raise

    def _delete(self, key: str) -> None:
        with contextlib.suppress(MissingObjectError):
            self.bucket.request("delete_object", lambda answer: None, Key=key)


def _found(answer: Any) -> Found:
    return Found(False, int(answer["ContentLength"]), answer["LastModified"].timestamp(), str(answer["ETag"]))


def _read_body(answer: Any) -> bytes:
    with contextlib.closing(answer["Body"]) as body:
        return bytes(body.read())


def _may_be_name(name: str) -> bool:
    return (
        name not in ("", ".", "..")
        and "/" not in name
        and "\0" not in name
        and len(name.encode("utf-8", "surrogatepass")) <= _LONGEST_NAME
    )
