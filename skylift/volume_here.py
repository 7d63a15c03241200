"""The volumes of the container that this process runs in: its host commits and reloads them."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from skylift import exceptions
from skylift.exceptions import InvalidError
from skylift.inside import container_spec
from skylift.remote_errors import problem_error
from skylift.wire import Problem

SOCKET = "volumes.sock"
"""Beside the runner's own socket."""

_LONGEST = 24 * 3600.0
_MOST_ANSWER = 1024 * 1024


def commit_here(name: str) -> None:
    """What this container has written to the volume becomes a version. Raises what the host answers."""
    _ask("commit", name)


def reload_here(name: str) -> None:
    """The container sees what others have committed. Raises what the host answers."""
    _ask("reload", name)


def _ask(what: str, name: str) -> None:
    spec = container_spec()
    mounted = [mount for mount in spec.volumes if mount.name == name] if spec is not None else []
    if not mounted:
        has = ", ".join(mount.name for mount in spec.volumes) if spec is not None else ""
        raise InvalidError(
            f"{what}() of volume {name!r}: this container does not have it mounted. Give it to the function: "
            f"volumes={{'/{name}': volume}}" + (f". It has: {has}" if has else "")
        )
    path = os.path.join(os.path.dirname(os.environ["SKYLIFT_SOCKET"]), SOCKET)
    try:
        answer = _exchange(path, {"do": what, "volume": name})
    except (OSError, ValueError) as error:
        raise exceptions.ConnectionError(
            f"{what}() of volume {name!r}: the container's host does not answer ({error}). What was written "
            "is "
            "committed when the container ends"
        ) from error
    if answer.get("error"):
        raise problem_error(Problem(error=answer["error"], message=answer["message"]))


def _exchange(path: str, question: dict[str, str]) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_LONGEST)
        sock.connect(path)
        sock.sendall(json.dumps(question).encode() + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            piece = sock.recv(65536)
            if not piece or len(data) > _MOST_ANSWER:
                raise ValueError("it broke off")
            data += piece
    answer: dict[str, Any] = json.loads(data)
    return answer
