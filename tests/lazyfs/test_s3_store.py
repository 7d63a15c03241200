from __future__ import annotations

import builtins
import itertools
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flaky_proxy import FlakyProxy

from skylift.lazyfs.listing import stored_blobs
from skylift.lazyfs.s3_bucket import (
    Bucket,
    BucketClockError,
    BucketDeniedError,
    BucketError,
    BucketUnreachableError,
    NoBucketError,
)
from skylift.lazyfs.s3_store import S3Store
from skylift.lazyfs.store import BlobDamagedError, BlobMissingError, StoreError, blob_name

ABSENT = "0" * 64
PART = 5 << 20
BIG = random.Random(2).randbytes(2 * PART + 1000)
_numbers = itertools.count()


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FlakyProxy]:
    proxy = FlakyProxy(s3_endpoint)
    yield proxy
    proxy.close()


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def bucket(proxy: FlakyProxy, waits: list[float]) -> Bucket:
    bucket = Bucket(f"bucket-{next(_numbers)}", "a/prefix/", endpoint=proxy.url, sleep=waits.append)
    bucket.request("create_bucket", lambda answer: None)
    proxy.requests.clear()
    return bucket


@pytest.fixture
def store(bucket: Bucket, tmp_path: Path) -> S3Store:
    return S3Store(bucket, scratch=tmp_path / "scratch", part_size=PART)


def scratch(store: S3Store) -> list[Path]:
    return list((store._scratch or Path()).iterdir())


class TestBlobs:
    @pytest.mark.parametrize("data", [b"", b"some bytes"])
    def test_what_is_put_can_be_got(self, store: S3Store, data: bytes) -> None:
        blob = store.put(data, durable=True)

        assert blob_name(data) == blob
        assert data == store.get(blob) == store.view(blob) == store.path(blob).read_bytes()
        assert store.has(blob)
        assert len(data) == store.size(blob)
        assert store.there()

    def test_where_it_is(self, store: S3Store, bucket: Bucket) -> None:
        blob = store.put(b"some bytes")
        assert [f"a/prefix/blobs/{blob[:2]}/{blob[2:]}"] == [found["Key"] for found in bucket.objects("")]

    def test_large_ones_go_in_parts(self, store: S3Store, proxy: FlakyProxy, tmp_path: Path) -> None:
        blob = store.put(BIG)
        assert 3 == sum("partNumber" in path for _, path in proxy.requests)
        proxy.requests.clear()

        assert BIG == store.get(blob)
        assert 4 == len(proxy.requests)
        assert BIG == store.path(blob).read_bytes()
        proxy.requests.clear()
        assert blob == store.put(BIG)
        assert [("HEAD", f"/{store.bucket.name}/a/prefix/blobs/{blob[:2]}/{blob[2:]}")] == proxy.requests

    def test_streams(self, store: S3Store) -> None:
        assert (blob_name(b"onetwo"), 6) == store.put_stream([b"one", b"two"])
        assert b"onetwo" == store.get(blob_name(b"onetwo"))
        halves = (BIG[:PART], BIG[PART:])
        assert (blob_name(BIG), len(BIG)) == store.put_stream(iter(halves))
        assert BIG == store.get(blob_name(BIG))
        assert [] == scratch(store)

    def test_a_stream_that_breaks_off_leaves_nothing(self, store: S3Store) -> None:
        def broken() -> Iterator[bytes]:
            yield b"first"
            raise ConnectionError("the client is gone")

        with pytest.raises(ConnectionError, match="the client is gone"):
            store.put_stream(broken())
        assert [] == scratch(store)
        assert [] == list(stored_blobs(store))

    def test_only_some_files_are_kept(self, store: S3Store) -> None:
        blob = store.put(b"some bytes")
        for _ in range(20):
            assert b"some bytes" == store.path(blob).read_bytes()
        assert 16 == len(scratch(store))

    def test_missing_ones(self, store: S3Store) -> None:
        assert not store.has(ABSENT)
        store.delete(ABSENT)
        for read in (store.get, store.view, store.path, store.size):
            with pytest.raises(BlobMissingError) as caught:
                read(ABSENT)
            assert str(caught.value) == (
                f"The store in {store.bucket.where} has no blob {ABSENT}: it was deleted, or never arrived "
                "there."
            )
        assert [] == scratch(store)

    def test_what_is_not_a_name(self, store: S3Store) -> None:
        with pytest.raises(ValueError, match="is not the name of a blob"):
            store.get("../names/x")

    def test_listed_and_deleted(self, store: S3Store) -> None:
        blobs = {store.put(bytes([number])) for number in range(5)}
        gone = blobs.pop()
        store.delete(gone)
        assert blobs == {found.blob for found in stored_blobs(store)}
        assert {1} == {found.size for found in stored_blobs(store)}
        assert all(found.written > 1e9 for found in stored_blobs(store))

    def test_many_at_the_same_time(self, store: S3Store) -> None:
        data = [bytes([number % 3]) * 1000 for number in range(24)]
        with ThreadPoolExecutor(8) as pool:
            blobs = list(pool.map(store.put, data))
            assert data == list(pool.map(store.get, blobs))


