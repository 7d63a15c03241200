"""scripts/install-criu, with an archive of packages of this test's own."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "install-criu"

pytestmark = pytest.mark.slow

ARCHITECTURE = subprocess.run(
    ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
).stdout.strip()

WORKS = "case $1 in --version) echo 'Version: 4.2' ;; check) exit 0 ;; esac"
FAILS = "case $1 in --version) echo 'Version: 4.1' ;; check) echo 'Error (a.c:1): no vDSO'; exit 1 ;; esac"
OLD = "case $1 in --version) echo 'Version: 3.17.1' ;; check) exit 0 ;; esac"


class Archive:
    """Releases ``one``, ``two`` and ``three`` of a distribution, signed, on the local disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = folder / "keys"
        self.keys.mkdir(mode=0o700)
        self.mirror = folder / "mirror"
        self._gpg("--quick-generate-key", "archive", "default", "default", "never")
        (folder / "trusted").mkdir()
        (folder / "trusted" / "archive.asc").write_bytes(self._gpg("--armor", "--export", "archive"))

    def release(self, name: str, criu: str = "", signed: bool = True) -> None:
        """Publish a release, with a script as its CRIU."""
        packages = [self._package(name, criu)] if criu else []
        listing = self.mirror / "dists" / name / "main" / f"binary-{ARCHITECTURE}"
        listing.mkdir(parents=True)
        (listing / "Packages").write_text("\n".join(packages))
        (listing / "Packages.gz").write_bytes(gzip.compress((listing / "Packages").read_bytes()))
        sums = []
        for file in ("Packages", "Packages.gz"):
            data = (listing / file).read_bytes()
            path = f"main/binary-{ARCHITECTURE}/{file}"
            sums.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {path}")
        release = self.mirror / "dists" / name / "Release"
        release.write_text(
            f"Origin: Test\nSuite: {name}\nCodename: {name}\nArchitectures: {ARCHITECTURE}\n"
            f"Components: main\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n" + "\n".join(sums) + "\n"
        )
        if signed:
            signature = self._gpg("--clearsign", "--output", "-", str(release))
            (release.parent / "InRelease").write_bytes(signature)

    def close(self) -> None:
        subprocess.run(["gpgconf", "--homedir", str(self.keys), "--kill", "all"], check=True)

    def _package(self, release: str, criu: str) -> str:
        """A package with this release's CRIU and a loader that runs it; what ``Packages`` says of it."""
        root = self.folder / f"package-{release}"
        for path in ("DEBIAN", "usr/sbin", "usr/lib/x"):
            (root / path).mkdir(parents=True)
        fields = (
            f"Package: criu\nVersion: 1-{release}\nArchitecture: {ARCHITECTURE}\nMaintainer: Test <t@t>\n"
        )
        fields += "Description: test\n"
        (root / "DEBIAN" / "control").write_text(fields)
        loader = root / "usr/lib/x/ld-linux-test.so.2"
        loader.write_text('#!/bin/sh\n[ "$1" = --library-path ] || exit 9\nshift 2\nexec "$@"\n')
        (root / "usr/sbin/criu").write_text(f"#!/bin/sh\n{criu}\n")
        for path in (loader, root / "usr/sbin/criu"):
            path.chmod(0o755)
        (root / "usr/lib/x/libtest.so.1").touch()
        file = self.mirror / "pool" / f"criu_{release}.deb"
        file.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["dpkg-deb", "--build", "--root-owner-group", root, file], check=True, stdout=-3)
        data = file.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        return f"{fields}Filename: pool/{file.name}\nSize: {len(data)}\nSHA256: {digest}\n"

    def _gpg(self, *arguments: str) -> bytes:
        command = ["gpg", "--homedir", str(self.keys), "--batch", "--quiet", "--passphrase", "", "--yes"]
        return subprocess.run([*command, *arguments], capture_output=True, check=True).stdout


class Machine:
    """A machine with release ``one`` of that distribution, and no CRIU."""

    def __init__(self, folder: Path, archive: Archive) -> None:
        self.prefix = folder / "skylift" / "criu"
        self.programs = folder / "programs"
        self.programs.mkdir()
        sources = folder / "sources.list.d"
        sources.mkdir()
        (sources / "test.sources").write_text(
            f"Types: deb\nURIs: file://{archive.mirror}\nSuites: one\nComponents: main\n"
        )
        release = folder / "os-release"
        release.write_text('ID=test\nVERSION_CODENAME=one\nPRETTY_NAME="Test 1"\n')
        for path in ("state/lists/partial", "cache/archives/partial"):
            (folder / path).mkdir(parents=True)
        config = folder / "apt.conf"
        config.write_text(
            f'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "{sources}";\n'
            f'Dir::Etc::trustedparts "{archive.folder / "trusted"}";\nDir::Etc::trusted "/dev/null";\n'
            f'Dir::State "{folder / "state"}";\nDir::Cache "{folder / "cache"}";\n'
            'Dir::State::status "/dev/null";\nAPT::Sandbox::User "root";\n'
        )
        self._environment = {
            "PATH": f"{self.programs}:/usr/bin:/bin",
            "HOME": str(folder),
            "APT_CONFIG": str(config),
            "OS_RELEASE": str(release),
            "RELEASES": "zero one two three",
            "SYSTEM_PATH": "",
        }

    def install(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(SCRIPT), "--prefix", str(self.prefix), *arguments]
        env = {**self._environment, **environment}
        return subprocess.run(command, capture_output=True, text=True, env=env, timeout=100)

    def criu(self, *arguments: str) -> str:
        finished = subprocess.run(
            [self.prefix / "criu", *arguments], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}
        )
        return finished.stdout

    def left(self) -> list[str]:
        """What is beside the folder."""
        folder = self.prefix.parent
        return sorted(set(os.listdir(folder)) - {"criu"}) if folder.exists() else []


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    folder = tmp_path / "archive"
    folder.mkdir()
    archive = Archive(folder)
    yield archive
    archive.close()


