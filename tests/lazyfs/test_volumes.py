from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from counting_store import CountingStore
from memory_store import MemoryNames, MemoryStore, World

from skylift.lazyfs.chunked import CHUNK_SIZE
from skylift.lazyfs.garbage import collect
from skylift.lazyfs.leases import Lease
from skylift.lazyfs.names import LocalNames
from skylift.lazyfs.store import LocalStore, StoreFullError
from skylift.lazyfs.volume_commits import volumes_reach
from skylift.lazyfs.volume_errors import (
    PathExistsError,
    PathInvalidError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
    ReadOnlyVersionError,
    UploadInterruptedError,
    VersionNotFoundError,
    VolumeDamagedError,
    VolumeError,
    VolumeExistsError,
    VolumeFullError,
    VolumeNameError,
    VolumeNotFoundError,
    VolumeUnreachableError,
)
from skylift.lazyfs.volumes import Volume, Volumes

DAY = 24 * 3600


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def store(world: World) -> MemoryStore:
    return MemoryStore(world)


@pytest.fixture
def names(world: World) -> MemoryNames:
    return MemoryNames(world)


@pytest.fixture
def volumes(world: World, store: MemoryStore, names: MemoryNames) -> Volumes:
    return Volumes(store, names, clock=world.clock)


@pytest.fixture
def volume(volumes: Volumes) -> Volume:
    return volumes.create("data")


def put(volume: Volume, files: dict[str, bytes], force: bool = True) -> None:
    with volume.batch_upload(force=force) as batch:
        for path, content in files.items():
            batch.put_file(io.BytesIO(content), path)


def listed(volume: Volume, path: str = "/") -> list[str]:
    return [found.path for found in volume.listdir(path, recursive=True)]


def read(volume: Volume, path: str) -> bytes:
    return b"".join(volume.read_file(path))


class TestByName:
    def test_made_found_listed_deleted(self, volumes: Volumes, world: World) -> None:
        made = volumes.from_name("data", create_if_missing=True)
        assert made.volume_id == volumes.from_name("data").volume_id
        assert made.volume_id == volumes.from_name("data", create_if_missing=True).volume_id
        world.now += 5
        put(made, {"/a": b"12", "/d/b": b"3"})
        volumes.create("other")

        first, second = volumes.list()
        assert ("data", 1, world.now, world.now - 5, 2, 3) == (
            first.name,
            first.version,
            first.changed,
            first.created,
            first.files,
            first.size,
        )
        assert ("other", 0, 0) == (second.name, second.version, second.files)

        volumes.delete("data")
        assert ["other"] == [found.name for found in volumes.list()]
        volumes.delete("data", missing_ok=True)
        with pytest.raises(VolumeNotFoundError, match="There is no volume 'data'"):
            made.listdir("/")
        with pytest.raises(VolumeNotFoundError):
            put(made, {"/a": b""})
        assert made.volume_id != volumes.create("data").volume_id

    def test_messages(self, volumes: Volumes, volume: Volume) -> None:
        with pytest.raises(VolumeNotFoundError) as missing:
            volumes.from_name("dat")
        assert str(missing.value) == (
            "There is no volume 'dat'. Make it with Volume.from_name('dat', create_if_missing=True), or see "
            "which ones there are with %skylift volumes."
        )
        with pytest.raises(VolumeExistsError, match=r"There is a volume 'data' already\. Use it with Volume"):
            volumes.create("data")
        with pytest.raises(VolumeNotFoundError):
            volumes.delete("dat")

    @pytest.mark.parametrize("name", ["", "a/b", "../x", ".x", "x" * 65, "a b", "a\n"])
    def test_names_that_cannot_be(self, volumes: Volumes, name: str) -> None:
        for method in (volumes.create, volumes.from_name, volumes.delete):
            with pytest.raises(VolumeNameError, match="cannot be the name of a volume: 1 to 64 letters"):
                method(name)

    def test_spaces_do_not_see_each_other(self, store: MemoryStore, names: MemoryNames) -> None:
        one, two = Volumes(store, names, space="u-1"), Volumes(store, names, space="u-2")
        assert one.create("data").volume_id != two.create("data").volume_id
        one.delete("data")
        assert ["data"] == [found.name for found in two.list()]

    def test_what_was_left_half_made_is_tidied_up(
        self, volumes: Volumes, volume: Volume, names: MemoryNames, world: World
    ) -> None:
        names.values["volumes/vo-00000000/head"] = names.values[f"volumes/{volume.volume_id}/head"]
        assert 0 == volumes.tidy()  # it may just be being made
        world.now += 3601
        assert 1 == volumes.tidy()
        assert [f"volumes/{volume.volume_id}/head"] == names.under("volumes")


