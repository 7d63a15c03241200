"""Logins at registries: tokens (``Bearer``) from the service that the registry names, or ``Basic``."""

from __future__ import annotations

import base64
import re
import threading
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit, urlunsplit

import msgspec

from skylift.lazyfs.oci_errors import OciError, OciLoginError
from skylift.lazyfs.oci_http import RegistryHttp

_LONGEST_TOKEN = 1 << 20
_SCHEME = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9-]*)(?:\s+(?!=)|\s*(?=,)|$)")
_PARAMETER = re.compile(r"""\s*,?\s*([A-Za-z][A-Za-z0-9_-]*)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))""")


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""


class Challenge(NamedTuple):
    """One way to log in that a registry offers."""

    scheme: str
    """In small letters."""
    parameters: dict[str, str]


def challenges(header: str) -> list[Challenge]:
    """What ``WWW-Authenticate`` says."""
    found: list[Challenge] = []
    at = 0
    while match := _SCHEME.match(header, at):
        at = match.end()
        parameters: dict[str, str] = {}
        while inner := _PARAMETER.match(header, at):
            value = re.sub(r"\\(.)", r"\1", inner[2]) if inner[2] is not None else inner[3]
            parameters[inner[1].lower()] = value
            at = inner.end()
        found.append(Challenge(match[1].lower(), parameters))
    return found


class Login:
    """A login at one registry, or none."""

    def __init__(self, http: RegistryHttp, username: str = "", password: str = "") -> None:
        self._http = http
        self._username = username
        self._password = password
        self._header = ""
        self._lock = threading.Lock()

    def header(self) -> str:
        """See `Authorizer.header`."""
        return self._header

    def refused(self, sent: str, challenges_header: str) -> bool:
        """See `Authorizer.refused`."""
        with self._lock:
            if self._header != sent:
                return True  # another thread has got a new one meanwhile
            offered = {challenge.scheme: challenge.parameters for challenge in challenges(challenges_header)}
            if "bearer" in offered and offered["bearer"].get("realm"):
                header = f"Bearer {self._token(offered['bearer'])}"
            elif "basic" in offered and self._username:
                header = f"Basic {self._basic()}"
            else:
                return False
            if header == sent:  # nothing better is to be had
                return False
            self._header = header
            return True

    def _basic(self) -> str:
        return base64.b64encode(f"{self._username}:{self._password}".encode()).decode()

    def _token(self, offered: dict[str, str]) -> str:
        reference = self._http.reference
        scope = offered.get("scope") or f"repository:{reference.repository}:pull"
        asked = {"service": offered.get("service", ""), "scope": scope, "account": self._username}
        query = urlencode({name: value for name, value in asked.items() if value})
        realm = urlsplit(offered["realm"])
        url = urlunsplit(
            realm._replace(query=f"{realm.query}&{query}" if realm.query else query, fragment="")
        )
        headers = {"Authorization": f"Basic {self._basic()}"} if self._username else {}
        status, _, body = self._http.get(url, _LONGEST_TOKEN, headers)
        if status in (401, 403):
            raise login_error(self._http, self._username)
        if status != 200:
            raise OciError(f"{reference}: {realm.netloc}, which gives tokens for it, answered {status}.")
        try:
            answer = msgspec.json.decode(body, type=_Token)
        except msgspec.DecodeError:
            answer = _Token()
        token = answer.token or answer.access_token
        if not token or not token.isprintable() or not token.isascii():
            raise OciError(f"{reference}: {realm.netloc}, which gives tokens for it, sent none.")
        return token


def login_error(http: RegistryHttp, username: str) -> OciLoginError:
    """For a registry that lets nobody in."""
    reference = http.reference
    if username:
        return OciLoginError(
            f"{reference}: {reference.registry} does not let {username} pull this image: the password is "
            "wrong, or the account may not read it. Check both (many registries want an access token as the "
            "password)."
        )
    return OciLoginError(
        f"{reference}: {reference.registry} has no such image, or wants a login for it. Check the name, or "
        "give Image.from_registry a secret with REGISTRY_USERNAME and REGISTRY_PASSWORD."
    )
