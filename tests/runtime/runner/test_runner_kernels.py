"""A Jupyter kernel in the runner, with the sockets that a host gives it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_host import Call, FakeHost
from jupyter_client.blocking import BlockingKernelClient

from skylift.runtime.kernel_sockets import CHANNELS, HANDOVER_SOCKET, KernelSockets

PATIENCE = 30.0


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def open_sockets(loop: asyncio.AbstractEventLoop, host: FakeHost, folder: Path) -> KernelSockets:
    async def opening() -> KernelSockets:
        return KernelSockets(folder, Path(host.path).parent)

    return asyncio.run_coroutine_threadsafe(opening(), loop).result()


def close_sockets(loop: asyncio.AbstractEventLoop, sockets: KernelSockets) -> None:
    async def closing() -> None:
        sockets.close()

    asyncio.run_coroutine_threadsafe(closing(), loop).result()


def start_kernel(host: FakeHost) -> Call:
    call = host.new_call()
    request = {"key": "a key", "signature_scheme": "hmac-sha256", "env": {"JPY_SESSION_NAME": "mine.ipynb"}}
    host.send({"t": "kernel", "call": call.id, "window": 1 << 20}, json.dumps(request).encode())
    return call


def connect(folder: Path) -> BlockingKernelClient:
    channels = ("shell", "iopub", "stdin", "control", "hb")
    client = BlockingKernelClient()
    client.load_connection_info(
        {
            "transport": "ipc",
            "ip": f"{folder}/kernel",
            "key": b"a key",  # type: ignore[typeddict-item]
            "signature_scheme": "hmac-sha256",
            **{f"{channel}_port": number for number, channel in enumerate(channels, 1)},  # type: ignore[typeddict-item]
        }
    )
    client.start_channels()
    return client


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the sockets; not there yet."""
    return tmp_path_factory.mktemp("k") / "k"


def test_a_kernel_from_its_start_to_its_end(
    own_host: FakeHost, loop: asyncio.AbstractEventLoop, folder: Path
) -> None:
    sockets = open_sockets(loop, own_host, folder)
    try:
        # Who connects before the kernel is there waits for it.
        client = connect(folder)
        call = start_kernel(own_host)
        own_host.wait_for(lambda: bool(call.started), PATIENCE, "the kernel")
        client.wait_for_ready(PATIENCE)
        said: list[str] = []
        client.execute_interactive(
            "import os; print(os.environ['JPY_SESSION_NAME'], __name__)",
            output_hook=lambda message: said.append(message["content"].get("text", "")),
            timeout=PATIENCE,
        )
        assert "mine.ipynb __main__\n" == "".join(said)
        assert not (Path(own_host.path).parent / HANDOVER_SOCKET).exists()
        client.shutdown()
        assert "done" == call.wait(PATIENCE).state
        client.stop_channels()
    finally:
        close_sockets(loop, sockets)
    assert [] == list(folder.iterdir())
    own_host.send({"t": "exit", "grace": 5})
    assert 0 == own_host.wait_exit()


def test_it_is_interrupted_and_ended_by_its_host(
    own_host: FakeHost, loop: asyncio.AbstractEventLoop, folder: Path
) -> None:
    sockets = open_sockets(loop, own_host, folder)
    try:
        client = connect(folder)
        call = start_kernel(own_host)
        client.wait_for_ready(PATIENCE)
        client.execute("print('begun', flush=True); import time; time.sleep(600)")
        while "begun" not in client.get_iopub_msg(timeout=PATIENCE)["content"].get("text", ""):
            pass
        call.cancel("interrupt")
        reply = client.get_shell_msg(timeout=PATIENCE)
        assert "KeyboardInterrupt" == reply["content"]["ename"]
        call.cancel("cancel", "nobody needs it")
        assert "cancelled" == call.wait(PATIENCE).state
        assert "nobody needs it" == call.error["message"]
        client.stop_channels()
    finally:
        close_sockets(loop, sockets)


def test_an_image_without_ipykernel(tmp_path: Path) -> None:
    (tmp_path / "ipykernel.py").write_text("raise ImportError('No module named ipykernel')")
    with FakeHost(env={"PYTHONPATH": str(tmp_path)}) as host:
        call = start_kernel(host).wait(PATIENCE)
        assert ("failed", "NotFoundError") == (call.state, call.error["skylift"])
        assert call.error["message"].startswith(
            "a Jupyter kernel needs ipykernel, which this image does not have"
        )
        assert "pip_install('ipykernel')" in call.error["message"]


def test_as_many_sockets_as_channels(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> None:
    async def opening() -> KernelSockets:
        return KernelSockets(tmp_path / ("deep" * 40), tmp_path)

    sockets = asyncio.run_coroutine_threadsafe(opening(), loop).result()
    names = {f"kernel-{number}" for number in range(1, CHANNELS + 1)}
    assert names == {each.name for each in sockets.folder.iterdir()}
    assert 0o700 == sockets.folder.stat().st_mode & 0o777
    close_sockets(loop, sockets)
    close_sockets(loop, sockets)
    assert [] == list(sockets.folder.iterdir())
