"""The import contracts hold, and each of them bites."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("skylift", "magics", "kernel_gateway", "backend", "runtime", "lazyfs", "scripts")
LINT = "from importlinter.cli import lint_imports_command as run; run()"


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    house = root / "build" / "house"
    subprocess.run([sys.executable, root / "scripts" / "house.py"], check=True, capture_output=True)
    return subprocess.run(
        [sys.executable, "-c", LINT, "--config", root / "pyproject.toml", "--no-cache"],
        cwd=house,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(house), str(root / "scripts")])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("checkout")
    shutil.copy(ROOT / "pyproject.toml", copy)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def test_contracts_hold(checkout: Path) -> None:
    report = lint_imports(checkout)
    assert report.returncode == 0, report.stdout + report.stderr


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("magics/trespass.py", "skylift.backend"),
        ("magics/trespass.py", "skylift.kernel_gateway"),
        ("skylift/trespass.py", "skylift.runtime"),
        ("skylift/trespass.py", "skylift.magics"),
        ("kernel_gateway/trespass.py", "skylift.magics"),
        ("backend/trespass.py", "skylift"),
        ("backend/trespass.py", "skylift.kernel_gateway"),
        ("runtime/trespass.py", "skylift.backend"),
        ("lazyfs/trespass.py", "skylift.runtime"),
        ("skylift/wire/trespass.py", "skylift.lazyfs"),
        ("skylift/wire/trespass.py", "skylift"),
    ],
)
def test_a_forbidden_import_is_found(checkout: Path, module: str, imported: str) -> None:
    trespass = checkout / module
    trespass.write_text(f"import {imported}\n")
    try:
        report = lint_imports(checkout)
    finally:
        trespass.unlink()
    assert report.returncode == 1, report.stdout + report.stderr
    assert "BROKEN" in report.stdout
    assert "trespass" in report.stdout


Import = ast.Import | ast.ImportFrom


def imports(source: str) -> list[Import]:
    """Every import in a module, at whatever depth of its code."""
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, Import)]


def imports_at_start(source: str) -> list[Import]:
    """Those that run when the module is imported: none in functions, none for the type checker."""
    found: list[Import] = []
    nodes: list[ast.AST] = [ast.parse(source)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, Import):
            found.append(node)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            nodes += ast.iter_child_nodes(node)
    return found


def top_level_names(nodes: list[Import]) -> set[str]:
    """Of absolute imports, the names of the distributions' packages."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif not node.level and node.module:
            names.add(node.module.partition(".")[0])
    return names


def siblings(nodes: list[Import], folder: Path) -> set[Path]:
    """Of relative imports, the modules of the same folder."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            names.update(
                [node.module.partition(".")[0]] if node.module else [each.name for each in node.names]
            )
    return {path for name in names if (path := folder / f"{name}.py").exists()}


RUNNER = ROOT / "runtime" / "runner"


def test_the_runner_imports_only_the_standard_library() -> None:
    """It runs under the image's Python, where nothing of ours is installed and IPython may be missing."""
    lazily = {"IPython", "cloudpickle", "dill", "ipykernel", "tornado", "tqdm", "traitlets", "zmq"}
    modules = sorted(RUNNER.rglob("*.py"))
    assert modules
    foreign = {
        path.name: strange
        for path in modules
        if (strange := top_level_names(imports(path.read_text())) - sys.stdlib_module_names - lazily)
    }
    assert foreign == {}


def test_the_runner_starts_with_the_standard_library_alone() -> None:
    reached: set[Path] = set()
    waiting = {RUNNER / "__init__.py", RUNNER / "__main__.py", RUNNER / "init.py", RUNNER / "serve.py"}
    foreign: dict[str, set[str]] = {}
    while waiting:
        path = waiting.pop()
        reached.add(path)
        nodes = imports_at_start(path.read_text())
        if strange := top_level_names(nodes) - sys.stdlib_module_names:
            foreign[path.name] = strange
        waiting |= siblings(nodes, RUNNER) - reached
    assert len(reached) > 5
    assert foreign == {}


def test_the_runner_stays_inside_its_folder() -> None:
    """Its folder alone is mounted into a container: a relative import must not leave it."""
    folder = ROOT / "runtime" / "runner"
    leaving = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted(folder.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level > len(path.relative_to(folder).parts)
    ]
    assert leaving == []
