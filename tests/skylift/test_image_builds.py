"""Images that are built before the call that needs them: log, errors, reconnects, interrupts."""

from __future__ import annotations

import asyncio
import importlib.metadata
import pickle
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sdk_gateway import Build, FakeGateway

import skylift
from skylift import App, Image
from skylift.build_view import BuildView
from skylift.exceptions import ImageBuildError, InvalidError, NotFoundError, VersionError
from skylift.image_builds import forget_built
from skylift.image_packages import SDK_NEEDS
from skylift.session import Session
from skylift.wire import AddFiles, BuildImage, BuildOutput, CancelBuild, Define, Problem, definition_keys

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
OTHER = "3.13" if HERE != "3.13" else "3.12"


@pytest.fixture(autouse=True)
def nothing_built() -> Iterator[None]:
    forget_built()
    yield
    forget_built()


def image() -> Image:
    return Image.debian_slim().pip_install("numpy")


def asked(gateway: FakeGateway) -> list[BuildImage]:
    return gateway.sent(BuildImage)


def look_again(image: Image) -> None:
    """As when some time has passed."""
    assert image._chain is not None
    image._chain._look_again = 0.0


# --- calls ---------------------------------------------------------------------------------------------


def test_an_image_is_built_once_before_the_first_call(gateway: FakeGateway, app: App) -> None:
    @app.function(image=image())
    def double(x: int) -> int:
        return 2 * x

    assert 6 == double.remote(3)
    assert 8 == double.remote(4)
    (build,) = asked(gateway)
    (define,) = gateway.sent(Define)
    assert definition_keys(build.image)[-1] == define.spec.image.fingerprint
    assert "layers" == define.spec.image.kind
    # Another function, and an equal image.
    other = app.function(image=image())(lambda x: x)
    assert 1 == other.remote(1)
    assert [build] == asked(gateway)


def test_the_image_of_an_app_and_of_a_class(gateway: FakeGateway) -> None:
    app = App("with-image", image=image())

    @app.cls()
    class Model:
        @skylift.method()
        def add(self, x: int) -> int:
            return x + 1

    @app.function()
    def same(x: int) -> int:
        return x

    with app.run():
        assert 2 == Model().add.remote(1)
        assert 1 == same.remote(1)
    assert 1 == len(asked(gateway))
    assert {"layers"} == {define.spec.image.kind for define in gateway.sent(Define)}


def test_a_session_in_an_image(gateway: FakeGateway) -> None:
    session = Session(image=image())
    assert "layers" == session.spec.image.kind
    assert 1 == len(asked(gateway))


def test_code_that_uses_skylift_gets_it(gateway: FakeGateway, app: App, tmp_path: Path) -> None:
    with_files = image().add_local_dir(tmp_path, "/x", ignore=["*"])
    inner = app.function(image=with_files)(lambda x: x)
    outer = app.function(image=with_files)(lambda x: (inner, x)[1])
    assert 1 == inner.remote(1)
    assert 2 == outer.remote(2)
    first, second = asked(gateway)
    assert ["debian_slim", "pip_install", "add_local_dir"] == [
        step.label.partition(" ")[0] for step in first.image.steps
    ]
    assert "blake3" in second.image.steps[2].commands[0]  # type: ignore[union-attr]
    assert ["add_local_dir", "source", "source"] == [
        step.label.partition(" ")[0] for step in second.image.steps[3:]
    ]


def test_what_skylift_needs_is_what_it_says() -> None:
    said = [line.partition(";")[0] for line in importlib.metadata.requires("skylift") or ()]
    for need in SDK_NEEDS:
        name, _, versions = need.partition(">=")
        (found,) = (line for line in said if re.match(rf"{name}\b", line))
        assert set(f">={versions}".split(",")) == set(found.removeprefix(name).split(","))


def test_an_image_in_a_closure_is_the_same_image(gateway: FakeGateway, app: App) -> None:
    inner = app.function(image=image())(lambda x: x)

    @app.function()
    def outer() -> Any:
        return inner

    outer.remote()
    code = gateway.control.bytes_of(gateway.sent(Define)[-1].code)
    function = pickle.loads(code)
    (cell,) = function.__closure__
    travelled = cell.cell_contents._image()
    assert travelled == pickle.loads(pickle.dumps(image()))


