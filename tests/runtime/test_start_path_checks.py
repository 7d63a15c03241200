"""What the doctor says of forking, snapshots and sleeping sessions."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from skylift.runtime import start_path_checks
from skylift.runtime.criu import HOW_TO_GET_IT, Criu, CriuMissingError
from skylift.runtime.cuda_checkpoint import why_no_gpu_memory
from skylift.runtime.machine_checks import Finding
from skylift.runtime.runc.commands import CommandError, Output
from skylift.runtime.settings import HostSettings
from skylift.runtime.start_path_checks import examine_start_paths


def findings(home: Path, settings: HostSettings | None = None) -> dict[str, Finding]:
    async def collect() -> dict[str, Finding]:
        found = examine_start_paths(settings or HostSettings(), home)
        return {finding.name: finding async for finding in found}

    return asyncio.run(collect())


@pytest.fixture
def with_criu(monkeypatch: pytest.MonkeyPatch) -> None:
    async def found(setting: str) -> Criu:
        return Criu(path=Path("/opt/criu"), version="4.1.1")

    monkeypatch.setattr(start_path_checks, "find_criu", found)


@pytest.fixture
def without_criu(monkeypatch: pytest.MonkeyPatch) -> None:
    async def missing(setting: str) -> Criu:
        raise CriuMissingError(f"CRIU is not installed. {HOW_TO_GET_IT}")

    monkeypatch.setattr(start_path_checks, "find_criu", missing)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that programs are found in, before the others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def program(folder: Path, name: str) -> None:
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)


def test_this_machine_is_looked_at_and_left_as_it_is(tmp_path: Path) -> None:
    found = findings(tmp_path)

    assert ["templates", "snapshots", "sleeping sessions"] == list(found)
    for finding in found.values():
        assert finding.state == "ok" or (finding.state == "warning" and finding.why and finding.fix)
    assert [] == list(tmp_path.iterdir())


def test_without_criu_it_says_what_that_means_and_how_to_get_it(tmp_path: Path, without_criu: None) -> None:
    found = findings(tmp_path)

    assert ("warning", "CRIU is not installed.") == (found["snapshots"].state, found["snapshots"].text)
    assert HOW_TO_GET_IT == found["snapshots"].fix
    sleeping = found["sleeping sessions"]
    assert "none without CRIU: idle sessions are kept or ended (--idle-policy)" == sleeping.text
    assert HOW_TO_GET_IT == sleeping.fix


def test_with_criu_and_iptables_snapshots_can_be_written(
    tmp_path: Path, with_criu: None, programs: Path
) -> None:
    program(programs, "iptables-restore")

    assert ("ok", "CRIU 4.1.1 (/opt/criu)") == (
        findings(tmp_path)["snapshots"].state,
        findings(tmp_path)["snapshots"].text,
    )


def test_missing_iptables_are_named(
    tmp_path: Path, with_criu: None, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(programs))

    finding = findings(tmp_path)["snapshots"]

    assert ("warning", "CRIU 4.1.1 (/opt/criu), but not iptables") == (finding.state, finding.text)
    assert "Install the package iptables." == finding.fix


def test_why_nothing_can_be_forked_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(command: list[str]) -> Output:
        raise CommandError(f"{' '.join(command)}: mount: /x/root: permission denied.\nmore")

    monkeypatch.setattr(start_path_checks, "run", refused)

    finding = findings(tmp_path)["templates"]

    assert ("warning", "none can be forked (permission denied.)") == (finding.state, finding.text)
    assert finding.fix.startswith("Use Linux 5.11 or newer")


def test_plain_processes_are_neither_forked_nor_restored(tmp_path: Path) -> None:
    found = findings(tmp_path, HostSettings(isolation="process"))

    assert {'none, as configured (isolation = "process")'} == {each.text for each in found.values()}


def test_gpu_memory_needs_a_driver_and_a_program(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the driver is 550.54.15" == why_no_gpu_memory("550.54.15")
    assert "the driver is unknown" == why_no_gpu_memory("")
    monkeypatch.setenv("PATH", str(programs))
    assert "cuda-checkpoint is not installed" == why_no_gpu_memory("570.86.15")
    program(programs, "cuda-checkpoint")
    assert "" == why_no_gpu_memory("580.1")
