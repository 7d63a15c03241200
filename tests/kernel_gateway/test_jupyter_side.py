"""The door to ``/jupyter``: who gets in, and what is said where Jupyter's packages are missing."""

from __future__ import annotations

from typing import Any

import pytest
from served_gateway import CONTAINER_TOKEN, TOKEN, Served, ask, check, problem
from tornado.httputil import HTTPHeaders

from skylift.kernel_gateway import jupyter_side
from skylift.kernel_gateway.jupyter_side import jupyter_token

pytestmark = pytest.mark.anyio

PATHS = ("/jupyter", "/jupyter/", "/jupyter/api/kernels", "/jupyter/v1/health")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
async def test_without_a_token(served: Served, method: str, path: str) -> None:
    answer = await ask(served, method, path, token=None, body=b"{}" if method != "GET" else None)
    check(answer, method, 401, "AuthError")
    assert "wants a token, and the request has none" in problem(answer).message


async def test_with_a_wrong_one(served: Served) -> None:
    answer = await ask(served, "GET", "/jupyter/api/kernels?token=wrong", token=None)
    check(answer, "GET", 401, "AuthError")
    assert "does not know this token" in problem(answer).message


async def test_from_a_container(served: Served) -> None:
    answer = await ask(served, "GET", "/jupyter/api/kernels", CONTAINER_TOKEN)
    check(answer, "GET", 403, "PermissionDeniedError")


async def test_from_a_page_of_another_origin(served: Served) -> None:
    answer = await ask(served, "GET", "/jupyter/api/kernels", Origin="https://evil.example")
    check(answer, "GET", 403, "PermissionDeniedError")
    assert "Pages of https://evil.example may not use this gateway." in problem(answer).message


async def test_what_only_begins_like_it_is_something_else(served: Served) -> None:
    check(await ask(served, "GET", "/jupyterlab"), "GET", 404, "NotFoundError")


async def test_without_jupyters_packages(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise ModuleNotFoundError("No module named 'jupyter_server'")

    monkeypatch.setattr(jupyter_side, "_application_class", missing)
    answer = await ask(served, "POST", "/jupyter/api/kernels", body=b"{}")
    assert 501 == answer.status
    assert (
        "This gateway cannot host Jupyter kernels: No module named 'jupyter_server'. Install what is missing "
        "into its environment, and restart it: pip install 'skylift[kernels]'." == problem(answer).message
    )


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"Authorization": f"token {TOKEN}"}, ""),
        ({"Authorization": f"Token  {TOKEN}"}, ""),
        ({"Authorization": f"Bearer {TOKEN}"}, ""),
        ({}, f"session_id=a&token={TOKEN}"),
        ({"Sec-WebSocket-Protocol": f"v1.kernel.websocket.jupyter.org, skylift.token.{TOKEN}"}, ""),
    ],
)
async def test_the_ways_to_show_a_token(headers: dict[str, str], query: str) -> None:
    assert TOKEN == jupyter_token(HTTPHeaders(headers), query)
