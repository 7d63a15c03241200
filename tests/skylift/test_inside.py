"""The SDK in a container: what functions that it defines and calls are made of."""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from sdk_gateway import FakeGateway

import skylift
from skylift import exceptions
from skylift.client import Client
from skylift.environment import collect
from skylift.image import default_image
from skylift.inside import container_spec
from skylift.wire import FunctionSpec


@pytest.fixture
def spec() -> FunctionSpec:
    image = msgspec.structs.replace(collect(), fingerprint="of the notebook", sys_path=("/only/there",))
    return FunctionSpec(app="training", name="outer", image=image)


@pytest.fixture
def inside(spec: FunctionSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FunctionSpec]:
    """As if this process were in a container of that spec."""
    (tmp_path / "spec.json").write_bytes(msgspec.json.encode(spec))
    monkeypatch.setenv("SKYLIFT_SOCKET", str(tmp_path / "runner.sock"))
    container_spec.cache_clear()
    default_image.cache_clear()
    yield spec
    container_spec.cache_clear()
    default_image.cache_clear()


def test_outside_of_a_container_there_is_no_spec() -> None:
    container_spec.cache_clear()
    assert container_spec() is None


def test_the_environment_is_the_one_that_the_container_was_made_from(inside: FunctionSpec) -> None:
    assert inside == container_spec()
    assert inside.image == default_image()._spec()
    assert inside.image == skylift.Image.from_environment()._spec()


@pytest.mark.parametrize("content", [None, b"", b"no json", b"{}"])
def test_without_a_spec_it_is_what_is_found(
    inside: FunctionSpec, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "spec.json"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    assert container_spec() is None
    assert default_image()._spec().fingerprint != inside.image.fingerprint


def test_an_app_without_a_name_is_the_callers(inside: FunctionSpec) -> None:
    assert "training" == skylift.App()._label
    assert "other" == skylift.App("other")._label


def test_an_app_without_a_name_keeps_the_one_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "/work/train.ipynb")
    pickled = pickle.dumps(skylift.App())
    monkeypatch.setenv("JPY_SESSION_NAME", "/elsewhere/other.ipynb")
    assert "train" == pickle.loads(pickled)._label
    assert "other" == skylift.App()._label


def test_a_handle_that_comes_back_belongs_to_its_running_app(app: skylift.App) -> None:
    @app.function()
    def double(number: int) -> int:
        return 2 * number

    @app.function()
    def give() -> object:
        return double

    assert 6 == give.remote().remote(3)


def test_one_whose_app_does_not_run_says_so() -> None:
    app = skylift.App("later")

    @app.function()
    def double(number: int) -> int:
        return 2 * number

    with app.run():
        kept = skylift.serialization.dumps(double)
    with pytest.raises(exceptions.ExecutionError, match="double cannot be called yet: its app does not run"):
        pickle.loads(kept).remote(1)


@pytest.mark.usefixtures("inside")
def test_code_in_a_container_ends_no_containers(gateway: FakeGateway) -> None:
    call = skylift.FunctionCall.from_id("fc-00000001")
    with pytest.raises(exceptions.PermissionDeniedError) as caught:
        call.cancel(terminate_containers=True)
    assert "code in a container cannot end containers (terminate_containers=True)" == str(caught.value)


def test_a_way_to_the_gateway_that_is_closed_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gateway: FakeGateway
) -> None:
    path = tmp_path / "gateway.sock"
    body = b'{"error": "ConnectionError", "message": "The gateway is not running."}'

    def answer() -> None:
        link, _ = listening.accept()
        with link:
            link.recv(65536)
            link.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        monkeypatch.setenv("SKYLIFT_GATEWAY_URL", f"unix://{path}")
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(
            exceptions.ConnectionError, match=r"cannot be reached: The gateway is not running\."
        ):
            Client.current().connect()
        thread.join(10)


def test_a_handle_that_is_captured_travels_with_the_environment_as_it_is_now(
    spec: FunctionSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = skylift.App("edited")

    @app.function()
    def inner() -> None:
        pass

    @app.function()
    def outer() -> None:
        inner.remote()

    default_image.cache_clear()
    kept = outer._code.pickled()
    assert kept is outer._code.pickled()
    # A local module was edited.
    edited = msgspec.structs.replace(spec.image, fingerprint="edited")
    monkeypatch.setattr("skylift.environment.collect", lambda: edited)
    default_image()._spec(moment="the next cell")
    fresh = outer._code.pickled()
    assert fresh is not kept
    assert fresh is outer._code.pickled()
    captured = pickle.loads(fresh).__closure__[0].cell_contents
    assert edited == captured._image()._spec()
    default_image.cache_clear()
