"""Images of a registry and of Dockerfiles: pulled, built, and code that runs in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from oci_roots import changes_layer, root_layer, this_python
from oci_setup import DebianRegistry, PushedImage
from running_gateway import RunningGateway

from skylift import App, Image
from skylift.exceptions import ImageBuildError

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(300)]

CONFIG = {"Env": ["PATH=/usr/local/bin:/usr/bin", "FROM_BASE=yes"], "WorkingDir": "/data", "User": "1000"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DebianRegistry]:
    registry = DebianRegistry(tmp_path_factory.mktemp("registry"))
    try:
        registry.push("team/small", PushedImage(root_layer(), changes_layer(), config=CONFIG), "1")
        yield registry
    finally:
        registry.close()


def run_in(image: Image, *paths: str) -> dict[str, object]:
    """What a container of the image sees."""
    app = App("registry")

    # In here, so that it travels by value, without this file and what that imports.
    @app.function(image=image)
    def looks(paths: tuple[str, ...]) -> dict[str, object]:
        import os
        import subprocess
        import sys

        seen: dict[str, object] = {
            "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
            "user": os.getuid(),
            "PATH": os.environ["PATH"],
            "FROM_BASE": os.environ.get("FROM_BASE"),
            "folder": os.getcwd(),
            "modules": subprocess.run(
                [sys.executable, "-c", "import ssl, zlib, ctypes, sqlite3, hashlib; print('there')"],
                capture_output=True,
                text=True,
                check=False,
            ).stdout.strip(),
        }
        for path in paths:
            if os.path.isdir(path):
                seen[path] = sorted(os.listdir(path))
            elif os.path.exists(path):
                with open(path) as file:
                    seen[path] = (file.read(), os.stat(path).st_uid, oct(os.stat(path).st_mode & 0o7777))
            else:
                seen[path] = None
        return seen

    with app.run():
        result: dict[str, object] = looks.remote(paths)
        return result


def test_an_image_of_a_registry(gateway: RunningGateway, registry: DebianRegistry) -> None:
    reference = f"{registry.host}/team/small:1"
    image = Image.from_registry(reference, add_python=this_python()).run_commands("cat /data/old/new > /made")
    seen = run_in(image, "/data/old", "/data/old/new", "/etc/removed", "/made", "/tmp")
    assert seen == {
        "python": this_python(),
        "user": 0,
        "PATH": "/usr/local/bin:/usr/bin",
        "FROM_BASE": "yes",
        "folder": "/data",
        "modules": "there",
        "/data/old": ["new"],
        "/data/old/new": ("above", 1000, "0o644"),
        "/etc/removed": None,
        "/made": ("above", 0, "0o644"),
        "/tmp": [],
    }


def test_a_dockerfile(gateway: RunningGateway, registry: DebianRegistry, tmp_path: Path) -> None:
    context = tmp_path / "context"
    (context / "src").mkdir(parents=True)
    (context / "src" / "main.txt").write_text("main")
    (context / "src" / "left.log").write_text("no")
    (context / ".dockerignore").write_text("**/*.log\n")
    (context / "Dockerfile").write_text(
        f"""
ARG BASE={registry.host}/team/small:1
FROM $BASE AS build
ARG WHAT=nothing
SHELL ["/bin/sh", "-ec"]
RUN mkdir -p /out/inner && <<EOF cat >/out/inner/made && touch /out/more
$WHAT of $FROM_BASE
EOF

FROM $BASE
ENV PATH=/opt/bin:$PATH
COPY --from=build /out ./got/
COPY --from=build /o?t/m*[^x] /sbin/t*uch /data/more/
WORKDIR sub
COPY src .
COPY --chmod=755 <<end /opt/bin/hello
#!/bin/sh
echo hello
end
RUN hello > said; env > env
"""
    )
    image = Image.from_dockerfile(
        context / "Dockerfile",
        context_dir=context,
        build_args={"WHAT": "all"},
        add_python=this_python(),
    )
    paths = ("/data/got/inner/made", "/data/got", "/data/more", "/data/sub", "/data/sub/said")
    seen = run_in(image, *paths, "/opt/bin/hello")
    assert seen["PATH"] == "/opt/bin:/usr/local/bin:/usr/bin"
    assert seen["folder"] == "/data/sub"
    assert seen["/data/got/inner/made"] == ("all of yes\n", 0, "0o644")
    assert seen["/data/got"] == ["inner", "more"]
    assert seen["/data/more"] == ["more", "touch"]
    assert seen["/data/sub"] == ["env", "main.txt", "said"]
    assert seen["/data/sub/said"] == ("hello\n", 0, "0o644")
    assert seen["/opt/bin/hello"] == ("#!/bin/sh\necho hello\n", 0, "0o755")


def test_what_goes_wrong_is_said(gateway: RunningGateway, registry: DebianRegistry) -> None:
    with pytest.raises(ImageBuildError) as error:
        Image.from_registry(f"{registry.host}/team/small:2").build()
    assert f"{registry.host}/team/small has no tag 2. Check its tags where it is published." in str(
        error.value
    )
    registry.push("team/other", PushedImage(root_layer(), architecture="s390x"), "latest")
    with pytest.raises(
        ImageBuildError, match=r"team/other:latest is not made for linux/.*, only for linux/s390x"
    ):
        Image.from_registry(f"{registry.host}/team/other").build()
