"""What a snapshot is made of, as it lies in the store: JSON, in one blob."""

from __future__ import annotations

import os
from typing import Any, Literal

import msgspec

from skylift.runtime.snapshot_errors import SnapshotDamagedError
from skylift.runtime.snapshot_needs import Needs

FORMAT = 1

Encoding = Literal["raw", "zstd"]
Kind = Literal["template", "session"]


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """A blob of the store."""

    blob: str
    encoding: Encoding
    length: int
    """Bytes when decoded."""


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """Bytes of a file. What no piece covers is zeros."""

    offset: int
    """In the file."""
    length: int
    chunk: int
    """Which of the manifest's chunks has them,"""
    at: int
    """and where in the decoded chunk."""


class SnapshotFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file of the snapshot's folder."""

    name: str
    size: int
    pieces: tuple[Piece, ...] = ()


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A whole snapshot."""

    format: int = FORMAT
    kind: Kind
    key: str
    """The template's key, or the session's id."""
    created: float
    """Unix time."""
    needs: Needs
    chunks: tuple[Chunk, ...]
    files: tuple[SnapshotFile, ...]
    metadata: dict[str, Any] = {}
    """What whoever restores it must know. The store does not look at it."""

    @property
    def unpacked(self) -> int:
        """Bytes of the pieces of its files, which is what they take on a disk."""
        return sum(piece.length for file in self.files for piece in file.pieces)

    def encode(self) -> bytes:
        """As it lies in the store."""
        return msgspec.json.encode(self)


def decode_manifest(data: bytes, name: str) -> Manifest:
    """`name` is for messages. Raises `SnapshotDamagedError` where it makes no sense."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise SnapshotDamagedError(f"Snapshot {name[:16]} cannot be read: {error}.") from error
    if manifest.format != FORMAT:
        raise SnapshotDamagedError(
            f"Snapshot {name[:16]} is of format {manifest.format}, which this version of Skylift does not "
            "know."
        )
    for file in manifest.files:
        _check_file(file, manifest.chunks, name)
    return manifest


def _check_file(file: SnapshotFile, chunks: tuple[Chunk, ...], name: str) -> None:
    """It may come from elsewhere: no file may lie outside the folder, no piece outside its file or chunk."""
    if file.name in ("", ".", "..") or os.sep in file.name or "\0" in file.name:
        raise SnapshotDamagedError(f"Snapshot {name[:16]} has a file of a forbidden name: {file.name!r}.")
    for piece in file.pieces:
        known = 0 <= piece.chunk < len(chunks)
        if (
            not known
            or min(piece.offset, piece.length, piece.at) < 0
            or piece.offset + piece.length > file.size
            or piece.at + piece.length > chunks[piece.chunk].length
        ):
            raise SnapshotDamagedError(f"Snapshot {name[:16]}: {file.name} does not fit together.")
