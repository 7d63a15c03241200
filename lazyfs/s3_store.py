"""The store in a bucket of an S3-compatible service: AWS, GCS, OCI, minio.

A blob is the object ``blobs/ab/cdef…`` under the store's prefix. Every answer is checked against the blob's
name. What is large goes in parts, several at a time. A host has a `CachedStore` in front of this one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

from blake3 import blake3

from skylift.lazyfs.listing import StoredBlob
from skylift.lazyfs.positioned_io import write_at
from skylift.lazyfs.s3_bucket import Bucket, MissingObjectError
from skylift.lazyfs.store import (
    BlobDamagedError,
    BlobMissingError,
    Bytes,
    Store,
    StoreFullError,
    blob_name,
)

PART_SIZE = 16 << 20
"""Bytes. Up to twice as much goes in one request."""

_MOST_PARTS = 10_000
_PARALLEL = 8
_PATHS_KEPT = 16
_READ_SIZE = 1 << 20
_HEX = frozenset("0123456789abcdef")

_Take: TypeAlias = Callable[[int, Bytes], None]
"""What is done with the bytes at an offset."""


class S3Store(Store):
    """Blobs as objects of a bucket. Thread-safe."""

    def __init__(self, bucket: Bucket, *, scratch: Path | None = None, part_size: int = PART_SIZE) -> None:
        """`scratch`: a folder for files on their way, by default one in the system's folder for such."""
        self.bucket = bucket
        self._part_size = part_size
        self._scratch = scratch
        self._own_scratch: tempfile.TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()
        self._handed_out: deque[Path] = deque()

    def put(self, data: Bytes, *, durable: bool = False) -> str:
        """See `Store.put`; it is durable always. Raises `BucketError`."""
        view = memoryview(data).cast("B")
        blob = blob_name(view)
        if len(view) <= 2 * self._part_size:
            self.bucket.write_once("put_object", Key=self._key(blob), Body=bytes(view))
        elif not self.has(blob):
            self._put_parts(blob, len(view), lambda offset, size: bytes(view[offset : offset + size]))
        return blob

    def put_stream(self, chunks: Iterable[Bytes], *, durable: bool = False) -> tuple[str, int]:
        """See `Store.put_stream`: it is a file of this machine until it is whole. Raises `BucketError`."""
        hasher = blake3()
        size = needed = 0
        file = self._temporary()
        try:
            with file.open("xb") as out:
                for chunk in chunks:
                    view = memoryview(chunk).cast("B")
                    needed += len(view)
                    hasher.update(view)
                    out.write(view)
                    size += len(view)
            blob = hasher.hexdigest()
            self.send_file(blob, file)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise StoreFullError(file.parent, needed, shutil.disk_usage(file.parent).free) from error
            raise
        finally:
            file.unlink(missing_ok=True)
        return blob, size

    def send_file(self, blob: str, path: Path) -> None:
        """Put the blob whose bytes are in a file of this machine. Raises `BucketError`."""
        with path.open("rb") as file:
            descriptor = file.fileno()
            size = os.fstat(descriptor).st_size
            if size <= 2 * self._part_size:
                self.bucket.write_once("put_object", Key=self._key(blob), Body=file.read())
            elif not self.has(blob):
                self._put_parts(blob, size, lambda offset, length: os.pread(descriptor, length, offset))

    def get(self, blob: str) -> bytes:
        """See `Store.get`. Raises `BucketError`, too."""
        data = self._get(blob)
        if blob_name(data) == blob:
            return data
        again = self._get(blob)
        if blob_name(again) == blob:
            return again
        if again == data:  # not spoiled on its way: it is so in the bucket
            self.delete(blob)
        raise BlobDamagedError(blob, self.bucket.where)

    def view(self, blob: str) -> memoryview:
        """The bytes, in memory: there is no file of them here. Raises as `get` does."""
        return memoryview(self.get(blob))

    def path(self, blob: str) -> Path:
        """See `Store.path`. The file is removed when some more were asked for. Raises `BucketError`, too."""
        path = self._temporary()
        try:
            self.fetch_to(blob, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        with self._lock:
            self._handed_out.append(path)
            old = self._handed_out.popleft() if len(self._handed_out) > _PATHS_KEPT else None
        if old is not None:
            old.unlink(missing_ok=True)
        return path

    def fetch_to(self, blob: str, path: Path) -> int:
        """Write the blob's bytes, checked, to a new file; return how many.

        Raises `BlobMissingError`, `BlobDamagedError`, `BucketError` and OSError; what is in the file then is
        of no use.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:

            def take(offset: int, data: Bytes) -> None:
                write_at(descriptor, data, offset)

            found = ""
            for _ in range(2):  # what was spoiled on its way may be whole the second time
                size = self._fetch(blob, take)
                os.ftruncate(descriptor, size)
                before, found = found, _file_hash(descriptor)
                if found == blob:
                    return size
            if before == found:
                self.delete(blob)
            raise BlobDamagedError(blob, self.bucket.where)
        finally:
            os.close(descriptor)

    def has(self, blob: str) -> bool:
        """See `Store.has`. Raises `BucketError`."""
        try:
            self.size(blob)
        except BlobMissingError:
            return False
        return True

    def size(self, blob: str) -> int:
        """See `Store.size`. Raises `BucketError`, too."""
        with self._missing(blob):
            return self.bucket.request(
                "head_object", lambda answer: int(answer["ContentLength"]), Key=self._key(blob)
            )

    def there(self) -> bool:
        """See `Store.there`."""
        return self.bucket.there()

    def delete(self, blob: str) -> None:
        """See `Store.delete`. Raises `BucketError`."""
        with contextlib.suppress(MissingObjectError):
            self.bucket.request("delete_object", lambda answer: None, Key=self._key(blob))

    def blobs(self) -> Iterator[StoredBlob]:
        """See `Listed.blobs`. Raises `BucketError`."""
        prefix = self.bucket.key("blobs/")
        for found in self.bucket.objects(prefix):
            blob = str(found["Key"])[len(prefix) :].replace("/", "", 1)
            if _is_blob(blob):
                yield StoredBlob(blob, int(found["Size"]), found["LastModified"].timestamp())

    def _get(self, blob: str) -> bytes:
        parts: dict[int, Bytes] = {}
        self._fetch(blob, parts.__setitem__)
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts[offset] for offset in sorted(parts))

    def _fetch(self, blob: str, take: _Take) -> int:
        """Get the bytes, in any order, and say how many there are."""
        most = 2 * self._part_size

        def first(answer: Any) -> int:
            size = int(answer["ContentLength"])
            with contextlib.closing(answer["Body"]) as body:
                if size <= most:
                    take(0, body.read())
            return size

        key = self._key(blob)
        with self._missing(blob):
            size = self.bucket.request("get_object", first, Key=key)
            if size <= most:
                return size

            def part(offset: int) -> None:
                end = min(offset + self._part_size, size)

                def read(answer: Any) -> None:
                    with contextlib.closing(answer["Body"]) as body:
                        take(offset, body.read())

                self.bucket.request("get_object", read, Key=key, Range=f"bytes={offset}-{end - 1}")

            _in_parallel(part, range(0, size, self._part_size))
        return size

    def _put_parts(self, blob: str, size: int, read: Callable[[int, int], bytes]) -> None:
        key = self._key(blob)
        length = max(self._part_size, -(-size // _MOST_PARTS))
        upload = self.bucket.request(
            "create_multipart_upload", lambda answer: str(answer["UploadId"]), Key=key
        )
        try:
            tags: dict[int, str] = {}

            def part(offset: int) -> None:
                number = offset // length + 1
                tags[number] = self.bucket.request(
                    "upload_part",
                    lambda answer: str(answer["ETag"]),
                    Key=key,
                    UploadId=upload,
                    PartNumber=number,
                    Body=read(offset, min(length, size - offset)),
                )

            _in_parallel(part, range(0, size, length))
            parts = [{"PartNumber": number, "ETag": tags[number]} for number in sorted(tags)]
            try:
                written = self.bucket.write_once(
                    "complete_multipart_upload", Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
                )
            except MissingObjectError:  # no such upload: the answer to a completed one was lost
                if self.size(blob) != size:
                    raise BlobMissingError(blob, self.bucket.where) from None
                return
            if not written:
                self._abort(key, upload)  # another was faster; the parts would be paid for
        except BaseException:
            self._abort(key, upload)
            raise

    def _abort(self, key: str, upload: str) -> None:
        with contextlib.suppress(Exception):
            self.bucket.request("abort_multipart_upload", lambda answer: None, Key=key, UploadId=upload)

    @contextlib.contextmanager
    def _missing(self, blob: str) -> Iterator[None]:
        try:
            yield
        except MissingObjectError:
            raise BlobMissingError(blob, self.bucket.where) from None

    def _key(self, blob: str) -> str:
        if not _is_blob(blob):
            raise ValueError(f"{blob!r} is not the name of a blob (64 hex digits)")
        return self.bucket.key(f"blobs/{blob[:2]}/{blob[2:]}")

    def _temporary(self) -> Path:
        with self._lock:
            if self._scratch is None:
                self._own_scratch = tempfile.TemporaryDirectory(prefix="skylift-store-")
                self._scratch = Path(self._own_scratch.name)
            self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._scratch / f"{os.getpid()}-{secrets.token_hex(8)}"


def _is_blob(name: str) -> bool:
    return len(name) == 64 and _HEX.issuperset(name)


def _in_parallel(run: Callable[[int], None], offsets: Iterable[int]) -> None:
    with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="s3") as pool:
        futures = [pool.submit(run, offset) for offset in offsets]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()


def _file_hash(descriptor: int) -> str:
    hasher = blake3()
    offset = 0
    while data := os.pread(descriptor, _READ_SIZE, offset):
        hasher.update(data)
        offset += len(data)
    return hasher.hexdigest()
