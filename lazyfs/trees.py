"""Trees of directories in the store.

A directory is an object of the store: its entries, sorted by name, as compressed msgpack. An entry of a
file has its content's chunks (or the content itself, where it is tiny); an entry of a directory has that
directory's blob. So the blob of the root names the whole tree, two equal trees have the same root, and a
changed file changes the directories above it and nothing else.

A directory of more than `PAGE_LIMIT` entries is an index of pages. A page ends behind each name whose hash
says so. Where the pages end therefore depends on the names that are there and not on how they came there,
and a change rewrites the index and one page.
"""

from __future__ import annotations

import itertools
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

import msgspec
import zstandard
from blake3 import blake3

from skylift.lazyfs import chunked
from skylift.lazyfs.store import Store, StoreError

MAX_NAME = 255
"""Bytes, as on Linux."""
MAX_PATH = 4096
"""Bytes."""
MAX_DEPTH = 256
"""Levels of directories."""
INLINE_LIMIT = 512
"""Bytes: files up to this size are kept in their entry."""
PAGE_LIMIT = 1024
"""Entries: a larger directory is split into pages."""
_MEAN_PAGE = 512
"""Entries."""
_MOST_BYTES = 1 << 30
"""No directory object is as large as that; what says so of itself is not decompressed."""
_FEW_CHUNKS = 4
"""A file of up to so many chunks has them in its entry, a larger one in a blob."""


class TreeFormatError(StoreError):
    """A blob that is not what it should be: no directory, or one that contradicts itself."""


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a directory says of one name."""

    name: bytes
    kind: Literal["file", "dir", "link"]
    mode: int
    """Permission bits."""
    mtime_ns: int
    size: int
    """Bytes; of a directory those of all files below it."""
    held: Literal["inline", "chunks", "blob"]
    """What `content` is: the content itself (of a symlink: where it leads), an encoded `ChunkedFile`, or the
    32 bytes of a blob's name: of an encoded `ChunkedFile`, or of a directory."""
    content: bytes
    files: int = 1
    """How many files and symlinks these are; of a directory all those below it."""

    @property
    def blob(self) -> str:
        """The blob that `content` names. Only where it is `held` as one."""
        return self.content.hex()


class Page(msgspec.Struct, frozen=True, array_like=True, tag="page", gc=False):
    """A directory, or a part of a large one."""

    entries: tuple[Entry, ...]


