"""An HTTP proxy in front of a service, which spoils the answers that a test wants spoiled."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_OWN_HEADERS = frozenset({"content-length", "transfer-encoding", "connection", "date", "server"})


class FlakyProxy:
    """Passes requests on to `target`, but those that `faults` has something for.

    `fault(method, path)` returns what happens to one request: "" (nothing), "slow-down" (503 SlowDown),
    "NNN" or "NNN Code" (an error of that status), "cut" (the connection ends in the middle of the body),
    "drop" (it ends before an answer), "lose" (as "drop", but the request is done), "flip" (one byte of the
    body is another).
    """

    def __init__(self, target: str) -> None:
        self.fault: Callable[[str, str], str] = lambda method, path: ""
        self.requests: list[tuple[str, str]] = []
        proxy = self
        where = urlsplit(target)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.requests.append((self.command, self.path))
                fault = proxy.fault(self.command, self.path)
                if fault == "drop":
                    self.end()
                    return
                if fault == "slow-down":
                    fault = "503 SlowDown"
                if fault[:3].isdigit():
                    self.refuse(*fault.partition(" ")[::2])
                    return
                onward = http.client.HTTPConnection(where.hostname or "", where.port or 80, timeout=30)
                onward.request(self.command, self.path, body, dict(self.headers.items()))
                answer = onward.getresponse()
                data = answer.read()
                onward.close()
                if fault == "lose":
                    self.end()
                    return
                if fault == "flip":
                    data = data[:-1] + bytes([data[-1] ^ 1])
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in (
                        "content-length",
                        "transfer-encoding",
                        "connection",
                        "date",
                        "server",
                    ):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else len(data)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if fault == "cut":
                    self.wfile.write(data[: len(data) // 2])
                    self.end()
                else:
                    self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815

            def refuse(self, status: str, code: str) -> None:
                text = f"<Error><Code>{code}</Code><Message>so it is</Message></Error>" if code else ""
                body = b"" if self.command == "HEAD" else text.encode()
                self.send_response(int(status))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def end(self) -> None:
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def first(self, times: int, fault: str, method: str = "") -> None:
        """The next `times` requests (of that method) have this fault."""
        left = [times]

        def choose(used: str, path: str) -> str:
            if left[0] and used == (method or used):
                left[0] -= 1
                return fault
            return ""

        self.fault = choose

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
