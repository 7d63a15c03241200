"""The reference that ``%%gpu?``, ``%gpu?`` and ``%skylift?`` show."""

from __future__ import annotations

from skylift.magics.options import NOT_BUILT_YET, OPTIONS

LINE_COMMANDS = {
    "": "this notebook's sessions",
    "stop [SESSION]": "ends a session, also one that sleeps: its variables are gone",
    "sleep [SESSION]": "writes a session to the store and frees its GPU; the next cell wakes it",
    "wake [SESSION]": "wakes it without a cell",
    "logs [SESSION]": "what the session's cells printed, the latest 200 lines",
    "put NAME … [--session S]": "sends variables to a session now",
    "get NAME … [--session S]": "brings variables of a session here",
    "attach ID [--from now]": "streams a run back here, from its start or from now",
}
SKYLIFT_COMMANDS = {
    "runs": "the latest calls and cells: state, where, how long, cost",
    "volumes": "directories that containers share: name, size, newest version",
    "machines": "the hosts and their GPUs",
    "sessions": "the sessions of all notebooks: where they run, which sleep",
    "templates": "what containers are forked from, and its snapshots",
    "spend": "what containers cost, by day; also: spend gpu, spend function, spend notebook",
    "doctor": "checks this environment, the gateway and the hosts, and says what to do",
}


def gpu_cell_help() -> str:
    """For ``%%gpu?``."""
    options = _table({f"{option.name} {option.value}".strip(): option.help for option in OPTIONS})
    later = ", ".join(NOT_BUILT_YET)
    return f"""Run the cell in a container with a GPU.

    %%gpu H100                    one H100
    %%gpu H100,A100-80GB,L40S     in order of preference
    %%gpu H100:8                  eight of them
    %%gpu H100!                   an H100 and no better one
    %%gpu any                     whichever there is
    %%gpu cpu --cpu 8             no GPU
    %%gpu                         where the latest cell ran

The container is the notebook's session: its variables live from cell to cell. Variables and
functions of the notebook that the cell reads are sent when they have changed. What the cell assigns
comes back: as itself when it is small and can be pickled, else as a RemoteRef, which works in the
next %%gpu cell without moving and has .get(). If the last line is a generator, each item is shown
as it is yielded. Interrupting the kernel interrupts the cell; the session survives.

Options:
{options}

Not built yet: {later}.

See also: %gpu? for sessions, %skylift? for runs, machines and spend.
"""


def gpu_line_help() -> str:
    """For ``%gpu?``."""
    return f"""This notebook's sessions.

{_table({f"%gpu {command}".strip(): text for command, text in LINE_COMMANDS.items()})}

A SESSION is a name as in the table that %gpu shows; left out, it is the one that the latest cell ran in.
%%gpu (two percent signs) above a cell runs the cell: see %%gpu?.
"""


def skylift_help() -> str:
    """For ``%skylift?``."""
    return f"""What the gateway knows.

{_table({f"%skylift {command}": text for command, text in SKYLIFT_COMMANDS.items()})}
"""


def _table(rows: dict[str, str]) -> str:
    width = max(map(len, rows)) + 2
    return "\n".join(f"    {left:<{width}}{right}" for left, right in rows.items())
