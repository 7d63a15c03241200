"""The gateway by way of a real Jupyter server: who may, what passes, what is said when it is away."""

from __future__ import annotations

import json
from http.cookies import SimpleCookie
from pathlib import Path

import pytest
import urllib3
from jupyter_side import JUPYTER_TOKEN, LocalGateway, Page, jupyter_server
from websockets.exceptions import InvalidStatus

from skylift.lab.handler import BODY_LIMIT

pytestmark = pytest.mark.slow


def problem(answer: urllib3.BaseHTTPResponse, status: int, error: str) -> str:
    assert status == answer.status, answer.data
    body = answer.json()
    assert error == body["error"], body
    return str(body["message"])


def put_file(page: Page, volume: str, path: str, content: bytes) -> None:
    assert page.ask("PUT", f"v1/volumes/{volume}").status == 200
    begun = page.ask(
        "POST", "uploads", {"volume": volume, "path": path, "size": len(content), "modified": 1e9}
    )
    upload_id = begun.json()["upload_id"]
    if content:
        assert 200 == page.ask("PUT", f"uploads/{upload_id}?offset=0", content).status
    assert {"path": path, "size": len(content)} == page.ask("POST", f"uploads/{upload_id}/finish").json()


def test_status_says_that_it_is_ready(page: Page, local_gateway: LocalGateway) -> None:
    status = page.get("status")
    assert ("ready", local_gateway.url, "") == (status["state"], status["url"], status["problem"])
    assert status["version"]


def test_rest_passes(page: Page) -> None:
    assert ([], "") == tuple(page.get("v1/calls?limit=5&state=done,failed").values())
    answer = page.ask("GET", "v1/calls?limit=0")
    assert "limit must be from 1 to 1000, not 0." == problem(answer, 400, "InvalidError")
    assert "There is no /v1/nothing here." == problem(page.ask("GET", "v1/nothing"), 404, "NotFoundError")
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    assert 201 == page.ask("POST", "v1/volumes", b"name=passes", **form).status
    problem(page.ask("POST", "v1/volumes", b"name=passes", **form), 409, "AlreadyExistsError")
    assert 204 == page.ask("DELETE", "v1/volumes/passes").status


@pytest.mark.parametrize("path", ["v1/connect", "v1/live", "v1/live/"])
def test_the_sockets_of_the_gateway_are_not_passed_on(page: Page, path: str) -> None:
    assert "skylift/live" in problem(page.ask("GET", path), 404, "NotFoundError")


@pytest.mark.parametrize("path", ["v1/%2e%2e/v1/connect", "v1/calls%2f..%2fconnect", "v1//calls"])
def test_paths_that_are_none(page: Page, path: str) -> None:
    problem(page.ask("GET", path), 400, "InvalidError")


def test_a_large_body_is_refused(page: Page) -> None:
    answer = page.ask("POST", "v1/volumes", b"x" * (BODY_LIMIT + 1))
    assert "A request to Skylift has at most 8 MiB." == problem(answer, 413, "InvalidError")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "status"),
        ("POST", "start"),
        ("GET", "v1/calls"),
        ("POST", "v1/volumes"),
        ("DELETE", "v1/volumes/data"),
        ("POST", "uploads"),
        ("GET", f"uploads/{'0' * 32}"),
        ("PUT", f"uploads/{'0' * 32}"),
        ("DELETE", f"uploads/{'0' * 32}"),
        ("POST", f"uploads/{'0' * 32}/finish"),
        ("GET", "files/data?path=/a"),
    ],
)
def test_nobody_without_a_login(page: Page, method: str, path: str) -> None:
    assert 403 == page.ask(method, path, token="").status
    assert 403 == page.ask(method, path, token="wrong").status
    # From a page of another origin, with the user's cookies.
    cookies, xsrf = log_in(page)
    evil = {"Cookie": cookies, "Origin": "https://evil.example", "X_XSRFToken": xsrf}
    assert 404 == page.ask(method, path, token="", **evil).status


