from __future__ import annotations

from pathlib import Path

import pytest

from skylift.lazyfs.listing import stored_blobs
from skylift.lazyfs.remembered_sizes import SECONDS, RememberedSizes
from skylift.lazyfs.store import BlobMissingError, LocalStore, blob_name


class Asked(LocalStore):
    """One that counts how often it is asked."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.count = 0

    def size(self, blob: str) -> int:
        self.count += 1
        return super().size(blob)


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path / "store")


def test_what_was_put_is_known_to_be_there(asked: Asked) -> None:
    store = RememberedSizes(asked)
    blobs = [store.put(b"some"), store.put_stream([b"so", b"me more"])[0]]

    assert [True, True] == [store.has(blob) for blob in blobs]
    assert [4, 9] == [store.size(blob) for blob in blobs]
    assert 0 == asked.count
    assert b"some" == store.get(blobs[0]) == bytes(store.view(blobs[0])) == store.path(blobs[0]).read_bytes()


def test_what_was_asked_for_is_known_for_an_hour(asked: Asked) -> None:
    now = [0.0]
    store = RememberedSizes(asked, lambda: now[0])
    blob = asked.put(b"some")

    assert store.has(blob)
    assert 4 == store.size(blob)
    assert 1 == asked.count
    now[0] = SECONDS
    assert 4 == store.size(blob)
    assert 2 == asked.count


def test_what_is_missing_is_asked_for_each_time(asked: Asked) -> None:
    store = RememberedSizes(asked)
    blob = blob_name(b"some")

    assert not store.has(blob)
    with pytest.raises(BlobMissingError, match=blob):
        store.size(blob)
    store.put(b"some")
    store.delete(blob)
    assert not store.has(blob)
    assert 3 == asked.count


def test_the_rest_is_that_of_the_store_behind(asked: Asked) -> None:
    store = RememberedSizes(asked)
    blob = asked.put(b"some")

    assert [(blob, 4)] == [(found.blob, found.size) for found in stored_blobs(store)]
    assert store.there()
    store.settle()
