from __future__ import annotations

import os
from pathlib import Path

import pytest
from workshop import environment

from skylift.runtime.image_tree import ImageTree
from skylift.runtime.isolation import Bind, StartError
from skylift.runtime.runc.mounts import (
    check_mount,
    give_writable,
    image_binds,
    make_mount_points,
    oci_mount,
    system_binds,
    without_covered,
)
from skylift.wire import ImageSpec, MountSpec


def image(*paths: Path | str) -> ImageSpec:
    base = environment()
    return ImageSpec(
        kind="environment",
        machine=base.machine,
        python=base.python,
        python_version=base.python_version,
        mounts=tuple(MountSpec(path=str(path)) for path in paths),
        sys_path=(),
    )


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/", "would show everything in it"),
        ("/root", "would show everything in it"),
        ("/home", "would show everything in it"),
        ("/home/anna", "would show everything in it"),
        ("/tmp", "would show everything in it"),
        ("/var", "would show everything in it"),
        ("/proc", "belongs to the system (/proc)"),
        ("/proc/self/root", "belongs to the system (/proc)"),
        ("/sys/kernel", "belongs to the system (/sys)"),
        ("/dev", "belongs to the system (/dev)"),
        ("/etc", "belongs to the system (/etc)"),
        ("/etc/ssl/private", "belongs to the system (/etc)"),
        ("/run/docker.sock", "belongs to the system (/run)"),
        ("/home/anna/.ssh", "is in a folder of credentials (~/.ssh)"),
        ("/home/anna/.config/gcloud/legacy", "is in a folder of credentials (~/.config/gcloud)"),
        ("/data/.aws", "is in a folder of credentials (~/.aws)"),
    ],
)
def test_what_is_never_mounted(path: str, why: str) -> None:
    with pytest.raises(StartError) as caught:
        check_mount(path)
    assert str(caught.value).startswith(f"A container cannot mount {path}: it {why}")
    assert "InvalidError" == caught.value.error


@pytest.mark.parametrize(
    "path", ["/home/anna/notebooks", "/opt/conda", "/data", "/srv/models", "/var/lib/jupyter"]
)
def test_what_may_be_mounted(path: str) -> None:
    check_mount(path)


def test_the_hosts_own_folder_is_refused_from_all_sides(tmp_path: Path) -> None:
    own = tmp_path / "data" / "skylift"
    (own / "host").mkdir(parents=True)
    for path in (own, own / "host", tmp_path / "data", tmp_path):
        with pytest.raises(StartError, match=r"where Skylift keeps its tokens\. Put the notebook"):
            image_binds(image(path), (own,))


def test_a_link_cannot_smuggle(tmp_path: Path) -> None:
    link = tmp_path / "innocent"
    link.symlink_to("/etc")
    with pytest.raises(StartError, match=r"A container cannot mount /etc: it belongs to the system"):
        image_binds(image(link), ())


def test_a_link_is_there_under_both_names(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    assert [Bind(real, str(link)), Bind(real, str(real))] == image_binds(image(link), ())


def test_what_is_in_another_mount_or_in_usr_is_there_already(tmp_path: Path) -> None:
    (tmp_path / "env" / "lib").mkdir(parents=True)
    binds = image_binds(image(tmp_path / "env" / "lib", tmp_path / "env", "/usr/lib", "/usr"), ())
    assert [Bind(tmp_path / "env", str(tmp_path / "env"))] == binds


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(
        StartError, match=r"The image needs .*gone, which this machine cannot open: No such file"
    ):
        image_binds(image(tmp_path / "gone"), ())


def test_a_relative_path() -> None:
    with pytest.raises(StartError, match=r"A container cannot mount env: it is not an absolute path\."):
        image_binds(image("env"), ())


def test_system_folders_are_those_that_are_no_links(tmp_path: Path) -> None:
    for name in ("usr", "lib64"):
        (tmp_path / name).mkdir()
    (tmp_path / "lib").symlink_to("usr/lib")
    assert ["/usr", "/lib64"] == [bind.target for bind in system_binds(tmp_path)]


def test_a_writable_bind_is_not_covered_by_a_readonly_one(tmp_path: Path) -> None:
    outer, inner = Bind(tmp_path, "/data"), Bind(tmp_path / "x", "/data/x", writable=True)
    assert [outer, inner] == without_covered([inner, outer])


def test_the_oci_form(tmp_path: Path) -> None:
    assert {
        "destination": "/data",
        "type": "bind",
        "source": str(tmp_path),
        "options": ["rbind", "nosuid", "nodev", "rro"],
    } == oci_mount(Bind(tmp_path, "/data"))
    assert "rw" in oci_mount(Bind(tmp_path, "/data", writable=True))["options"]  # type: ignore[operator]


def test_mount_points_have_the_modes_of_the_skeleton(tmp_path: Path) -> None:
    skeleton, upper = tmp_path / "skeleton", tmp_path / "upper"
    (skeleton / "root").mkdir(parents=True, mode=0o700)
    upper.mkdir()
    file = tmp_path / "file"
    file.touch()
    binds = [Bind(tmp_path, "/root/a/b"), Bind(file, "/root/run.py"), Bind(tmp_path, "/root/a/b/inner")]
    make_mount_points(binds, upper, ImageTree((skeleton,)), (os.getuid(), os.getgid()))
    assert 0o700 == (upper / "root").stat().st_mode & 0o777
    assert 0o755 == (upper / "root" / "a").stat().st_mode & 0o777
    assert (upper / "root" / "a" / "b").is_dir()
    assert (upper / "root" / "run.py").is_file()
    assert not (upper / "root" / "a" / "b" / "inner").exists()


def test_a_mount_point_on_a_link_is_refused(tmp_path: Path) -> None:
    skeleton, upper = tmp_path / "skeleton", tmp_path / "upper"
    (skeleton / "var").mkdir(parents=True)
    (skeleton / "var" / "run").symlink_to("/run")
    upper.mkdir()
    with pytest.raises(StartError, match=r"Cannot mount /var/run/x: /var/run is a link\."):
        make_mount_points([Bind(tmp_path, "/var/run/x")], upper, ImageTree((skeleton,)), (0, 0))


@pytest.mark.root
def test_only_the_source_and_what_is_directly_in_it_are_given_away(tmp_path: Path) -> None:
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "file").touch()
    owner = os.geteuid() + 1234 if os.geteuid() == 0 else os.geteuid()
    give_writable(Bind(tmp_path / "folder", "/x", writable=True), (owner, owner))
    assert owner == (tmp_path / "folder").stat().st_uid == (tmp_path / "folder" / "deep").stat().st_uid
    assert os.geteuid() == (tmp_path / "folder" / "deep" / "file").stat().st_uid
    give_writable(Bind(tmp_path / "folder" / "deep", "/x"), (0, 0))
    assert owner == (tmp_path / "folder" / "deep").stat().st_uid
