"""jupyter_client's own kernel managers and clients, with kernels in real containers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hosting import PATIENCE, Hosting, hosting_in
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.ioloop import AsyncIOLoopKernelManager
from jupyter_client.ioloop.restarter import AsyncIOLoopKernelRestarter
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager, KernelManager

from skylift.kernel_gateway.hosted_kernels import HostedKernel, KernelError

pytestmark = [pytest.mark.slow, pytest.mark.root]

CONFIG = """
[host]
simulate_gpus = { H100 = 1 }

[gateway]
kernel_start_timeout = 20

[[kernels]]
name = "Small"
memory_limit = 300

[[kernels]]
name = "With data"
volumes = { "/data" = "data" }

[[kernels]]
name = "Lost"
volumes = { "/data" = "no such volume" }

[[kernels]]
name = "Odd"
gpu = "H100 please!!"
"""


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    with hosting_in(tmp_path_factory.mktemp("hosting") / "home", CONFIG) as hosting:
        yield hosting


@pytest.fixture
async def manager(hosting: Hosting, tmp_path: Path) -> AsyncIterator[AsyncKernelManager]:
    manager = hosting.manager(AsyncKernelManager, "skylift-cpu", tmp_path)
    await manager.start_kernel()
    try:
        yield manager
    finally:
        if manager.has_kernel:
            await manager.shutdown_kernel(now=True)


@pytest.fixture
async def client(manager: AsyncKernelManager) -> AsyncIterator[AsyncKernelClient]:
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(PATIENCE)
        yield client
    finally:
        client.stop_channels()


async def run(
    client: AsyncKernelClient, code: str, printed: asyncio.Event | None = None, **options: Any
) -> tuple[Any, list[Any]]:
    """Run a cell. Returns its reply, and the messages that it sent meanwhile. `printed` is set when it has
    printed something."""
    messages: list[Any] = []

    def take(message: Any) -> None:
        messages.append(message)
        if printed is not None and message["msg_type"] == "stream":
            printed.set()

    reply = await client.execute_interactive(
        code, output_hook=take, timeout=PATIENCE, **{"allow_stdin": False, **options}
    )
    return reply["content"], messages


def of_type(messages: list[Any], kind: str) -> list[Any]:
    return [message["content"] for message in messages if message["msg_type"] == kind]


def text(messages: list[Any]) -> str:
    return "".join(content["text"] for content in of_type(messages, "stream"))


# --- the asynchronous client -------------------------------------------------------------------------


@pytest.mark.anyio
async def test_cells_run_and_share_their_variables(client: AsyncKernelClient) -> None:
    await run(client, "answer = 6 * 7")
    reply, messages = await run(client, "print('it is'); answer")
    assert "ok" == reply["status"]
    assert "it is\n" == text(messages)
    assert ["42"] == [result["data"]["text/plain"] for result in of_type(messages, "execute_result")]


@pytest.mark.anyio
async def test_it_runs_in_a_container(client: AsyncKernelClient, hosting: Hosting) -> None:
    _, messages = await run(client, "import os, socket; print(socket.gethostname(), os.listdir('/root'))")
    running = [call for call in hosting.calls() if "running" == call["state"]]
    assert [("kernel", "jupyter", "Python 3 · CPU")] == [
        (call["kind"], call["app"], call["function"]) for call in running
    ]
    assert text(messages).startswith(f"{running[0]['container_id']} [")


@pytest.mark.anyio
async def test_what_child_processes_print_comes_too(client: AsyncKernelClient) -> None:
    _, messages = await run(client, "!echo from a shell\nimport os; _ = os.system('echo from the system')")
    assert "from a shell" in text(messages)
    assert "from the system" in text(messages)


@pytest.mark.anyio
async def test_an_error_is_an_error(client: AsyncKernelClient) -> None:
    reply, messages = await run(client, "1 / 0")
    assert ("error", "ZeroDivisionError") == (reply["status"], reply["ename"])
    assert 1 == len(of_type(messages, "error"))


@pytest.mark.anyio
async def test_a_plot_is_a_picture(client: AsyncKernelClient) -> None:
    reply, messages = await run(client, "import matplotlib.pyplot as plt; _ = plt.plot([1, 3, 2])")
    assert "ok" == reply["status"], reply
    (shown,) = of_type(messages, "display_data")
    assert base64.b64decode(shown["data"]["image/png"]).startswith(b"\x89PNG")


@pytest.mark.anyio
async def test_it_can_ask(client: AsyncKernelClient) -> None:
    asked = []

    def answer(message: Any) -> None:
        asked.append(message["content"]["prompt"])
        client.input("Ada")

    _, messages = await run(client, "print('Hello', input('Name? '))", allow_stdin=True, stdin_hook=answer)
    assert ["Name? "] == asked
    assert "Hello Ada\n" == text(messages)


@pytest.mark.anyio
async def test_comms_completion_and_inspection(client: AsyncKernelClient) -> None:
    await run(client, "from comm import create_comm; channel = create_comm(target_name='tests')")
    comms = await client.comm_info(reply=True, timeout=PATIENCE)
    assert ["tests"] == [comm["target_name"] for comm in comms["content"]["comms"].values()]
    completed = await client.complete("chan", reply=True, timeout=PATIENCE)
    assert "channel" in completed["content"]["matches"]
    inspected = await client.inspect("print", reply=True, timeout=PATIENCE)
    assert "Docstring" in inspected["content"]["data"]["text/plain"]
    complete = await client.is_complete("for x in y:", reply=True, timeout=PATIENCE)
    assert "incomplete" == complete["content"]["status"]


@pytest.mark.anyio
@pytest.mark.parametrize("waits", ["import time; time.sleep(600)", "!sleep 600", "while True: pass"])
async def test_an_interrupt_ends_the_cell_and_no_more(
    manager: AsyncKernelManager, client: AsyncKernelClient, waits: str
) -> None:
    await run(client, "kept = 1")
    begun = asyncio.Event()
    running = asyncio.ensure_future(run(client, f"print('begun', flush=True)\n{waits}", begun))
    await asyncio.wait_for(begun.wait(), PATIENCE)
    await manager.interrupt_kernel()
    ended, _ = await asyncio.wait_for(running, PATIENCE)
    if waits.startswith("!"):
        # As in any kernel: the shell command is interrupted, and the cell goes on.
        assert ended["status"] in ("ok", "error")
    else:
        assert ("error", "KeyboardInterrupt") == (ended["status"], ended["ename"])
    assert "ok" == (await run(client, "kept"))[0]["status"]


@pytest.mark.anyio
async def test_a_restart_begins_anew_with_the_same_client(
    manager: AsyncKernelManager, client: AsyncKernelClient
) -> None:
    await run(client, "gone = 1")
    _, before = await run(client, "import socket; print(socket.gethostname())")
    await manager.restart_kernel()
    await client.wait_for_ready(PATIENCE)
    assert "NameError" == (await run(client, "gone"))[0]["ename"]
    _, after = await run(client, "import socket; print(socket.gethostname())")
    assert text(before) != text(after)


@pytest.mark.anyio
async def test_shut_down_nothing_is_left(
    manager: AsyncKernelManager, client: AsyncKernelClient, hosting: Hosting
) -> None:
    assert await manager.is_alive()
    await run(client, "import atexit; atexit.register(print, 'bye')")
    await manager.shutdown_kernel()
    assert not await manager.is_alive()
    assert not manager.has_kernel
    hosting.wait_for_containers(lambda count: count == 0)
    assert "done" == hosting.calls()[0]["state"]


@pytest.mark.anyio
@pytest.mark.parametrize("dies", ["os.kill(os.getpid(), 9)", "os._exit(3)"])
async def test_a_kernel_that_dies_is_started_again(hosting: Hosting, tmp_path: Path, dies: str) -> None:
    manager = hosting.manager(AsyncIOLoopKernelManager, "skylift-cpu", tmp_path)
    manager.restarter_class = Quick
    await manager.start_kernel()
    restarted = asyncio.Event()
    manager.add_restart_callback(restarted.set, "restart")
    client = AsyncKernelClient(**manager.get_connection_info(session=True))
    client.start_channels()
    try:
        await client.wait_for_ready(PATIENCE)
        client.execute(f"import os; {dies}")
        await asyncio.wait_for(restarted.wait(), PATIENCE)
        await client.wait_for_ready(PATIENCE)
        assert "NameError" == (await run(client, "os"))[0]["ename"]
        dead = hosting.calls()[1]
        assert "failed" == dead["state"]
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)


class Quick(AsyncIOLoopKernelRestarter):
    """Looks more often."""

    time_to_dead = 0.1


@pytest.mark.anyio
async def test_one_that_needs_too_much_memory_says_so(hosting: Hosting, tmp_path: Path) -> None:
    manager = hosting.manager(AsyncKernelManager, "skylift-small", tmp_path)
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(PATIENCE)
        client.execute("much = bytearray(2_000_000_000); much[::4096] = b'x' * len(much[::4096])")
        provisioner: Any = manager.provisioner
        kernel = provisioner._kernel
        code = await asyncio.wait_for(provisioner.wait(), PATIENCE)
        assert 0 != code
        assert "memory" in kernel.reason
        assert "300 MiB" in kernel.reason
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)


@pytest.mark.anyio
async def test_a_volume_keeps_what_a_kernel_writes(hosting: Hosting, tmp_path: Path) -> None:
    volume = hosting.gateway.volumes.of("local").create("data")
    manager = hosting.manager(AsyncKernelManager, "skylift-with-data", tmp_path)
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(PATIENCE)
        reply, _ = await run(client, "open('/data/kept.txt', 'w').write('written by a kernel')")
        assert "ok" == reply["status"]
    finally:
        client.stop_channels()
        await manager.shutdown_kernel()
    hosting.wait_for_containers(lambda count: count == 0)
    assert ["kept.txt"] == [entry.path.strip("/") for entry in volume.view().listdir("/")]


# --- the blocking client -----------------------------------------------------------------------------


def test_the_blocking_manager_and_client(hosting: Hosting, tmp_path: Path) -> None:
    manager = hosting.manager(KernelManager, "skylift-h100", tmp_path)
    manager.start_kernel()
    client = manager.client()
    assert isinstance(client, BlockingKernelClient)
    client.start_channels()
    try:
        client.wait_for_ready(PATIENCE)
        assert manager.is_alive()
        said: list[Any] = []
        code = "import os; print(os.environ['SKYLIFT_SIMULATED_GPU'])"
        client.execute_interactive(code, output_hook=said.append, timeout=PATIENCE)
        assert "H100\n" == text(said)

        sleeping = client.execute("print('begun', flush=True); import time; time.sleep(600)")
        while "begun" not in text([client.get_iopub_msg(timeout=PATIENCE)]):
            pass
        manager.interrupt_kernel()
        while (reply := client.get_shell_msg(timeout=PATIENCE))["parent_header"]["msg_id"] != sleeping:
            pass
        assert "KeyboardInterrupt" == reply["content"]["ename"]

        manager.restart_kernel(now=True)
        client.wait_for_ready(PATIENCE)
        reply = client.execute_interactive("os", output_hook=said.append, timeout=PATIENCE)
        assert "NameError" == reply["content"]["ename"]
        assert client.is_alive()
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
    assert not manager.is_alive()


# --- what does not start -----------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_gpu_that_is_taken(hosting: Hosting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = hosting.manager(AsyncKernelManager, "skylift-h100", tmp_path)
    await first.start_kernel()
    second = hosting.manager(AsyncKernelManager, "skylift-h100", tmp_path)
    monkeypatch.setattr(second.kernel_starter, "patience", 0.5)
    try:
        with pytest.raises(KernelError) as caught:
            await second.start_kernel()
    finally:
        await first.shutdown_kernel(now=True)
    assert 503 == caught.value.status
    assert "Python 3 · H100 (simulated) has not started within 0.5 s: waiting for an H100" in str(
        caught.value
    )


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("kernel", "says"),
    [
        ("skylift-b200", "Python 3 · B200 did not start: "),
        ("skylift-lost", "Lost cannot start: "),
        ("skylift-odd", "Odd cannot start: gpu='H100 please!!': a GPU is written as \"H100\""),
    ],
)
async def test_what_cannot_start_says_why(hosting: Hosting, tmp_path: Path, kernel: str, says: str) -> None:
    manager = hosting.manager(AsyncKernelManager, kernel, tmp_path)
    with pytest.raises(KernelError) as caught:
        await manager.start_kernel()
    assert str(caught.value).startswith(says)


def test_an_unknown_kernel(hosting: Hosting, tmp_path: Path) -> None:
    with pytest.raises(NoSuchKernel):
        hosting.manager(KernelManager, "skylift-abacus", tmp_path).start_kernel()


def test_one_that_cannot_be_reached(
    hosting: Hosting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(_kernel: HostedKernel, _descriptor: int) -> int:
        raise FileNotFoundError(2, "No such file or directory", "/on/another/machine")

    monkeypatch.setattr(HostedKernel, "connect", nowhere)
    with pytest.raises(
        KernelError, match="kernels can only be on hosts of the gateway's own machine and user"
    ):
        hosting.manager(KernelManager, "skylift-cpu", tmp_path).start_kernel()
    hosting.wait_for_containers(lambda count: count == 0)


def test_outside_of_a_gateway(hosting: Hosting, tmp_path: Path) -> None:
    manager: Any = hosting.manager(KernelManager, "skylift-cpu", tmp_path)
    manager.kernel_starter = None
    with pytest.raises(KernelError, match="this is another program"):
        manager.start_kernel()
