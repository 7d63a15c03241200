"""Writing processes with CRIU: what is told of why it did not work, and the parts that need no container.

Whole containers: ``runc/test_runc_checkpoint.py``.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from skylift.runtime.criu_complaints import address_of, errors_in, why_not_written
from skylift.runtime.criu_dump import outside_mounts, tree

PTRACE_ATTACH, PTRACE_DETACH = 16, 17
RLIMIT = "Error (criu/util.c:1533): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """One that does nothing."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (
            "Error (criu/sk-unix.c:900): unix: External socket is used. Consider using it.\n",
            "It has an open Unix socket whose other end is outside of the container. Close it first.",
        ),
        (
            "Error (criu/tty.c:1): tty: Found dangling tty with sid 7 pgid 7 (pts) on peer fd 0.\n",
            "It uses a terminal that is not its own.",
        ),
        (
            "Error (criu/files-reg.c:1): Can't dump ghost file /tmp/x of 5000000000 size, increase limit\n",
            "It has a deleted file open that is too large: /tmp/x, 5000000000 bytes.",
        ),
        (
            "Error (criu/files-reg.c:1): Can't lookup mount=23 for fd=5 path=/var/log/x\n",
            "It has a file open that is outside of the container: /var/log/x.",
        ),
        (
            "Error (criu/files-ext.c:1): Can't dump file 3 of that type [20666] (chr 10:229 /dev/fuse)\n",
            "It has something open that cannot be written: chr 10:229 /dev/fuse.",
        ),
        (
            "Error (criu/namespaces.c:1): Can't dump nested user namespace for 8\n",
            "One of its processes has a namespace of its own (user).",
        ),
        (
            "Error (criu/sk-inet.c:1): inet: Connected TCP socket, consider using it.\n",
            "It has an open network socket, which this CRIU cannot write on this kernel. Close it first.",
        ),
        (
            "Error (criu/x.c:1): something else.\nError (criu/y.c:2): more\n",
            "CRIU could not write it: something else.",
        ),
        ("", "CRIU could not write it: it does not say why."),
    ],
)
def test_complaints_in_words(process: subprocess.Popen[bytes], log: str, said: str) -> None:
    assert said == why_not_written(RLIMIT + log, [process.pid])


def test_connections_and_sockets_are_named() -> None:
    log = "Error (criu/sk-inet.c:1): inet: Connected TCP socket, consider using it.\n"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        opened = f"socket.create_server(('127.0.0.1', 0)), socket.create_connection(('127.0.0.1', {port}))"
        code = f"import socket, sys; opened = {opened}; print(flush=True); sys.stdin.read()"
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            assert f"TCP connection to 127.0.0.1:{port}. Close" in why_not_written(log, [child.pid])
            child.communicate()


def test_a_process_that_is_traced(process: subprocess.Popen[bytes]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert 0 == libc.ptrace(PTRACE_ATTACH, process.pid, None, None)
    os.waitpid(process.pid, os.WUNTRACED)
    try:
        said = why_not_written("Error (compel/src/lib/infect.c:1): Unseizable non-zombie\n", [process.pid])
        assert "One of its processes is being traced (by a debugger, say)." == said
    finally:
        libc.ptrace(PTRACE_DETACH, process.pid, None, None)


def test_addresses_of_the_kernels_tables() -> None:
    assert "127.0.0.1:8080" == address_of("0100007F:1F90")
    assert "127.0.0.1:8080" == address_of("0000000000000000FFFF00000100007F:1F90")
    assert "[::1]:80" == address_of("00000000000000000000000001000000:0050")


def test_errors_are_found_among_others() -> None:
    log = "(00.1) Warn  (criu/a.c:1): careful\n" + RLIMIT + "(00.2) Error (criu/b.c:2): b: no.\n"
    assert ["b: no"] == errors_in(log)


def test_a_tree_of_processes() -> None:
    with subprocess.Popen(
        ["sh", "-c", "sh -c 'echo; cat' & wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None
        first.stdout.readline()
        pids = list(tree(first.pid))
        assert first.pid == pids[0]
        assert len(pids) >= 2
        for pid in reversed(pids):
            os.kill(pid, 9)


@pytest.mark.root
def test_what_of_the_host_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    (tmp_path / "own").mkdir()
    script = (
        'mount --bind /dev/null "$1/a file" && mount -t tmpfs tmpfs "$1/own" && mkdir "$1/own/usr" && '
        'mount --bind /usr "$1/own/usr" && echo && exec cat'
    )
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = outside_mounts(process.pid)
        process.communicate()
    mine = {path: device for path, device in found.items() if path.startswith(str(tmp_path))}
    assert {f"{tmp_path}/a file": "/dev/null", f"{tmp_path}/own/usr": ""} == mine
