"""Classes: what the code of one becomes in a container.

The code of an instance is a plain dict, so that it can be recognised without importing anything::

    {"__skylift_class__": 1, "cls": the class, "parameters": {name: value},
     "enter_snap": [names], "enter": [names], "exit": [names], "methods": [names], "template": text}

The arguments of a call of it are ``((method, *args), kwargs)``.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from .pickling import RunnerError

MARK = "__skylift_class__"

Call: TypeAlias = Callable[[Callable[[], Any]], Any]
"""Calls a hook, and awaits what it returns where that is awaitable."""


def call_alone(hook: Callable[[], Any]) -> Any:
    """Calls a hook in a process that has no event loop; one that it needs is closed again."""
    value = hook()
    if not hasattr(type(value), "__await__"):
        return value
    import asyncio

    async def waiting() -> Any:
        return await value

    return asyncio.run(waiting())


def is_class_code(value: Any) -> bool:
    """Whether what a function's pickle holds is a class's instance."""
    return type(value) is dict and value.get(MARK) == 1


class Service:
    """An instance of a user's class, made and entered when its first call comes."""

    def __init__(self, code: dict[str, Any]) -> None:
        self._class: Any = code["cls"]
        self._parameters: dict[str, Any] = code["parameters"]
        self._snap_hooks = len(code["enter_snap"])
        self._hooks: list[str] = [*code["enter_snap"], *code["enter"]]
        self._exit_hooks: list[str] = code["exit"]
        self._methods = frozenset(code["methods"])
        self._instance: Any = None
        self._done = 0
        self._started = False
        self.template: str = code.get("template", "")
        """What the same class has in common with itself in other kernels; "" where it needs no template."""
        self.__name__ = self._class.__name__

    @property
    def live(self) -> bool:
        """Whether there is an instance."""
        return self._instance is not None

    def prepare(self, call: Call = call_alone) -> None:
        """Makes the instance and runs the hooks of ``enter(snap=True)``, if that has not been done.

        A template does this before it is forked. Raises what the class raises; the hooks before the one that
        raised stay done, and the next call goes on with that one.
        """
        self._run_hooks(self._snap_hooks, call)

    def start(self, call: Call = call_alone) -> None:
        """Makes the instance ready for calls, if it is not: `prepare`, then the other ``enter`` hooks."""
        self._started = True
        if self._instance is None or self._done < len(self._hooks):
            self._run_hooks(self._snap_hooks, call)
            self._run_hooks(len(self._hooks), call)

    def take_over(self, others: Iterable[Service]) -> None:
        """Takes the instance that a template has prepared for the same class of another kernel."""
        for other in others:
            if self.template and other.template == self.template and not other._started:
                self._instance, self._done = other._instance, other._done
                other._instance, other._done = None, 0
                # So that tracebacks show the cell that is here now.
                with contextlib.suppress(TypeError):
                    self._instance.__class__ = self._class
                return

    def method(self, args: tuple[Any, ...]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The bound method that a call is for, and its arguments. Only after `start`."""
        name = args[0] if args else ""
        if name not in self._methods:
            raise RunnerError("InvalidError", f"{self.__name__} has no method {name!r}")
        return getattr(self._instance, name), args[1:]

    def end(self, call: Call = call_alone) -> None:
        """Runs the exit hooks, if the instance has been entered, and lets go of it.

        What a hook raises is printed to stderr. A call that comes later makes a new instance.
        """
        instance, self._instance = self._instance, None
        entered = self._started and self._done == len(self._hooks)
        self._done, self._started = 0, False
        if instance is None:
            return
        if entered:
            for name in self._exit_hooks:
                try:
                    call(getattr(instance, name))
                except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: PERF203
                    self._complain(name, error)
        del instance
        # Models are often parts of cycles, and their GPU memory is wanted now.
        gc.collect()

    def _run_hooks(self, until: int, call: Call) -> None:
        if self._instance is None:
            self._instance = self._make()
        while self._done < until:
            call(getattr(self._instance, self._hooks[self._done]))
            self._done += 1

    def _make(self) -> Any:
        made = self._class.__new__(self._class)
        for name, value in self._parameters.items():
            setattr(made, name, value)
        made.__init__()
        return made

    def _complain(self, hook: str, error: BaseException) -> None:
        from .errors import text_of

        print(
            f"skylift: the exit hook {self.__name__}.{hook} raised\n{text_of(error)}", file=sys.stderr, end=""
        )
