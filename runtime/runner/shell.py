"""The IPython shell of a session's cells: a kernel's shell, with a call's stream in the place of ZeroMQ."""

from __future__ import annotations

import atexit
import builtins
import getpass
import importlib.util
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, cast

from IPython.core.compilerop import CachingCompiler
from IPython.core.error import StdinNotImplementedError, UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from .capture import NO_INPUT, Capture
from .commands import run_command
from .display import StreamPublisher, ValueHook, send_event
from .text_bars import install_text_bars

if TYPE_CHECKING:
    from .aio import EventLoop
    from .cancel import Guard


class CellShell(InteractiveShell):
    """Runs cells in ``__main__``; what they show goes to the stream of the call that runs.

    `on_error` is told of every exception that is to be shown, where IPython would print a traceback.
    """

    capture: Capture
    on_error: Callable[[BaseException], None]
    event_loop: EventLoop
    guard: Guard
    reported = False
    """Whether `on_error` has been told of something since the cell began."""

    def init_virtualenv(self) -> None:
        """Nothing: the runner's Python is the image's."""

    def init_io(self) -> None:
        """Nothing: the streams are the runner's."""

    def enable_gui(self, gui: str | None = None) -> None:
        """Nothing: there is no screen."""

    def ask_exit(self) -> None:
        """What ``exit`` does in a cell."""
        print("exit does nothing in a session; %gpu stop ends it", file=sys.stderr)

    def showtraceback(self, exc_tuple: Any = None, *_args: Any, **_options: Any) -> None:
        """An `error` event instead of a printed traceback."""
        error = exc_tuple[1] if exc_tuple else sys.exc_info()[1]
        if error is None:
            print("there is no traceback to show", file=sys.stderr)
        else:
            self.reported = True
            self.on_error(error.with_traceback(None) if isinstance(error, UsageError) else error)

    def _format_exception_for_storage(self, *_args: Any, **_options: Any) -> dict[str, Any]:
        """Nothing, quickly: see `_forget`."""
        return {}

    def showsyntaxerror(self, filename: str | None = None, *_args: Any, **_options: Any) -> None:
        """As `showtraceback`."""
        self.showtraceback()

    def system_piped(self, cmd: str) -> None:
        """``!cmd``."""
        if cmd.rstrip().endswith("&"):
            raise OSError(
                "a command in the background would outlive its cell: start it with subprocess.Popen"
            )
        expand: Callable[..., str] = self.var_expand
        code = run_command(expand(cmd, depth=1))
        self.user_ns["_exit_code"] = code
        if code != 0 and getattr(self, "system_raise_on_error", False):
            raise subprocess.CalledProcessError(code, cmd)

    system = system_piped

    def _find_with_lazy_load(self, *arguments: Any) -> Any:
        """A magic. IPython imports some when they are first used, and never again if that is interrupted."""
        active, self.guard.active = self.guard.active, False
        try:
            base: Any = super()
            return base._find_with_lazy_load(*arguments)
        finally:
            self.guard.active = active

    def begin_cell(self, filename: str, first_line: int, execution_count: int) -> None:
        """Where the next cell's lines are, and its number (0: the one after the last)."""
        compiler = cast(_Compiler, self.compile)
        compiler.filename = filename
        compiler.first_line = first_line
        if execution_count:
            self.execution_count = execution_count

    def run(self, code: str, *, silent: bool) -> bool:
        """Runs a cell; whether it came to its end. What it raises is reported, not raised.

        In the guard's active section is the cell's own code alone.
        """
        transform: Callable[[str], str] = self.transform_cell
        failed: Any = None
        try:
            transformed = transform(code)
        except Exception:
            transformed, failed = code, sys.exc_info()
        cell = self.run_cell_async(
            code,
            store_history=not silent,
            silent=silent,
            transformed_cell=transformed,
            preprocessing_exc_tuple=failed,
        )
        self.reported = False
        result = None
        try:
            if self.should_run_async(code, transformed_cell=transformed, preprocessing_exc_tuple=failed):
                result = self.event_loop.run(cell)
            else:
                result = self._run_at_once(cell)
            self.guard.active = False
        except BaseException as error:
            self.guard.active = False
            # What ended the cell may have been reported already, and this is a second interrupt on its heels.
            if not self.reported:
                self.showtraceback((type(error), error, error.__traceback__))
        success = result is not None and result.success and self._show_async_items()
        self.events.trigger("post_execute")
        if not silent:
            self.events.trigger("post_run_cell", result)
        self._forget()
        return success

    def _show_async_items(self) -> bool:
        hook = cast(ValueHook, self.displayhook)
        items, hook.async_items = hook.async_items, None
        try:
            if items is not None:
                self.event_loop.run(hook.show_each(items))
                self.guard.active = False
        except BaseException as error:
            self.guard.active = False
            self.showtraceback((type(error), error, error.__traceback__))
            return False
        return True

    def _run_at_once(self, cell: Any) -> Any:
        """Runs a coroutine that awaits nothing, as IPython does for cells without await."""
        try:
            self.guard.active = True
            cell.send(None)
        except StopIteration as done:
            return done.value
        raise RuntimeError("a cell without await has waited")

    def _forget(self) -> None:
        """What was shown has been sent, and IPython would keep it all. An exception would keep its frames'
        variables alive, which may be what takes the GPU's memory."""
        self.last_execution_result = None
        for kept in ("outputs", "exceptions"):
            getattr(self.history_manager, kept, {}).clear()


