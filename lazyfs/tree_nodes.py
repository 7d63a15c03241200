"""The numbers by which the kernel knows what it has looked up in trees.

They are written to a file as they are given out, so that another process can go on with them.
"""

from __future__ import annotations

import struct
import threading
from pathlib import Path
from typing import NamedTuple

_RECORD = struct.Struct("<QQH")
ROOT = 1


class Node(NamedTuple):
    """What has a number."""

    parent: int
    name: bytes


class Nodes:
    """Numbers of names in directories. Thread-safe."""

    def __init__(self, file: Path, *, go_on: bool) -> None:
        """Kept in `file`; with `go_on`, those that are in it are taken over. Raises OSError."""
        self._lock = threading.Lock()
        self._numbers: dict[Node, int] = {}
        self._nodes: dict[int, Node] = {}
        self._lookups: dict[int, int] = {}
        self._next = ROOT + 1
        if go_on:
            self._read(file)
        self._file = file.open("ab" if go_on else "wb", buffering=0)

    def take(self, parent: int, name: bytes) -> int:
        """The number of a name, which the kernel has looked up once more."""
        node = Node(parent, name)
        with self._lock:
            number = self._numbers.get(node)
            if number is None:
                number, self._next = self._next, self._next + 1
                self._file.write(_RECORD.pack(number, parent, len(name)) + name)
                self._numbers[node] = number
                self._nodes[number] = node
            self._lookups[number] = self._lookups.get(number, 0) + 1
            return number

    def get(self, number: int) -> Node | None:
        """What has the number."""
        return self._nodes.get(number)

    def forget(self, number: int, lookups: int) -> None:
        """The kernel has forgotten so many lookups."""
        with self._lock:
            left = self._lookups.get(number, 0) - lookups
            if left > 0:
                self._lookups[number] = left
                return
            self._lookups.pop(number, None)
            node = self._nodes.pop(number, None)
            if node is not None:
                self._numbers.pop(node, None)

    def _read(self, file: Path) -> None:
        data = file.read_bytes()
        at = 0
        while at + _RECORD.size <= len(data):
            number, parent, length = _RECORD.unpack_from(data, at)
            name = data[at + _RECORD.size : at + _RECORD.size + length]
            if len(name) < length:
                break
            at += _RECORD.size + length
            node = Node(parent, name)
            self._numbers[node] = number
            self._nodes[number] = node
            # How often the kernel has looked it up is not known: it is not forgotten any more.
            self._lookups[number] = 1 << 62
            self._next = max(self._next, number + 1)
