from __future__ import annotations

import asyncio
import os
import platform
import subprocess
from pathlib import Path

import pytest

from skylift.runtime import criu
from skylift.runtime.criu import FEATURES, Criu, CriuMissingError, find_criu, kernel_facts

AS_ROOT = "As root: `scripts/install-criu`"


class Programs:
    """Stand-ins for CRIU: scripts that answer as it does, and count how often they are asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked = folder / "asked"

    def make(
        self, name: str, version: str = "4.1.1", check: str = "exit 0", features: str = "exit 0"
    ) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"""#!/bin/sh
            echo "$*" >>{self.asked}
            case "$*" in
              --version) echo "Version: {version}" ;;
              check) {check} ;;
              "check --feature "*) {features} ;;
            esac
            """
        )
        path.chmod(0o755)
        return path

    def questions(self) -> list[str]:
        return self.asked.read_text().splitlines() if self.asked.exists() else []


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """No CRIU is found but the stand-ins: on the PATH `path/criu`, and `private/criu`."""
    programs = Programs(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(criu, "PRIVATE_FOLDER", tmp_path / "private")
    monkeypatch.setattr(criu, "SYSTEM_PATH", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return programs


def find(tmp_path: Path, setting: str = "") -> Criu:
    return asyncio.run(find_criu(setting, tmp_path / "host" / "criu.json"))


def why(tmp_path: Path, setting: str = "") -> str:
    with pytest.raises(CriuMissingError) as caught:
        find(tmp_path, setting)
    return str(caught.value)


def test_the_one_on_the_path_comes_first(programs: Programs, tmp_path: Path) -> None:
    programs.make("private/criu", "4.2")
    path = programs.make("path/criu")

    assert Criu(path=path, version="4.1.1", features=frozenset(FEATURES)) == find(tmp_path)


def test_where_it_does_not_work_the_private_one_is_taken(programs: Programs, tmp_path: Path) -> None:
    programs.make("path/criu", check="exit 1")
    private = programs.make("private/criu")

    assert private == find(tmp_path).path


def test_a_user_has_a_folder_too(programs: Programs, tmp_path: Path) -> None:
    path = programs.make("data/skylift/criu/criu")

    assert path == find(tmp_path).path


def test_a_setting_is_the_only_one_tried(programs: Programs, tmp_path: Path) -> None:
    programs.make("path/criu")

    assert why(tmp_path, "/nowhere/criu").startswith(f"/nowhere/criu is not installed. {AS_ROOT}")
    own = programs.make("own/criu-4.2", "4.2")
    assert "4.2" == find(tmp_path, str(own)).version


def test_none_is_said(programs: Programs, tmp_path: Path) -> None:
    assert (
        "CRIU is not installed. As root: `scripts/install-criu`, or install the package criu (4.0 or newer). "
        'One elsewhere is named by criu = "/path/to/criu" in [host] of config.toml.'
    ) == why(tmp_path)


def test_an_old_one_is_said(programs: Programs, tmp_path: Path) -> None:
    path = programs.make("path/criu", "3.17.1")

    assert why(tmp_path).startswith(f"CRIU 3.17.1 ({path}) is too old: 4.0 or newer is needed. {AS_ROOT}")
    assert ["--version"] == programs.questions()


def test_what_it_complains_of_is_said(programs: Programs, tmp_path: Path) -> None:
    complaint = "Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds"
    path = programs.make(
        "path/criu", check=f"echo 'Warn (criu/x.c:1): nothing' >&2; echo '{complaint}' >&2; exit 1"
    )

    release = platform.release()
    expected = f"CRIU 4.1.1 ({path}) does not work on kernel {release}: vdso: Unexpected rt vDSO area bounds."
    assert why(tmp_path).startswith(f"{expected} {AS_ROOT}")


def test_another_program_is_said(programs: Programs, tmp_path: Path) -> None:
    assert why(tmp_path, "/bin/true").startswith("/bin/true is not CRIU: it says no version.")


def test_an_ordinary_user_is_told_that_it_takes_root(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.make("path/criu")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert why(tmp_path).endswith("this host runs as an ordinary user. Start Skylift as root.")


def test_features_are_those_that_it_has(programs: Programs, tmp_path: Path) -> None:
    programs.make("path/criu", features='case "$3" in pidfd_store) exit 0 ;; *) exit 1 ;; esac')

    assert frozenset({"pidfd_store"}) == find(tmp_path).features


def test_it_is_asked_once(programs: Programs, tmp_path: Path) -> None:
    programs.make("path/criu")
    found = find(tmp_path)
    questions = programs.questions()

    assert found == find(tmp_path)
    assert questions == programs.questions()


def test_a_failure_is_remembered_too(programs: Programs, tmp_path: Path) -> None:
    programs.make("path/criu", check="exit 1")
    said = why(tmp_path)
    questions = programs.questions()

    assert said == why(tmp_path)
    assert questions == programs.questions()


def test_another_program_or_kernel_is_examined_anew(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.make("path/criu", check="exit 1")
    why(tmp_path)
    programs.make("path/criu", "4.1.10")
    assert "4.1.10" == find(tmp_path).version
    asked = len(programs.questions())

    monkeypatch.setattr(platform, "release", lambda: "99.0")
    find(tmp_path)

    assert len(programs.questions()) > asked


def test_a_damaged_memory_is_no_obstacle(programs: Programs, tmp_path: Path) -> None:
    programs.make("path/criu")
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "criu.json").write_bytes(b"{")

    assert "4.1.1" == find(tmp_path).version


def test_runc_finds_it_whatever_its_name(programs: Programs, tmp_path: Path) -> None:
    path = programs.make("own/criu-4", "4.2")
    environment = find(tmp_path, str(path)).environment(tmp_path / "host")

    said = subprocess.run(["criu", "--version"], env=environment, capture_output=True, text=True, check=True)

    assert "Version: 4.2\n" == said.stdout


@pytest.mark.slow
@pytest.mark.root
def test_the_kernels_facts_are_kept_where_criu_does_not_keep_them(tmp_path: Path) -> None:
    found = asyncio.run(find_criu("", tmp_path / "criu.json"))
    (tmp_path / "criu-0-another-boot.kdat").touch()

    facts = asyncio.run(kernel_facts(found, tmp_path))

    of_run = subprocess.run(["stat", "-f", "-c", "%T", "/run"], capture_output=True, text=True, check=True)
    if of_run.stdout == "tmpfs\n":
        assert facts is None
    else:
        assert facts is not None
        assert facts.stat().st_size > 100
        assert [facts] == list(tmp_path.glob("*.kdat"))
        assert facts == asyncio.run(kernel_facts(found, tmp_path))
