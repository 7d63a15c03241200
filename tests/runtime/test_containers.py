"""How containers start, are told of, and end."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fake_gateway import FakeGateway
from host_process import HostProcess, local_image, running_host, session_spec, spec

from skylift.wire import CallLost, FunctionSpec, GpuRequest, ImageSpec, MountSpec


class TestStart:
    def test_what_people_are_told_of_it(self, gateway: FakeGateway) -> None:
        container = gateway.start(session_spec(), GpuRequest(model="h100"))
        info = gateway.containers[container].info

        assert ("tests", "notebook", "se-00000001") == (info.app, info.function, info.session)
        assert ("H100", True) == (info.gpu, info.simulated)
        assert ("cold", "") == (info.path, info.path_reason)
        assert 0 < info.path_seconds < 60
        assert info.image.startswith("local environment, Python 3.")
        assert abs(time.time() - info.started) < 60

    def test_several_gpus(self, gateway: FakeGateway) -> None:
        container = gateway.start(spec(), GpuRequest(model="H100", count=2))
        assert "H100:2" == gateway.containers[container].info.gpu

    def test_a_gpu_that_is_not_there(self, gateway: FakeGateway) -> None:
        container = gateway.start(spec(), GpuRequest(model="B200"), wait=False)
        problem = gateway.exited(container)
        assert problem is not None
        assert "ResourceExhaustedError" == problem.error
        assert problem.message.startswith("This host has no B200: it has ")

    def test_a_gpu_is_free_again_when_its_container_is_gone(self, gateway: FakeGateway) -> None:
        for _ in range(3):
            container = gateway.start(spec(), GpuRequest(model="H100", count=2))
            gateway.stop(container)
            gateway.exited(container)

    def test_one_that_ends_before_it_is_ready_shows_its_last_words(
        self, gateway: FakeGateway, tmp_path: Path
    ) -> None:
        container = gateway.start(spec(image=program(tmp_path, "echo no such luck >&2; exit 3")), wait=False)
        call = gateway.call(container, abs, -1)
        problem = gateway.exited(container)
        assert problem is not None
        assert "ExecutionError" == problem.error
        assert problem.message.startswith(
            "The container of work ended with exit status 3 before it was ready."
        )
        assert problem.message.endswith("Its last output:\nno such luck")
        lost = gateway.lost(call)
        assert gateway.messages.index(lost) > gateway.messages.index(gateway.containers[container])

    def test_one_that_takes_too_long(self, gateway: FakeGateway, tmp_path: Path) -> None:
        image = program(tmp_path, "echo still importing; sleep 60")
        container = gateway.start(spec(image=image, startup_timeout=0.5), wait=False)
        problem = gateway.exited(container)
        assert problem is not None
        message = (
            "The container of work was not ready after 0.5 s (startup_timeout) and was ended. If it needs "
            "longer, raise startup_timeout. Its last output:\nstill importing"
        )
        assert ("FunctionTimeoutError", message) == (problem.error, problem.message)

    def test_a_container_that_is_not_there(self, gateway: FakeGateway) -> None:
        call = gateway.call("co-never00000", abs, -1)
        assert "container co-never00000 has ended" == gateway.lost(call).reason
        mapped = gateway.expect("fc-map0000001")
        gateway.inputs("co-never00000", gateway.define(abs), mapped, {0: 1, 1: 2})
        gateway.wait_for(lambda: gateway.returned(mapped) == {0, 1}, "the inputs")

    def test_twice_the_same_is_one(self, gateway: FakeGateway) -> None:
        container = gateway.start(spec())
        first = gateway.containers[container]
        gateway.send(msgspec.structs.replace(gateway.last_start, spec=spec(name="other")))
        assert 1 == gateway.finish(gateway.call(container, abs, -1)).result
        assert first is gateway.containers[container]


class TestStop:
    def test_exit_handlers_run(
        self, gateway: FakeGateway, shared_host: tuple[HostProcess, FakeGateway]
    ) -> None:
        host, _ = shared_host
        container = gateway.start(spec())
        gateway.finish(gateway.call(container, lambda: atexit.register(os._exit, 77) and None))
        gateway.stop(container, reason="idle for 60 s")
        assert gateway.exited(container) is None
        assert "idle for 60 s" == gateway.containers[container].info.exit_reason
        assert f"Container {container} ended with exit status 77." in host.log()

    def test_a_running_call_is_cancelled_and_a_waiting_one_can_run_elsewhere(
        self, gateway: FakeGateway
    ) -> None:
        container = gateway.start(spec())
        running = gateway.call(container, time.sleep, 60)
        waiting = gateway.call(container, abs, -1)
        gateway.wait_for(lambda: running.started, "its start")
        gateway.stop(container, reason="the machine is needed")
        gateway.finish(running)

        assert ("cancelled", "InputCancellation") == (running.state, running.error["skylift"])
        assert "The container of work was stopped: the machine is needed" == running.error["message"]
        assert isinstance(gateway.lost(waiting), CallLost)
        assert gateway.exited(container) is None

    def test_of_a_map_only_the_input_in_hand_is_lost(self, gateway: FakeGateway) -> None:
        container, call = gateway.start(spec()), gateway.expect("fc-map0000002")
        function = gateway.define(time.sleep)
        gateway.inputs(container, function, call, {0: 60, 1: 60, 2: 60})
        gateway.inputs(container, function, call, {3: 60})
        gateway.wait_for(lambda: call.started, "its start")
        gateway.stop(container)
        gateway.finish_inputs(call, [0])
        gateway.exited(container)
        assert {1, 2, 3} == gateway.returned(call)

    def test_a_waiting_cell_of_a_session_is_told(self, gateway: FakeGateway) -> None:
        container = gateway.start(session_spec())
        running = gateway.cell(container, "import time\ntime.sleep(60)")
        waiting = gateway.cell(container, "1")
        gateway.wait_for(lambda: running.started, "its start")
        gateway.stop(container, reason="you stopped it")
        gateway.finish(waiting)
        message = (
            "This cell had not begun when its session ended. The container of session train was stopped: "
            "you stopped it"
        )
        assert ("cancelled", message) == (waiting.state, waiting.error["message"])

    def test_code_that_does_not_react_is_killed_after_the_grace(self, gateway: FakeGateway) -> None:
        def never_returns() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            time.sleep(60)

        container = gateway.start(spec())
        call = gateway.call(container, never_returns)
        gateway.wait_for(lambda: call.started, "its start")
        gateway.stop(container, grace=0.2, reason="enough")
        gateway.finish(call)
        message = "The container of work was stopped: enough"
        assert ("cancelled", message) == (call.state, call.error["message"])
        assert gateway.exited(container) is None

    def test_one_that_is_starting(self, gateway: FakeGateway) -> None:
        container = gateway.start(spec(), wait=False)
        gateway.stop(container)
        assert gateway.exited(container) is None

    def test_a_container_for_one_call_ends_after_it(self, gateway: FakeGateway) -> None:
        container = gateway.start(spec(single_use=True))
        first, second = gateway.call(container, abs, -1), gateway.call(container, abs, -2)
        assert 1 == gateway.finish(first).result
        assert isinstance(gateway.lost(second), CallLost)
        assert gateway.exited(container) is None


class TestWayToTheGateway:
    def test_a_container_with_a_token_reaches_the_gateway_even_without_a_network(
        self, gateway: FakeGateway, listening: socket.socket
    ) -> None:
        def ask() -> tuple[dict[str, str], bytes, bytes]:
            env = {name: os.environ[name] for name in ("SKYLIFT_GATEWAY_URL", "SKYLIFT_TOKEN")}
            path = env["SKYLIFT_GATEWAY_URL"].removeprefix("unix://")
            with open(os.path.join(os.path.dirname(path), "spec.json"), "rb") as file:
                found = file.read()
            with socket.socket(socket.AF_UNIX) as link:
                link.connect(path)
                link.sendall(b"ping")
                return env, found, link.recv(16)

        what = spec(block_network=True, env={"SKYLIFT_TOKEN": "not this one"})
        container = gateway.start(what, token="the-token")
        call = gateway.call(container, ask)
        there, _ = listening.accept()
        with there:
            assert b"ping" == there.recv(16)
            there.sendall(b"pong")
            env, found, answer = gateway.finish(call).result
        assert ("the-token", b"pong") == (env["SKYLIFT_TOKEN"], answer)
        assert what == msgspec.json.decode(found, type=FunctionSpec)
        gateway.stop(container)
        gateway.exited(container)

    def test_its_connections_end_with_it(self, gateway: FakeGateway, listening: socket.socket) -> None:
        def connect() -> None:
            import builtins

            link = socket.socket(socket.AF_UNIX)
            link.connect(os.environ["SKYLIFT_GATEWAY_URL"].removeprefix("unix://"))
            builtins.link = link  # type: ignore[attr-defined]

        container = gateway.start(spec(), token="the-token")
        gateway.finish(gateway.call(container, connect))
        there, _ = listening.accept()
        with there:
            gateway.stop(container)
            gateway.exited(container)
            there.settimeout(30)
            with contextlib.suppress(ConnectionResetError):
                assert b"" == there.recv(16)

    def test_one_without_a_token_has_none(self, gateway: FakeGateway) -> None:
        def look() -> tuple[list[str], list[str]]:
            folder = os.path.dirname(os.environ["SKYLIFT_SOCKET"])
            names = [name for name in os.environ if name in ("SKYLIFT_GATEWAY_URL", "SKYLIFT_TOKEN")]
            return os.listdir(folder), names

        assert (["runner.sock"], []) == gateway.finish(gateway.call(gateway.start(spec()), look)).result

    @pytest.fixture
    def listening(self, shared_host: tuple[HostProcess, FakeGateway]) -> Iterator[socket.socket]:
        """Where the gateway's HTTP server would be."""
        host, _ = shared_host
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.settimeout(30)
            port = listening.getsockname()[1]
            announcement = host.home / "gateway.json"
            announcement.write_text(json.dumps({"url": f"http://127.0.0.1:{port}"}))
            yield listening
            announcement.unlink()


