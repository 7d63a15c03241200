"""Whole images become layers: pulled from Debian's registry, and seen as containers see them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from oci_setup import (
    DebianRegistry,
    FakeRegistry,
    PushedImage,
    PushedLayer,
    archive,
    digest_of,
    entry,
    files_in,
    index,
    link,
    mounted,
)

from skylift.lazyfs import oci_images
from skylift.lazyfs.image_records import layer_blobs
from skylift.lazyfs.names import LocalNames
from skylift.lazyfs.oci_errors import (
    OciCancelledError,
    OciContentError,
    OciDigestError,
    OciDiskFullError,
    OciError,
    OciPlatformError,
    OciUnreachableError,
)
from skylift.lazyfs.oci_images import PulledImage, pull_image
from skylift.lazyfs.store import LocalStore

pytestmark = [pytest.mark.slow, pytest.mark.root]

BASE = PushedLayer.of(
    archive(
        *(
            entry("usr/"),
            entry("usr/bin/"),
            entry("usr/bin/tool", b"tool", mode=0o4755),
            link("bin", "usr/bin"),
        ),
        *(entry("tmp/", mode=0o1777), entry("etc/"), entry("etc/old", b"old"), entry("etc/conf", b"1")),
        *(entry("data/"), entry("data/sub/"), entry("data/sub/deep", b"deep"), entry("data/x", b"x")),
        entry("home/", uid=1000, gid=1000),
    )
)
CHANGES = PushedLayer.of(
    archive(
        *(entry("etc/"), entry("etc/.wh.old", b""), entry("etc/conf", b"2")),
        *(entry("data/"), entry("data/.wh..wh..opq", b""), entry("data/sub/"), entry("data/sub/new", b"new")),
        entry("tmp/left", b""),
    ),
    "zstd",
)
SHOWN = {
    "bin": "-> usr/bin",
    "usr": "/",
    "usr/bin": "/",
    "usr/bin/tool": "tool",
    "home": "/",
    "tmp": "/",
    "etc": "/",
    "etc/conf": "2",
    "data": "/",
    "data/sub": "/",
    "data/sub/new": "new",
    "tmp/left": "",
}
CONFIG = {
    "Env": ["PATH=/usr/bin", "A=b=c"],
    "WorkingDir": "/data",
    "Entrypoint": ["/usr/bin/tool"],
    "Cmd": None,
    "User": "1000",
    "Shell": ["/bin/bash", "-c"],
    "Labels": {"x": "y"},
}


class Place:
    """A store, its names, and room for what is unpacked."""

    def __init__(self, folder: Path) -> None:
        self.store = LocalStore(folder / "store")
        self.names = LocalNames(folder / "names")
        self.scratch = folder / "scratch"
        self.scratch.mkdir()

    def pull(self, reference: str, **options: object) -> PulledImage:
        try:
            return pull_image(
                reference,
                self.store,
                self.names,
                scratch=self.scratch,
                **{"platform": "linux/amd64", **options},  # type: ignore[arg-type]
            )
        finally:
            assert not list(self.scratch.iterdir())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DebianRegistry]:
    registry = DebianRegistry(tmp_path_factory.mktemp("registry"))
    try:
        yield registry
    finally:
        registry.close()


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    registry = FakeRegistry()
    try:
        yield registry
    finally:
        registry.close()


@pytest.mark.parametrize("docker", [True, False])
def test_an_image_from_a_real_registry(
    debian: DebianRegistry, place: Place, tmp_path: Path, docker: bool
) -> None:
    name = f"team/it{docker}".lower()
    image = PushedImage(BASE, CHANGES, config=CONFIG, docker=docker)
    other = PushedImage(BASE, architecture="arm64", docker=docker)
    debian.push(name, other, "arm64")
    debian.push(name, image, "amd64")
    lines: list[str] = []
    moved: list[tuple[int, int]] = []
    # docker-registry 2.8 refuses an index that names what it does not have.
    data, media_type = index(other, image, docker=docker)
    attestation = PushedImage(docker=docker)
    debian.push(name, attestation, "attestation")
    data = data.replace(digest_of(b"attestation").encode(), attestation.digest.encode())
    debian.push_manifest(name, data, media_type, "latest")
    pulled = place.pull(
        f"{debian.host}/{name}", told=lines.append, progress=lambda done, total: moved.append((done, total))
    )
    assert pulled._replace(layers=()) == PulledImage(
        layers=(),
        env={"PATH": "/usr/bin", "A": "b=c"},
        workdir="/data",
        entrypoint=("/usr/bin/tool",),
        cmd=(),
        shell=("/bin/bash", "-c"),
        user="1000",
        digest=image.digest,
    )
    assert lines[0] == (
        f"{debian.host}/{name}:latest: 2 layers, 2 to pull ({len(BASE.blob) + len(CHANGES.blob):,} bytes)"
    )
    assert moved[-1] == (len(BASE.blob) + len(CHANGES.blob),) * 2
    with mounted(pulled.layers, place.store, tmp_path / "mounts") as root:
        assert files_in(root) == SHOWN
        assert (root / "tmp").stat().st_mode == 0o41777
        assert (root / "usr/bin/tool").stat().st_mode == 0o104755
        assert (root / "home").stat().st_uid == 1000
    assert place.pull(f"{debian.host}/{name}@{image.digest}").layers == pulled.layers


def test_what_is_not_in_a_real_registry(debian: DebianRegistry, place: Place) -> None:
    debian.push("there", PushedImage(BASE), "1")
    with pytest.raises(OciError, match=f"{debian.host}/there has no tag 2. Check its tags"):
        place.pull(f"{debian.host}/there:2")
    with pytest.raises(OciPlatformError):
        place.pull(f"{debian.host}/there:1", platform="linux/arm64")


def test_layers_that_are_known_are_not_pulled_again(fake: FakeRegistry, place: Place) -> None:
    fake.push("one", PushedImage(BASE), "latest")
    fake.push("two", PushedImage(BASE, CHANGES), "latest")
    one = place.pull(f"{fake.host}/one")
    fake.asked.clear()
    two = place.pull(f"{fake.host}/two")
    assert two.layers[0] == one.layers[0]
    assert fake.count(digest_of(BASE.blob)) == 0
    assert fake.count(digest_of(CHANGES.blob)) == 1
    fake.asked.clear()
    assert place.pull(f"{fake.host}/two") == two
    assert fake.count(digest_of(CHANGES.blob)) == 0
    # Of what the store has lost, nothing is believed.
    place.store.delete(next(iter(layer_blobs(two.layers[0], place.store))))
    assert place.pull(f"{fake.host}/two") == two
    assert fake.count(digest_of(BASE.blob)) == 1


def test_what_depends_on_the_layers_below_is_made_anew_on_top_of_others(
    fake: FakeRegistry, place: Place, tmp_path: Path
) -> None:
    more = PushedLayer.of(archive(entry("data/"), entry("data/other", b"")))
    fake.push("one", PushedImage(BASE, CHANGES), "latest")
    fake.push("two", PushedImage(BASE, more, CHANGES), "latest")
    fake.push("alone", PushedImage(CHANGES), "latest")
    images = {name: place.pull(f"{fake.host}/{name}") for name in ("one", "two", "alone")}
    assert len({image.layers[-1] for image in images.values()}) == 3
    for name, shown in (("one", SHOWN), ("two", SHOWN)):
        with mounted(images[name].layers, place.store, tmp_path / name) as root:
            assert files_in(root) == shown


def test_a_known_layer_below_one_that_depends_on_it(fake: FakeRegistry, place: Place, tmp_path: Path) -> None:
    fake.push("base", PushedImage(BASE), "latest")
    fake.push("it", PushedImage(BASE, CHANGES), "latest")
    place.pull(f"{fake.host}/base")
    with mounted(place.pull(f"{fake.host}/it").layers, place.store, tmp_path / "mounts") as root:
        assert files_in(root) == SHOWN
        assert (root / "tmp").stat().st_mode == 0o41777


def test_layers_that_are_equal_or_empty(fake: FakeRegistry, place: Place, tmp_path: Path) -> None:
    nothing = PushedLayer.of(bytes(1024))
    gone = PushedLayer.of(archive(entry("etc/"), entry("etc/.wh.conf", b"")))
    again = PushedLayer.of(archive(entry("etc/"), entry("etc/conf", b"again")))
    fake.push("it", PushedImage(BASE, nothing, again, gone, again, nothing), "latest")
    pulled = place.pull(f"{fake.host}/it")
    assert len(pulled.layers) == len(set(pulled.layers)) == 3
    assert place.pull(f"{fake.host}/it") == pulled
    with mounted(pulled.layers, place.store, tmp_path / "mounts") as root:
        assert (root / "etc" / "conf").read_text() == "again"


def test_a_registry_without_tls_elsewhere(
    fake: FakeRegistry, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.push("it", PushedImage(BASE), "latest")
    monkeypatch.setenv("http_proxy", f"http://{fake.host}")
    pulled = place.pull("registry.lan:5000/it", plain_http=["registry.lan:5000"])
    assert len(pulled.layers) == 1
    assert {asked.host for asked in fake.asked} == {"registry.lan:5000"}


def test_an_image_of_nothing(fake: FakeRegistry, place: Place) -> None:
    fake.push("it", PushedImage(), "latest")
    assert place.pull(f"{fake.host}/it").layers == ()


def test_a_layer_that_is_not_what_the_configuration_says(fake: FakeRegistry, place: Place) -> None:
    fake.push("it", PushedImage(BASE._replace(diff_id=f"sha256:{'0' * 64}")), "latest")
    with pytest.raises(OciDigestError, match=r"it:latest: a layer has another content than .*Push it anew"):
        place.pull(f"{fake.host}/it")
    assert place.names.under(oci_images.RECORDS) == []


def test_a_layer_that_cannot_be_unpacked(fake: FakeRegistry, place: Place) -> None:
    bad = PushedLayer.of(archive(entry("../x", b"")))
    fake.push("it", PushedImage(BASE, bad), "latest")
    with pytest.raises(OciContentError, match=f"{fake.host}/it:latest: a layer has a file '../x', "):
        place.pull(f"{fake.host}/it")


def test_the_first_layer_that_fails_ends_the_others(fake: FakeRegistry, place: Place) -> None:
    others = [PushedLayer.of(archive(entry(f"x{number}", os.urandom(100)))) for number in range(20)]
    bad = PushedLayer.of(archive(entry("../x", b"")))
    fake.push("it", PushedImage(bad, *others), "latest")
    with pytest.raises(OciContentError):
        place.pull(f"{fake.host}/it")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pull")]


def test_no_room(fake: FakeRegistry, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.push("it", PushedImage(BASE), "latest")

    class Usage:
        free = 100

    monkeypatch.setattr(oci_images.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(OciDiskFullError) as error:
        place.pull(f"{fake.host}/it")
    assert f"{fake.host}/it:latest needs {len(BASE.blob) - 100} bytes more in {place.scratch}/pull-" in str(
        error.value
    )
    assert "SKYLIFT_HOME to a folder on a larger one" in str(error.value)


def test_it_can_be_cancelled(fake: FakeRegistry, place: Place) -> None:
    fake.push("it", PushedImage(BASE, CHANGES), "latest")
    cancelled = threading.Event()

    def told(line: str) -> None:
        if "unpacked" in line:
            cancelled.set()

    with pytest.raises(OciCancelledError, match=f"Pulling {fake.host}/it:latest was cancelled"):
        place.pull(f"{fake.host}/it", told=told, cancelled=cancelled)
    # What was finished is not lost.
    assert len(place.names.under(oci_images.RECORDS)) == 1


def test_a_registry_that_is_nowhere(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skylift.lazyfs.oci_http._FIRST_WAIT", 0.001)
    with pytest.raises(OciUnreachableError, match=r"nowhere\.invalid does not answer: Failed to res"):
        place.pull("nowhere.invalid/x")
