"""Functions that run in containers: what ``@app.function`` makes."""

from __future__ import annotations

import types
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar

from skylift import context
from skylift.calls import Nudge, RemoteCall
from skylift.client import Client
from skylift.dual import Blocking, Iterating, share_docs
from skylift.exceptions import ExecutionError, InvalidError
from skylift.function_code import FunctionCode
from skylift.function_definition import Definition
from skylift.image import Image
from skylift.map_inputs import MapInputs
from skylift.map_iterables import tuples, zipped
from skylift.maps import CallMailbox, MapOptions, run_map
from skylift.options import FunctionOptions, check_options
from skylift.results import connected_client, items_of, result_of
from skylift.retries import Retries
from skylift.serialization import dumps_call
from skylift.summaries import call_summary, calling_place
from skylift.waiting import BLOCKING, Waiter
from skylift.waiting import run as run_blocking
from skylift.wire import INLINE_LIMIT, CallKind, Define, Payload, Submit, new_id

if TYPE_CHECKING:
    from skylift.app import App
    from skylift.function_call import FunctionCall

P = ParamSpec("P")
R = TypeVar("R")


@share_docs
class Function(Generic[P, R]):
    """A function that runs in containers. ``@app.function()`` makes one.

    ``f.remote(x)`` runs it there and waits; ``f.local(x)`` runs it here. Methods that wait have ``.aio``.
    """

    _skylift_handle = True

    def __init__(
        self, app: App, raw: Callable[P, R], name: str, options: FunctionOptions, is_generator: bool
    ) -> None:
        self._restore(app, raw, name, options, is_generator)

    def _restore(
        self, app: App, raw: Callable[P, R], name: str, options: FunctionOptions, is_generator: bool
    ) -> None:
        self._app = app
        self._name = name
        self._options = options
        self._skylift_raw = raw
        self._is_generator = is_generator
        self._code = FunctionCode(raw, name, options.serializer, options.by_value)
        self._definition = Definition(app._label, name, options, self._code, is_generator)
        self.__name__ = name
        self.__doc__ = getattr(raw, "__doc__", None)
        self.__module__ = getattr(raw, "__module__", "")
        self.__wrapped__ = raw

    # --- calls -----------------------------------------------------------------------------------

    @property
    def remote(self) -> Blocking[P, R]:
        """Runs the function in a container and returns what it returns, or raises what it raises."""
        return Blocking(self._remote, self._like())

    @property
    def remote_gen(self) -> Iterating[P, Any]:
        """Runs a generator function in a container; gives each item as it is yielded there."""
        return Iterating(self._remote_gen, self._like())

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs the function here, as if it were not decorated."""
        return self._skylift_raw(*args, **kwargs)

    @property
    def map(self) -> Iterating[..., Any]:
        """Runs the function for each of many inputs, in as many containers as there may be.

        ``f.map(xs)``, ``f.map(xs, ys, kwargs={}, order_outputs=True, return_exceptions=False)``: one iterable
        for each argument, drawn lazily, a bounded number of inputs ahead of the outputs. Outputs come in the
        order of the inputs, or as they are ready with ``order_outputs=False``. The first exception of an
        input ends the map, unless ``return_exceptions=True`` puts exceptions among the outputs.
        """
        return Iterating(self._map)

    @property
    def starmap(self) -> Iterating[..., Any]:
        """As `map`, over one iterable whose items are tuples of arguments."""
        return Iterating(self._starmap)

    @property
    def for_each(self) -> Blocking[..., None]:
        """As `map`, for what the function does rather than returns: runs all inputs before it returns.

        ``ignore_exceptions=True`` lets inputs fail.
        """
        return Blocking(self._for_each)

    @property
    def spawn(self) -> Blocking[P, FunctionCall[R]]:
        """Starts a call and returns at once; the call is on disk by then and goes on without this process.

        Get its result from the `FunctionCall`, here or with `FunctionCall.from_id` anywhere.
        """
        return Blocking(self._spawn, self._like())

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"{self._name} runs in a container: call {self._name}.remote(…) to run it there, or "
            f"{self._name}.local(…) to run it here"
        )

    # --- variants --------------------------------------------------------------------------------

    def with_options(
        self,
        *,
        gpu: str | Sequence[str] | None = None,
        cpu: float | tuple[float, float] | None = None,
        memory: int | tuple[int, int] | None = None,
        env: Mapping[str, str | None] | None = None,
        secrets: Sequence[Any] | None = None,
        volumes: Mapping[Any, Any] | None = None,
        retries: int | Retries | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: float | None = None,
        timeout: float | None = None,
        region: str | Sequence[str] | None = None,
        zone: str | None = None,
        cloud: str | None = None,
    ) -> Function[P, R]:
        """The same function with some parameters changed; it has containers of its own."""
        given = {name: value for name, value in locals().items() if name != "self"}
        if self._is_generator and retries is not None:
            raise InvalidError(f"retries= of {self._name}: a generator cannot be retried")
        options = check_options(given, self._options)
        return Function(self._app, self._skylift_raw, self._name, options, self._is_generator)

    @staticmethod
    def from_name(app_name: str, name: str, *, version: int | None = None) -> NoReturn:
        """Not built yet. Raises `InvalidError`."""
        raise InvalidError("Function.from_name is not built yet: apps cannot be deployed yet")

    def __getattr__(self, name: str) -> Any:
        if name in ("spawn_map", "get_current_stats", "update_autoscaler", "get_web_url", "logs"):
            raise InvalidError(f"Function.{name} is not built yet")
        raise AttributeError(f"'Function' object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"<skylift.Function {self._name} of app {self._app.name or '(unnamed)'}>"

    # --- handles in closures, arguments and results ----------------------------------------------

    @property
    def _skylift_travels(self) -> types.FunctionType | type | None:
        """The function whose code goes along when this handle is pickled."""
        raw = self._skylift_raw
        return raw if isinstance(raw, types.FunctionType) and self._code.reference() is None else None

    @property
    def _skylift_image(self) -> object:
        """What goes along as its image: the same object as long as that is the same."""
        return self._image()._latest()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "app": self._app,
            "name": self._name,
            "raw": self._code.reference() or self._skylift_raw,
            "options": self._options,
            "image": self._image(),
            "is_generator": self._is_generator,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        from dataclasses import replace

        options = replace(state["options"], image=state["image"])
        self._restore(state["app"], state["raw"], state["name"], options, state["is_generator"])

    # --- how it is done --------------------------------------------------------------------------

    async def _remote(self, waiter: Waiter, /, *args: Any, **kwargs: Any) -> Any:
        if self._is_generator:
            raise InvalidError(f"{self._name} is a generator function: use {self._name}.remote_gen(…)")
        call = await self._new_call(waiter, "call", args, kwargs)
        return await result_of(call, waiter, self._name)

    async def _remote_gen(self, waiter: Waiter, /, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        if not self._is_generator:
            raise InvalidError(f"{self._name} is no generator function: use {self._name}.remote(…)")
        call = await self._new_call(waiter, "generator", args, kwargs)
        items = items_of(call, waiter, self._name)
        try:
            async for item in items:
                yield item
        finally:
            await items.aclose()

    def _map(
        self,
        waiter: Waiter,
        /,
        *input_iterators: Any,
        kwargs: Mapping[str, Any] | None = None,
        order_outputs: bool = True,
        return_exceptions: bool = False,
    ) -> AsyncGenerator[Any, None]:
        self._refuse_generator("map")
        if not input_iterators:
            raise InvalidError(f"{self._name}.map() needs an iterable of inputs")
        return self._run_map(
            waiter, zipped(waiter, input_iterators, self._name), kwargs, order_outputs, return_exceptions
        )

    def _starmap(
        self,
        waiter: Waiter,
        input_iterator: Any,
        /,
        *,
        kwargs: Mapping[str, Any] | None = None,
        order_outputs: bool = True,
        return_exceptions: bool = False,
    ) -> AsyncGenerator[Any, None]:
        self._refuse_generator("starmap")
        return self._run_map(
            waiter, tuples(waiter, input_iterator, self._name), kwargs, order_outputs, return_exceptions
        )

    async def _for_each(
        self,
        waiter: Waiter,
        /,
        *input_iterators: Any,
        kwargs: Mapping[str, Any] | None = None,
        ignore_exceptions: bool = False,
    ) -> None:
        self._refuse_generator("for_each")
        outputs = self._map(
            waiter,
            *input_iterators,
            kwargs=kwargs,
            order_outputs=False,
            return_exceptions=ignore_exceptions,
        )
        try:
            async for _ in outputs:
                pass
        finally:
            await outputs.aclose()

    async def _spawn(self, waiter: Waiter, /, *args: Any, **kwargs: Any) -> Any:
        from skylift.function_call import FunctionCall

        kind: CallKind = "generator" if self._is_generator else "call"
        call = await self._new_call(waiter, kind, args, kwargs, spawned=True)
        try:
            call.client.call(call)
            _, message = await waiter.take(call.mailbox)
            call.take_in(message)
        finally:
            call.client.forget(call)
        self._app._spawned(call.call_id)
        return FunctionCall(call.call_id, name=self._name, shows_output=True)

    def _refuse_generator(self, method: str) -> None:
        if self._is_generator:
            raise InvalidError(
                f"{self._name}.{method}(): {self._name} is a generator function, and {method} needs one that "
                f"returns; use {self._name}.remote_gen(…)"
            )

    def _run_map(
        self,
        waiter: Waiter,
        drawn: Iterator[tuple[Any, ...]] | AsyncIterator[tuple[Any, ...]],
        kwargs: Mapping[str, Any] | None,
        order_outputs: bool,
        return_exceptions: bool,
    ) -> AsyncGenerator[Any, None]:
        self._check_running()
        options = MapOptions(self._name, order_outputs, return_exceptions)
        return run_map(waiter, drawn, _MapTarget(self, dict(kwargs or {})), options)

    def _check_running(self) -> None:
        if not self._app._runs():
            raise ExecutionError(
                f"{self._name} cannot be called yet: its app does not run. In a script, put the call in "
                "`with app.run():` (in a notebook that is not needed)"
            )

    def _image(self) -> Image:
        return self._options.image or self._app._default_image()

    async def _define(self, waiter: Waiter) -> tuple[Client, Define]:
        client = await connected_client(waiter)
        shell = context.ipython()
        moment = shell.execution_count if shell is not None else None
        return client, await self._defined_by().current(waiter, client, self._image(), moment)

    def _announce(self) -> None:
        """Has its ``min_containers`` started before it is called."""
        client, define = run_blocking(self._define(BLOCKING))
        client.announce(define)

    def _defined_by(self) -> Definition:
        return self._definition

    def _like(self) -> Callable[..., Any] | None:
        """The function whose signature tools should show."""
        return self._skylift_raw

    def _dump(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        return dumps_call(args, kwargs, self._name, self._skylift_raw)

    async def _new_call(
        self,
        waiter: Waiter,
        kind: CallKind,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        spawned: bool = False,
    ) -> RemoteCall:
        self._check_running()
        client, define = await self._define(waiter)
        data = self._dump(args, kwargs)
        if len(data) > INLINE_LIMIT:
            payload = await waiter.call(client.http.payload, data)
        else:
            payload = Payload(data=data, size=len(data))
        submit = Submit(
            call_id=new_id("fc"),
            function_id=define.function_id,
            kind=kind,
            args=payload,
            durable=spawned,
            detached=spawned,
            summary=call_summary(self._name, args, kwargs),
            cell=calling_place(),
        )
        return RemoteCall(client, submit.call_id, submit=submit, define=define)


class _MapTarget:
    """A function as the target of a map."""

    def __init__(self, function: Function[Any, Any], kwargs: dict[str, Any]) -> None:
        self._function = function
        self._kwargs = kwargs

    def dump(self, arguments: tuple[Any, ...]) -> bytes:
        return self._function._dump(arguments, self._kwargs)

    def seal(self, data: bytes) -> Payload:
        return Client.current().http.payload(data)

    async def open(self, waiter: Waiter, mailbox: CallMailbox) -> tuple[RemoteCall, MapInputs]:
        client, define = await self._function._define(waiter)
        submit = Submit(
            call_id=new_id("fc"),
            function_id=define.function_id,
            kind="map",
            summary=f"{self._function._name}.map(…)",
            cell=calling_place(),
        )
        inputs = MapInputs(
            submit.call_id,
            send=lambda message: client.say(call, message),
            woken=lambda: mailbox.put((call, Nudge())),
        )
        call = RemoteCall(
            client, submit.call_id, submit=submit, define=define, inputs=inputs, mailbox=mailbox
        )
        return call, inputs
