"""HTTP to a gateway that is reached over a Unix socket, as it is from inside a container."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

import urllib3


class _UnixConnection(urllib3.connection.HTTPConnection):
    def __init__(self, *args: Any, path: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._path = path

    def _new_conn(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        try:
            if isinstance(self.timeout, (int, float)):
                sock.settimeout(self.timeout)
            sock.connect(self._path)
        except OSError as error:
            sock.close()
            raise urllib3.exceptions.NewConnectionError(self, f"{self._path}: {error}") from error
        return sock


class UnixPool(urllib3.HTTPConnectionPool):
    """Connections to the socket at `path`; the URLs of its requests are paths."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__("localhost", **options)
        self.ConnectionCls = partial(_UnixConnection, path=path)  # type: ignore[assignment]
