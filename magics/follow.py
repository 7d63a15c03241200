"""Following a cell that runs in a session, until it ends: its output, its status line, its variables."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Iterable
from typing import Any

from skylift.exceptions import Error
from skylift.magics.gateway import fetch
from skylift.magics.interrupts import Interrupts
from skylift.magics.output import Output
from skylift.magics.sending import pickle_for_session
from skylift.magics.sessions import NotebookSession, NotebookSessions
from skylift.magics.status import CellState, DisplayLine, Line, StatusLine, TerminalLine
from skylift.session import CellRun, Pickled, RemoteRef
from skylift.wire import CallStatus

WAKING = "waking "
"""How the gateway's reason begins for starting a container that a sleeping session becomes."""

TICK = 0.5
"""Seconds between two looks at the clock while nothing comes."""


def status_line(shell: Any, asked_for: str) -> StatusLine:
    """A new status line for a cell."""
    line: Line
    if hasattr(shell, "kernel"):
        line = DisplayLine(shell, f"skylift-{uuid.uuid4().hex}")
    else:
        line = TerminalLine(sys.stderr.write)
    return StatusLine(line, CellState(asked_for=asked_for.replace(",", " or ")))


def follow(
    shell: Any,
    sessions: NotebookSessions,
    known: NotebookSession,
    run: CellRun,
    status: StatusLine,
    *,
    deleted: Iterable[str] = (),
) -> BaseException | None:
    """Puts out what the cell puts out, and binds what it assigned, also when it fails or is interrupted.

    `deleted`: names that the cell deletes. Returns what the cell raised.
    """
    status.belongs_to(run.call_id)
    earlier = known.container_id
    output = Output(shell, known.session.session_id, status.show)
    interrupts = Interrupts(run.interrupt, run.cancel)
    try:
        with interrupts:
            _put_out(run, output, status, earlier, sessions)
    except KeyboardInterrupt:
        run.detach()
        status.leave("interrupted", f"The cell does not react. %gpu stop {known.name} ends its session")
        raise
    except BaseException:
        status.leave("failed", "")
        raise
    finally:
        output.flush()
        container = known.session.container
        if container is not None:
            known.container_id = container.container_id
            sessions.keep(known)
    # Also with the button of the status line, of which the kernel hears in this way alone.
    interrupts_it = interrupts.happened or isinstance(run.error, KeyboardInterrupt)
    interrupted = interrupts_it and run.end is not None and run.end.state == "cancelled"
    if run.end is not None:
        status.end(
            run.end,
            interrupted=interrupted,
            container=container,
            new_container=known.container_id != earlier,
            note=_what_became_of(earlier, known.container_id)
            if earlier not in ("", known.container_id)
            else "",
        )
    _bind(shell, known, run, deleted)
    if interrupted and not isinstance(run.error, KeyboardInterrupt):
        # It was still waiting, so there is none from the container.
        return KeyboardInterrupt()
    return run.error


def _put_out(
    run: CellRun, output: Output, status: StatusLine, earlier: str, sessions: NotebookSessions
) -> None:
    timeout = 0.0
    while True:
        try:
            item = run.next(timeout=timeout)
        except StopIteration:
            return
        if item is None:
            output.flush()
            timeout = TICK
        elif isinstance(item, CallStatus):
            container = item.container
            status.take(
                item,
                new_container=container is not None and container.container_id != earlier,
                note=sessions.way_out(item.detail) if item.state == "queued" else "",
            )
        else:
            timeout = 0.0
            status.started()
            output.put(item)
        status.tick()


def _what_became_of(container_id: str, now_in: str) -> str:
    """Why a session goes on in a new container, and what that means; "" where it has only slept."""
    reason = ""
    with contextlib.suppress(Error):
        containers = {c["container_id"]: c for c in fetch("/v1/containers", running="false", limit=200)}
        if now_in in containers and containers[now_in]["reason"].startswith(WAKING):
            return ""
        reason = containers[container_id]["exit_reason"] if container_id in containers else ""
    because = f" ({reason.partition('. ')[0].rstrip('.')})" if reason else ""
    return f"The session's earlier container has ended{because}; what lived only there is gone."


def _bind(shell: Any, known: NotebookSession, run: CellRun, deleted: Iterable[str]) -> None:
    namespace = shell.user_ns
    for name in deleted:
        if name in run.gone:
            namespace.pop(name, None)
    shell.push(run.assigned)
    holds: dict[str, Pickled] = {}
    for name, value in run.assigned.items():
        if isinstance(value, RemoteRef):
            continue
        try:
            holds[name], _ = pickle_for_session(value, namespace)
        except Exception:  # noqa: S112 (it is sent again, or named then)
            continue
    known.session.holds(holds)
