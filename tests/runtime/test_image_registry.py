"""Images that begin with one of a registry."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_setup import Site, on_site

from skylift.wire import ImageSpec
from skylift.wire.images import FromRegistry, RunCommands

sys.path.insert(0, str(Path(__file__).parents[1] / "lazyfs"))

from oci_setup import DebianRegistry, PushedImage, PushedLayer, archive, entry

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DebianRegistry]:
    made = DebianRegistry(tmp_path_factory.mktemp("registry"))
    try:
        said = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout
        programs = ["/bin/sh", *(word for word in said.split() if word.startswith("/"))]
        shell = archive(*(entry(path[1:], Path(path).read_bytes(), mode=0o755) for path in programs))
        lower = archive(entry("srv/old", b"old"), entry("srv/kept", b"kept"))
        upper = archive(entry("srv/.wh.old", b""), entry("srv/new", b"new"))
        config = {"Env": ["PATH=/bin", "A=1"], "WorkingDir": "/srv", "Cmd": ["/bin/sh"]}
        layers = [PushedLayer.of(data) for data in (shell, lower, upper)]
        made.push("small", PushedImage(*layers, config=config), "1")
        yield made
    finally:
        made.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_commands_run_on_top_of_it(registry: DebianRegistry, home: Path) -> None:
    async def body(site: Site) -> tuple[ImageSpec, tuple[int, str]]:
        base = FromRegistry(reference=f"{registry.host}/small:1")
        built = await site.build(base, RunCommands(commands=("echo * $A > said",)))
        again = await site.build(base, RunCommands(commands=("echo * $A > said",)))
        assert ["cached", "cached"] == again.states
        site.nothing_left()
        return built.image, await site.run(built.image, "/bin/sh", "-c", "read x < said; echo $x; echo *")

    image, ran = on_site(home, body)
    assert (0, "kept new 1\nkept new said\n") == ran
    assert ("", "/srv", ("/bin/sh",), {"PATH": "/bin", "A": "1"}) == (
        image.python,
        image.workdir,
        image.cmd,
        image.env,
    )
    assert 4 == len(image.layers)


def test_one_that_is_not_there(registry: DebianRegistry, home: Path) -> None:
    async def body(site: Site) -> str:
        return (await site.build(FromRegistry(reference=f"{registry.host}/small:2"))).problem

    assert f"Step 1 of 1 ({registry.host}/small:2): " in on_site(home, body)


def test_a_python_that_cannot_be_had(registry: DebianRegistry, home: Path) -> None:
    async def body(site: Site) -> str:
        step = FromRegistry(reference=f"{registry.host}/small:1", add_python="3.99")
        return (await site.build(step)).problem

    assert "no Python 3.99 can be had here" in on_site(home, body)
