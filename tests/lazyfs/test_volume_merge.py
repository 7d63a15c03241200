"""Merges against a plain dict."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_store import MemoryNames, MemoryStore, World

from skylift.lazyfs import trees as trees_module
from skylift.lazyfs.trees import Trees, inline_entry
from skylift.lazyfs.volume_edits import TreeEditor
from skylift.lazyfs.volume_merge import Merge, changes_between
from skylift.lazyfs.volume_paths import Parts
from skylift.lazyfs.volume_reading import VolumeView
from skylift.lazyfs.volumes import Volumes

Files = dict[Parts, bytes]

paths = st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=3).map(tuple)
edits = st.lists(st.tuples(paths, st.one_of(st.none(), st.binary(max_size=2))), max_size=8)


def edit(files: Files, changes: list[tuple[Parts, bytes | None]]) -> Files:
    """What is put replaces what is in its way."""
    files = dict(files)
    for path, content in changes:
        files = {other: kept for other, kept in files.items() if other[: len(path)] != path}
        if content is not None:
            files = {other: kept for other, kept in files.items() if path[: len(other)] != other}
            files[path] = content
    return files


def write(trees: Trees, root: str, old: Files, new: Files) -> str:
    editor = TreeEditor(trees, root, "Volume 'v'", 5)
    for path in old.keys() - new.keys():
        editor.remove(path)
    # Directories that have lost all their files go with them, as the model knows none.
    for path in sorted(old.keys() - new.keys(), key=len, reverse=True):
        for depth in range(len(path) - 1, 0, -1):
            if not any(len(other) > depth and other[:depth] == path[:depth] for other in new):
                editor.remove(path[:depth], missing_ok=True)
    for path, content in new.items():
        if old.get(path) != content:
            editor.put(path, inline_entry(path[-1], content, 0o644, 1))
    return editor.write()


def read(trees: Trees, root: str) -> Files:
    view = VolumeView(trees, root, "Volume 'v'")
    return {
        tuple(found.path.encode().split(b"/")): b"".join(view.read_file(found.path))
        for found in view.listdir(recursive=True)
        if found.kind == "file"
    }


def merged(base: Files, earlier: Files, later: Files) -> Files:
    """File by file; where a file stands in the way of another, the later one's stays."""
    result = {}
    ours = set()
    for path in base.keys() | earlier.keys() | later.keys():
        mine = later.get(path) != base.get(path)
        content = (later if mine else earlier).get(path)
        if content is not None:
            result[path] = content
            if mine:
                ours.add(path)
    for path in list(result):
        below = [other for other in result if other != path and other[: len(path)] == path]
        if below and path in ours:
            for other in below:
                del result[other]
        elif below:
            del result[path]
    return result


@settings(deadline=None, max_examples=400)
@given(edits, edits, edits)
def test_a_merge_is_that_of_a_dict(
    first: list[tuple[Parts, bytes | None]],
    second: list[tuple[Parts, bytes | None]],
    third: list[tuple[Parts, bytes | None]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees_module, "PAGE_LIMIT", 2)
        patch.setattr(trees_module, "_MEAN_PAGE", 2)
        trees = Trees(MemoryStore(World()))
        empty = trees.put(()).blob
        base = edit({}, first)
        base_root = write(trees, empty, {}, base)
        earlier, later = edit(base, second), edit(base, third)
        earlier_root, later_root = (write(trees, base_root, base, side) for side in (earlier, later))
        assert base == read(trees, base_root)
        assert earlier == read(trees, earlier_root)
        assert later == read(trees, later_root)

        merge = Merge(trees)
        root = merge.merge(base_root, earlier_root, later_root)

        assert merged(base, earlier, later) == read(trees, root)
        assert root == Merge(trees).merge(root, root, root)
        changes = changes_between(trees, base_root, later_root)
        assert (
            len(later.keys() - base.keys()),
            sum(base[path] != later[path] for path in base.keys() & later.keys()),
            len(base.keys() - later.keys()),
        ) == (changes.added, changes.changed, changes.removed)


def test_what_both_changed_is_named(  # and the later one's stays
) -> None:
    trees = Trees(MemoryStore(World()))
    empty = trees.put(()).blob
    base = write(trees, empty, {}, {(b"d", b"x"): b"0", (b"y",): b"0"})
    old = read(trees, base)
    earlier = write(trees, base, old, {(b"d", b"x"): b"1", (b"y",): b"1"})
    later = write(trees, base, old, {(b"d", b"x"): b"2", (b"y",): b"0"})

    merge = Merge(trees)
    root = merge.merge(base, earlier, later)
    assert {(b"d", b"x"): b"2", (b"y",): b"1"} == read(trees, root)
    assert ["/d/x"] == merge.overwritten
    assert 1 == merge.overwritten_count


def test_modes_of_directories_are_merged_too() -> None:
    trees = Trees(MemoryStore(World()))
    empty = trees.put(()).blob
    base = write(trees, empty, {}, {(b"d", b"x"): b"0"})
    private = TreeEditor(trees, base, "", 6)
    private.make_directory((b"d",), 0o700)
    other = TreeEditor(trees, base, "", 7)
    other.put((b"d", b"y"), inline_entry(b"y", b"1", 0o600, 1))
    roots = private.write(), other.write()
    for earlier, later in (roots, roots[::-1]):
        view = VolumeView(trees, Merge(trees).merge(base, earlier, later), "")
        assert 0o700 == view.stat("d").mode
        assert ["d/x", "d/y"] == [found.path for found in view.listdir("d")]
        assert 7e-9 == view.stat("d").mtime


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), edits), max_size=12), st.data())
def test_versions_of_a_volume_are_those_of_a_model(
    steps: list[tuple[int, list[tuple[Parts, bytes | None]]]], data: st.DataObject
) -> None:
    """Three writers, each of which began with the version that it last saw."""
    world = World()
    volume = Volumes(MemoryStore(world), MemoryNames(world), clock=world.clock).create("v")
    commits = volume.commits
    trees = commits.trees
    root = commits.newest().root
    seen: list[tuple[str, Files]] = [(root, {})] * 3
    model: list[Files] = [{}]
    for writer, changes in steps:
        base, files = seen[writer]
        wanted = edit(files, changes)
        version = commits.commit(base, write(trees, base, files, wanted), who=str(writer))
        result = merged(files, model[-1], wanted)
        if version.number == len(model):
            model.append(result)
        assert model[-1] == result == read(trees, commits.newest().root)
        assert len(model) - 1 == commits.head().number
        seen[writer] = (version.root, model[-1])
    assert [len(model) - 1 - number for number in range(len(model))] == [
        version.number for version in volume.history()
    ]
    number = data.draw(st.integers(0, len(model) - 1))
    assert model[number] == read(trees, volume.at(number).root)
    volume.restore(number)
    assert model[number] == read(trees, volume.view().root)
