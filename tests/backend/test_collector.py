"""What of the store is freed, and that nothing is which somebody needs."""

from __future__ import annotations

import asyncio
import io
import os
import time

import pytest
from control_harness import Plane

from skylift.lazyfs.chunked import encode, write_small
from skylift.lazyfs.garbage import GRACE_SECONDS, CollectError
from skylift.lazyfs.image_records import still_there, write_image
from skylift.lazyfs.names import LocalNames
from skylift.lazyfs.store import LocalStore
from skylift.lazyfs.volumes import Volumes
from skylift.wire import Event, ImageSpec, Inputs, Payload

pytestmark = pytest.mark.anyio


def large(number: int) -> bytes:
    return b"%08d" % number * 1000


class Shelf:
    """The store of a control plane, whose blobs are old."""

    def __init__(self, plane: Plane) -> None:
        self.store = plane.control.registry.store
        assert isinstance(self.store, LocalStore)
        self.names = LocalNames(plane.home / "names")

    def put(self, number: int) -> Payload:
        data = large(number)
        return Payload(blob=self.store.put(data), size=len(data))

    def grow_old(self) -> None:
        """Every blob was put before the grace."""
        then = time.time() - GRACE_SECONDS - 60
        assert isinstance(self.store, LocalStore)
        for file in self.store.folder.glob("??/*"):
            os.utime(file, (then, then))


async def test_what_calls_have_in_the_store_is_kept(plane: Plane) -> None:
    shelf = Shelf(plane)
    args, waiting, garbage = (shelf.put(number) for number in (0, 2, 3))
    client = plane.client()
    function_id = client.define()
    queued = client.submit(function_id, args=args, durable=True, detached=True)
    await plane.control.database.flush()
    done = client.submit(function_id)
    mapped = client.submit(function_id, kind="map")
    client.say(Inputs(call_id=mapped, start=0, items=(waiting,), total=1))
    shelf.grow_old()
    found = await plane.control.collector.collect(dry_run=True)
    assert (1, len(large(3))) == (found.deleted, found.freed)
    assert shelf.store.has(garbage.blob)
    assert 1 == (await plane.control.collector.collect()).deleted
    assert not shelf.store.has(garbage.blob)

    host, result = plane.host(), shelf.put(1)
    shelf.grow_old()
    await host.run(queued)
    await host.run(done)
    host.emit(done, Event(kind="result", meta={}, blob=result.blob), end="done")
    await client.ended(done)
    await plane.control.database.flush()
    assert 0 == (await plane.control.collector.collect()).deleted
    for payload in (args, result, waiting):
        assert shelf.store.has(payload.blob)


async def test_images_and_volumes_are_kept(plane: Plane) -> None:
    shelf = Shelf(plane)
    layer = shelf.store.put(encode(write_small(large(1), shelf.store)))
    image = ImageSpec(kind="layers", python="", python_version="", layers=(layer,))
    write_image(shelf.names, "k", image)
    volume = Volumes(shelf.store, shelf.names, space="local").from_name("data", create_if_missing=True)
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(large(2)), "/file")
    shelf.put(3)
    shelf.grow_old()
    assert 1 == (await plane.control.collector.collect()).deleted
    assert still_there(image, shelf.store)
    assert large(2) == b"".join(volume.read_file("/file"))


async def test_what_was_asked_for_or_put_again_is_kept(plane: Plane) -> None:
    shelf = Shelf(plane)
    asked, again, garbage = (shelf.put(number) for number in range(3))
    shelf.grow_old()
    await plane.control.collector.mention(asked.blob)
    shelf.put(1)
    assert 1 == (await plane.control.collector.collect()).deleted
    assert [True, True, False] == [shelf.store.has(each.blob) for each in (asked, again, garbage)]


async def test_who_asks_while_blobs_are_deleted_waits(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(plane)
    garbage = shelf.put(1)
    shelf.grow_old()
    asking: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()
    delete = shelf.store.delete

    def ask_then_delete(blob: str) -> None:
        async def ask() -> None:
            asking.append(asyncio.ensure_future(plane.control.collector.mention(blob)))
            await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(ask(), loop).result()
        assert not asking[0].done()
        delete(blob)

    monkeypatch.setattr(shelf.store, "delete", ask_then_delete)
    assert 1 == (await plane.control.collector.collect()).deleted
    await asyncio.wait_for(asking[0], 30)
    # Now it is told that it is not there.
    assert not shelf.store.has(garbage.blob)


async def test_nothing_is_deleted_where_it_is_not_known_what_is_needed(plane: Plane) -> None:
    shelf = Shelf(plane)
    garbage = shelf.put(1)
    Volumes(shelf.store, shelf.names, space="local").create("data")
    (head,) = (name for name in shelf.names.under("volumes") if name.endswith("/head"))
    was = shelf.names.get(head)
    assert was is not None
    shelf.names.put(head, b"not a head")
    shelf.grow_old()
    with pytest.raises(CollectError, match="No garbage was collected, since it is not known what is in use"):
        await plane.control.collector.collect()
    assert shelf.store.has(garbage.blob)
    # The next one can tell.
    shelf.names.put(head, was)
    assert 1 == (await plane.control.collector.collect()).deleted
