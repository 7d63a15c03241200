"""What is remembered of built images, and whether it can still be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from skylift.lazyfs.garbage import collect
from skylift.lazyfs.image_records import (
    images_reach,
    layer_blobs,
    read_image,
    read_step,
    read_trace,
    still_there,
    write_image,
    write_step,
    write_trace,
)
from skylift.lazyfs.layers import build_layer
from skylift.lazyfs.names import LocalNames
from skylift.lazyfs.store import LocalStore
from skylift.wire import ImageSpec

KEY = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def names(tmp_path: Path) -> LocalNames:
    return LocalNames(tmp_path / "names")


@pytest.fixture
def image(tmp_path: Path, store: LocalStore) -> ImageSpec:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/data").write_bytes(bytes(range(256)) * 8192)
    layer = build_layer(tmp_path / "tree", store, scratch=tmp_path)
    return ImageSpec(kind="layers", python="/bin/python", python_version="3.11.2", layers=(layer.id,))


def test_records_come_back(names: LocalNames, image: ImageSpec) -> None:
    assert None is read_image(names, KEY) is read_step(names, KEY)
    write_image(names, KEY, image)
    write_step(names, KEY, image)
    assert image == read_image(names, KEY) == read_step(names, KEY)


def test_a_record_that_cannot_be_read_is_none(names: LocalNames) -> None:
    names.put(f"images/{KEY}", b"{}")
    assert None is read_image(names, KEY)


def test_traces(names: LocalNames) -> None:
    assert () == read_trace(names, KEY)
    write_trace(names, KEY, [3, 1, 2])
    assert (3, 1, 2) == read_trace(names, KEY)


def test_an_image_is_there_as_long_as_all_of_its_blobs_are(store: LocalStore, image: ImageSpec) -> None:
    assert still_there(image, store)
    blobs = list(layer_blobs(image.layers[0], store))
    assert len(blobs) > 2
    store.delete(blobs[-1])
    assert not still_there(image, store)
    store.delete(blobs[0])
    assert not still_there(image, store)


def test_the_collector_keeps_what_images_need(store: LocalStore, names: LocalNames, image: ImageSpec) -> None:
    other = store.put(b"nobody needs this")
    write_step(names, KEY, image)
    collected = collect(store, names, [images_reach(names, store)], grace=0, clock=lambda: 1e12)
    assert 1 == collected.deleted
    assert not store.has(other)
    assert still_there(image, store)


def test_an_image_that_is_damaged_does_not_stop_the_collector(
    store: LocalStore, names: LocalNames, image: ImageSpec
) -> None:
    write_image(names, KEY, image)
    store.delete(image.layers[0])
    assert 0 == collect(store, names, [images_reach(names, store)], dry_run=True).used
