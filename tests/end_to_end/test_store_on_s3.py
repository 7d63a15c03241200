"""A store that is a bucket: what calls, images and volumes keep in it, and what is said where it fails."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from flaky_proxy import FlakyProxy
from running_gateway import RunningGateway

from scripts.own_gateway import left_behind
from skylift import App, Image, Volume
from skylift.client import close_client
from skylift.image_builds import forget_built

pytestmark = [pytest.mark.slow, pytest.mark.root]

MEGABYTE = 1024 * 1024


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A service with the bucket ``store``, and the keys to it in the environment; the service's URL."""
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        boto3.client("s3", endpoint_url=url, region_name="us-east-1").create_bucket(Bucket="store")
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
        self._monkeypatch = monkeypatch
        self._started: list[RunningGateway] = []

    def start(self) -> RunningGateway:
        """One more; the SDK in this process speaks to it from now on."""
        close_client()
        forget_built()
        endpoint = urllib.parse.quote(self._url, safe="")
        config = f'[host]\nstore = "s3://store/skylift?endpoint={endpoint}"\n'
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


def length_and_echo(machines: Machines, size: int) -> bytes:
    app = App("s3")

    @app.function()
    def backwards(data: bytes) -> bytes:
        return data[::-1]

    data = os.urandom(size)
    with app.run():
        result = backwards.remote(data)
    assert data[::-1] == result
    return data


def test_calls_images_and_volumes_of_two_machines(
    machines: Machines, proxy: FlakyProxy, tmp_path: Path
) -> None:
    first = machines.start()
    length_and_echo(machines, MEGABYTE)
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
    image.build()
    built = len(proxy.requests)

    second = machines.start()
    assert second.home != first.home
    assert sent == b"".join(Volume.from_name("data").read_file("/some/file"))
    assert [1] == [version.version for version in Volume.from_name("data").history() if version.files]
    image.build()
    puts = [path for method, path in proxy.requests[built:] if method == "PUT" and "/blobs/" in path]
    assert [] == puts  # it was built already
