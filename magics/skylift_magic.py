"""``%skylift``: what the gateway knows about runs, machines and spend."""

from __future__ import annotations

import shlex
import time
from typing import Any

from skylift.exceptions import InvalidError
from skylift.magics.doctor import doctor
from skylift.magics.gateway import fetch
from skylift.magics.help import SKYLIFT_COMMANDS
from skylift.magics.line_magic import session_state, session_then
from skylift.magics.options import nearest
from skylift.magics.remote_ref import size
from skylift.magics.status import dollars, duration
from skylift.magics.tables import Table, clock_time, show

_MIB = 1024 * 1024
_SPEND_BY = {"": "day", "day": "day", "gpu": "gpu", "function": "function", "notebook": "notebook"}
_KEYS = {"day": "Day", "gpu": "GPU", "function": "Function", "notebook": "Notebook"}


def run(line: str) -> None:
    """Carries out one ``%skylift`` line. Raises `InvalidError` that names what there is."""
    words = shlex.split(line)
    command, arguments = (words[0], words[1:]) if words else ("runs", [])
    if command not in SKYLIFT_COMMANDS:
        raise InvalidError(f"%skylift {command}: no such command; {nearest(command, SKYLIFT_COMMANDS)}")
    if arguments and command != "spend":
        raise InvalidError(f"%skylift {command} takes nothing more, and there is {arguments[0]!r}")
    if command == "runs":
        show(runs())
    elif command == "machines":
        show(machines())
    elif command == "volumes":
        show(volumes())
    elif command == "sessions":
        show(sessions())
    elif command == "templates":
        show(templates())
    elif command == "spend":
        show(spend(arguments))
    else:
        show(doctor())


def volumes() -> Table:
    """This user's volumes."""
    found = fetch("/v1/volumes")
    rows = [
        [row["name"], f"{row['files']:,}", size(row["size"]), str(row["version"]), clock_time(row["changed"])]
        for row in found
    ]
    return Table(
        ["Name", "Files", "Size", "Version", "Changed"],
        rows,
        empty="There are no volumes. %%gpu --volume data:/data makes one.",
    )


def runs() -> Table:
    """The latest calls and cells, newest first."""
    calls = fetch("/v1/calls", limit=30)["calls"]
    rows = [
        [
            clock_time(call["queued"]),
            call["summary"] or call["function"],
            call["gpu"] or "cpu",
            _call_state(call),
            _lasted(call),
            dollars(call["cost"]),
            call["call_id"],
        ]
        for call in calls
    ]
    return Table(
        ["When", "What", "On", "State", "Took", "Cost", "ID"],
        rows,
        empty="Nothing has run yet.",
        note="%gpu attach ID streams a cell's run into the notebook.",
    )


def machines() -> Table:
    """The hosts and their GPUs."""
    rows = []
    for host in fetch("/v1/hosts"):
        free = f"{host['cpus'] - host['cpus_reserved']:g} of {host['cpus']:g}"
        state = host["problem"] or ("connected" if host["connected"] else "not connected")
        gpus = [_gpu(gpu) for gpu in host["gpus"]] or ["no GPU"]
        memory = size((host["memory"] - host["memory_reserved"]) * _MIB)
        holders = ", ".join(holder for gpu in host["gpus"] for holder in gpu["holders"])
        rows.append(
            [
                host["hostname"],
                ", ".join(gpus),
                holders,
                free,
                f"{memory} of {size(host['memory'] * _MIB)}",
                host["isolation"],
                state,
            ]
        )
    return Table(
        ["Machine", "GPUs free", "Used by", "Cores free", "Memory free", "Isolation", "State"],
        rows,
        empty="No machine is connected. %skylift doctor says why.",
    )


def sessions() -> Table:
    """The sessions of all of this user's notebooks."""
    rows = []
    for view in fetch("/v1/sessions"):
        container = view["container"]
        gpu = view["gpu"] or "cpu"
        rows.append(
            [
                view["name"] or view["session_id"],
                view["notebook"],
                f"{gpu} (simulated)" if container and container["simulated"] else gpu,
                session_state(view),
                session_then(view),
            ]
        )
    return Table(
        ["Session", "Notebook", "On", "State", "Then"],
        rows,
        empty="There is no session. A %%gpu cell starts one: %%gpu H100",
        note="In its notebook: %gpu stop, %gpu sleep and %gpu wake.",
    )


def templates() -> Table:
    """What containers are forked from."""
    rows = []
    for template in fetch("/v1/templates"):
        snapshot = size(template["size"]) if template["size"] else "none"
        state = f"{template['state']}: {template['reason']}" if template["reason"] else template["state"]
        rows.append(
            [
                template["label"],
                "restored" if template["restored"] else "made here",
                f"{template['forks']}, and one ahead" if template["spare"] else str(template["forks"]),
                size(template["memory"]) if template["memory"] else "",
                snapshot,
                state,
            ]
        )
    return Table(
        ["Template of", "Came", "Forks up", "Memory", "Snapshot", "State"],
        rows,
        empty="There is no template yet: one is made when a function has been called.",
    )


def spend(arguments: list[str]) -> Table:
    """What containers cost, by day or by what `arguments` name."""
    by = _SPEND_BY.get(arguments[0] if arguments else "")
    if by is None:
        raise InvalidError(f"%skylift spend {arguments[0]}: {nearest(arguments[0], list(_KEYS))}")
    report = fetch("/v1/spend", by=by)
    rows = [_spend_row(row, row["key"] or "–") for row in report["rows"]]
    if rows:
        rows.append(_spend_row(report["total"], "Total"))
    return Table(
        [_KEYS[by], "Containers up", "Idle", "Calls", "Cost", "Idle cost"],
        rows,
        empty="Nothing has run yet.",
        note="" if report["total"]["cost"] else "Prices are 0 until [prices] in config.toml says otherwise.",
    )


def _spend_row(row: dict[str, Any], key: str) -> list[str]:
    return [
        key,
        duration(row["seconds"]),
        duration(row["idle_seconds"]),
        str(row["calls"]),
        dollars(row["cost"]),
        dollars(row["idle_cost"]),
    ]


def _gpu(gpu: dict[str, Any]) -> str:
    free = gpu["count"] - gpu["in_use"]
    simulated = " (simulated)" if gpu["simulated"] else ""
    price = f" ${gpu['price']:.2f}/h" if gpu["price"] else ""
    return f"{free} of {gpu['count']} {gpu['model']}{simulated}{price}"


def _call_state(call: dict[str, Any]) -> str:
    if call["state"] == "queued" and call["detail"]:
        return f"queued: {call['detail']}"
    if call["state"] == "failed" and call["error"]:
        return f"failed: {call['error']}"
    return str(call["state"])


def _lasted(call: dict[str, Any]) -> str:
    if not call["started"]:
        return ""
    return duration((call["ended"] or time.time()) - call["started"])
