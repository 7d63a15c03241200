"""Where containers come from: forks of a template, snapshots of one, or nothing but their image."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from running_gateway import PATIENCE, RunningGateway

import skylift
from scripts.own_gateway import left_behind
from skylift import App
from skylift.client import close_client
from skylift.environment import Environment, collect
from skylift.image import default_image

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def one_look(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment is looked at once: modules that somebody edits in the meantime (these here, say) make
    another image, as they should, and another image has other templates."""

    def current(environment: Environment, moment: object = None) -> Any:
        environment._spec = environment._spec or collect()
        return environment._spec

    monkeypatch.setattr(Environment, "current", current)
    default_image.cache_clear()
    yield
    default_image.cache_clear()


class Ran:
    """What a call returned, and where its container came from."""

    def __init__(self, gateway: RunningGateway, call: skylift.FunctionCall[Any]) -> None:
        self.value = call.get()
        container = gateway.get(f"/v1/calls/{call.object_id}")["container"]
        self.container: str = container["container_id"]
        self.path: str = container["path"]
        self.reason: str = container["path_reason"]
        self.seconds: float = container["path_seconds"]


def ran(gateway: RunningGateway, function: Any, *arguments: Any) -> Ran:
    return Ran(gateway, function.spawn(*arguments))


def template(gateway: RunningGateway, label: str, *states: str) -> Any:
    """The newest template of that label, once it is in one of these states."""

    def newest(templates: list[Any]) -> Any:
        found = [each for each in templates if each["label"] == label]
        return max(found, key=lambda each: each["created"], default=None)

    def holds(templates: list[Any]) -> bool:
        found = newest(templates)
        return found is not None and found["state"] in states

    return newest(gateway.wait_for("/v1/templates", holds))


def draws() -> Callable[[], tuple[Any, ...]]:
    """A function whose every value should differ between any two containers."""

    def draw() -> tuple[Any, ...]:
        import random
        import secrets
        import ssl
        import uuid

        import numpy

        return (
            random.random(),
            float(numpy.random.rand()),
            float(numpy.random.default_rng().random()),
            str(uuid.uuid4()),
            secrets.token_hex(8),
            ssl.RAND_bytes(8),
            hash("the same text") if random else 0,
        )

    return draw


def all_different(*drawn: tuple[Any, ...]) -> None:
    for values in zip(*(each[:6] for each in drawn), strict=True):
        assert len(drawn) == len(set(values)), values


class Project:
    """A folder with modules of the notebook's, which containers see."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def module(self, name: str, code: str) -> Any:
        (self.folder / f"{name}.py").write_text(code)
        importlib.invalidate_caches()
        return importlib.import_module(name)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield Project(folder)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


@contextlib.contextmanager
def another(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch, name: str = "other", config: str = ""
) -> Iterator[RunningGateway]:
    """Another gateway and host on this machine, with the first's snapshots; the SDK speaks to it now."""
    shared = gateway.home / "snapshots"
    other = RunningGateway(gateway.home.with_name(name), f'[host]\nsnapshots = "{shared}"\n{config}')
    close_client()
    try:
        other.start()
        with monkeypatch.context() as patch:
            for variable, value in (
                ("SKYLIFT_HOME", str(other.home)),
                ("SKYLIFT_GATEWAY_URL", other.url),
                ("SKYLIFT_TOKEN", other.token),
            ):
                patch.setenv(variable, value)
            yield other
    finally:
        close_client()
        other.close()
        print(other.logs())
    assert [] == left_behind(other.home)


