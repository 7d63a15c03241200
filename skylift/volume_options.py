"""``volumes={"/data": volume}``: checked when it is given, and as part of what a container is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from skylift.exceptions import InvalidError
from skylift.volume_paths import check_mount_paths, mount_path
from skylift.waiting import Waiter
from skylift.wire import VolumeMount

if TYPE_CHECKING:
    from skylift.bucket_mount import CloudBucketMount
    from skylift.http import Http
    from skylift.volume import Volume


def check_volumes(volumes: object) -> dict[str, Volume | CloudBucketMount]:
    """By path. Raises `InvalidError` naming what is wrong."""
    from skylift.bucket_mount import CloudBucketMount
    from skylift.volume import Volume

    if not isinstance(volumes, Mapping):
        raise InvalidError(f'volumes={volumes!r}: a dict of paths and volumes, such as {{"/data": volume}}')
    checked: dict[str, Volume | CloudBucketMount] = {}
    for given, volume in volumes.items():
        path = mount_path(given)
        if not isinstance(volume, (Volume, CloudBucketMount)):
            raise InvalidError(
                f"volumes={{{given!r}: {volume!r}}}: a skylift.Volume, such as "
                "skylift.Volume.from_name('data', create_if_missing=True)"
            )
        check_mount_paths([*checked, path])
        checked[path] = volume
    return checked


async def mounts_of(waiter: Waiter, http: Http, volumes: Mapping[str, Any]) -> tuple[VolumeMount, ...]:
    """What the gateway and the host are told. Raises `NotFoundError` for a volume that is not there."""
    if not volumes:
        return ()
    return await waiter.call(lambda: tuple(volume._mount(http, path) for path, volume in volumes.items()))
