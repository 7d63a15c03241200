"""A bucket shown as files: what programs do with files, against a simulated S3."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from flaky_proxy import FlakyProxy

from skylift.lazyfs.bucket_mount import BucketMount, BucketMountError

pytestmark = [pytest.mark.slow, pytest.mark.root]

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
BIG = random.Random(3).randbytes((20 << 20) + 7)


class Service:
    """A bucket, as one sees it who has no files of it."""

    def __init__(self, proxy: FlakyProxy, direct: str, name: str) -> None:
        self.proxy = proxy
        self.name = name
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=direct,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )
        self.client.create_bucket(Bucket=name)

    def url(self, prefix: str = "") -> str:
        return f"s3://{self.name}/{prefix}?endpoint={urllib.parse.quote(self.proxy.url, safe='')}"

    def put(self, key: str, data: bytes = b"") -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return data

    def keys(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", ())
        return sorted(each["Key"] for each in found)


@pytest.fixture
def service(s3_endpoint: str, request: pytest.FixtureRequest) -> Iterator[Service]:
    proxy = FlakyProxy(s3_endpoint)
    try:
        yield Service(proxy, s3_endpoint, f"files-{os.urandom(6).hex()}")
    finally:
        proxy.close()


Mount = Callable[..., Path]


@pytest.fixture
def mount(service: Service, tmp_path: Path) -> Iterator[Mount]:
    """Mounts the bucket, and says where; all is unmounted afterwards."""
    mounts: list[BucketMount] = []

    def one_more(prefix: str = "", env: dict[str, str] = KEYS, **options: Any) -> Path:
        folder = tmp_path / f"bucket-{len(mounts)}"
        mounts.append(BucketMount(folder, service.url(prefix), env, **options))
        return mounts[-1].files

    try:
        yield one_more
    finally:
        service.proxy.fault = lambda method, path: ""
        for mounted in mounts:
            mounted.detach()
        ended = [mounted.wait(30) for mounted in mounts]
        for mounted in mounts:
            mounted.abort()
            print(mounted.log_file.read_text())
    assert all(ended)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(Path(where, name).relative_to(folder)): Path(where, name).read_bytes()
        for where, _, names in os.walk(folder)
        for name in names
    }


class TestReading:
    def test_objects_are_files(self, service: Service, mount: Mount) -> None:
        objects = {"a.txt": b"one", "folder/b.bin": b"\0\1", "folder/deep/er/c": b"", "ümlaut/ö": b"u"}
        for key, data in objects.items():
            service.put(key, data)
        files = mount()

        assert objects == tree(files)
        assert ["a.txt", "folder", "ümlaut"] == sorted(os.listdir(files))
        assert (3, 0o644, 1) == (
            (files / "a.txt").stat().st_size,
            (files / "a.txt").stat().st_mode & 0o777,
            1,
        )
        assert (files / "folder").is_dir()
        with pytest.raises(FileNotFoundError):
            (files / "folder" / "nothing").read_bytes()

    def test_a_large_one(self, service: Service, mount: Mount) -> None:
        service.put("big", BIG)
        files = mount()

        assert BIG == (files / "big").read_bytes()
        with open(files / "big", "rb") as file:
            file.seek(9_999_999)
            assert BIG[9_999_999:10_000_999] == file.read(1000)

    def test_a_prefix_is_the_root(self, service: Service, mount: Mount) -> None:
        service.put("mine/a", b"1")
        service.put("other/b", b"2")
        files = mount("mine")

        assert {"a": b"1"} == tree(files)
        (files / "c").write_bytes(b"3")
        assert b"3" == service.get("mine/c")

    def test_what_cannot_be_a_file_is_not_there(self, service: Service, mount: Mount) -> None:
        for key in ("a//b", "c/../d", "x" * 300, "both", "both/below", "made/"):
            service.put(key, b"")
        files = mount()

        assert ["a", "both", "c", "made"] == sorted(os.listdir(files))
        assert [[], ["below"], [], []] == [os.listdir(files / name) for name in ("a", "both", "c", "made")]

    def test_many(self, service: Service, mount: Mount) -> None:
        for number in range(1100):
            service.put(f"many/{number:04}")
        assert [f"{number:04}" for number in range(1100)] == sorted(os.listdir(mount() / "many"))

    def test_what_others_change_is_seen(self, service: Service, mount: Mount) -> None:
        service.put("a", b"before")
        files = mount()
        with open(files / "a", "rb") as file:
            assert b"before" == file.read()
            service.put("a", b"after that")
            with open(files / "a", "rb") as again:
                assert b"after that" == again.read()
        service.put("big", BIG)
        with open(files / "big", "rb") as file:
            file.read(10)
            service.put("big", BIG[::-1])
            file.seek(16 << 20)
            with pytest.raises(OSError, match="Stale file handle"):
                file.read(10)

    def test_without_keys(self, service: Service, mount: Mount) -> None:
        service.client.put_object(Bucket=service.name, Key="a", Body=b"for all", ACL="public-read")
        service.put("b", b"for some")
        files = mount(env={})
        assert b"for all" == (files / "a").read_bytes()
        with pytest.raises(PermissionError):
            (files / "b").read_bytes()


class TestWriting:
    def test_files_become_objects_when_they_are_closed(self, service: Service, mount: Mount) -> None:
        files = mount()
        with open(files / "new", "wb") as file:
            file.write(b"some ")
            file.flush()
            assert 5 == (files / "new").stat().st_size
            assert ["new"] == os.listdir(files)
            assert [] == service.keys()
            file.write(b"bytes")
        assert b"some bytes" == service.get("new") == (files / "new").read_bytes()
        (files / "empty").touch()
        assert b"" == service.get("empty")

    def test_a_large_one_goes_in_parts(self, service: Service, mount: Mount) -> None:
        files = mount()
        (files / "big").write_bytes(BIG)
        assert BIG == service.get("big")
        assert BIG == (files / "big").read_bytes()
        assert any("uploadId" in path for _, path in service.proxy.requests)

    def test_a_part_of_one_is_changed(self, service: Service, mount: Mount) -> None:
        service.put("a", b"0123456789")
        files = mount()
        with open(files / "a", "r+b") as file:
            file.seek(3)
            file.write(b"xy")
        assert b"012xy56789" == service.get("a")
        with open(files / "a", "ab") as file:
            file.write(b"!")
        assert b"012xy56789!" == service.get("a")
        os.truncate(files / "a", 4)
        assert b"012x" == service.get("a")
        with open(files / "a", "r+b") as file:
            file.truncate(2)
            assert b"01" == file.read()
        assert b"01" == service.get("a")
        (files / "a").write_bytes(b"anew")
        assert b"anew" == service.get("a")

    def test_folders(self, service: Service, mount: Mount) -> None:
        files = mount()
        (files / "a" / "b").mkdir(parents=True)
        assert ["a/", "a/b/"] == service.keys()
        (files / "a" / "b" / "c").write_bytes(b"1")
        with pytest.raises(OSError, match="Directory not empty"):
            (files / "a" / "b").rmdir()
        with pytest.raises(FileExistsError):
            (files / "a").mkdir()
        (files / "a" / "b" / "c").unlink()
        (files / "a" / "b").rmdir()
        assert ["a"] == os.listdir(files)
        assert [] == os.listdir(files / "a")
        shutil.rmtree(files / "a")
        assert [] == service.keys()

    def test_names(self, service: Service, mount: Mount) -> None:
        files = mount()
        (files / "a").write_bytes(b"1")
        (files / "b").write_bytes(b"2")
        os.rename(files / "a", files / "c")
        os.replace(files / "c", files / "b")
        assert {"b": b"1"} == tree(files)
        # As who writes safely does: written under another name, which it gets at once.
        with open(files / "t", "wb") as file:
            file.write(b"new")
            os.replace(files / "t", files / "b")
            file.write(b"er")
        assert ["b"] == service.keys()
        assert b"newer" == service.get("b") == (files / "b").read_bytes()
        (files / "folder").mkdir()
        (files / "folder" / "x").write_bytes(b"x")
        with pytest.raises(OSError, match="cross-device"):
            os.rename(files / "folder", files / "other")
        shutil.move(files / "folder", files / "other")  # copies then
        assert {"b": b"newer", "other/x": b"x"} == tree(files)
        with pytest.raises(OSError, match="Function not implemented"):
            (files / "link").symlink_to("b")

    def test_one_that_is_removed_while_it_is_open(self, service: Service, mount: Mount) -> None:
        files = mount()
        with open(files / "a", "w+b") as file:
            file.write(b"some")
            file.flush()
            (files / "a").unlink()
            file.seek(0)
            assert b"some" == file.read()
            file.truncate(2)
            assert 2 == os.fstat(file.fileno()).st_size
            assert not (files / "a").exists()
        assert [] == service.keys()

    def test_what_programs_do(self, service: Service, mount: Mount, tmp_path: Path) -> None:
        files = mount()
        source = tmp_path / "source"
        for name in ("a/b/c", "a/d", "e"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(name.encode() * 1000)
        subprocess.run(["cp", "-a", source, files / "copy"], check=True)
        subprocess.run(["tar", "-C", source, "-cf", files / "all.tar", "."], check=True)
        assert tree(source) == tree(files / "copy")
        (tmp_path / "out").mkdir()
        subprocess.run(["tar", "-C", tmp_path / "out", "-xf", files / "all.tar"], check=True)
        assert tree(source) == tree(tmp_path / "out")
        program = (
            "import mmap, sys\n"
            "with open(sys.argv[1], 'r+b') as file, mmap.mmap(file.fileno(), 0) as view:\n"
            "    view[:3] = b'XYZ'\n"
            "    view.flush()\n"
        )
        subprocess.run([sys.executable, "-c", program, files / "copy" / "e"], check=True)
        assert b"XYZeee" == service.get("copy/e")[:6]

    def test_what_was_written_by_who_is_killed(self, service: Service, mount: Mount) -> None:
        files = mount()
        program = "import os, sys; os.write(os.open(sys.argv[1], 65), b'some'); os.kill(os.getpid(), 9)"
        subprocess.run([sys.executable, "-c", program, files / "a"], check=False)
        assert b"some" == (files / "a").read_bytes()
        os.sync()

    def test_read_only(self, service: Service, mount: Mount) -> None:
        service.put("a", b"1")
        files = mount(read_only=True)
        assert b"1" == (files / "a").read_bytes()
        for write in (
            lambda: (files / "b").write_bytes(b""),
            lambda: (files / "a").write_bytes(b""),
            lambda: (files / "a").unlink(),
            lambda: (files / "c").mkdir(),
        ):
            with pytest.raises(OSError, match="Read-only file system"):
                write()
        assert ["a"] == service.keys()

    def test_owners(self, mount: Mount) -> None:
        files = mount(owner=(100000, 100001))
        (files / "a").write_bytes(b"")
        assert (100000, 100001) == ((files / "a").stat().st_uid, (files / "a").stat().st_gid)
        # As root of a container does, which is nobody here.
        subprocess.run(["touch", "b"], cwd=files, user=100000, group=100001, extra_groups=[], check=True)
        assert ["a", "b"] == sorted(os.listdir(files))


class TestFaults:
    def test_what_may_pass_is_not_noticed(self, service: Service, mount: Mount) -> None:
        files = mount()
        service.proxy.first(2, "slow-down")
        (files / "a").write_bytes(b"1")
        service.proxy.first(2, "cut", "GET")
        assert b"1" == (files / "a").read_bytes()

    def test_a_write_that_cannot_be_sent_is_an_error_when_it_is_closed(
        self, service: Service, mount: Mount
    ) -> None:
        files = mount()
        service.proxy.fault = lambda method, path: "403 AccessDenied" if method == "PUT" else ""
        file = os.open(files / "a", os.O_WRONLY | os.O_CREAT)
        os.write(file, b"some")
        with pytest.raises(PermissionError):
            os.close(file)
        service.proxy.fault = lambda method, path: "403 AccessDenied" if method == "GET" else ""
        with pytest.raises(PermissionError):
            os.listdir(files)
        service.proxy.fault = lambda method, path: ""
        (files / "b").write_bytes(b"1")
        assert b"1" == (files / "b").read_bytes()
        log = (files.parent / "bucket.log").read_text()
        assert f"The bucket s3://{service.name} at {service.proxy.url} does not let us in" in log
        assert "its keys are those of secret= of the CloudBucketMount" in log
        assert "testing" not in log

    def test_what_cannot_be_mounted(self, service: Service, tmp_path: Path) -> None:
        def why(url: str, env: dict[str, str] = KEYS) -> str:
            with pytest.raises(BucketMountError) as caught:
                BucketMount(tmp_path / "bucket", url, env)
            return str(caught.value)

        at = service.proxy.url
        endpoint = urllib.parse.quote(at, safe="")
        assert why(f"s3://none-such?endpoint={endpoint}") == (
            f"There is no bucket none-such at {at}. Create it, or look at the CloudBucketMount for its name, "
            "its endpoint and its region."
        )
        service.proxy.fault = lambda method, path: "403 InvalidAccessKeyId"
        assert why(service.url()).startswith(
            f"The bucket s3://{service.name} at {at} does not let us in: the service does not know this "
        )
        assert why(service.url()).endswith(
            "; its keys are those of secret= of the CloudBucketMount, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY where that was made."
        )
        assert "tried 6 times. Look at the network" in why("s3://bucket?endpoint=http://127.0.0.1:9")
        assert "x://b' is not the URL of a store" in why("x://b")


def test_it_ends_by_itself(service: Service, tmp_path: Path) -> None:
    """As when the container ends in which it was attached."""
    mounted = BucketMount(tmp_path / "bucket", service.url(), KEYS)
    file = os.open(mounted.files / "a", os.O_WRONLY | os.O_CREAT)
    try:
        os.write(file, b"some")
        mounted.detach()
        assert not mounted.wait(0.1)
    finally:
        os.close(file)
    assert mounted.wait(30)
    assert b"some" == service.get("a")
    assert [] == list((tmp_path / "bucket" / "scratch").iterdir())


def test_it_is_not_in_the_tree_of_this_machine(service: Service, mount: Mount, tmp_path: Path) -> None:
    """So that who removes folders here removes no objects."""
    service.put("a", b"1")
    files = mount()
    assert ["a"] == os.listdir(files)
    shutil.rmtree(tmp_path / "bucket-0" / "files")
    assert ["a"] == service.keys()
