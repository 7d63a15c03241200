"""What the gateway answers over REST (docs/protocol.md): the JSON of `skylift.backend.views`."""

from __future__ import annotations

from typing import Any

from skylift.gateway_process import find_gateway
from skylift.http import Http


def fetch(path: str, **query: str | int) -> Any:
    """The answer to ``GET path``, from the gateway that the notebook uses (started if need be).

    Raises the errors of `find_gateway` and `Http.get`.
    """
    return Http(find_gateway()).get(path, **query)
