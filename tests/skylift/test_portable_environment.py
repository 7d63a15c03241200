"""The environment of this process as an image for other machines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sdk_gateway import FakeGateway

from skylift import App, Image, portable_environment
from skylift.client import Client, close_client
from skylift.environment import Environment
from skylift.exceptions import InvalidError
from skylift.image import default_image
from skylift.image_builds import forget_built
from skylift.session import Session
from skylift.wire import (
    AddFiles,
    BuildImage,
    Configure,
    Define,
    FromDebian,
    RunCommands,
    Welcome,
    machine_id,
)

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small environment: one folder of packages and one of local modules."""
    packages, project = tmp_path / "site-packages", tmp_path / "project"
    for name in ("alpha", "alpha-1.0.dist-info", "beta"):
        (packages / name).mkdir(parents=True)
        (packages / name / "file.py").write_text(name)
    (packages / "local.pth").write_text(str(project))
    project.mkdir()
    (project / "helpers.py").write_text("x = 1")
    (project / ".git").mkdir()
    (project / ".git" / "HEAD").write_text("ref")
    standard = [path for path in sys.path if path.endswith((f"python{HERE}", "lib-dynload"))]
    search_path = [str(project), str(packages), *standard]
    for module in ("environment", "portable_environment"):
        monkeypatch.setattr(f"skylift.{module}.local_search_path", lambda: search_path)
    monkeypatch.setattr("skylift.environment.editable_sources", lambda search_path: [])
    monkeypatch.setattr("skylift.environment._prefixes", list)
    installed = [str(packages), *standard]
    monkeypatch.setattr("skylift.portable_environment.installed_folders", lambda: installed)
    default_image.cache_clear()
    forget_built()
    yield packages
    default_image.cache_clear()


def elsewhere(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, *machines: str) -> None:
    """The gateway knows of hosts on these machines."""

    def welcome(port: object, hello: object) -> None:
        gateway.control.known[port] = set()  # type: ignore[index]
        port.send(Welcome(gateway_id=gateway.control.gateway_id, version="0", machines=machines))  # type: ignore[attr-defined]

    monkeypatch.setattr(gateway.control, "client_connected", welcome)
    close_client()


def test_its_steps(gateway: FakeGateway, packages: Path) -> None:
    image = Image.from_environment(portable=True)
    image.build()
    (build,) = gateway.sent(BuildImage)
    debian, installed, pth, local, variables = build.image.steps
    project = packages.parent / "project"
    assert FromDebian(python=HERE, label=debian.label) == debian
    assert isinstance(installed, AddFiles)
    assert str(packages) == installed.target
    assert 4 == len(installed.archives)
    assert isinstance(pth, RunCommands)
    assert "site.addsitedir(" in pth.commands[0]
    assert (AddFiles, str(project)) == (type(local), local.target)  # type: ignore[union-attr]
    assert b"ref" not in b"".join(
        gateway.store.get(blob)
        for archive in local.archives  # type: ignore[union-attr]
        for blob in archive.blobs
    )
    assert isinstance(variables, Configure)
    assert f"{project}:{packages}" == variables.env["PYTHONPATH"]


def test_another_package_is_all_that_is_sent_again(gateway: FakeGateway, packages: Path) -> None:
    Image.from_environment(portable=True).build()
    (packages / "gamma").mkdir()
    (packages / "gamma" / "file.py").write_text("gamma")
    Image.from_environment(portable=True).build()
    first, second = (set(build.image.steps[1].archives) for build in gateway.sent(BuildImage))
    assert (4, 5) == (len(first), len(second))
    assert 1 == len(second - first)


def test_a_gateway_elsewhere_gets_the_environment(
    gateway: FakeGateway, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(gateway, monkeypatch, "another-machine")
    app = App("tests")
    double = app.function()(lambda x: 2 * x)
    with app.run():
        assert 4 == double.remote(2)
    assert "layers" == gateway.sent(Define)[-1].spec.image.kind
    assert Client.current().elsewhere
    assert "layers" == Session().spec.image.kind
    assert 1 == len(gateway.sent(BuildImage))


def test_a_gateway_here_does_not(
    gateway: FakeGateway, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(gateway, monkeypatch, "another-machine", machine_id())
    app = App("tests")
    double = app.function()(lambda x: 2 * x)
    with app.run():
        assert 4 == double.remote(2)
    assert "environment" == gateway.sent(Define)[-1].spec.image.kind
    assert [] == gateway.sent(BuildImage)


def test_steps_on_top_of_the_environment(gateway: FakeGateway, packages: Path) -> None:
    Image.from_environment().apt_install("git").build()
    (build,) = gateway.sent(BuildImage)
    assert "apt_install git" == build.image.steps[-1].label


def test_what_cannot_be_taken_along(
    gateway: FakeGateway, packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portable_environment, "LARGEST_FOLDER", 3)
    with pytest.raises(
        InvalidError, match=r"/project has 0 MB in it, and all of it would be sent to the host"
    ):
        Image.from_environment(portable=True).build()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / "conda-meta").mkdir()
    with pytest.raises(
        InvalidError, match=r"^This notebook's environment is one of conda \(/.*\), which cannot"
    ):
        Image.from_environment(portable=True)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(InvalidError, match=r"environment is one of darwin, and its host runs Linux: name an"):
        Image.from_environment().apt_install("git")


def test_in_a_container_nothing_is_added() -> None:
    image = Image._from_spec(Environment().current())
    with pytest.raises(
        InvalidError, match=r"^pip_install: in a container nothing can be added to the environ"
    ):
        image.pip_install("x")