def test_many_at_a_time_build_the_same(gateway: FakeGateway, app: App) -> None:
    builds: list[Build] = []
    gateway.control.build = builds.append
    double = app.function(image=image())(lambda x: 2 * x)

    async def many() -> list[int]:
        calls = [asyncio.ensure_future(double.remote.aio(number)) for number in range(3)]
        await asyncio.to_thread(gateway.wait_for, lambda: len(builds) == 3)
        for build in builds:
            gateway.control._call_soon(build.end)
        return await asyncio.gather(*calls)

    assert [0, 2, 4] == asyncio.run(many())
    assert 1 == len({definition_keys(build.message.image)[-1] for build in builds})


# --- what is shown -------------------------------------------------------------------------------------


def test_the_log_is_printed_and_an_image_that_is_there_prints_nothing(
    gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(build: Build) -> None:
        build.say(step=0, state="cached")
        build.say("$ pip\nCollecting nu", step=1)
        build.say("mpy\r 10%\r100%\n\x1b[2KDo", step=1)
        build.say("ne", step=1)
        build.say(step=1, state="done")
        build.end()

    def there(build: Build) -> None:
        for step in (0, 1):
            build.say(step=step, state="cached")
        build.end()

    gateway.control.build = build
    with skylift.enable_output():
        assert image() == image().build()
        assert capsys.readouterr().out == (
            f"Step 1 of 2: debian_slim {HERE} (there already)\nStep 2 of 2: pip_install numpy\n"
            "$ pip\n100%\nDone\n"
        )
        gateway.control.build = there
        forget_built()
        image().build()
    assert ("", "") == capsys.readouterr()


def test_nothing_is_printed_where_output_is_not_enabled(
    gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.control.build = lambda build: (build.say("text\n"), build.end())[0]
    image().build()
    assert ("", "") == capsys.readouterr()


def test_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, str]] = []

    class Display:
        def show(self, phase: str, text: str) -> None:
            shown.append((phase, text.partition(" · ")[0]))

    monkeypatch.setattr("skylift.build_view.FIRST_AFTER", 0.0)
    monkeypatch.setattr("skylift.build_view.TICK", 0.0)
    view = BuildView()
    view._display, view.visible = Display(), True  # type: ignore[assignment]
    view.sending(5_000_000, 2_000_000_000)
    view.output(BuildOutput(build_id="b", step=0, steps=2, state="cached", label="base"))
    view.output(BuildOutput(build_id="b", step=1, steps=2, label="pip_install " + "x" * 200))
    view.output(BuildOutput(build_id="b", step=1, steps=2, done=1_000_000, total=3_000_000))
    view.built()
    assert ("building", "sending files, 5.0 MB of 2.00 GB") == shown[0]
    assert "step 2 of 2: pip_install xxx" in shown[2][1]
    assert 160 == len(shown[2][1])
    assert "built" == shown[-1][0]


# --- errors --------------------------------------------------------------------------------------------


def test_a_build_that_fails(gateway: FakeGateway, app: App) -> None:
    problem = Problem(
        error="ImageBuildError", message="Step 2 of 2 (pip_install numpy): exit code 1\nNo match"
    )
    gateway.control.build = lambda build: build.end(problem)
    double = app.function(image=image())(lambda x: 2 * x)
    with pytest.raises(ImageBuildError, match=r"^Step 2 of 2 \(pip_install numpy\): exit code 1\nNo match$"):
        double.remote(1)
    assert [] == gateway.sent(Define)
    gateway.control.build = lambda build: build.end()
    assert 2 == double.remote(1)


def test_another_python_is_found_before_anything_is_built(gateway: FakeGateway, app: App) -> None:
    double = app.function(image=Image.debian_slim(OTHER))(lambda x: 2 * x)
    with pytest.raises(VersionError) as caught:
        double.remote(1)
    assert str(caught.value) == (
        f"<lambda>: this is Python {HERE} and its image has Python {OTHER}: code that is sent from one "
        f"cannot run in the other. Use Image.debian_slim(python_version='{HERE}'), or add_python='{HERE}' "
        f"with Image.from_registry; or run this notebook under Python {OTHER}"
    )
    with pytest.raises(VersionError, match=rf"^session s: this is Python {HERE} and its image has"):
        _ = Session(image=Image.debian_slim(OTHER), name="s").spec
    assert [] == asked(gateway)


