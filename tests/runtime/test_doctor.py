"""What the doctor says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_driver import FakeDriver, gpu

from skylift.runtime import doctor
from skylift.runtime.machine_checks import Finding


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "skylift.runtime.doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def findings(home: Path, env: dict[str, str] | None = None) -> dict[str, dict[str, str]]:
    finished = run("--home", str(home), "--json", env=env)
    assert "" == finished.stderr
    return {finding["name"]: finding for finding in json.loads(finished.stdout)["findings"]}


def test_every_finding_that_is_not_well_says_why_and_what_to_do(tmp_path: Path) -> None:
    found = findings(tmp_path)
    assert {
        "runc",
        "programs",
        "user namespaces",
        "user ids",
        "overlay",
        "cgroups",
        "seccomp",
        "network",
    } <= set(found)
    for finding in found.values():
        assert finding["state"] in ("ok", "warning", "missing")
        if finding["state"] != "ok":
            assert finding["why"], finding
            assert finding["fix"], finding
    assert [] == list(tmp_path.iterdir())


def test_gpus_without_a_specification(tmp_path: Path) -> None:
    driver = FakeDriver(tmp_path)
    env = driver.env(gpu("NVIDIA H100 80GB HBM3", "GPU-x"), gpu("NVIDIA A100-SXM4-40GB", "GPU-y", mig="1"))
    found = findings(tmp_path, env)
    assert "H100, A100-40GB (MIG, left alone); driver 550.54.15" == found["GPUs"]["text"]
    if not Path("/etc/cdi").exists() and not Path("/var/run/cdi").exists():
        assert "no specification in /etc/cdi or /var/run/cdi has GPU 0" == found["CDI"]["text"]
        assert "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml" in found["CDI"]["fix"]


def test_without_gpus_simulated_ones_are_proposed(tmp_path: Path) -> None:
    env = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    FakeDriver(tmp_path)
    found = findings(tmp_path, env)
    assert ("warning", "none (Driver Not Loaded)") == (found["GPUs"]["state"], found["GPUs"]["text"])
    assert 'simulate_gpus = {"H100" = 1} in [host] of config.toml' in found["GPUs"]["fix"]
    (tmp_path / "config.toml").write_text('[host]\nsimulate_gpus = {"H100" = 2}')
    found = findings(tmp_path, env)
    assert ("ok", "2 × H100") == (found["GPUs"]["state"], found["simulated GPUs"]["text"])


def test_what_is_missing_makes_it_fail(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[host]\nsimulate_gpus = {"H10" = 1}')
    finished = run("--home", str(tmp_path))
    assert 1 == finished.returncode
    assert (
        "missing  simulated GPUs: simulate_gpus in [host] of config.toml: there is no GPU 'H10'."
        in finished.stdout
    )
    assert "Containers cannot be made here: simulated GPUs" in finished.stdout


def test_without_runc(tmp_path: Path) -> None:
    finished = run("--home", str(tmp_path), env={**os.environ, "PATH": str(tmp_path)})
    assert (1, "") == (finished.returncode, finished.stderr)
    assert "missing  runc: runc is not installed." in finished.stdout
    assert "why: It makes the containers." in finished.stdout
    assert "fix: Install the package runc" in finished.stdout
    assert "not found: unshare, nsenter, mount, sh, cat" in finished.stdout


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[host]\nisolatoin = 'runc'")
    finished = run("--home", str(tmp_path))
    assert (1, "Unknown key 'isolatoin' in [host] of config.toml. Did you mean isolation?\n") == (
        finished.returncode,
        finished.stderr,
    )


def test_plain_processes_are_named_for_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[host]\nisolation = 'process'")
    finished = run("--home", str(tmp_path))
    assert 0 == finished.returncode
    assert "It is isolated from nothing." in " ".join(finished.stdout.split())


def test_the_text_is_readable() -> None:
    report = doctor.Report(
        hostname="box",
        kernel="Linux 6.1",
        rootless=True,
        cpus=2.0,
        memory=900,
        machine_memory=1000,
        isolation="none",
        findings=(
            Finding(name="runc", state="ok", text="1.1.5"),
            Finding(
                name="network", state="missing", text="ip is missing", why="They need it.", fix="Install it."
            ),
        ),
    )
    assert """\
box: Linux 6.1, as an ordinary user
offers 2 cores and 900 of 1,000 MiB

ok       runc: 1.1.5
missing  network: ip is missing
         why: They need it.
         fix: Install it.

Containers cannot be made here: network is missing. isolation = "process" in [host] of
config.toml does without, and isolates nothing.
""" == doctor.text(report)


@pytest.mark.parametrize(
    ("env", "home"),
    [
        ({"SKYLIFT_HOME": "/a"}, "/a"),
        ({"XDG_DATA_HOME": "/b"}, "/b/skylift"),
        ({"HOME": "/c"}, "/c/.local/share/skylift"),
    ],
)
def test_the_folder_of_a_machine(env: dict[str, str], home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SKYLIFT_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert Path(home) == doctor.default_home()
