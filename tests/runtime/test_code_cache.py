from __future__ import annotations

from pathlib import Path

import pytest

from skylift.lazyfs.store import BlobMissingError, LocalStore
from skylift.runtime.code_cache import CodeCache
from skylift.wire import Payload


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def cache(tmp_path: Path, store: LocalStore) -> CodeCache:
    return CodeCache(store, LocalStore(tmp_path / "spill"), limit=100)


def test_what_fits_stays_in_memory(cache: CodeCache) -> None:
    cache.put("fu-1", Payload(data=b"x" * 50))
    cache.put("fu-1", Payload(data=b"y" * 50))
    cache.put("fu-2", Payload(data=b"z" * 50))
    assert [b"y" * 50, b"z" * 50] == [cache.in_memory("fu-1"), cache.in_memory("fu-2")]


def test_what_does_not_is_read_from_the_disk(cache: CodeCache, store: LocalStore) -> None:
    cache.put("fu-1", Payload(data=b"1" * 50))
    cache.put("fu-2", Payload(data=b"2" * 50))
    assert cache.in_memory("fu-1")
    cache.put("fu-3", Payload(data=b"3" * 50))

    assert cache.in_memory("fu-2") is None
    assert [b"1" * 50, b"2" * 50, b"3" * 50] == [cache.read(f"fu-{n}") for n in (1, 2, 3)]
    assert [] == [file for file in store.folder.iterdir() if file.name != "tmp"]


def test_one_that_is_over_the_limit_by_itself_stays(cache: CodeCache) -> None:
    cache.put("fu-1", Payload(data=b"x" * 500))
    assert b"x" * 500 == cache.in_memory("fu-1")


def test_large_code_comes_from_the_store(cache: CodeCache, store: LocalStore) -> None:
    cache.put("fu-1", Payload(blob=store.put(b"large"), size=5))
    assert cache.in_memory("fu-1") is None
    assert b"large" == cache.read("fu-1")


def test_code_that_is_nowhere(cache: CodeCache) -> None:
    with pytest.raises(KeyError):
        cache.read("fu-9")
    cache.put("fu-1", Payload(blob="0" * 64, size=5))
    with pytest.raises(BlobMissingError):
        cache.read("fu-1")