@pytest.fixture
def machine(tmp_path: Path, archive: Archive) -> Machine:
    archive.release("one")
    folder = tmp_path / "machine"
    folder.mkdir()
    return Machine(folder, archive)


def test_the_first_later_release_that_works_is_taken(machine: Machine, archive: Archive) -> None:
    archive.release("two", FAILS)
    archive.release("three", WORKS)

    finished = machine.install()

    assert 0 == finished.returncode, finished.stdout + finished.stderr
    assert f"{machine.prefix}/criu, version 4.2, of test three" in finished.stdout
    assert "Version: 4.2\n" == machine.criu("--version")
    assert [] == machine.left()


def test_a_second_run_leaves_it_alone(machine: Machine, archive: Archive) -> None:
    archive.release("two", WORKS)
    machine.install()
    made = (machine.prefix / "criu").stat().st_mtime_ns

    finished = machine.install()

    assert f"install-criu: {machine.prefix}/criu, version 4.2\n" == finished.stdout
    assert made == (machine.prefix / "criu").stat().st_mtime_ns


def test_it_can_be_made_anew(machine: Machine, archive: Archive) -> None:
    archive.release("two", WORKS)
    machine.install()
    (machine.prefix / "root" / "usr" / "sbin" / "criu").write_text("#!/bin/sh\nexit 1\n")

    finished = machine.install("--anew")

    assert 0 == finished.returncode, finished.stdout + finished.stderr
    assert "Version: 4.2\n" == machine.criu("--version")
    assert [] == machine.left()


def test_one_on_the_path_that_works_is_enough(machine: Machine) -> None:
    (machine.programs / "criu").write_text(f"#!/bin/sh\n{WORKS}\n")
    (machine.programs / "criu").chmod(0o755)

    finished = machine.install()

    assert f"install-criu: {machine.programs}/criu, version 4.2\n" == finished.stdout
    assert not machine.prefix.exists()


@pytest.mark.parametrize("criu", [OLD, FAILS])
def test_where_none_works_it_says_so_and_leaves_nothing(
    machine: Machine, archive: Archive, criu: str
) -> None:
    archive.release("two", criu)

    finished = machine.install()

    assert 1 == finished.returncode
    assert "has a CRIU that works on" in finished.stderr
    assert 'criu = "/path/to/criu" in [host] of config.toml' in finished.stderr
    assert not machine.prefix.exists()
    assert [] == machine.left()


def test_packages_without_a_signature_are_refused(machine: Machine, archive: Archive) -> None:
    archive.release("two", WORKS, signed=False)

    finished = machine.install()

    assert 1 == finished.returncode
    assert "is not signed" in finished.stdout
    assert not machine.prefix.exists()


def test_packages_that_were_changed_are_refused(machine: Machine, archive: Archive) -> None:
    archive.release("two", WORKS)
    package = archive.mirror / "pool" / "criu_two.deb"
    package.write_bytes(package.read_bytes()[:-1] + b"!")

    finished = machine.install()

    assert 1 == finished.returncode
    assert not machine.prefix.exists()


def test_a_signature_of_another_is_refused(machine: Machine, archive: Archive, tmp_path: Path) -> None:
    archive.release("two", WORKS)
    (archive.folder / "trusted" / "archive.asc").unlink()
    folder = tmp_path / "another"
    folder.mkdir()
    another = Archive(folder)
    another.close()
    shutil.copy(folder / "trusted" / "archive.asc", archive.folder / "trusted" / "archive.asc")

    finished = machine.install()

    assert 1 == finished.returncode
    assert not machine.prefix.exists()


def test_without_apt_it_says_what_to_do(machine: Machine) -> None:
    for name in ("bash", "uname", "id", "sed", "cat"):
        (machine.programs / name).symlink_to(f"/usr/bin/{name}")

    finished = machine.install(PATH=str(machine.programs))

    assert 1 == finished.returncode
    assert "and no apt-get. Install CRIU 4.0 or newer (https://criu.org/Installation)" in finished.stderr


def test_an_unknown_argument_is_answered_with_the_usage(machine: Machine) -> None:
    finished = machine.install("--what")

    assert 2 == finished.returncode
    assert "scripts/install-criu [--prefix FOLDER] [--anew]" in finished.stderr
