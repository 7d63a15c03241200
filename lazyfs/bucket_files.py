"""A FUSE file system that shows the objects of a bucket as files, which can be written.

A file that is written to is changed on this disk, and sent whole when it is closed: others see all of it or
nothing. What others change is seen after some seconds, or when a file is opened.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from skylift.lazyfs import bucket_protocol as protocol
from skylift.lazyfs import fuse_protocol as fuse
from skylift.lazyfs.bucket_nodes import BucketNodes
from skylift.lazyfs.bucket_objects import FOLDER, MAX_COPY, BucketObjects, Found
from skylift.lazyfs.bucket_open import OpenFile
from skylift.lazyfs.fuse_serving import next_request
from skylift.lazyfs.s3_bucket import BucketDeniedError
from skylift.lazyfs.store import StoreError

log = logging.getLogger(__name__)

_WORKERS = 16
_NO_REPLACE = 1


class OpenFolder:
    """A folder that is open: listed when somebody begins to read it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.entries: list[tuple[bytes, bool]] = []
        """Names, and whether they are folders."""


class BucketFiles:
    """Serves a bucket over a FUSE connection until that ends."""

    def __init__(
        self, connection: int, objects: BucketObjects, owner: tuple[int, int], scratch: Path
    ) -> None:
        """`connection` is the descriptor of ``/dev/fuse`` that was mounted; all files belong to `owner`;
        what is being written is in `scratch`."""
        self._connection = connection
        self._objects = objects
        self._owner = owner
        self._scratch = scratch
        self._lock = threading.RLock()
        self._nodes = BucketNodes()
        self._open: dict[str, OpenFile] = {}
        """By path: files that are open."""
        self._removed: dict[int, OpenFile] = {}
        """By node: those of them that have no name any more."""
        self._handles: dict[int, OpenFile | OpenFolder] = {}
        self._numbers = itertools.count(1)
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="bucket")
        self._answers: dict[int, Callable[[fuse.Request], bytes]] = {
            fuse.INIT: protocol.init_body,
            fuse.LOOKUP: self._lookup,
            fuse.GETATTR: self._attributes,
            fuse.OPEN: self._open_file,
            fuse.READ: self._read,
            fuse.FLUSH: self._flush,
            fuse.RELEASE: self._release,
            fuse.OPENDIR: self._open_folder,
            fuse.READDIR: self._read_folder,
            fuse.RELEASEDIR: self._release_folder,
            fuse.STATFS: lambda request: protocol.statfs_body(),
            fuse.ACCESS: lambda request: b"",
            fuse.DESTROY: lambda request: b"",
            protocol.SETATTR: self._change,
            protocol.CREATE: self._create,
            protocol.MKNOD: self._make_file,
            protocol.MKDIR: self._make_folder,
            protocol.UNLINK: self._remove,
            protocol.RMDIR: self._remove_folder,
            protocol.RENAME: self._rename,
            protocol.RENAME2: self._rename,
            protocol.WRITE: self._write,
            protocol.FSYNC: self._flush,
            protocol.FSYNCDIR: lambda request: b"",
        }

    def serve(self) -> None:
        """Answer until nothing is mounted any more, and everything that was written was sent."""
        while (request := next_request(self._connection, protocol.REQUEST_ROOM)) is not None:
            if request.opcode in (fuse.FORGET, fuse.BATCH_FORGET):
                for number, count in protocol.forgotten(request):
                    self._nodes.forget(number, count)
            elif request.opcode != fuse.INTERRUPT:
                self._workers.submit(self._answer, request)
        self._workers.shutdown(wait=True)
        for file in list(self._open.values()):
            self._send_last(file)

    def _answer(self, request: fuse.Request) -> None:
        error = 0
        body = b""
        try:
            answer = self._answers.get(request.opcode)
            if answer is None:
                error = errno.ENOSYS
            else:
                body = answer(request)
        except (OSError, StoreError) as failure:
            error = self._number_of(failure)
        except Exception:
            log.exception("Request %s of the kernel failed", request.opcode)
            error = errno.EIO
        fuse.answer(self._connection, request.unique, (body,) if body else (), error)

    def _number_of(self, failure: Exception) -> int:
        if isinstance(failure, StoreError):
            log.error("%s", failure)
            return errno.EACCES if isinstance(failure, BucketDeniedError) else errno.EIO
        number = failure.errno if isinstance(failure, OSError) else None
        if number in (None, errno.EIO, errno.ESTALE, errno.ENOSPC):
            log.error("%s", failure)
        return number or errno.EIO

    # --- names ---------------------------------------------------------------------------------------

    def _path_of(self, request: fuse.Request, name: bytes | None = None, node: int = 0) -> str:
        folder = self._nodes.path(node or request.node)
        if name is None:
            return folder
        try:
            text = name.decode()
        except UnicodeDecodeError:
            raise OSError(errno.EILSEQ, "a key is UTF-8", os.fsdecode(name)) from None
        return f"{folder}/{text}" if folder else text

    def _find(self, path: str) -> Found:
        with self._lock:
            file = self._open.get(path)
        found = file.found if file is not None else self._objects.find(path)
        if found is None:
            raise _error(errno.ENOENT, path)
        return found

    def _entry(self, path: str, found: Found) -> bytes:
        return protocol.entry_body(self._nodes.take(path), found, self._owner)

    def _lookup(self, request: fuse.Request) -> bytes:
        path = self._path_of(request, protocol.name_of(request))
        return self._entry(path, self._find(path))

    def _attributes(self, request: fuse.Request) -> bytes:
        file = self._removed.get(request.node)
        found = file.found if file is not None else self._find(self._path_of(request))
        return protocol.attributes_body(request.node, found, self._owner)

    # --- folders -------------------------------------------------------------------------------------

    def _open_folder(self, request: fuse.Request) -> bytes:
        return protocol.open_body(self._keep(OpenFolder(self._path_of(request))))

    def _list(self, path: str) -> list[tuple[bytes, bool]]:
        listed = {name: found.folder for name, found in self._objects.list(path).items()}
        with self._lock:
            for each in self._open:
                folder, _, name = each.rpartition("/")
                if folder == path:
                    listed.setdefault(name, False)
        entries = [(b".", True), (b"..", True)]
        entries += sorted((name.encode("utf-8", "replace"), folder) for name, folder in listed.items())
        return entries

    def _read_folder(self, request: fuse.Request) -> bytes:
        handle, offset, room = protocol.read_wish(request)
        folder = self._handles.get(handle)
        if not isinstance(folder, OpenFolder):
            raise _error(errno.EBADF, "")
        if offset == 0:
            folder.entries = self._list(folder.path)
        return protocol.entries_body(folder.entries, offset, room)

    def _release_folder(self, request: fuse.Request) -> bytes:
        with self._lock:
            self._handles.pop(protocol.handle_of(request), None)
        return b""

    def _make_folder(self, request: fuse.Request) -> bytes:
        path = self._path_of(request, protocol.name_of(request))
        self._objects.make_folder(path)
        return self._entry(path, FOLDER)

    def _remove_folder(self, request: fuse.Request) -> bytes:
        path = self._path_of(request, protocol.name_of(request))
        with self._lock:
            if any(each.startswith(f"{path}/") for each in self._open):
                raise _error(errno.ENOTEMPTY, path)
        self._objects.remove_folder(path)
        return b""

    # --- files ---------------------------------------------------------------------------------------

    def _create(self, request: fuse.Request) -> bytes:
        path = self._path_of(request, protocol.name_of(request))
        found = self._objects.find(path)
        if found is not None and found.folder:
            raise _error(errno.EISDIR, path)
        file = self._begin(path, found, protocol.open_flags(request))
        return self._entry(path, file.found) + protocol.open_body(self._keep(file))

    def _make_file(self, request: fuse.Request) -> bytes:
        path = self._path_of(request, protocol.name_of(request))
        if not stat.S_ISREG(protocol.mode_of(request)):
            raise _error(errno.EPERM, path)
        file = self._begin(path, None, 0)
        try:
            file.send()
            return self._entry(path, file.found)
        finally:
            self._end(file)

    def _open_file(self, request: fuse.Request) -> bytes:
        path = self._path_of(request)
        with self._lock:
            file = self._open.get(path)
        found = self._objects.find(path) if file is None else file.found
        if file is not None:
            file.refresh()
        elif found is None or found.folder:
            raise _error(errno.ENOENT if found is None else errno.EISDIR, path)
        return protocol.open_body(self._keep(self._begin(path, found, protocol.open_flags(request))))

    def _begin(self, path: str, found: Found | None, flags: int) -> OpenFile:
        with self._lock:
            file = self._open.get(path)
            if file is None:  # another may have been faster
                file = self._open[path] = OpenFile(self._objects, path, found, self._scratch)
            file.users += 1
        if flags & os.O_TRUNC and found is not None:
            file.begin_anew()
        return file

    def _keep(self, opened: OpenFile | OpenFolder) -> int:
        with self._lock:
            number = next(self._numbers)
            self._handles[number] = opened
            return number

    def _file(self, handle: int) -> OpenFile:
        file = self._handles.get(handle)
        if not isinstance(file, OpenFile):
            raise _error(errno.EBADF, "")
        return file

    def _read(self, request: fuse.Request) -> bytes:
        handle, offset, length = protocol.read_wish(request)
        file = self._file(handle)
        data, ahead = file.read(offset, length)
        if ahead >= 0:
            self._workers.submit(_quietly, file.read_ahead, ahead)
        return data

    def _write(self, request: fuse.Request) -> bytes:
        handle, offset, data = protocol.write_wish(request)
        self._file(handle).write(offset, data)
        return protocol.written_body(len(data))

    def _flush(self, request: fuse.Request) -> bytes:
        self._file(protocol.handle_of(request)).send()
        return b""

    def _release(self, request: fuse.Request) -> bytes:
        with self._lock:
            file = self._handles.pop(protocol.handle_of(request), None)
        if isinstance(file, OpenFile):
            self._send_last(file)
            self._end(file)
        return b""

    def _send_last(self, file: OpenFile) -> None:
        """What could not be sent when it was closed, or was left open by who was killed."""
        try:
            file.send()
        except (OSError, StoreError) as error:
            log.error("What was written to %s is lost: %s", file.path, error)

    def _end(self, file: OpenFile) -> None:
        with self._lock:
            file.users -= 1
            if file.users:
                return
            if self._open.get(file.path) is file:
                del self._open[file.path]
            for node in [node for node, each in self._removed.items() if each is file]:
                del self._removed[node]
        file.close()

    def _change(self, request: fuse.Request) -> bytes:
        """Another size; permissions, owners and times are not kept in a bucket."""
        wish = protocol.change(request)
        removed = self._removed.get(request.node)
        if removed is not None:
            if wish.size is not None:
                removed.truncate(wish.size)
            return protocol.attributes_body(request.node, removed.found, self._owner)
        path = self._path_of(request)
        if wish.size is not None and wish.handle is not None:
            self._file(wish.handle).truncate(wish.size)
        elif wish.size is not None:
            file = self._begin(path, self._find(path), 0)
            try:
                file.truncate(wish.size)
                file.send()
            finally:
                self._end(file)
        return protocol.attributes_body(request.node, self._find(path), self._owner)

    def _remove(self, request: fuse.Request) -> bytes:
        path = self._path_of(request, protocol.name_of(request))
        self._objects.remove(path)
        self._no_name(path)
        return b""

    def _no_name(self, path: str) -> None:
        with self._lock:
            node = self._nodes.remove(path)
            file = self._open.pop(path, None)
            if file is not None:
                file.removed = True
                self._removed[node] = file

    def _rename(self, request: fuse.Request) -> bytes:
        wish = protocol.move(request)
        source = self._path_of(request, wish.old)
        target = self._path_of(request, wish.new, wish.folder)
        if wish.flags & ~_NO_REPLACE:
            raise _error(errno.EINVAL, source)
        with self._lock:
            file = self._open.get(source)
        if file is not None:
            file.send()
        found = self._find(source)
        if found.folder or found.size > MAX_COPY:
            raise _error(errno.EXDEV, source)  # mv copies then
        there = self._objects.find(target)
        if there is not None and wish.flags & _NO_REPLACE:
            raise _error(errno.EEXIST, target)
        if there is not None and there.folder:
            raise _error(errno.EISDIR, target)
        self._objects.copy(source, target)
        self._objects.remove(source)
        with self._lock:
            self._no_name(target)
            if file is not None and self._open.get(source) is file:
                self._open[target] = self._open.pop(source)
            self._nodes.move(source, target)
        if file is not None:
            file.renamed(target)
        return b""


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


def _quietly(work: Callable[[int], None], offset: int) -> None:
    try:
        work(offset)
    except (OSError, StoreError) as error:  # said again to who reads it
        log.info("Reading ahead: %s", error)
