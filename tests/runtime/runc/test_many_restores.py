"""A hundred containers out of one snapshot: each is whole, and nothing is left of any."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest
from test_runc_life import all_traces, traces
from workshop import Workshop, in_workshop
from written import obedient, restored, write

pytestmark = [pytest.mark.slow, pytest.mark.root]

RESTORES = 100


def own() -> dict[str, int]:
    """What this process has open, and its children."""
    children: list[str] = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that ends just now
            children += (task / "children").read_text().split()
    return {"descriptors": len(os.listdir("/proc/self/fd")), "children": len(children)}


def test_a_hundred_restores_in_a_row(home: Path) -> None:
    async def one(shop: Workshop, folder: Path, number: int) -> None:
        async with restored(shop, folder, block_network=number % 2 == 0) as it:
            code = f"kept.append({number}); answer = kept, len(os.listdir('/root/own'))"
            assert f"(['written', {number}], 1)" == await it.do(code)
            output = it.container.output
        for descriptor in output:
            os.close(descriptor)

    async def body(shop: Workshop) -> Workshop:
        async with obedient(shop) as it:
            code = "import os; kept = ['written']; os.mkdir('/root/own'); open('/root/own/file', 'w').close()"
            await it.do(code)
            folder = await write(shop, it)
            output = it.container.output
        for descriptor in output:
            os.close(descriptor)
        await one(shop, folder, 0)
        # What the isolation keeps ready is there from the first container on.
        await shop.isolation._sandboxes._refilling  # type: ignore[union-attr,misc]
        before, links = own(), len(traces(shop)["interfaces"])
        for first in range(1, RESTORES, 3):  # sometimes by itself, mostly beside others
            numbers = range(first, min(first + first % 4 + 1, first + 3, RESTORES))
            await asyncio.gather(*(one(shop, folder, number) for number in numbers))
            for number in range(numbers.stop, min(first + 3, RESTORES)):
                await one(shop, folder, number)
        assert before == own()
        found = traces(shop)
        assert [] == found["state"] == found["cgroups"] == found["mounts"]
        assert links >= len(found["interfaces"])
        for each in (shop.home / "host" / "containers").iterdir():
            assert not (each / "isolation").exists()
        return shop

    shop = in_workshop(home, body)
    found = all_traces(shop)
    del found["containers"]
    assert {} == {what: each for what, each in found.items() if each}
