"""Arguments, results and items that are too large for a frame."""

from __future__ import annotations

import os
import pickle
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest
from fake_gateway import FakeGateway
from host_process import HostProcess, running_host, session_spec, spec
from hypothesis import given
from hypothesis import strategies as st

from skylift.lazyfs.store import LocalStore, blob_name
from skylift.runtime.large_data import batches, store_large
from skylift.wire import INLINE_LIMIT, Code, Event, Payload, new_id

LARGE = 2 * INLINE_LIMIT


@pytest.fixture
def store(shared_host: tuple[HostProcess, FakeGateway]) -> LocalStore:
    host, _ = shared_host
    return LocalStore(host.home / "store")


def stored(store: LocalStore, value: object) -> Payload:
    data = cloudpickle.dumps(value)
    return Payload(blob=store.put(data), size=len(data))


def loaded(store: LocalStore, event: Event) -> object:
    return pickle.loads(store.get(event.blob) if event.blob else event.data)


class TestIn:
    def test_arguments(self, gateway: FakeGateway, store: LocalStore) -> None:
        container = gateway.start(spec())
        payload = stored(store, ((b"x" * LARGE,), {}))
        call = gateway.finish(gateway.call(container, len, payload=payload))
        assert LARGE == call.result

    def test_order_is_kept_around_them(self, gateway: FakeGateway, store: LocalStore) -> None:
        container = gateway.start(session_spec())
        function = gateway.define(lambda data: (len(data), time.monotonic()))
        calls = []
        for number in range(6):
            size = LARGE + number if number % 2 else number
            payload = stored(store, ((bytes(size),), {})) if number % 2 else None
            args = () if number % 2 else (bytes(size),)
            calls.append(gateway.call(container, function, *args, payload=payload))
        results = [gateway.finish(call).result for call in calls]
        assert [0, LARGE + 1, 2, LARGE + 3, 4, LARGE + 5] == [size for size, _ in results]
        assert [when for _, when in results] == sorted(when for _, when in results)

    def test_inputs_of_a_map(self, gateway: FakeGateway, store: LocalStore) -> None:
        container, call = gateway.start(spec()), gateway.expect(new_id("fc"))
        items = {
            index: stored(store, ((bytes(LARGE + index),), {})) if index % 3 else b"" for index in range(9)
        }
        gateway.inputs(container, gateway.define(len), call, items)
        gateway.finish_inputs(call, items)
        assert {index: LARGE + index if index % 3 else 0 for index in items} == {
            index: pickle.loads(event.data) for index, event in call.outcomes().items()
        }

    def test_code(self, gateway: FakeGateway, store: LocalStore) -> None:
        captured = os.urandom(LARGE)
        code = cloudpickle.dumps(lambda: captured)
        gateway.send(Code(function_id="fu-large0001", code=Payload(blob=store.put(code), size=len(code))))
        call = gateway.finish(gateway.call(gateway.start(spec()), "fu-large0001"))
        assert captured == loaded(store, call.of("result")[0])

    def test_a_blob_that_is_not_there_is_named(self, gateway: FakeGateway) -> None:
        container = gateway.start(spec())
        missing = blob_name(b"never put")
        call = gateway.finish(gateway.call(container, len, payload=Payload(blob=missing, size=1)))
        assert ("failed", "InternalFailure") == (call.state, call.error["skylift"])
        assert f"has no blob {missing}" in call.error["message"]
        assert call.error["message"].endswith("The call cannot run; call it again to send everything anew.")
        assert 3 == gateway.finish(gateway.call(container, abs, -3)).result

    def test_a_call_that_is_cancelled_while_its_arguments_are_read(
        self, gateway: FakeGateway, store: LocalStore
    ) -> None:
        container, function = gateway.start(spec()), gateway.define(lambda data: print("never"))
        payload = stored(store, ((bytes(50_000_000),), {}))
        call = gateway.call(container, function, payload=payload)
        gateway.cancel(call)
        assert "cancelled" == gateway.finish(call).state
        assert 3 == gateway.finish(gateway.call(container, abs, -3)).result


