"""Builds of images: what was built, one build for all who ask, hosts and clients that go away."""

from __future__ import annotations

from pathlib import Path

import pytest
from control_harness import FakeClient, FakeHost, Plane, spec

from skylift.backend import builds
from skylift.lazyfs.chunked import encode, write_chunks
from skylift.lazyfs.image_records import write_image
from skylift.lazyfs.names import LocalNames
from skylift.wire import (
    AddFiles,
    Archive,
    BuildEnded,
    BuildImage,
    BuildOutput,
    CancelBuild,
    CopyFrom,
    FromScratch,
    ImageDefinition,
    ImageSpec,
    Problem,
    RunCommands,
    StartContainer,
    definition_keys,
    new_id,
)

pytestmark = pytest.mark.anyio

IMAGE = ImageDefinition(steps=(FromScratch(), RunCommands(commands=("make",), label="run_commands make")))
KEY = definition_keys(IMAGE)[-1]


def built(layers: tuple[str, ...] = ()) -> ImageSpec:
    return ImageSpec(
        kind="layers", python="/usr/bin/python3", python_version="3.11.2", fingerprint=KEY, layers=layers
    )


def ask(client: FakeClient, image: ImageDefinition = IMAGE, build_id: str = "") -> str:
    build_id = build_id or new_id("bu")
    client.say(BuildImage(build_id=build_id, image=image))
    return build_id


def say(host: FakeHost, to: BuildImage, text: str, step: int = 1, **what: object) -> None:
    host.say(BuildOutput(build_id=to.build_id, step=step, steps=2, text=text, **what))


def printed(client: FakeClient, build_id: str) -> str:
    return "".join(output.text for output in client.all(BuildOutput, build_id=build_id))


async def message_of(client: FakeClient, build_id: str) -> str:
    ended = await client.one(BuildEnded, build_id=build_id)
    assert ended.problem is not None
    return f"{ended.problem.error}: {ended.problem.message}"


@pytest.fixture
def layer(tmp_path: Path, plane: Plane) -> str:
    """A layer in the store."""
    path = tmp_path / "layer"
    path.write_bytes(b"some tree" * 1000)
    return plane.store.put(encode(write_chunks(path, plane.store)))


# --- what there is -------------------------------------------------------------------------------------


async def test_an_image_that_was_built_is_found_without_a_host(plane: Plane, layer: str) -> None:
    write_image(LocalNames(plane.home / "names"), KEY, built((layer,)))
    client = plane.client()
    ended = await client.one(BuildEnded, build_id=ask(client))
    assert built((layer,)) == ended.image


async def test_an_image_whose_layer_is_gone_is_built_again(plane: Plane) -> None:
    write_image(LocalNames(plane.home / "names"), KEY, built(("ab" * 32,)))
    host, client = plane.host(), plane.client()
    build_id = ask(client)
    order = await host.one(BuildImage)
    assert IMAGE == order.image
    host.say(BuildEnded(build_id=order.build_id, image=built()))
    assert built() == (await client.one(BuildEnded, build_id=build_id)).image


async def test_files_that_are_not_in_the_store_are_named(plane: Plane) -> None:
    files = AddFiles(target="/data", archives=(Archive(blobs=("cd" * 32,), size=9),), label="add_local_dir x")
    client = plane.client()
    plane.host()
    message = await message_of(client, ask(client, ImageDefinition(steps=(FromScratch(), files))))
    assert message == (
        "NotFoundError: Files of step 'add_local_dir x' are not in the store, which has no blob "
        f"{'cd' * 32}. Send them again."
    )


async def test_what_is_no_blob_is_refused(plane: Plane) -> None:
    run = RunCommands(commands=("make",), inputs={"x": "../../etc/passwd"}, label="run")
    client = plane.client()
    message = await message_of(client, ask(client, ImageDefinition(steps=(FromScratch(), run))))
    assert message == "InvalidError: '../../etc/passwd' in step 'run' is not the name of a blob."


# --- building ------------------------------------------------------------------------------------------


async def test_two_clients_watch_one_build(plane: Plane) -> None:
    host, first, second = plane.host(), plane.client(), plane.client()
    a = ask(first)
    order = await host.one(BuildImage)
    say(host, order, "one\n")
    say(host, order, "two\n")
    b = ask(second)
    await second.until(lambda: printed(second, b) == "one\ntwo\n")
    say(host, order, "three\n")
    host.say(BuildEnded(build_id=order.build_id, image=built()))
    for client, build_id in ((first, a), (second, b)):
        assert built() == (await client.one(BuildEnded, build_id=build_id)).image
        assert "one\ntwo\nthree\n" == printed(client, build_id)
    assert [0, 4, 8] == [output.at for output in first.all(BuildOutput, build_id=a)]
    assert 1 == len(host.all(BuildImage))