class TestContact:
    def test_a_runner_that_closes_its_connections_is_ended(
        self, shared_host: tuple[HostProcess, FakeGateway], gateway: FakeGateway
    ) -> None:
        def daemonize() -> None:
            os.closerange(3, 256)
            time.sleep(60)

        container = gateway.start(spec())
        call = gateway.call(container, daemonize)
        gateway.finish(call, timeout=60)
        message = (
            "The process of work lost its connection to the host for 10 s and was ended. Code that closes "
            "file descriptors it did not open (os.closerange, daemonizing) does that."
        )
        assert ("failed", message) == (call.state, call.error["message"])


def program(folder: Path, script: str) -> ImageSpec:
    """An image whose Python is a shell script."""
    folder.chmod(0o755)
    file = folder / "python3"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return seeing(folder, python=str(file))


def seeing(folder: Path, **changes: object) -> ImageSpec:
    """The tests' image, with one folder more."""
    image = local_image()
    return msgspec.structs.replace(image, mounts=(*image.mounts, MountSpec(path=str(folder))), **changes)


def test_folders_of_sockets_elsewhere_go_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A path that is too long for a socket's address; a container's own folder is below it.
    home = tmp_path / ("long" * 25)
    elsewhere = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    try:
        with running_host(home, "process") as (_, gateway):
            container = gateway.start(spec())
            assert 1 == gateway.finish(gateway.call(container, abs, -1)).result
            assert 1 == len(list(elsewhere.glob("skylift-*")))
            gateway.stop(container)
            gateway.exited(container)
            assert [] == list(elsewhere.glob("skylift-*"))
    finally:
        shutil.rmtree(elsewhere)
