"""What holds for every route: token, origin, size, errors as JSON. A new route is tested by being there."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Any

import pytest
import urllib3
from raw_client import raw_client
from served_gateway import CONTAINER_TOKEN, TOKEN, Served, ask, check, problem, upgrade

from skylift.kernel_gateway import server

pytestmark = pytest.mark.anyio

NAMES = {
    r"([0-9a-f]{64})": "0" * 64,
    r"([a-z]{2}-[0-9a-z]+)": "fc-00000000",
    r"([^/]+)": "data",
}
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH")
OPEN = {("GET", "/v1/health")}
"""Needs no token."""
OPEN_TO_CONTAINERS = {
    ("GET", "/v1/health"),
    ("GET", "/v1/connect"),
    *((method, "/v1/blobs/" + "0" * 64) for method in ("GET", "HEAD", "PUT")),
    ("GET", "/v1/calls"),
    ("GET", "/v1/calls/fc-00000000"),
    ("GET", "/v1/calls/fc-00000000/output"),
    ("GET", "/v1/calls/fc-00000000/graph"),
    ("POST", "/v1/calls/fc-00000000/cancel"),
    *(("POST", path) for path in ("/v1/chunks", "/v1/chunks/missing")),
    *((method, "/v1/volumes") for method in ("GET", "POST")),
    *((method, "/v1/volumes/data") for method in ("GET", "PUT", "DELETE")),
    *(("GET", f"/v1/volumes/data/{what}") for what in ("entries", "entry", "file", "history")),
    ("HEAD", "/v1/volumes/data/file"),
    *(
        ("POST", f"/v1/volumes/data/{what}")
        for what in ("commits", "copy", "name", "remove", "rename", "restore")
    ),
}


def routes() -> list[tuple[str, str]]:
    """Every method and path that the gateway answers, and a path that it does not know."""
    found = [("GET", "/v2/nothing"), ("POST", "/")]
    for pattern, handler in server.ROUTES:
        path = pattern
        for group, name in NAMES.items():
            path = path.replace(group, name)
        assert re.fullmatch(r"/v1/[0-9a-z/-]+", path), f"give {pattern} an example in NAMES"
        found += [
            (method, path)
            for method in METHODS
            if getattr(handler, method.lower()) is not getattr(server.Handler, method.lower())
        ]
    return found


def test_the_routes_are_found() -> None:
    found = routes()
    for expected in [
        ("GET", "/v1/connect"),
        ("PUT", "/v1/blobs/" + "0" * 64),
        ("HEAD", "/v1/blobs/" + "0" * 64),
        ("POST", "/v1/calls/fc-00000000/cancel"),
        ("DELETE", "/v1/sessions/fc-00000000"),
        ("POST", "/v1/sessions/fc-00000000/sleep"),
        ("POST", "/v1/sessions/fc-00000000/wake"),
        ("GET", "/v1/templates"),
    ]:
        assert expected in found
    assert len(server.ROUTES) <= len(found)


@pytest.mark.parametrize(("method", "path"), routes())
@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", TOKEN[:-1]])
async def test_no_route_opens_without_the_token(
    served: Served, method: str, path: str, token: str | None
) -> None:
    answer = await ask(served, method, path, token)
    if (method, path) in OPEN:
        assert 200 == answer.status
        return
    check(answer, method, 401, "AuthError")
    assert "Bearer" in answer.headers["WWW-Authenticate"]
    if method != "HEAD":
        assert str(served.home / "token") in problem(answer).message
    assert served.control.told.empty()


@pytest.mark.parametrize(("method", "path"), routes())
async def test_code_in_a_container_may_use_these_routes_and_no_others(
    served: Served, method: str, path: str
) -> None:
    if (method, path) in OPEN_TO_CONTAINERS:
        handler = next(each for pattern, each in server.ROUTES if re.fullmatch(pattern, path))
        assert handler.for_containers or not handler.needs_token
        return
    answer = await ask(served, method, path, CONTAINER_TOKEN)
    check(answer, method, 403, "PermissionDeniedError")
    if method != "HEAD":
        assert (
            f"Code in a container cannot use {method} {path}. "
            "It may call functions, read and cancel calls, and use the volumes of its user."
        ) == problem(answer).message
    assert served.control.told.empty()


async def test_a_container_is_known_by_its_token(served: Served) -> None:
    async with raw_client(served.url, CONTAINER_TOKEN):
        assert "co-00000001" == (await served.control.next("client connected")).container_id
    async with served.client():
        assert "" == (await served.control.next("client connected")).container_id


async def test_a_refusal_that_ends_the_connection_says_so(served: Served) -> None:
    pool = urllib3.PoolManager(maxsize=1)

    def ask_twice() -> None:
        for token, status in (("wrong", 401), (CONTAINER_TOKEN, 403)) * 10:
            headers = {"Authorization": f"Bearer {token}"}
            answer = pool.request("GET", served.url + "/v1/hosts", headers=headers, retries=False)
            assert (status, "close") == (answer.status, answer.headers["Connection"])

    await asyncio.to_thread(ask_twice)


@pytest.mark.parametrize(("method", "path"), routes())
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://127.0.0.1:1", "Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site"},
    ],
    ids=["foreign", "null", "no port", "other port", "no origin, cross-site"],
)
async def test_no_route_answers_a_foreign_page(
    served: Served, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = await ask(served, method, path, **headers)
    check(answer, method, 403, "PermissionDeniedError")
    assert "Access-Control-Allow-Origin" not in answer.headers
    if method != "HEAD":
        assert "add the origin to `origins` in [gateway] of config.toml" in problem(answer).message
    assert served.control.told.empty()


def lower_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that take large bodies."""
    for handler in {handler for _, handler in server.ROUTES if handler.body_limit > 100_000}:
        monkeypatch.setattr(handler, "body_limit", 100_000)


