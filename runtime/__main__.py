"""``python -m skylift.runtime --home DIR``: the host process of this machine."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import logging
import logging.handlers
import os
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path

from skylift.runtime.gpus import GpuInventory
from skylift.runtime.host import Host, host_id
from skylift.runtime.isolation import open_isolation
from skylift.runtime.settings import HostSettings, SettingsError, host_settings, read_config
from skylift.runtime.start_error import StartError

_LOG_BYTES = 1024 * 1024
_LOG_FILES = 3


def main(arguments: list[str] | None = None) -> int:
    """Run the host until it is told to stop. Returns the exit status; problems are one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m skylift.runtime", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="the machine's folder, $SKYLIFT_HOME")
    parser.add_argument("--log-level", default="WARNING", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    options = parser.parse_args(arguments)
    home: Path = options.home.absolute()
    folder = home / "host"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _refuse(f"A host is already running for {home}: see {folder / 'host.json'}.")
    _log_to(folder / "host.log", options.log_level)
    try:
        settings = host_settings(read_config(home))
        return _run(_serve(home, folder, settings))
    except (SettingsError, StartError) as error:
        logging.getLogger(__name__).error("The host cannot start: %s", error)
        return _refuse(str(error))
    except Exception:
        logging.getLogger(__name__).exception("The host failed.")
        raise
    finally:
        os.close(lock)


def _run(serving: Coroutine[None, None, int]) -> int:
    """On uvloop where it is installed: a call takes the host a fifth less time with it."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(serving)
    return uvloop.run(serving)


async def _serve(home: Path, folder: Path, settings: HostSettings) -> int:
    host = Host(
        home, host_id(folder), settings, open_isolation(settings, folder), GpuInventory.of_machine(settings)
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(
            number, host.stop, f"the host was told to stop ({number.name})"
        )
    note = folder / "host.json"
    made = note.with_name("host.json.new")
    made.write_text(json.dumps({"pid": os.getpid(), "started": time.time()}) + "\n", encoding="ascii")
    made.replace(note)
    try:
        await host.run()
    finally:
        note.unlink(missing_ok=True)
    return 0


def _log_to(file: Path, level: str) -> None:
    handler = logging.handlers.RotatingFileHandler(
        file, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, encoding="utf-8", delay=True
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def _refuse(text: str) -> int:
    print(text, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