class TestBadNetworks:
    @pytest.mark.parametrize("fault", ["slow-down", "500", "429 Throttling", "drop", "lose", "cut"])
    def test_what_may_pass_is_tried_again(
        self, store: S3Store, proxy: FlakyProxy, waits: list[float], fault: str
    ) -> None:
        proxy.first(3, fault, "PUT")
        blob = store.put(b"some bytes")
        proxy.first(3, fault, "GET")
        assert b"some bytes" == store.get(blob)

        assert 6 == len(waits) or fault == "cut"  # an answer to PUT has no body to cut
        assert all(0.1 <= wait <= 5 for wait in waits)
        assert waits[2] > waits[0]

    @pytest.mark.parametrize("fault", ["slow-down", "lose", "cut", "drop"])
    def test_parts_that_fail(self, store: S3Store, proxy: FlakyProxy, fault: str) -> None:
        numbers = itertools.count()
        proxy.fault = lambda method, path: fault if next(numbers) % 3 == 0 else ""
        blob = store.put(BIG)
        assert BIG == store.get(blob)
        assert BIG == store.path(blob).read_bytes()

    def test_one_that_stays_down(self, store: S3Store, proxy: FlakyProxy, waits: list[float]) -> None:
        proxy.first(99, "slow-down")
        with pytest.raises(BucketUnreachableError) as caught:
            store.put(b"some bytes")
        assert 5 == len(waits)
        assert str(caught.value) == (
            f"The bucket s3://{store.bucket.name}/a/prefix at {proxy.url} answered SlowDown 6 times. It is "
            "overloaded or down; try again later."
        )
        assert not store.there()

    def test_one_that_is_slow_to_fail_is_given_up(self, store: S3Store, proxy: FlakyProxy) -> None:
        clock = itertools.count(step=20)  # seconds for each attempt
        bucket = Bucket(
            store.bucket.name, endpoint=proxy.url, sleep=lambda _: None, clock=lambda: next(clock)
        )
        proxy.first(99, "slow-down")
        with pytest.raises(BucketUnreachableError, match="answered SlowDown once"):
            S3Store(bucket).put(b"some bytes")

    def test_an_upload_in_parts_that_fails_is_taken_back(self, store: S3Store, proxy: FlakyProxy) -> None:
        proxy.fault = lambda method, path: "403 AccessDenied" if "partNumber=2" in path else ""
        with pytest.raises(BucketDeniedError):
            store.put(BIG)
        proxy.fault = lambda method, path: ""
        assert not store.has(blob_name(BIG))
        uploads = store.bucket.request("list_multipart_uploads", lambda answer: answer.get("Uploads", []))
        assert [] == uploads

    def test_bytes_that_were_spoiled_on_their_way(self, store: S3Store, proxy: FlakyProxy) -> None:
        blob = store.put(b"some bytes")
        for read in (store.get, lambda blob: store.path(blob).read_bytes()):
            proxy.first(1, "flip", "GET")
            assert b"some bytes" == read(blob)

    @pytest.mark.parametrize("read", [S3Store.get, S3Store.path, S3Store.view])
    def test_a_damaged_blob_is_removed(self, store: S3Store, read: Any) -> None:
        blob = store.put(b"some bytes")
        key = store._key(blob)
        store.bucket.request("put_object", lambda answer: None, Key=key, Body=b"spoiled")
        with pytest.raises(BlobDamagedError, match=f"Blob {blob} in s3://.* is damaged"):
            read(store, blob)
        assert not store.has(blob)
        assert blob == store.put(b"some bytes")
        assert b"some bytes" == store.get(blob)

    def test_a_service_without_conditional_writes(self, store: S3Store, proxy: FlakyProxy) -> None:
        proxy.first(1, "501 NotImplemented", "PUT")
        blob = store.put(b"some bytes")
        assert b"some bytes" == store.get(blob)
        proxy.requests.clear()
        store.put(b"more")
        assert 1 == len(proxy.requests)


