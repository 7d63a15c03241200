"""Volumes as a notebook uses them, against a real gateway."""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import stat
import threading
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import urllib3
from sdk_gateway import FakeGateway

import skylift
from skylift import Volume, exceptions, volume_sending, volume_upload
from skylift.exceptions import (
    AlreadyExistsError,
    ConflictError,
    InvalidError,
    NotFoundError,
    PathExistsError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
)
from skylift.lazyfs.chunked import write_chunks
from skylift.volume import FileEntryType
from skylift.volume_access import Download, VolumeAccess
from skylift.volume_chunks import make_chunk

BIG = os.urandom(3_300_000)


@pytest.fixture
def volume(gateway: FakeGateway, tmp_path: Path) -> Volume:
    """A volume with a file in a folder, and a large one."""
    volume = Volume.from_name("data", create_if_missing=True)
    (tmp_path / "one.csv").write_text("a,b\n1,2\n")
    with volume.batch_upload() as batch:
        batch.put_file(tmp_path / "one.csv", "/tables/")
        batch.put_file(io.BytesIO(BIG), "/big.bin", mode=0o600)
    return volume


def content(volume: Volume, path: str) -> bytes:
    return b"".join(volume.read_file(path))


def names(volume: Volume, path: str = "/", recursive: bool = True) -> list[str]:
    return [entry.path for entry in volume.listdir(path, recursive=recursive)]


# --- the volume itself -----------------------------------------------------------------------------


def test_a_handle_asks_nobody() -> None:
    volume = Volume.from_name("data", create_if_missing=True)
    assert "data" == volume.name
    assert "<skylift.Volume data>" == repr(volume)
    assert "<skylift.Volume data, version 3, folder run-7, read-only>" == repr(
        volume.with_mount_options(read_only=True, sub_path="/run-7/").at(3)
    )


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".x", "x" * 65, "ä", None, 3])
def test_names_that_cannot_be(name: Any) -> None:
    with pytest.raises(InvalidError, match=r"a volume's name is 1 to 64 letters, digits"):
        Volume.from_name(name)


def test_a_volume_is_not_called(gateway: FakeGateway) -> None:
    with pytest.raises(InvalidError, match=r"use Volume\.from_name\(name, create_if_missing=True\)"):
        Volume()


def test_one_that_is_not_there(gateway: FakeGateway) -> None:
    volume = Volume.from_name("none")
    for use in (volume.listdir, volume.info, volume.history, lambda: list(volume.read_file("/x"))):
        with pytest.raises(
            NotFoundError, match=r"There is no volume 'none'\. Make it with Volume\.from_name"
        ):
            use()
    with pytest.raises(NotFoundError, match=r"there is no volume 'none'"):
        Volume.delete("none")
    Volume.objects.delete("none", allow_missing=True)
    assert [] == Volume.from_name("none", create_if_missing=True).listdir()


def test_volumes_are_made_listed_renamed_and_deleted(volume: Volume) -> None:
    Volume.objects.create("more")
    with pytest.raises(AlreadyExistsError, match=r"There is a volume 'more' already"):
        Volume.objects.create("more")
    Volume.objects.create("more", allow_existing=True)
    first, second = Volume.objects.list()
    assert ("data", 2, 8 + len(BIG), 1) == (first.name, first.files, first.size, first.version)
    assert "more" == second.name
    Volume.rename("more", "better")
    assert ["better", "data"] == [info.name for info in Volume.objects.list()]
    with pytest.raises(AlreadyExistsError, match=r"There is a volume 'data' already"):
        Volume.rename("better", "data")
    Volume.delete("better")
    assert ["data"] == [info.name for info in Volume.objects.list()]


def test_an_ephemeral_volume_goes_with_its_block(gateway: FakeGateway) -> None:
    with Volume.ephemeral() as volume:
        volume.put_file(b"x", "/x")
        assert b"x" == content(volume, "/x")
        assert [volume.name] == [info.name for info in Volume.objects.list()]
        assert pickle.loads(pickle.dumps(volume)) == volume
    assert [] == Volume.objects.list()
    with pytest.raises(NotFoundError, match="There is no volume 'ephemeral-"):
        volume.listdir()


def test_handles_travel(volume: Volume) -> None:
    inner = volume.with_mount_options(sub_path="tables").at(1)

    def size() -> int:
        return len(content(inner, "one.csv"))

    assert 8 == cloudpickle.loads(cloudpickle.dumps(size))()
    assert pickle.loads(pickle.dumps(volume)) == volume
    assert volume != inner
    assert 2 == len({volume, inner, Volume.from_name("data", create_if_missing=True)})


