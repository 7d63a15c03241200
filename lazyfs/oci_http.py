"""Requests to a registry, and to where it sends on: tried again, followed with care, and cancelled at once.

A login goes to the registry and to the service that it names for tokens, never to where a request was sent
on. Without TLS nothing is asked but of this machine, or where that was asked for.
"""

from __future__ import annotations

import contextlib
import random
import re
import threading
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple, Protocol
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError, ProtocolError, ProxyError, SSLError

from skylift.lazyfs.oci_errors import OciCancelledError, OciError, OciUnreachableError
from skylift.lazyfs.oci_reference import Reference, is_loopback

ATTEMPTS = 6
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0
"""Seconds; of a registry that names a longer one it is said that it does not answer."""
_CONNECT_SECONDS = 10.0
_READ_SECONDS = 20.0
"""Without a byte; what came by then is kept."""
_NOTICE = 0.2
"""Seconds until a thread that waits sees that it is to stop."""
_REDIRECTS = 8
_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTED = frozenset({301, 302, 303, 307, 308})
_OBJECT = re.compile(r"^(?:<?[\w.]*HTTPS?Connection(?:Pool)?\b.*?[)>]: )+")


class Authorizer(Protocol):
    """Who adds the login."""

    def header(self) -> str:
        """The value of ``Authorization``; "" for none."""

    def refused(self, sent: str, challenges: str) -> bool:
        """A request that had `sent` was answered with 401 and ``WWW-Authenticate: challenges``. Whether to
        send it again. Raises `OciError`."""


class Body(NamedTuple):
    """An answer whose body was not read yet."""

    status: int
    headers: Mapping[str, str]
    pieces: Iterator[bytes]
    """May raise `InterruptedBodyError`."""


class InterruptedBodyError(Exception):
    """The connection ended in the middle of a body."""