def test_another_python_of_an_image_that_was_built(gateway: FakeGateway, app: App) -> None:
    gateway.control.build = lambda build: build.end(python_version=f"{OTHER}.2")
    double = app.function(image=Image.from_registry("x/y"))(lambda x: 2 * x)
    with pytest.raises(VersionError, match=rf"its image has Python {OTHER}: code"):
        double.remote(1)
    gateway.control.build = lambda build: build.end(python="", python_version="")
    double = app.function(image=Image.from_registry("x/z"))(lambda x: 2 * x)
    with pytest.raises(
        InvalidError, match=rf"^<lambda>: its image has no Python.* add_python='{HERE}' where"
    ):
        double.remote(1)


def test_files_that_the_store_has_lost_are_sent_again(gateway: FakeGateway, app: App, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    problem = Problem(error="NotFoundError", message="Files of step 'x' are not in the store")
    with_file = image().add_local_file(tmp_path / "file", "/root/")

    def lose(build: Build) -> None:
        files = next(step for step in build.message.image.steps if isinstance(step, AddFiles))
        (archive,) = files.archives
        path = gateway.store.path(archive.blobs[0])
        if len(asked(gateway)) == 1:
            path.unlink()
            build.end(problem)
        else:
            build.end()

    gateway.control.build = lose
    with_file.build()
    assert 2 == len(asked(gateway))
    forget_built()
    gateway.control.build = lambda build: build.end(problem)
    with pytest.raises(NotFoundError, match="are not in the store"):
        with_file.build()


def test_files_that_change_make_another_image(gateway: FakeGateway, app: App, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("one")
    with_files = image().add_local_dir(folder, "/x")
    double = app.function(image=with_files)(lambda x: 2 * x)
    assert 2 == double.remote(1)
    assert 2 == double.remote(1)
    (folder / "file").write_text("another")
    look_again(with_files)
    assert 2 == double.remote(1)
    assert 2 == len(asked(gateway))
    assert 2 == len({define.function_id for define in gateway.sent(Define)})
    (folder / "file").unlink()
    folder.rmdir()
    look_again(with_files)
    with pytest.raises(InvalidError, match=r"^add_local_dir .*: there is no '.*' here"):
        double.remote(1)


# --- connections ---------------------------------------------------------------------------------------


def test_a_lost_connection_is_taken_up_and_no_line_comes_twice(
    gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(build: Build) -> None:
        if len(asked(gateway)) == 1:
            build.say("one\ntw", at=0)
            threading.Thread(target=gateway.cut).start()
        else:
            build.say("one\ntwo\n", at=0)
            build.say("three\n", at=8)
            build.end()

    gateway.control.build = build
    with skylift.enable_output():
        Image.debian_slim().build()
    assert f"Step 1 of 1: debian_slim {HERE}\none\ntwo\nthree\n" == capsys.readouterr().out
    first, second = asked(gateway)
    assert first == second


def test_a_gateway_that_was_started_again_counts_anew(
    gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(build: Build) -> None:
        if len(asked(gateway)) == 1:
            build.say("one\ntwo\n", at=0)
            gateway.control.gateway_id = "ga-00000001"
            threading.Thread(target=gateway.cut).start()
        else:
            build.say("three\n", at=0)
            build.end()

    gateway.control.build = build
    with skylift.enable_output():
        Image.debian_slim().build()
    assert capsys.readouterr().out.endswith("\none\ntwo\nthree\n")


def test_an_interrupt_cancels_the_build(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("skylift.waiting.Mailbox.take", interrupted)
    gateway.control.build = lambda build: None
    with pytest.raises(KeyboardInterrupt):
        image().build()
    gateway.wait_for(lambda: gateway.sent(CancelBuild))
    assert [build.build_id for build in asked(gateway)] == [
        cancel.build_id for cancel in gateway.sent(CancelBuild)
    ]


def test_a_cancelled_task_cancels_the_build(gateway: FakeGateway) -> None:
    builds: list[Build] = []
    gateway.control.build = builds.append

    async def cancelled() -> None:
        task = asyncio.ensure_future(image().build.aio())
        await asyncio.to_thread(gateway.wait_for, lambda: builds)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    gateway.wait_for(lambda: gateway.sent(CancelBuild))


def test_another_gateway_is_asked_again(gateway: FakeGateway) -> None:
    image().build()
    gateway.control.gateway_id = "ga-00000001"
    skylift.client.close_client()
    image().build()
    assert 2 == len(asked(gateway))
