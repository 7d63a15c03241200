"""What one container does: its tasks one after another, their cancellation, their end."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, cast

import msgspec

from skylift.lazyfs.store import Store, StoreError
from skylift.runtime.calls import Call, Task
from skylift.runtime.code_cache import CodeCache
from skylift.runtime.container_output import ContainerOutput
from skylift.runtime.deaths import Death, cancelled, interrupted_event, session_lost, timed_out, unreadable
from skylift.runtime.large_data import batches, has_large, read_events, store_large
from skylift.runtime.runner_frames import Need, Recalled, RunnerEnd, RunnerEvents, Started
from skylift.runtime.runner_link import RunnerLink
from skylift.runtime.sending import TaskSender
from skylift.runtime.streams import Producer, cost_of
from skylift.runtime.watch import Watch
from skylift.wire import (
    EVENT_OVERHEAD,
    FINAL_STATES,
    CallLost,
    CallStarted,
    CallState,
    CallTimes,
    CancelMode,
    End,
    Event,
    FunctionSpec,
    HostMessage,
    Returned,
)

_ONE_FRAME = 1024 * 1024
"""Bytes of events that go into one frame to the gateway."""


class Grace(msgspec.Struct, frozen=True):
    """Seconds that code has to end by itself before its container is killed."""

    timeout: float
    cancel: float


class WorkServices(msgspec.Struct, frozen=True):
    """What the work of every container of a host uses."""

    store: Store
    codes: CodeCache
    threads: Executor
    grace: Grace
    send: Callable[[HostMessage], None]
    forget: Callable[[Call], None]
    """A call that can run elsewhere is no longer this host's."""