class TestReading:
    @pytest.fixture
    def filled(self, volume: Volume) -> Volume:
        big = bytes(range(256)) * 8192 + b"end"
        put(volume, {"/big": big, "/d/tiny": b"tiny", "/d/e/empty": b"", "/d-x": b"x" * 600})
        return volume

    def test_listing(self, filled: Volume) -> None:
        assert ["big", "d", "d-x", "d/e", "d/tiny", "d/e/empty"] == listed(filled)
        assert ["big", "d", "d-x"] == [found.path for found in filled.listdir()]
        assert ["d/e", "d/tiny"] == [found.path for found in filled.iterdir("d/")]
        (only,) = filled.listdir("/d/tiny")
        assert only == filled.stat("d/tiny")
        directory = filled.stat("/d")
        assert ("dir", 4, 2, 0o755) == (directory.kind, directory.size, directory.files, directory.mode)
        assert (2 * CHUNK_SIZE + 3 + 604, 4) == (filled.stat("").size, filled.stat("").files)

    def test_content(self, filled: Volume) -> None:
        assert [CHUNK_SIZE, CHUNK_SIZE, 3] == [len(chunk) for chunk in filled.read_file("big")]
        assert b"tiny" == read(filled, "d/tiny")
        assert b"" == read(filled, "d/e/empty")
        assert bytes(range(254, 256)) + b"end" == filled.read_range("big", 2 * CHUNK_SIZE - 2, 100)
        assert b"in" == filled.read_range("d/tiny", 1, 2)

    def test_messages(self, filled: Volume) -> None:
        with pytest.raises(PathNotFoundError) as missing:
            filled.read_file("d/nope/x")
        assert str(missing.value) == (
            "Volume 'data' has no /d/nope/x: there is no /d/nope. See what is there with listdir()."
        )
        with pytest.raises(FileNotFoundError, match=r"has no /nope\. See"):
            filled.listdir("nope")
        with pytest.raises(
            PathIsDirectoryError, match=r"/d is a directory in volume 'data'\. Read the files"
        ):
            filled.read_file("d")
        with pytest.raises(PathNotDirectoryError, match="/big is not a directory in volume 'data'"):
            filled.listdir("big/x")

    @pytest.mark.parametrize(
        ("path", "why"),
        [
            (
                "../etc/passwd",
                r"Volume 'data': '\.\./etc/passwd' cannot be a path there: '\.\.' could lead out",
            ),
            ("/a/../b", "could lead out"),
            ("a\0b", "no NUL"),
            ("a/" + "x" * 256, "has 256 bytes, and 255 are the most"),
            ("y/" * 300 + "x", "301 levels deep, and 256 are the most"),
            (("x" * 250 + "/") * 17, "has 4,267 bytes, and 4,096 are the most"),
            ("\ud800", "cannot be written as UTF-8"),
        ],
    )
    def test_paths_that_cannot_be(self, volume: Volume, path: str, why: str) -> None:
        for method in (volume.listdir, volume.stat, volume.read_file, volume.remove_file):
            with pytest.raises(PathInvalidError, match=why):
                method(path)
        with pytest.raises(PathInvalidError, match=why):
            put(volume, {path: b""})

    def test_any_bytes_are_a_name(self, volume: Volume) -> None:
        with volume.batch_upload() as batch:
            batch.put_file(io.BytesIO(b"1"), b"d/\xff\n")
        (found,) = volume.listdir("d")
        assert b"1" == read(volume, found.path) == read(volume, os.fsdecode(b"/d/\xff\n"))

    def test_symlinks_stay_in_the_volume(self, volume: Volume, tmp_path: Path) -> None:
        (tmp_path / "d" / "e").mkdir(parents=True)
        (tmp_path / "d" / "file").write_bytes(b"1")
        for link, target in {
            "d/e/up": "../file",
            "latest": "d/./e",
            "out": "../../etc/passwd",
            "root": "/etc/passwd",
            "round": "round",
        }.items():
            (tmp_path / link).symlink_to(target)
        with volume.batch_upload() as batch:
            batch.put_directory(tmp_path)

        assert b"1" == read(volume, "latest/up")
        assert ["d/e/up"] == listed(volume, "latest")
        assert ("link", "../file") == (volume.stat("d/e/up").kind, volume.stat("d/e/up").target)
        with pytest.raises(PathNotFoundError, match="has no /out: a symlink in it leads out of the volume"):
            volume.read_file("out")
        with pytest.raises(PathNotFoundError, match="/root leads to /etc/passwd, which is not in the volume"):
            volume.read_file("root")
        with pytest.raises(PathNotFoundError, match="its symlinks go round in circles"):
            volume.read_file("round")

    def test_a_damaged_file_names_volume_and_path(self, filled: Volume, store: MemoryStore) -> None:
        chunk = filled.commits.trees.find(filled.view().root, b"d-x")
        assert chunk is not None
        seen = set(filled.commits.trees.blobs(filled.view().root, set()))
        for blob in seen:
            if store.data[blob].startswith(b"(\xb5/\xfd") and b"x" in store.data[blob]:
                del store.data[blob]
        with pytest.raises(VolumeDamagedError, match="Volume 'data': reading /d-x did not work: The store"):
            read(filled, "d-x")

    def test_a_store_that_does_not_answer(self, filled: Volume, world: World) -> None:
        def fail() -> None:
            raise OSError(110, "Connection timed out")

        world.before = fail
        with pytest.raises(VolumeUnreachableError, match=r"does not answer: Connection timed out\. Try"):
            filled.listdir()


