"""Functions and sessions in containers of an image that was built: cold, forked, woken."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_gateway import FakeGateway
from host_process import HostProcess, running_host, spec
from image_setup import BASE, home_with_base

from skylift.lazyfs.image_records import read_trace
from skylift.lazyfs.open_store import open_store
from skylift.wire import (
    BuildEnded,
    BuildImage,
    BuildOutput,
    ImageSpec,
    SessionSlept,
    SleepContainer,
    StartContainer,
    TemplatesChanged,
    new_id,
)
from skylift.wire.images import Configure, ImageDefinition, ImageStep, RunCommands

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HostProcess, FakeGateway]]:
    home = home_with_base(tmp_path_factory.mktemp("images") / "home")
    with running_host(home, "runc") as both:
        yield both
    assert str(home) not in Path("/proc/self/mountinfo").read_text()


@pytest.fixture
def gateway(host: tuple[HostProcess, FakeGateway]) -> Iterator[FakeGateway]:
    _, gateway = host
    yield gateway
    slept = {each.container_id for each in gateway.of(SessionSlept)}
    seen = [each for each in gateway.containers if each not in slept]
    for container_id in seen:
        gateway.stop(container_id, grace=0.0)
    for container_id in seen:
        gateway.exited(container_id)


def built(gateway: FakeGateway, *steps: ImageStep) -> ImageSpec:
    build_id = new_id("bu")
    gateway.send(BuildImage(build_id=build_id, image=ImageDefinition(steps=(BASE, *steps))))
    ended = gateway.wait_for(
        lambda: next((each for each in gateway.of(BuildEnded) if each.build_id == build_id), None),
        "the end of a build",
        90,
    )
    assert ended.image is not None, ended.problem
    image: ImageSpec = ended.image
    return image


def whoami() -> tuple[str, str, int, str, bool]:
    return sys.executable, sys.version.split()[0], os.getuid(), os.getcwd(), os.path.exists(__file__)


def there(names: list[str]) -> list[str]:
    return [name for name in names if os.path.exists(name)]


def write_and_read(text: str) -> str:
    Path("/usr/share/own").write_text(text)
    return Path("/usr/share/own").read_text()


def own_files() -> list[str]:
    return [name for name in ("/usr/share/own", "/made") if os.path.exists(name)]


class TestFunctions:
    def test_code_runs_under_the_python_of_the_image(self, gateway: FakeGateway) -> None:
        image = built(gateway, RunCommands(commands=("mkdir /here",)), Configure(workdir="/here"))
        container = gateway.start(spec(image=image))
        answer = gateway.finish(gateway.call(container, whoami)).result

        assert ("/usr/local/bin/python", image.python_version, 0, "/here", False) == answer
        info = gateway.containers[container].info
        assert info.image == f"image {image.fingerprint[:12]}, Python {image.python_version}"

    def test_nothing_of_the_host_is_there(self, gateway: FakeGateway) -> None:
        names = [sys.prefix, sys.base_prefix, str(gateway.home), "/usr/bin/mkfs.erofs", "/usr/sbin/runc"]
        container = gateway.start(spec(image=built(gateway)))
        assert [] == gateway.finish(gateway.call(container, there, names)).result

    def test_what_one_writes_no_other_sees(self, gateway: FakeGateway) -> None:
        image = built(gateway)
        first, second = gateway.start(spec(image=image)), gateway.start(spec(image=image))
        assert "mine" == gateway.finish(gateway.call(first, write_and_read, "mine")).result
        assert [] == gateway.finish(gateway.call(second, own_files)).result

    def test_an_image_without_python(self, gateway: FakeGateway) -> None:
        image = ImageSpec(kind="layers", python="", python_version="", layers=built(gateway).layers)
        problem = gateway.exited(gateway.start(spec(image=image), wait=False))
        assert problem is not None
        assert "InvalidError" == problem.error
        assert "The image has no Python, which functions and cells need" in problem.message


class TestFasterStarts:
    def test_a_fork_of_a_template(self, gateway: FakeGateway) -> None:
        image = built(
            gateway, RunCommands(commands=("mkdir /here && echo made > /made",)), Configure(workdir="/here")
        )
        wanted = spec(image=image, preload=("json", "http.client"))
        first = gateway.start(wanted)
        gateway.finish(gateway.call(first, write_and_read, "first"))
        template = gateway.wait_for(lambda: _ready(gateway), "a template", 60)
        assert "" == template.reason
        second = gateway.start(wanted)

        assert "fork" == gateway.containers[second].info.path
        assert ["/made"] == gateway.finish(gateway.call(second, own_files)).result
        assert "second" == gateway.finish(gateway.call(second, write_and_read, "second")).result
        assert "/here" == gateway.finish(gateway.call(second, whoami)).result[3]


class TestSessions:
    def test_cells_sleep_and_wake(self, gateway: FakeGateway) -> None:
        image = built(gateway, RunCommands(commands=("echo made > /made",)))
        session = spec(image=image, name="notebook", session="se-00000002", session_name="train")
        container = gateway.start(session)
        cell = "x = 41\nopen('/own', 'w').write('kept')\nprint(open('/made').read())"
        ran = gateway.finish(gateway.cell(container, cell))
        assert "done" == ran.state, ran.error
        assert "made\n\n" == ran.text("stdout")

        gateway.send(SleepContainer(container_id=container))
        slept = gateway.wait_for(lambda: gateway.of(SessionSlept), "a session that sleeps", 60)[-1]
        assert slept.session is not None, slept.problem
        woken = new_id("co")
        gateway.started.append(woken)
        gateway.send(
            StartContainer(container_id=woken, pool_id="pool-1", spec=session, wake=slept.session.snapshot)
        )
        changed = gateway.wait_for(lambda: gateway.containers.get(woken), "the woken container", 60)
        assert changed.problem is None, changed.problem
        ran = gateway.finish(gateway.cell(woken, "print(x + 1, open('/own').read(), open('/made').read())"))
        assert "42 kept made\n\n" == ran.text("stdout")


class TestTraces:
    def test_what_a_container_read_is_kept_for_other_hosts(self, gateway: FakeGateway) -> None:
        image = built(gateway, RunCommands(commands=("python -c 'import json'", "echo traced > /traced")))
        container = gateway.start(spec(image=image))
        gateway.finish(gateway.call(container, there, ["/traced"]))
        gateway.stop(container)
        gateway.exited(container)
        _, names = open_store("", gateway.home)
        assert all(read_trace(names, layer) for layer in image.layers)


class TestBuilds:
    def test_what_a_build_tells(self, gateway: FakeGateway) -> None:
        built(
            gateway,
            RunCommands(commands=("for i in 1 2 3 4 5 6 7 8 9; do echo line $i; done",), label="count"),
        )
        last = gateway.of(BuildEnded)[-1].build_id
        outputs = [each for each in gateway.of(BuildOutput) if each.build_id == last]
        assert [(0, "running"), (0, "cached"), (1, "running")] == [
            (each.step, each.state) for each in outputs[:3]
        ]
        assert (1, "done", "count") == (outputs[-1].step, outputs[-1].state, outputs[-1].label)
        assert "line 1\nline 2\n" in "".join(each.text for each in outputs)
        assert {2} == {each.steps for each in outputs}

    def test_builds_end_with_the_host(self, tmp_path: Path) -> None:
        home = home_with_base(tmp_path / "home")
        with running_host(home, "runc") as (host, gateway):
            command = BuildImage(
                build_id=new_id("bu"),
                image=ImageDefinition(steps=(BASE, RunCommands(commands=("echo begun; sleep 1000",)))),
            )
            gateway.send(command)
            gateway.wait_for(
                lambda: any("begun" in each.text for each in gateway.of(BuildOutput)), "its output", 60
            )
            assert 0 == host.terminate()
        assert str(home) not in Path("/proc/self/mountinfo").read_text()
        assert [] == list((home / "host" / "containers").glob("*"))
        assert [] == list((home / "host" / "builds").glob("*"))

    def test_what_a_killed_host_leaves_the_next_one_removes(self, tmp_path: Path) -> None:
        home = home_with_base(tmp_path / "home")
        with contextlib.ExitStack() as stack:
            host, gateway = stack.enter_context(running_host(home, "runc"))
            image = built(gateway)
            gateway.start(spec(image=image))
            assert host.process is not None
            host.process.kill()
            host.process.wait()
            assert f"{home}/host/layers/shown" in Path("/proc/self/mountinfo").read_text()
            host.start()
            gateway.wait_for(lambda: len(gateway.hellos) == 2, "the next host")
            assert f"{home}/host/layers" not in Path("/proc/self/mountinfo").read_text()
            container = gateway.start(spec(image=image))
            assert 0 == gateway.finish(gateway.call(container, whoami)).result[2]
        assert str(home) not in Path("/proc/self/mountinfo").read_text()


def _ready(gateway: FakeGateway) -> Any:
    for changed in reversed(gateway.of(TemplatesChanged)):
        for template in changed.templates:
            if template.label == "tests.work" and template.state in ("ready", "failed", "unforkable"):
                return template
    return None
