"""Calls of functions and generators, and what their ends have in common."""

from __future__ import annotations

import functools
import pickle
import time
from collections import OrderedDict
from collections.abc import AsyncIterable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from . import pickling
from .aio import EventLoop
from .cancel import Guard, Request
from .errors import Described, describe, describe_ours
from .pickling import PROTOCOL, RunnerError, dumps_result, import_cloudpickle, one_line
from .service import Service, is_class_code
from .stream import Stream

if TYPE_CHECKING:
    from .link import Header

KEPT_FUNCTIONS = 64
_CO_COROUTINE = 0x80

_STATES = {"interrupt": "cancelled", "cancel": "cancelled", "timeout": "timeout"}
_ERRORS = {"cancel": "InputCancellation", "timeout": "FunctionTimeoutError"}
_REASONS = {"cancel": "the call was cancelled", "timeout": "the call took longer than its timeout"}


class Functions:
    """The functions that the host has sent, the last `KEPT_FUNCTIONS` of them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, bytes | memoryview | Callable[..., Any] | Service | RunnerError] = (
            OrderedDict()
        )

    def define(self, function_id: str, code: bytes | memoryview) -> None:
        """Takes a function's pickle, which is looked at when the function is first called."""
        import_cloudpickle()
        if not isinstance(self._kept.get(function_id), Service):
            self._keep(function_id, code)

    def adopt(self, function_id: str, service: Service) -> None:
        """Takes a class that has been prepared already; its code, if that comes too, is not needed."""
        self._keep(function_id, service)

    def _keep(self, function_id: str, what: bytes | memoryview | Service) -> None:
        self._kept[function_id] = what
        self._kept.move_to_end(function_id)
        if len(self._kept) > KEPT_FUNCTIONS:
            # A class's instance has state, and exit hooks that are to run.
            oldest = (
                each for each, kept in self._kept.items() if not (isinstance(kept, Service) and kept.live)
            )
            del self._kept[next(oldest)]

    def services(self) -> list[Service]:
        """The classes that have an instance now."""
        return [kept for kept in self._kept.values() if isinstance(kept, Service) and kept.live]

    def __contains__(self, function_id: str) -> bool:
        return function_id in self._kept

    def get(self, function_id: str) -> Callable[..., Any] | Service:
        """The function, or class. Raises `RunnerError` if its pickle cannot be unpickled, now and later."""
        function = self._kept[function_id]
        if isinstance(function, (bytes, memoryview)):
            try:
                function = pickling.loads(function, "the function")
                if is_class_code(function):
                    function = Service(function)
                    function.take_over(self.services())
            except RunnerError as failure:
                function = failure
            self._kept[function_id] = function
        self._kept.move_to_end(function_id)
        if isinstance(function, RunnerError):
            raise function.with_traceback(None)
        return function


def name_of(function: Callable[..., Any] | Service) -> str:
    """For messages: ``"train"``."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", None) or type(function).__name__


class Caller:
    """Calls functions in the main thread."""

    def __init__(self, functions: Functions, guard: Guard, loop: EventLoop) -> None:
        self.functions = functions
        self.guard = guard
        self.loop = loop

    def call(self, header: Header, payload: bytes | memoryview, stream: Stream) -> None:
        """A call of kind ``call``, from its arguments to its end."""
        guard = self.guard
        early = guard.begin(header["call"])
        try:
            data = self.value(header, payload, stream) if early is None else b""
        except BaseException as error:
            guard.active = False
            finish_failed(stream, guard.delivered, error)
            return
        if early is None and not lasting(guard.delivered):
            stream.finish("done", last=(("result", "{}", data),))
        else:
            finish_failed(stream, guard.delivered, None)

    def value(self, header: Header, payload: bytes | memoryview, stream: Stream) -> bytes:
        """Calls the function, as often as its retries allow; the pickle of what it returned.

        Raises what the last attempt raised, or what the guard delivers, and then leaves `Guard.active` set.
        """
        guard = self.guard
        policy = header.get("retries")
        attempt = 1
        while True:
            try:
                guard.active = True
                data = self._attempt(header["code"], payload)
                if stream.index is not None:
                    stream.wait_for_room()
                guard.active = False
                return data
            except Exception as error:
                if not policy or attempt > policy["max_retries"]:
                    raise
                if isinstance(error, RunnerError) or guard.delivered is not None:
                    raise
                summary = one_line(error)
            time.sleep(_pause(policy, attempt))
            guard.active = False
            attempt += 1
            stream.announce(attempt=attempt, error=summary)

    def _attempt(self, function_id: str, payload: bytes | memoryview) -> bytes:
        function, args, kwargs = self._called(function_id, payload)
        if _is_coroutine_function(function):
            self.guard.active = False
            value = self.loop.run(function(*args, **kwargs))
        else:
            value = function(*args, **kwargs)
            if hasattr(type(value), "__await__"):
                value = self.loop.run(value)
        try:
            return pickle.dumps(value, PROTOCOL)
        except Exception:
            return dumps_result(value, name_of(function))

    def _called(
        self, function_id: str, payload: bytes | memoryview
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """The function, or the method of a class that is ready now, and the arguments."""
        function = self.functions.get(function_id)
        args, kwargs = _arguments(payload, function)
        if isinstance(function, Service):
            if not function.live:
                # An older version of the class may hold the memory that this one needs.
                self.end_services()
            function.start(self._run_hook)
            function, args = function.method(args)
        return function, args, kwargs

    def _run_hook(self, hook: Callable[[], Any]) -> Any:
        if _is_coroutine_function(hook):
            self.guard.active = False
            return self.loop.run(hook())
        value = hook()
        return self.loop.run(value) if hasattr(type(value), "__await__") else value

    def end_services(self) -> None:
        """Runs the exit hooks of all classes that have an instance, and lets go of these."""
        for service in self.functions.services():
            service.end(self._run_hook)

    def leave(self) -> None:
        """Runs exit hooks when the process is about to end; nothing interrupts them any more."""
        self.guard.active = False
        self.guard.delivered = self.guard.stopping
        self.end_services()
        self.guard.active = False

    def generate(self, header: Header, payload: bytes | memoryview, stream: Stream) -> None:
        """A call of kind ``generator``, from its arguments to its end."""
        guard = self.guard
        early = guard.begin(header["call"])
        try:
            if early is None:
                guard.active = True
                function, args, kwargs = self._called(header["code"], payload)
                items = function(*args, **kwargs)
                if hasattr(type(items), "__await__"):
                    items = self.loop.run(items)
                if hasattr(type(items), "__aiter__"):
                    guard.active = False
                    self.loop.run(_drain_async(items, stream, name_of(function)))
                else:
                    _drain(items, stream, name_of(function))
                guard.active = False
        except BaseException as error:
            guard.active = False
            finish_failed(stream, guard.delivered, error)
            return
        if early is None and not lasting(guard.delivered):
            stream.finish("done")
        else:
            finish_failed(stream, guard.delivered, None)


def _arguments(
    data: bytes | memoryview, function: Callable[..., Any] | Service
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The ``(args, kwargs)`` of a call. Raises `RunnerError` naming what is missing here."""
    try:
        args, kwargs = pickle.loads(data)
    except Exception:
        args, kwargs = pickling.loads(data, f"the arguments of {name_of(function)}")
    return args, kwargs


