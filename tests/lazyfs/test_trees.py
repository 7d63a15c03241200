from __future__ import annotations

from pathlib import Path

import pytest
from counting_store import CountingStore
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_store import MemoryStore, World

from skylift.lazyfs import trees as trees_module
from skylift.lazyfs.chunked import Chunk, ChunkedFile
from skylift.lazyfs.store import blob_name
from skylift.lazyfs.trees import (
    PAGE_LIMIT,
    Entry,
    Index,
    Page,
    TreeFormatError,
    Trees,
    dir_entry,
    file_entry,
    inline_entry,
)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(World())


def small(name: bytes, content: bytes = b"x") -> Entry:
    return inline_entry(name, content, 0o644, 1)


def many(count: int) -> list[Entry]:
    return [small(b"file-%06d" % number) for number in range(count)]


def test_entries_come_back_sorted_and_are_found(store: MemoryStore) -> None:
    trees = Trees(store)
    written = trees.put([small(b"b", b"22"), small(b"a"), small(b"\xff\n")])

    assert (3, 4, False) == written[1:]
    fresh = Trees(store)
    assert [b"a", b"b", b"\xff\n"] == [entry.name for entry in fresh.entries(written.blob)]
    assert small(b"b", b"22") == fresh.find(written.blob, b"b")
    assert fresh.find(written.blob, b"c") is None
    assert fresh.find(trees.put([]).blob, b"a") is None
    assert trees.put([]).empty


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/a", b"a\0", b"x" * 256])
def test_names_that_lead_elsewhere_are_refused(store: MemoryStore, name: bytes) -> None:
    trees = Trees(store)
    with pytest.raises(ValueError, match="cannot be in a directory"):
        trees.put([small(name)])
    large = trees.put(many(PAGE_LIMIT + 1))
    with pytest.raises(ValueError, match="cannot be in a directory"):
        trees.change(large.blob, {name: small(name)})
    # And where somebody else has written it.
    blob = trees._put(Page((small(name),))).blob
    with pytest.raises(TreeFormatError, match="cannot be at its place"):
        Trees(store).load(blob)


def test_a_name_twice(store: MemoryStore) -> None:
    with pytest.raises(ValueError, match="twice"):
        Trees(store).put([small(b"a"), small(b"a", b"other")])


@pytest.mark.parametrize("data", [b"", b"no zstd", bytes.fromhex("28b52ffd2000010000")])
def test_what_is_no_directory(store: MemoryStore, data: bytes) -> None:
    with pytest.raises(TreeFormatError, match=f"Blob {blob_name(data)} is no directory"):
        Trees(store).load(store.put(data))


def test_a_large_directory_is_read_in_few_reads_and_one_entry_in_two(tmp_path: Path) -> None:
    store = CountingStore(tmp_path)
    written = Trees(store).put(many(20_000))

    trees = Trees(store)
    assert 20_000 == sum(1 for _ in trees.entries(written.blob))
    assert 20 < store.gets.total() < 80
    assert {1} == set(store.gets.values())
    list(trees.entries(written.blob))
    assert {1} == set(store.gets.values())

    store.gets.clear()
    assert Trees(store).find(written.blob, b"file-012345") is not None
    assert Trees(store).find(written.blob, b"file-012345x") is None
    assert 4 == store.gets.total()


def test_of_a_large_directory_a_change_writes_one_page_and_the_index(store: MemoryStore) -> None:
    trees = Trees(store)
    written = trees.put(many(20_000))
    before = set(store.data)

    changed = trees.change(written.blob, {b"file-012345": small(b"file-012345", b"new")})

    assert 2 == len(set(store.data) - before)
    assert 20_002 == changed.size
    assert {b"file-012345": (small(b"file-012345"), small(b"file-012345", b"new"))} == trees.differences(
        written.blob, changed.blob
    )


names = st.integers(0, 60).map(lambda number: b"%02d" % number)


@settings(deadline=None, max_examples=150)
@given(
    st.sets(names),
    st.lists(st.dictionaries(names, st.one_of(st.none(), st.binary(max_size=3)), max_size=12), max_size=4),
)
def test_a_tree_depends_on_what_is_in_it_and_not_on_how_it_came_there(
    first: set[bytes], steps: list[dict[bytes, bytes | None]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees_module, "PAGE_LIMIT", 8)
        patch.setattr(trees_module, "_MEAN_PAGE", 4)
        store = MemoryStore(World())
        trees = Trees(store, kept_entries=10)
        model = dict.fromkeys(first, b"x")
        blob = trees.put(small(name) for name in model).blob
        for step in steps:
            old, old_model = blob, dict(model)
            written = trees.change(
                blob, {name: small(name, new) if new is not None else None for name, new in step.items()}
            )
            blob = written.blob
            model.update({name: new for name, new in step.items() if new is not None})
            for name, new in step.items():
                if new is None:
                    model.pop(name, None)
            assert (len(model), sum(map(len, model.values()))) == written[1:3]
            differ = {
                name for name in old_model.keys() | model.keys() if old_model.get(name) != model.get(name)
            }
            assert differ == trees.differences(old, blob).keys()
        assert blob == trees.put(small(name, content) for name, content in model.items()).blob
        assert isinstance(trees.load(blob), Index if len(model) > 8 else Page)
        assert sorted(model.items()) == [(entry.name, entry.content) for entry in trees.entries(blob)]


def test_every_blob_of_a_tree_is_found_once(store: MemoryStore) -> None:
    trees = Trees(store)
    chunks = [store.put(bytes([number])) for number in range(6)]
    few = ChunkedFile(3 << 20, tuple(Chunk(blob, 1 << 20) for blob in chunks[:3]))
    lots = ChunkedFile(5 << 20, tuple(Chunk(blob, 1 << 20) for blob in (*chunks[2:], "")))
    inner = trees.put([file_entry(b"few", few, 0o644, 1, store), file_entry(b"lots", lots, 0o644, 1, store)])
    root = trees.put(
        [*many(PAGE_LIMIT + 1), dir_entry(b"d1", inner, 0o755, 1), dir_entry(b"d2", inner, 0o755, 1)]
    )

    found = list(trees.blobs(root.blob, set()))
    assert len(found) == len(set(found))
    assert set(store.data) == set(found)
    assert [] == list(trees.blobs(root.blob, set(found)))
