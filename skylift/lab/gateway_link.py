"""Where the gateway is, and requests to it with the user's token. What blocks is to be called in `run`."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import urllib3

from skylift import exceptions
from skylift.context import is_local
from skylift.gateway_process import UNIX, Gateway, find_gateway, running_gateway, skylift_home
from skylift.http import Http

T = TypeVar("T")

State: TypeAlias = Literal["ready", "absent", "unreachable"]

THREADS = 32
"""Requests to the gateway at once; further ones wait for their turn."""

ANSWER_SECONDS = 150.0
"""A gateway may take so long: waking a session waits for 120 s."""
_HEALTH_SECONDS = 3.0
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Status:
    """Whether there is a gateway to speak to."""

    state: State
    """``absent``: none runs, and one can be started here."""
    url: str = ""
    version: str = ""
    problem: str = ""
    """What is wrong, and what to do."""


class GatewayLink:
    """Finds the gateway each time anew: a local one may have been started again, elsewhere."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="skylift-lab")
        timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=ANSWER_SECONDS)
        self._pool = urllib3.PoolManager(maxsize=THREADS, timeout=timeout, retries=False)
        self.started = asyncio.Event()
        """Set when a gateway was started from here."""

    async def run(self, work: Callable[[], T]) -> T:
        """Do it in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    @staticmethod
    def is_here() -> bool:
        """Whether the gateway is one of this machine, found by its files."""
        return not os.environ.get("SKYLIFT_GATEWAY_URL")

    @staticmethod
    def find() -> Gateway:
        """The gateway. Raises `exceptions.ConnectionError` and `AuthError`, which say what to do."""
        gateway = find_gateway(start=False)
        if gateway.url.startswith(UNIX):
            raise exceptions.ConnectionError(
                f"the gateway at {gateway.url} cannot be used from JupyterLab; set SKYLIFT_GATEWAY_URL to an "
                "http address"
            )
        return gateway

    def http(self) -> Http:
        """The SDK's own requests to the gateway. Raises as `find` does."""
        return Http(self.find())

    def status(self) -> Status:
        """Whether there is one. Raises nothing."""
        try:
            if self.is_here() and is_local() and running_gateway(skylift_home()) is None:
                return Status("absent", problem="No gateway runs on this machine.")
            gateway = self.find()
        except exceptions.Error as error:
            return Status("unreachable", problem=sentence(error))
        try:
            answer = self._pool.request("GET", f"{gateway.url}/v1/health", timeout=_HEALTH_SECONDS)
            version = str(json.loads(answer.data)["version"])
        except (urllib3.exceptions.HTTPError, ValueError, KeyError, TypeError) as error:
            return Status("unreachable", gateway.url, problem=away(gateway, error))
        return Status("ready", gateway.url, version)

    def start(self) -> None:
        """Start this machine's gateway, where none runs. Raises `exceptions.ConnectionError`."""
        find_gateway(start=True)

    def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> urllib3.BaseHTTPResponse:
        """The gateway's answer to a request for `target`, whose body is still to be read.

        Raises `exceptions.ConnectionError` where it does not answer, and as `find` does.
        """
        gateway = self.find()
        fields = {**headers, "Authorization": f"Bearer {gateway.token}"}
        try:
            return self._pool.request(
                method,
                gateway.url + target,
                headers=fields,
                body=body,
                preload_content=False,
                decode_content=False,
                redirect=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise exceptions.ConnectionError(away(gateway, error)) from error


def away(gateway: Gateway, error: BaseException) -> str:
    """For people: a gateway that does not answer, and what to do."""
    advice = (
        "Start it again: skylift gateway start"
        if gateway.home is not None
        else "See whether it runs, and whether SKYLIFT_GATEWAY_URL is right"
    )
    return f"The gateway at {gateway.url} does not answer ({short(error)}). {advice}."


def sentence(error: BaseException) -> str:
    """An error of the SDK as a sentence."""
    text = str(error) or type(error).__name__
    if text.partition(" ")[0].isalpha():  # and no code
        text = text[:1].upper() + text[1:]
    return text.rstrip(".") + "."


def short(error: Any) -> str:
    """The last words of what urllib3 or the system says."""
    reason = getattr(error, "reason", None)
    text = str(reason if isinstance(reason, BaseException) else error)
    _, _, said = text.rpartition(": ")
    return (said or text or type(error).__name__).strip().rstrip(".")
