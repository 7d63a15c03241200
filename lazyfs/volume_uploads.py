"""Files of this machine that go to a volume together: all of them, or none."""

from __future__ import annotations

import io
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from skylift.lazyfs.chunked import ChangedError
from skylift.lazyfs.leases import Lease, LeaseLostError
from skylift.lazyfs.store import StoreError, StoreFullError
from skylift.lazyfs.trees import Entry, link_entry
from skylift.lazyfs.volume_commits import Commits, Version
from skylift.lazyfs.volume_content import opened, put_file, put_stream
from skylift.lazyfs.volume_edits import TreeEditor
from skylift.lazyfs.volume_errors import (
    PathExistsError,
    PathInvalidError,
    UploadInterruptedError,
    VolumeFullError,
    explaining,
)
from skylift.lazyfs.volume_paths import Parts, parts_of, text

_WORKERS = 4
_MOST_READS = 3
"""A file that changes while it is read is read so often."""

Progress = Callable[[int, int, int, int], None]
"""Called with: files done, all files, bytes done, all bytes. From several threads, one at a time."""


class _Planned(NamedTuple):
    parts: Parts
    source: Path | BinaryIO | None
    """None: a directory."""
    size: int
    mode: int
    mtime_ns: int


class Upload:
    """What `Volume.batch_upload` gives: a context manager. At its end all is sent, then committed at once.

    Where its block raises, nothing is sent. Where sending fails, the volume is as it was, and what was sent
    by then is not sent again when the same is uploaded again.
    """

    def __init__(
        self,
        commits: Commits,
        *,
        force: bool = False,
        who: str = "",
        message: str = "",
        progress: Progress | None = None,
    ) -> None:
        self._commits = commits
        self._where = f"Volume {commits.name!r}"
        self._force = force
        self._who = who
        self._message = message
        self._progress = progress
        self._planned: dict[Parts, _Planned] = {}
        self.version: Version | None = None
        """What was committed; None before the end of the block."""

    def put_file(
        self, local: str | os.PathLike[str] | BinaryIO, remote: str | bytes, mode: int | None = None
    ) -> None:
        """Send a file, or what a file object has from where it stands.

        `remote` with a slash at its end is a directory. `mode` are its permissions, those of the local file
        by default. Raises FileNotFoundError, IsADirectoryError and `PathInvalidError` at once.
        """
        into = remote[-1:] in ("/", b"/")
        parts = parts_of(self._where, remote)
        if isinstance(local, (str, os.PathLike)):
            path = Path(local)
            found = path.stat()
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(f"{path} is a directory. Send it with put_directory().")
            if not stat.S_ISREG(found.st_mode):
                raise ValueError(f"{path} is not an ordinary file, and cannot be in a volume.")
            if into:
                parts = (*parts, os.fsencode(path.name))
            planned = _Planned(
                parts,
                path.resolve(),
                found.st_size,
                stat.S_IMODE(found.st_mode) if mode is None else mode,
                found.st_mtime_ns,
            )
        else:
            if isinstance(local, io.TextIOBase):
                raise TypeError(f"{text(parts)} needs a file object that reads bytes: open(…, 'rb').")
            if into and parts:
                raise PathInvalidError(self._where, text(parts) + "/", "a file object needs a file's name")
            size = _length(local)
            planned = _Planned(parts, local, size, 0o644 if mode is None else mode, time.time_ns())
        if not parts:
            raise PathInvalidError(self._where, "/", "name the file in it")
        self._planned[parts] = planned

    def put_directory(
        self, local: str | os.PathLike[str], remote: str | bytes = "/", *, recursive: bool = True
    ) -> None:
        """Send what is in a directory. It and what it is sent over become one.

        Symlinks in it are sent as such. Sockets, pipes and devices are not sent. Raises FileNotFoundError,
        NotADirectoryError and `PathInvalidError` at once.
        """
        parts = parts_of(self._where, remote)
        folder = Path(local)
        found = folder.stat()
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(f"{folder} is not a directory. Send it with put_file().")
        for planned in _walk(self._where, folder, parts, recursive):
            self._planned[planned.parts] = planned

    def __enter__(self) -> Upload:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None and self._planned:
            self._run()

    def _run(self) -> None:
        with explaining(self._where, "uploading"):
            base = self._commits.newest().root
            self._check(base)
            what = f"upload to volume {self._commits.name}"
            with Lease(self._commits.names, what, clock=self._commits.clock) as lease:
                entries = self._send(lease)
                editor = TreeEditor(self._commits.trees, base, self._where, time.time_ns())
                for planned in self._planned.values():
                    if planned.source is None and planned.parts:
                        editor.make_directory(planned.parts, planned.mode)
                for parts, entry in entries.items():
                    editor.put(parts, entry)
                root = editor.write()
                self.version = self._commits.commit(
                    base,
                    root,
                    who=self._who,
                    message=self._message or _described(list(entries)),
                    lease=lease,
                    check=self._check,
                )

    def _check(self, root: str) -> None:
        """Nothing is overwritten unless that was asked for; nor by somebody who came in between."""
        if self._force:
            return
        editor = TreeEditor(self._commits.trees, root, self._where, 0)
        for planned in self._planned.values():
            if planned.source is not None and editor.find(planned.parts) is not None:
                raise PathExistsError(
                    self._where,
                    text(planned.parts),
                    "Replace it with batch_upload(force=True), or send this one elsewhere.",
                )

    def _send(self, lease: Lease) -> dict[Parts, Entry]:
        sending = [planned for planned in self._planned.values() if planned.source is not None]
        counter = _Counter(len(sending), sum(planned.size for planned in sending), self._progress, lease)
        entries: dict[Parts, Entry] = {}
        stop = threading.Event()

        def send(planned: _Planned) -> None:
            if not stop.is_set():
                entries[planned.parts] = self._send_one(planned, counter)
                counter.file_done()

        try:
            with ThreadPoolExecutor(_WORKERS, thread_name_prefix="upload") as pool:
                try:
                    done, _ = wait([pool.submit(send, each) for each in sending], return_when=FIRST_EXCEPTION)
                finally:
                    stop.set()  # those that are being sent are sent to their ends
            for future in done:
                future.result()
        except LeaseLostError:
            raise
        except StoreFullError as error:
            raise VolumeFullError(self._where, "the upload", f"{error} {counter.resumable()}") from error
        except (StoreError, OSError, ValueError) as error:
            raise UploadInterruptedError(self._where, str(error), counter.resumable()) from error
        return {planned.parts: entries[planned.parts] for planned in sending}

    def _send_one(self, planned: _Planned, counter: _Counter) -> Entry:
        name = planned.parts[-1]
        store = self._commits.trees.store
        source = planned.source
        if not isinstance(source, Path):
            assert source is not None
            return put_stream(
                source, planned.size, name, planned.mode, planned.mtime_ns, store, counter.advance
            )
        if stat.S_ISLNK(planned.mode):
            return link_entry(name, os.fsencode(os.readlink(source)), planned.mtime_ns)
        for attempt in range(_MOST_READS):
            try:
                with opened(str(source)) as file:
                    entry = put_file(file, name, store, counter.advance)
                break
            except ChangedError:
                if attempt == _MOST_READS - 1:
                    raise ChangedError(str(source), "it was written to") from None
        if planned.mode != entry.mode:
            entry = _with_mode(entry, planned.mode)
        return entry


