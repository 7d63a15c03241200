"""Real FUSE connections and EROFS mounts."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from layer_setup import READ, Setup, layer_setup
from test_layers import odd_tree

from skylift.lazyfs import mount_calls, mounts
from skylift.lazyfs.chunked import CHUNK_SIZE, ChunkedReader
from skylift.lazyfs.daemon_link import DaemonError, LayerDaemon
from skylift.lazyfs.layers import build_layer
from skylift.lazyfs.mounts import LayerMounts, MountError, unpack_layer, why_not
from skylift.lazyfs.store import LocalStore

pytestmark = [pytest.mark.slow, pytest.mark.root]

BIG = 24 * CHUNK_SIZE


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    assert why_not() == ""
    with layer_setup(tmp_path) as setup:
        yield setup


@pytest.fixture
def big() -> bytes:
    return random.Random(3).randbytes(BIG)


def assert_same_tree(one: Path, two: Path, *, unpacked: bool = False) -> None:
    """Names, contents, links, modes, owners and times are the same; but for what `unpack_layer` loses."""
    kept = 0o177777 if not unpacked else 0o171777
    found = [
        sorted(
            os.path.relpath(os.path.join(path, name), root)
            for path, *names in os.walk(root)
            for name in [*names[0], *names[1]]
        )
        for root in (one, two)
    ]
    assert found[0] == found[1]
    for name in found[0]:
        a, b = os.lstat(one / name), os.lstat(two / name)
        assert (a.st_mode & kept, a.st_uid, a.st_gid, int(a.st_mtime)) == (
            b.st_mode,
            b.st_uid,
            b.st_gid,
            int(b.st_mtime),
        )
        if stat.S_ISREG(a.st_mode):
            assert (one / name).read_bytes() == (two / name).read_bytes()
            assert unpacked or a.st_nlink == b.st_nlink
        if stat.S_ISLNK(a.st_mode):
            assert os.readlink(one / name) == os.readlink(two / name)


def wait_until(done: Callable[[], bool]) -> None:
    """Look again and again: nobody tells."""
    pause = threading.Event()
    while not done():
        pause.wait(0.02)


def test_an_odd_tree_looks_the_same(setup: Setup, tmp_path: Path) -> None:
    odd_tree(tmp_path / "tree")
    layer = build_layer(tmp_path / "tree", setup.store, scratch=tmp_path)
    target = setup.mounts.acquire(layer.id)
    assert_same_tree(tmp_path / "tree", target)
    assert os.getxattr(target / "program", "user.kind") == b"odd"
    assert os.stat(target / "a" / "b" / "c" / "file").st_ino == os.stat(target / "hard link").st_ino
    with pytest.raises(OSError, match="Read-only file system"):
        (target / "new").write_text("")


def test_a_hundred_thousand_small_files(setup: Setup, tmp_path: Path) -> None:
    for folder in range(200):
        (tmp_path / "tree" / str(folder)).mkdir(parents=True)
        for number in range(500):
            (tmp_path / "tree" / str(folder) / str(number)).write_bytes(b"%d" % number)
    layer = build_layer(tmp_path / "tree", setup.store, scratch=tmp_path)
    target = setup.mounts.acquire(layer.id)
    assert (target / "199" / "499").read_bytes() == b"499"
    (stats,) = setup.daemon.stats().layers
    # (Read-ahead fetches a few more than were asked for.)
    assert stats.read_chunks < stats.chunks / 2
    assert sum(len(files) for _, _, files in os.walk(target)) == 100_000


def test_only_what_is_read_is_fetched(setup: Setup, big: bytes) -> None:
    layer = setup.layer({"big": big})
    target = setup.mounts.acquire(layer.id)
    with (target / "big").open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 10, BIG // 2) == big[BIG // 2 : BIG // 2 + 10]
    (stats,) = setup.daemon.stats().layers
    assert 0 < stats.fetched <= 6
    assert setup.read(target / "big") == big


def test_the_kernel_is_given_the_rest_of_what_it_reads(setup: Setup, big: bytes) -> None:
    layer = setup.layer({"big": big})
    image = Path(setup.daemon.add(layer.id))
    size = setup.file(layer).chunk_size
    with image.open("rb", buffering=0) as file:
        # No reading ahead by the kernel itself.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        first = os.pread(file.fileno(), 4096, 5 * size)
        wait_until(lambda: cached(image, 5 * size, size))
        asked = setup.daemon.stats().layers[0].reads
        rest = os.pread(file.fileno(), size - 4096, 5 * size + 4096)
        (stats,) = setup.daemon.stats().layers
        assert (asked, 1) == (stats.reads, stats.pushed)
    assert ChunkedReader(setup.file(layer), setup.store).read_range(5 * size, size) == first + rest


def test_the_kernel_is_given_what_another_host_has_read(setup: Setup, big: bytes) -> None:
    layer = setup.layer({"big": big})
    image = Path(setup.daemon.add(layer.id))
    size = setup.file(layer).chunk_size
    assert image.stat().st_size == layer.size  # before that the kernel does not know the file
    setup.daemon.prefetch(layer.id, (7, 3))
    wait_until(lambda: cached(image, 7 * size, size) and cached(image, 3 * size, size))
    assert not cached(image, 5 * size, size)
    assert setup.daemon.stats().layers[0].reads == 0


def cached(path: Path, offset: int, length: int) -> bool:
    """Whether all of a range is in the kernel's cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    seen = (ctypes.c_ubyte * -(-length // mmap.PAGESIZE))()
    size = ctypes.c_size_t(length)
    with path.open("rb") as file:
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), ctypes.c_long(offset))
    try:
        assert libc.mincore(ctypes.c_void_p(address), size, seen) == 0
    finally:
        libc.munmap(ctypes.c_void_p(address), size)
    return all(page & 1 for page in seen)