class PageRef(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an index says of one page."""

    last: bytes
    """The last name in it."""
    content: bytes
    """Its blob's name, 32 bytes."""
    count: int
    """Entries."""
    files: int
    size: int


class Index(msgspec.Struct, frozen=True, array_like=True, tag="index", gc=False):
    """A large directory."""

    pages: tuple[PageRef, ...]


class Written(NamedTuple):
    """A directory in the store."""

    blob: str
    files: int
    """Below it, at every depth."""
    size: int
    """Bytes of these."""
    empty: bool


Differences: TypeAlias = dict[bytes, tuple[Entry | None, Entry | None]]

_decoder: msgspec.msgpack.Decoder[Page | Index] = msgspec.msgpack.Decoder(Page | Index)


def name_problem(name: bytes) -> str:
    """Why this cannot be a name in a directory, or ""."""
    if not name or name in (b".", b".."):
        return "an empty name, '.' and '..' name no file"
    if b"/" in name or b"\0" in name:
        return "a name has no '/' and no NUL in it"
    if len(name) > MAX_NAME:
        return f"a name in it has {len(name):,} bytes, and {MAX_NAME} are the most"
    return ""


def file_entry(name: bytes, file: chunked.ChunkedFile, mode: int, mtime_ns: int, store: Store) -> Entry:
    """The entry of a file that is in the store as chunks; of many chunks the list is put there too."""
    content = chunked.encode(file)
    if len(file.chunks) <= _FEW_CHUNKS:
        return Entry(name, "file", mode, mtime_ns, file.size, "chunks", content)
    return Entry(name, "file", mode, mtime_ns, file.size, "blob", bytes.fromhex(store.put(content)))


def inline_entry(name: bytes, content: bytes, mode: int, mtime_ns: int) -> Entry:
    """The entry of a tiny file."""
    return Entry(name, "file", mode, mtime_ns, len(content), "inline", content)


def link_entry(name: bytes, target: bytes, mtime_ns: int) -> Entry:
    """The entry of a symlink."""
    return Entry(name, "link", 0o777, mtime_ns, len(target), "inline", target)


def dir_entry(name: bytes, written: Written, mode: int, mtime_ns: int) -> Entry:
    """The entry of a directory that is in the store."""
    return Entry(
        name, "dir", mode, mtime_ns, written.size, "blob", bytes.fromhex(written.blob), written.files
    )


def chunks_of(entry: Entry, store: Store) -> chunked.ChunkedFile:
    """The chunks of a file that is not inline. Raises `ChunkedFormatError` and what the store raises."""
    file = chunked.decode(entry.content if entry.held == "chunks" else store.get(entry.blob))
    if file.size != entry.size:
        raise TreeFormatError(f"An entry says {entry.size:,} bytes, and its chunks have {file.size:,}.")
    return file


class Trees:
    """Reads and writes the directories in one store. Thread-safe.

    What was read last stays in memory, up to a number of entries. What is put is not on the disk before the
    store is asked to `settle`. Every method raises what the store raises,
    and `TreeFormatError`.
    """

    def __init__(self, store: Store, *, kept_entries: int = 100_000) -> None:
        self.store = store
        self._kept_entries = kept_entries
        self._kept: OrderedDict[str, Page | Index] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()

    def load(self, blob: str) -> Page | Index:
        """A directory object as it is stored."""
        with self._lock:
            if blob in self._kept:
                self._kept.move_to_end(blob)
                return self._kept[blob]
        found = _decode(blob, self.store.get(blob))
        self._keep(blob, found)
        return found

    def entries(self, blob: str) -> Iterator[Entry]:
        """All entries of a directory, by name."""
        found = self.load(blob)
        if isinstance(found, Page):
            yield from found.entries
        else:
            for ref in found.pages:
                yield from self._page(ref.content.hex()).entries

    def find(self, blob: str, name: bytes) -> Entry | None:
        """One entry of a directory."""
        found = self.load(blob)
        if isinstance(found, Index):
            place = bisect_left(found.pages, name, key=lambda ref: ref.last)
            if place == len(found.pages):
                return None
            found = self._page(found.pages[place].content.hex())
        place = bisect_left(found.entries, name, key=lambda entry: entry.name)
        if place < len(found.entries) and found.entries[place].name == name:
            return found.entries[place]
        return None

    def written(self, blob: str) -> Written:
        """What there is below a directory."""
        found = self.load(blob)
        of = found.entries if isinstance(found, Page) else found.pages
        return Written(blob, sum(part.files for part in of), sum(part.size for part in of), not of)

    def put(self, entries: Iterable[Entry]) -> Written:
        """Write a directory with these entries, in any order. Raises ValueError for a name twice."""
        ordered = sorted(entries, key=lambda entry: entry.name)
        for before, entry in itertools.pairwise(ordered):
            if before.name == entry.name:
                raise ValueError(f"{entry.name!r} comes twice in one directory")
        for entry in ordered:
            problem = name_problem(entry.name)
            if problem:
                raise ValueError(f"{entry.name!r} cannot be in a directory: {problem}")
        if len(ordered) <= PAGE_LIMIT:
            return self._put(Page(tuple(ordered)))
        return self._put_index(list(_split(ordered)))

    def change(self, blob: str, changes: Mapping[bytes, Entry | None]) -> Written:
        """Write a directory that is like another but for some entries; None removes one.

        Of a large directory no more is read and written than the pages that change.
        """
        found = self.load(blob)
        if isinstance(found, Page):
            entries = _changed(found.entries, changes)
            return self.written(blob) if entries == found.entries else self.put(entries)
        for name in changes:
            problem = name_problem(name)
            if problem:
                raise ValueError(f"{name!r} cannot be in a directory: {problem}")
        by_page: dict[int, dict[bytes, Entry | None]] = {}
        for name, entry in changes.items():
            place = bisect_left(found.pages, name, key=lambda ref: ref.last)
            by_page.setdefault(min(place, len(found.pages) - 1), {})[name] = entry
        pages: list[PageRef | tuple[Entry, ...]] = []
        carried: tuple[Entry, ...] = ()  # of a page that has lost the name that ended it
        for number, ref in enumerate(found.pages):
            if number not in by_page and not carried:
                pages.append(ref)
                continue
            old = self._page(ref.content.hex()).entries
            new = carried + _changed(old, by_page.get(number, {}))
            carried = ()
            if new == old:
                pages.append(ref)
                continue
            parts = list(_split(new))
            if parts and number < len(found.pages) - 1 and not _ends_page(parts[-1][-1].name):
                carried = parts.pop()
            pages += parts
        count = sum(page.count if isinstance(page, PageRef) else len(page) for page in pages)
        if count <= PAGE_LIMIT:
            return self.put(
                entry
                for page in pages
                for entry in (self._page(page.content.hex()).entries if isinstance(page, PageRef) else page)
            )
        return self._put_index(pages)

    def differences(self, old: str, new: str) -> Differences:
        """By name, the entries in which two directories differ, as they were and as they are.

        Of directories in them nothing is read. Pages that both share are not read either.
        """
        if old == new:
            return {}
        old_pages, new_pages = self._pages(old), self._pages(new)
        before = self._entries_of(old_pages, without=new_pages)
        after = self._entries_of(new_pages, without=old_pages)
        return {
            name: (before.get(name), after.get(name))
            for name in before.keys() | after.keys()
            if before.get(name) != after.get(name)
        }

    def blobs(self, root: str, seen: set[str]) -> Iterator[str]:
        """Every blob that a tree needs, but for those in `seen`, to which they are added. For collectors."""
        waiting = [root]
        while waiting:
            blob = waiting.pop()
            if blob in seen:
                continue
            seen.add(blob)
            yield blob
            found = _decode(blob, self.store.get(blob))  # not kept: it would push out what is in use
            if isinstance(found, Index):
                waiting += [ref.content.hex() for ref in found.pages]
                continue
            for entry in found.entries:
                if entry.kind == "dir":
                    waiting.append(entry.blob)
                elif entry.held != "inline":
                    yield from self._file_blobs(entry, seen)

    def _file_blobs(self, entry: Entry, seen: set[str]) -> Iterator[str]:
        if entry.held == "blob":
            if entry.blob in seen:
                return
            seen.add(entry.blob)
            yield entry.blob
        for blob in chunks_of(entry, self.store).blobs:
            if blob not in seen:
                seen.add(blob)
                yield blob

    def _pages(self, blob: str) -> dict[str, None]:
        found = self.load(blob)
        if isinstance(found, Page):
            return {blob: None}
        return dict.fromkeys(ref.content.hex() for ref in found.pages)

    def _entries_of(self, pages: Iterable[str], without: Mapping[str, None]) -> dict[bytes, Entry]:
        return {
            entry.name: entry for blob in pages if blob not in without for entry in self._page(blob).entries
        }

    def _page(self, blob: str) -> Page:
        page = self.load(blob)
        if not isinstance(page, Page):
            raise TreeFormatError(f"Blob {blob} is an index where a page of a directory should be.")
        return page

    def _put_index(self, pages: list[PageRef | tuple[Entry, ...]]) -> Written:
        refs = []
        for page in pages:
            if isinstance(page, PageRef):
                refs.append(page)
            else:
                written = self._put(Page(page))
                content = bytes.fromhex(written.blob)
                refs.append(PageRef(page[-1].name, content, len(page), written.files, written.size))
        return self._put(Index(tuple(refs)))

    def _put(self, directory: Page | Index) -> Written:
        data = zstandard.compress(msgspec.msgpack.encode(directory), 1)
        blob = self.store.put(data)
        self._keep(blob, directory)
        return self.written(blob)

    def _keep(self, blob: str, directory: Page | Index) -> None:
        with self._lock:
            if blob not in self._kept:
                self._count += _weight(directory)
            self._kept[blob] = directory
            while self._count > self._kept_entries and len(self._kept) > 1:
                self._count -= _weight(self._kept.popitem(last=False)[1])


def _weight(directory: Page | Index) -> int:
    return 1 + len(directory.entries if isinstance(directory, Page) else directory.pages)


def _ends_page(name: bytes) -> bool:
    return int.from_bytes(blake3(name).digest(length=4), "little") % _MEAN_PAGE == 0


def _split(entries: Iterable[Entry]) -> Iterator[tuple[Entry, ...]]:
    page: list[Entry] = []
    for entry in entries:
        page.append(entry)
        if _ends_page(entry.name):
            yield tuple(page)
            page = []
    if page:
        yield tuple(page)


def _changed(entries: tuple[Entry, ...], changes: Mapping[bytes, Entry | None]) -> tuple[Entry, ...]:
    if not changes:
        return entries
    by_name: dict[bytes, Entry | None] = {entry.name: entry for entry in entries}
    by_name.update(changes)
    return tuple(sorted((entry for entry in by_name.values() if entry), key=lambda entry: entry.name))


def _decode(blob: str, data: bytes) -> Page | Index:
    try:
        if not 0 <= zstandard.frame_content_size(data) <= _MOST_BYTES:
            raise TreeFormatError(f"Blob {blob} is no directory: it says no size, or too large a one.")
        found = _decoder.decode(zstandard.decompress(data))
    except (zstandard.ZstdError, msgspec.MsgspecError) as error:
        raise TreeFormatError(f"Blob {blob} is no directory: {error}.") from error
    if isinstance(found, Page):
        before = b""
        for entry in found.entries:
            # Names become paths on a machine.
            name = entry.name
            if name <= before or name_problem(name):
                raise TreeFormatError(f"Blob {blob} is no directory: {name!r} cannot be at its place.")
            before = name
    return found