class RegistryHttp:
    """Speaks to one registry. Its methods may be called from any thread."""

    def __init__(
        self,
        reference: Reference,
        *,
        plain_http: bool | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        """`plain_http` None: without TLS where the registry is on this machine."""
        self.reference = reference
        self._local = is_loopback(reference.host)
        self._plain = plain_http
        self._cancelled = cancelled or threading.Event()
        self._stopped = False
        without_tls = self._local if plain_http is None else plain_http
        self.origin = f"{'http' if without_tls else 'https'}://{reference.host}"
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of all connections."""
        with self._lock:
            for pool in self._pools.values():
                pool.clear()

    def stop(self) -> None:
        """End what other threads are at."""
        self._stopped = True

    def check_cancelled(self) -> None:
        """Raises `OciCancelledError` where that is so."""
        if self._stopped or self._cancelled.is_set():
            raise OciCancelledError(f"Pulling {self.reference} was cancelled.")

    def wait(self, attempt: int, asked: float = 0.0) -> None:
        """Before the next attempt. Raises `OciCancelledError`."""
        seconds = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1)  # noqa: S311
        end = time.monotonic() + max(asked, seconds)
        while (left := end - time.monotonic()) > 0:
            self._cancelled.wait(min(left, _NOTICE))
            self.check_cancelled()

    def get(
        self,
        url: str,
        limit: int,
        headers: Mapping[str, str] | None = None,
        authorizer: Authorizer | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """A short answer, whole: its status, headers and body.

        Of a body over `limit` bytes it is said that it is too large. Raises `OciError`.
        """
        for attempt in range(ATTEMPTS):
            with self.open(url, headers, authorizer) as body:
                try:
                    return body.status, body.headers, self._read(url, body, limit)
                except InterruptedBodyError as error:
                    why = str(error)
            if attempt + 1 < ATTEMPTS:
                self.wait(attempt)
        raise OciUnreachableError(
            f"{self._asked(url)} did not send its answer whole: {why}. Try again later."
        )

    @contextlib.contextmanager
    def open(
        self, url: str, headers: Mapping[str, str] | None = None, authorizer: Authorizer | None = None
    ) -> Iterator[Body]:
        """An answer that may be large. What may pass is tried again; 401 and what else does not pass is
        handed out where the authorizer knows no answer to it. Raises `OciError`."""
        response = self._answer(url, dict(headers or {}), authorizer)
        try:
            yield Body(response.status, response.headers, self._pieces(response))
        finally:
            response.close()  # what is left of it must not be read into the next answer

    # --- parts -----------------------------------------------------------------------------------

    def _answer(
        self, url: str, headers: Mapping[str, str], authorizer: Authorizer | None
    ) -> urllib3.BaseHTTPResponse:
        why = ""
        refusals = 0
        attempt = 0
        while attempt < ATTEMPTS:
            self.check_cancelled()
            login = authorizer.header() if authorizer is not None else ""
            asked = 0.0
            try:
                response = self._followed(url, {**headers, **({"Authorization": login} if login else {})})
            except SSLError as error:
                raise OciUnreachableError(
                    f"{self._asked(url)} has no certificate that this machine trusts: {_reason(error)}."
                ) from error
            except HTTPError as error:
                why = _reason(error)
            else:
                if response.status == 401 and authorizer is not None and refusals < 2:
                    refusals += 1
                    if self._let_in(authorizer, login, response):
                        continue
                if response.status not in _LATER:
                    return response
                asked = _retry_after(response.headers.get("Retry-After", ""))
                why = f"it answered {response.status} {response.reason or ''}".rstrip()
                response.close()
                if asked > _LONGEST_WAIT:
                    why += f", and to come again in {asked:.0f} seconds"
                    break
            attempt += 1
            if attempt < ATTEMPTS:
                self.wait(attempt - 1, asked)
        raise OciUnreachableError(
            f"{self._asked(url)} does not answer: {why}. Check the name and this host's network (and "
            "HTTPS_PROXY), or try again later."
        )

    @staticmethod
    def _let_in(authorizer: Authorizer, login: str, response: urllib3.BaseHTTPResponse) -> bool:
        again = True
        try:
            again = authorizer.refused(login, ", ".join(response.headers.getlist("WWW-Authenticate")))
        finally:
            if again:
                response.close()
        return again

    def _followed(self, url: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        first = _origin(url)
        for _ in range(_REDIRECTS):
            self._check(url)
            sent = dict(headers)
            if _origin(url) != first:
                sent.pop("Authorization", None)
            response = self._pool(url).request(
                "GET",
                url,
                headers={"User-Agent": "skylift", "Accept-Encoding": "identity", **sent},
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            if response.status not in _REDIRECTED or "Location" not in response.headers:
                return response
            target = response.headers["Location"]
            response.close()
            url = urljoin(url, target)
        raise OciUnreachableError(f"{self._asked(url)} sends on again and again.")

    def _check(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
        except ValueError:
            host = ""
        if host and parts.scheme == "https":
            return
        if host and parts.scheme == "http" and (self._plain or (self._local and is_loopback(host))):
            return
        raise OciUnreachableError(
            f"{self.reference}: the registry sends on to {url[:200]}, which is not asked: only https:// is "
            "safe."
        )

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        proxy = ""
        if not is_loopback(parts.netloc) and not proxy_bypass(parts.hostname or ""):
            proxy = getproxies().get(parts.scheme, "")
        with self._lock:
            if proxy not in self._pools:
                timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS)
                if proxy:
                    self._pools[proxy] = urllib3.ProxyManager(
                        proxy, retries=False, timeout=timeout, maxsize=4
                    )
                else:
                    self._pools[proxy] = urllib3.PoolManager(retries=False, timeout=timeout, maxsize=4)
            return self._pools[proxy]

    def _pieces(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        try:
            for piece in response.stream(1 << 18, decode_content=False):
                self.check_cancelled()
                yield piece
        except HTTPError as error:
            raise InterruptedBodyError(_reason(error)) from error

    def _read(self, url: str, body: Body, limit: int) -> bytes:
        data = bytearray()
        for piece in body.pieces:
            data += piece
            if len(data) > limit:
                raise OciError(f"{self._asked(url)} sends more than {limit:,} bytes where few were expected.")
        return bytes(data)

    def _asked(self, url: str) -> str:
        host = urlsplit(url).netloc.rpartition("@")[2]
        return f"{self.reference}: {host}"


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port


def _reason(error: BaseException) -> str:
    """What is at the bottom of it, without the names of objects in memory."""
    if isinstance(error, ProxyError):
        error = error.original_error
    text = str(error.args[0] if isinstance(error, ProtocolError) and error.args else error)
    return _OBJECT.sub("", text).rstrip(".")


def _retry_after(value: str) -> float:
    """Seconds; 0 where it says nothing."""
    if value.isdigit():
        return float(value)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0
