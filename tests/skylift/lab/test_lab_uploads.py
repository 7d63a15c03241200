"""Files from a page into a volume: in parts, from where they were, by the SDK's own upload."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest
from jupyter_side import LocalGateway, Page, jupyter_server

pytestmark = pytest.mark.slow

MIB = 1024 * 1024


def begin(page: Page, volume: str, path: str, size: int, modified: float = 1.7e9) -> dict[str, Any]:
    answer = page.ask("POST", "uploads", {"volume": volume, "path": path, "size": size, "modified": modified})
    assert 201 == answer.status, answer.data
    begun: dict[str, Any] = answer.json()
    return begun


@pytest.fixture
def volume(page: Page, request: pytest.FixtureRequest) -> str:
    name = f"up-{hashlib.sha256(request.node.name.encode()).hexdigest()[:8]}"
    assert 200 == page.ask("PUT", f"v1/volumes/{name}").status
    return name


def test_fifty_megabytes(page: Page, volume: str, local_gateway: LocalGateway) -> None:
    content = random.Random(1).randbytes(50 * MIB)
    upload_id = begin(page, volume, "/data/large.bin", len(content))["upload_id"]
    for offset in range(0, len(content), 8 * MIB):
        piece = content[offset : offset + 8 * MIB]
        answer = page.ask("PUT", f"uploads/{upload_id}?offset={offset}", piece)
        assert (200, offset + len(piece)) == (answer.status, answer.json()["offset"])
    state = page.get(f"uploads/{upload_id}")
    assert {"offset": len(content), "size": len(content), "sent": 0} == state
    done = page.ask("POST", f"uploads/{upload_id}/finish")
    assert {"path": "/data/large.bin", "size": len(content)} == done.json()
    got = page.ask("GET", f"files/{volume}?path=/data/large.bin")
    assert hashlib.sha256(content).digest() == hashlib.sha256(got.data).digest()
    entry = page.get(f"v1/volumes/{volume}/entry?path=/data/large.bin")
    assert (1.7e9, 0o644) == (entry["mtime"], entry["mode"])
    assert 404 == page.ask("GET", f"uploads/{upload_id}").status
    assert [] == list((local_gateway.home / "uploads").glob(f"{upload_id}*"))


def test_a_wrong_offset_is_told_the_right_one(page: Page, volume: str) -> None:
    upload_id = begin(page, volume, "/a", 6)["upload_id"]
    assert {"offset": 3} == page.ask("PUT", f"uploads/{upload_id}?offset=0", b"abc").json()
    for offset in (0, 5):
        answer = page.ask("PUT", f"uploads/{upload_id}?offset={offset}", b"xyz")
        assert (409, "ConflictError", 3) == (answer.status, answer.json()["error"], answer.json()["offset"])
    early = page.ask("POST", f"uploads/{upload_id}/finish")
    assert (409, 3) == (early.status, early.json()["offset"])
    # The page was loaded again: the same file goes on, another one begins.
    assert {"upload_id": upload_id, "offset": 3} == begin(page, volume, "/a", 6)
    assert 0 == begin(page, volume, "/a", 6, modified=1.8e9)["offset"]
    assert 0 == begin(page, volume, "/a", 7)["offset"]
    too_much = page.ask("PUT", f"uploads/{upload_id}?offset=3", b"defg")
    assert 400 == too_much.status
    assert "/a has 6 bytes, and these would make 7" in too_much.json()["message"]
    assert {"offset": 6} == page.ask("PUT", f"uploads/{upload_id}?offset=3", b"def").json()
    assert 200 == page.ask("POST", f"uploads/{upload_id}/finish").status
    assert b"abcdef" == page.ask("GET", f"files/{volume}?path=/a").data


def test_what_is_there_is_replaced_and_an_empty_file_works(page: Page, volume: str) -> None:
    for content in (b"old", b""):
        upload_id = begin(page, volume, "/a", len(content))["upload_id"]
        if content:
            page.ask("PUT", f"uploads/{upload_id}?offset=0", content)
        assert 200 == page.ask("POST", f"uploads/{upload_id}/finish").status
        assert content == page.ask("GET", f"files/{volume}?path=/a").data


def test_an_upload_that_is_cancelled(page: Page, volume: str, local_gateway: LocalGateway) -> None:
    upload_id = begin(page, volume, "/a", 6)["upload_id"]
    page.ask("PUT", f"uploads/{upload_id}?offset=0", b"abc")
    assert 204 == page.ask("DELETE", f"uploads/{upload_id}").status
    gone = page.ask("PUT", f"uploads/{upload_id}?offset=3", b"def")
    assert 404 == gone.status
    assert "Begin again." in gone.json()["message"]
    assert [] == list((local_gateway.home / "uploads").glob(f"{upload_id}*"))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{}", "missing required field `volume`"),
        ({"volume": "v", "path": "/", "size": 1, "modified": 1.0}, "a volume, and the path of a file"),
        ({"volume": "v", "path": "/a", "size": -1, "modified": 1.0}, "size=-1"),
        ({"volume": "v", "path": "/a", "size": 1 << 60, "modified": 1.0}, "has room for"),
    ],
)
def test_what_cannot_begin(page: Page, body: Any, why: str) -> None:
    answer = page.ask("POST", "uploads", body)
    assert answer.status in (400, 507)
    assert why in answer.json()["message"]


def test_a_volume_that_is_not_there_and_is_made(page: Page) -> None:
    upload_id = begin(page, "not-there-yet", "/a", 3)["upload_id"]
    page.ask("PUT", f"uploads/{upload_id}?offset=0", b"abc")
    failed = page.ask("POST", f"uploads/{upload_id}/finish")
    assert (404, "NotFoundError") == (failed.status, failed.json()["error"])
    page.ask("PUT", "v1/volumes/not-there-yet")
    assert 200 == page.ask("POST", f"uploads/{upload_id}/finish").status


def test_a_jupyter_server_that_is_started_again_goes_on(local_gateway: LocalGateway, tmp_path: Path) -> None:
    environment = {"SKYLIFT_HOME": str(local_gateway.home)}
    with jupyter_server(tmp_path / "first", environment) as page:
        page.ask("PUT", "v1/volumes/resumed")
        begun = begin(page, "resumed", "/a", 6)
        page.ask("PUT", f"uploads/{begun['upload_id']}?offset=0", b"abc")
    with jupyter_server(tmp_path / "second", environment) as page:
        assert {**begun, "offset": 3} == begin(page, "resumed", "/a", 6)
        page.ask("PUT", f"uploads/{begun['upload_id']}?offset=3", b"def")
        assert 200 == page.ask("POST", f"uploads/{begun['upload_id']}/finish").status
        assert b"abcdef" == page.ask("GET", "files/resumed?path=/a").data


def test_a_gateway_that_is_away_while_a_file_is_sent(tmp_path: Path) -> None:
    gateway = LocalGateway(tmp_path / "home")
    try:
        gateway.start()
        with jupyter_server(tmp_path / "jupyter", {"SKYLIFT_HOME": str(gateway.home)}) as page:
            page.ask("PUT", "v1/volumes/data")
            upload_id = begin(page, "data", "/a", 3)["upload_id"]
            gateway.kill()
            # The page goes on with what needs no gateway.
            assert 200 == page.ask("PUT", f"uploads/{upload_id}?offset=0", b"abc").status
            away = page.ask("POST", f"uploads/{upload_id}/finish")
            assert (503, "ConnectionError") == (away.status, away.json()["error"])
            assert 3 == page.get(f"uploads/{upload_id}")["offset"]
            gateway.start()
            assert 200 == page.ask("POST", f"uploads/{upload_id}/finish").status
            assert b"abc" == page.ask("GET", "files/data?path=/a").data
    finally:
        gateway.close()
