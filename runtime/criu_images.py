"""What we read and change in the images that CRIU writes.

An image is a magic number and messages of protobuf, each behind its length. CRIU's own tool for them (crit)
is not packaged everywhere.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

from skylift.runtime.criu_protobuf import BYTES, ProtobufError, encode, fields, numbers

_COMMON_HEADER = struct.pack("<I", 0x54564319)
_CORE = struct.pack("<I", 0x55053847)
_PAGEMAP = struct.pack("<I", 0x56084025)
_INVENTORY = struct.pack("<I", 0x58313116)
"""Magic numbers; the inventory's stands alone."""

_THREAD_CORE = 5
"""Field of ``core_entry``."""
_CGROUP_SET = 16
"""Field of ``thread_core_entry``."""
_NETWORK_LOCK = 11
"""Field of ``inventory_entry``."""
_SKIPPED = 2
"""Value of it."""
_PRESENT = 1 << 2
"""Flag of a ``pagemap_entry``: its pages are in the image."""
_PARENT = 1 << 0

_PAGE = os.sysconf("SC_PAGE_SIZE")


class ImageError(ProtobufError):
    """A file is not the image that its name says."""


def make_quick_to_restore(folder: Path) -> None:
    """Take out of the images what a restore would only lose time with.

    Which cgroup each thread was in: CRIU is put into the container's cgroup before it starts, and all that it
    makes stays there. (Told to ignore cgroups, it still tries to move threads, and fails.)

    That the network was locked while the images were written: unlocking it takes five programs of firewall
    rules, and there was nothing to lock, for containers with connections to the outside are not written.

    Raises `ImageError` and OSError.
    """
    for path in folder.glob("core-*.img"):
        _rewrite(path, _COMMON_HEADER + _CORE, _without_cgroup)
    _rewrite(folder / "inventory.img", _INVENTORY, _without_network_lock)


def page_runs(folder: Path) -> dict[str, list[int]]:
    """For each file of pages, the offsets at which a new run of neighbouring pages begins, ascending.

    The same data at the same place of two snapshots begins at different offsets of their files, but at the
    beginning of a run in both. Raises `ImageError` and OSError.
    """
    runs: dict[str, list[int]] = {}
    for path in folder.glob("pagemap-*.img"):
        entries = [numbers(entry) for entry in _entries(path.read_bytes(), _COMMON_HEADER + _PAGEMAP, path)]
        if not entries:
            raise ImageError(f"{path} is cut off.")
        offsets = runs.setdefault(f"pages-{entries[0].get(1, 0)}.img", [])
        offset, end = 0, -1
        for entry in entries[1:]:
            # Newer versions have the count in a wider field.
            count = entry.get(5) or entry.get(2, 0)
            flags = entry.get(4, _PARENT if entry.get(3) else _PRESENT)
            if not flags & _PRESENT or flags & _PARENT:
                continue
            address = entry.get(1, 0)
            if address != end:
                offsets.append(offset)
            offset += count * _PAGE
            end = address + count * _PAGE
    return runs


def _rewrite(path: Path, header: bytes, change: Callable[[bytes], bytes]) -> None:
    entries = [change(entry) for entry in _entries(path.read_bytes(), header, path)]
    path.write_bytes(header + b"".join(struct.pack("<I", len(entry)) + entry for entry in entries))


def _entries(data: bytes, header: bytes, path: Path) -> list[bytes]:
    """The messages of an image."""
    if not data.startswith(header):
        raise ImageError(f"{path} is not such an image of CRIU's.")
    entries = []
    at = len(header)
    while at < len(data):
        if at + 4 > len(data):
            raise ImageError(f"{path} is cut off.")
        length: int = struct.unpack_from("<I", data, at)[0]
        at += 4
        if at + length > len(data):
            raise ImageError(f"{path} is cut off.")
        entries.append(data[at : at + length])
        at += length
    return entries


def _without_cgroup(core: bytes) -> bytes:
    kept = bytearray()
    for number, kind, value, raw in fields(core):
        if number == _THREAD_CORE and kind == BYTES and isinstance(value, bytes):
            thread = b"".join(each[3] for each in fields(value) if each[0] != _CGROUP_SET)
            kept += encode([(number, thread)])
        else:
            kept += raw
    return bytes(kept)


def _without_network_lock(inventory: bytes) -> bytes:
    kept = b"".join(raw for number, _, _, raw in fields(inventory) if number != _NETWORK_LOCK)
    return kept + encode([(_NETWORK_LOCK, _SKIPPED)])