def log_in(page: Page) -> tuple[str, str]:
    """As a browser has it: the cookies, and the XSRF token that its own pages send."""
    answer = urllib3.request("GET", f"{page.url}?token={JUPYTER_TOKEN}", redirect=False)
    jar: SimpleCookie = SimpleCookie()
    for line in answer.headers.getlist("Set-Cookie"):
        jar.load(line)
    cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in jar.items())
    more = urllib3.request("GET", f"{page.url}tree", headers={"Cookie": cookies}, redirect=False)
    for line in more.headers.getlist("Set-Cookie"):
        jar.load(line)
    return "; ".join(f"{name}={morsel.value}" for name, morsel in jar.items()), jar["_xsrf"].value


def test_what_changes_something_needs_the_xsrf_token(page: Page) -> None:
    cookies, xsrf = log_in(page)
    body = {"volume": "data", "path": "/a", "size": 1, "modified": 1.0}
    assert 403 == page.ask("POST", "uploads", body, token="", Cookie=cookies).status
    assert 201 == page.ask("POST", "uploads", body, token="", Cookie=cookies, X_XSRFToken=xsrf).status
    assert 403 == page.ask("PUT", "v1/volumes/data", token="", Cookie=cookies).status
    assert 200 == page.ask("PUT", "v1/volumes/data", token="", Cookie=cookies, X_XSRFToken=xsrf).status


def test_a_file_and_parts_of_it(page: Page) -> None:
    content = bytes(range(256)) * 5000
    put_file(page, "files", "/figures/π plot.svg", content)
    path = "files/files?path=/figures/%CF%80%20plot.svg"
    answer = page.ask("GET", path)
    assert (200, content) == (answer.status, answer.data)
    assert "image/svg+xml" == answer.headers["Content-Type"]
    assert answer.headers["Content-Security-Policy"].startswith("sandbox")
    assert "nosniff" == answer.headers["X-Content-Type-Options"]
    assert "Content-Disposition" not in answer.headers
    part = page.ask("GET", path, Range="bytes=1000-1999")
    assert (206, content[1000:2000]) == (part.status, part.data)
    assert f"bytes 1000-1999/{len(content)}" == part.headers["Content-Range"]
    changed = page.ask("GET", path, Range="bytes=1000-1999", If_Range='"another"')
    assert (200, len(content)) == (changed.status, len(changed.data))
    head = page.ask("HEAD", path)
    assert (200, str(len(content))) == (head.status, head.headers["Content-Length"])
    saved = page.ask("GET", f"{path}&download=1")
    assert "attachment; filename*=UTF-8''%CF%80%20plot.svg" == saved.headers["Content-Disposition"]


@pytest.mark.parametrize("name", ["no%FF%FE.txt", "%20%23%3F%25%26%2B.txt%20"])
def test_a_file_with_an_odd_name(page: Page, name: str) -> None:
    put_file(page, "odd", "/plain.txt", b"odd")
    assert 200 == page.ask("POST", f"v1/volumes/odd/rename?source=/plain.txt&target=/{name}").status
    answer = page.ask("GET", f"files/odd?path=/{name}&download=1")
    assert (200, b"odd") == (answer.status, answer.data)
    assert f"attachment; filename*=UTF-8''{name}" == answer.headers["Content-Disposition"]


def test_an_older_version_of_a_file(page: Page) -> None:
    put_file(page, "versions", "/notes.txt", b"first")
    put_file(page, "versions", "/notes.txt", b"second")
    assert b"second" == page.ask("GET", "files/versions?path=/notes.txt").data
    old = page.ask("GET", "files/versions?path=/notes.txt&version=1")
    assert (b"first", "text/plain; charset=utf-8") == (old.data, old.headers["Content-Type"])


def test_files_that_there_are_not(page: Page) -> None:
    put_file(page, "few", "/folder/a", b"a")
    problem(page.ask("GET", "files/few?path=/b"), 404, "PathNotFoundError")
    problem(page.ask("GET", "files/none?path=/b"), 404, "NotFoundError")
    problem(page.ask("GET", "files/few?path=/folder"), 409, "PathIsDirectoryError")
    assert "needs path=" in problem(page.ask("GET", "files/few"), 400, "InvalidError")