class _Compiler(CachingCompiler):
    """Numbers the lines of the cell in hand from its own first line, under its own file name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call,unused-ignore]
        self.filename = ""
        self.first_line = 1

    def get_code_name(self, raw_code: str, transformed_code: str, number: int) -> str:
        return self.filename or str(super().get_code_name(raw_code, transformed_code, number))

    def cache(self, transformed_code: str, number: int = 0, raw_code: str | None = None) -> str:
        # Tracebacks show the cell as it was written, not what %magics and !commands became.
        if raw_code is not None and raw_code.count("\n") == transformed_code.rstrip("\n").count("\n"):
            transformed_code = raw_code
        return str(super().cache(self._moved(transformed_code), number, raw_code))

    def ast_parse(self, source: str, filename: str = "<unknown>", symbol: str = "exec") -> Any:
        if filename == self.filename:
            source = self._moved(source)
        return super().ast_parse(source, filename, symbol)

    def _moved(self, source: str) -> str:
        return "\n" * (self.first_line - 1) + source


# --- making one ----------------------------------------------------------------------------------


def make_shell(
    capture: Capture, guard: Guard, loop: EventLoop, on_error: Callable[[BaseException], None]
) -> CellShell:
    """The process's one shell, over ``__main__``. Also what a notebook's kernel does to its process: plots
    are shown inline, and nobody waits for a keyboard."""
    # Before the first cell, so that importing matplotlib there is enough.
    if importlib.util.find_spec("matplotlib_inline") is not None:
        os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    install_text_bars()
    warnings.filterwarnings("ignore", message="To exit: use 'exit'")
    builtins.input = _no_input
    getpass.getpass = _no_input

    folder = tempfile.TemporaryDirectory(prefix="ipython-")
    atexit.register(folder.cleanup)
    config = Config()
    config.HistoryManager.enabled = False
    main = sys.modules["__main__"]
    CellShell.displayhook_class = ValueHook  # type: ignore[assignment,unused-ignore]
    CellShell.display_pub_class = StreamPublisher  # type: ignore[assignment,unused-ignore]
    CellShell.compiler_class = _Compiler  # type: ignore[assignment,unused-ignore]
    CellShell.capture, CellShell.event_loop, CellShell.guard = capture, loop, guard
    CellShell.on_error = staticmethod(on_error)
    shell: CellShell = CellShell.instance(
        config=config,
        ipython_dir=folder.name,
        user_module=main,
        user_ns=vars(main),
    )
    shell.loop_runner = loop.run
    shell.set_hook("show_in_pager", _show_in_pager, 99)  # type: ignore[no-untyped-call,unused-ignore]
    return shell


def _no_input(*_args: Any, **_options: Any) -> NoReturn:
    raise StdinNotImplementedError(NO_INPUT)


def _show_in_pager(shell: CellShell, data: Any, *_args: Any, **_options: Any) -> None:
    """What ``name?`` shows."""
    bundle = data if isinstance(data, dict) else {"text/plain": data}
    send_event(shell.capture, "display", {}, bundle.get("data", bundle), {})
