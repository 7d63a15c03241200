"""Several gateways on this machine, each with a host, files and a client of its own."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import urllib3

from scripts.own_gateway import own_gateway

PATIENCE = 90.0
"""Seconds after which something that should have happened is missed."""


class HomeError(RuntimeError):
    """Skylift did not do what was to be measured. The message says what it did."""


class Home:
    """A gateway, its host, and a client that asks for first results."""

    def __init__(self, folder: Path, client: subprocess.Popen[str]) -> None:
        self.folder = folder
        self._client = client
        self._url = str(json.loads((folder / "gateway.json").read_text())["url"])
        self._headers = {"Authorization": f"Bearer {(folder / 'token').read_text().strip()}"}

    def first_result(self, app: str, path: str, value: float | None = None) -> tuple[float, str, float]:
        """Milliseconds until the model of a new app has answered, its container's id, and the answer.

        Raises `HomeError` where the container did not start by `path`, or where another `value` came.
        """
        answer = self._ask(app)
        (container,) = (each for each in self.get("/v1/containers") if each["app"] == app)
        if container["path"] != path:
            reason = container.get("path_reason") or "no reason is given"
            raise HomeError(
                f"{app} should start by the path {path!r}; it was {container['path']!r}: {reason}"
            )
        if value is not None and abs(answer["value"] - value) > 1e-3 * abs(value):
            raise HomeError(f"{app} answered {answer['value']} and not {value}")
        return answer["ms"], container["container_id"], answer["value"]

    def next_result(self, app: str) -> float:
        """Milliseconds of a call of an app whose container is up."""
        milliseconds: float = self._ask(app)["ms"]
        return milliseconds

    def end(self, container: str) -> None:
        """End a container, and wait until it is gone."""
        answer = urllib3.request("DELETE", f"{self._url}/v1/containers/{container}", headers=self._headers)
        if answer.status != 202:
            raise HomeError(f"container {container} cannot be ended: {answer.data!r}")
        self.wait_for("/v1/containers", lambda listed: not _is_up(listed, container))

    def get(self, path: str) -> Any:
        """The JSON that the gateway answers with."""
        answer = urllib3.request("GET", self._url + path, headers=self._headers)
        if answer.status != 200:
            raise HomeError(f"{path} answers {answer.status}: {answer.data!r}")
        return answer.json()

    def _ask(self, app: str) -> dict[str, Any]:
        assert self._client.stdin is not None
        self._client.stdin.write(f"{app}\n")
        self._client.stdin.flush()
        return read_answer(self._client)

    def wait_for(self, path: str, holds: Callable[[Any], bool]) -> Any:
        """Ask until ``holds(answer)``; that answer. Raises `HomeError` with the last one."""
        deadline = time.monotonic() + PATIENCE
        while not holds(answer := self.get(path)):
            if time.monotonic() > deadline:
                raise HomeError(f"{path} still answers {answer}")
            time.sleep(0.05)
        return answer

    def template(self) -> dict[str, Any]:
        """The template of the model, once it can be forked and is in the store."""
        listed = self.wait_for("/v1/templates", lambda listed: bool(listed) and _settled(listed[0]))
        template: dict[str, Any] = listed[0]
        if template["state"] != "ready" or not template.get("unpacked"):
            raise HomeError(f"the template cannot be used: {template}")
        return template

    def wait_until_unpacked(self) -> None:
        """Until the host has unpacked a snapshot, as it does when it has nothing else to do."""
        deadline = time.monotonic() + PATIENCE
        folder = self.folder / "host" / "snapshots" / "unpacked"
        while not list(folder.glob("*.whole")):
            if time.monotonic() > deadline:
                raise HomeError(f"the host has not unpacked anything: {sorted(folder.glob('*'))}")
            time.sleep(0.02)


@contextlib.contextmanager
def skylift_home(folder: Path, config: str = "") -> Iterator[Home]:
    """Start them in `folder`, with `config` as their ``config.toml``. Ends them and what they started."""
    with own_gateway(folder, config) as environment:
        client = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.first_results"],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            read_answer(client)
            yield Home(folder, client)
        finally:
            assert client.stdin is not None
            with contextlib.suppress(OSError):
                client.stdin.close()
            try:
                client.wait(10)
            finally:
                client.kill()
                client.wait()


def read_answer(client: subprocess.Popen[str]) -> dict[str, Any]:
    """The client's next line. Raises `HomeError` where none comes."""
    assert client.stdout is not None
    if not select.select([client.stdout], [], [], PATIENCE)[0]:
        raise HomeError(f"the client says nothing for {PATIENCE:.0f} s")
    line = client.stdout.readline()
    if not line:
        raise HomeError(f"the client ended with status {client.wait(10)}")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _is_up(listed: list[dict[str, Any]], container: str) -> bool:
    return any(each["container_id"] == container and each["state"] != "exited" for each in listed)


def _settled(template: dict[str, Any]) -> bool:
    return bool(template["state"] != "making")