def test_one_mount_for_all(setup: Setup, big: bytes) -> None:
    layer = setup.layer({"big": big[:100]})
    targets = {setup.mounts.acquire(layer.id) for _ in range(3)}
    (target,) = targets
    assert [mounted.target for mounted in mount_calls.mounted_under(setup.folder / "mounts")] == [target]
    for users in (2, 1, 0):
        assert (target / "big").read_bytes() == big[:100]
        setup.mounts.release(layer.id)
        assert setup.mounts.users(layer.id) == users
    assert mount_calls.mounted_under(setup.folder / "mounts") == []
    assert setup.daemon.stats().layers == ()
    assert (setup.mounts.acquire(layer.id) / "big").read_bytes() == big[:100]


def test_many_at_once_acquire_and_release(setup: Setup) -> None:
    layers = [setup.layer({"file": bytes([number]) * 5000}) for number in range(3)]
    wrong: list[object] = []

    def use(number: int) -> None:
        try:
            for _ in range(5):
                target = setup.mounts.acquire(layers[number % 3].id)
                if (target / "file").read_bytes() != bytes([number % 3]) * 5000:
                    wrong.append(number)
                setup.mounts.release(layers[number % 3].id)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert mount_calls.mounted_under(setup.folder / "mounts") == []


def test_who_uses_it_at_the_end_still_sees_it(setup: Setup, big: bytes) -> None:
    layer = setup.layer({"big": big})
    target = setup.mounts.acquire(layer.id)
    with (target / "big").open("rb", buffering=0) as file:
        setup.mounts.close()
        assert not target.exists()
        assert file.read(BIG) == big


def test_killed_workers_are_replaced_under_readers(setup: Setup, big: bytes) -> None:
    layer = setup.layer({"big": big})
    target = setup.mounts.acquire(layer.id)
    reader = subprocess.Popen([sys.executable, "-c", READ, str(target / "big")], stdout=subprocess.PIPE)
    try:
        assert reader.stdout is not None
        got = reader.stdout.read(CHUNK_SIZE)
        killed = set()
        for _ in range(3):
            killed.add(setup.kill_worker())
            got += reader.stdout.read(2 * CHUNK_SIZE)
        got += reader.stdout.read()
        assert reader.wait(60) == 0
        assert got == big
    finally:
        reader.kill()
        reader.wait()
    # One that is just going may have been killed twice. (What is said of the last one may come in a moment.)
    wait_until(lambda: setup.log().count("died (-9): starting another") == len(killed))
    assert setup.daemon.trace(layer.id)


