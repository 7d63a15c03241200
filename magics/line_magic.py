"""``%gpu``: this notebook's sessions, and what can be done with them."""

from __future__ import annotations

import shlex
import sys
import time
from typing import Any

from skylift.exceptions import InvalidError, NotFoundError
from skylift.gpu import parse_gpu
from skylift.magics.follow import follow, status_line
from skylift.magics.gateway import fetch
from skylift.magics.help import LINE_COMMANDS
from skylift.magics.options import nearest
from skylift.magics.remote_ref import size
from skylift.magics.sending import captured_values
from skylift.magics.sessions import NotebookSession, NotebookSessions
from skylift.magics.status import duration
from skylift.magics.tables import Table, show, time_of_day
from skylift.session import RemoteRef
from skylift.wire import is_id

LOG_LINES = 200
"""Lines that ``%gpu logs`` shows."""


def run(shell: Any, sessions: NotebookSessions, line: str) -> BaseException | None:
    """Carries out one ``%gpu`` line; returns what an attached cell raised.

    Raises `InvalidError` that names what there is.
    """
    words = shlex.split(line)
    if not words:
        show(table(sessions))
        return None
    command, arguments = words[0], words[1:]
    if command == "stop":
        _stop(sessions.find(_at_most_one(command, arguments)), sessions)
    elif command == "sleep":
        _sleep(sessions.find(_at_most_one(command, arguments)))
    elif command == "wake":
        _wake(sessions.find(_at_most_one(command, arguments)))
    elif command == "logs":
        _logs(sessions.find(_at_most_one(command, arguments)))
    elif command == "put":
        _put(shell, sessions, arguments)
    elif command == "get":
        _get(shell, sessions, arguments)
    elif command == "attach":
        return _attach(shell, sessions, arguments)
    else:
        raise InvalidError(_unknown(command, line))
    return None


def table(sessions: NotebookSessions) -> Table:
    """This notebook's sessions, as the gateway sees them now."""
    known = list(sessions)
    views = {view["session_id"]: view for view in fetch("/v1/sessions")} if known else {}
    rows = []
    for session in known:
        view = views.get(session.session.session_id)
        rows.append([session.name, _runs_on(session, view), session_state(view), session_then(view)])
    return Table(
        ["Session", "On", "State", "Then"],
        rows,
        empty="This notebook has no session yet. A %%gpu cell starts one: %%gpu H100",
    )


def _runs_on(session: NotebookSession, view: dict[str, Any] | None) -> str:
    gpu = (view or {}).get("gpu") or session.options.gpu_text
    container = (view or {}).get("container")
    return f"{gpu} (simulated)" if container and container["simulated"] else str(gpu)


def session_state(view: dict[str, Any] | None) -> str:
    if view is None:
        return "ended; the next cell starts it anew"
    state = str(view["state"])
    if state == "asleep":
        state += f" since {time_of_day(view['since'])}, {size(view['size'])}"
        return f"{state}; could not be woken: {view['problem']}" if view["problem"] else state
    if state == "waiting" and view["detail"]:
        return f"waiting: {view['detail']}"
    return state


def session_then(view: dict[str, Any] | None) -> str:
    """What becomes of it, and when."""
    if view is None:
        return ""
    if view["state"] == "asleep":
        return "the next cell wakes it"
    if not view["ends_at"]:
        return str(view["kept"])
    verb = "sleeps" if view["idle_policy"].startswith("sleep") else "ends"
    return f"{verb} in {duration(max(view['ends_at'] - time.time(), 0))} if nothing runs"


def _sleep(session: NotebookSession) -> None:
    slept = session.session.sleep()
    how = f"{size(slept.size)} " + (f"in {duration(slept.seconds)}" if slept.seconds else "already")
    print(f"Session {session.name} sleeps: {how}. The next cell wakes it.")


def _wake(session: NotebookSession) -> None:
    seconds = session.session.wake()
    how = f"restored in {duration(seconds)}" if seconds else "it was already"
    print(f"Session {session.name} is awake: {how}.")


def _stop(session: NotebookSession, sessions: NotebookSessions) -> None:
    session.session.stop()
    sessions.forget(session)
    print(f"Session {session.name} has ended.")


