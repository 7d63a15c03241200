from __future__ import annotations

import time

from fake_gateway import FakeGateway
from host_process import spec

from skylift.wire import GpuRequest, Usage


def burn(seconds: float) -> int:
    block = bytearray(b"x" * (64 << 20))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return len(block)


def test_samples_come_while_something_runs(gateway: FakeGateway) -> None:
    container = gateway.start(spec(), GpuRequest(model="H100"))
    call = gateway.call(container, burn, 3.0)

    def samples() -> list[Usage]:
        return [
            sample
            for report in gateway.usage()
            for sample in report.samples
            if sample.container_id == container
        ]

    gateway.wait_for(lambda: any(sample.cpu > 0.02 for sample in samples()), "a busy core")
    gateway.wait_for(lambda: any(sample.memory > 64 << 20 for sample in samples()), "its memory")
    gateway.finish(call)

    last = samples()[-1]
    assert abs(time.time() - last.time) < 10
    assert (0.0, 0) == (last.gpu, last.gpu_memory)
    assert 80 << 30 >= last.gpu_memory_total > 70 << 30
    assert call.end is not None
    assert call.end.peak_memory > 64 << 20


def test_nothing_is_said_of_idle_containers(gateway: FakeGateway) -> None:
    gateway.start(spec())
    gateway.finish(gateway.call(gateway.start(spec()), abs, -1))
    time.sleep(1.2)
    before = len(gateway.usage())
    time.sleep(2.2)
    assert before == len(gateway.usage())
