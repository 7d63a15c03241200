from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from flaky_proxy import FlakyProxy

from skylift.lazyfs.s3_bucket import Bucket, BucketUnreachableError, NoBucketError
from skylift.lazyfs.s3_names import S3Names

_numbers = itertools.count()


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FlakyProxy]:
    proxy = FlakyProxy(s3_endpoint)
    yield proxy
    proxy.close()


@pytest.fixture
def names(proxy: FlakyProxy) -> S3Names:
    bucket = Bucket(f"names-{next(_numbers)}", "pre", endpoint=proxy.url, sleep=lambda seconds: None)
    bucket.request("create_bucket", lambda answer: None)
    return S3Names(bucket)


def test_values_by_name(names: S3Names) -> None:
    names.put("snapshots/abc/one", b"1")
    names.put("snapshots/abc/two", b"2")
    names.put("snapshots/abcd/three", b"3")
    names.put("snapshots/abc/one", b"new")

    assert b"new" == names.get("snapshots/abc/one")
    assert ["snapshots/abc/one", "snapshots/abc/two"] == names.under("snapshots/abc")
    assert 3 == len(names.under("snapshots"))
    names.delete("snapshots/abc/one")
    names.delete("snapshots/abc/one")
    assert names.get("snapshots/abc/one") is None
    assert [] == names.under("nothing")


def test_more_than_one_page_of_names(names: S3Names) -> None:
    for number in range(7):
        names.put(f"many/{number}", b"")
    found = names.bucket.objects("pre/names/many/", page_size=2)
    assert [f"pre/names/many/{number}" for number in range(7)] == [entry["Key"] for entry in found]


@pytest.mark.parametrize("name", ["", "..", "a//b", "a/", "a b"])
def test_what_is_no_name(names: S3Names, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a name here"):
        names.put(name, b"")


def test_of_many_who_swap_one_wins(names: S3Names) -> None:
    def swap(value: int) -> bool:
        return names.swap("volumes/v/head", b"old", bytes([value]))

    assert not names.swap("volumes/v/head", b"old", b"new")
    assert names.swap("volumes/v/head", None, b"old")
    assert not names.swap("volumes/v/head", None, b"other")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(swap, range(16)))
    assert 1 == sum(won)
    assert bytes([won.index(True)]) == names.get("volumes/v/head")


def test_a_swap_that_comes_between(names: S3Names, proxy: FlakyProxy) -> None:
    names.put("head", b"old")

    def another(method: str, path: str) -> str:
        if method == "PUT":
            proxy.fault = lambda method, path: ""
            names.put("head", b"faster")
        return ""

    proxy.fault = another
    assert not names.swap("head", b"old", b"new")
    assert b"faster" == names.get("head")


def test_errors_are_os_errors_that_say_what_to_do(names: S3Names, proxy: FlakyProxy) -> None:
    with pytest.raises(NoBucketError, match=r"There is no bucket none-1 at "):
        S3Names(Bucket("none-1", endpoint=proxy.url)).under("a")
    proxy.first(99, "drop")
    with pytest.raises(BucketUnreachableError, match="cannot be reached") as caught:
        names.get("a")
    assert isinstance(caught.value, OSError)
