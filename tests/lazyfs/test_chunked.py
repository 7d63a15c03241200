from __future__ import annotations

import io
import os
import random
import threading
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from skylift.lazyfs.chunked import (
    CHUNK_SIZE,
    ChangedError,
    Chunk,
    ChunkedFile,
    ChunkedFormatError,
    ChunkedReader,
    decode,
    encode,
    read_range,
    write_chunks,
    write_small,
)
from skylift.lazyfs.store import BlobDamagedError, BlobMissingError, Bytes, LocalStore, StoreError

NOISE = random.Random(1).randbytes(3 * CHUNK_SIZE)


class CountingStore(LocalStore):
    """Says what was sent to it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.sent: list[int] = []
        self.room = 1 << 40

    def put(self, data: Bytes, *, durable: bool = False) -> str:
        if sum(self.sent) + len(data) > self.room:
            raise StoreError("no more")
        self.sent.append(len(data))
        return super().put(data, durable=durable)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path / "store")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.bin"


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


class TestWriting:
    @pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 2 * CHUNK_SIZE + 17])
    def test_what_was_written_is_read(self, store: CountingStore, path: Path, size: int) -> None:
        file = write_chunks(write(path, NOISE[:size]), store)

        assert size == file.size
        assert -(-size // CHUNK_SIZE) == len(file.chunks)
        assert NOISE[:size] == read_range(file, store, 0, size + 10)
        assert file == decode(encode(file))

    def test_what_compresses_is_compressed_and_what_does_not_is_not(self, store: CountingStore) -> None:
        file = write_chunks(io.BytesIO(b"words " * 300_000 + NOISE[:CHUNK_SIZE]), store)

        assert ["zstd", "zstd", "raw"] == [chunk.encoding for chunk in file.chunks]
        assert min(store.sent) < CHUNK_SIZE // 10

    def test_zeros_are_not_stored(self, store: CountingStore, path: Path) -> None:
        with path.open("wb") as hole:
            hole.truncate(5 * CHUNK_SIZE + 3)
            hole.seek(2 * CHUNK_SIZE + 100)
            hole.write(b"data")
        file = write_chunks(path, store)

        assert ["", "", "", "", ""] == [chunk.blob for chunk in (*file.chunks[:2], *file.chunks[3:])]
        assert 1 == len(store.sent) == len(list(file.blobs))
        assert path.read_bytes() == read_range(file, store, 0, file.size)
        assert file == write_chunks(io.BytesIO(path.read_bytes()), store)

    def test_nothing_is_sent_twice(self, store: CountingStore, path: Path) -> None:
        file = write_chunks(write(path, NOISE), store)
        assert 3 == len(store.sent)

        assert file == write_chunks(path, store)
        edited = write_chunks(io.BytesIO(NOISE[:-5] + b"edits"), store)
        assert 4 == len(store.sent)
        assert file.chunks[:2] == edited.chunks[:2]

    def test_one_that_broke_off_goes_on_where_it_was(self, store: CountingStore) -> None:
        store.room = 2 * CHUNK_SIZE
        with pytest.raises(StoreError, match="no more"):
            write_chunks(io.BytesIO(NOISE), store, workers=1)
        store.room = 4 * CHUNK_SIZE

        file = write_chunks(io.BytesIO(NOISE), store)
        assert [CHUNK_SIZE] * 3 == store.sent
        assert NOISE == read_range(file, store, 0, len(NOISE))

    def test_part_of_a_blob_is_sent_again(self, store: CountingStore) -> None:
        file = write_chunks(io.BytesIO(NOISE), store)
        os.truncate(store.path(file.chunks[1].blob), 10)

        write_chunks(io.BytesIO(NOISE), store)
        assert NOISE == read_range(file, store, 0, len(NOISE))

    def test_durable_ones_are_settled_at_the_end(self, tmp_path: Path) -> None:
        settled: list[int] = []

        class Store(CountingStore):
            def settle(self) -> None:
                settled.append(len(self.sent))
                super().settle()

        store = Store(tmp_path / "s")
        write_chunks(io.BytesIO(NOISE), store)
        write_chunks(io.BytesIO(NOISE), store, durable=True)
        assert [3] == settled

    def test_progress_grows_to_the_whole_size(self, store: CountingStore, path: Path) -> None:
        seen: list[tuple[int, int]] = []
        write_chunks(write(path, NOISE), store, progress=lambda *bytes_: seen.append(bytes_))
        assert [(n * CHUNK_SIZE, 3 * CHUNK_SIZE) for n in (1, 2, 3)] == seen

        seen.clear()
        write_chunks(io.BytesIO(NOISE), store, progress=lambda *bytes_: seen.append(bytes_))
        assert [(n * CHUNK_SIZE, n * CHUNK_SIZE) for n in (1, 2, 3)] == seen

    def test_a_pipe_that_hands_out_little(self, store: CountingStore) -> None:
        reader, writer = os.pipe()

        def feed() -> None:
            with open(writer, "wb", buffering=0) as pipe:
                for start in range(0, CHUNK_SIZE + 5, 1000):
                    pipe.write(NOISE[start : min(start + 1000, CHUNK_SIZE + 5)])

        thread = threading.Thread(target=feed)
        thread.start()
        with open(reader, "rb", buffering=0) as pipe:
            file = write_chunks(pipe, store)
        thread.join()
        assert write_chunks(io.BytesIO(NOISE[: CHUNK_SIZE + 5]), store) == file

    def test_a_file_object_is_read_from_where_it_stands(self, store: CountingStore, path: Path) -> None:
        with write(path, NOISE).open("rb") as file:
            file.read(10)
            rest = write_chunks(file, store)
            assert b"" == file.read()
        assert NOISE[10:] == read_range(rest, store, 0, rest.size)


class TestFilesThatChange:
    """The change comes when a chunk is put: in the middle of the reading."""

    @staticmethod
    def changing(folder: Path, change: list[object]) -> LocalStore:
        class Store(LocalStore):
            def put(self, data: Bytes, *, durable: bool = False) -> str:
                if change:
                    change.pop()()  # type: ignore[operator]
                return super().put(data, durable=durable)

        return Store(folder)

    def append(self, path: Path) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    def overwrite(self, path: Path) -> None:
        before = path.stat()
        with path.open("r+b") as file:
            file.write(b"other")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))

    def replace(self, path: Path) -> None:
        write(path.with_suffix(".new"), NOISE).replace(path)

    @pytest.mark.parametrize(
        ("change", "how"),
        [
            ("append", r"its size went from 3,145,728 to 3,145,732 bytes"),
            ("overwrite", "it was written to"),
            ("replace", "another file took its place"),
        ],
    )
    def test_the_error_names_it(self, tmp_path: Path, path: Path, change: str, how: str) -> None:
        write(path, NOISE)
        changes: list[object] = [lambda: getattr(self, change)(path)]
        with pytest.raises(ChangedError) as caught:
            write_chunks(path, self.changing(tmp_path / "s", changes))
        assert str(caught.value) == (
            f"{path} changed while it was being read: {how}. Nothing was kept under its name; try again when "
            "nothing writes to it."
        )

    def test_one_that_became_shorter(self, tmp_path: Path, path: Path) -> None:
        write(path, NOISE)
        changes: list[object] = [lambda: os.truncate(path, 100)]
        with pytest.raises(ChangedError, match=r"it became shorter than|its size went from"):
            write_chunks(path, self.changing(tmp_path / "s", changes), workers=1)

    def test_it_is_read_again_once_where_that_is_wanted(self, tmp_path: Path, path: Path) -> None:
        write(path, NOISE)
        changes: list[object] = [lambda: self.append(path)]
        store = self.changing(tmp_path / "s", changes)
        file = write_chunks(path, store, retry_changed=True)
        assert NOISE + b"more" == read_range(file, store, 0, file.size)

        write(path, NOISE[1:])
        changes += [lambda: self.append(path)] * 20
        with pytest.raises(ChangedError):
            write_chunks(path, store, retry_changed=True)


class TestReading:
    @settings(max_examples=40, deadline=None)
    @given(offset=st.integers(0, 4 * CHUNK_SIZE), length=st.integers(0, 4 * CHUNK_SIZE))
    def test_every_range(self, tmp_path_factory: pytest.TempPathFactory, offset: int, length: int) -> None:
        data = NOISE[:CHUNK_SIZE] + bytes(CHUNK_SIZE) + b"ab" * 100_000
        store = LocalStore(tmp_path_factory.getbasetemp() / "ranges")
        reader = ChunkedReader(write_chunks(io.BytesIO(data), store), store)
        assert data[offset : offset + length] == reader.read_range(offset, length)

    def test_no_negative_ranges(self, store: CountingStore) -> None:
        with pytest.raises(ValueError, match="a range of 5 bytes from -1 cannot be read"):
            read_range(ChunkedFile(0, ()), store, -1, 5)

    def test_a_whole_file_is_copied_with_its_holes(self, store: CountingStore, path: Path) -> None:
        data = bytes(2 * CHUNK_SIZE) + NOISE[:50] + bytes(CHUNK_SIZE)
        file = write_chunks(io.BytesIO(data), store)
        seen: list[tuple[int, int]] = []
        write(path, b"longer before" * CHUNK_SIZE)
        ChunkedReader(file, store).copy_to(path, progress=lambda *bytes_: seen.append(bytes_))

        assert data == path.read_bytes()
        assert path.stat().st_blocks * 512 < 2 * CHUNK_SIZE
        assert (len(data), len(data)) == seen[-1]

    def test_chunks_read_last_are_not_fetched_again(self, store: CountingStore) -> None:
        file = write_chunks(io.BytesIO(NOISE), store)
        reader = ChunkedReader(file, store, kept=1)
        assert NOISE[:10] == reader.read_range(0, 10)
        store.delete(file.chunks[0].blob)
        assert NOISE[10:30] == reader.read_range(10, 20)
        reader.read_range(CHUNK_SIZE, 1)
        with pytest.raises(BlobMissingError, match=file.chunks[0].blob):
            reader.read_range(0, 1)

    def test_a_damaged_chunk(self, store: CountingStore) -> None:
        file = write_chunks(io.BytesIO(NOISE), store)
        store.path(file.chunks[1].blob).write_bytes(b"spoiled")
        assert NOISE[:5] == read_range(file, store, 0, 5)
        with pytest.raises(BlobDamagedError, match=file.chunks[1].blob):
            read_range(file, store, CHUNK_SIZE, 1)

    def test_a_chunk_that_was_damaged_on_its_way_is_fetched_again(self, tmp_path: Path) -> None:
        spoiled: list[str] = []

        class Store(LocalStore):
            def get(self, blob: str) -> bytes:
                if blob not in spoiled:
                    spoiled.append(blob)
                    raise BlobDamagedError(blob, "the network")
                return super().get(blob)

        store = Store(tmp_path / "s")
        file = write_chunks(io.BytesIO(NOISE), store)
        assert NOISE == read_range(file, store, 0, len(NOISE))
        assert [chunk.blob for chunk in file.chunks] == spoiled

    def test_blobs_that_are_not_what_was_written(self, store: CountingStore) -> None:
        bomb = store.put(zstandard.ZstdCompressor().compress(bytes(50 * CHUNK_SIZE)))
        short = store.put(b"short")
        for chunk in (Chunk(bomb, 10, "zstd"), Chunk(short, 10, "zstd")):
            with pytest.raises(ChunkedFormatError, match=f"{chunk.blob} does not decompress to 10 bytes"):
                read_range(ChunkedFile(10, (chunk,)), store, 0, 1)
        with pytest.raises(ChunkedFormatError, match=f"{short} has 5 bytes where this file has 10"):
            read_range(ChunkedFile(10, (Chunk(short, 10),)), store, 0, 1)


class TestFormat:
    def test_bytes_that_are_something_else(self) -> None:
        with pytest.raises(ChunkedFormatError, match="These bytes are not a chunked file: "):
            decode(b"\x93abc")

    @pytest.mark.parametrize(
        ("file", "problem"),
        [
            (ChunkedFile(10, ()), "10 bytes in 0 chunks of 1,048,576"),
            (ChunkedFile(10, (Chunk("", 9),)), "chunk 0 has 9 bytes"),
            (ChunkedFile(10, (Chunk("../../etc", 10),)), "chunk 0 is in '../../etc', which is not the name"),
            (ChunkedFile(10, (Chunk("", 10),), chunk_size=1 << 40), "its chunks are of 1,099,511,627,776"),
            (ChunkedFile(-1, ()), "-1 bytes in 0 chunks"),
        ],
    )
    def test_one_that_contradicts_itself(self, file: ChunkedFile, problem: str) -> None:
        with pytest.raises(ChunkedFormatError) as caught:
            decode(encode(file))
        assert f"contradicts itself: {problem}" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"a", bytes(CHUNK_SIZE), os.urandom(3000)], ids=len)
def test_a_small_file_is_the_same_as_by_threads(tmp_path: Path, data: bytes) -> None:
    store = LocalStore(tmp_path / "store")
    assert write_chunks(io.BytesIO(data), store) == write_small(data, store)
    with pytest.raises(ValueError, match="1,048,577 bytes are more than one chunk"):
        write_small(bytes(CHUNK_SIZE + 1), store)
