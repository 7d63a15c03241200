"""The keys to buckets in what containers are made of: they are not to be written down."""

from __future__ import annotations

import msgspec

from skylift.wire import FunctionSpec


def without_keys(spec: FunctionSpec) -> FunctionSpec:
    """For who has no use for them: the container itself, and the snapshot of a session."""
    if not any(mount.bucket_env for mount in spec.volumes):
        return spec
    volumes = tuple(msgspec.structs.replace(mount, bucket_env={}) for mount in spec.volumes)
    return msgspec.structs.replace(spec, volumes=volumes)


def with_keys(spec: FunctionSpec, other: FunctionSpec) -> FunctionSpec:
    """A spec with the keys that another one has to the same buckets, where it has none itself."""
    keys = {(mount.path, mount.bucket): mount.bucket_env for mount in other.volumes if mount.bucket}
    if not keys:
        return spec
    volumes = tuple(
        msgspec.structs.replace(
            mount, bucket_env=mount.bucket_env or keys.get((mount.path, mount.bucket), {})
        )
        for mount in spec.volumes
    )
    return msgspec.structs.replace(spec, volumes=volumes)
