"""How a runner starts and ends: under the image's own Python, as the child of its init."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from fake_host import RUNNER, FakeHost


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """The folder as it is in a container: the runner under another name, and cloudpickle beside it."""
    lib = tmp_path / "opt" / "skylift" / "lib"
    lib.mkdir(parents=True)
    shutil.copytree(RUNNER, lib / "skylift_runner", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(cloudpickle.__file__).parent, lib / "cloudpickle")
    return lib


def test_it_needs_the_standard_library_alone(layout: Path) -> None:
    def look() -> Any:
        import sys

        import cloudpickle

        return (
            cloudpickle.__file__,
            sys.path[-1],
            sorted(set(sys.modules) & {"IPython", "asyncio", "msgspec"}),
        )

    command = [sys.executable, "-I", "-S", str(layout / "skylift_runner")]
    with FakeHost(command) as host:
        file, last, heavy = host.call(look).result
        assert Path(file).parent == layout / "cloudpickle"
        assert last == str(layout)
        assert heavy == []


def test_code_can_ask_which_call_it_runs_in(layout: Path) -> None:
    def look(_input: int = 0) -> Any:
        import sys

        current = sys.modules["skylift_runner.current"]
        return current.call_id(), current.input_id()

    with FakeHost([sys.executable, str(layout / "skylift_runner")]) as host:
        call = host.call(look)
        assert call.result == (call.id, call.id)
        mapped = host.map(look, range(2)).wait_done(range(2))
        answers = [pickle.loads(event.data) for event in mapped.of("result")]
        assert answers == [(mapped.id, f"{mapped.id}:0"), (mapped.id, f"{mapped.id}:1")]


def test_the_users_own_cloudpickle_comes_first(layout: Path) -> None:
    def look() -> Any:
        import cloudpickle

        return cloudpickle.__file__

    with FakeHost([sys.executable, str(layout / "skylift_runner")]) as host:
        assert host.call(look).result == cloudpickle.__file__


def test_as_a_module_of_the_package() -> None:
    with FakeHost([sys.executable, "-m", "skylift.runtime.runner"]) as host:
        assert host.call(lambda: 1).result == 1


def test_ready_names_the_python(own_host: FakeHost) -> None:
    assert own_host.ready is not None
    assert own_host.ready["python"] == ".".join(map(str, sys.version_info[:3]))
    assert own_host.ready["pid"] != own_host.process.pid
    assert [(hello["channel"], hello["sent"], hello["got"]) for hello in own_host.hellos] == [
        ("data", 0, 0),
        ("control", 0, 0),
    ]


def test_without_a_socket_it_says_so() -> None:
    env = {name: value for name, value in os.environ.items() if name != "SKYLIFT_SOCKET"}
    run = subprocess.run([sys.executable, str(RUNNER)], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == (
        "skylift runner: SKYLIFT_SOCKET is not set; the runner is started by a Skylift host\n"
    )


def test_without_a_host_it_says_so() -> None:
    run = subprocess.run(
        [sys.executable, str(RUNNER)],
        env={**os.environ, "SKYLIFT_SOCKET": "/nowhere/runner.sock"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr == (
        "skylift runner: no host at /nowhere/runner.sock: [Errno 2] No such file or directory\n"
    )


# --- ends ----------------------------------------------------------------------------------------


def test_exit_runs_exit_handlers(own_host: FakeHost) -> None:
    def register() -> None:
        import atexit

        atexit.register(print, "the exit handler ran")

    own_host.call(register)
    own_host.send({"t": "exit", "grace": 5})
    assert own_host.wait_exit() == 0
    own_host.wait_printed("the exit handler ran\n")
    assert own_host.printed["stderr"] == b""


def test_exit_does_not_wait_longer_than_its_grace(own_host: FakeHost) -> None:
    def start() -> None:
        import threading

        threading.Thread(target=threading.Event().wait).start()

    own_host.call(start)
    own_host.send({"t": "exit", "grace": 0.1})
    assert own_host.wait_exit() == 0


def test_a_stop_signal_ends_an_idle_runner(own_host: FakeHost) -> None:
    own_host.call(lambda: 1)
    os.kill(own_host.process.pid, signal.SIGTERM)
    assert own_host.wait_exit() == 128 + signal.SIGTERM
    assert own_host.printed == {"stdout": b"", "stderr": b""}


def test_sigint_is_for_user_code_alone(own_host: FakeHost) -> None:
    def wait() -> str:
        import threading

        try:
            print("begun")
            threading.Event().wait()
        except KeyboardInterrupt:
            return "interrupted"
        return ""

    os.kill(own_host.process.pid, signal.SIGINT)
    call = own_host.start(wait)
    call.wait_output("begun")
    os.kill(own_host.process.pid, signal.SIGINT)
    assert call.wait().result == "interrupted"


def test_the_status_of_os_exit_is_passed_on(own_host: FakeHost) -> None:
    def leave() -> None:
        import os

        os._exit(7)

    own_host.start(leave)
    assert own_host.wait_exit() == 7


def test_a_signal_is_passed_on_and_the_last_words_are_on_stderr(own_host: FakeHost) -> None:
    def crash() -> None:
        import ctypes

        ctypes.string_at(0)

    own_host.start(crash)
    assert own_host.wait_exit() == 128 + signal.SIGSEGV
    own_host.wait_printed("Fatal Python error: Segmentation fault", "stderr")
    own_host.wait_printed(" in crash\n", "stderr")


def test_sys_exit_in_a_function_is_its_error(host: FakeHost) -> None:
    def leave() -> None:
        import sys

        sys.exit(3)

    call = host.call(leave)
    assert (call.state, call.error["type"], call.error["message"]) == ("failed", "SystemExit", "3")
    assert host.call(lambda: "next").result == "next"


@pytest.mark.root
def test_as_pid_1_it_reaps_orphans_and_passes_signals_on() -> None:
    def leave_an_orphan() -> bool:
        import os
        import subprocess
        import time

        shell = subprocess.run(["sh", "-c", "sleep 0.05 & echo $!"], capture_output=True, check=True)
        orphan = int(shell.stdout)
        deadline = time.monotonic() + 20
        while os.path.exists(f"/proc/{orphan}") and time.monotonic() < deadline:
            time.sleep(0.01)
        return not os.path.exists(f"/proc/{orphan}") and os.getppid() == 1

    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, str(RUNNER)]
    with FakeHost(command, own_pids=False) as host:
        assert host.call(leave_an_orphan).result is True
        host.call(lambda: __import__("os").kill(1, signal.SIGTERM))
        # unshare exits as its child did.
        assert host.wait_exit() == 128 + signal.SIGTERM


def test_an_idle_runner_has_two_threads(own_host: FakeHost) -> None:
    own_host.call(lambda: 1)
    tasks = Path(f"/proc/{own_host.runner_pid}/task")
    deadline = time.monotonic() + 20
    while len(list(tasks.iterdir())) > 2 and time.monotonic() < deadline:
        threading.Event().wait(0.05)
    assert len(list(tasks.iterdir())) == 2
    assert own_host.call(lambda: 2).result == 2
