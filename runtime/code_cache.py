"""The functions' code that the gateway has sent."""

from __future__ import annotations

from collections import OrderedDict

from skylift.lazyfs.store import Store
from skylift.wire import Payload

_LIMIT = 64 * 1024 * 1024


class CodeCache:
    """Keeps each function's pickled code by the function's id.

    The gateway sends code once on a link, so none may be forgotten. What is over the limit, the least
    recently used first, moves to the host's own disk and is read from there.
    """

    def __init__(self, store: Store, spill: Store, limit: int = _LIMIT) -> None:
        """`store`: where large code comes from; `spill`: where what is over `limit` bytes goes."""
        self._store = store
        self._spill = spill
        self._limit = limit
        self._codes: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._elsewhere: dict[str, tuple[Store, str]] = {}

    def put(self, function_id: str, code: Payload) -> None:
        """Keep it. Raises `StoreFullError` where older code has to move and cannot."""
        if code.blob:
            self._elsewhere[function_id] = (self._store, code.blob)
            return
        self._size += len(code.data) - len(self._codes.pop(function_id, b""))
        self._codes[function_id] = code.data
        while self._size > self._limit and len(self._codes) > 1:
            oldest, data = self._codes.popitem(last=False)
            self._size -= len(data)
            self._elsewhere[oldest] = (self._spill, self._spill.put(data))

    def in_memory(self, function_id: str) -> bytes | None:
        """The code, where it need not be read from a disk."""
        code = self._codes.get(function_id)
        if code is not None:
            self._codes.move_to_end(function_id)
        return code

    def read(self, function_id: str) -> bytes:
        """The code, wherever it is; may block. Raises KeyError (it never came) and `StoreError`."""
        code = self._codes.get(function_id)
        if code is not None:
            return code
        store, blob = self._elsewhere[function_id]
        return store.get(blob)
