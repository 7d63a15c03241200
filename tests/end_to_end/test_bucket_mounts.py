"""Buckets as folders of real containers, against a simulated S3 of the host's own machine."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from running_gateway import RunningGateway

import skylift
from skylift import App, CloudBucketMount
from skylift.session import Session
from skylift.wire import Event

pytestmark = [pytest.mark.slow, pytest.mark.root]

KEYS = {"AWS_ACCESS_KEY_ID": "id-of-mine", "AWS_SECRET_ACCESS_KEY": "key-of-mine"}


class Bucket:
    """As one sees it who has no files of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = f"mounted-{secrets.token_hex(4)}"
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )
        self._client.create_bucket(Bucket=self.name)

    def mount(self, prefix: str = "", **options: Any) -> CloudBucketMount:
        return CloudBucketMount(self.name, self.url, prefix or None, KEYS, **options)

    def put(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=self.name, Key=key, Body=data)

    def names(self) -> list[str]:
        found = self._client.list_objects_v2(Bucket=self.name).get("Contents", ())
        return [each["Key"] for each in found]

    def get(self, key: str) -> bytes:
        data: bytes = self._client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return data


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield Bucket(f"http://{host}:{port}")
    finally:
        server.stop()


def everything_written(gateway: RunningGateway) -> bytes:
    """What the gateway and its host have written down, but for the database."""
    files = [
        path for path in gateway.home.rglob("*") if path.is_file() and not path.name.startswith("skylift.db")
    ]
    found = b""
    for path in files:
        # What the host is at work on (a template just being written, say) may go meanwhile.
        with contextlib.suppress(FileNotFoundError):
            found += path.read_bytes()
    return found


def test_a_function_reads_and_writes(gateway: RunningGateway, bucket: Bucket) -> None:
    big = os.urandom(9_000_000)
    bucket.put("in/a.txt", b"one")
    bucket.put("in/deep/big.bin", big)
    app = App("buckets")
    mounts = {
        "/data": bucket.mount(),
        "/only": bucket.mount("in/", read_only=True),
    }

    @app.function(volumes=mounts)
    def work() -> dict[str, Any]:
        import contextlib
        import glob
        import hashlib
        import os

        with open("/data/in/deep/big.bin", "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        os.makedirs("/data/out", exist_ok=True)
        with open("/data/out/result", "w") as file:
            file.write("made here")
        try:
            with open("/only/new", "w"):
                refused = ""
        except OSError as error:
            refused = str(error.strerror)
        seen = [str(dict(os.environ))]
        for name in glob.glob("/run/**/*.json", recursive=True) + glob.glob("/proc/*/environ"):
            with contextlib.suppress(OSError), open(name, "rb") as file:
                seen.append(repr(file.read()))
        return {
            "digest": digest,
            "only": sorted(os.listdir("/only")),
            "owner": os.stat("/data/out/result").st_uid,
            "refused": refused,
            "keys": any(word in text for text in seen for word in ("key-of-mine", "id-of-mine")),
        }

    with app.run():
        import hashlib

        assert work.remote() == {
            "digest": hashlib.sha256(big).hexdigest(),
            "only": ["a.txt", "deep"],
            "owner": 0,
            "refused": "Read-only file system",
            "keys": False,
        }
        assert b"made here" == bucket.get("out/result")
    assert b"key-of-mine" not in everything_written(gateway)


def test_a_session_sleeps_without_it_and_wakes_with_it(gateway: RunningGateway, bucket: Bucket) -> None:
    session = Session(name="train", volumes={"/data": bucket.mount()})

    def run(code: str) -> str:
        run = session.run_cell(code, filename="<cell>")
        printed = b"".join(each.data for each in run if isinstance(each, Event) and each.kind == "output")
        if run.error is not None:
            raise run.error
        return printed.decode()

    run("open('/data/first', 'w').write('1')")
    assert b"1" == bucket.get("first")
    if not gateway.get("/v1/hosts")[0].get("cannot_sleep"):
        session.sleep()
        assert b"key-of-mine" not in everything_written(gateway)
        bucket.put("meanwhile", b"2")
        assert "['first', 'meanwhile']\n" == run("import os; print(sorted(os.listdir('/data')))")
    run("file = open('/data/left-open', 'w'); file.write('3'); file.flush()")
    session.stop()
    gateway.wait_for("/v1/containers", lambda found: not found)
    assert b"3" == bucket.get("left-open")


def test_what_was_written_is_sent_although_the_host_is_killed(
    gateway: RunningGateway, bucket: Bucket
) -> None:
    session = Session(name="train", volumes={"/data": bucket.mount()})
    for _ in session.run_cell(
        "file = open('/data/open', 'w'); file.write('1'); file.flush()", filename="<cell>"
    ):
        pass
    host = json.loads((gateway.home / "host" / "host.json").read_bytes())["pid"]
    os.kill(host, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while "open" not in bucket.names():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert b"1" == bucket.get("open")


def test_why_code_is_refused_is_said(
    gateway: RunningGateway, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    bucket.put("private", b"1")
    session = Session(name="train", volumes={"/data": CloudBucketMount(bucket.name, bucket.url)})
    cell = "try:\n    open('/data/private').read()\nexcept OSError as error: print(error)"
    refused = session.run_cell(cell, filename="<cell>")
    said = b"".join(
        each.data for each in refused if isinstance(each, Event) and each.kind == "output"
    ).decode()
    assert "[Errno 13] Permission denied" in said
    assert f"/data: The bucket s3://{bucket.name} at {bucket.url} does not let us in: " in said
    session.stop()


def test_what_cannot_be_mounted(gateway: RunningGateway, bucket: Bucket) -> None:
    app = App("buckets")

    @app.function(volumes={"/data": CloudBucketMount("none-such", bucket.url, secret=KEYS)})
    def missing() -> None: ...

    @app.function(volumes={"/data": CloudBucketMount(bucket.name, "http://127.0.0.1:9", secret=KEYS)})
    def away() -> None: ...

    with app.run():
        where = f"There is no bucket none-such at {bucket.url}. Create it, or look at the CloudBucketMount"
        with pytest.raises(skylift.exceptions.ConnectionError, match=where):
            missing.remote()
        where = rf"s3://{bucket.name} at http://127.0.0.1:9 cannot be reached .*tried 6 times"
        with pytest.raises(skylift.exceptions.ConnectionError, match=where):
            away.remote()
