"""A store that is a bucket: what calls, images and volumes keep in it, and what is said where it fails."""

from __future__ import annotations

import os
import secrets
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import urllib3
from flaky_proxy import FlakyProxy
from running_gateway import RunningGateway

import skylift
from scripts.own_gateway import left_behind
from skylift import App, Image, Volume
from skylift import exceptions as errors
from skylift.client import close_client
from skylift.image_builds import forget_built

pytestmark = [pytest.mark.slow, pytest.mark.root]

MEGABYTE = 1024 * 1024
BUCKET = f"store-{secrets.token_hex(4)}"
"""moto's buckets are there for as long as this process; each test has a folder of its own."""


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A service with a bucket, and the keys to it in the environment; the service's URL."""
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        boto3.client("s3", endpoint_url=url, region_name="us-east-1").create_bucket(Bucket=BUCKET)
        yield url
    finally:
        server.stop()


@pytest.fixture
def proxy(s3: str) -> Iterator[FlakyProxy]:
    """What stands between the gateway and the service."""
    proxy = FlakyProxy(s3)
    yield proxy
    proxy.close()


class Machines:
    """Gateways with hosts and homes of their own, that share the bucket."""

    def __init__(self, folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._url = url
        self.where = f"s3://{BUCKET}/{folder.name}"
        self._monkeypatch = monkeypatch
        self._started: list[RunningGateway] = []

    def start(self) -> RunningGateway:
        """One more; the SDK in this process speaks to it from now on."""
        close_client()
        forget_built()
        endpoint = urllib.parse.quote(self._url, safe="")
        config = f'[host]\nstore = "{self.where}?endpoint={endpoint}"\n'
        gateway = RunningGateway(self._folder / f"home-{len(self._started)}", config)
        self._started.append(gateway)
        self._monkeypatch.setenv("SKYLIFT_HOME", str(gateway.home))
        gateway.start()
        self._monkeypatch.setenv("SKYLIFT_GATEWAY_URL", gateway.url)
        self._monkeypatch.setenv("SKYLIFT_TOKEN", gateway.token)
        return gateway

    def close(self) -> list[str]:
        """End all of them; what they have left behind."""
        close_client()
        for gateway in self._started:
            gateway.close()
            print(gateway.logs())
        return [str(left) for gateway in self._started for left in left_behind(gateway.home)]


@pytest.fixture
def machines(proxy: FlakyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    machines = Machines(tmp_path, proxy.url, monkeypatch)
    try:
        yield machines
    finally:
        proxy.fault = lambda method, path: ""
        left = machines.close()
    assert [] == left


def blobs(proxy: FlakyProxy) -> int:
    """How many blobs were put so far."""
    return sum(method in ("PUT", "POST") and "/blobs/" in path for method, path in proxy.requests)


def there_and_back(size: int) -> None:
    """A call whose argument and result have so many bytes."""
    app = App("s3")

    @app.function()
    def backwards(data: bytes) -> bytes:
        return data[::-1]

    data = os.urandom(size)
    with app.run():
        assert data[::-1] == backwards.remote(data)


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that needs no library, and prints the file ``/files/note``, whatever it is told."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "sh.c").write_text(READER)
    subprocess.run(["cc", "-static", "-o", folder / "sh", folder / "sh.c"], check=True)
    return folder / "sh"


READER = r"""
#include <stdio.h>
int main(void) {
    char text[100] = "";
    FILE *file = fopen("/files/note", "r");
    return !file || !fgets(text, sizeof text, file) || printf("read: %s\n", text) < 0;
}
"""


def test_calls_images_and_volumes_of_two_machines(
    machines: Machines,
    proxy: FlakyProxy,
    tmp_path: Path,
    reader: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    first = machines.start()
    there_and_back(MEGABYTE)
    assert 2 <= blobs(proxy)  # the argument and the result
    assert not list((first.home / "store").glob("??/*"))

    sent = os.urandom(3 * MEGABYTE)
    volume = Volume.from_name("data", create_if_missing=True)
    with volume.batch_upload() as batch:
        (tmp_path / "file").write_bytes(sent)
        batch.put_file(tmp_path / "file", "/some/file")
    assert sent == b"".join(volume.read_file("/some/file"))

    files = tmp_path / "files"
    files.mkdir()
    (files / "note").write_text("from the bucket")
    image = Image.from_scratch().add_local_dir(files, "/files", copy=True)
    image = image.add_local_file(reader, "/bin/sh", copy=True)
    image.build()
    built = len(proxy.requests)

    second = machines.start()
    assert second.home != first.home
    assert sent == b"".join(Volume.from_name("data").read_file("/some/file"))
    assert [1] == [version.version for version in Volume.from_name("data").history() if version.files]
    image.build()
    puts = [path for method, path in proxy.requests[built:] if method == "PUT" and "/blobs/" in path]
    assert [] == puts  # it was built already

    # What the other gateway's calls need is not known to this one.
    answer = urllib3.request(
        "POST", f"{second.url}/v1/store/collect", headers={"Authorization": f"Bearer {second.token}"}
    )
    assert 503 == answer.status
    assert f"other gateways keep their calls in this store too ({first.home} on " in answer.json()["message"]

    # On it, the other machine builds: its containers mount the layers that the first one has made.
    with skylift.enable_output():
        image.run_commands("whatever").build()
    assert "read: from the bucket" in capfd.readouterr().out


def test_what_is_said_where_the_bucket_fails(machines: Machines, proxy: FlakyProxy, tmp_path: Path) -> None:
    machines.start()
    app = App("fails")

    @app.function()
    def length(data: bytes) -> int:
        return len(data)

    @app.function()
    def make(size: int) -> bytes:
        import os

        return os.urandom(size)

    where = rf"The bucket {machines.where} at {proxy.url}"
    volume = Volume.from_name("data", create_if_missing=True)
    files = tmp_path / "files"
    files.mkdir()
    (files / "file").write_text("text")
    image = Image.from_scratch().add_local_dir(files, "/files", copy=True)
    with app.run():
        assert 1 == length.remote(b"1")

        # Keys that the service does not know.
        proxy.fault = lambda method, path: "403 InvalidAccessKeyId"
        denied = rf"{where} does not let us in: .*AWS_ACCESS_KEY_ID, AWS_PROFILE"
        with pytest.raises(errors.ConnectionError, match=denied):
            length.remote(os.urandom(MEGABYTE))
        with pytest.raises(errors.ConnectionError, match=denied):
            make.remote(MEGABYTE)
        with pytest.raises(errors.ConnectionError, match=denied):
            volume.listdir("/")
        with pytest.raises(errors.Error, match=denied):
            image.build()
        assert 1 == length.remote(b"1")  # what is small needs no store

        # What was sent can no longer be read by the host.
        proxy.fault = lambda method, path: "403 AccessDenied" if method == "GET" else ""
        with pytest.raises(errors.InternalFailure, match=rf"{where} does not let us in"):
            length.remote(os.urandom(MEGABYTE))

        # It is gone; and it is there again.
        proxy.fault = lambda method, path: "drop"
        with pytest.raises(
            errors.ConnectionError, match=rf"{where} cannot be reached .*tried 6 times. Look at"
        ):
            length.remote(os.urandom(MEGABYTE))
        proxy.fault = lambda method, path: ""
        assert MEGABYTE == length.remote(os.urandom(MEGABYTE))
        assert MEGABYTE == len(make.remote(MEGABYTE))
        assert [] == volume.listdir("/")
        image.build()