def test_a_request_that_died_with_the_worker_is_answered_by_the_next(setup: Setup, big: bytes) -> None:
    layer = setup.layer({"big": big})
    target = setup.mounts.acquire(layer.id)
    chunk = 12
    path = setup.blob_path(layer, chunk)
    data = path.read_bytes()
    path.unlink()
    os.mkfifo(path)  # the worker opens it and waits, with the kernel's request in its hands
    reader = subprocess.Popen(
        [sys.executable, "-c", READ, str(target / "big")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        # Opening it to write succeeds when the worker has opened it to read.
        writer = os.open(path, os.O_WRONLY)
        setup.kill_worker()
        path.unlink()
        path.write_bytes(data)
        os.close(writer)
        got, said = reader.communicate(timeout=60)
        assert (got == big, reader.returncode) == (True, 0), said
    finally:
        reader.kill()
        reader.wait()


def test_a_worker_that_dies_again_and_again_ends_reads_with_an_error(setup: Setup, big: bytes) -> None:
    layer = setup.layer({"big": big})
    target = setup.mounts.acquire(layer.id)
    for _ in range(5):
        setup.kill_worker()
    assert setup.daemon._process is not None
    assert setup.daemon._process.wait(30) == 1
    with pytest.raises(OSError, match=r"Input/output error|Transport endpoint is not connected"):
        setup.read(target / "big")
    assert "It died 5 times in a row: reads fail from now on" in setup.log()


def test_both_processes_killed_is_an_error_and_is_cleaned_up(setup: Setup, big: bytes) -> None:
    layer = setup.layer({"big": big})
    target = setup.mounts.acquire(layer.id)
    assert setup.daemon._process is not None
    worker = setup.daemon.stats().pid
    setup.daemon._process.kill()
    setup.daemon._process.wait()
    assert setup.read(target / "big")[:10] == big[:10]  # the worker alone goes on
    os.kill(worker, signal.SIGKILL)
    setup.drop_caches()
    with pytest.raises(OSError, match=r"Input/output error|Transport endpoint is not connected"):
        setup.read(target / "big")
    setup.mounts.close()
    setup.daemon.start()
    again = LayerMounts(setup.folder / "mounts", setup.daemon)
    try:
        assert setup.read(again.acquire(layer.id) / "big") == big
    finally:
        again.close()


def test_a_bit_that_flipped_on_this_disk(setup: Setup, big: bytes) -> None:
    layer = setup.layer({"big": big})
    target = setup.mounts.acquire(layer.id)
    assert setup.read(target / "big") == big
    wait_until(lambda: setup.daemon.stats().layers[0].flying == 0)
    with (setup.copy_folder(layer) / "data").open("r+b") as file:
        file.seek(10 * CHUNK_SIZE + 99)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 4]))
    setup.kill_worker()
    setup.drop_caches()
    assert setup.read(target / "big") == big
    (stats,) = setup.daemon.stats().layers
    assert stats.spoiled == 1
    assert "was spoiled on this disk: fetching again" in setup.log()


def test_a_bit_that_flipped_in_the_store(setup: Setup, big: bytes) -> None:
    layer = setup.layer({"big": big})
    path = setup.blob_path(layer, 12)
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    target = setup.mounts.acquire(layer.id)
    with pytest.raises(OSError, match="Input/output error"):
        setup.read(target / "big")
    assert "A read of layer" in setup.log()
    data[500] ^= 1
    path.write_bytes(data)  # as when it is sent again
    assert setup.read(target / "big") == big


def test_a_chunk_that_is_gone_is_told(setup: Setup, big: bytes) -> None:
    layer = setup.layer({"big": big})
    setup.blob_path(layer, 12).unlink()
    target = setup.mounts.acquire(layer.id)
    with pytest.raises(OSError, match="Input/output error"):
        setup.read(target / "big")
    assert "it was deleted, or never arrived there" in setup.log()


def test_a_store_that_does_not_answer_ends_reads_with_an_error(tmp_path: Path, big: bytes) -> None:
    with layer_setup(tmp_path, patience=1) as setup:
        layer = setup.layer({"big": big})
        path = setup.blob_path(layer, 12)
        path.unlink()
        os.mkfifo(path)
        target = setup.mounts.acquire(layer.id)
        with pytest.raises(OSError, match="Input/output error"):
            setup.read(target / "big")
        assert "the store did not answer for 1 s" in setup.log()


