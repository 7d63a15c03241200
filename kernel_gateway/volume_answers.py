"""Volumes as JSON, and what can go wrong with them as statuses."""

from __future__ import annotations

from typing import Any

import msgspec

from skylift.kernel_gateway.handler import RequestError
from skylift.lazyfs import volume_errors as errors
from skylift.lazyfs.volume_commits import Version
from skylift.lazyfs.volume_reading import FileInfo
from skylift.wire import Problem

_STATUSES: list[tuple[type[errors.VolumeError], int, str]] = [
    (errors.VolumeNotFoundError, 404, "NotFoundError"),
    (errors.VolumeExistsError, 409, "AlreadyExistsError"),
    (errors.VolumeNameError, 400, "InvalidError"),
    (errors.VersionNotFoundError, 404, "NotFoundError"),
    (errors.ReadOnlyVersionError, 409, "InvalidError"),
    (errors.PathInvalidError, 400, "InvalidError"),
    (errors.PathNotFoundError, 404, "PathNotFoundError"),
    (errors.PathExistsError, 409, "PathExistsError"),
    (errors.PathIsDirectoryError, 409, "PathIsDirectoryError"),
    (errors.PathNotDirectoryError, 409, "PathNotDirectoryError"),
    (errors.VolumeBusyError, 409, "ConflictError"),
    (errors.VolumeFullError, 507, "ResourceExhaustedError"),
    (errors.VolumeUnreachableError, 503, "ConnectionError"),
    (errors.VolumeDamagedError, 500, "RemoteError"),
]


class VolumeRequestError(RequestError):
    """An answer other than success, whose error has a name of its own."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(status, message)
        self.problem = Problem(error=error, message=message)


def volume_problem(error: errors.VolumeError) -> tuple[int, str, str]:
    """Status, name of the class in `skylift.exceptions`, and message."""
    for kind, status, name in _STATUSES:
        if isinstance(error, kind):
            return status, name, printable(str(error))
    return 409, "ConflictError", printable(str(error))


def printable(text: str) -> str:
    """Text that can be JSON: a byte that is no UTF-8 shows as an escape."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class EntryRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file, directory or symlink of a volume."""

    path: str
    """From the volume's root, without a slash before it."""
    kind: str
    size: int
    mtime: float
    mode: int
    files: int
    target: str = ""
    raw: str = ""
    """The path's bytes in hex digits, where they are no UTF-8: then `path` only shows them."""


def entry_row(info: FileInfo) -> EntryRow:
    """As it is sent."""
    path = printable(info.path)
    raw = "" if path == info.path else info.path.encode("utf-8", "surrogateescape").hex()
    return EntryRow(
        path, info.kind, info.size, info.mtime, info.mode, info.files, printable(info.target), raw
    )


class VersionRow(msgspec.Struct, frozen=True):
    """A version of a volume."""

    version: int
    time: float
    """Seconds since 1970."""
    who: str
    message: str
    files: int
    size: int
    """Bytes of all files."""
    changes: Any
    """Against the version before."""
    overwritten: tuple[str, ...]
    overwritten_count: int


def version_row(version: Version) -> VersionRow:
    """As it is sent."""
    return VersionRow(
        version.number,
        version.time,
        version.who,
        version.message,
        version.files,
        version.size,
        version.changes,
        version.overwritten,
        version.overwritten_count,
    )