def test_forks_of_a_template_and_when_they_are_not(gateway: RunningGateway, project: Project) -> None:
    project.module("settings", "text = 'first'")
    app = App("paths")
    draw = app.function(single_use_containers=True)(draws())
    with app.run():
        cold = ran(gateway, draw)
        assert ("cold", "") == (cold.path, cold.reason)
        made = template(gateway, "paths.draw", "ready")
        assert (False, True) == (made["restored"], made["size"] > 0)
        forks = [ran(gateway, draw) for _ in range(2)]
        assert [("fork", "")] * 2 == [(each.path, each.reason) for each in forks]
        all_different(cold.value, *(each.value for each in forks))
        gateway.wait_for("/v1/templates", lambda templates: [0] == [each["forks"] for each in templates])

        # The next one has been made ahead, and is nobody's yet: its name in there is not the container's.
        def named() -> str:
            import socket

            import numpy

            return socket.gethostname() + numpy.__name__.removeprefix("numpy")

        function = app.function(single_use_containers=True)(named)
        gateway.wait_for("/v1/templates", lambda templates: all(each["spare"] for each in templates))
        ahead = ran(gateway, function)
        assert ("fork", True) == (ahead.path, ahead.value.startswith("co-"))
        assert ahead.value != ahead.container
        gateway.wait_for("/v1/templates", lambda templates: all(each["spare"] for each in templates))

    # Another body with the same imports: the same template.
    def changed() -> str:
        import numpy

        return f"changed {numpy.__name__}"

    app = App("paths")
    changed.__name__ = changed.__qualname__ = "draw"
    function = app.function(single_use_containers=True)(changed)
    with app.run():
        again = ran(gateway, function)
        assert ("changed numpy", "fork") == (again.value, again.path)

    # Other imports, another environment variable, another file in the image: each has a template of its own.
    def imports_more() -> str:
        import numpy
        import yaml

        return f"{numpy.__name__} {yaml.__name__}"

    def reads_variable() -> str:
        import numpy

        return f"{numpy.__name__} {os.environ['MODE']}"

    app = App("others")
    more = app.function(single_use_containers=True)(imports_more)
    variable = app.function(single_use_containers=True, env={"MODE": "fast"})(reads_variable)
    with app.run():
        for name, function, value in (
            ("imports_more", more, "numpy yaml"), ("reads_variable", variable, "numpy fast"),
        ):  # fmt: skip
            first = ran(gateway, function)
            assert (value, "cold") == (first.value, first.path)
            template(gateway, f"others.{name}", "ready")
            second = ran(gateway, function)
            assert (value, "fork") == (second.value, second.path)
    assert 3 == len(gateway.get("/v1/templates"))
    (project.folder / "settings.py").write_text("text = 'second, and longer'")
    default_image.cache_clear()
    app = App("image")
    draw = app.function(single_use_containers=True)(draws())
    with app.run():
        assert "cold" == ran(gateway, draw).path
        template(gateway, "image.draw", "ready")
        assert "fork" == ran(gateway, draw).path


