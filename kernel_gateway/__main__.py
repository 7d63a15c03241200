"""``python -m skylift.kernel_gateway``: runs the gateway of this machine until it is told to stop.

SIGTERM stops the gateway alone: hosts and containers go on, and the next gateway takes them up. SIGINT
(Ctrl-C) ends them too. A second signal does not wait.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import logging.handlers
import os
import resource
import signal
import sys
from pathlib import Path

from skylift.backend.control import VERSION
from skylift.backend.database import DatabaseError
from skylift.backend.settings import Settings, SettingsError, load_settings
from skylift.kernel_gateway.gateway import Gateway
from skylift.kernel_gateway.home import AlreadyRunningError, GatewayHome
from skylift.kernel_gateway.server import ListenError
from skylift.lazyfs.store import StoreError

_LOG_BYTES = 10 * 1024 * 1024
_OPEN_FILES = 65536

log = logging.getLogger("skylift.kernel_gateway")


def main(arguments: list[str] | None = None) -> int:
    """Run until told to stop. Returns the exit status; 1 is that it could not start, and stderr says why."""
    options = _parser().parse_args(arguments)
    home = GatewayHome(options.home.expanduser().absolute())
    try:
        home.lock()
        _log_to(home.log)
        settings = load_settings(home.folder)
        _run(home, settings, options.listen, options.foreground)
    except (AlreadyRunningError, DatabaseError, ListenError, SettingsError, StoreError) as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"The gateway cannot use {error.filename or home.folder}: {error.strerror or error}.")
    return 0


def _run(home: GatewayHome, settings: Settings, listen: tuple[str, int] | None, foreground: bool) -> None:
    host, port = listen or (settings.gateway.host, settings.gateway.port)
    _raise_open_files()
    serving = _serve(home, settings, host, port, foreground)
    try:
        # About half the time that a message takes in here; the extra `fast` brings it.
        import uvloop
    except ImportError:
        asyncio.run(serving)
    else:
        uvloop.run(serving)


async def _serve(home: GatewayHome, settings: Settings, host: str, port: int, foreground: bool) -> None:
    loop = asyncio.get_running_loop()
    told: asyncio.Future[signal.Signals] = loop.create_future()

    def tell(number: signal.Signals) -> None:
        loop.remove_signal_handler(signal.SIGTERM)
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        told.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell, number)
    gateway = Gateway(home, settings)
    url = await gateway.start(host, port)
    if foreground:
        print(f"Skylift gateway: {url}", flush=True)
    # What lives since the start lives to the end: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    number = await told
    log.info("Stopping: %s.", number.name)
    await gateway.stop(end_hosts=number is signal.SIGINT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m skylift.kernel_gateway",
        description="Runs the gateway of this machine. SIGTERM stops it; SIGINT ends its containers too.",
    )
    parser.add_argument(
        "--home", type=Path, default=_default_home(), metavar="DIR", help="its folder (default: %(default)s)"
    )
    parser.add_argument(
        "--listen",
        type=_address,
        metavar="HOST:PORT",
        help="where to listen; port 0 is the one of before, or a free one (default: what config.toml says)",
    )
    parser.add_argument("--foreground", action="store_true", help="print the URL when it listens")
    parser.add_argument("--version", action="version", version=f"skylift {VERSION}")
    return parser


def _default_home() -> Path:
    if home := os.environ.get("SKYLIFT_HOME"):
        return Path(home)
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "skylift"


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:0")
    return host.strip("[]") or "127.0.0.1", int(port)


def _log_to(path: Path) -> None:
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("skylift").setLevel(logging.INFO)


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _failed(reason: str) -> int:
    print(reason, file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
