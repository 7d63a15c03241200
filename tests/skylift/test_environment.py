"""Which folders of this machine containers see, and when they are made anew."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from skylift import environment
from skylift.environment import Environment, collect, is_shared_folder
from skylift.exceptions import InvalidError
from skylift.image import Image


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder that is not the user's, with a project in it; the temporary folder is elsewhere."""
    home = tmp_path / "me"
    (home / "project").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return home


def mounts() -> list[str]:
    return [mount.path for mount in collect().mounts]


def test_the_interpreter_its_packages_and_the_project(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(home / "project"))
    spec = collect()
    assert sys.executable == spec.python
    assert str(home / "project") == spec.sys_path[0]
    assert str(home / "project") in mounts()
    covered = [mount.path for mount in spec.mounts]
    for needed in (sys.prefix, sys.base_prefix, os.path.realpath(sys.executable), textwrap.__file__):
        assert any(needed == path or needed.startswith(path + "/") for path in covered), needed
    assert str(home / "project") in spec.env["PYTHONPATH"].split(os.pathsep)


def test_of_a_home_folder_only_its_modules(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "helpers.py").write_text("x = 1")
    (home / "package").mkdir()
    (home / "package" / "__init__.py").touch()
    (home / "secret.txt").touch()
    (home / ".ssh").mkdir()
    monkeypatch.syspath_prepend(str(home))
    mounted = [path for path in mounts() if path.startswith(str(home))]
    assert [str(home / "helpers.py"), str(home / "package")] == mounted
    assert str(home) in collect().sys_path


@pytest.mark.parametrize("path", ["/", "/home", "/home/someone", "/root", "/tmp", "/usr", "/Users/me"])
def test_shared_folders(path: str) -> None:
    assert is_shared_folder(path)


def test_what_is_above_home_is_shared(home: Path) -> None:
    assert is_shared_folder(str(home))
    assert is_shared_folder(str(home.parent))
    assert not is_shared_folder(str(home / "project"))


def test_no_mount_lies_in_another() -> None:
    paths = mounts()
    assert not [(inner, outer) for inner in paths for outer in paths if inner.startswith(outer + "/")]


def test_the_sources_of_editable_installs(home: Path) -> None:
    site = home / "site"
    (site / "thing-1.0.dist-info").mkdir(parents=True)
    source = home / "thing source"
    source.mkdir()
    record = '{"dir_info": {"editable": true}, "url": "' + source.as_uri() + '"}'
    (site / "thing-1.0.dist-info" / "direct_url.json").write_text(record)
    assert str(source) in environment.editable_sources([str(site)])
    assert str(source) not in environment.editable_sources([str(site), str(source / "src")])


def test_the_fingerprint_follows_local_modules(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(home / "project"))
    watched = Environment()
    first = watched.current("cell 1")
    assert watched.current("cell 1") is first
    assert watched.current("cell 2") is first
    (home / "project" / "model.py").write_text("x = 1")
    second = watched.current("cell 3")
    assert second.fingerprint != first.fingerprint
    (home / "project" / "model.py").write_text("x = 22")
    assert watched.current("cell 4").fingerprint not in (first.fingerprint, second.fingerprint)
    (home / "project" / "notes.ipynb").write_text("{}")
    assert watched.current("cell 5").fingerprint == watched.current("cell 6").fingerprint


def test_the_fingerprint_follows_installed_packages(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = home / "project" / "site-packages"
    (site / "thing-1.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(site))
    before = collect().fingerprint
    (site / "other-2.0.dist-info").mkdir()
    assert before != collect().fingerprint


def test_virtual_environments_in_the_project_are_not_its_modules(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv = home / "project" / "env"
    venv.mkdir()
    (venv / "pyvenv.cfg").touch()
    (venv / "module.py").touch()
    monkeypatch.syspath_prepend(str(home / "project"))
    before = collect().fingerprint
    (venv / "module.py").write_text("x = 1")
    assert before == collect().fingerprint


def test_an_embedded_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(InvalidError, match=r"sys.executable is empty"):
        collect()


def test_no_variables_of_the_user_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    env = collect().env
    assert "AWS_SECRET_ACCESS_KEY" not in env
    assert "de_DE.UTF-8" == env["LANG"]
    assert env["PATH"].startswith(os.path.join(sys.prefix, "bin"))


def test_images_are_values() -> None:
    import pickle

    image = Image.from_environment()
    assert image == Image.from_environment()
    assert image == pickle.loads(pickle.dumps(image))
    with pytest.raises(InvalidError, match=r"use Image\.from_environment\(\)"):
        Image()


def test_import_is_quick_and_imports_little() -> None:
    program = (
        "import sys, skylift; print(*sorted(name for name in sys.modules if name.startswith('skylift')))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert ["skylift"] == out.split()


def test_among_very_many_files_the_loaded_modules_count(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skylift import fingerprint

    project = home / "project"
    monkeypatch.setattr(fingerprint, "_MAX_ENTRIES", 3)
    monkeypatch.syspath_prepend(str(project))
    for name in ("loaded_here.py", "b.py", "c.py", "d.txt"):
        (project / name).write_text("x = 1")
    __import__("loaded_here")
    before = fingerprint.fingerprint([], [str(project)], "")
    (project / "b.py").write_text("x = 22")
    assert before == fingerprint.fingerprint([], [str(project)], "")
    (project / "loaded_here.py").write_text("x = 22")
    assert before != fingerprint.fingerprint([], [str(project)], "")
    del sys.modules["loaded_here"]