def test_a_full_disk(setup: Setup, big: bytes) -> None:
    layer = setup.layer({"big": big})
    folder = setup.copy_folder(layer)
    folder.mkdir(parents=True)
    mount_calls.mount("small", folder, "tmpfs", 0, "size=2m")
    target = setup.mounts.acquire(layer.id)
    assert setup.read(target / "big") == big
    (stats,) = setup.daemon.stats().layers
    assert stats.unkept > 10
    assert "cannot be kept on this disk (No space left" in setup.log().replace("[Errno 28] ", "")
    setup.mounts.release(layer.id)
    mount_calls.unmount(folder, lazily=True)


def test_a_trace_is_fetched_ahead_on_another_host(setup: Setup, big: bytes, tmp_path: Path) -> None:
    layer = setup.layer({"big": big})
    setup.read(setup.mounts.acquire(layer.id) / "big")
    trace = setup.daemon.trace(layer.id)
    assert set(trace) >= set(range(1, 24))
    other = LayerDaemon(tmp_path / "other", str(tmp_path / "store"))
    other.start()
    try:
        other.add(layer.id)
        other.prefetch(layer.id, trace)
        wait_until(lambda: other.stats().layers[0].flying == 0)
        (stats,) = other.stats().layers
        assert stats.here == len(trace)
        assert stats.read_chunks == 0
    finally:
        other.stop()


def test_a_folder_has_one_daemon(setup: Setup) -> None:
    second = LayerDaemon(setup.folder / "daemon", str(setup.folder / "store"))
    second.start()  # speaks to the first
    assert second.stats().pid == setup.daemon.stats().pid
    done = subprocess.run(
        [
            *(sys.executable, "-m", "skylift.lazyfs.daemon", "--folder", str(setup.folder / "daemon")),
            *("--store", str(setup.folder / "store")),
        ],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert b"Another daemon serves layers in" in done.stderr


def test_what_is_no_layer_is_told(setup: Setup) -> None:
    with pytest.raises(DaemonError, match="is not the id of a layer"):
        setup.daemon.add("../etc/passwd")
    with pytest.raises(DaemonError, match="has no blob"):
        setup.daemon.add("ab" * 32)
    with pytest.raises(DaemonError, match="is not served here: add it first"):
        setup.daemon.trace("ab" * 32)


def test_an_image_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"x" * 10_000)
    (tmp_path / "target").mkdir()
    with pytest.raises(MountError, match=r"could not be mounted on .*Invalid argument.*dmesg"):
        mounts.mount_image(tmp_path / "image", tmp_path / "target")


def test_through_a_loop_device(setup: Setup, big: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = setup.layer({"big": big})
    real = mount_calls.mount

    def older_kernel(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
        if kind == "erofs":
            raise OSError(15, "Block device required")
        real(source, target, kind, flags, options)

    monkeypatch.setattr(mount_calls, "mount", older_kernel)
    target = setup.mounts.acquire(layer.id)
    assert mount_calls.mounted_under(target)[0].source.startswith("/dev/loop")
    assert setup.read(target / "big") == big
    loop = mount_calls.mounted_under(target)[0].source
    setup.mounts.release(layer.id)
    listed = subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout
    assert f"{loop}:" not in listed


def test_unpacked_it_looks_the_same(tmp_path: Path) -> None:
    odd_tree(tmp_path / "tree")
    store = LocalStore(tmp_path / "store")
    layer = build_layer(tmp_path / "tree", store, scratch=tmp_path)
    unpacked = tmp_path / "unpacked" / "tree"
    unpack_layer(layer.id, store, unpacked, scratch=tmp_path)
    assert [path.name for path in (tmp_path / "unpacked").iterdir()] == ["tree"]
    assert_same_tree(tmp_path / "tree", unpacked, unpacked=True)


def test_why_not_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not() == ""
    monkeypatch.setattr(mounts, "_kernel_has", lambda kind: False)
    assert "this kernel has no EROFS" in why_not()
    monkeypatch.setattr(mounts, "_has_mount_right", lambda: False)
    assert "CAP_SYS_ADMIN is missing" in why_not()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "only root can mount EROFS images" in why_not()
