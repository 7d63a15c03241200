from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from skylift.runtime.criu_images import ImageError, make_quick_to_restore, page_runs
from skylift.runtime.criu_protobuf import ProtobufError, encode, fields, numbers

PAGE = os.sysconf("SC_PAGE_SIZE")
COMMON = 0x54564319
CORE, PAGEMAP, INVENTORY = 0x55053847, 0x56084025, 0x58313116
IN_PARENT, LAZY, PRESENT = 1, 2, 4


def image(*magics: int, entries: list[bytes]) -> bytes:
    body = b"".join(struct.pack("<I", len(entry)) + entry for entry in entries)
    return struct.pack(f"<{len(magics)}I", *magics) + body


def write_pagemap(folder: Path, name: str, pages: int, entries: list[dict[int, int]]) -> None:
    encoded = [encode([(1, pages)]), *(encode(entry.items()) for entry in entries)]
    (folder / f"pagemap-{name}.img").write_bytes(image(COMMON, PAGEMAP, entries=encoded))


def test_runs_begin_where_addresses_leave_a_gap(tmp_path: Path) -> None:
    write_pagemap(
        tmp_path,
        "1",
        1,
        [
            {1: 0x1000 * PAGE, 2: 3, 4: PRESENT},
            {1: 0x1003 * PAGE, 2: 2, 4: PRESENT | LAZY},
            {1: 0x2000 * PAGE, 2: 7, 4: IN_PARENT},
            {1: 0x3000 * PAGE, 2: 1, 4: PRESENT},
        ],
    )
    write_pagemap(tmp_path, "shmem-5", 2, [{1: 0, 2: 0, 4: PRESENT, 5: 2}, {1: 2 * PAGE, 2: 1}])

    assert {"pages-1.img": [0, 5 * PAGE], "pages-2.img": [0]} == page_runs(tmp_path)


@pytest.mark.parametrize("length", [8, 9, 12, 13])
def test_a_cut_off_image_is_said(tmp_path: Path, length: int) -> None:
    write_pagemap(tmp_path, "1", 1, [])
    path = tmp_path / "pagemap-1.img"
    path.write_bytes(path.read_bytes()[:length])

    with pytest.raises(ImageError, match=r"pagemap-1\.img is cut off"):
        page_runs(tmp_path)


def test_another_file_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "pagemap-1.img").write_bytes(b"something else")

    with pytest.raises(ImageError, match=r"pagemap-1\.img is not such an image of CRIU's"):
        page_runs(tmp_path)


def test_cgroups_and_the_network_lock_are_taken_out_and_nothing_else(tmp_path: Path) -> None:
    thread = [(1, 2**64 - 1), (13, "python"), (16, 4)]
    core = [(1, 1), (2, b"registers"), (5, encode(thread)), (4, encode([(1, 1)]))]
    (tmp_path / "core-7.img").write_bytes(image(COMMON, CORE, entries=[encode(core)]))
    inventory = [(1, 2), (5, 1), (11, 0), (13, "run id")]
    (tmp_path / "inventory.img").write_bytes(image(INVENTORY, entries=[encode(inventory)]))

    make_quick_to_restore(tmp_path)
    make_quick_to_restore(tmp_path)

    expected = [(1, 1), (2, b"registers"), (5, encode(thread[:-1])), (4, encode([(1, 1)]))]
    assert image(COMMON, CORE, entries=[encode(expected)]) == (tmp_path / "core-7.img").read_bytes()
    expected = [(1, 2), (5, 1), (13, "run id"), (11, 2)]
    assert image(INVENTORY, entries=[encode(expected)]) == (tmp_path / "inventory.img").read_bytes()


def test_messages_are_read_as_they_are_written() -> None:
    message = encode([(1, 300), (2, True), (3, "text"), (4, b"\x00\xff"), (5, 2**63)])

    assert [(1, 300), (2, 1), (3, b"text"), (4, b"\x00\xff"), (5, 2**63)] == [
        (number, value) for number, _, value, _ in fields(message)
    ]
    assert {1: 300, 2: 1, 5: 2**63} == numbers(message)
    assert message == b"".join(raw for *_, raw in fields(message))


def test_numbers_of_fixed_length_are_left_as_they_are() -> None:
    message = bytes([1 << 3 | 1]) + b"12345678" + bytes([2 << 3 | 5]) + b"1234"

    assert [b"12345678", b"1234"] == [value for _, _, value, _ in fields(message)]


@pytest.mark.parametrize("message", [b"\x80", b"\x0a\x05abc", b"\x0b", b"\x09123"])
def test_what_is_no_message_is_said(message: bytes) -> None:
    with pytest.raises(ProtobufError, match=r"A message is cut off|unknown kind"):
        list(fields(message))
