"""Calls go on over lost connections and restarted gateways, and nothing runs or comes twice."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest
from sdk_gateway import FakeGateway

import skylift
from skylift import client as client_module
from skylift import exceptions
from skylift.client import Client
from skylift.wire import Attach, Define, Problem, Submit


def test_a_stream_survives_five_cuts(app: skylift.App, gateway: FakeGateway) -> None:
    @app.function()
    def count(n):
        yield from range(n)

    items = []
    for item in count.remote_gen(10_000):
        items.append(item)
        if item % 2000 == 1000:
            gateway.cut()
    assert list(range(10_000)) == items
    assert 1 == gateway.only_call().runs
    assert gateway.sent(Attach)


def test_a_call_survives_a_restart_and_runs_once(app: skylift.App, gateway: FakeGateway) -> None:
    gateway.control.may_run.clear()

    @app.function()
    def work(x):
        return x + 1

    def restart() -> None:
        gateway.wait_for(lambda: gateway.control.calls)
        gateway.stop()
        gateway.start()
        gateway.control.may_run.set()

    restarter = threading.Thread(target=restart)
    restarter.start()
    assert 2 == work.remote(1)
    restarter.join(10)
    assert 1 == gateway.only_call().runs
    assert [False, True] == [message.resubmitted for message in gateway.sent(Submit)]
    assert 2 == len(gateway.sent(Define))


def test_a_map_survives_cuts(app: skylift.App, gateway: FakeGateway) -> None:
    @app.function()
    def double(x):
        return 2 * x

    outputs = []
    for output in double.map(range(3000)):
        outputs.append(output)
        if output in (500, 2000, 4000):
            gateway.cut()
    assert [2 * x for x in range(3000)] == outputs
    call = gateway.only_call()
    assert 3000 == len(call.inputs)


def test_the_next_call_connects_again(app: skylift.App, gateway: FakeGateway) -> None:
    @app.function()
    def one():
        return 1

    assert 1 == one.remote()
    gateway.cut()
    assert 1 == one.remote()
    assert 1 == gateway.connections


def test_giving_up_names_the_reason(
    app: skylift.App, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "GIVE_UP_AFTER", 0.3)
    gateway.control.may_run.clear()

    @app.function()
    def work():
        return 1

    def stop() -> None:
        gateway.wait_for(lambda: gateway.control.calls)
        gateway.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(exceptions.ConnectionError, match="was lost and did not come back"):
        work.remote()
    stopper.join(10)
    gateway.start()
    gateway.control.may_run.set()
    assert 1 == work.remote()


def test_a_wrong_token_is_an_auth_error(
    app: skylift.App, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYLIFT_TOKEN", "wrong")

    @app.function()
    def one():
        return 1

    with pytest.raises(exceptions.AuthError, match="token"):
        one.remote()


def test_another_protocol_is_a_version_error(app: skylift.App, gateway: FakeGateway) -> None:
    gateway.control.problem_on_hello = Problem(error="VersionError", message="upgrade Skylift here")

    @app.function()
    def one():
        return 1

    with pytest.raises(exceptions.VersionError, match="upgrade Skylift here"):
        one.remote()


def test_nobody_at_the_url(app: skylift.App, gateway: FakeGateway) -> None:
    gateway.stop()

    @app.function()
    def one():
        return 1

    with pytest.raises(exceptions.ConnectionError, match=r"cannot be reached: .*refused"):
        one.remote()


def test_a_fork_gets_a_connection_of_its_own(app: skylift.App, gateway: FakeGateway) -> None:
    @app.function()
    def one(x):
        return x

    assert 1 == one.remote(1)
    before = Client.current().client_id
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            # The gateway's threads did not survive the fork, so there is nobody here to call.
            client = Client.current()
            state = b"new" if not client.connected and client.client_id != before else b"old"
            os.write(write_end, state)
        finally:
            os._exit(0)
    os.close(write_end)
    assert b"new" == os.read(read_end, 10)
    os.close(read_end)
    os.waitpid(pid, 0)
    assert 2 == one.remote(2)
    assert before == Client.current().client_id
    assert 1 == gateway.connections


def test_a_gateway_at_a_unix_socket(
    app: skylift.App, gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "gateway.sock"))
    listener.listen()

    def pass_on() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])))
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=_copy, args=(source, target), daemon=True).start()

    threading.Thread(target=pass_on, daemon=True).start()
    monkeypatch.setenv("SKYLIFT_GATEWAY_URL", f"unix://{tmp_path}/gateway.sock")

    @app.function()
    def echo(x):
        return x

    large = bytes(1_000_000)
    assert large == echo.remote(large)
    assert 1 == echo.spawn(1).get(timeout=30)
    assert 0.25 == echo.spawn(1).cost()
    listener.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def test_no_gateway_at_the_unix_socket(
    app: skylift.App, gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYLIFT_GATEWAY_URL", f"unix://{tmp_path}/nobody.sock")

    @app.function()
    def one():
        return 1

    with pytest.raises(exceptions.ConnectionError, match=r"nobody\.sock cannot be reached: .*No such file"):
        one.remote()


class TestARestoredContainer:
    """Its token is another one, and the old one is worth nothing."""

    @pytest.fixture(autouse=True)
    def inside(self, app: skylift.App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SKYLIFT_SOCKET", str(tmp_path / "runner.sock"))

    def restore(self, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, *, late: bool = False) -> None:
        gateway.control.tokens = {"new": "someone"}
        if not late:
            monkeypatch.setenv("SKYLIFT_TOKEN", "new")
        gateway.cut()

    def test_the_next_call_is_made_with_the_new_one(
        self, app: skylift.App, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        @app.function()
        def length(x):
            return len(x)

        data = os.urandom(2_000_000)  # through the store, which takes a token of its own
        assert len(data) == length.remote(data)
        before = Client.current().client_id
        self.restore(gateway, monkeypatch)
        assert len(data) - 1 == length.remote(data[1:])
        # The snapshot may be restored twice, and no two clients may have one id.
        assert before != Client.current().client_id

    def test_a_call_that_is_open_goes_on(
        self, app: skylift.App, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gateway.control.may_run.clear()

        @app.function()
        def work(x):
            return x + 1

        def restore() -> None:
            gateway.wait_for(lambda: gateway.control.calls)
            self.restore(gateway, monkeypatch, late=True)
            # The client comes back at once, and may do so before its runner has the new token.
            gateway.wait_for(lambda: gateway.control.turned_away > 1)
            monkeypatch.setenv("SKYLIFT_TOKEN", "new")
            gateway.control.may_run.set()

        restorer = threading.Thread(target=restore)
        restorer.start()
        assert 2 == work.remote(1)
        restorer.join(10)
        assert 1 == gateway.only_call().runs
