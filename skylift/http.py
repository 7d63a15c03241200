"""The gateway's REST interface: blobs by their hash, and what there is to list."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from blake3 import blake3

from skylift import exceptions
from skylift.gateway_process import UNIX, Gateway
from skylift.remote_errors import problem_error
from skylift.wire import INLINE_LIMIT, Payload, Problem

if TYPE_CHECKING:
    import urllib3

_TIMEOUT = 60.0

Query: TypeAlias = Sequence[tuple[str, str | bytes]]
"""Of a URL; bytes are sent as they are."""


class Http:
    """HTTP requests to one gateway, from any thread."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._pool: urllib3.PoolManager | urllib3.HTTPConnectionPool | None = None
        self._lock = threading.Lock()
        self._stored: set[str] = set()

    def get(self, path: str, **query: str | int | float) -> Any:
        """The JSON that ``GET path`` answers with. Raises the error that the gateway names, or
        `exceptions.ConnectionError` when it does not answer."""
        fields = [(name, str(value)) for name, value in query.items()]
        return json.loads(self._request("GET", path, fields=fields).data or b"null")

    def delete(self, path: str) -> bool:
        """``DELETE path``. False where there was nothing to delete; else raises as `get` does."""
        return self._request("DELETE", path, accept=(404,)).status != 404

    def post(self, path: str, timeout: float, body: object = None) -> Any:
        """The JSON that ``POST path`` with `body` as JSON answers with, within `timeout` seconds. It is not
        sent again where no answer comes. Raises as `get` does."""
        data = None if body is None else json.dumps(body).encode()
        return json.loads(self._request("POST", path, body=data, timeout=timeout).data or b"null")

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: bytes | None = None,
        kind: str = "",
        accept: tuple[int, ...] = (),
        again: bool = True,
    ) -> tuple[int, bytes]:
        """Status and body of the answer to a request whose body is of that content type. Raises as `get`
        does, but not for statuses in `accept`. With `again` it is sent again where no answer comes."""
        headers = {"Content-Type": kind} if kind else {}
        response = self._request(
            method,
            path,
            body=body,
            fields=query,
            accept=accept,
            headers=headers,
            timeout=None if again else _TIMEOUT,
        )
        return response.status, response.data

    def stream(
        self, path: str, query: Query = (), headers: Mapping[str, str] | None = None
    ) -> urllib3.BaseHTTPResponse:
        """The answer to ``GET path``, whose body is still to be read; closing it lets go of the connection.
        Raises as `get` does."""
        return self._request("GET", path, fields=query, headers=headers or {}, preload=False)

    def payload(self, data: bytes) -> Payload:
        """Bytes as they travel: inline where they are small, else by their hash, put into the store once."""
        if len(data) <= INLINE_LIMIT:
            return Payload(data=data, size=len(data))
        return Payload(blob=self.put_blob(data), size=len(data))

    def put_blob(self, data: bytes) -> str:
        """Puts bytes into the store, unless they are there already; returns their BLAKE3."""
        digest = blake3(data, max_threads=blake3.AUTO).hexdigest()
        if digest in self._stored:
            return digest
        path = f"/v1/blobs/{digest}"
        # Where the store does not answer (503), the answer to the PUT says why.
        if self._request("HEAD", path, accept=(404, 503)).status != 200:
            self._request("PUT", path, body=data)
        self._stored.add(digest)
        return digest

    def get_blob(self, digest: str) -> bytes:
        """The bytes of that BLAKE3. Raises `NotFoundError` when the store no longer has them."""
        data: bytes = self._request("GET", f"/v1/blobs/{digest}").data
        if blake3(data, max_threads=blake3.AUTO).hexdigest() != digest:
            raise exceptions.InternalFailure(f"the store sent other bytes than those of {digest}")
        return data

    def forget_blobs(self) -> None:
        """Trust no longer that what was put into the store is there: it may be another store."""
        self._stored.clear()

    def _new_pool(self) -> urllib3.PoolManager | urllib3.HTTPConnectionPool:
        import urllib3

        timeout = urllib3.Timeout(_TIMEOUT)
        if self._gateway.url.startswith(UNIX):
            from skylift.unix_http import UnixPool

            return UnixPool(self._gateway.url.removeprefix(UNIX), maxsize=8, timeout=timeout)
        return urllib3.PoolManager(maxsize=8, timeout=timeout)

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        fields: Query = (),
        accept: tuple[int, ...] = (),
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        preload: bool = True,
    ) -> urllib3.BaseHTTPResponse:
        import urllib3

        with self._lock:
            if self._pool is None:
                self._pool = self._new_pool()
        base = self._gateway.url
        url = path if base.startswith(UNIX) else base + path
        if fields:
            from urllib.parse import urlencode

            url += "?" + urlencode(fields)
        headers = {"Authorization": f"Bearer {self._gateway.token}", **(headers or {})}
        try:
            response = self._pool.request(
                method,
                url,
                body=body,
                headers=headers,
                retries=urllib3.Retry(
                    total=4,
                    read=4 if timeout is None else 0,
                    backoff_factor=0.2,
                    status=0,
                    redirect=0,
                    allowed_methods=None,
                ),
                timeout=_TIMEOUT if timeout is None else timeout,
                preload_content=preload,
            )
        except urllib3.exceptions.HTTPError as error:
            raise exceptions.ConnectionError(
                f"{method} {url}: the gateway does not answer ({error})"
            ) from error
        if response.status >= 400 and response.status not in accept:
            raise _problem(method, url, response.status, response.data)
        return response


def _problem(method: str, url: str, status: int, body: bytes) -> exceptions.Error:
    try:
        return problem_error(msgspec.json.decode(body, type=Problem))
    except msgspec.DecodeError:
        pass
    kinds = {401: exceptions.AuthError, 403: exceptions.PermissionDeniedError, 404: exceptions.NotFoundError}
    return kinds.get(status, exceptions.InternalFailure)(f"{method} {url} answered {status}")
