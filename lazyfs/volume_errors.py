"""What can go wrong with volumes. Each message names the volume and the path, says why, and what to do.

::

    VolumeError
    ├── VolumeNotFoundError        no volume of that name        (also a LookupError)
    ├── VolumeExistsError          there is one already
    ├── VolumeNameError            that cannot be a name         (also a ValueError)
    ├── VersionNotFoundError       no such version               (also a LookupError)
    ├── ReadOnlyVersionError       older versions do not change  (also a PermissionError)
    ├── PathInvalidError           that cannot be a path         (also a ValueError)
    ├── PathNotFoundError          nothing there                 (also a FileNotFoundError)
    ├── PathExistsError            something is there            (also a FileExistsError)
    ├── PathIsDirectoryError       a file was wanted             (also an IsADirectoryError)
    ├── PathNotDirectoryError      a directory was wanted        (also a NotADirectoryError)
    ├── VolumeBusyError            files are being written to
    ├── VolumeFullError            the store has no room
    ├── VolumeUnreachableError     the store does not answer
    ├── VolumeDamagedError         what the store has is not what was committed
    └── UploadInterruptedError     what is there already is not sent again
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from skylift.lazyfs.chunked import ChunkedFormatError
from skylift.lazyfs.leases import LeaseLostError
from skylift.lazyfs.store import BlobDamagedError, BlobMissingError, StoreError, StoreFullError
from skylift.lazyfs.trees import TreeFormatError


class VolumeError(Exception):
    """A volume could not do it."""


class VolumeNotFoundError(VolumeError, LookupError):
    """There is no volume of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is no volume {name!r}. Make it with Volume.from_name({name!r}, create_if_missing=True), "
            "or see which ones there are with %skylift volumes."
        )
        self.name = name


class VolumeExistsError(VolumeError):
    """There is a volume of that name already."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is a volume {name!r} already. Use it with Volume.from_name({name!r}), delete it first, "
            "or take another name."
        )
        self.name = name


class VolumeNameError(VolumeError, ValueError):
    """That cannot be the name of a volume."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name!r} cannot be the name of a volume: 1 to 64 letters, digits, '.', '_' and '-', of which "
            "the first is a letter or a digit."
        )


class VersionNotFoundError(VolumeError, LookupError):
    """The volume has no such version, or does not have it any more."""

    def __init__(self, name: str, number: int, oldest: int, newest: int) -> None:
        super().__init__(
            f"Volume {name!r} has no version {number}: it has versions {oldest} to {newest}. See history()."
        )
        self.number = number


class ReadOnlyVersionError(VolumeError, PermissionError):
    """A version does not change."""

    def __init__(self, name: str, number: int, what: str) -> None:
        super().__init__(
            f"Version {number} of volume {name!r} cannot be changed ({what}): versions stay as they were "
            f"committed. Change the volume itself, or bring this version back with restore({number})."
        )


class PathInvalidError(VolumeError, ValueError):
    """That cannot be a path in a volume."""

    def __init__(self, where: str, path: str, why: str) -> None:
        super().__init__(f"{where}: {path!r} cannot be a path there: {why}.")
        self.path = path


class PathNotFoundError(VolumeError, FileNotFoundError):
    """There is nothing at that path."""

    def __init__(self, where: str, path: str, why: str = "") -> None:
        reason = f": {why}" if why else ""
        super().__init__(f"{where} has no {path}{reason}. See what is there with listdir().")
        self.path = path


class PathExistsError(VolumeError, FileExistsError):
    """There is something at that path."""

    def __init__(self, where: str, path: str, do: str) -> None:
        super().__init__(f"{where} has {path} already. {do}")
        self.path = path


class PathIsDirectoryError(VolumeError, IsADirectoryError):
    """There is a directory where a file was wanted."""

    def __init__(self, where: str, path: str, do: str) -> None:
        super().__init__(f"{path} is a directory in {_small(where)}. {do}")
        self.path = path


class PathNotDirectoryError(VolumeError, NotADirectoryError):
    """There is a file where a directory was wanted."""

    def __init__(self, where: str, path: str, do: str) -> None:
        super().__init__(f"{path} is not a directory in {_small(where)}. {do}")
        self.path = path


class VolumeBusyError(VolumeError):
    """Files are being written to, so that they are not committed, and the view cannot be exchanged."""

    def __init__(self, where: str, reasons: list[str]) -> None:
        more = f" (and {len(reasons) - 3:,} more)" if len(reasons) > 3 else ""
        super().__init__(
            f"{where} cannot be reloaded now, for that would lose what is not committed: "
            f"{'; '.join(reasons[:3])}{more}. Close these files and reload again."
        )


class VolumeFullError(VolumeError):
    """The store has no room for it. The volume is as it was."""

    def __init__(self, where: str, doing: str, why: str) -> None:
        super().__init__(f"{where}: {doing} did not work, and nothing has changed. {why}")


class VolumeUnreachableError(VolumeError):
    """The store, or the names beside it, do not answer."""

    def __init__(self, where: str, doing: str, why: str) -> None:
        super().__init__(
            f"{where}: {doing} did not work, since the store does not answer: {why}. Try again later."
        )


class VolumeDamagedError(VolumeError):
    """What the store has is not what was committed."""

    def __init__(self, where: str, doing: str, why: str) -> None:
        super().__init__(
            f"{where}: {doing} did not work: {why.rstrip('.')}. An older version may be whole (history(), "
            "restore()); otherwise upload the file again."
        )


class UploadInterruptedError(VolumeError):
    """An upload ended before its commit: the volume is as it was."""

    def __init__(self, where: str, why: str, resumable: str) -> None:
        super().__init__(
            f"{where}: the upload was interrupted: {why.rstrip('.')}. Nothing has changed in the volume. "
            f"{resumable}"
        )


@contextlib.contextmanager
def explaining(where: str, doing: str) -> Iterator[None]:
    """Errors of the store become errors that say which volume it is, and what was being done."""
    try:
        yield
    except StoreFullError as error:
        raise VolumeFullError(where, doing, str(error)) from error
    except (BlobMissingError, BlobDamagedError, ChunkedFormatError, TreeFormatError) as error:
        raise VolumeDamagedError(where, doing, str(error)) from error
    except VolumeError:
        raise
    except LeaseLostError as error:
        raise VolumeError(f"{where}: {doing} did not work. {error}") from error
    except (OSError, StoreError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise VolumeUnreachableError(where, doing, why.rstrip(".")) from error


def _small(where: str) -> str:
    return where[:1].lower() + where[1:]