class TestUploads:
    def test_a_directory(self, volume: Volume, tmp_path: Path) -> None:
        (tmp_path / "a" / "empty").mkdir(parents=True)
        (tmp_path / "a" / "run.sh").write_bytes(b"#!")
        (tmp_path / "a" / "run.sh").chmod(0o750)
        os.utime(tmp_path / "a" / "run.sh", ns=(5, 7_000_000_000))
        os.mkfifo(tmp_path / "a" / "pipe")
        (tmp_path / "top").write_bytes(b"top")
        told = []
        with volume.batch_upload(progress=lambda *now: told.append(now)) as batch:
            batch.put_directory(tmp_path, "/x")
            batch.put_directory(tmp_path, "/flat", recursive=False)
            batch.put_file(tmp_path / "top", "/into/")

        assert ["flat", "into", "x", "flat/top", "into/top", "x/a", "x/top", "x/a/empty", "x/a/run.sh"] == (
            listed(volume)
        )
        script = volume.stat("x/a/run.sh")
        assert (0o750, 7.0, 2) == (script.mode, script.mtime, script.size)
        assert (4, 4, 11, 11) == told[-1]
        assert batch.version is not None
        assert "upload of /x/top and 3 more" == batch.version.message
        assert (4, 11) == (batch.version.changes.added, batch.version.changes.bytes_written)

    def test_nothing_is_overwritten_unless_asked_for(self, volume: Volume, store: MemoryStore) -> None:
        put(volume, {"/a": b"old"})
        before = set(store.data)
        with pytest.raises(PathExistsError) as caught:
            put(volume, {"/a": b"n" * 2000, "/b": b"m" * 2000}, force=False)
        assert str(caught.value) == (
            "Volume 'data' has /a already. Replace it with batch_upload(force=True), or send this one "
            "elsewhere."
        )
        assert before == set(store.data)
        put(volume, {"/a": b"new"})
        assert b"new" == read(volume, "a")

    def test_nor_what_somebody_puts_there_meanwhile(self, volume: Volume) -> None:
        class Slow(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if not volume.listdir():
                    put(volume, {"/a": b"theirs"})
                return super().read(size)

        with pytest.raises(PathExistsError), volume.batch_upload() as batch:
            batch.put_file(Slow(b"ours"), "/a")
        assert b"theirs" == read(volume, "a")

    def test_what_is_wrong_is_said_at_once(self, volume: Volume, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"")
        batch = volume.batch_upload()
        with pytest.raises(FileNotFoundError):
            batch.put_file(tmp_path / "nope", "/a")
        with pytest.raises(IsADirectoryError, match=r"Send it with put_directory\(\)"):
            batch.put_file(tmp_path, "/a")
        with pytest.raises(NotADirectoryError, match=r"Send it with put_file\(\)"):
            batch.put_directory(tmp_path / "f", "/a")
        with pytest.raises(PathInvalidError, match="name the file in it"):
            batch.put_file(io.BytesIO(), "/")
        with pytest.raises(TypeError, match=r"open\(…, 'rb'\)"):
            batch.put_file(io.StringIO(), "/a")  # type: ignore[arg-type]

    def test_a_block_that_raises_sends_nothing(self, volume: Volume) -> None:
        def upload() -> None:
            with volume.batch_upload() as batch:
                batch.put_file(io.BytesIO(b"1"), "/a")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            upload()
        assert 0 == volume.info().version

    def test_an_upload_that_breaks_off_says_what_is_there_and_goes_on_there(
        self, volume: Volume, tmp_path: Path, store: MemoryStore, names: MemoryNames
    ) -> None:
        (tmp_path / "1").write_bytes(b"1" * 1000)
        (tmp_path / "2").write_bytes(b"2" * 1000)

        others = threading.Event()

        def progress(files: int, *_: int) -> None:
            if files == 2:
                others.set()

        class Broken(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                others.wait(30)
                raise OSError(5, "Input/output error")

        def upload(third: io.BytesIO) -> None:
            with volume.batch_upload(progress=progress) as batch:
                batch.put_directory(tmp_path)
                batch.put_file(third, "/3")

        with pytest.raises(UploadInterruptedError) as caught:
            upload(Broken())
        message = str(caught.value)
        assert message.startswith(
            "Volume 'data': the upload was interrupted: [Errno 5] Input/output error. "
            "Nothing has changed in the volume. "
        )
        assert "2 of 3 files (2,000 of 2,000 bytes) are in the store: upload the same again within a day" in (
            message
        )
        assert [] == listed(volume) == names.under("leases")
        before = set(store.data)
        upload(io.BytesIO(b"three"))
        assert ["1", "2", "3"] == listed(volume)
        assert 2 == len(set(store.data) - before)  # the root and the version, and nothing of 1 and 2

    def test_a_full_store(self, volume: Volume, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object, **__: object) -> str:
            raise StoreFullError(Path("/store"), 1000, 7)

        put(volume, {"/d/old": b"1"})
        monkeypatch.setattr(store, "put", full)
        with pytest.raises(VolumeFullError) as caught:
            put(volume, {"/a": b"x" * 1000})
        assert str(caught.value) == (
            "Volume 'data': the upload did not work, and nothing has changed. The store in /store is full: "
            "1,000 bytes were to be written and 7 are free. Free some space on that disk, or set "
            "SKYLIFT_HOME to a folder on a larger one. 0 of 1 files (0 of 1,000 bytes) are in the store: "
            "upload the same again within a day, and these are not sent twice."
        )
        with pytest.raises(VolumeFullError, match="changing it did not work, and nothing has changed"):
            volume.copy_files(["/d"], "/b", recursive=True)
        assert 1 == volume.info().version


class TestEdits:
    @pytest.fixture
    def filled(self, volume: Volume) -> Volume:
        put(volume, {"/a": b"1", "/d/b": b"2", "/d/e/c": b"3"})
        return volume

    def test_copies(self, filled: Volume, store: MemoryStore) -> None:
        filled.copy_files(["/a"], "/new")
        filled.copy_files(["/a", "/new"], "/d", recursive=True)
        filled.copy_files(["/d"], "/copy/d", recursive=True)
        assert b"1" == read(filled, "new") == read(filled, "copy/d/a")
        assert ["copy/d", "copy/d/a", "copy/d/b", "copy/d/e", "copy/d/new", "copy/d/e/c"] == listed(
            filled, "copy"
        )
        with pytest.raises(PathIsDirectoryError, match="Copy it with recursive=True"):
            filled.copy_files(["/d"], "/f")
        with pytest.raises(PathNotDirectoryError, match="Several files need a directory"):
            filled.copy_files(["/a", "/new"], "/a")
        with pytest.raises(PathInvalidError, match="it is in /d, which was to be copied"):
            filled.copy_files(["/d"], "/d/e", recursive=True)
        with pytest.raises(PathNotFoundError):
            filled.copy_files(["/nope"], "/f")

    def test_removals(self, filled: Volume) -> None:
        filled.remove_file("a")
        with pytest.raises(
            PathIsDirectoryError, match=r"/d is a directory in volume 'data'\. Remove it with"
        ):
            filled.remove_file("/d")
        filled.remove_file("/d/e", recursive=True)
        assert ["d", "d/b"] == listed(filled)
        with pytest.raises(PathNotFoundError):
            filled.remove_file("a")
        filled.remove_file("/", recursive=True)
        assert [] == listed(filled)

    def test_renames(self, filled: Volume) -> None:
        filled.rename("/d", "/x/y")
        assert ["a", "x", "x/y", "x/y/b", "x/y/e", "x/y/e/c"] == listed(filled)
        with pytest.raises(PathExistsError, match=r"Replace it with rename\(…, force=True\)"):
            filled.rename("/a", "/x/y")
        filled.rename("/a", "/x/y", force=True)
        assert ["x", "x/y"] == listed(filled)
        with pytest.raises(PathInvalidError, match="it is in /x, which was to be renamed"):
            filled.rename("/x", "/x/z")
        with pytest.raises(PathInvalidError, match="/x/y, which was to be renamed, is in it"):
            filled.rename("/x/y", "/x", force=True)
        with pytest.raises(PathInvalidError, match="the root stays where it is"):
            filled.rename("/", "/z")
        number = filled.info().version
        assert number == filled.rename("/x", "x").number  # nothing to do

    def test_a_file_in_the_way_of_a_directory(self, filled: Volume) -> None:
        with pytest.raises(
            PathNotDirectoryError, match=r"/a is not a directory in volume 'data'\. Remove it"
        ):
            put(filled, {"/a/b": b""})
        with pytest.raises(PathIsDirectoryError, match="/d is a directory"):
            put(filled, {"/d": b""})


class TestVersions:
    def test_history_and_old_versions(self, volume: Volume, world: World) -> None:
        for number in range(1, 20):
            world.now += 1
            with volume.batch_upload(force=True, who="ada", message=f"step {number}") as batch:
                batch.put_file(io.BytesIO(b"%d" % number), "/step")
        assert [f"step {number}" for number in range(19, 0, -1)] + [""] == [
            version.message for version in volume.history()
        ]
        newest = volume.history(1)[0]
        assert (19, world.now, "ada", 1, 2) == (
            newest.number,
            newest.time,
            newest.who,
            newest.changes.changed,
            newest.changes.bytes_written,
        )
        for number in range(1, 20):
            assert [b"%d" % number] == list(volume.at(number).read_file("step"))
        assert [] == volume.at(0).listdir()
        with pytest.raises(VersionNotFoundError) as missing:
            volume.at(20)
        assert "Volume 'data' has no version 20: it has versions 0 to 19. See history()." == str(
            missing.value
        )

        restored = volume.restore(3)
        assert (20, "restored version 3") == (restored.number, restored.message)
        assert b"3" == read(volume, "step")
        assert 20 == volume.restore(20).number

    def test_a_version_does_not_change(self, volume: Volume) -> None:
        put(volume, {"/a": b"1"})
        version = volume.at(1)
        for method in (
            version.batch_upload,
            version.copy_files,
            version.remove_file,
            version.rename,
            version.commit,
        ):
            with pytest.raises(ReadOnlyVersionError) as caught:
                method()
        assert str(caught.value) == (
            "Version 1 of volume 'data' cannot be changed (commit): versions stay as they were committed. "
            "Change the volume itself, or bring this version back with restore(1)."
        )
        with pytest.raises(PathNotFoundError, match="Version 1 of volume 'data' has no /b"):
            version.read_file("b")

    def test_what_is_forgotten_is_collected_and_the_rest_is_not(
        self, volumes: Volumes, volume: Volume, store: MemoryStore, names: MemoryNames, world: World
    ) -> None:
        for number in range(6):
            put(volume, {"/a": b"%d" % number * 2000, f"/{number}": b"%d" % number * 600})

        def collected() -> int:
            world.now += 2 * DAY
            return collect(store, names, [volumes_reach(store, names)], clock=world.clock).deleted

        collected()
        assert b"2" * 2000 == b"".join(volume.at(3).read_file("a"))
        volume.forget_before(4)
        assert 0 < collected()
        with pytest.raises(VersionNotFoundError, match="has no version 3: it has versions 4 to 6"):
            volume.at(3)
        assert [6, 5, 4] == [version.number for version in volume.history()]
        assert b"3" * 2000 == b"".join(volume.at(4).read_file("a"))
        for number in range(6, 20):
            put(volume, {"/a": b"%d" % number * 2000})
            collected()
            volume.forget_before(volume.info().version - 2)
        assert b"17" * 2000 == b"".join(volume.at(18).read_file("a"))
        assert b"1" * 600 == read(volume, "1")

        volumes.delete("data")
        collected()
        assert {} == store.data


class TestWhatIsWritten:
    def test_a_change_of_one_file_moves_its_chunk_and_the_directories_above(
        self, volume: Volume, store: MemoryStore, tmp_path: Path
    ) -> None:
        files = {
            f"/d{one}/e{two}/f{three}": b"%d%d%d" % (one, two, three) * 300
            for one in range(4)
            for two in range(4)
            for three in range(4)
        }
        files["/d1/e1/large"] = os.urandom(6 * CHUNK_SIZE)
        put(volume, files)
        before = set(store.data)
        large = bytearray(files["/d1/e1/large"])
        large[3 * CHUNK_SIZE + 5] ^= 1
        put(volume, {"/d1/e1/large": bytes(large)})

        new = set(store.data) - before
        # The chunk, the list of chunks, e1, d1, the root, the version.
        assert 6 == len(new)
        assert [CHUNK_SIZE] == [len(store.data[blob]) for blob in new if len(store.data[blob]) > 2000]
        assert bytes(large) == read(volume, "d1/e1/large")

    def test_20000_files_are_listed_in_few_reads(self, tmp_path: Path) -> None:
        store = CountingStore(tmp_path / "store")
        names = LocalNames(tmp_path / "names")
        volume = Volumes(store, names).create("data")
        put(volume, {f"/images/{number:05}.jpg": b"%d" % number for number in range(20_000)})

        store.gets.clear()
        fresh = Volumes(store, names).from_name("data")
        assert 20_000 == len(fresh.listdir("/images"))
        assert store.gets.total() < 80  # pages of some 500 entries, the index, the root, the version

        store.gets.clear()
        fresh = Volumes(store, names).from_name("data")
        assert b"12345" == read(fresh, "images/12345.jpg")
        assert store.gets.total() <= 4


class TestAtOnce:
    def test_threads_lose_nothing(self, tmp_path: Path) -> None:
        volumes = Volumes(LocalStore(tmp_path / "store"), LocalNames(tmp_path / "names"))
        volumes.create("data")

        def work(thread: int) -> None:
            volume = volumes.from_name("data")
            for number in range(8):
                put(volume, {f"/{thread}/{number}": b"%d" % number, "/shared": b"%d" % thread * 2000})

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        volume = volumes.from_name("data")
        assert 32 == sum(found.path.count("/") for found in volume.listdir(recursive=True))
        assert 32 == volume.info().version
        assert read(volume, "shared") in {b"%d" % thread * 2000 for thread in range(4)}

    def test_processes_lose_nothing(self, tmp_path: Path) -> None:
        script = (
            "import io, pathlib, sys\n"
            "from skylift.lazyfs.names import LocalNames\n"
            "from skylift.lazyfs.store import LocalStore\n"
            "from skylift.lazyfs.volumes import Volumes\n"
            "folder = pathlib.Path(sys.argv[1])\n"
            "volumes = Volumes(LocalStore(folder / 'store'), LocalNames(folder / 'names'))\n"
            "volume = volumes.from_name('data', create_if_missing=True)\n"
            "for number in range(10):\n"
            "    with volume.batch_upload(force=True) as batch:\n"
            "        batch.put_file(io.BytesIO(b'x' * 600), f'/d/{sys.argv[2]}-{number}')\n"
        )
        running = [
            subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(number)])
            for number in range(2)
        ]
        assert [0, 0] == [process.wait() for process in running]
        volume = Volumes(LocalStore(tmp_path / "store"), LocalNames(tmp_path / "names")).from_name("data")
        assert 20 == len(volume.listdir("/d"))
        assert 20 == volume.info().version

    def test_an_answer_that_is_lost_is_no_second_version(
        self, volume: Volume, names: MemoryNames, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        swap = names.swap

        def lossy(name: str, expected: bytes | None, value: bytes) -> bool:
            done = swap(name, expected, value)
            return done and not name.startswith("volumes/")

        monkeypatch.setattr(names, "swap", lossy)
        put(volume, {"/a": b"1"})
        assert [1, 0] == [version.number for version in volume.history()]

    def test_a_lease_that_was_lost_before_the_commit_is_an_error(
        self, volume: Volume, names: MemoryNames, world: World
    ) -> None:
        class Sleepy(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if world.now < 1e9 + 1:
                    world.now += 3600  # this machine sleeps
                    for name in names.under("leases"):
                        names.delete(name)  # a collector was here
                return super().read(size)

        expected = "The lease of the upload to volume data has ended"
        with pytest.raises(VolumeError, match=expected), volume.batch_upload() as batch:
            batch.put_file(Sleepy(b"1" * 1000), "/a")
        assert 0 == volume.info().version

    def test_nobody_else_writes_a_lease_for_reading(self, volume: Volume, names: MemoryNames) -> None:
        put(volume, {"/a": b"1"})
        read(volume, "a")
        assert [] == names.under("leases")
        with Lease(names, "other"):
            put(volume, {"/b": b"1"})