class TestMessages:
    def test_no_such_bucket(self, proxy: FlakyProxy) -> None:
        store = S3Store(Bucket("not-there", endpoint=proxy.url))
        message = (
            f"There is no bucket not-there at {proxy.url}. Create it, or look at the store's URL for its "
            "name, its endpoint and its region."
        )
        for act in (
            lambda: store.get(ABSENT),
            lambda: store.size(ABSENT),
            lambda: store.put(b"1"),
            lambda: list(store.blobs()),
        ):
            with pytest.raises(NoBucketError) as caught:
                act()
            assert message == str(caught.value)
        assert not store.there()

    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            ("403 AccessDenied", "these credentials may not do that"),
            ("403 InvalidAccessKeyId", "the service does not know this access key"),
            ("403 SignatureDoesNotMatch", "the secret key does not belong to the access key"),
            ("400 ExpiredToken", "the credentials have expired"),
        ],
    )
    def test_denied(self, store: S3Store, proxy: FlakyProxy, fault: str, reason: str) -> None:
        proxy.first(1, fault)
        with pytest.raises(BucketDeniedError) as caught:
            store.put(b"some bytes")
        assert str(caught.value) == (
            f"The bucket {store.bucket.where} does not let us in: {reason} (put_object: so it is). It needs "
            "s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket; boto3 takes the keys from "
            "AWS_ACCESS_KEY_ID, AWS_PROFILE, ~/.aws or the machine's role."
        )
        assert isinstance(caught.value, OSError)
        proxy.first(1, "403")
        with pytest.raises(BucketDeniedError, match=r"may not do that \(head_object"):
            store.has(ABSENT)

    def test_a_clock_that_is_wrong(self, store: S3Store, proxy: FlakyProxy) -> None:
        proxy.first(1, "403 RequestTimeTooSkewed")
        with pytest.raises(BucketClockError) as caught:
            store.get(ABSENT)
        assert "refuses requests since this machine's clock is wrong: it says 20" in str(caught.value)
        assert str(caught.value).endswith("UTC. Set it: timedatectl set-ntp true.")

    def test_another_region(self, store: S3Store, proxy: FlakyProxy) -> None:
        proxy.first(99, "301 PermanentRedirect", "GET")
        with pytest.raises(
            BucketError, match=r"is in another region. Say so in the store's URL: s3://bucket-"
        ):
            store.get(ABSENT)

    def test_nobody_listens(self, waits: list[float]) -> None:
        store = S3Store(Bucket("b-1", endpoint="http://127.0.0.1:9", sleep=waits.append))
        with pytest.raises(BucketUnreachableError) as caught:
            store.get(ABSENT)
        assert str(caught.value) == (
            "The bucket s3://b-1 at http://127.0.0.1:9 cannot be reached (Could not connect to the endpoint "
            f'URL: "http://127.0.0.1:9/b-1/blobs/00/{"0" * 62}"), tried 6 times. Look at the network of this '
            "machine and at the endpoint in the store's URL."
        )

    def test_no_credentials(self, proxy: FlakyProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        store = S3Store(Bucket("b-1", endpoint=proxy.url))
        with pytest.raises(BucketDeniedError, match=r"needs credentials and none were found: set AWS_"):
            store.get(ABSENT)
        with pytest.raises(BucketError, match=r"cannot be used: The config profile \(nobody\) could not be"):
            Bucket("b-1", profile="nobody")

    def test_without_boto3(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = builtins.__import__

        def absent(name: str, *rest: Any, **more: Any) -> Any:
            if name == "boto3":
                raise ImportError("No module named 'boto3'")
            return real(name, *rest, **more)

        monkeypatch.setattr(builtins, "__import__", absent)
        with pytest.raises(StoreError) as caught:
            Bucket("b-1")
        assert str(caught.value) == (
            "The bucket b-1 needs boto3, which is not installed here: pip install 'skylift[aws]'."
        )

    def test_what_cannot_be_a_bucket(self) -> None:
        with pytest.raises(ValueError, match="'a/b' is not the name of a bucket"):
            Bucket("a/b")
