"""scripts/setup on machines that lack something: what it says, and that it goes no further."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = (
    *("runc", "newuidmap", "ip", "iptables", "pasta", "fusermount3", "fsck.erofs", "mmdebstrap"),
    *("gcc", "git", "docker-registry", "chromium"),
)


class Machine:
    """A checkout and a PATH on which only `commands` are found."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "checkout"
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        (self.checkout / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "setup", self.checkout / "scripts")
        for tool in ("bash", "cat", "cksum", "dirname", "grep", "tr", "rm"):
            path = shutil.which(tool)
            assert path is not None
            (self.bin / tool).symlink_to(path)
        self.add("id", "echo 1000")
        self.add("uname", "echo Linux")
        for tool in TOOLS:
            self.add(tool, "exit 0")

    def add(self, command: str, script: str) -> None:
        path = self.bin / command
        path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
        path.chmod(0o755)

    def remove(self, command: str) -> None:
        (self.bin / command).unlink()

    def setup(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        # The script looks into the system's sbin folders as well; here it must not.
        script = self.checkout / "scripts" / "setup"
        script.write_text(script.read_text().replace(":/usr/local/sbin:/usr/sbin:/sbin", ""))
        return subprocess.run(
            ["bash", script, *arguments],
            env={"PATH": str(self.bin), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_an_unknown_level(machine: Machine) -> None:
    run = machine.setup("everything")
    assert run.returncode == 1
    assert run.stderr == "setup: unknown level 'everything': demo, lab, dev or bench\n"


def test_a_python_that_is_too_old(machine: Machine) -> None:
    machine.add("python3", '[ "$1" = -V ] && echo "Python 3.9.2"; exit 1')
    run = machine.setup("demo")
    assert run.returncode == 1
    assert "Python 3.10 or newer is needed" in run.stderr
    assert "is Python 3.9.2" in run.stderr
    assert "PYTHON=/path/to/python3.12 make setup" in run.stderr


def test_a_named_python_that_is_not_there(machine: Machine) -> None:
    run = machine.setup("demo", PYTHON="/nowhere/python3")
    assert run.returncode == 1
    assert run.stderr == "setup: PYTHON=/nowhere/python3 is not a Python of 3.10 or newer\n"


def test_missing_packages_for_an_ordinary_user(machine: Machine) -> None:
    machine.remove("runc")
    machine.remove("pasta")
    machine.add(
        "python3", "case $2 in *ensurepip*) exit 1 ;; *version_info\\[*) echo python3.12-venv ;; esac"
    )
    machine.add("apt-get", "echo apt-get must not run; exit 9")
    run = machine.setup("demo")
    assert run.returncode == 1
    assert run.stderr == "setup: missing packages. As root: apt-get install runc passt python3.12-venv\n"


def test_missing_packages_without_apt(machine: Machine) -> None:
    machine.remove("newuidmap")
    machine.add("python3", "exit 0")
    run = machine.setup("demo")
    assert run.returncode == 1
    assert "missing: uidmap (Debian's names)" in run.stderr


def test_root_installs_what_is_missing_and_takes_what_apt_knows(machine: Machine) -> None:
    log = machine.checkout / "apt.log"
    machine.remove("pasta")
    machine.add("id", "echo 0")
    machine.add("env", 'while [[ $1 == *=* ]]; do shift; done; exec "$@"')
    machine.add("python3", "[ $1 = -m ] && exit 7; exit 0")
    machine.add("apt-get", f'echo "$*" >>{log}')
    machine.add("apt-cache", "[ $3 = passt ] && echo '  Candidate: (none)' || echo '  Candidate: 1.2'")
    run = machine.setup("demo")
    assert run.returncode == 7, run.stderr
    update, install = log.read_text().splitlines()
    assert update.startswith("update ")
    assert install.endswith(" slirp4netns")
