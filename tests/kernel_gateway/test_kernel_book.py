"""What is written down of hosted kernels, for the next gateway."""

from __future__ import annotations

from pathlib import Path

import msgspec

from skylift.backend.settings import KernelSettings
from skylift.kernel_gateway.kernel_book import KernelBook, KernelRecord, users_with_kernels

RECORD = KernelRecord(
    kernel_name="skylift-h100",
    settings=KernelSettings(name="Python 3 · H100", gpu="H100"),
    client_id="cl-00000001",
    call_id="fc-00000001",
    folder="/home/host/containers/co-00000001/kernel",
    key=b"secret",
    signature_scheme="hmac-sha256",
    notebook="mine.ipynb",
)


def test_the_next_one_reads_what_was_written(tmp_path: Path) -> None:
    KernelBook(tmp_path, "Zoë/../etc").put("a-kernel", RECORD)
    other = KernelBook(tmp_path, "local")
    other.put("another", msgspec.structs.replace(RECORD, notebook=""))
    assert {"a-kernel": RECORD} == KernelBook(tmp_path, "Zoë/../etc").kernels
    assert ["Zoë/../etc", "local"] == users_with_kernels(tmp_path)
    other.drop("another")
    other.drop("another")
    assert ["Zoë/../etc"] == users_with_kernels(tmp_path)


def test_nobody_else_can_read_the_keys(tmp_path: Path) -> None:
    KernelBook(tmp_path, "local").put("a-kernel", RECORD)
    (file,) = tmp_path.glob("*.json")
    assert 0o600 == file.stat().st_mode & 0o777


def test_a_torn_book_is_an_empty_one(tmp_path: Path) -> None:
    KernelBook(tmp_path, "local").put("a-kernel", RECORD)
    (file,) = tmp_path.glob("*.json")
    file.write_bytes(file.read_bytes()[:40])
    assert {} == KernelBook(tmp_path, "local").kernels
    assert [] == users_with_kernels(tmp_path)
    assert [] == users_with_kernels(tmp_path / "none")


def test_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    book = KernelBook(tmp_path / "gone", "local")
    book.put("a-kernel", RECORD)
    assert {"a-kernel": RECORD} == book.kernels
