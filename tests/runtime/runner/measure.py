"""What the runner alone takes, with a host that costs as little as it can. Run it by hand: ``python
measure.py``."""

from __future__ import annotations

import json
import socket
import statistics
import sys
import time
from typing import Any

import cloudpickle
from fake_host import _PREFIX, FakeHost, _frame


def nothing(value: Any) -> Any:
    return value


def numbers(count: int) -> Any:
    yield from range(count)


class Quiet(FakeHost):
    """Lets frames lie; `raw` reads them."""

    def _read_data(self, sock: socket.socket) -> None:
        self.ready = {"pid": self.process.pid}
        with self._changed:
            self._changed.notify_all()

    def raw_frame(self) -> tuple[bytes, int]:
        assert self.data is not None
        prefix = self.data.recv(12, socket.MSG_WAITALL)
        header, payload = _PREFIX.unpack(prefix)
        body = self.data.recv(header + payload, socket.MSG_WAITALL)
        return body[:header], payload

    def until_end(self) -> int:
        frames = 0
        while True:
            frames += 1
            header, _ = self.raw_frame()
            if b'"end"' in header[-200:]:
                return frames


def main() -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with Quiet(consume=False) as host:
        host.raw_frame()
        echo, generate = host.define(nothing), host.define(numbers)
        payload = cloudpickle.dumps(((1,), {}))

        def one_call() -> None:
            header = {"t": "call", "call": "fc-00000001", "code": echo, "kind": "call", "window": 1 << 20}
            assert host.data is not None
            host.data.sendall(_frame(header, payload))
            host.raw_frame()

        times = []
        for _ in range(3000):
            begin = time.perf_counter()
            one_call()
            times.append(time.perf_counter() - begin)
        print(f"call: p50 {statistics.median(times) * 1e6:.0f} us round trip")

        for count in (100_000, 100_000):
            begin = time.perf_counter()
            host.start(generate, count, kind="generator", window=1 << 40)
            frames = host.until_end()
            took = time.perf_counter() - begin
            print(f"generator: {count / took:,.0f} yields/s in {frames} frames")

        for batch in (100, 1000):
            begin = time.perf_counter()
            total = 0
            while total < 20_000:
                host.map(echo, [payload] * batch, raw=True, window=1 << 40)
                done = 0
                while done < batch:
                    header, _ = host.raw_frame()
                    done += len(json.loads(header)["done"])
                total += batch
            took = time.perf_counter() - begin
            print(f"map in batches of {batch}: {total / took:,.0f} inputs/s")


if __name__ == "__main__":
    main()
