"""What we read and change in the images that CRIU writes.

An image is a magic number and messages of protobuf, each behind its length. Here is as much of protobuf as
that takes; CRIU's own tool for it (crit) is not packaged everywhere.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

_COMMON_MAGIC = 0x54564319
_CORE_MAGIC = 0x55053847
_PAGEMAP_MAGIC = 0x56084025

_THREAD_CORE = 5
"""Field of ``core_entry``."""
_CGROUP_SET = 16
"""Field of ``thread_core_entry``."""
_PRESENT = 1 << 2
"""Flag of a ``pagemap_entry``: its pages are in the image."""
_PARENT = 1 << 0

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


class ImageError(ValueError):
    """A file is not the image that its name says."""


def forget_cgroups(folder: Path) -> None:
    """Take out of the images which cgroup each thread was in, so that CRIU leaves all in its own.

    Whoever restores them puts CRIU into the container's cgroup, which is quicker than to have it make
    cgroups; and where it is told to ignore cgroups it still tries to move threads, and fails.
    Raises `ImageError` and OSError.
    """
    for path in folder.glob("core-*.img"):
        data = path.read_bytes()
        entries = [_without_cgroup(entry) for entry in _entries(data, _CORE_MAGIC, path)]
        path.write_bytes(data[:8] + b"".join(struct.pack("<I", len(entry)) + entry for entry in entries))


def page_runs(folder: Path) -> dict[str, list[int]]:
    """For each file of pages, the offsets at which a new run of neighbouring pages begins, ascending.

    The same data at the same place of two snapshots begins at different offsets of their files, but at the
    beginning of a run in both. Raises `ImageError` and OSError.
    """
    runs: dict[str, list[int]] = {}
    for path in folder.glob("pagemap-*.img"):
        head, *entries = _entries(path.read_bytes(), _PAGEMAP_MAGIC, path)
        offsets = runs.setdefault(f"pages-{_numbers(head).get(1, 0)}.img", [])
        offset, end = 0, -1
        for entry in entries:
            numbers = _numbers(entry)
            # Newer versions have the count in a wider field.
            count = numbers.get(5) or numbers.get(2, 0)
            flags = numbers.get(4, _PARENT if numbers.get(3) else _PRESENT)
            if not flags & _PRESENT or flags & _PARENT:
                continue
            address = numbers.get(1, 0)
            if address != end:
                offsets.append(offset)
            offset += count * _PAGE
            end = address + count * _PAGE
    return runs


def _entries(data: bytes, magic: int, path: Path) -> list[bytes]:
    """The messages of an image."""
    if data[:8] != struct.pack("<II", _COMMON_MAGIC, magic):
        raise ImageError(f"{path} is not such an image of CRIU's.")
    entries = []
    at = 8
    while at < len(data):
        if at + 4 > len(data):
            raise ImageError(f"{path} is cut off.")
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if at + length > len(data):
            raise ImageError(f"{path} is cut off.")
        entries.append(data[at : at + length])
        at += length
    return entries


def _without_cgroup(core: bytes) -> bytes:
    kept = bytearray()
    for number, kind, value, raw in _fields(core):
        if number == _THREAD_CORE and kind == _BYTES and isinstance(value, bytes):
            thread = b"".join(each[3] for each in _fields(value) if each[0] != _CGROUP_SET)
            kept += _varint(number << 3 | _BYTES) + _varint(len(thread)) + thread
        else:
            kept += raw
    return bytes(kept)


def _numbers(message: bytes) -> dict[int, int]:
    """The fields of a message that are numbers."""
    return {number: value for number, _, value, _ in _fields(message) if isinstance(value, int)}


def _fields(message: bytes) -> Iterator[tuple[int, int, int | bytes, bytes]]:
    """Number, wire type, value and encoded form of each field."""
    at = 0
    value: int | bytes
    while at < len(message):
        start = at
        key, at = _read_varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _read_varint(message, at)
        else:
            if kind == _BYTES:
                length, at = _read_varint(message, at)
            elif kind in (_FIXED64, _FIXED32):
                length = 8 if kind == _FIXED64 else 4
            else:
                raise ImageError(f"An image has a field of the unknown kind {kind}.")
            value = message[at : at + length]
            if len(value) != length:
                raise ImageError("An image is cut off.")
            at += length
        yield key >> 3, kind, value, message[start:at]


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = shift = 0
    while at < len(message):
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
    raise ImageError("An image is cut off.")


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
