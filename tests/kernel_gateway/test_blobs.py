"""Large arguments and results over HTTP."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest
from blake3 import blake3
from served_gateway import TOKEN, Served, ask, check, problem

from skylift.kernel_gateway import blobs
from skylift.lazyfs.store import StoreFullError

pytestmark = pytest.mark.anyio

DATA = os.urandom(5_000_001)
BLOB = blake3(DATA).hexdigest()
PATH = f"/v1/blobs/{BLOB}"


async def test_a_blob_goes_in_and_comes_out(served: Served) -> None:
    assert 404 == (await ask(served, "HEAD", PATH)).status
    assert 201 == (await ask(served, "PUT", PATH, body=DATA)).status
    head = await ask(served, "HEAD", PATH)
    assert (200, str(len(DATA)), "bytes") == (
        head.status,
        head.headers["Content-Length"],
        head.headers["Accept-Ranges"],
    )
    answer = await ask(served, "GET", PATH)
    assert (200, DATA) == (answer.status, answer.data)
    assert served.store.has(BLOB)


async def test_a_second_upload_of_the_same_does_no_harm(served: Served) -> None:
    for _ in range(2):
        assert 201 == (await ask(served, "PUT", PATH, body=DATA)).status
    assert DATA == (await ask(served, "GET", PATH)).data


async def test_an_empty_blob(served: Served) -> None:
    path = f"/v1/blobs/{blake3(b'').hexdigest()}"
    assert 201 == (await ask(served, "PUT", path, body=b"")).status
    answer = await ask(served, "GET", path)
    assert (200, b"") == (answer.status, answer.data)


async def test_a_blob_in_pieces_of_unannounced_size(served: Served) -> None:
    answer = await ask(served, "PUT", PATH, body=iter([DATA[:10], DATA[10:3_000_000], DATA[3_000_000:]]))
    assert 201 == answer.status
    assert DATA == served.store.get(BLOB)


async def test_more_uploads_than_are_written_at_once(served: Served) -> None:
    datas = [os.urandom(1_500_000) for _ in range(3 * blobs.UPLOADS)]
    paths = [f"/v1/blobs/{blake3(data).hexdigest()}" for data in datas]
    answers = await asyncio.gather(
        *(ask(served, "PUT", path, body=data) for path, data in zip(paths, datas, strict=True))
    )
    assert [201] * len(datas) == [answer.status for answer in answers]
    assert datas == [(await ask(served, "GET", path)).data for path in paths]


async def test_other_bytes_than_announced_are_not_kept(served: Served) -> None:
    answer = await ask(served, "PUT", PATH, body=DATA[:-1] + b"x")
    check(answer, "PUT", 400, "InvalidError")
    assert f"The body has another BLAKE3 than {BLOB}; it was not kept. Send it again." == (
        problem(answer).message
    )
    assert [] == [file for file in served.store.folder.rglob("*") if file.is_file()]


async def test_a_blob_that_is_not_there(served: Served) -> None:
    answer = await ask(served, "GET", PATH)
    check(answer, "GET", 404, "NotFoundError")
    assert f"has no blob {BLOB}" in problem(answer).message


@pytest.mark.parametrize("name", ["0" * 63, "0" * 65, "Z" * 64, "..%2f" * 12 + "0000"])
async def test_a_name_that_is_no_hash(served: Served, name: str) -> None:
    for method in ("GET", "HEAD", "PUT"):
        assert 404 == (await ask(served, method, f"/v1/blobs/{name}")).status


async def test_a_full_disk_is_said(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def put_stream(chunks: object, **_: object) -> None:
        next(chunks)  # type: ignore[call-overload]
        raise StoreFullError(served.store.folder, 5_000_001, 17)

    monkeypatch.setattr(served.store, "put_stream", put_stream)
    for _ in range(2 * blobs.UPLOADS):
        answer = await ask(served, "PUT", PATH, body=DATA * 3)
        check(answer, "PUT", 507, "ResourceExhaustedError")
        assert "is full: 5,000,001 bytes were to be written and 17 are free" in problem(answer).message
    monkeypatch.undo()
    assert 201 == (await ask(served, "PUT", PATH, body=DATA)).status


async def test_a_client_that_breaks_off_leaves_nothing(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    for _ in range(2 * blobs.UPLOADS):
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(
                f"PUT {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
                f"Content-Length: {len(DATA)}\r\n\r\n".encode()
            )
            await asyncio.to_thread(connection.sendall, DATA[:2_000_000])
    assert 201 == (await ask(served, "PUT", PATH, body=DATA)).status
    left = [file.name for file in (served.store.folder / "tmp").iterdir()]
    while left:
        await asyncio.sleep(0.01)
        left = [file.name for file in (served.store.folder / "tmp").iterdir()]
    assert DATA == served.store.get(BLOB)


async def test_an_upload_that_stalls_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "STALL_SECONDS", 0.05)
    host, port = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"PUT {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Length: {len(DATA)}\r\n\r\n".encode()
        + DATA[:1_000_000]
    )
    answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"nothing came for 0.05 seconds" in answer
    writer.close()


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=1000-", 1000, len(DATA) - 1),
        ("bytes=10-99", 10, 99),
        ("bytes=5000000-99999999", 5_000_000, 5_000_000),
        ("bytes=-7", len(DATA) - 7, len(DATA) - 1),
        ("bytes=-99999999", 0, len(DATA) - 1),
    ],
)
async def test_a_range(served: Served, wanted: str, first: int, last: int) -> None:
    served.store.put(DATA)
    answer = await ask(served, "GET", PATH, Range=wanted)
    assert DATA[first : last + 1] == answer.data
    if (first, last) == (0, len(DATA) - 1):
        assert 200 == answer.status
    else:
        assert (206, f"bytes {first}-{last}/{len(DATA)}") == (answer.status, answer.headers["Content-Range"])


@pytest.mark.parametrize("wanted", ["bytes=", "bytes=-", "lines=1-2", "bytes=1-2,4-5"])
async def test_a_range_that_is_none_is_left_alone(served: Served, wanted: str) -> None:
    served.store.put(DATA)
    answer = await ask(served, "GET", PATH, Range=wanted)
    assert (200, DATA) == (answer.status, answer.data)


@pytest.mark.parametrize("wanted", [f"bytes={len(DATA)}-", "bytes=9-3", "bytes=-0"])
async def test_a_range_that_is_not_there(served: Served, wanted: str) -> None:
    served.store.put(DATA)
    answer = await ask(served, "GET", PATH, Range=wanted)
    check(answer, "GET", 416, "InvalidError")
    assert f"bytes */{len(DATA)}" == answer.headers["Content-Range"]
