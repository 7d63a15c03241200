"""What the methods of Image make of what they are given, and what they say is wrong with it."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import skylift
from skylift import Image
from skylift.exceptions import InvalidError, SerializationError
from skylift.image_parts import FORCED, Dockerfile, Fixed
from skylift.wire import (
    Configure,
    FromDebian,
    FromRegistry,
    FromScratch,
    ImageStep,
    RunCommands,
    definition_keys,
)

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


def base() -> Image:
    return Image.debian_slim("3.12")


def last(image: Image) -> ImageStep:
    assert image._chain is not None
    part = image._chain.parts[-1]
    assert isinstance(part, Fixed)
    return part.step


def inputs(image: Image) -> dict[str, bytes]:
    assert image._chain is not None
    part = image._chain.parts[-1]
    assert isinstance(part, Fixed)
    return dict(part.inputs)


def run(image: Image) -> RunCommands:
    step = last(image)
    assert isinstance(step, RunCommands)
    return step


def command(image: Image) -> str:
    return "\n".join(run(image).commands)


def key(image: Image) -> str:
    assert image._chain is not None
    return definition_keys(image._chain.definition())[-1]


# --- what it begins with -------------------------------------------------------------------------------


def test_beginnings() -> None:
    assert FromDebian(python=HERE, label=f"debian_slim {HERE}") == last(Image.debian_slim())
    assert FromScratch(label="from_scratch") == last(Image.from_scratch())
    step = last(
        Image.from_registry(
            "ghcr.io/org/image:1",
            {"REGISTRY_USERNAME": "me", "REGISTRY_PASSWORD": "secret"},
            add_python="3.12",
        )
    )
    assert step == FromRegistry(
        reference="ghcr.io/org/image:1",
        add_python="3.12",
        username="me",
        password="secret",
        label="from_registry ghcr.io/org/image:1",
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Image(),
            r"^Image\(\) makes no image; use Image\.from_environment\(\), Image\.debian_slim\(\)",
        ),
        (
            lambda: Image.debian_slim("3.9"),
            r"^debian_slim: python_version='3\.9': one of 3\.10, 3\.11, 3\.12",
        ),
        (lambda: Image.debian_slim("3.11.4"), r"the minor version only: \"3\.11\"$"),
        (lambda: Image.debian_slim(3.1), rf"python_version=3\.1 is a number, .*write \"{HERE}\"$"),
        (lambda: Image.from_registry(""), r"^from_registry\(''\): the name of an image, such as"),
        (lambda: Image.from_registry("docker://x"), r"^from_registry\('docker://x'\): the name of an image"),
        (lambda: Image.from_registry("x", add_python="2.7"), r"^from_registry: add_python='2\.7': one of"),
        (lambda: Image.from_registry("x", {"USER": "me"}), r"needs REGISTRY_USERNAME and REGISTRY_PASSWORD$"),
        (
            lambda: Image.from_registry("x", object()),
            r"^from_registry: secrets are not built yet; give a dict",
        ),
        (
            lambda: Image.from_dockerfile("/no/Dockerfile"),
            r"^from_dockerfile: there is no file '/no/Dockerfile'",
        ),
        (lambda: Image.micromamba(), r"^Image\.micromamba is not built yet\. Image\.debian_slim\(\) and"),
        (lambda: base().poetry_install_from_file("x"), r"^Image\.poetry_install_from_file is not built yet"),
        (lambda: Image.nonsense(), r"type object 'Image' has no attribute 'nonsense'"),
        (lambda: base().nonsense(), r"'Image' object has no attribute 'nonsense'"),
    ],
)
def test_beginnings_that_cannot_be(make: Callable[[], object], message: str) -> None:
    with pytest.raises((InvalidError, AttributeError), match=message):
        make()


# --- packages ------------------------------------------------------------------------------------------


def test_pip_install() -> None:
    image = base().pip_install("numpy", ["torch>=2", "numpy"], index_url="https://x/y?z", pre=True)
    assert command(image) == (
        "python -m pip install --disable-pip-version-check --root-user-action=ignore "
        "--index-url 'https://x/y?z' --pre numpy 'torch>=2'"
    )
    assert run(image).pip
    assert "pip_install numpy torch>=2" == run(image).label
    assert command(base().pip_install("x", extra_options="--no-deps")).endswith(" --no-deps x")
    assert base() == base().pip_install()


def test_uv_pip_install(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("six\n")
    image = base().uv_pip_install(
        "numpy", requirements=[str(tmp_path / "r.txt")], uv_version="0.9.1", pre=True
    )
    assert "uv==0.9.1" in command(image)
    assert (
        'uv pip install --python "$(command -v python)" --compile-bytecode --prerelease allow numpy -r'
        in command(image)
    )
    assert {"requirements-0.txt": b"six\n"} == inputs(image)


def test_requirements(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "requirements.txt").write_text("numpy # why\n--extra-index-url https://x\n-r more/too.txt\n")
    (tmp_path / "more" / "too.txt").write_text("six\n")
    image = base().pip_install_from_requirements(str(tmp_path / "requirements.txt"))
    assert {"requirements.txt": b"numpy # why\n--extra-index-url https://x\nsix\n\n"} == inputs(image)
    assert command(image).endswith(" -r /run/skylift/build/requirements.txt")


def test_pyproject(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text(
        '[project]\ndependencies = ["numpy>=2"]\n[project.optional-dependencies]\nplots = ["matplotlib"]\n'
    )
    assert command(base().pip_install_from_pyproject(str(file))).endswith(" 'numpy>=2'")
    assert command(base().pip_install_from_pyproject(str(file), ["plots"])).endswith(" 'numpy>=2' matplotlib")
    with pytest.raises(InvalidError, match=r"has no optional dependencies 'plot'; there are: plots$"):
        base().pip_install_from_pyproject(str(file), ["plot"])
    file.write_text("[tool]\n")
    with pytest.raises(InvalidError, match=r"pyproject\.toml has no \[project\] with dependencies$"):
        base().pip_install_from_pyproject(str(file))
    file.write_text("[")
    with pytest.raises(InvalidError, match=r"^pip_install_from_pyproject: .* is no TOML"):
        base().pip_install_from_pyproject(str(file))


def test_uv_sync(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    with pytest.raises(
        InvalidError, match=r"^uv_sync: '.*' has no uv\.lock; make it with `uv lock`, or say froz"
    ):
        base().uv_sync(str(tmp_path))
    (tmp_path / "uv.lock").write_text("version = 1\n")
    image = base().uv_sync(str(tmp_path), groups=["dev"], extras=["plots"])
    assert {"pyproject.toml", "uv.lock"} == inputs(image).keys()
    assert "uv export --quiet" in command(image)
    assert "--frozen --group dev --extra plots" in command(image)
    with pytest.raises(InvalidError, match=r"^uv_sync: there is no file '/no/pyproject\.toml' here \(in /"):
        base().uv_sync("/no")


def test_apt_install() -> None:
    image = base().apt_install("git", "libgl1=1.6.0-1")
    assert (
        "apt-get update",
        "apt-get install -y --no-install-recommends git libgl1=1.6.0-1",
        "rm -rf /var/lib/apt/lists/*",
    ) == run(image).commands
    assert not run(image).pip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: base().pip_install(pytest),
            r"^pip_install\(the module pytest\): packages are named by text",
        ),
        (
            lambda: base().pip_install(3),
            r"^pip_install\(3\): packages are named by text, such as pip_install\('",
        ),
        (lambda: base().pip_install(" "), r"^pip_install\(' '\): a package's name is empty"),
        (
            lambda: base().pip_install("--pre"),
            r"^pip_install\('--pre'\): that is an option; options go into extra_options='--pre'",
        ),
        (
            lambda: base().pip_install("numpy torch"),
            r"^pip_install\('numpy torch'\): .* an argument of its own: pip_install\('numpy', 'torch'\)$",
        ),
        (
            lambda: base().pip_install("x", gpu="H100"),
            r"^pip_install: gpu='H100' is not built yet: images are",
        ),
        (lambda: base().pip_install("x", index_url=""), r"^pip_install: index_url='': a URL"),
        (
            lambda: base().pip_install("x", extra_options=["-v"]),
            r"^pip_install: extra_options=\['-v'\]: text",
        ),
        (
            lambda: base().pip_install("x", secrets=["s"]),
            r"^pip_install: secrets are not built yet; give a dict",
        ),
        (lambda: base().pip_install("x", env={"A": 1}), r"^pip_install: A=1: the value is text; write '1'"),
        (
            lambda: base().apt_install("git; rm"),
            r"^apt_install\('git; rm'\): not the name of a Debian package",
        ),
        (
            lambda: base().uv_pip_install(requirements="r"),
            r"^uv_pip_install: requirements='r': a list of paths",
        ),
        (
            lambda: base().pip_install_from_requirements("/no/r.txt"),
            r"^pip_install_from_requirements: there is no file '/no/r\.txt' here",
        ),
    ],
)
def test_packages_that_are_none(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        make()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-e .", r"line 2 of .*: '-e \.' is a path of this machine\. Leave it out"),
        ("./wheels/x.whl", r"'\./wheels/x\.whl' is a path of this machine"),
        ("-c c.txt", r"constraints are not built yet; pin the versions"),
        ("-r r.txt", r"r\.txt includes itself$"),
    ],
)
def test_requirements_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.txt").write_text(f"numpy\n{text}\n")
    with pytest.raises(InvalidError, match=message):
        base().pip_install_from_requirements(str(tmp_path / "r.txt"))


# --- commands ------------------------------------------------------------------------------------------


def test_run_commands() -> None:
    image = base().run_commands("make", ["make install", "make clean"], env={"A": "1"}, secrets=[{"T": "x"}])
    assert ("make", "make install", "make clean") == run(image).commands
    assert ({"A": "1"}, {"T": "x"}) == (run(image).env, run(image).secrets)
    assert base() == base().run_commands()
    with pytest.raises(InvalidError, match=r"^run_commands\(''\): a command is text, such as 'make install'"):
        base().run_commands("")
    with pytest.raises(InvalidError, match=r"^run_commands: volumes= is not built yet; leave it out"):
        base().run_commands("x", volumes={"/x": 1})


def test_run_function_takes_the_function_and_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    def fetch(name: str, *, times: int) -> str:
        return name * times

    image = base().run_function(fetch, args=("a",), kwargs={"times": 2})
    function, args, kwargs = pickle.loads(inputs(image)["function.pickle"])
    assert "aa" == function(*args, **kwargs)
    assert "run_function fetch()" == run(image).label
    compile(inputs(image)["run.py"], "run.py", "exec")
    with pytest.raises(InvalidError, match=r"^run_function\(3\): a function"):
        base().run_function(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidError, match=r"^run_function: region= is not built yet; leave it out"):
        base().run_function(fetch, region="eu")
    frame = sys._getframe()
    with pytest.raises(SerializationError, match=r"^run_function\(fetch\): it cannot travel: .*frame"):
        base().run_function(fetch, args=(frame,))


def test_force_build_is_for_one_step_and_all_after_it() -> None:
    plain = base().pip_install("x")
    forced = base().pip_install("x", force_build=True)
    assert FORCED in run(forced).env
    assert key(plain) != key(forced)
    assert key(forced) == key(base().pip_install("x", force_build=True))
    assert key(base()) != key(Image.debian_slim("3.12", force_build=True))


def test_an_images_key() -> None:
    image = base().pip_install("x")
    assert key(image) == image.key
    assert image.key != base().key
    with pytest.raises(InvalidError, match=r"^Image\.from_environment\(\) has no key"):
        _ = Image.from_environment().key


def test_dockerfile_commands(tmp_path: Path) -> None:
    image = base().dockerfile_commands("RUN a", ["ENV B=c"], context_dir=tmp_path)
    assert image._chain is not None
    part = image._chain.parts[-1]
    assert isinstance(part, Dockerfile)
    assert ("RUN a\nENV B=c\n", tmp_path, True) == (part.text, part.context, part.on_top)
    commands = [step.commands for step in image._chain.definition().steps if isinstance(step, RunCommands)]
    assert [("a",)] == commands
    with pytest.raises(InvalidError, match=r"^dockerfile_commands: context_files= is not built yet"):
        base().dockerfile_commands("RUN a", context_files={"a": "b"})


# --- files ---------------------------------------------------------------------------------------------


def test_files_that_cannot_be_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for make, message in (
        (lambda: base().add_local_dir("/no", "/x"), r"^add_local_dir: there is no '/no' here \(in "),
        (lambda: base().add_local_dir(tmp_path / "file", "/x"), r"file' is no folder; use add_local_file$"),
        (lambda: base().add_local_file(tmp_path, "/x"), r"is a folder; use add_local_dir$"),
        (lambda: base().add_local_dir(tmp_path, ""), r"^add_local_dir: remote_path='': a path in the image"),
        (
            lambda: base().add_local_dir(tmp_path, "/a/../b"),
            r"remote_path='/a/\.\./b' must not have '\.\.' in it",
        ),
        (lambda: base().add_local_dir(tmp_path, "/x", ignore="a"), r"^add_local_dir: ignore='a': a list of"),
        (lambda: base().add_local_dir(3, "/x"), r"^add_local_dir\(3, …\): a path"),
        (
            lambda: base().add_local_python_source("no_such"),
            r"there is no module 'no_such' here\. It takes names",
        ),
        (lambda: base().add_local_python_source("sys"), r"'sys' is built into Python: it has no source"),
        (
            lambda: base().add_local_python_source(pytest),
            r"modules are named by text, such as add_local_python",
        ),
    ):
        with pytest.raises(InvalidError, match=message):
            make()  # type: ignore[no-untyped-call]


def test_nothing_is_built_on_files_that_are_added_last(tmp_path: Path) -> None:
    image = base().add_local_dir(tmp_path, "/x")
    for after in (
        lambda: image.pip_install("x"),
        lambda: image.env({"A": "b"}).run_commands("x"),
        lambda: image.add_local_dir(tmp_path, "/y", copy=True),
    ):
        with pytest.raises(
            InvalidError, match=r"comes after 'add_local_dir .*', whose files are added last\. Put"
        ):
            after()
    image.add_local_python_source("skylift").env({"A": "b"}).workdir("/x")
    base().add_local_dir(tmp_path, "/x", copy=True).pip_install("x")


# --- what containers begin with ------------------------------------------------------------------------


def test_configuration() -> None:
    assert Configure(env={"A": "b"}, label="env A") == last(base().env({"A": "b"}))
    assert Configure(workdir="/x", label="workdir /x") == last(base().workdir("/x"))
    assert Configure(entrypoint=("a", "b"), label="entrypoint a b") == last(base().entrypoint(["a", "b"]))
    assert Configure(entrypoint=(), label="entrypoint") == last(base().entrypoint([]))
    assert Configure(cmd=("a",), label="cmd a") == last(base().cmd(["a"]))
    assert Configure(shell=("/bin/bash", "-c"), label="shell /bin/bash -c") == last(
        base().shell(["/bin/bash", "-c"])
    )
    for make, message in (
        (lambda: base().env({"A": 1}), r"^env: A=1: the value is text; write '1'"),
        (lambda: base().env({"A=": "1"}), r"^env: 'A=' is no name of an environment variable"),
        (lambda: base().env([]), r"^env: \[\]: a dict of environment variables"),
        (lambda: base().workdir("x"), r"^workdir\('x'\): an absolute path, such as '/app'"),
        (lambda: base().entrypoint("a b"), r"^entrypoint\('a b'\): a list of words, such as \['a', 'b'\]"),
        (lambda: base().shell([]), r"^shell\(\[\]\): a program and its arguments"),
    ):
        with pytest.raises(InvalidError, match=message):
            make()  # type: ignore[no-untyped-call]


# --- as a value ----------------------------------------------------------------------------------------


def test_an_image_is_a_value() -> None:
    def both(image: Image, name: str) -> Image:
        return image.apt_install(name).pip_install(name)

    image = base().pipe(both, "x")
    assert image == base().apt_install("x").pip_install("x")
    assert hash(image) == hash(base().apt_install("x").pip_install("x"))
    assert image != base()
    assert image != Image.from_environment()
    assert image is copy.deepcopy(image)
    assert "<skylift.Image: debian_slim 3.12; apt_install x; pip_install x>" == repr(image)
    with image.imports():
        import json  # noqa: F401

        import no_such_module_here  # noqa: F401
    again: Image = pickle.loads(pickle.dumps(image))
    assert key(image) == key(again)
    assert frozenset({"no_such_module_here"}) == again._imports
    assert image._imports == image.env({})._imports
    # With files, it has to be in the store before it can travel.
    assert skylift.App(image=image)._default_image() is image


def test_files_of_a_pickled_image_are_in_the_store(gateway: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    image = base().add_local_file(tmp_path / "file", "/root/").add_local_python_source("test_image_steps")
    again: Image = pickle.loads(pickle.dumps(image))
    assert again._chain is not None
    _, files, source, path = again._chain.definition().steps
    assert ("/root", "/root") == (files.target, source.target)  # type: ignore[union-attr]
    assert Configure(env={"PYTHONPATH": "/root"}, label=source.label) == path
    (archive,) = files.archives  # type: ignore[union-attr]
    assert b"content" in gateway.store.get(archive.blobs[0])
