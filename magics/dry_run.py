"""``%%gpu … --dry-run``: on what a cell would run, where and at what price. Runs nothing."""

from __future__ import annotations

from typing import Any

from skylift.exceptions import InvalidError
from skylift.gpu import gpu_text
from skylift.magics.gateway import fetch
from skylift.magics.options import CellOptions
from skylift.magics.sessions import NotebookSessions
from skylift.magics.tables import Table
from skylift.wire import GpuRequest


def dry_run(sessions: NotebookSessions, options: CellOptions) -> Table:
    """What there is for the cell, in its order of preference, and what else there is."""
    name = options.name or options.gpu_text
    known = next((session for session in sessions if session.name == name), None)
    gpus = options.gpus
    if gpus is None:
        known = sessions.find(options.name)
        gpus = known.options.gpus or ()
    hosts = [host for host in fetch("/v1/hosts") if host["connected"]]
    if not hosts:
        raise InvalidError("No machine is connected, so the cell would wait. %skylift doctor says why")
    rows = _without_gpu(hosts) if not gpus else [row for request in gpus for row in _choices(request, hosts)]
    first = next((index for index, row in enumerate(rows) if row[0] == ""), None)
    running = known is not None and known.container_id
    if running and known is not None:
        note = f"Runs in session {known.name}, whose container is there already. Nothing was run."
    elif first is not None:
        note = "Runs on the first that is free. Nothing was run."
    else:
        note = "Waits until one is free. Nothing was run."
    for index, row in enumerate(rows):
        if not row[0]:
            row[0] = "first choice" if index == first else "also possible"
    rows += _others(gpus, hosts)
    return Table(["", "GPU", "Machine", "Free", "Price"], rows, empty="", note=note)


def _without_gpu(hosts: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [
            "",
            "cpu",
            host["hostname"],
            f"{host['cpus'] - host['cpus_reserved']:g} of {host['cpus']:g} cores",
            "–",
        ]
        for host in hosts
    ]


def _choices(request: GpuRequest, hosts: list[dict[str, Any]]) -> list[list[str]]:
    """The machines that have what one choice asks for, or a row that says that none has."""
    rows = []
    for host in hosts:
        for gpu in host["gpus"]:
            if request.model not in ("any", gpu["model"]) or gpu["count"] < request.count:
                continue
            free = gpu["count"] - gpu["in_use"]
            rows.append(["" if free >= request.count else "in use", *_row(gpu, host, request.count)])
    return rows or [["not there", gpu_text(request), "–", "–", "–"]]


def _others(gpus: tuple[GpuRequest, ...], hosts: list[dict[str, Any]]) -> list[list[str]]:
    asked = {request.model for request in gpus}
    if "any" in asked:
        return []
    return [
        ["not asked for", *_row(gpu, host, 1)]
        for host in hosts
        for gpu in host["gpus"]
        if gpu["model"] not in asked
    ]


def _row(gpu: dict[str, Any], host: dict[str, Any], count: int) -> list[str]:
    model = gpu["model"] if count == 1 else f"{gpu['model']}:{count}"
    free = gpu["count"] - gpu["in_use"]
    holders = f" ({', '.join(gpu['holders'])})" if gpu["holders"] else ""
    return [
        f"{model} (simulated)" if gpu["simulated"] else model,
        host["hostname"],
        f"{free} of {gpu['count']}{holders}",
        f"${gpu['price'] * count:.2f}/h",
    ]