def _logs(session: NotebookSession) -> None:
    """What the cells printed, oldest first, as far as the last lines go."""
    page = fetch("/v1/calls", session=session.session.session_id, limit=50)
    pieces: list[str] = []
    lines = 0
    for call in page["calls"]:
        output = fetch(f"/v1/calls/{call['call_id']}/output", limit=10_000)
        text = "".join(item["text"] for item in output["items"] if item["kind"] == "output")
        if text:
            pieces.append(f"─── {call['cell'] or call['call_id']} · {call['summary']}\n{text.rstrip()}\n")
            lines += text.count("\n") + 1
        if lines >= LOG_LINES:
            break
    shown = "".join(reversed(pieces)).splitlines(keepends=True)[-LOG_LINES:]
    sys.stdout.write("".join(shown) or f"Nothing was printed in session {session.name}.\n")


def _put(shell: Any, sessions: NotebookSessions, arguments: list[str]) -> None:
    names, session = _names_and_session("put", arguments, sessions)
    for name in names:
        if name not in shell.user_ns:
            raise InvalidError(f"%gpu put {name}: this notebook has no variable {name!r}")
    values = captured_values(names, (), shell.user_ns, {}, f"In[{shell.execution_count}]")
    session.session.put(values)
    print(f"Session {session.name} has {', '.join(names)}.")


def _get(shell: Any, sessions: NotebookSessions, arguments: list[str]) -> None:
    names, session = _names_and_session("get", arguments, sessions)
    there: dict[str, RemoteRef] | None = None
    values: dict[str, Any] = {}
    for name in names:
        ref = shell.user_ns.get(name)
        if not isinstance(ref, RemoteRef):
            if there is None:
                there = session.session.names()
            if name not in there:
                raise NotFoundError(
                    f"%gpu get {name}: session {session.name} has no variable {name!r}; "
                    f"{nearest(name, there)}"
                )
            ref = there[name]
        values[name] = ref.get()
    shell.push(values)


def _attach(shell: Any, sessions: NotebookSessions, arguments: list[str]) -> BaseException | None:
    from_start = True
    if "--from" in arguments:
        position = arguments.index("--from")
        where = arguments[position + 1 : position + 2]
        if where not in (["now"], ["start"]):
            raise InvalidError("%gpu attach: --from is followed by start or now")
        from_start = where == ["start"]
        del arguments[position : position + 2]
    if len(arguments) != 1:
        raise InvalidError("%gpu attach takes the id of one run: %gpu attach fc-…; %skylift runs has them")
    call_id = arguments[0]
    if not is_id(call_id, "fc"):
        raise InvalidError(f"%gpu attach {call_id}: ids of runs look like fc-01jd3k…; %skylift runs has them")
    call = fetch(f"/v1/calls/{call_id}")["call"]
    if call["kind"] != "cell":
        raise InvalidError(
            f"%gpu attach {call_id}: that is a call of {call['function']}, and no cell; "
            f"FunctionCall.from_id({call_id!r}) has it"
        )
    session = sessions.of_call(call)
    status = status_line(shell, call["gpu"] or session.options.gpu_text or "cpu")
    status.show()
    return follow(shell, sessions, session, session.session.attach(call_id, from_start=from_start), status)


def _at_most_one(command: str, arguments: list[str]) -> str:
    if len(arguments) > 1:
        raise InvalidError(f"%gpu {command} takes the name of one session, and there is {arguments[1]!r} too")
    return arguments[0] if arguments else ""


def _names_and_session(
    command: str, arguments: list[str], sessions: NotebookSessions
) -> tuple[list[str], NotebookSession]:
    name = ""
    if "--session" in arguments:
        position = arguments.index("--session")
        if position + 1 == len(arguments):
            raise InvalidError(f"%gpu {command}: --session needs the name of a session")
        name = arguments[position + 1]
        del arguments[position : position + 2]
    if not arguments:
        raise InvalidError(f"%gpu {command} takes the names of variables, as in %gpu {command} x")
    return arguments, sessions.find(name)


def _unknown(command: str, line: str) -> str:
    try:
        parse_gpu(command.split(",")[0])
    except InvalidError:
        commands = [name.split()[0] for name in LINE_COMMANDS if name]
        return f"%gpu {command}: no such command; {nearest(command, commands)}"
    return f"%gpu {line}: to run a cell on it, write two percent signs: %%gpu {line}"