def test_a_function_whose_closure_has_one(gateway: FakeGateway, app: skylift.App, volume: Volume) -> None:
    @app.function()
    def size(path: str) -> int:
        return sum(map(len, volume.read_file(path)))

    assert 8 == size.remote("tables/one.csv")


# --- reading ---------------------------------------------------------------------------------------


def test_what_is_in_it(volume: Volume) -> None:
    assert ["big.bin", "tables"] == names(volume, recursive=False)
    assert ["big.bin", "tables", "tables/one.csv"] == names(volume)
    assert ["tables/one.csv"] == names(volume, "/tables/", recursive=False)
    assert names(volume) == [entry.path for entry in volume.iterdir("/")]
    big, tables = volume.listdir("/")
    assert (FileEntryType.FILE, len(BIG), 0o600) == (big.type, big.size, big.mode)
    assert (FileEntryType.DIRECTORY, 8) == (tables.type, tables.size)
    assert big == volume.stat("big.bin")


def test_a_files_bytes(volume: Volume) -> None:
    assert BIG == content(volume, "big.bin")
    assert b"a,b\n1,2\n" == content(volume, "/tables/one.csv")
    written = io.BytesIO()
    told: list[int] = []
    count = volume.read_file_into_fileobj("big.bin", written, lambda advance: told.append(advance))
    assert (len(BIG), BIG, len(BIG)) == (count, written.getvalue(), sum(told))


def test_what_is_not_there_is_python_s_own_error_too(volume: Volume) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"^Volume 'data' has no /none\. See what is there with listdir"
    ):
        list(volume.read_file("none"))
    with pytest.raises(PathNotFoundError):
        volume.listdir("/none")
    with pytest.raises(IsADirectoryError, match=r"^/tables is a directory in volume 'data'"):
        list(volume.read_file("tables"))
    with pytest.raises(PathNotDirectoryError, match=r"^/big\.bin is not a directory in volume 'data'"):
        volume.stat("big.bin/x")
    with pytest.raises(InvalidError, match=r"'\.\.' could lead out of it"):
        volume.stat("../x")
    with pytest.raises(InvalidError, match=r"^3 is no path in a volume"):
        volume.listdir(3)
    with pytest.raises(InvalidError, match="it is not UTF-8"):
        volume.listdir("\ud800")


def test_a_read_that_is_not_finished_lets_go(volume: Volume) -> None:
    for _ in range(20):
        pieces = volume.read_file("big.bin")
        next(pieces)
        pieces.close()
    assert BIG == content(volume, "big.bin")