@pytest.mark.parametrize(("method", "path"), routes())
async def test_no_route_takes_an_oversized_body(
    served: Served, method: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower_limits(monkeypatch)
    answer = await ask(served, method, path, body=bytes(1_000_000))
    check(answer, method, 413, "InvalidError")
    assert served.control.told.empty()


@pytest.mark.parametrize(("method", "path"), [route for route in routes() if route[0] != "HEAD"])
async def test_nor_one_whose_size_was_not_announced(
    served: Served, method: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower_limits(monkeypatch)
    answer = await asyncio.to_thread(chunked, served, method, path, 110_000)
    assert answer.startswith(b"HTTP/1.1 413 ")


def chunked(served: Served, method: str, path: str, size: int) -> bytes:
    """Send a chunked body of that size; returns the answer."""
    host, port = served.url.removeprefix("http://").split(":")
    headers = {
        "Host": host,
        "Authorization": f"Bearer {TOKEN}",
        "Transfer-Encoding": "chunked",
        **upgrade(path),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in {**headers, **upgrade(path)}.items())
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n{size:x}\r\n".encode() + bytes(size))
        answer = b""
        while b"\r\n\r\n" not in answer and (data := connection.recv(65536)):
            answer += data
    return answer


async def test_a_giant_body_is_not_waited_for(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST /v1/calls/fc-00000000/cancel HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Length: {10**12}\r\n\r\n".encode()
    )
    assert (await reader.read()).startswith(b"HTTP/1.1 413 ")
    writer.close()


@pytest.mark.parametrize("length", ["-1", "many", "1, 2"])
async def test_a_length_that_is_none_is_a_bad_request(served: Served, length: str) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST /v1/calls/fc-00000000/cancel HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Length: {length}\r\n\r\n".encode()
    )
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()


async def test_every_answer_has_the_security_headers(served: Served) -> None:
    for method, path in (("GET", "/v1/health"), ("GET", "/v2/nothing"), ("GET", "/v1/blobs/" + "0" * 64)):
        headers = (await ask(served, method, path)).headers
        assert "no-store" == headers["Cache-Control"]
        assert "default-src 'none'; frame-ancestors 'none'" == headers["Content-Security-Policy"]
        assert "same-origin" == headers["Cross-Origin-Resource-Policy"]
        assert "no-referrer" == headers["Referrer-Policy"]
        assert "nosniff" == headers["X-Content-Type-Options"]
        assert "Server" not in headers


async def test_an_unknown_path_is_named(served: Served) -> None:
    answer = await ask(served, "GET", "/v2/nothing")
    check(answer, "GET", 404, "NotFoundError")
    assert "/v2/nothing" in problem(answer).message


async def test_a_method_that_a_path_does_not_have(served: Served) -> None:
    answer = await ask(served, "DELETE", "/v1/hosts")
    check(answer, "DELETE", 405, "InvalidError")
    assert "/v1/hosts has no DELETE." == problem(answer).message


async def test_the_websocket_wants_an_upgrade(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /v1/connect HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 426 ")
    writer.close()


async def test_a_fault_of_ours_is_logged_and_says_nothing_else(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def hosts() -> Any:
        raise ZeroDivisionError("the cause")

    monkeypatch.setattr(served.control, "hosts", hosts)
    answer = await ask(served, "GET", "/v1/hosts")
    check(answer, "GET", 500, "InternalFailure")
    assert f"The gateway failed on GET /v1/hosts; {served.home / 'gateway.log'} says more." == (
        problem(answer).message
    )
    assert "ZeroDivisionError: the cause" in caplog.text


# --- pages of allowed origins --------------------------------------------------------------------


@pytest.mark.parametrize("served", [{"origins": ("https://lab.example",)}], indirect=True)
@pytest.mark.parametrize("origin", ["https://lab.example", "https://LAB.example"])
async def test_a_page_of_an_allowed_origin_may_ask(served: Served, origin: str) -> None:
    asked = await ask(
        served, "OPTIONS", "/v1/hosts", None, Origin=origin, Access_Control_Request_Method="GET"
    )
    assert 204 == asked.status
    assert origin == asked.headers["Access-Control-Allow-Origin"]
    assert "Authorization" in asked.headers["Access-Control-Allow-Headers"]
    answer = await ask(served, "GET", "/v1/health", Origin=origin, Sec_Fetch_Site="cross-site")
    assert (200, origin, "Origin") == (
        answer.status,
        answer.headers["Access-Control-Allow-Origin"],
        answer.headers["Vary"],
    )


async def test_pages_of_the_gateway_itself_may_ask(served: Served) -> None:
    port = served.url.rpartition(":")[2]
    for origin in (served.url, f"http://localhost:{port}", f"http://[::1]:{port}"):
        assert 200 == (await ask(served, "GET", "/v1/health", Origin=origin)).status


async def test_a_foreign_page_may_not_even_ask_whether_it_may(served: Served) -> None:
    answer = await ask(served, "OPTIONS", "/v1/hosts", None, Origin="https://evil.example")
    check(answer, "OPTIONS", 403, "PermissionDeniedError")
