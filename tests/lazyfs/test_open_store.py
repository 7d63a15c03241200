from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from skylift.lazyfs.cached_store import CachedStore
from skylift.lazyfs.names import LocalNames
from skylift.lazyfs.open_store import StoreUrlError, open_store
from skylift.lazyfs.s3_names import S3Names
from skylift.lazyfs.s3_store import S3Store
from skylift.lazyfs.store import LocalStore

KNOWN = (
    "Known are a path, s3://BUCKET/PREFIX?endpoint=URL&region=REGION, gs://BUCKET/PREFIX and "
    "oci://NAMESPACE/REGION/BUCKET/PREFIX."
)


def test_folders(tmp_path: Path) -> None:
    store, names = open_store("", tmp_path)
    assert isinstance(store, LocalStore)
    assert isinstance(names, LocalNames)
    assert tmp_path / "store" == store.folder

    store, names = open_store(str(tmp_path / "other"), tmp_path)
    blob = store.put(b"some bytes")
    names.put("a/b", b"1")
    again, its_names = open_store(str(tmp_path / "other"), tmp_path / "elsewhere")
    assert b"some bytes" == again.get(blob)
    assert b"1" == its_names.get("a/b")


@pytest.mark.parametrize(
    ("url", "where", "region"),
    [
        ("s3://bucket", "s3://bucket", None),
        ("s3://bucket/a/b/?region=eu-west-1", "s3://bucket/a/b", "eu-west-1"),
        (
            "s3://bucket/a%20b?endpoint=http://127.0.0.1:9000",
            "s3://bucket/a b at http://127.0.0.1:9000",
            None,
        ),
        ("gs://bucket/a", "s3://bucket/a at https://storage.googleapis.com", "auto"),
        (
            "oci://space/eu-frankfurt-1/bucket/a",
            "s3://bucket/a at https://space.compat.objectstorage.eu-frankfurt-1.oraclecloud.com",
            "eu-frankfurt-1",
        ),
    ],
)
def test_buckets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, where: str, region: str | None
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    store, names = open_store(url, tmp_path, cache=tmp_path / "cache", cache_budget=1000)
    assert isinstance(store, CachedStore)
    assert isinstance(store.remote, S3Store)
    assert isinstance(names, S3Names)
    assert where == store.remote.bucket.where == names.bucket.where
    assert region == store.remote.bucket.region
    assert (tmp_path / "cache", 1000) == (store.folder.folder, store.folder.budget)
    store.close()


def test_a_bucket_with_its_cache(tmp_path: Path, s3_endpoint: str) -> None:
    numbers = itertools.count()
    store, names = open_store(f"s3://opened/{next(numbers)}?endpoint={s3_endpoint}", tmp_path)
    assert isinstance(store, CachedStore)
    assert isinstance(names, S3Names)
    names.bucket.request("create_bucket", lambda answer: None)
    blob = store.put(b"some bytes")
    assert (blob_of_stream := store.put_stream([b"more ", b"bytes"])) == (blob_of_stream[0], 10)
    names.put("a/b", blob.encode())
    store.close()

    other, its_names = open_store(f"s3://opened/0?endpoint={s3_endpoint}", tmp_path / "other")
    assert isinstance(other, CachedStore)
    assert blob.encode() == its_names.get("a/b")
    assert b"some bytes" == other.get(blob)
    assert b"more bytes" == other.path(blob_of_stream[0]).read_bytes()
    assert 20 == other.folder.total
    other.close()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://bucket/a", "http:// is not known"),
        ("s3://", "it names no bucket"),
        ("s3://a_b!/c", "'a_b!' is not the name of a bucket"),
        ("s3://bucket?endpont=x", "endpont= is not one of endpoint, profile, region"),
        (
            "s3://bucket?endpoint=minio:9000",
            "its endpoint 'minio:9000' does not begin with http:// or https://",
        ),
        ("oci://space/eu-frankfurt-1", "it needs a namespace, a region and a bucket"),
        ("oci://sp ace/eu-frankfurt-1/b", "sp ace/eu-frankfurt-1 is no namespace and region"),
    ],
)
def test_what_is_no_store_is_told_what_is(tmp_path: Path, url: str, problem: str) -> None:
    with pytest.raises(StoreUrlError) as caught:
        open_store(url, tmp_path)
    assert f"{url!r} is not the URL of a store: {problem}. {KNOWN}" == str(caught.value)


def test_keys_in_a_url_are_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(StoreUrlError, match="it must not have keys in it") as caught:
        open_store("s3://key:secret@bucket/a", tmp_path)
    assert "secret" not in str(caught.value)