class ContainerWork:
    """The tasks of one container.

    The runner is given one task at a time. So what has begun is known exactly: the task in hand may have had
    effects and ends with an error when its container dies; those that wait can run elsewhere.
    """

    def __init__(
        self,
        container_id: str,
        spec: FunctionSpec,
        link: RunnerLink,
        services: WorkServices,
        kill: Callable[[Death], None],
        idle: Callable[[], None],
    ) -> None:
        """`kill` ends the container at once; the task in hand then ends with that `Death`. `idle` is called
        when a task has ended and no other begins."""
        self.current: Task | None = None
        self.waiting: deque[Task] = deque()
        self.output: ContainerOutput | None = None
        self.last_function = ""
        """The function that it has run last."""
        self.peak_memory = 0
        """Bytes, as last seen."""
        self.kernel_folder = Path()
        """With the sockets of the Jupyter kernel that it runs."""
        self._container_id = container_id
        self._spec = spec
        self._link = link
        self._services = services
        self._kill = kill
        self._idle = idle
        self._open = False
        self._sender = TaskSender(spec, link, services.store, services.codes, services.threads)
        self._loop = asyncio.get_running_loop()
        self._watch = Watch(self._timed_out, kill)
        self._aside: set[asyncio.Task[None]] = set()

    # --- one after another -----------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether it has something to do."""
        return self.current is not None or bool(self.waiting)

    def add(self, task: Task) -> None:
        """Run this after all that was added before."""
        self.waiting.append(task)
        if self.current is None:
            self.go_on()

    def close(self) -> None:
        """Begin nothing more until `open`."""
        self._open = False

    def open(self) -> None:
        """The runner is ready."""
        self._open = True
        self.go_on()

    def go_on(self) -> None:
        """Begin the next task, if none is in hand and the runner can take it."""
        while self.current is None and self.waiting and self._open and self._link.connected:
            task = self.waiting.popleft()
            if task.call.over:
                continue
            self.current = task
            runner = self._runner(task.call)
            if self._sender.try_send(task, runner.consumed):
                self._begun(task, runner)
            else:
                self._run_aside(self._read_and_send(task))

    def _begun(self, task: Task, runner: Producer) -> None:
        call = task.call
        task.payloads = ()
        task.begun = True
        self.last_function = call.function_id
        task.runner = runner
        task.pipes = Producer(call.call_id, call.window, self._resume_pipes)
        self._watch.start(call.timeout)

    async def _read_and_send(self, task: Task) -> None:
        call = task.call
        try:
            # Inputs may be cancelled meanwhile: then what was read no longer fits.
            while True:
                payloads = task.payloads
                parts = await self._sender.read(call, payloads)
                if payloads is task.payloads:
                    break
        except (StoreError, KeyError) as error:
            if self.current is task:
                missing = f"The code of {self._spec.name} never came"
                self._end_begun(task, unreadable(missing if isinstance(error, KeyError) else str(error)))
                self._give_back(call, list(task.indexes))
                self._finished()
            return
        if self.current is not task:
            return
        if call.over or not payloads:
            self._finished()
        elif not (self._open and self._link.connected):
            self.current = None
            self.waiting.appendleft(task)
        else:
            runner = self._runner(call)
            self._sender.send_read(task, parts, runner.consumed)
            self._begun(task, runner)

    def _finished(self) -> None:
        self.current = None
        self._watch.stop()
        if self.output is not None:
            self.output.resume()
        if self.waiting and not self._spec.single_use:
            self.go_on()
        if self.current is None:
            self._idle()

    # --- what the runner says --------------------------------------------------------------------

    def runner_events(self, message: RunnerEvents, payload: memoryview) -> None:
        """Events of the task in hand; those of a call that was ended here are dropped."""
        task = self.current
        if task is None or not task.begun or task.call.call_id != message.call:
            return
        if self.output is not None and (message.end is not None or message.done):
            self.output.flush()
        if has_large(message.events, payload):
            self._link.pause("store")
            self._run_aside(self._store(task, message, payload))
            return
        events = read_events(message.events, payload)
        cost = len(payload) + EVENT_OVERHEAD * len(events)
        self._pass_on(task, message, events, cost, cost)

    def runner_started(self, message: Started) -> None:
        """The task in hand takes a while, or is tried again: then its time starts anew."""
        task = self.current
        if task is None or task.call.call_id != message.call:
            return
        task.announced = message.index
        if message.attempt > 1:
            self._watch.start(task.call.timeout)
        if not task.call.started:
            task.call.started = True
            sockets = str(self.kernel_folder) if task.call.kind == "kernel" else ""
            self._services.send(CallStarted(call_id=message.call, time=message.time, sockets=sockets))

    def runner_needs(self, message: Need) -> None:
        """The runner let go of a function that the task in hand calls."""
        self._run_aside(self._send_code(message.code))

    def runner_recalled(self, message: Recalled) -> None:
        """Inputs of the task in hand that will not run here."""
        task = self.current
        if task is None or task.call.call_id != message.call:
            return
        given_back = [index for index in message.indexes if index in task.indexes]
        for index in given_back:
            task.indexes.remove(index)
        self._give_back(task.call, given_back)
        if not task.indexes:
            self._finished()

    def pipe_output(self, stream: str, text: bytes) -> None:
        """Text that the container wrote to a pipe itself: it belongs to the task in hand, if any."""
        task = self.current
        if task is None or task.pipes is None or task.call.over:
            return
        meta: dict[str, Any] = {"stream": stream}
        if task.indexes:
            meta["index"] = task.index
        events = [Event("output", meta, text)]
        task.call.emit(events, cost_of(events), task.pipes)
        if task.pipes.ahead() >= task.call.window and self.output is not None:
            self.output.pause()

    def _pass_on(
        self, task: Task, message: RunnerEvents, events: list[Event], cost: int, runner_cost: int
    ) -> None:
        """Send events on. `cost` is theirs, `runner_cost` what the runner counted for them."""
        call = task.call
        end = self._end_of(message.end) if message.end is not None else None
        if not call.over and task.runner is not None:
            extra = runner_cost - cost
            if cost > _ONE_FRAME:
                *first, events = batches(events)
                for batch in first:
                    call.emit(batch, cost_of(batch), task.runner)
                cost = cost_of(events)
            call.emit(events, cost, task.runner, message.done, end, extra)
            if end is None and call.log_is_behind():
                self._link.pause("log")
                call.when_log_caught_up(lambda: self._link.resume("log"))
        if end is not None:
            self._finished()
        elif message.done:
            self._inputs_done(task, message.done)

    def _inputs_done(self, task: Task, done: tuple[int, ...]) -> None:
        before = task.index
        for index in done:
            if task.indexes and task.indexes[0] == index:
                task.indexes.popleft()
            elif index in task.indexes:
                task.indexes.remove(index)
        if not task.indexes:
            self._finished()
        elif task.index != before:
            self._watch.input_ended()
            self._watch.start(task.call.timeout)

    async def _store(self, task: Task, message: RunnerEvents, payload: memoryview) -> None:
        events, stored = await self._loop.run_in_executor(
            self._services.threads, store_large, message.events, payload, self._services.store
        )
        if stored or message.done:
            runner_cost = len(payload) + EVENT_OVERHEAD * len(message.events)
            self._pass_on(task, message, events, cost_of(events), runner_cost)
        else:
            self._end(task, events, "failed", str(events[-1].meta["text"]).splitlines()[0])
            if message.end is not None:
                self._finished()
            else:
                # The code there cannot know that its item was lost, and must not go on as if it were not.
                death = cancelled(self._spec, "its data could not be kept")
                self._ask_to_end(task, "cancel", death.problem.message, -1)
                self._watch.escalate(self._services.grace.cancel, death)
        self._link.resume("store")

    async def _send_code(self, function_id: str) -> None:
        try:
            await self._sender.send_code(function_id)
        except (StoreError, KeyError) as error:
            self._kill(unreadable(str(error)))

    # --- ending early ----------------------------------------------------------------------------

    def cancel(self, call: Call, mode: CancelMode, reason: str, index: int = -1) -> None:
        """End a call, or one input of a map, whether it has begun or not."""
        for waiting in [task for task in self.waiting if task.call is call]:
            self._cancel_waiting(waiting, mode, reason, index)
        task = self.current
        if task is None or task.call is not call or (index >= 0 and index not in task.indexes):
            return
        if not task.begun:
            self._cancel_waiting(task, mode, reason, index)
        elif mode == "terminate":
            self._kill(cancelled(self._spec, reason))
        else:
            self._ask_to_end(task, mode, reason, index)
            if mode == "cancel" and index in (-1, task.index):
                self._watch.escalate(self._services.grace.cancel, cancelled(self._spec, reason), index)

    def stop(self, death: Death) -> None:
        """The container is about to be ended on purpose: begin nothing, and ask the task in hand to end."""
        self._open = False
        self._end_waiting(death)
        task = self.current
        if task is not None and task.begun:
            if task.indexes:
                self._link.control({"t": "recall", "call": task.call.call_id})
            self._ask_to_end(task, "cancel", death.problem.message, task.index)

    def _timed_out(self) -> None:
        task = self.current
        if task is not None and task.begun:
            death = timed_out(self._spec, task.call.timeout, task.index)
            self._ask_to_end(task, "timeout", death.problem.message, task.index)
            self._watch.escalate(self._services.grace.timeout, death, task.index)

    def _ask_to_end(self, task: Task, mode: str, reason: str, index: int) -> None:
        header: dict[str, Any] = {"t": "cancel", "call": task.call.call_id, "mode": mode, "reason": reason}
        if index >= 0:
            header["index"] = index
        self._link.control(header)

    def _cancel_waiting(self, task: Task, mode: CancelMode, reason: str, index: int) -> None:
        call = task.call
        death = cancelled(self._spec, reason)
        if call.kind == "map":
            ended = [each for each in task.indexes if index in (-1, each)]
            if ended and not call.over:
                events = [death.event(each) for each in ended]
                call.emit(events, cost_of(events), _the_host(), tuple(ended))
            kept = [each for each in zip(task.indexes, task.payloads, strict=True) if each[0] not in ended]
            task.indexes = deque(each[0] for each in kept)
            task.payloads = tuple(each[1] for each in kept)
            if kept:
                return
        elif mode == "interrupt":
            self._end(task, [interrupted_event()], "cancelled", "KeyboardInterrupt")
        else:
            self._end(task, [death.event()], "cancelled", death.summary)
        if task is not self.current:
            self.waiting.remove(task)

    # --- the container's end ---------------------------------------------------------------------

    @property
    def moving_data(self) -> bool:
        """Whether data is on its way to or from the store."""
        return bool(self._aside)

    async def settled(self) -> None:
        """Wait while `moving_data`."""
        if self._aside:
            await asyncio.wait(self._aside)

    def container_ended(self, death: Death) -> None:
        """Nothing more comes from the runner: end the task in hand with `death`, give back the others."""
        self._open = False
        self._watch.close()
        task, self.current = self.current, None
        if task is not None and not task.begun:
            self.waiting.appendleft(task)
        elif task is not None:
            if len(task.indexes) > 1 and task.announced != task.index:
                # Results of quick inputs may have been on their way, so it need not be the first that did it.
                task.call.careful = True
            else:
                self._end_begun(task, death)
            self._give_back(task.call, list(task.indexes))
        self._end_waiting(death)

    def _end_waiting(self, death: Death) -> None:
        """What has not begun can run elsewhere; only a session's cells cannot."""
        tasks, self.waiting = list(self.waiting), deque()
        for task in tasks:
            call = task.call
            if self._spec.session:
                lost = session_lost(death)
                self._end(task, [lost.event()], lost.state, lost.summary)
            elif call.kind == "map":
                self._give_back(call, list(task.indexes))
            elif not call.over:
                self._services.forget(call)
                self._services.send(CallLost(call_id=call.call_id, reason=death.problem.message))

    def _end_begun(self, task: Task, death: Death) -> None:
        call = task.call
        if call.kind != "map":
            self._end(task, [death.event()], death.state, death.summary)
        elif task.indexes and not call.over:
            index = task.indexes.popleft()
            events = [death.event(index)]
            call.emit(events, cost_of(events), _the_host(), (index,))

    def _end(self, task: Task, events: list[Event], state: CallState, summary: str) -> None:
        """End a call here: the runner's own end of it, if it still comes, counts no more."""
        if not task.call.over:
            end = self._end_of(RunnerEnd(state=state, summary=summary, ended=time.time()))
            task.call.emit(events, cost_of(events), _the_host(), (), end)

    def _give_back(self, call: Call, indexes: list[int]) -> None:
        if indexes and not call.over:
            call.pending.difference_update(indexes)
            self._services.send(Returned(call_id=call.call_id, inputs=tuple(indexes)))

    def _end_of(self, end: RunnerEnd) -> End:
        return End(
            state=cast("CallState", end.state) if end.state in FINAL_STATES else "failed",
            summary=end.summary,
            times=CallTimes(started=end.started, first_output=end.first_output, ended=end.ended),
            peak_memory=self.peak_memory,
        )

    # --- windows ---------------------------------------------------------------------------------

    def _runner(self, call: Call) -> Producer:
        runner = call.runners.get(self._container_id)
        if runner is None:
            runner = Producer(call.call_id, call.window, self._tell_window)
            call.runners[self._container_id] = runner
        return runner

    def _tell_window(self, runner: Producer) -> None:
        # Who hears late of an eighth of the window still has the rest of it to go on with.
        if runner.consumed - runner.told >= max(runner.window // 8, 1):
            runner.told = runner.consumed
            self._link.control({"t": "window", "call": runner.call_id, "consumed": runner.consumed})

    def _resume_pipes(self, pipes: Producer) -> None:
        if self.output is not None and pipes.ahead() < pipes.window:
            self.output.resume()

    def _run_aside(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)


def _the_host() -> Producer:
    """Of events that the host makes itself, which wait for no window."""
    return Producer("", 0, lambda producer: None)
