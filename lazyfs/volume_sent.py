"""Files whose chunks are in the store already become part of a volume: what was uploaded over a network."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from skylift.lazyfs.chunked import Chunk, ChunkedFile, ChunkedFormatError, decode, encode
from skylift.lazyfs.leases import Lease
from skylift.lazyfs.store import BlobMissingError, Store
from skylift.lazyfs.trees import INLINE_LIMIT, Entry, file_entry, inline_entry, link_entry
from skylift.lazyfs.volume_commits import Version
from skylift.lazyfs.volume_edits import TreeEditor
from skylift.lazyfs.volume_errors import PathExistsError, PathInvalidError, VolumeError, explaining
from skylift.lazyfs.volume_handle import Volume
from skylift.lazyfs.volume_paths import Parts, parts_of, text
from skylift.wire.volumes import AskedChunk, SentEntry

_MOST_MISSING = 1000
_WORKERS = 8
_MOST_TARGET = 4096


class ChunksMissingError(VolumeError):
    """What was to be committed is not in the store, or not whole."""

    def __init__(self, where: str, missing: Sequence[str]) -> None:
        super().__init__(
            f"{where}: {len(missing):,} chunks of what was to be committed are not in the store. Nothing has "
            "changed. Upload it again: what is there is not sent twice."
        )
        self.missing = tuple(missing[:_MOST_MISSING])


def missing_chunks(store: Store, asked: Iterable[AskedChunk]) -> list[str]:
    """Those that the store has not, or not whole. Raises what the store raises."""
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="missing") as pool:
        return sorted({blob for blob in pool.map(lambda chunk: _missing(store, chunk), asked) if blob})


def commit_sent(
    volume: Volume, sent: Sequence[SentEntry], *, force: bool = False, who: str = "", message: str = ""
) -> Version:
    """Commit files, directories and symlinks, all of them or none.

    Without `force`, `PathExistsError` where a file is there already. Raises `ChunksMissingError`,
    `PathInvalidError`, what `Volume` raises otherwise, and `ChunkedFormatError` for chunks that contradict
    themselves.
    """
    where = f"Volume {volume.name!r}"
    commits = volume.commits
    store = commits.trees.store
    # Before anything is looked up: these are the client's own mistakes.
    chunked = {number: _chunked(entry) for number, entry in enumerate(sent) if entry.chunks}
    paths = [parts_of(where, entry.path) for entry in sent]
    for parts, entry in zip(paths, sent, strict=True):
        _check(where, parts, entry)
    with explaining(where, "uploading"):
        base = commits.newest().root

        def check(root: str) -> None:
            editor = TreeEditor(commits.trees, root, where, 0)
            for parts, entry in zip(paths, sent, strict=True):
                if entry.kind != "dir" and editor.find(parts) is not None:
                    raise PathExistsError(
                        where,
                        text(parts),
                        "Replace it with batch_upload(force=True), or send this one elsewhere.",
                    )

        if not force:
            check(base)
        with Lease(commits.names, f"upload to volume {volume.name}", clock=commits.clock) as lease:
            needed = {
                AskedChunk(chunk.blob, chunk.stored) for entry in sent for chunk in entry.chunks if chunk.blob
            }
            with lease.renewed_meanwhile():
                missing = missing_chunks(store, needed)
                if missing:
                    raise ChunksMissingError(where, missing)
                editor = TreeEditor(commits.trees, base, where, time.time_ns())
                for number, (parts, entry) in enumerate(zip(paths, sent, strict=True)):
                    if entry.kind == "dir":
                        if parts:
                            editor.make_directory(parts, entry.mode & 0o7777)
                    else:
                        editor.put(parts, _entry(parts, entry, chunked.get(number), store))
                root = editor.write()
            return commits.commit(
                base,
                root,
                who=who,
                message=message or _described(paths, sent),
                lease=lease,
                check=None if force else check,
            )


def _missing(store: Store, chunk: AskedChunk) -> str:
    # Not `has`: a power failure may have left a part of a blob.
    try:
        return "" if store.size(chunk.blob) == chunk.stored else chunk.blob
    except BlobMissingError:
        return chunk.blob


def _check(where: str, parts: Parts, entry: SentEntry) -> None:
    if entry.kind != "dir" and not parts:
        raise PathInvalidError(where, "/", "name the file in it")
    if entry.kind == "link" and not 0 < len(entry.content) < _MOST_TARGET:
        raise PathInvalidError(where, text(parts), "it is a symlink that leads nowhere, or too far")
    if entry.kind == "file" and not entry.chunks and len(entry.content) > INLINE_LIMIT:
        raise ChunkedFormatError(
            f"{text(parts)} has {len(entry.content):,} bytes in its entry, and {INLINE_LIMIT} are the most."
        )


def _chunked(entry: SentEntry) -> ChunkedFile:
    for chunk in entry.chunks:
        if chunk.blob and chunk.encoding == "raw" and chunk.stored != chunk.length:
            raise ChunkedFormatError(f"A chunk of {chunk.length:,} bytes is {chunk.stored:,} bytes long.")
    chunks = tuple(Chunk(chunk.blob, chunk.length, chunk.encoding) for chunk in entry.chunks)
    return decode(encode(ChunkedFile(entry.size, chunks)))


def _entry(parts: Parts, entry: SentEntry, chunked: ChunkedFile | None, store: Store) -> Entry:
    name, mode = parts[-1], entry.mode & 0o7777
    if entry.kind == "link":
        return link_entry(name, entry.content, entry.mtime_ns)
    if chunked is not None:
        return file_entry(name, chunked, mode, entry.mtime_ns, store)
    return inline_entry(name, entry.content, mode, entry.mtime_ns)


def _described(all_paths: Sequence[Parts], sent: Sequence[SentEntry]) -> str:
    paths = [parts for parts, entry in zip(all_paths, sent, strict=True) if entry.kind != "dir"]
    if not paths:
        return "upload of directories"
    return f"upload of {text(paths[0])}" + (f" and {len(paths) - 1:,} more" if len(paths) > 1 else "")