class TestOut:
    def test_a_result(self, gateway: FakeGateway, store: LocalStore) -> None:
        call = gateway.finish(gateway.call(gateway.start(spec()), bytes, LARGE))
        (event,) = call.of("result")
        assert (b"", bytes(LARGE)) == (event.data, loaded(store, event))

    def test_items_keep_their_order(self, gateway: FakeGateway, store: LocalStore) -> None:
        def sizes() -> Iterator[bytes]:
            for number in range(30):
                yield bytes(LARGE + number if number % 3 == 0 else number)

        call = gateway.finish(gateway.call(gateway.start(spec()), sizes, kind="generator"))
        lengths = [len(loaded(store, event)) for event in call.of("yield")]  # type: ignore[arg-type]
        assert [LARGE + number if number % 3 == 0 else number for number in range(30)] == lengths

    def test_their_size_counts_in_the_window(self, gateway: FakeGateway, store: LocalStore) -> None:
        """Or else a fast producer would fill the disk before its slow consumer."""
        gateway.consumes = False
        call = gateway.call(
            gateway.start(spec()),
            lambda: (bytes(LARGE) for _ in range(20)),
            kind="generator",
            window=LARGE * 3,
        )
        gateway.wait_for(lambda: len(call.events) >= 3, "the first items")
        time.sleep(0.3)
        assert len(call.events) <= 4
        gateway.consumes = True
        gateway.consume(call)
        gateway.finish(call)
        assert 20 == len(call.of("yield"))

    def test_results_of_a_map(self, gateway: FakeGateway, store: LocalStore) -> None:
        container, call = gateway.start(spec()), gateway.expect(new_id("fc"))
        gateway.inputs(container, gateway.define(bytes), call, {0: LARGE, 1: 1, 2: LARGE})
        gateway.finish_inputs(call, range(3))
        outcomes = call.outcomes()
        assert [LARGE, 1, LARGE] == [len(loaded(store, outcomes[i])) for i in range(3)]  # type: ignore[arg-type]

    def test_text_is_never_in_the_store(self, gateway: FakeGateway) -> None:
        text = "é" * 1_000_000
        call = gateway.finish(gateway.call(gateway.start(spec()), print, text))
        assert text + "\n" == call.text()
        assert all(len(event.data) <= INLINE_LIMIT and not event.blob for event in call.of("output"))


class TestSplitting:
    @given(text=st.text(st.characters(codec="utf-8"), max_size=40), repeat=st.integers(1, 20_000))
    def test_text_is_cut_between_characters(
        self, tmp_path_factory: pytest.TempPathFactory, text: str, repeat: int
    ) -> None:
        data = (text * repeat).encode()
        store = LocalStore(tmp_path_factory.getbasetemp() / "pieces")
        events, whole = store_large([("output", {}, len(data))], memoryview(data), store)
        assert whole
        assert text * repeat == "".join(event.data.decode() for event in events)
        assert all(len(event.data) <= INLINE_LIMIT for event in events)

    @given(sizes=st.lists(st.integers(0, 400_000), max_size=20))
    def test_batches_keep_all_events_in_order(self, sizes: list[int]) -> None:
        events = [Event("yield", {"n": number}, bytes(size)) for number, size in enumerate(sizes)]
        result = batches(events)
        assert events == [event for batch in result for event in batch]
        assert all(sum(len(event.data) for event in batch) <= 1024 * 1024 for batch in result)


@pytest.mark.root
class TestFullDisk:
    @pytest.fixture
    def full(self, tmp_path: Path) -> Iterator[FakeGateway]:
        home = tmp_path / "home"
        (home / "store").mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(home / "store")], check=True)
        try:
            with running_host(home, "process") as (_, gateway):
                yield gateway
        finally:
            subprocess.run(["umount", str(home / "store")], check=True)

    def test_a_result_that_cannot_be_kept(self, full: FakeGateway) -> None:
        container = full.start(spec())
        call = full.finish(full.call(container, bytes, 3_000_000))
        assert ("failed", "ResourceExhaustedError") == (call.state, call.error["skylift"])
        message = call.error["message"]
        assert message.startswith("A result of 3,000,")
        assert f"could not be kept. The store in {full.home}/store is full: " in message
        assert message.endswith("or set SKYLIFT_HOME to a folder on a larger one.")
        assert 3 == full.finish(full.call(container, abs, -3)).result

    def test_a_generator_is_stopped_at_the_item_that_was_lost(self, full: FakeGateway) -> None:
        def endless() -> Iterator[bytes]:
            yield b"small"
            while True:
                yield bytes(3_000_000)

        container = full.start(spec())
        call = full.finish(full.call(container, endless, kind="generator"))
        assert ("failed", [b"small"]) == (call.state, call.items)
        assert call.error["message"].startswith("A yielded item of 3,000,")
        assert 3 == full.finish(full.call(container, abs, -3)).result

    def test_of_a_map_only_that_result_is_lost(self, full: FakeGateway) -> None:
        container, call = full.start(spec()), full.expect(new_id("fc"))
        full.inputs(container, full.define(bytes), call, {0: 1, 1: 3_000_000, 2: 1})
        full.finish_inputs(call, range(3))
        outcomes = call.outcomes()
        assert ["result", "error", "result"] == [outcomes[index].kind for index in range(3)]
        assert "ResourceExhaustedError" == outcomes[1].meta["skylift"]
