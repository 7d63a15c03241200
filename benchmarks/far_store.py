"""A bucket that is far away: an S3 service that hands out a local store's blobs, late and slowly."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

from skylift.lazyfs.store import BlobMissingError, LocalStore

_BLOB = re.compile(r"/([0-9a-f]{2})/([0-9a-f]{62})$")
_PIECE = 64 * 1024


class Line:
    """What all answers share: so many bytes a second, and each begins so much later."""

    def __init__(self, latency: float, bytes_per_second: float) -> None:
        self._latency = latency
        self._rate = bytes_per_second
        self._free_at = 0.0
        self._lock = threading.Lock()

    def wait_first(self) -> None:
        """Until an answer begins."""
        time.sleep(self._latency)

    def wait(self, length: int) -> None:
        """Until so many bytes have passed, behind those of the others."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + length / self._rate
            ready = self._free_at
        time.sleep(max(0.0, ready - time.monotonic()))


@contextlib.contextmanager
def far_store(store: LocalStore, *, latency: float, bytes_per_second: float) -> Iterator[str]:
    """The URL of a store with the same blobs; `latency` in seconds. Keys that it takes are set meanwhile."""
    line = Line(latency, bytes_per_second)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else every answer is 40 ms late
        wbufsize = -1

        def do_GET(self) -> None:
            line.wait_first()
            found = _BLOB.search(self.path.partition("?")[0])
            try:
                data = store.path("".join(found.groups())).read_bytes() if found else None
            except BlobMissingError:
                data = None
            if data is None:
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            first, last = 0, len(data) - 1
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked:
                first, last = int(asked[1]), min(int(asked[2] or last), last)
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(last + 1 - first))
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.send_header("ETag", f'"{found[0] if found else ""}"')
            self.end_headers()
            if self.command == "HEAD":
                return
            view = memoryview(data)[first : last + 1]
            for offset in range(0, len(view), _PIECE):
                piece = view[offset : offset + _PIECE]
                line.wait(len(piece))
                self.wfile.write(piece)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A host that was ended has left its connections."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    keys = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark"}
    with mock.patch.dict(os.environ, keys):
        thread.start()
        try:
            yield f"s3://far/store?endpoint=http://127.0.0.1:{server.server_port}&region=us-east-1"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
