"""The command ``skylift``."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from skylift import __version__
from skylift.cli_volumes import add_volume_commands
from skylift.exceptions import Error, InvalidError
from skylift.gateway_process import find_gateway, gateway_pid, is_gateway, running_gateway, skylift_home

_STOP_TIMEOUT = 30.0
_COLLECT_TIMEOUT = 3600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Carries out one command line; returns the exit status. Errors of Skylift go to stderr in one line."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options)
    except Error as error:
        print(f"skylift: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # ``skylift calls | head``: nobody reads the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="skylift", description="GPUs by the notebook cell.")
    parser.add_argument("--version", action="version", version=f"skylift {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a script's local entrypoint with its app running")
    run.add_argument("target", metavar="FILE.py[::NAME]")
    run.add_argument("arguments", nargs=argparse.REMAINDER, help="the function's parameters: --lr 0.1")
    run.set_defaults(command=_run)

    doctor = commands.add_parser(
        "doctor", help="what this machine lacks to run containers, and how to get it"
    )
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(command=_doctor)

    gateway = commands.add_parser("gateway", help="start, stop or look at this machine's gateway")
    actions = gateway.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("start", help="start it, if it does not run").set_defaults(command=_gateway_start)
    stop = actions.add_parser("stop", help="stop it; containers go on, and the next gateway takes them up")
    stop.add_argument("--containers", action="store_true", help="end the host and its containers as well")
    stop.set_defaults(command=_gateway_stop)
    actions.add_parser("status", help="where it is, and what it has").set_defaults(command=_gateway_status)

    calls = commands.add_parser("calls", help="the latest calls and cells")
    calls.add_argument("-n", type=int, default=20, metavar="COUNT", help="how many (20)")
    calls.set_defaults(command=_calls)

    logs = commands.add_parser("logs", help="what a call printed")
    logs.add_argument("call_id", metavar="ID")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the call ends")
    logs.set_defaults(command=_logs)

    store = commands.add_parser("store", help="what the gateway's store has")
    actions = store.add_subparsers(required=True, metavar="ACTION")
    collect = actions.add_parser("collect", help="free what no image, volume or call needs; it happens daily")
    collect.add_argument("--dry-run", action="store_true", help="only say how much that is")
    collect.set_defaults(command=_store_collect)

    add_volume_commands(commands)

    commands.add_parser("token", help="print this user's token").set_defaults(command=_token)
    commands.add_parser("version", help="print the version").set_defaults(command=_version)
    return parser


def _run(options: argparse.Namespace) -> int:
    from skylift.entrypoints import run_entrypoint

    run_entrypoint(options.target, options.arguments)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "skylift.runtime.doctor", "--home", str(skylift_home())]
    return subprocess.run([*command, *(["--json"] if options.json else [])], check=False).returncode


def _gateway_start(options: argparse.Namespace) -> int:
    print(find_gateway(progress=lambda text: print(text, file=sys.stderr)).url)
    return 0


def _gateway_stop(options: argparse.Namespace) -> int:
    home = skylift_home()
    pid = gateway_pid(home)
    if pid is None:
        print(f"no gateway runs in {home}")
        return 0
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGINT if options.containers else signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT
    while is_gateway(pid):
        if time.monotonic() > deadline:
            print(
                f"skylift: the gateway (process {pid}) has not ended; see {home}/gateway.log", file=sys.stderr
            )
            return 1
        time.sleep(0.05)
    return 0


def _gateway_status(options: argparse.Namespace) -> int:
    home = skylift_home()
    remote = os.environ.get("SKYLIFT_GATEWAY_URL")
    if not remote and running_gateway(home) is None:
        print(f"no gateway runs in {home}")
        return 1
    gateway = find_gateway(start=False)
    hosts = _get("/v1/hosts")
    print(f"{gateway.url}{'' if remote else f' (process {gateway_pid(home)}, folder {home})'}")
    for host in hosts:
        gpus = ", ".join(f"{gpu['count']} {gpu['model']}" for gpu in host["gpus"]) or "no GPU"
        state = host["problem"] or ("connected" if host["connected"] else "not connected")
        print(f"{host['hostname']}: {host['cpus']:g} cores, {gpus}, {state}")
    return 0


def _calls(options: argparse.Namespace) -> int:
    for call in _get("/v1/calls", limit=options.n)["calls"]:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(call["queued"]))
        took = call["ended"] - call["started"] if call["ended"] and call["started"] else None
        columns = [
            call["call_id"],
            when,
            f"{call['state']:<9}",
            f"{call['gpu'] or 'cpu':<9}",
            f"{took:>8.2f} s" if took is not None else " " * 10,
            call["summary"] or call["function"],
        ]
        print("  ".join(columns) + (f"  {call['error']}" if call["error"] else ""))
    return 0


def _logs(options: argparse.Namespace) -> int:
    seq = 0
    while True:
        page = _get(f"/v1/calls/{options.call_id}/output", from_seq=seq)
        for item in page["items"]:
            if item["kind"] == "output":
                stream = sys.stderr if item["meta"].get("stream") == "stderr" else sys.stdout
                stream.write(item["text"])
                stream.flush()
        seq = page["next_seq"]
        if page["more"]:
            continue
        if not options.follow or page["state"] not in ("queued", "running"):
            return 0
        time.sleep(0.3)


def _store_collect(options: argparse.Namespace) -> int:
    from skylift.http import Http

    wanted = {"dry_run": options.dry_run}
    done = Http(find_gateway()).post("/v1/store/collect", _COLLECT_TIMEOUT, wanted)
    would = "would be " if options.dry_run else ""
    print(
        f"{done['deleted']} blobs ({done['freed'] / 1e6:,.1f} MB) {would}deleted, {done['used']} are needed, "
        f"{done['young']} are not but are younger than a day"
    )
    if done["left"]:
        print(f"{done['left']} are left: {done['reason']}")
    return 0


def _token(options: argparse.Namespace) -> int:
    path = skylift_home() / "token"
    try:
        print(path.read_text(encoding="utf-8").strip())
    except OSError:
        raise InvalidError(f"there is no token yet: {path} is made when the gateway first starts") from None
    return 0


def _version(options: argparse.Namespace) -> int:
    print(f"skylift {__version__}")
    return 0


def _get(path: str, **query: str | int) -> Any:
    from skylift.http import Http

    return Http(find_gateway()).get(path, **query)


if __name__ == "__main__":
    sys.exit(main())
