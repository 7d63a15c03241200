"""``sys.stdout``, ``sys.stderr`` and ``sys.stdin`` of user code.

What is written goes to the call that runs, whichever thread writes it; when none runs, to the file
descriptors 1 and 2.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterable
from typing import Any

from .stream import Stream


class Capture:
    """`stream` is the call that runs, or None."""

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.stdout = Writer(self, "stdout", 1)
        self.stderr = Writer(self, "stderr", 2)

    def install(self) -> None:
        """Takes over the standard streams; ``sys.__stdout__`` and its like stay what they are."""
        sys.stdout = self.stdout
        sys.stderr = self.stderr
        sys.stdin = NoStdin()


class Writer(io.TextIOBase):
    """A standard stream whose text becomes `output` events."""

    encoding = "utf-8"
    errors = "backslashreplace"
    newlines = None
    mode = "w"
    line_buffering = True
    write_through = False

    def __init__(self, capture: Capture, name: str, fd: int) -> None:
        self._capture = capture
        self._name = name
        self._fd = fd
        self._bytes: _ByteWriter | None = None

    @property
    def name(self) -> str:
        """As of the stream that this one stands for."""
        return f"<{self._name}>"

    @property
    def buffer(self) -> _ByteWriter:
        """Takes bytes, as UTF-8."""
        if self._bytes is None:
            self._bytes = _ByteWriter(self)
        return self._bytes

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if text:
            stream = self._capture.stream
            if stream is None or not stream.output(self._name, text):
                _write_all(self._fd, text.encode("utf-8", "backslashreplace"))
        return len(text)

    def writelines(self, lines: Iterable[str], /) -> None:  # type: ignore[override]
        self.write("".join(lines))

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._fd

    def flush(self) -> None:
        """Nothing: text waits a few milliseconds at most, flushed or not."""

    def close(self) -> None:
        """Nothing: the next call wants to print too."""

    def reconfigure(self, **_options: Any) -> None:
        """Accepted and ignored: the other end is a notebook, which is UTF-8."""


class _ByteWriter(io.BufferedIOBase):
    """The `buffer` of a standard stream."""

    def __init__(self, text: Writer) -> None:
        self._text = text
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.raw = self

    def write(self, data: Any, /) -> int:
        size = memoryview(data).nbytes
        self._text.write(self._decoder.decode(bytes(data)))
        return size

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._text.fileno()

    def flush(self) -> None:
        """Nothing, as for the text."""

    def close(self) -> None:
        """Nothing, as for the text."""


class NoStdin(io.TextIOBase):
    """Says why there is nothing to read, where ``/dev/null`` would say "EOF"."""

    encoding = "utf-8"
    name = "<stdin>"

    def readable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return 0

    def read(self, _size: int | None = -1, /) -> str:
        raise io.UnsupportedOperation(NO_INPUT)

    def readline(self, _size: int = -1, /) -> str:  # type: ignore[override]
        raise io.UnsupportedOperation(NO_INPUT)

    def close(self) -> None:
        """Nothing."""


NO_INPUT = (
    "there is no keyboard in a container, so input() and its like cannot ask: ask in the notebook and "
    "pass the answer in"
)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
