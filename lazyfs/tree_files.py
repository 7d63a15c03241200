"""A FUSE file system that shows trees of volumes, each twice.

``ROOT.erofs`` is an image of it, to be mounted: the kernel asks for bytes alone. ``ROOT`` is a folder with
it, which needs nothing of the tree before it is looked at. A tree never changes, so the kernel keeps all that
it was told: a second look at a directory, and a second read of a file, do not come here.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from skylift.lazyfs import fuse_protocol as fuse
from skylift.lazyfs import tree_protocol
from skylift.lazyfs.chunked import Chunk, ChunkedFile, ChunkedReader
from skylift.lazyfs.fuse_serving import next_request, serve_in_threads
from skylift.lazyfs.store import BlobMissingError, Bytes, StoreError
from skylift.lazyfs.tree_image import TooLargeError, TreeImage
from skylift.lazyfs.tree_nodes import ROOT, Nodes
from skylift.lazyfs.tree_protocol import Listed
from skylift.lazyfs.trees import Entry, Trees, chunks_of, dir_entry

log = logging.getLogger(__name__)

_THREADS = 4
_READERS = 12
_KEPT_CHUNKS = 96
"""Of up to 1 MiB; those that were read last, or will be read next."""
_AHEAD = 6
"""Chunks of the same file."""
_FILES_AHEAD = 16
_AHEAD_READERS = 4
_KEPT_LISTS = 64
_SUFFIX = b".erofs"
_TREE = re.compile(rb"[0-9a-f]{64}")
_IMAGE = re.compile(rb"[0-9a-f]{64}\.erofs")


class TreeFiles:
    """Serves trees over a FUSE connection until that ends."""

    def __init__(self, connection: int, trees: Trees, nodes: Nodes, owner: tuple[int, int]) -> None:
        """`connection` is the descriptor of ``/dev/fuse`` that was mounted; all files belong to `owner`."""
        self._connection = connection
        self._trees = trees
        self._nodes = nodes
        self._owner = owner
        self._ended = threading.Event()
        self._chunks = _Chunks(trees)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="read")
        self._ahead = ThreadPoolExecutor(_AHEAD_READERS, thread_name_prefix="ahead")
        self._last_file = 0
        self._lists: OrderedDict[str, tuple[Entry, ...]] = OrderedDict()
        self._entries: dict[int, Entry] = {}
        """By number: what was looked up."""
        self._images: dict[bytes, TreeImage] = {}
        self._building = threading.Lock()
        self._root = Entry(b"", "dir", 0o500, 0, 0, "inline", b"")
        self.reads = 0

    def start(self, ended: Callable[[], None]) -> None:
        """Answer in threads of its own; `ended` is called once there is nothing to answer any more."""
        serve_in_threads(self._serve, _THREADS, ended)

    def _serve(self) -> None:
        while not self._ended.is_set():
            request = next_request(self._connection)
            if request is None:
                self._ended.set()
                return
            if request.opcode in (fuse.FORGET, fuse.BATCH_FORGET):
                self._forget(request)
            elif request.opcode == fuse.INTERRUPT:
                continue
            elif request.opcode == fuse.READ and not self._at_hand(request):
                # The store may take its time: what others ask is answered meanwhile.
                self._readers.submit(self._answer, request)
            else:
                self._answer(request)

    def _forget(self, request: fuse.Request) -> None:
        for number, count in tree_protocol.forgotten(request):
            node = self._nodes.get(number)
            self._nodes.forget(number, count)
            if self._nodes.get(number) is None:
                self._entries.pop(number, None)
                if node is not None and node.parent == ROOT:
                    self._images.pop(node.name, None)

    def _answer(self, request: fuse.Request) -> None:
        try:
            body = self._body(request)
        except (StoreError, OSError) as error:
            log.error("Request %s about %s: %s", request.opcode, self._path(request.node), error)
            body = errno.EIO
        except Exception:
            log.exception("Request %s of the kernel failed", request.opcode)
            body = errno.EIO
        if isinstance(body, int):
            fuse.answer(self._connection, request.unique, error=body)
        else:
            fuse.answer(self._connection, request.unique, (body,) if len(body) else ())

    def _body(self, request: fuse.Request) -> bytes | memoryview | int:
        opcode = request.opcode
        if opcode == fuse.READ:
            return self._read(request)
        if opcode == fuse.LOOKUP:
            return self._lookup(request)
        if opcode == fuse.GETATTR:
            entry = self._entry(request.node)
            if entry is None:
                return errno.ESTALE
            return tree_protocol.attributes_body(request.node, entry, self._owner)
        if opcode in (fuse.READDIR, tree_protocol.READDIRPLUS):
            return self._list(request, opcode == tree_protocol.READDIRPLUS)
        if opcode == tree_protocol.READLINK:
            entry = self._entry(request.node)
            return entry.content if entry is not None and entry.kind == "link" else errno.EINVAL
        if opcode == fuse.INIT:
            return fuse.init_body(request, tree_protocol.FLAGS)
        if opcode == fuse.STATFS:
            return fuse.statfs_body()
        if opcode == fuse.DESTROY:
            self._ended.set()
            return b""
        if opcode in (fuse.RELEASE, fuse.RELEASEDIR):
            return b""
        return errno.ENOSYS  # OPEN, OPENDIR and FLUSH too: from then on the kernel does not ask

    def _entry(self, number: int) -> Entry | None:
        """What has the number; None where that is not known any more. Raises what the store raises."""
        if number == ROOT:
            return self._root
        entry = self._entries.get(number)
        if entry is None:
            node = self._nodes.get(number)
            parent = self._entry(node.parent) if node is not None else None
            if node is None or parent is None:
                return None
            entry = self._find(parent, node.name)
            if entry is not None:
                self._entries[number] = entry
        return entry

    def _find(self, parent: Entry, name: bytes) -> Entry | None:
        if parent is not self._root:
            return self._trees.find(parent.blob, name) if parent.kind == "dir" else None
        try:
            if _IMAGE.fullmatch(name):
                return Entry(name, "file", 0o400, 0, self._image(name).size, "inline", b"")
            return self._tree(name) if _TREE.fullmatch(name) else None
        except (BlobMissingError, TooLargeError):
            return None

    def _tree(self, root: bytes) -> Entry:
        return dir_entry(root, self._trees.written(root.decode()), 0o755, 0)

    def _image(self, name: bytes) -> TreeImage:
        """Laid out where it is not yet: by one thread at a time."""
        with self._building:
            image = self._images.get(name)
            if image is None:
                root = self._tree(name.removesuffix(_SUFFIX))
                image = self._images[name] = TreeImage(self._trees, root, self._owner)
            return image

    def _lookup(self, request: fuse.Request) -> bytes | int:
        parent = self._entry(request.node)
        name = request.body.rstrip(b"\0")
        entry = self._find(parent, name) if parent is not None else None
        if parent is None or entry is None:
            # Another tree may come; in one nothing does.
            return errno.ENOENT if parent is self._root else tree_protocol.nothing_body()
        number = self._nodes.take(request.node, name)
        self._entries[number] = entry
        return tree_protocol.entry_body(number, entry, self._owner)

    def _list(self, request: fuse.Request, plus: bool) -> bytes | int:
        offset, room = fuse.read_range(request)
        folder = self._entry(request.node)
        if folder is None:
            return errno.ESTALE
        entries = () if folder is self._root else self._listed(folder.blob)
        body: list[bytes] = []
        for position in range(offset, len(entries) + 2):
            name = (b".", b"..")[position] if position < 2 else entries[position - 2].name
            room -= tree_protocol.room_for(name, plus)
            if room < 0:
                break
            if position < 2:
                listed = Listed(name, folder, 0)
            else:
                entry = entries[position - 2]
                number = self._nodes.take(request.node, name) if plus else 0
                if number:
                    self._entries[number] = entry
                listed = Listed(name, entry, number)
            body.append(tree_protocol.dirent(listed, position + 1, self._owner, plus))
        return b"".join(body)

    def _listed(self, blob: str) -> tuple[Entry, ...]:
        found = self._lists.get(blob)
        if found is None:
            found = self._lists[blob] = tuple(self._trees.entries(blob))
            while len(self._lists) > _KEPT_LISTS:
                self._lists.popitem(last=False)
        return found

    def _at_hand(self, request: fuse.Request) -> bool:
        entry = self._entries.get(request.node)
        if entry is None:
            return False
        image = self._images.get(entry.name)
        if image is not None:
            begin, count = fuse.read_range(request)
            return begin + count <= len(image.metadata)
        if entry.held == "inline":
            return not _IMAGE.fullmatch(entry.name)
        offset, length = fuse.read_range(request)
        return self._chunks.has(entry, offset, length)

    def _read(self, request: fuse.Request) -> bytes | memoryview | int:
        entry = self._entry(request.node)
        if entry is None:
            return errno.ESTALE
        offset, length = fuse.read_range(request)
        length = max(0, min(length, entry.size - offset))
        self.reads += 1
        node = self._nodes.get(request.node)
        if node is not None and node.parent == ROOT:
            image = self._image(node.name)
            self._read_on(image, offset)
            parts = [
                piece.data
                if piece.entry is None
                else self._chunks.read(piece.entry, piece.offset, piece.length, self._ahead)
                for piece in image.pieces(offset, length)
            ]
            return parts[0] if len(parts) == 1 else b"".join(parts)
        if entry.held == "inline" or not length:
            return entry.content[offset : offset + length] if entry.held == "inline" else b""
        return self._chunks.read(entry, offset, length, self._ahead)

    def _read_on(self, image: TreeImage, offset: int) -> None:
        """Where small files are read one after another, the next ones are fetched meanwhile."""
        number = image.file_at(offset)
        follows, self._last_file = 0 < number - self._last_file <= 2, number
        if follows:
            for entry in image.small_files(number + 1, _FILES_AHEAD):
                if not self._chunks.has(entry, 0, entry.size):
                    self._ahead.submit(self._chunks.ahead, entry, 0)

    def _path(self, number: int) -> str:
        names: list[bytes] = []
        while (node := self._nodes.get(number)) is not None and len(names) < 300:
            names.append(node.name)
            number = node.parent
        return os.fsdecode(b"/".join(reversed(names))) or "/"


class _Chunks:
    """The chunks that were read last, and those that come next. Thread-safe."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees
        self._lock = threading.Lock()
        self._files: OrderedDict[bytes, ChunkedFile] = OrderedDict()
        self._kept: OrderedDict[tuple[str, str], Future[Bytes]] = OrderedDict()

    def has(self, entry: Entry, offset: int, length: int) -> bool:
        """Whether a read of this needs no waiting."""
        file = self._files.get(entry.content)
        if file is None:
            return False
        for number in self._numbers(file, offset, length):
            chunk = file.chunks[number]
            future = self._kept.get(_key(chunk)) if chunk.blob else None
            if chunk.blob and (future is None or not future.done()):
                return False
        return True

    def read(self, entry: Entry, offset: int, length: int, pool: ThreadPoolExecutor) -> bytes | memoryview:
        """Bytes of a file. Raises what the store raises."""
        file = self._file(entry)
        numbers = self._numbers(file, offset, length)
        parts: list[bytes | memoryview] = []
        for number in numbers:
            at = number * file.chunk_size
            begin, end = max(offset - at, 0), min(offset + length - at, file.chunks[number].length)
            parts.append(memoryview(self._chunk(file, number))[begin:end])
        for number in range(numbers.stop, min(numbers.stop + _AHEAD, len(file.chunks))):
            chunk = file.chunks[number]
            if chunk.blob and _key(chunk) not in self._kept:
                pool.submit(self.ahead, entry, number)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _numbers(self, file: ChunkedFile, offset: int, length: int) -> range:
        last = min(offset + length, file.size) - 1
        return range(offset // file.chunk_size, last // file.chunk_size + 1)

    def _file(self, entry: Entry) -> ChunkedFile:
        with self._lock:
            file = self._files.get(entry.content)
            if file is not None:
                self._files.move_to_end(entry.content)
                return file
        file = chunks_of(entry, self._trees.store)
        with self._lock:
            self._files[entry.content] = file
            while len(self._files) > 1000:
                self._files.popitem(last=False)
        return file

    def ahead(self, entry: Entry, number: int) -> None:
        """Fetch a chunk that is likely to be read."""
        try:
            self._chunk(self._file(entry), number)
        except (StoreError, OSError) as error:  # said again to who reads it
            log.info("Reading ahead: %s", error)

    def _chunk(self, file: ChunkedFile, number: int) -> Bytes:
        chunk = file.chunks[number]
        if not chunk.blob:
            return bytes(chunk.length)
        key = _key(chunk)
        with self._lock:
            future = self._kept.get(key)
            mine = future is None
            if future is None:
                future = self._kept[key] = Future()
                while len(self._kept) > _KEPT_CHUNKS:
                    self._kept.popitem(last=False)
            else:
                self._kept.move_to_end(key)
        if mine:
            try:
                future.set_result(ChunkedReader(_one(chunk), self._trees.store, kept=0).chunk(0))
            except BaseException as error:
                with self._lock:
                    self._kept.pop(key, None)
                future.set_exception(error)
        return future.result()


def _key(chunk: Chunk) -> tuple[str, str]:
    return chunk.blob, chunk.encoding


def _one(chunk: Chunk) -> ChunkedFile:
    return ChunkedFile(chunk.length, (chunk,))
