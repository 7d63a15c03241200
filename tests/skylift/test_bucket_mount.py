from __future__ import annotations

import pickle
from typing import Any, cast

import cloudpickle
import pytest

import skylift
from skylift.bucket_mount import CloudBucketMount
from skylift.exceptions import InvalidError
from skylift.wire import VolumeMount

KEYS = {"AWS_ACCESS_KEY_ID": "my-id", "AWS_SECRET_ACCESS_KEY": "my-key"}


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*KEYS, "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)


def mounted(bucket: CloudBucketMount) -> VolumeMount:
    return bucket._mount(cast("Any", None), "/data")


def test_what_a_container_is_told() -> None:
    assert CloudBucketMount is skylift.CloudBucketMount
    assert VolumeMount(path="/data", name="s3://b-1", bucket="s3://b-1/") == mounted(CloudBucketMount("b-1"))
    bucket = CloudBucketMount(
        "b-1", "https://minio:9000/", "a/b c/", secret=KEYS | {"OTHER": "x"}, read_only=True
    )
    assert mounted(bucket) == VolumeMount(
        path="/data",
        name="s3://b-1/a/b c",
        read_only=True,
        bucket="s3://b-1/a/b%20c?endpoint=https%3A%2F%2Fminio%3A9000",
        bucket_env=KEYS,
    )


def test_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (KEYS | {"AWS_SESSION_TOKEN": "t", "AWS_REGION": "eu-west-1"}).items():
        monkeypatch.setenv(name, value)
    bucket = CloudBucketMount("b-1")
    assert KEYS | {"AWS_SESSION_TOKEN": "t", "AWS_REGION": "eu-west-1"} == mounted(bucket).bucket_env
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(InvalidError, match="the environment has no AWS_SECRET_ACCESS_KEY"):
        CloudBucketMount("b-1")


def test_keys_are_not_shown_and_do_not_travel() -> None:
    bucket = CloudBucketMount("b-1", key_prefix="a", secret=KEYS)
    assert "CloudBucketMount('s3://b-1/a')" == repr(bucket)
    assert "my-" not in repr(mounted(bucket)) + str([mounted(bucket)])
    for pickled in (pickle.dumps(bucket), cloudpickle.dumps(lambda: bucket)):
        assert b"my-key" not in pickled
        assert b"my-id" not in pickled
    assert {} == mounted(pickle.loads(pickle.dumps(bucket))).bucket_env


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bucket_name": "s3://b-1"}, 'the name of a bucket, such as "my-data", without s3://'),
        ({"bucket_name": 3}, r"CloudBucketMount\(3\): the name of a bucket"),
        ({"bucket_endpoint_url": "minio:9000"}, 'the URL of a service, such as "https://minio'),
        ({"bucket_endpoint_url": "https://id:key@minio"}, "'https://…@minio'.*without keys"),
        ({"key_prefix": "/a"}, "key_prefix='/a'\\): a folder of the bucket, such as \"images/\""),
        ({"key_prefix": "a/../b"}, "a folder of the bucket"),
        (
            {"secret": "mine"},
            r"a dict with AWS_ACCESS_KEY_ID and .* \(skylift.Secret is not built yet",
        ),
        ({"secret": {}}, "the secret has no AWS_ACCESS_KEY_ID and no AWS_SECRET_ACCESS_KEY"),
        ({"secret": {"AWS_ACCESS_KEY_ID": "x"}}, "the secret has no AWS_SECRET_ACCESS_KEY"),
        (
            {"secret": {"AWS_ACCESS_KEY_ID": 1, "AWS_SECRET_ACCESS_KEY": "y"}},
            "the values of a secret are text",
        ),
        ({"requester_pays": True}, "requester_pays is not built yet"),
        ({"oidc_auth_role_arn": "arn"}, "oidc_auth_role_arn is not built yet"),
        ({"force_path_style": True}, "needs a bucket_endpoint_url"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        CloudBucketMount(**{"bucket_name": "b-1", **arguments})
