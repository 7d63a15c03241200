"""What the files around the code say of one another stays true."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements() -> list[Requirement]:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(line) for lines in (project["dependencies"], *extras) for line in lines]


def test_every_package_on_disk_is_in_the_wheel() -> None:
    """An editable install finds a forgotten package all the same; a wheel does not."""
    on_disk = set()
    for package, folder in PYPROJECT["tool"]["setuptools"]["package-dir"].items():
        for init in (ROOT / folder).rglob("__init__.py"):
            on_disk.add(".".join([package, *init.parent.relative_to(ROOT / folder).parts]))
    assert sorted(on_disk) == sorted(PYPROJECT["tool"]["setuptools"]["packages"])


def test_every_dependency_is_pinned() -> None:
    """After a change of the dependencies: scripts/pin."""
    names = {canonicalize_name(requirement.name) for requirement in requirements()} - {"skylift"}
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(Requirement(line).name) for line in pins}
    assert names - pinned == set()


def test_every_pin_is_one_version_that_the_ranges_allow() -> None:
    ranges = {canonicalize_name(wanted.name): wanted.specifier for wanted in requirements()}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        pin = Requirement(line)
        (version,) = pin.specifier
        assert version.operator == "=="
        allowed = ranges.get(canonicalize_name(pin.name))
        assert allowed is None or allowed.contains(version.version), line


def test_lock_files_name_no_host() -> None:
    lock = json.loads((ROOT / "package-lock.json").read_text())
    assert [name for name, entry in lock["packages"].items() if "resolved" in entry] == []
    assert "://" not in (ROOT / "constraints.txt").read_text()


@pytest.mark.parametrize("name", ["setup", "pin", "typecheck", "lint-imports"])
def test_scripts_can_be_run(name: str) -> None:
    assert (ROOT / "scripts" / name).stat().st_mode & 0o111 == 0o111


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    described = re.findall(r"^([a-z]+):.*## \S", makefile, re.MULTILINE)
    assert phony.group(1).split() == described


def test_modules_of_tests_have_names_of_their_own() -> None:
    """Folders of tests are no packages: pytest would import two modules of one name as the same."""
    places: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path.name != "conftest.py" and not (path.parent / "__init__.py").exists():
            places.setdefault(path.name, []).append(str(path.relative_to(ROOT)))
    assert [found for found in places.values() if len(found) > 1] == []