async def test_users_share_no_build(plane: Plane) -> None:
    host = plane.host()
    ask(plane.client(user="ann"))
    ask(plane.client(user="bob"))
    await host.until(lambda: len(host.all(BuildImage)) == 2)


async def test_what_failed_is_tried_again_when_it_is_asked_for_again(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    build_id = ask(client)
    order = await host.one(BuildImage)
    problem = Problem(error="ImageBuildError", message="step 2 of 2 (make): exit code 2")
    host.say(BuildEnded(build_id=order.build_id, problem=problem))
    assert "ImageBuildError: step 2 of 2 (make): exit code 2" == await message_of(client, build_id)
    ask(client)
    await host.until(lambda: len(host.all(BuildImage)) == 2)


async def test_builds_are_spread_over_hosts(plane: Plane) -> None:
    hosts = [plane.host(host_id=f"ho-0000000{number}") for number in (1, 2)]
    client = plane.client()
    for name in ("a", "b"):
        ask(client, ImageDefinition(steps=(FromScratch(), RunCommands(commands=(name,)))))
    for host in hosts:
        await host.one(BuildImage)


async def test_the_kept_log_is_bounded(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, "LOG_KEPT", 100)
    monkeypatch.setattr(builds, "MERGED", 10)
    host, client, late = plane.host(), plane.client(), plane.client()
    build_id = ask(client)
    order = await host.one(BuildImage)
    say(host, order, "", step=0, state="cached", label="scratch")
    for number in range(100):
        say(host, order, f"{number:9}\n")
    say(host, order, "", done=5, total=10)
    assert 1000 == len(printed(client, build_id))
    again = ask(late)
    await late.until(lambda: printed(late, again).endswith("99\n"))
    assert 100 == len(printed(late, again))
    first = next(output for output in late.all(BuildOutput) if output.text)
    assert 900 == first.at
    assert ["scratch"] == [output.label for output in late.all(BuildOutput, state="cached")]
    assert [] == late.all(BuildOutput, total=10)


# --- clients that go ----------------------------------------------------------------------------------


async def test_a_client_that_comes_back_hears_the_log_and_the_end(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    build_id = ask(client)
    order = await host.one(BuildImage)
    say(host, order, "one\n")
    client.disconnect()
    say(host, order, "two\n")
    client.messages.clear()
    client.connect()
    ask(client, build_id=build_id)
    host.say(BuildEnded(build_id=order.build_id, image=built()))
    assert "one\ntwo\n" == printed(client, build_id)
    assert built() == (await client.one(BuildEnded, build_id=build_id)).image
    assert [] == host.all(CancelBuild)


@pytest.mark.parametrize("plane", [{"client_grace": 0.01}], indirect=True)
async def test_a_build_of_a_client_that_is_gone_is_cancelled(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    ask(client)
    order = await host.one(BuildImage)
    client.disconnect()
    assert order.build_id == (await host.one(CancelBuild)).build_id


async def test_a_build_is_cancelled_when_its_last_watcher_says_so(plane: Plane) -> None:
    host, first, second = plane.host(), plane.client(), plane.client()
    a, b = ask(first), ask(second)
    order = await host.one(BuildImage)
    say(host, order, "one\n")
    await second.until(lambda: printed(second, b))
    first.say(CancelBuild(build_id=a))
    say(host, order, "two\n")
    assert "one\n" == printed(first, a)
    assert [] == host.all(CancelBuild)
    second.say(CancelBuild(build_id=b))
    assert [order.build_id] == [message.build_id for message in host.all(CancelBuild)]


async def test_a_build_that_was_cancelled_while_its_host_was_away_is_cancelled_there(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    build_id = ask(client)
    order = await host.one(BuildImage)
    host.disconnect()
    client.say(CancelBuild(build_id=build_id))
    host.connect()
    assert [] == host.all(CancelBuild)
    say(host, order, "still at it\n")
    assert [order.build_id] == [message.build_id for message in host.all(CancelBuild)]


async def test_a_build_that_was_cancelled_is_another_when_it_is_asked_for_again(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    client.say(CancelBuild(build_id=await building(host, client)))
    first = (await host.one(CancelBuild)).build_id
    ask(client)
    again = await host.until(lambda: [order for order in host.all(BuildImage) if order.build_id != first])
    assert IMAGE == again[0].image


async def building(host: FakeHost, client: FakeClient) -> str:
    build_id = ask(client)
    await host.one(BuildImage)
    return build_id


async def test_a_gateway_that_is_started_again_goes_on_with_the_build(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    build_id = ask(client)
    order = await host.one(BuildImage)
    await plane.stop()
    await plane.start()
    host.messages.clear()
    host.connect()
    say(host, order, "meanwhile\n")
    assert [] == host.all(CancelBuild)
    client.connect()
    ask(client, build_id=build_id)
    assert order == await host.one(BuildImage)
    say(host, order, "on\n")
    host.say(BuildEnded(build_id=order.build_id, image=built()))
    assert built() == (await client.one(BuildEnded, build_id=build_id)).image
    assert "on\n" == printed(client, build_id)


@pytest.mark.parametrize("plane", [{"client_grace": 0.0}], indirect=True)
async def test_a_build_of_before_that_nobody_asks_for_is_cancelled(plane: Plane) -> None:
    host = plane.host()
    say(host, BuildImage(build_id="bu-00000001", image=IMAGE), "text")
    assert ["bu-00000001"] == [cancel.build_id for cancel in host.all(CancelBuild)]


# --- hosts that go ------------------------------------------------------------------------------------


async def test_a_build_waits_for_a_host(plane: Plane) -> None:
    client = plane.client()
    build_id = ask(client)
    await plane.settle()
    host = plane.host()
    order = await host.one(BuildImage)
    host.say(BuildEnded(build_id=order.build_id, image=built()))
    assert built() == (await client.one(BuildEnded, build_id=build_id)).image


async def test_without_a_host_to_come_it_says_why(plane: Plane) -> None:
    plane.engine.problem = "runc is not installed"
    client = plane.client()
    assert await message_of(client, ask(client)) == (
        "ImageBuildError: The image was not built: there is no host to build it on (runc is not installed). "
        "%skylift doctor says more."
    )


async def test_no_host_comes(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, "HOST_SECONDS", 0.01)
    client = plane.client()
    assert "(none came within 0.01 seconds)" in await message_of(client, ask(client))


async def test_a_host_whose_link_comes_back_is_asked_to_go_on(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    build_id = ask(client)
    order = await host.one(BuildImage)
    host.disconnect()
    host.connect()
    assert [order, order] == host.all(BuildImage)
    host.say(BuildEnded(build_id=order.build_id, image=built()))
    assert built() == (await client.one(BuildEnded, build_id=build_id)).image


@pytest.mark.parametrize("plane", [{"host_grace": 0.01}], indirect=True)
async def test_a_build_on_a_lost_host_goes_to_another_and_then_fails(plane: Plane) -> None:
    client = plane.client()
    build_id = ask(client)
    for number in (1, 2, 3):
        host = plane.host(host_id=f"ho-0000000{number}")
        await host.one(BuildImage)
        host.disconnect()
        if number < 3:
            await client.until(lambda count=number: printed(client, build_id).count("begins again") == count)
    assert await message_of(client, build_id) == (
        "ImageBuildError: The image was not built: host lab was lost during its build (its link was lost and "
        "did not come back), which had been begun 3 times. Steps that were done are kept; build it again to "
        "go on."
    )


# --- limits -------------------------------------------------------------------------------------------


async def test_limits(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    client = plane.client()
    assert "InvalidError: An image needs at least one step" in await message_of(
        client, ask(client, ImageDefinition(steps=()))
    )
    many = ImageDefinition(steps=(FromScratch(), *[RunCommands(commands=("x",))] * builds.MAX_STEPS))
    assert "This image has 501 steps; 500 is the limit" in await message_of(client, ask(client, many))
    deep = IMAGE
    for _ in range(builds.MAX_DEPTH):
        deep = ImageDefinition(steps=(FromScratch(), CopyFrom(image=deep, source="/", target="/")))
    assert "copies from images 8 deep" in await message_of(client, ask(client, deep))
    client.say(BuildImage(build_id="../x", image=IMAGE))
    assert "'../x' is not the id of a build" in await message_of(client, "../x")
    monkeypatch.setattr(builds, "MAX_WATCHERS", 1)
    host = plane.host()
    ask(client)
    await host.one(BuildImage)
    assert "ResourceExhaustedError: 1 clients wait for images already" in await message_of(
        client, ask(client)
    )
    monkeypatch.setattr(builds, "MAX_BUILDS", 1)
    other = ImageDefinition(steps=(FromScratch(),))
    assert "The gateway has 1 images being built, its limit" in await message_of(client, ask(client, other))


async def test_code_without_a_network_cannot_build(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define(spec(block_network=True)))
    run = await host.run(call_id)
    assert host.all(StartContainer)
    inside = plane.client(container_id=run.container_id)
    assert await message_of(inside, ask(inside)) == (
        "PermissionDeniedError: Code in app.f, which has no network (block_network=True), cannot build "
        "images: builds have a network. Build this one in the notebook first, with image.build()"
    )
