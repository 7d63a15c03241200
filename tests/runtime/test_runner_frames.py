from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skylift.runtime.runner_frames import PREFIX, Unread, encode_frame

LARGE = 20 * 1024 * 1024


def files_of(folder: Path) -> int:
    """Open files in a folder, also those without a name."""
    return sum(
        str(folder) in str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()
    )


def large_frame(unread: Unread) -> bytes:
    """Begin a large frame; returns the rest of it."""
    frame = b"".join(encode_frame({"t": "events"}, bytes(range(256)) * (LARGE // 256)))
    unread.add(frame[:100])
    unread.keep(unread.take(), len(frame))
    return frame


class TestEncoding:
    @given(payload=st.binary(max_size=100))
    def test_a_small_frame_is_one_piece(self, payload: bytes) -> None:
        (frame,) = encode_frame({"t": "call"}, payload)
        header = b'{"t":"call"}'
        assert PREFIX.pack(len(header), len(payload)) + header + payload == frame

    def test_a_large_payload_is_not_copied(self) -> None:
        payload = bytes(1_000_000)
        assert payload is encode_frame({"t": "call"}, payload)[1]


class TestUnread:
    @given(chunks=st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=10))
    def test_small_frames_stay_in_memory(
        self, tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]
    ) -> None:
        unread = Unread(tmp_path_factory.getbasetemp())
        for chunk in chunks:
            unread.add(chunk)
        whole = b"".join(chunks)
        assert len(whole) == unread.have
        assert whole == unread.take()
        unread.keep(unread.take()[1:], 7)
        assert (len(whole) - 1, 7) == (unread.have, unread.need)

    def test_a_large_frame_waits_in_a_file_that_has_no_name(self, tmp_path: Path) -> None:
        unread = Unread(tmp_path)
        frame = large_frame(unread)
        assert 1 == files_of(tmp_path)
        assert [] == list(tmp_path.iterdir())
        for start in range(100, len(frame), 1_000_000):
            unread.add(frame[start : start + 1_000_000])
        unread.add(b"next")

        data = unread.take()
        assert len(frame) + 4 == unread.have
        assert frame == data[: len(frame)]
        unread.keep(data[len(frame) :], PREFIX.size)
        assert b"next" == unread.take()
        data.release()
        assert 0 == files_of(tmp_path)

    def test_clearing_closes_the_file(self, tmp_path: Path) -> None:
        unread = Unread(tmp_path)
        large_frame(unread)
        unread.clear()
        assert 0 == files_of(tmp_path)
        assert 0 == unread.have

    def test_a_folder_that_is_gone_costs_memory_and_no_more(self, tmp_path: Path) -> None:
        unread = Unread(tmp_path / "gone")
        frame = large_frame(unread)
        unread.add(frame[100:])
        assert frame == unread.take()

    @pytest.mark.root
    def test_so_does_a_full_disk(self, small_disk: Path) -> None:
        unread = Unread(small_disk)
        frame = large_frame(unread)
        for start in range(100, len(frame), 300_000):
            unread.add(frame[start : start + 300_000])
        assert len(frame) == unread.have
        assert frame == unread.take()
        assert 0 == files_of(small_disk)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(tmp_path)], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