def test_a_connection_that_breaks_off_is_made_again(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    whole = Download._open

    def breaking(self: Download, begin: int, tag: str) -> None:
        whole(self, begin, tag)
        opened.append(begin)
        stream = self._response.stream

        def pieces(size: int) -> Any:
            for number, piece in enumerate(stream(size)):
                if number:
                    raise urllib3.exceptions.ProtocolError("cut")
                yield piece

        monkeypatch.setattr(self._response, "stream", pieces)

    monkeypatch.setattr(Download, "_open", breaking)
    assert BIG == content(volume, "big.bin")
    assert [0, 1 << 20, 2 << 20, 3 << 20] == opened


def test_a_file_that_is_another_when_the_connection_is_made_again(volume: Volume) -> None:
    pieces = volume._access().read("big.bin")
    beginning = iter(pieces)
    next(beginning)
    volume.put_file(b"other", "big.bin", force=True)
    with pytest.raises(
        ConflictError, match=r"the file was changed while it was being read, .* at\(version\)"
    ):
        pieces._again()


def test_nobody_answers(volume: Volume, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    served = Download._pieces
    monkeypatch.setattr(Download, "_pieces", lambda self: iter(()))
    with pytest.raises(exceptions.ConnectionError, match=r"the gateway broke off at 0 of 3,300,000 bytes"):
        content(volume, "big.bin")
    monkeypatch.setattr(Download, "_pieces", served)


# --- uploading -------------------------------------------------------------------------------------


def test_a_directory_with_all_that_it_has(volume: Volume, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "empty").mkdir(mode=0o700)
    (folder / "deep" / "deeper" / "x.bin").write_bytes(bytes(5_000_000))
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("run.sh")
    (folder / "out").symlink_to("/etc/hostname")
    os.mkfifo(folder / "pipe")
    odd = os.fsencode(folder) + b"/\xff \n'\"%"
    Path(os.fsdecode(odd)).write_bytes(b"odd")
    os.utime(folder / "run.sh", ns=(1, 1_700_000_000_123_456_789))
    with volume.batch_upload() as batch:
        batch.put_directory(folder, "/into")
    assert 2 == volume.info().version
    found = {entry.path: entry for entry in volume.listdir("/into", recursive=True)}
    assert {
        "into/deep",
        "into/deep/deeper",
        "into/deep/deeper/x.bin",
        "into/empty",
        "into/link",
        "into/out",
        "into/run.sh",
        "into/" + os.fsdecode(b"\xff \n'\"%"),
    } == set(found)
    assert 0o755 == found["into/run.sh"].mode
    assert 1_700_000_000.123 == pytest.approx(found["into/run.sh"].mtime, abs=0.001)
    assert (FileEntryType.SYMLINK, "/etc/hostname") == (found["into/out"].type, found["into/out"].target)
    assert bytes(5_000_000) == content(volume, "into/deep/deeper/x.bin")
    assert b"odd" == content(volume, "into/" + os.fsdecode(b"\xff \n'\"%"))
    with pytest.raises(PathNotFoundError, match="which is not in the volume"):
        content(volume, "into/out")
    with volume.batch_upload(force=True) as batch:
        batch.put_directory(folder, "/flat", recursive=False)
    assert ["flat/link", "flat/out", "flat/run.sh"] == names(volume, "/flat")[:3]


@pytest.mark.parametrize("size", [0, 1, 512, 513, 1 << 20, (1 << 20) + 1, 2 << 20])
def test_files_and_streams_of_every_size(volume: Volume, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    volume.put_file(tmp_path / "file", "/file")
    volume.put_file(io.BytesIO(data), "/stream")
    volume.put_file(data, "/bytes")
    read, write = os.pipe()

    def fill() -> None:
        with open(write, "wb", closefd=True) as pipe:
            pipe.write(data)

    thread = threading.Thread(target=fill)
    thread.start()
    with open(read, "rb", buffering=0) as pipe:
        volume.put_file(pipe, "/pipe")  # type: ignore[call-arg]
    thread.join()
    for path in ("/file", "/stream", "/bytes", "/pipe"):
        assert (size, data) == (volume.stat(path).size, content(volume, path))


def test_the_chunks_are_those_that_the_store_makes(gateway: FakeGateway) -> None:
    for data in (os.urandom(1 << 20), b"text" * 9999, bytes(1 << 20), bytes(999), b"\0" * 70 + b"x", b"x"):
        (chunk,) = write_chunks(io.BytesIO(data), gateway.store).chunks
        made = make_chunk(data).chunk
        assert (chunk.blob, chunk.length, chunk.encoding) == (made.blob, made.length, made.encoding)


def test_what_the_store_has_is_not_sent(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    put = VolumeAccess.put_chunks

    def counting(self: VolumeAccess, chunks: Any) -> list[str]:
        sent.extend(map(len, chunks))
        return put(self, chunks)

    monkeypatch.setattr(VolumeAccess, "put_chunks", counting)
    volume.put_file(BIG, "/again.bin")
    assert [] == sent
    volume.put_file(BIG + b"more", "/more.bin")
    assert [len(BIG) - (3 << 20) + 4] == sent


def test_what_is_there_is_replaced_only_with_force(volume: Volume) -> None:
    with pytest.raises(PathExistsError, match=r"has /big\.bin already\. Replace it with batch_upload\(force"):
        volume.put_file(b"x", "big.bin")

    def several() -> None:
        with volume.batch_upload() as batch:
            for name in ("a", "b", "c", "tables/one.csv"):
                batch.put_file(io.BytesIO(b"x"), name)

    with pytest.raises(FileExistsError):
        several()
    assert 1 == volume.info().version
    volume.put_file(b"x", "big.bin", force=True)
    assert b"x" == content(volume, "big.bin")


def test_a_block_that_raises_sends_nothing(volume: Volume) -> None:
    def raising() -> None:
        with volume.batch_upload() as batch:
            batch.put_file(io.BytesIO(b"x"), "/x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        raising()
    with volume.batch_upload():
        pass
    assert 1 == volume.info().version


def test_what_cannot_be_sent(volume: Volume, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with volume.batch_upload() as batch:
        for call, said in [
            (lambda: batch.put_file(tmp_path / "none", "/x"), r"there is no '.*/none' here \(in /"),
            (lambda: batch.put_file(tmp_path, "/x"), r"a directory; send it with put_directory\(\)"),
            (lambda: batch.put_file(tmp_path / "pipe", "/x"), "not an ordinary file; pipes"),
            (lambda: batch.put_file(io.StringIO("x"), "/x"), r"gives bytes: open\(…, 'rb'\)"),  # type: ignore[arg-type]
            (lambda: batch.put_file(3, "/x"), "a path, or a file object"),  # type: ignore[arg-type]
            (lambda: batch.put_file(io.BytesIO(), "/x/"), "needs the name of a file"),
            (lambda: batch.put_file(__file__, "/x", mode=0o17777), "permission bits, such as 0o644"),
            (lambda: batch.put_directory(__file__), r"not a directory; send it with put_file\(\)"),
            (lambda: batch.put_directory(tmp_path / "none"), r"there is no '.*/none' here"),
        ]:
            with pytest.raises(InvalidError, match=said):
                call()
    with pytest.raises(InvalidError, match=r"put_file\(\) is for the block of batch_upload\(\)"):
        batch.put_file(__file__, "/x")
    assert 1 == volume.info().version
    with pytest.raises(InvalidError, match="255 are the most"):
        volume.put_file(b"x", "x" * 256)


def test_a_file_that_changes_while_it_is_read_is_read_again(
    volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "changing"
    path.write_bytes(b"1" * 3_000_000)
    reads = []
    read = volume_sending._read

    def changing(piece: Any) -> bytes | None:
        found = read(piece)
        reads.append(piece.number)
        if len(reads) == 2:
            path.write_bytes(b"2" * 2_000_000)
        return found

    monkeypatch.setattr(volume_sending, "_read", changing)
    monkeypatch.setattr(volume_sending, "_WORKERS", 1)
    volume.put_file(path, "/changing")
    assert b"2" * 2_000_000 == content(volume, "/changing")


def test_a_file_that_always_changes(volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "changing"
    path.write_bytes(b"1" * 100_000)
    read = volume_sending._read
    count = 0

    def changing(piece: Any) -> bytes | None:
        nonlocal count
        count += 1
        path.write_bytes(b"%d" % count * 100_000)
        return read(piece)

    monkeypatch.setattr(volume_sending, "_read", changing)
    with pytest.raises(
        ConflictError, match=r"/changing changed while it was being read, 3 times\. Nothing was"
    ):
        volume.put_file(path, "/changing")
    assert 1 == volume.info().version


def test_a_file_that_is_removed_meanwhile(
    volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "going"
    path.write_bytes(b"x" * 1000)

    def going() -> None:
        with volume.batch_upload() as batch:
            batch.put_file(path, "/going")
            path.unlink()

    with pytest.raises(ConflictError, match=r"/going was removed while it was being uploaded"):
        going()


def test_an_upload_that_breaks_off_goes_on_where_it_was(
    volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(20 << 20)
    (tmp_path / "large").write_bytes(data)
    put = VolumeAccess.put_chunks
    sent: list[int] = []

    def failing(self: VolumeAccess, chunks: Any) -> list[str]:
        if sent:
            raise exceptions.ConnectionError("the gateway does not answer")
        sent.append(sum(map(len, chunks)))
        return put(self, chunks)

    monkeypatch.setattr(volume_sending, "_WORKERS", 1)
    monkeypatch.setattr(VolumeAccess, "put_chunks", failing)
    with pytest.raises(
        exceptions.ConnectionError,
        match=r"volume 'data': the upload was interrupted: the gateway does not answer\. .* nothing has "
        r"changed in the volume\. 0 of 1 files \([1-9][\d,]+ of 20,971,520 bytes\) are in the store: upload "
        r"the same again within a day, and these are not sent twice\.",
    ):
        volume.put_file(tmp_path / "large", "/large")
    assert 1 == volume.info().version
    first = sent.pop()

    def counting(self: VolumeAccess, chunks: Any) -> list[str]:
        sent.append(sum(map(len, chunks)))
        return put(self, chunks)

    monkeypatch.setattr(VolumeAccess, "put_chunks", counting)
    volume.put_file(tmp_path / "large", "/large")
    assert len(data) - first == sum(sent)
    assert data == content(volume, "/large")


def test_chunks_that_were_collected_are_sent_again(
    volume: Volume, gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(10_000))
    commit = VolumeAccess.commit
    lost: list[str] = []

    def losing(self: VolumeAccess, entries: Any, force: bool, message: str) -> Any:
        if len(lost) < most:
            lost.append(entries[0].chunks[0].blob)
            gateway.store.delete(lost[-1])
        return commit(self, entries, force, message)

    monkeypatch.setattr(VolumeAccess, "commit", losing)
    most = 1
    volume.put_file(tmp_path / "file", "/one")
    assert (tmp_path / "file").read_bytes() == content(volume, "/one")
    most = 100
    with pytest.raises(ConflictError, match="chunks that were sent are not in the store any more"):
        volume.put_file(tmp_path / "file", "/two")
    assert 1 + volume_upload._MOST_TRIES == len(lost)


def test_many_small_files(volume: Volume, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(1500):
        (folder / f"{number:04}").write_bytes(b"%d" % number * (number % 300))
    with volume.batch_upload() as batch:
        batch.put_directory(folder, "/many")
    assert 1500 == len(volume.listdir("/many"))
    for number in (0, 1, 299, 777, 1499):
        assert b"%d" % number * (number % 300) == content(volume, f"/many/{number:04}")


def test_progress_is_shown_where_it_takes_long(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from skylift import volume_progress

    lines: list[str] = []

    class Recorded(volume_progress.Line):
        def show(self, text: str) -> None:
            self.shown = True
            lines.append(text)

        def finish(self, text: str) -> None:
            lines.append(text)

    monkeypatch.setattr(volume_progress, "new_line", Recorded)
    monkeypatch.setattr(volume_progress, "FIRST_AFTER", 0.0)
    volume.put_file(os.urandom(3_000_000), "/shown")
    assert lines[0].startswith("upload to data ")
    assert "of 3.0 MB" in lines[0]
    assert lines[-1].startswith("upload to data: 3.0 MB in ")


# --- changing --------------------------------------------------------------------------------------


def test_copy_rename_and_remove(volume: Volume) -> None:
    volume.copy_files(["big.bin", "/tables/one.csv"], "/tables/")
    assert ["tables/big.bin", "tables/one.csv"] == names(volume, "/tables")
    with pytest.raises(PathIsDirectoryError, match="recursive=True"):
        volume.copy_files(["tables"], "copy")
    volume.copy_files(["tables"], "copy", recursive=True)
    assert BIG == content(volume, "copy/big.bin")
    volume.rename("copy", "/moved")
    with pytest.raises(PathExistsError, match=r"Replace it with rename\(…, force=True\)"):
        volume.rename("big.bin", "moved")
    volume.rename("big.bin", "/moved/one.csv", force=True)
    assert BIG == content(volume, "moved/one.csv")
    with pytest.raises(IsADirectoryError, match=r"Remove it with recursive=True"):
        volume.remove_file("moved")
    volume.remove_file("moved", recursive=True)
    volume.remove_file("tables/big.bin")
    assert ["tables", "tables/one.csv"] == names(volume)
    for wrong in ("big.bin", [], b"x"):
        with pytest.raises(InvalidError, match=r"a list of paths, such as"):
            volume.copy_files(wrong, "x")


def test_history_and_versions(volume: Volume) -> None:
    volume.remove_file("big.bin")
    newest, first, empty = volume.history()
    assert (2, "someone", "removed /big.bin", 0, 0, 1) == (
        newest.version,
        newest.who,
        newest.message,
        newest.added,
        newest.changed,
        newest.removed,
    )
    assert (2, 8 + len(BIG)) == (first.added, first.size)
    assert 0 == empty.version
    assert [2] == [version.version for version in volume.history(limit=1)]
    before = volume.at(1)
    assert BIG == content(before, "big.bin")
    assert ["big.bin", "tables", "tables/one.csv"] == names(before)
    assert before == Volume.from_name("data", create_if_missing=True, version=1)
    for change in (
        lambda: before.batch_upload(),
        lambda: before.put_file(b"x", "x"),
        lambda: before.copy_files(["a"], "b"),
        lambda: before.remove_file("big.bin"),
        lambda: before.rename("big.bin", "x"),
        lambda: before.restore(1),
    ):
        with pytest.raises(
            InvalidError, match=r"^version 1 of volume 'data' cannot be changed .* with restore\(1\)$"
        ):
            change()
    restored = volume.restore(1)
    assert (3, "restored version 1") == (restored.version, restored.message)
    assert BIG == content(volume, "big.bin")
    with pytest.raises(NotFoundError, match=r"Volume 'data' has no version 9: it has versions 0 to 3"):
        volume.at(9).listdir()
    for wrong in (-1, "1", True, None):
        with pytest.raises(InvalidError, match="a version's number is a whole one"):
            volume.at(wrong)  # type: ignore[arg-type]


def test_a_read_only_handle(volume: Volume) -> None:
    handle = volume.with_mount_options(read_only=True)
    assert handle == volume.read_only()
    with pytest.raises(InvalidError, match=r"^this handle of volume 'data' is read-only \(remove_file\)"):
        handle.remove_file("big.bin")
    with pytest.raises(InvalidError, match="True or False"):
        volume.with_mount_options(read_only="yes")  # type: ignore[arg-type]
    assert BIG == content(handle, "big.bin")


def test_a_folder_of_it(volume: Volume) -> None:
    tables = volume.with_mount_options(sub_path="/tables/")
    assert ["one.csv"] == names(tables)
    assert "one.csv" == tables.stat("/one.csv").path
    tables.put_file(b"x", "/two/x.csv")
    tables.copy_files(["two/x.csv"], "y.csv")
    tables.rename("y.csv", "z.csv")
    assert ["one.csv", "two", "two/x.csv", "z.csv"] == sorted(names(tables))
    assert ["two/x.csv"] == names(tables, "two")
    deeper = tables.with_mount_options(sub_path="two")
    assert b"x" == content(deeper, "x.csv")
    assert b"x" == content(volume, "tables/two/x.csv")
    tables.remove_file("two", recursive=True)
    for wrong in ("../x", "a/../../b"):
        with pytest.raises(InvalidError, match=r"'\.\.' could lead out of it"):
            volume.with_mount_options(sub_path=wrong)
        with pytest.raises(InvalidError, match=r"'\.\.' could lead out of it"):
            tables.listdir(wrong)
    with pytest.raises(InvalidError, match="a folder of the volume, such as"):
        volume.with_mount_options(sub_path=3)  # type: ignore[arg-type]


# --- here and in containers ------------------------------------------------------------------------


def test_commit_and_reload_are_for_containers(volume: Volume) -> None:
    with pytest.raises(InvalidError, match=r"commit\(\) is for code in a container that has it"):
        volume.commit()
    volume.reload()


def test_a_container_without_it(volume: Volume, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SKYLIFT_SOCKET", str(tmp_path / "runner.sock"))
    from skylift.inside import container_spec

    container_spec.cache_clear()
    for use, name in ((volume.commit, "commit"), (volume.reload, "reload")):
        with pytest.raises(
            InvalidError,
            match=rf"^{name}\(\) of volume 'data': this container does not have it mounted\. Give it to the "
            r"function: volumes={'/data': volume}$",
        ):
            use()
    container_spec.cache_clear()


# --- in an event loop ------------------------------------------------------------------------------


def test_everything_can_be_awaited(volume: Volume, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"file")

    async def use() -> None:
        async with volume.batch_upload() as batch:
            batch.put_file(tmp_path / "file", "/aio/file")
        await volume.put_file.aio(b"bytes", "/aio/bytes")
        assert ["aio/bytes", "aio/file"] == [entry.path for entry in await volume.listdir.aio("/aio")]
        assert 6 == len([entry async for entry in volume.iterdir.aio("/")])
        assert b"file" == b"".join([piece async for piece in volume.read_file.aio("/aio/file")])
        target = io.BytesIO()
        assert 5 == await volume.read_file_into_fileobj.aio("/aio/bytes", target)
        await volume.copy_files.aio(["/aio/file"], "/aio/copy")
        await volume.rename.aio("/aio/copy", "/aio/moved")
        await volume.remove_file.aio("/aio/moved")
        assert 4 == (await volume.stat.aio("/aio/file")).size
        versions = await volume.history.aio()
        assert (await volume.info.aio()).version == versions[0].version
        await volume.restore.aio(1)
        await volume.reload.aio()
        with pytest.raises(InvalidError):
            await volume.commit.aio()
        with pytest.raises(PathNotFoundError):
            async for _ in volume.read_file.aio("/aio/file"):
                pass
        async with Volume.ephemeral() as other:
            await other.put_file.aio(b"x", "x")
        assert ["data"] == [info.name for info in await Volume.objects.list.aio()]
        await Volume.objects.create.aio("more")
        await Volume.rename.aio("more", "better")
        await Volume.objects.delete.aio("better")

    asyncio.run(use())


def test_the_mode_of_what_was_sent(volume: Volume) -> None:
    assert 0o600 == stat.S_IMODE(volume.stat("big.bin").mode)