def test_another_host_restores_what_this_one_wrote(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App("paths")
    draw = app.function(single_use_containers=True)(draws())
    with app.run():
        assert "cold" == ran(gateway, draw).path
        template(gateway, "paths.draw", "ready")
        here = ran(gateway, draw)
    with another(gateway, monkeypatch) as other:
        with app.run():
            first = ran(other, draw)
            assert ("restore", "") == (first.path, first.reason)
            restored = template(other, "paths.draw", "ready")
            assert (True, True) == (restored["restored"], restored["size"] > 0)
            second = ran(other, draw)
            assert "fork" == second.path
        # And again, with nothing left of it in memory.
        other.close()
        other.start()
        close_client()
        with app.run():
            third = ran(other, draw)
            assert "restore" == third.path
    all_different(here.value, first.value, second.value, third.value)


def test_a_template_whose_imports_leave_a_thread(gateway: RunningGateway, project: Project) -> None:
    project.module(
        "worker",
        "import threading, queue\n"
        "asked, given = queue.Queue(), queue.Queue()\n"
        "def work():\n"
        "    while True:\n"
        "        given.put(asked.get() * 2)\n"
        "threading.Thread(target=work, name='doubler', daemon=True).start()\n",
    )
    app = App("threads")

    @app.function(single_use_containers=True)
    def double(number: int) -> tuple[int, float, str, str | None]:
        import random
        import uuid

        import worker  # type: ignore[import-not-found]

        worker.asked.put(number)
        return (
            worker.given.get(timeout=10),
            random.random(),
            str(uuid.uuid4()),
            os.environ.get("SKYLIFT_TOKEN"),
        )

    with app.run():
        first = ran(gateway, double, 1)
        assert ("cold", 2) == (first.path, first.value[0])
        made = template(gateway, "threads.double", "unforkable")
        assert "the template started a thread (doubler)" == made["reason"]
        others = [ran(gateway, double, number) for number in (2, 3)]
        assert [("restore", "the template started a thread (doubler)")] * 2 == [
            (each.path, each.reason) for each in others
        ]
        assert [4, 6] == [each.value[0] for each in others]
        for values in zip(first.value, *(each.value for each in others), strict=True):
            assert 3 == len(set(values))
    assert all(each["memory"] == 0 for each in gateway.get("/v1/templates"))


def test_a_damaged_snapshot(gateway: RunningGateway) -> None:
    app = App("damage")
    draw = app.function(single_use_containers=True)(draws())
    with app.run():
        ran(gateway, draw)
        template(gateway, "damage.draw", "ready")
    gateway.close()
    # Of what is unpacked here a file is too short: that is noticed, and it comes from the store again.
    (unpacked,) = (path for path in (gateway.home / "host/snapshots/unpacked").iterdir() if path.is_dir())
    pages = max(unpacked.iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(pages, pages.stat().st_size // 2)
    gateway.start()
    with app.run():
        assert "restore" == ran(gateway, draw).path
    gateway.close()
    # Now the store is damaged, too.
    blob = max((gateway.home / "snapshots/blobs").rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.unlink()
    blob.write_bytes(data)
    shutil.rmtree(gateway.home / "host/snapshots/unpacked")
    gateway.start()
    with app.run():
        # (The host may have found out by itself already: it unpacks what may be wanted.)
        cold = ran(gateway, draw)
        assert "cold" == cold.path
        assert "is damaged" in cold.reason
        # Another one is made, and written, for nothing is wrong with this CRIU.
        made = template(gateway, "damage.draw", "ready")
        assert (False, True) == (made["restored"], made["size"] > 0)
        assert "fork" == ran(gateway, draw).path


@pytest.mark.parametrize("gateway", ["snapshot_cache = 0"], indirect=True)
def test_a_store_that_does_not_answer(gateway: RunningGateway) -> None:
    app = App("away")
    draw = app.function(single_use_containers=True)(draws())
    with app.run():
        ran(gateway, draw)
        template(gateway, "away.draw", "ready")
        gateway.close()
        gateway.start()
        gateway.wait_for("/v1/hosts", lambda hosts: hosts)
        blobs = gateway.home / "snapshots/blobs"
        blobs.rename(blobs.with_name("away"))
        cold = ran(gateway, draw)
        assert "cold" == cold.path
        assert "cannot be read from the store now" in cold.reason
        # Nobody waits for it to come back: there is a template, if not in the store.
        template(gateway, "away.draw", "ready")
        assert "fork" == ran(gateway, draw).path
        gateway.close()
        shutil.rmtree(blobs, ignore_errors=True)
        blobs.with_name("away").rename(blobs)
        gateway.start()
        assert "restore" == ran(gateway, draw).path


@pytest.mark.parametrize("gateway", ['criu = "/nonexistent/criu"'], indirect=True)
def test_without_criu(gateway: RunningGateway) -> None:
    app = App("plain")
    draw = app.function(single_use_containers=True)(draws())
    with app.run():
        assert "cold" == ran(gateway, draw).path
        made = template(gateway, "plain.draw", "ready")
        assert 0 == made["size"]
        assert made["reason"].startswith("no snapshot: ")
        assert "/nonexistent/criu" in made["reason"]
        assert "fork" == ran(gateway, draw).path
    assert not (gateway.home / "snapshots").exists()


@pytest.mark.parametrize("gateway", ["templates = false"], indirect=True)
def test_without_templates(gateway: RunningGateway) -> None:
    app = App("plain")
    draw = app.function(single_use_containers=True)(draws())
    with app.run():
        for _ in range(2):
            cold = ran(gateway, draw)
            assert "cold" == cold.path
            assert "templates = false in [host]" in cold.reason
    assert [] == gateway.get("/v1/templates")


def test_snap_hooks_run_once_and_the_others_in_each(gateway: RunningGateway) -> None:
    app = App("hooks")

    @app.cls(single_use_containers=True)
    class Model:
        @skylift.enter(snap=True)
        def load(self) -> None:
            self.loaded = [time.time_ns(), os.environ.get("SKYLIFT_TOKEN")]

        @skylift.enter()
        def connect(self) -> None:
            self.connected = [time.time_ns(), os.environ.get("SKYLIFT_TOKEN")]

        @skylift.method()
        def state(self) -> tuple[Any, Any]:
            return self.loaded, self.connected

    with app.run():
        first = ran(gateway, Model().state)
        assert "cold" == first.path
        template(gateway, "hooks.Model", "ready")
        forks = [ran(gateway, Model().state) for _ in range(2)]
        assert ["fork", "fork"] == [each.path for each in forks]
        (one, one_connected), (other, other_connected) = (each.value for each in forks)
        assert one == other != first.value[0]
        assert one[1] is None
        assert other_connected[0] > one_connected[0] > one[0]
        assert one_connected[1] != other_connected[1]
        gateway.close()
        gateway.start()
        restored = ran(gateway, Model().state)
        assert ("restore", one) == (restored.path, restored.value[0])


def test_snap_hooks_that_fail_or_hang(gateway: RunningGateway) -> None:
    app = App("hooks")

    @app.cls(single_use_containers=True)
    class Broken:
        @skylift.enter(snap=True)
        def load(self) -> None:
            raise KeyError("no such model")

        @skylift.method()
        def run(self) -> None: ...

    @app.cls(single_use_containers=True, startup_timeout=3)
    class Hanging:
        @skylift.enter(snap=True)
        def load(self) -> None:
            while "SKYLIFT_TOKEN" not in os.environ:  # as in a template
                time.sleep(0.05)

        @skylift.method()
        def run(self) -> str:
            return "ran"

    with app.run():
        assert "ran" == Hanging().run.remote()
        with pytest.raises(KeyError, match="no such model"):
            Broken().run.remote()
        failed = template(gateway, "hooks.Broken", "failed")
        assert "its imports failed: KeyError: 'no such model'" == failed["reason"]
        with pytest.raises(KeyError, match="no such model"):
            Broken().run.remote()
        # (It goes on cold while the template is being made, too.)
        assert "cold" == ran(gateway, Hanging().run).path
        failed = template(gateway, "hooks.Hanging", "failed")
        assert "it took too long" == failed["reason"]
        cold = ran(gateway, Hanging().run)
        assert ("ran", "cold", "it took too long") == (cold.value, cold.path, cold.reason)


def test_a_template_that_is_killed_takes_its_forks_along(gateway: RunningGateway, tmp_path: Path) -> None:
    app = App("killed")

    @app.function(single_use_containers=True, timeout=60)
    def wait(seconds: float) -> str:
        import numpy

        print("waiting")
        time.sleep(seconds)
        return f"over {numpy.__name__}"

    with app.run():
        ran(gateway, wait, 0)
        made = template(gateway, "killed.wait", "ready")
        call = wait.spawn(50)
        gateway.wait_for(f"/v1/calls/{call.object_id}", lambda detail: detail["events"])
        os.kill(template_pid(made["template_id"]), signal.SIGKILL)
        with pytest.raises(skylift.exceptions.ExecutionError, match="wait was killed"):
            call.get()
        # The next one is restored.
        after = ran(gateway, wait, 0)
        assert ("over numpy", "restore") == (after.value, after.path)


def template_pid(template_id: str) -> int:
    """Its first process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if template_id in (folder / "cgroup").read_text():
                found.append(int(folder.name))
    return min(found)


def test_no_secret_is_in_a_snapshot(gateway: RunningGateway) -> None:
    app = App("secrets")
    secret = "given-to-calls-only-" + os.urandom(8).hex()

    @app.function(single_use_containers=True)
    def use(value: str) -> tuple[str, str]:
        import numpy

        assert numpy
        return value, os.environ["SKYLIFT_TOKEN"]

    with app.run():
        tokens = [ran(gateway, use, secret).value[1]]
        template(gateway, "secrets.use", "ready")
        tokens += [ran(gateway, use, secret).value[1] for _ in range(2)]
    unpacked = [path.read_bytes() for path in files(gateway.home / "host/snapshots")]
    everything = b"\0".join([*unpacked, *map(decompressed, files(gateway.home / "snapshots"))])
    assert len(everything) > 10_000_000
    assert 2 <= everything.count(b"SKYLIFT_TEMPLATE=")  # what is searched for is found, in both forms
    assert 3 == len(set(tokens))
    for wrong in (secret, *tokens, gateway.token, (gateway.home / "host-token").read_text().strip()):
        assert wrong.encode() not in everything


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def decompressed(path: Path) -> bytes:
    data = path.read_bytes()
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=4 << 20)
    return data


@pytest.mark.parametrize("gateway", ["template_memory = 30"], indirect=True)
def test_templates_that_there_is_no_room_for(gateway: RunningGateway) -> None:
    app = App("many")

    def one() -> str:
        import numpy

        return numpy.__name__

    def two() -> str:
        import numpy
        import yaml

        return f"{numpy.__name__} {yaml.__name__}"

    first = app.function(single_use_containers=True)(one)
    second = app.function(single_use_containers=True)(two)

    def up() -> list[str]:
        return [each["label"] for each in gateway.get("/v1/templates")]

    with app.run():
        ran(gateway, first)
        template(gateway, "many.one", "ready")
        ran(gateway, second)
        template(gateway, "many.two", "ready")
        gateway.wait_for("/v1/templates", lambda templates: 1 == len(templates))
        assert ["many.two"] == up()
        assert "fork" == ran(gateway, second).path
        # What had to go comes from the store.
        assert "restore" == ran(gateway, first).path
        gateway.wait_for("/v1/templates", lambda templates: 1 == len(templates))
        assert ["many.one"] == up()
    folders = gateway.home / "host/templates"
    deadline = time.monotonic() + PATIENCE
    while 1 < len(list(folders.iterdir())):
        assert time.monotonic() < deadline
        time.sleep(0.02)
