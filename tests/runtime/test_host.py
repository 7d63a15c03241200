"""The host process as a whole: gateways that come and go, many containers, the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_gateway import FakeGateway
from host_process import HostProcess, descendants, running_host, session_spec, spec

from skylift.wire import (
    GpuRequest,
    HostHello,
    Payload,
    RunCall,
    Shutdown,
    machine_id,
)


def count(n: int) -> Iterator[int]:
    yield from range(n)


def slow_count(n: int) -> Iterator[int]:
    for number in range(n):
        if number % 500 == 0:
            time.sleep(0.02)
        yield number


@pytest.fixture
def own_host(host_home: Path, isolation: str) -> Iterator[tuple[HostProcess, FakeGateway]]:
    """A host that the test may end."""
    with running_host(host_home, isolation) as both:
        yield both


def nothing_left(host: HostProcess, gateway: FakeGateway) -> None:
    """After its end: no process, mount, cgroup or file of its containers."""
    assert [] == list((host.home / "host" / "containers").glob("*"))
    assert not (host.home / "host" / "host.json").exists()
    assert str(host.home) not in Path("/proc/self/mountinfo").read_text()
    for container_id in gateway.started:
        find = ["find", "/sys/fs/cgroup", "-type", "d", "-name", f"*{container_id}*"]
        assert "" == subprocess.run(find, capture_output=True, text=True, check=False).stdout


def rss(pid: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class TestHello:
    def test_a_host_says_what_it_is(self, own_host: tuple[HostProcess, FakeGateway], isolation: str) -> None:
        host, gateway = own_host
        facts = gateway.hellos[0].facts

        assert (machine_id(), isolation) == (facts.machine, facts.isolation)
        assert ["H100", "H100"] == [gpu.model for gpu in facts.gpus if gpu.simulated]
        assert {"pid", "started"} == set(json.loads((host.home / "host" / "host.json").read_text()))
        assert host.pid == json.loads((host.home / "host" / "host.json").read_text())["pid"]

    def test_a_hello_tells_of_containers_and_calls(
        self, own_host: tuple[HostProcess, FakeGateway], isolation: str
    ) -> None:
        _, gateway = own_host
        container = gateway.start(spec(), GpuRequest(model="H100"))
        gateway.persists = False
        ended = gateway.finish(gateway.call(container, count, 10, kind="generator"))
        running = gateway.call(container, time.sleep, 60)
        mapped = gateway.expect("fc-map0000001")
        gateway.inputs(container, gateway.define(abs), mapped, {3: 3, 4: 4})
        gateway.wait_for(lambda: running.started, "the running call")
        gateway.cut()
        hello: HostHello = gateway.wait_for(lambda: len(gateway.hellos) > 1 and gateway.hellos[-1], "a hello")

        (info,) = hello.containers
        assert (container, "ready", "H100", True) == (info.container_id, info.state, info.gpu, info.simulated)
        assert {container: "pool-1"} == hello.pools
        assert {"pool-1": spec()} == hello.specs
        assert container == next(gpu.in_use_by for gpu in hello.facts.gpus if gpu.in_use_by)
        reports = {report.call_id: report for report in hello.calls}
        assert {ended.call_id, running.call_id, mapped.call_id} == set(reports)
        assert (True, 0, ended.next_seq) == (
            reports[ended.call_id].ended,
            reports[ended.call_id].held_from,
            reports[ended.call_id].next_seq,
        )
        assert (False, (3, 4)) == (reports[running.call_id].ended, reports[mapped.call_id].inputs)
        gateway.cancel(running)
        gateway.finish(running)


class TestGatewayRestarts:
    def test_a_stream_outlives_its_gateway_again_and_again(
        self, own_host: tuple[HostProcess, FakeGateway]
    ) -> None:
        _, gateway = own_host
        call = gateway.call(gateway.start(spec()), slow_count, 10_000, kind="generator")
        for seen in (500, 2000, 4000, 6000, 8000):
            gateway.wait_for(lambda: len(call.events) >= seen, f"{seen} items")  # noqa: B023
            gateway.go_away()
            gateway.come()
        gateway.finish(call)
        assert list(range(10_000)) == call.items

    def test_what_is_in_no_log_is_sent_again(self, own_host: tuple[HostProcess, FakeGateway]) -> None:
        """A gateway that forgot what it had not logged gets it from the host."""
        _, gateway = own_host
        gateway.persists = False
        container = gateway.start(spec())
        call = gateway.finish(gateway.call(container, count, 1000, kind="generator"))
        gateway.go_away()
        gateway.calls.clear()
        again = gateway.expect(call.call_id)
        gateway.persists = True
        gateway.come()
        gateway.finish(again)
        assert list(range(1000)) == again.items

    def test_a_call_that_ends_while_there_is_no_gateway(
        self, own_host: tuple[HostProcess, FakeGateway]
    ) -> None:
        _, gateway = own_host
        container = gateway.start(spec())
        call = gateway.call(container, time.sleep, 0.5)
        gateway.wait_for(lambda: call.started, "its start")
        gateway.go_away()
        time.sleep(0.7)
        gateway.come()
        assert "done" == gateway.finish(call).state

    def test_a_call_that_the_gateway_does_not_name_is_ended(
        self, own_host: tuple[HostProcess, FakeGateway]
    ) -> None:
        _, gateway = own_host
        container = gateway.start(spec())
        forgotten = gateway.call(container, time.sleep, 60)
        gateway.wait_for(lambda: forgotten.started, "its start")
        gateway.forgets.add(forgotten.call_id)
        gateway.cut()
        gateway.wait_for(lambda: len(gateway.hellos) > 1, "a hello")
        assert 3 == gateway.finish(gateway.call(container, abs, -3)).result
        assert [] == forgotten.events

    def test_a_container_that_died_meanwhile_is_told_of_with_the_reason(
        self, own_host: tuple[HostProcess, FakeGateway]
    ) -> None:
        _, gateway = own_host
        container = gateway.start(spec())

        def die_soon() -> None:
            time.sleep(0.4)
            os._exit(3)

        call = gateway.call(container, die_soon)
        gateway.wait_for(lambda: call.started, "its start")
        gateway.go_away()
        time.sleep(1.0)
        gateway.come()
        gateway.finish(call)
        assert "ExecutionError" == call.error["skylift"]
        problem = gateway.exited(container)
        assert problem is not None
        assert call.error["message"] == problem.message

    def test_a_call_that_is_sent_twice_runs_once(self, own_host: tuple[HostProcess, FakeGateway]) -> None:
        _, gateway = own_host
        container = gateway.start(session_spec())
        cell = gateway.cell(container, "import time\ntime.sleep(0.3)\nprint('once')")
        gateway.send(
            RunCall(
                container_id=container,
                call_id=cell.call_id,
                function_id="fu-session00",
                kind="cell",
                args=Payload(),
                window=1 << 20,
                timeout=60,
            )
        )
        gateway.finish(cell)
        assert "once\n" == cell.text()


class TestSlowGateway:
    def test_memory_stays_flat_when_the_gateway_reads_nothing(
        self, own_host: tuple[HostProcess, FakeGateway]
    ) -> None:
        host, gateway = own_host
        call = gateway.call(
            gateway.start(spec()),
            lambda: (bytes(100_000) for _ in range(3000)),
            kind="generator",
            window=1 << 30,
        )
        gateway.wait_for(lambda: len(call.events) > 10, "the first items")
        before = rss(host.pid)
        gateway.reads.clear()
        deadline = time.monotonic() + 3
        most = before
        while time.monotonic() < deadline:
            most = max(most, rss(host.pid))
            time.sleep(0.05)
        assert most - before < 60e6
        gateway.reads.set()
        gateway.finish(call)
        assert 3000 == len(call.of("yield"))


class TestManyContainers:
    def test_twenty_at_once(self, own_host: tuple[HostProcess, FakeGateway]) -> None:
        _, gateway = own_host
        containers = [gateway.start(spec(), wait=False) for _ in range(20)]
        function = gateway.define(lambda n: (n, os.getpid()))
        calls = [gateway.call(container, function, n) for n, container in enumerate(containers)]
        results = [gateway.finish(call, timeout=90).result for call in calls]
        assert list(range(20)) == [number for number, _ in results]
        for container in containers:
            gateway.stop(container)
        assert [None] * 20 == [gateway.exited(container, timeout=60) for container in containers]


class TestEnd:
    def test_sigterm_leaves_nothing(self, own_host: tuple[HostProcess, FakeGateway]) -> None:
        host, gateway = own_host
        container = gateway.start(spec())
        call = gateway.call(container, time.sleep, 60)
        gateway.wait_for(lambda: call.started, "its start")
        below = descendants(host.pid)
        assert below

        assert 0 == host.terminate()
        gateway.finish(call)
        assert "cancelled" == call.state
        assert "the host was told to stop" in call.error["message"]
        assert [] == [pid for pid in below if Path(f"/proc/{pid}/exe").exists()]
        nothing_left(host, gateway)

    def test_the_gateway_may_end_it(self, own_host: tuple[HostProcess, FakeGateway]) -> None:
        host, gateway = own_host
        gateway.start(spec())
        gateway.start(spec(), wait=False)
        gateway.send(Shutdown(grace=1.0))
        assert host.process is not None
        assert 0 == host.process.wait(30)
        nothing_left(host, gateway)

    def test_a_host_that_no_gateway_comes_for_ends_itself(self, host_home: Path, isolation: str) -> None:
        with running_host(host_home, isolation, "orphan_timeout = 1.0") as (host, gateway):
            call = gateway.call(gateway.start(spec()), time.sleep, 60)
            gateway.wait_for(lambda: call.started, "its start")
            gateway.go_away()
            assert host.process is not None
            assert 0 == host.process.wait(30)
            assert "no gateway has come for 1 s" in host.log()
            nothing_left(host, gateway)

    def test_what_a_killed_host_left_is_removed_by_the_next(self, host_home: Path, isolation: str) -> None:
        with running_host(host_home, isolation) as (host, gateway):
            gateway.start(spec())
            below = descendants(host.pid)
            sockets = [link.readlink() for link in (host.home / "host" / "containers").glob("*/socket")]
            assert (1 if isolation == "process" else 0) == len(sockets)
            assert host.process is not None
            host.process.kill()
            host.process.wait()
            host.start()
            gateway.wait_for(lambda: len(gateway.hellos) > 1, "the next host's hello")
            assert () == gateway.hellos[-1].containers
            assert gateway.hellos[0].facts.host_id == gateway.hellos[-1].facts.host_id
            assert [] == [pid for pid in below if Path(f"/proc/{pid}/exe").exists()]
            host.terminate()
            nothing_left(host, gateway)
            assert [] == [folder for folder in sockets if folder.exists()]


class TestStart:
    def test_a_second_host_of_the_same_home_is_refused(
        self, own_host: tuple[HostProcess, FakeGateway]
    ) -> None:
        host, _ = own_host
        second = run_host(host.home)
        assert 1 == second.returncode
        message = f"A host is already running for {host.home}: see {host.home}/host/host.json.\n"
        assert message == second.stderr

    def test_a_wrong_setting_is_named(self, host_home: Path) -> None:
        host_home.mkdir()
        (host_home / "config.toml").write_text("[host]\nsimulate_gpu = 1\n")
        refused = run_host(host_home)
        assert 1 == refused.returncode
        assert (
            "Unknown key 'simulate_gpu' in [host] of config.toml. Did you mean simulate_gpus"
            in refused.stderr
        )


def run_host(home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "skylift.runtime", "--home", str(home)],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
