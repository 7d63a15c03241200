from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from skylift.runtime.runc.host_lock import HostLock

HOLD = """
import sys
from pathlib import Path
from skylift.runtime.runc.host_lock import HostLock
lock = HostLock("key", Path(sys.argv[1]))
print(lock.take(), flush=True)
sys.stdin.read()
"""


def test_one_has_it(tmp_path: Path) -> None:
    first, second = HostLock("key", tmp_path), HostLock("key", tmp_path)
    assert first.take()
    assert not second.take()
    assert HostLock("other", tmp_path).take()
    second.release()  # it has nothing to release
    assert not second.take()
    first.release()
    first.release()
    assert second.take()
    second.release()
    assert not (tmp_path / "key.lock").exists()


def test_a_process_that_dies_lets_go(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "True\n" == process.stdout.readline()
    lock = HostLock("key", tmp_path)
    assert not lock.take()
    process.kill()
    process.communicate()
    assert lock.take()
    lock.release()


def test_a_file_that_was_removed_meanwhile_is_not_taken(tmp_path: Path) -> None:
    first = HostLock("key", tmp_path)
    assert first.take()
    (tmp_path / "key.lock").unlink()
    second = HostLock("key", tmp_path)
    assert second.take()
    assert not first._is_ours(first._descriptor)
    assert second._is_ours(second._descriptor)
    second.release()
    first.release()
