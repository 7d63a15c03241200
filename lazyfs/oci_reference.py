"""References to images: ``debian:12`` is ``docker.io/library/debian:12``, as for ``docker pull``."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from skylift.lazyfs.oci_errors import OciReferenceError

_DOCKER_HUB = "docker.io"
_DOCKER_HUB_HOST = "registry-1.docker.io"
_NAMES_OF_DOCKER_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_LONGEST = 255


class Reference(NamedTuple):
    """One image of one registry."""

    registry: str
    """``"docker.io"``, ``"localhost:5000"``."""
    repository: str
    """``"library/debian"``."""
    tag: str = ""
    digest: str = ""
    """Of its manifest; counts where there is a tag too."""

    @property
    def host(self) -> str:
        """Where requests go, with the port."""
        return _DOCKER_HUB_HOST if self.registry == _DOCKER_HUB else self.registry

    @property
    def version(self) -> str:
        """What the manifest is asked for by."""
        return self.digest or self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"


def parse_reference(text: str) -> Reference:
    """What a reference refers to; without tag and digest it is ``latest``. Raises `OciReferenceError`."""
    rest, at, digest = text.strip().partition("@")
    if at and not is_digest(digest):
        raise OciReferenceError(f"{text!r} is no reference to an image: {digest!r} is no digest (sha256:…).")
    if "://" in rest:
        raise OciReferenceError(
            f"{text!r} is no reference to an image: write it without {rest.partition('://')[0]}://."
        )
    first, slash, more = rest.partition("/")
    if slash and (any(sign in first for sign in ".:[") or first == "localhost" or first != first.lower()):
        registry, path = first, more
    else:
        registry, path = _DOCKER_HUB, rest
    path, colon, tag = path.partition(":")
    if not _HOST.fullmatch(registry):
        raise OciReferenceError(f"{text!r} is no reference to an image: {registry!r} is no registry.")
    if registry in _NAMES_OF_DOCKER_HUB:
        registry = _DOCKER_HUB
        if path and "/" not in path:
            path = f"library/{path}"
    if not path or len(path) > _LONGEST or not all(_PART.fullmatch(part) for part in path.split("/")):
        small = " Names of images have small letters only." if path != path.lower() else ""
        raise OciReferenceError(
            f"{text!r} is no reference to an image: {path!r} cannot be the name of one, as debian or "
            f"ghcr.io/owner/name:tag is.{small}"
        )
    if colon and not _TAG.fullmatch(tag):
        raise OciReferenceError(f"{text!r} is no reference to an image: {tag!r} is no tag.")
    return Reference(registry, path, tag if colon else "" if digest else "latest", digest)


def is_digest(text: str) -> bool:
    """Whether this is a digest of a kind that is known here."""
    return _DIGEST.fullmatch(text) is not None


def is_loopback(host: str) -> bool:
    """Whether a host, with or without a port, is this machine."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
