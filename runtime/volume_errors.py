"""What goes wrong with volumes on a host, as what the code in a container, or a caller, is told."""

from __future__ import annotations

from skylift.lazyfs import volume_errors as errors
from skylift.lazyfs.bucket_mount import BucketMountError

_NAMES: list[tuple[type[BaseException], str]] = [
    (errors.VolumeNotFoundError, "NotFoundError"),
    (errors.VersionNotFoundError, "NotFoundError"),
    (errors.PathNotFoundError, "PathNotFoundError"),
    (errors.VolumeBusyError, "ConflictError"),
    (errors.VolumeFullError, "ResourceExhaustedError"),
    (errors.VolumeUnreachableError, "ConnectionError"),
    (errors.VolumeDamagedError, "RemoteError"),
    (BucketMountError, "ConnectionError"),
]


def error_name(error: BaseException) -> str:
    """The class in `skylift.exceptions` that says the same."""
    return next((name for kind, name in _NAMES if isinstance(error, kind)), "RemoteError")
