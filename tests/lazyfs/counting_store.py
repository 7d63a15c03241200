"""A local store that counts what is fetched, and can be made to wait."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

from skylift.lazyfs.store import LocalStore


class CountingStore(LocalStore):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gets: Counter[str] = Counter()
        self.gate = threading.Event()
        self.gate.set()

    def get(self, blob: str) -> bytes:
        self.gets[blob] += 1
        self.gate.wait(60)
        return super().get(blob)
