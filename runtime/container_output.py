"""What a container writes to its stdout and stderr by itself: child processes, native code, last words."""

from __future__ import annotations

import asyncio
import codecs
import os
from collections import deque
from collections.abc import Callable

_CHUNK = 64 * 1024
_TAIL = 16 * 1024
_FLUSH_LIMIT = 256 * 1024


class _Pipe:
    def __init__(self, descriptor: int, stream: str) -> None:
        self.descriptor = descriptor
        self.stream = stream
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.open = True


class ContainerOutput:
    """Reads both pipes, hands on their text, and keeps the last of it for error messages."""

    def __init__(self, pipes: tuple[int, int], written: Callable[[str, bytes], None]) -> None:
        """`written` gets ``"stdout"`` or ``"stderr"`` and UTF-8 text. The pipes are closed by `close`."""
        self._written = written
        self._pipes = [_Pipe(pipes[0], "stdout"), _Pipe(pipes[1], "stderr")]
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._paused = False
        for pipe in self._pipes:
            os.set_blocking(pipe.descriptor, False)
            asyncio.get_running_loop().add_reader(pipe.descriptor, self._read, pipe)

    def flush(self) -> None:
        """Pass on what is in the pipes now, up to a limit: a child may write faster than anyone reads."""
        for pipe in self._pipes:
            left = _FLUSH_LIMIT
            while pipe.open and left > 0:
                count = self._read(pipe)
                if count <= 0:
                    break
                left -= count

    def pause(self) -> None:
        """Leave further output in the pipes, so that who writes it waits."""
        if not self._paused:
            self._paused = True
            for pipe in self._pipes:
                if pipe.open:
                    asyncio.get_running_loop().remove_reader(pipe.descriptor)

    def resume(self) -> None:
        """Take back `pause`."""
        if self._paused:
            self._paused = False
            for pipe in self._pipes:
                if pipe.open:
                    asyncio.get_running_loop().add_reader(pipe.descriptor, self._read, pipe)

    def tail(self, lines: int = 20) -> str:
        """The last lines."""
        text = b"".join(self._tail).decode("utf-8", "replace")
        return "\n".join(text.splitlines()[-lines:])

    def close(self) -> None:
        """Stop reading. Idempotent."""
        for pipe in self._pipes:
            self._end(pipe)

    def _read(self, pipe: _Pipe) -> int:
        try:
            data = os.read(pipe.descriptor, _CHUNK)
        except BlockingIOError:
            return 0
        text = pipe.decoder.decode(data, final=not data)
        if not data:
            self._end(pipe)
        if text:
            encoded = text.encode("utf-8", "replace")
            self._keep(encoded)
            self._written(pipe.stream, encoded)
        return len(data)

    def _keep(self, data: bytes) -> None:
        self._tail.append(data)
        self._tail_size += len(data)
        while self._tail_size > _TAIL and len(self._tail) > 1:
            self._tail_size -= len(self._tail.popleft())

    def _end(self, pipe: _Pipe) -> None:
        if pipe.open:
            pipe.open = False
            asyncio.get_running_loop().remove_reader(pipe.descriptor)
            os.close(pipe.descriptor)
