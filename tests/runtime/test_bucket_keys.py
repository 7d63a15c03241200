from __future__ import annotations

import msgspec
from host_process import spec as some_spec

from skylift.runtime.bucket_keys import with_keys, without_keys
from skylift.wire import VolumeMount

BUCKET = VolumeMount(path="/a", bucket="s3://b", bucket_env={"AWS_ACCESS_KEY_ID": "x"})
VOLUME = VolumeMount(path="/v", volume_id="vo-1")


def test_keys_go_and_come_back() -> None:
    spec = msgspec.structs.replace(some_spec(), volumes=(BUCKET, VOLUME))
    bare = without_keys(spec)

    assert [{}, {}] == [mount.bucket_env for mount in bare.volumes]
    assert spec == with_keys(bare, spec)
    assert spec == with_keys(spec, bare)
    assert bare is without_keys(bare)


def test_only_to_the_same_bucket() -> None:
    spec = msgspec.structs.replace(some_spec(), volumes=(BUCKET,))
    other = msgspec.structs.replace(spec, volumes=(msgspec.structs.replace(BUCKET, bucket="s3://c"),))

    assert without_keys(spec) == with_keys(without_keys(spec), other)
    assert some_spec().volumes == with_keys(some_spec(), spec).volumes