def _is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Whether calling it runs nothing of the user's yet. A coroutine that an interrupt separates from the
    loop would be reported by Python as never awaited."""
    code = getattr(function, "__code__", None)
    return code is not None and bool(code.co_flags & _CO_COROUTINE)


def _pause(policy: Header, attempt: int) -> float:
    """Seconds to wait after a failed attempt."""
    delay = policy.get("initial_delay", 1.0) * policy.get("backoff_coefficient", 2.0) ** (attempt - 1)
    return float(min(delay, policy.get("max_delay", 60.0)))


def _drain(items: Iterable[Any], stream: Stream, function: str) -> None:
    """Sends each item. What is raised between two items (a cancellation) is raised in the generator too."""
    try:
        iterator = iter(items)
    except TypeError:
        raise RunnerError(
            "InvalidError",
            f"{function} returned a value of type {pickling.type_name(items)} where remote_gen() wants a "
            "generator: let it yield, or call it with remote()",
        ) from None
    dumps, protocol, send = pickle.dumps, PROTOCOL, stream.item
    try:
        for item in iterator:
            try:
                data = dumps(item, protocol)
            except Exception:
                data = dumps_result(item, function, "yielded")
            send(data)
    except BaseException as error:
        if getattr(iterator, "gi_frame", None) is not None:
            iterator.throw(error)  # type: ignore[attr-defined]
        raise


async def _drain_async(items: AsyncIterable[Any], stream: Stream, function: str) -> None:
    iterator = items.__aiter__()
    try:
        async for item in iterator:
            stream.item(dumps_result(item, function, "yielded"))
    except BaseException as error:
        if getattr(iterator, "ag_frame", None) is not None:
            await iterator.athrow(error)  # type: ignore[attr-defined]
        raise


# --- ends ----------------------------------------------------------------------------------------


def lasting(request: Request | None) -> bool:
    """Whether what was delivered ends the call whatever the user's code made of it: all but an interrupt
    does."""
    return request is not None and request.mode != "interrupt"


def described(request: Request | None, error: BaseException | None) -> tuple[str, Described]:
    """State and `error` event of a call that was ended by `request`, or raised `error`, or both."""
    if request is not None and request.mode == "interrupt":
        if error is None or type(error).__name__ == "CancelledError":
            error = KeyboardInterrupt().with_traceback(None if error is None else error.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            return "cancelled", describe(error)
    elif request is not None:
        reason = request.reason or _REASONS[request.mode]
        return _STATES[request.mode], describe_ours(_ERRORS[request.mode], reason, error)
    assert error is not None
    if isinstance(error, RunnerError):
        return "failed", describe_ours(error.name, str(error), error.__cause__, cause=True)
    return "failed", describe(error)


def finish_failed(stream: Stream, request: Request | None, error: BaseException | None) -> None:
    """Ends a call that was ended by `request`, or raised `error`, or both."""
    state, event = described(request, error)
    stream.finish(state, event.summary, (event.event(),))
