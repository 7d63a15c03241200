"""One repository of a registry, by the OCI distribution protocol. What comes is checked while it does."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from skylift.lazyfs.oci_auth import Login, login_error
from skylift.lazyfs.oci_errors import (
    OciContentError,
    OciDigestError,
    OciDiskFullError,
    OciError,
    OciNotFoundError,
    OciUnreachableError,
)
from skylift.lazyfs.oci_http import ATTEMPTS, Body, InterruptedBodyError, RegistryHttp
from skylift.lazyfs.oci_manifests import (
    INDEXES,
    MANIFESTS,
    Descriptor,
    ImageConfig,
    Manifest,
    Platform,
    read_config,
    read_manifest,
)
from skylift.lazyfs.oci_reference import Reference

MAX_MANIFEST = 4 << 20
MAX_CONFIG = 8 << 20
"""Bytes."""
_DEEPEST = 3
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Registry:
    """Where an image is pulled from. `blob` may be called from several threads at once."""

    def __init__(
        self,
        reference: Reference,
        *,
        username: str = "",
        password: str = "",
        plain_http: bool | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        """See `RegistryHttp`."""
        self.reference = reference
        self.http = RegistryHttp(reference, plain_http=plain_http, cancelled=cancelled)
        self._username = username
        self._login = Login(self.http, username, password)
        self._url = f"{self.http.origin}/v2/{reference.repository}"

    def close(self) -> None:
        """Let go of all connections."""
        self.http.close()

    def image(self, wanted: Platform) -> tuple[str, Manifest]:
        """The digest of the image's manifest for a platform, and the manifest. Raises `OciError`."""
        version, expected = self.reference.version, self.reference.digest
        for _ in range(_DEEPEST):
            data, media_type, digest = self._manifest(version, expected)
            choice = read_manifest(data, media_type, self.reference, wanted)
            if choice.manifest is not None:
                return digest, choice.manifest
            assert choice.next is not None
            version = expected = choice.next.digest
        raise OciContentError(f"{self.reference} is an index of indexes of indexes.")

    def config(self, manifest: Manifest, wanted: Platform) -> ImageConfig:
        """What the image says of itself. Raises `OciError`."""
        descriptor = manifest.config
        url = f"{self._url}/blobs/{descriptor.digest}"
        status, headers, data = self.http.get(url, MAX_CONFIG, None, self._login)
        self._check_status(status, headers.get("Content-Type", ""), data, "its configuration")
        self._check_digest(data, descriptor.digest, "its configuration")
        return read_config(data, manifest, self.reference, wanted)

    def blob(
        self, descriptor: Descriptor, path: Path, told: Callable[[int], None] = lambda count: None
    ) -> None:
        """Write a blob to a new file.

        Where the connection ends, it goes on from there. `told` hears how many bytes more there are, negative
        where it begins anew. Raises `OciError` and OSError; what came of the file is left.
        """
        for damaged in (False, True):
            hasher = hashlib.new(descriptor.digest.partition(":")[0])
            with path.open("wb") as file:
                try:
                    self._whole_blob(descriptor, file.fileno(), hasher.update, told)
                except OSError as error:
                    if error.errno in NO_ROOM:
                        raise disk_full(self.reference, path.parent) from error
                    raise
            if hasher.hexdigest() == descriptor.digest.partition(":")[2]:
                return
            told(-path.stat().st_size)
            if damaged:
                raise self._other_digest(descriptor.digest, "a layer")

    # --- parts -----------------------------------------------------------------------------------

    def _whole_blob(
        self,
        descriptor: Descriptor,
        file: int,
        hashed: Callable[[bytes], None],
        told: Callable[[int], None],
    ) -> None:
        url = f"{self._url}/blobs/{descriptor.digest}"
        done = 0
        attempt = 0
        why = ""
        while attempt < ATTEMPTS:
            headers = {"Range": f"bytes={done}-"} if done else {}
            with self.http.open(url, headers, self._login) as body:
                skip = 0
                if done and body.status == 200:
                    skip = done  # it knows no ranges
                elif body.status != (206 if done else 200):
                    self._refuse_blob(body)
                elif done and not body.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
                    raise OciError(
                        f"{self.reference}: the registry sent another part of a layer than was asked."
                    )
                try:
                    for piece in body.pieces:
                        piece, skip = piece[skip:], max(0, skip - len(piece))
                        if not piece:
                            continue
                        done += len(piece)
                        if done > descriptor.size:
                            raise self._other_size(descriptor, "more")
                        hashed(piece)
                        _write(file, piece)
                        told(len(piece))
                        attempt = 0
                except InterruptedBodyError as error:
                    why = str(error)
                else:
                    if done == descriptor.size:
                        return
                    why = f"{descriptor.size - done:,} of {descriptor.size:,} bytes are missing"
            attempt += 1
            if attempt < ATTEMPTS:
                self.http.wait(attempt - 1)
        raise OciUnreachableError(
            f"{self.reference}: the registry did not send a layer whole: {why}. Try again later."
        )

    def _refuse_blob(self, body: Body) -> None:
        data = b""
        try:
            for piece in body.pieces:
                data += piece
                if len(data) > MAX_MANIFEST:
                    break
        except InterruptedBodyError:
            pass
        self._check_status(body.status, body.headers.get("Content-Type", ""), data, "a layer")
        raise OciError(f"{self.reference}: the registry answered {body.status} for a layer.")

    def _manifest(self, version: str, expected: str) -> tuple[bytes, str, str]:
        url = f"{self._url}/manifests/{version}"
        headers = {"Accept": ", ".join((*INDEXES, *MANIFESTS))}
        status, answered, data = self.http.get(url, MAX_MANIFEST, headers, self._login)
        media_type = answered.get("Content-Type", "").partition(";")[0].strip()
        self._check_status(status, media_type, data, "")
        expected = expected or answered.get("Docker-Content-Digest", "")
        if expected:
            self._check_digest(data, expected, "its manifest")
        return data, media_type, expected or f"sha256:{hashlib.sha256(data).hexdigest()}"

    def _check_status(self, status: int, media_type: str, data: bytes, what: str) -> None:
        if status == 200:
            if media_type.startswith("text/html"):
                raise OciContentError(
                    f"{self.reference}: {self.reference.registry} answers with a web page: it is no registry."
                )
            return
        reference = self.reference
        if status in (401, 403):
            raise login_error(self.http, self._username)
        if status == 404 and what:
            raise OciNotFoundError(
                f"{reference}: the registry has its manifest, but not {what}: a push of it broke off, or a "
                "part was deleted there. Push it anew."
            )
        if status == 404:
            version = f"tag {reference.tag}" if not reference.digest else f"manifest {reference.digest}"
            if b"MANIFEST_UNKNOWN" in data[:MAX_MANIFEST]:
                raise OciNotFoundError(
                    f"{reference}: {reference.registry}/{reference.repository} has no {version}. Check its "
                    "tags where it is published."
                )
            raise OciNotFoundError(
                f"{reference}: {reference.registry} has no image {reference.repository} with {version}. "
                "Check the name."
            )
        raise OciError(f"{reference}: the registry answered {status}.")

    def _check_digest(self, data: bytes, digest: str, what: str) -> None:
        algorithm, _, expected = digest.partition(":")
        if algorithm not in ("sha256", "sha512") or hashlib.new(algorithm, data).hexdigest() != expected:
            raise self._other_digest(digest, what)

    def _other_digest(self, digest: str, what: str) -> OciDigestError:
        return OciDigestError(
            f"{self.reference}: {what} has another digest than {digest}. It was damaged on the way or in the "
            "registry, or somebody changed it: try again, and if this repeats, push it anew."
        )

    def _other_size(self, descriptor: Descriptor, how: str) -> OciDigestError:
        return OciDigestError(
            f"{self.reference}: the registry sends {how} than the {descriptor.size:,} bytes of "
            f"{descriptor.digest}."
        )


def disk_full(reference: Reference, folder: Path, needed: int = 0) -> OciDiskFullError:
    """For what does not fit into a folder."""
    free = os.statvfs(folder)
    room = free.f_bavail * free.f_frsize
    needs = f"needs {needed:,} bytes more" if needed else "does not fit"
    return OciDiskFullError(
        f"{reference} {needs} in {folder}, where {room:,} are free. Free some space on that disk, or set "
        "SKYLIFT_HOME to a folder on a larger one."
    )


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