def test_the_live_feed(page: Page) -> None:
    with page.live() as live:
        assert "connected" == live.expect("gateway")["state"]
        live.expect("hello")
        live.say(type="watch", id="v", topic="volumes")
        before = {row["name"] for row in live.expect("list")["rows"]}
        page.ask("PUT", "v1/volumes/seen")
        after = {row["name"] for row in live.expect("list")["rows"]}
        assert {"seen"} == after - before
        live.say(type="watch", id="x", topic="moon")
        assert "moon" in live.expect("error")["problem"]["message"]


@pytest.mark.parametrize(
    "headers", [{"Authorization": ""}, {"Authorization": "token wrong"}, {"Origin": "https://evil.example"}]
)
def test_the_live_feed_is_not_for_others(page: Page, headers: dict[str, str]) -> None:
    if "Origin" in headers:
        headers = {**headers, "Authorization": "", "Cookie": log_in(page)[0]}
    with pytest.raises(InvalidStatus) as refused, page.live(**headers):
        pass
    assert 403 == refused.value.response.status_code


def test_a_gateway_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    gateway = LocalGateway(tmp_path / "home")
    try:
        gateway.start()
        with (
            jupyter_server(tmp_path / "jupyter", {"SKYLIFT_HOME": str(gateway.home)}) as page,
            page.live() as live,
        ):
            assert "connected" == live.expect("gateway")["state"]
            live.expect("hello")
            gateway.kill()
            away = live.expect("gateway")
            assert "away" == away["state"]
            assert away["problem"]
            message = problem(page.ask("GET", "v1/calls"), 503, "ConnectionError")
            assert "Start it: skylift gateway start" in message
            assert "absent" == page.get("status")["state"]
            live.say(type="watch", id="lost", topic="calls")
            started = page.ask("POST", "start")
            assert (200, "ready") == (started.status, started.json()["state"])
            assert "connected" == live.expect("gateway", lambda frame: frame["state"] == "connected")["state"]
            live.expect("hello")
            live.say(type="watch", id="again", topic="calls")
            assert "again" == live.expect("calls")["id"]
            assert not [text for text in page.seen if gateway.token.encode() in text]
    finally:
        gateway.close()


def test_a_gateway_elsewhere(local_gateway: LocalGateway, tmp_path: Path) -> None:
    elsewhere = {
        "SKYLIFT_HOME": str(tmp_path / "home"),
        "SKYLIFT_GATEWAY_URL": local_gateway.url,
        "SKYLIFT_TOKEN": local_gateway.token,
    }
    with jupyter_server(tmp_path / "jupyter", elsewhere) as page:
        assert "ready" == page.get("status")["state"]
        put_file(page, "elsewhere", "/a.txt", b"hello")
        assert b"hello" == page.ask("GET", "files/elsewhere?path=/a.txt").data
        with page.live() as live:
            assert "connected" == live.expect("gateway")["state"]
        assert not [text for text in page.seen if local_gateway.token.encode() in text]
    elsewhere |= {"SKYLIFT_TOKEN": "wrong"}
    with jupyter_server(tmp_path / "wrong token", elsewhere) as page:
        assert "does not know this token" in problem(page.ask("GET", "v1/calls"), 502, "AuthError")
        with page.live() as live:
            away = live.expect("gateway")
            assert "away" == away["state"]
            assert "does not know this token" in away["problem"]
    elsewhere |= {"SKYLIFT_GATEWAY_URL": "http://127.0.0.1:9"}
    with jupyter_server(tmp_path / "nobody", elsewhere) as page:
        status = page.get("status")
        assert "unreachable" == status["state"]
        assert "whether SKYLIFT_GATEWAY_URL is right" in status["problem"]
        assert "does not answer" in problem(page.ask("GET", "v1/calls"), 503, "ConnectionError")


def test_the_answers_are_json_also_of_faults(page: Page) -> None:
    answer = page.ask("PATCH", "v1/calls")
    assert 405 == answer.status
    assert {"error", "message"} <= set(json.loads(answer.data))
