"""``%skylift doctor``: looks at all that a cell needs, and says what to do where something is wrong."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from skylift.exceptions import Error
from skylift.gateway_process import find_gateway, skylift_home
from skylift.http import Http
from skylift.magics.remote_ref import size
from skylift.magics.tables import Table

ENOUGH_DISK = 2 * 10**9
"""Bytes; less is worth a word."""

Verdict: TypeAlias = Literal["ok", "note", "problem"]


class Finding(NamedTuple):
    """One thing that was looked at."""

    what: str
    verdict: Verdict
    text: str


def doctor() -> Table:
    """All findings; those after a problem that makes them pointless are left out."""
    findings = list(_examine())
    problems = sum(finding.verdict == "problem" for finding in findings)
    rows = [[finding.what, finding.verdict, finding.text] for finding in findings]
    note = "All is well." if not problems else f"{problems} problem{'s' if problems > 1 else ''} found."
    return Table(["What", "", "Finding"], rows, empty="", note=note)


def _examine() -> Iterator[Finding]:
    yield _python()
    home = skylift_home()
    yield _home(home)
    try:
        gateway = find_gateway()
        http = Http(gateway)
        health = http.get("/v1/health")
    except Error as error:
        yield Finding("Gateway", "problem", str(error))
        return
    yield _gateway(health, gateway.url)
    try:
        hosts = http.get("/v1/hosts")
    except Error as error:
        yield Finding("Token", "problem", str(error))
        return
    if not hosts:
        yield Finding("Machines", "problem", f"none is connected; {home / 'host' / 'host.log'} may say why")
    for host in hosts:
        yield _host(host, home)
        if host["connected"]:
            yield _gpus(host)


def _python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()} at {sys.executable}")


def _home(home: Path) -> Finding:
    place = next(folder for folder in (home, *home.parents) if folder.exists())
    if not os.access(place, os.W_OK):
        return Finding("Folder", "problem", f"{home} cannot be written: set SKYLIFT_HOME to one that can")
    free = shutil.disk_usage(place).free
    text = f"{home}, {size(free)} free"
    if free < ENOUGH_DISK:
        return Finding("Folder", "note", f"{text}: large arguments and results may not fit")
    return Finding("Folder", "ok", text)


def _gateway(health: dict[str, Any], url: str) -> Finding:
    try:
        ours = version("skylift")
    except PackageNotFoundError:
        ours = health["version"]
    if health["version"] != ours:
        return Finding(
            "Gateway",
            "problem",
            f"{url} is version {health['version']}, and this notebook has {ours}: restart the gateway",
        )
    return Finding("Gateway", "ok", f"{url}, version {ours}")


def _host(host: dict[str, Any], home: Path) -> Finding:
    name = f"Machine {host['hostname']}"
    if host["problem"]:
        return Finding(name, "problem", host["problem"])
    if not host["connected"]:
        return Finding(name, "problem", f"not connected; {home / 'host' / 'host.log'} may say why")
    if host["isolation"] == "process":
        return Finding(name, "note", "runs cells as plain processes: this isolates nothing")
    rootless = ", rootless" if host["rootless"] else ""
    return Finding(name, "ok", f"containers by {host['isolation']}{rootless}, kernel {host['kernel']}")


def _gpus(host: dict[str, Any]) -> Finding:
    name = f"GPUs of {host['hostname']}"
    if not host["gpus"]:
        return Finding(
            name,
            "note",
            "none: %%gpu cpu works. To try the rest, simulate one: "
            'simulate_gpus = {"H100" = 1} under [host] in config.toml',
        )
    texts = [
        f"{gpu['count']} × {gpu['model']}" + (" (simulated: no code runs faster)" if gpu["simulated"] else "")
        for gpu in host["gpus"]
    ]
    return Finding(name, "ok", ", ".join(texts))