class _Counter:
    """How far an upload is. Thread-safe."""

    def __init__(self, files: int, size: int, progress: Progress | None, lease: Lease) -> None:
        self._all_files = files
        self._all_bytes = size
        self._files = 0
        self._bytes = 0
        self._progress = progress
        self._lease = lease
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            self._all_bytes = max(self._all_bytes, self._bytes)
            self._told()

    def file_done(self) -> None:
        with self._lock:
            self._files += 1
            self._told()

    def resumable(self) -> str:
        return (
            f"{self._files:,} of {self._all_files:,} files ({self._bytes:,} of {self._all_bytes:,} bytes) "
            "are in the store: upload the same again within a day, and these are not sent twice."
        )

    def _told(self) -> None:
        self._lease.renew_when_due()
        if self._progress is not None:
            self._progress(self._files, self._all_files, self._bytes, self._all_bytes)


def _walk(where: str, folder: Path, parts: Parts, recursive: bool) -> Iterator[_Planned]:
    waiting = [(folder, parts)]
    while waiting:
        at, below = waiting.pop()
        if below:
            yield _Planned(below, None, 0, stat.S_IMODE(at.stat().st_mode), 0)
        with os.scandir(at) as listing:
            children = sorted(listing, key=lambda child: child.name)
        for child in children:
            there = (*below, os.fsencode(child.name))
            parts_of(where, b"/".join(there))  # too long, or too deep
            found = child.stat(follow_symlinks=False)
            path = Path(child.path)
            if stat.S_ISDIR(found.st_mode):
                if recursive:
                    waiting.append((path, there))
            elif stat.S_ISLNK(found.st_mode):
                yield _Planned(there, path, 0, found.st_mode, found.st_mtime_ns)
            elif stat.S_ISREG(found.st_mode):
                mode = stat.S_IMODE(found.st_mode)
                yield _Planned(there, path, found.st_size, mode, found.st_mtime_ns)


def _length(file: BinaryIO) -> int:
    try:
        at = file.tell()
        end = file.seek(0, os.SEEK_END)
        file.seek(at)
    except (OSError, AttributeError):
        return 0  # it is not known
    return max(end - at, 0)


def _with_mode(entry: Entry, mode: int) -> Entry:
    return Entry(
        entry.name, entry.kind, mode, entry.mtime_ns, entry.size, entry.held, entry.content, entry.files
    )


def _described(paths: list[Parts]) -> str:
    if not paths:
        return "upload of directories"
    return f"upload of {text(paths[0])}" + (f" and {len(paths) - 1:,} more" if len(paths) > 1 else "")
