"""Volumes over REST: what the sidebar, the command line and the SDK ask for."""

from __future__ import annotations

import io
import os
from typing import Any
from urllib.parse import quote_from_bytes

import msgspec
import pytest
import urllib3
from blake3 import blake3
from served_gateway import CONTAINER_TOKEN, Served, ask, check, problem

from skylift.lazyfs.chunked import write_small
from skylift.lazyfs.volumes import Volume, Volumes
from skylift.wire import Payload
from skylift.wire.volumes import CommitBody, SentChunk, SentEntry, encode_entries

pytestmark = pytest.mark.anyio

FORM = "application/x-www-form-urlencoded"
BIG = os.urandom(2_500_000)


@pytest.fixture
def volume(served: Served) -> Volume:
    """A volume ``data`` with two files, made beside the gateway."""
    names = served.application.volumes._names
    volume = Volumes(served.store, names, space="someone").create("data")
    with volume.batch_upload() as batch:
        batch.put_file(_reader(b"a,b\n1,2\n"), "/tables/one.csv")
        batch.put_file(_reader(BIG), "/big.bin")
    return volume


def _reader(data: bytes) -> Any:
    return io.BytesIO(data)


async def rows(answer: urllib3.BaseHTTPResponse) -> list[dict[str, Any]]:
    assert 200 == answer.status, answer.data
    return [msgspec.json.decode(line) for line in answer.data.splitlines()]


async def form(served: Served, path: str, body: str) -> urllib3.BaseHTTPResponse:
    return await ask(served, "POST", path, body=body, Content_Type=FORM)


def chunks_of(served: Served, data: bytes) -> tuple[SentChunk, ...]:
    """Puts them in the store too."""
    found = []
    for at in range(0, len(data), 1 << 20):
        (chunk,) = write_small(data[at : at + (1 << 20)], served.store).chunks
        found.append(SentChunk(chunk.blob, chunk.length, chunk.encoding, served.store.size(chunk.blob)))
    return tuple(found)


async def commit(
    served: Served, *entries: SentEntry, force: bool = False, message: str = ""
) -> urllib3.BaseHTTPResponse:
    data = encode_entries(entries)
    body = CommitBody(entries=Payload(data=data, size=len(data)), force=force, message=message)
    return await ask(served, "POST", "/v1/volumes/data/commits", body=msgspec.json.encode(body))


# --- volumes ---------------------------------------------------------------------------------------


async def test_volumes_are_made_listed_and_deleted(served: Served) -> None:
    assert [] == (await ask(served, "GET", "/v1/volumes")).json()
    made = await form(served, "/v1/volumes", "name=data")
    assert (201, "data", 0) == (made.status, made.json()["name"], made.json()["version"])
    again = await form(served, "/v1/volumes", "name=data")
    check(again, "POST", 409, "AlreadyExistsError")
    assert "There is a volume 'data' already." in problem(again).message
    put = await ask(served, "PUT", "/v1/volumes/more")
    assert (200, "more") == (put.status, put.json()["name"])
    assert put.json() == (await ask(served, "PUT", "/v1/volumes/more")).json()
    assert put.json() == (await ask(served, "GET", "/v1/volumes/more")).json()
    assert ["data", "more"] == [row["name"] for row in (await ask(served, "GET", "/v1/volumes")).json()]
    assert 204 == (await ask(served, "DELETE", "/v1/volumes/data")).status
    gone = await ask(served, "DELETE", "/v1/volumes/data")
    check(gone, "DELETE", 404, "NotFoundError")
    assert "There is no volume 'data'." in problem(gone).message


async def test_a_volume_gets_another_name(served: Served, volume: Volume) -> None:
    await form(served, "/v1/volumes", "name=other")
    taken = await form(served, "/v1/volumes/data/name", "name=other")
    check(taken, "POST", 409, "AlreadyExistsError")
    renamed = await form(served, "/v1/volumes/data/name", "name=better")
    assert (200, "better", volume.volume_id) == (
        renamed.status,
        renamed.json()["name"],
        renamed.json()["volume_id"],
    )
    assert ["better", "other"] == [row["name"] for row in (await ask(served, "GET", "/v1/volumes")).json()]
    gone = await form(served, "/v1/volumes/data/name", "name=again")
    check(gone, "POST", 404, "NotFoundError")
    refused = await ask(
        served, "POST", "/v1/volumes/better/name", CONTAINER_TOKEN, body="name=x", Content_Type=FORM
    )
    check(refused, "POST", 403, "PermissionDeniedError")
    assert "Code in a container cannot rename volumes (better)." in problem(refused).message


async def test_a_name_that_cannot_be(served: Served) -> None:
    answer = await ask(served, "PUT", "/v1/volumes/%20data")
    check(answer, "PUT", 400, "InvalidError")
    assert "' data' cannot be the name of a volume: 1 to 64 letters" in problem(answer).message


async def test_users_do_not_see_each_others(
    served: Served, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = {"one": "../someone", "two": "someone else"}
    monkeypatch.setattr(served.control, "authenticate", users.get)
    for token in users:
        assert [] == (await ask(served, "GET", "/v1/volumes", token)).json()
        check(await ask(served, "GET", "/v1/volumes/data", token), "GET", 404, "NotFoundError")
        assert 200 == (await ask(served, "PUT", f"/v1/volumes/{token}", token)).status
        assert [token] == [row["name"] for row in (await ask(served, "GET", "/v1/volumes", token)).json()]


async def test_code_in_a_container_deletes_only_what_it_made_for_itself(
    served: Served, volume: Volume
) -> None:
    answer = await ask(served, "DELETE", "/v1/volumes/data", CONTAINER_TOKEN)
    check(answer, "DELETE", 403, "PermissionDeniedError")
    assert "Code in a container cannot delete volumes (data)." in problem(answer).message
    assert 200 == (await ask(served, "PUT", "/v1/volumes/ephemeral-1", CONTAINER_TOKEN)).status
    assert 204 == (await ask(served, "DELETE", "/v1/volumes/ephemeral-1", CONTAINER_TOKEN)).status


# --- reading ---------------------------------------------------------------------------------------


async def test_what_is_in_it(served: Served, volume: Volume) -> None:
    top = await rows(await ask(served, "GET", "/v1/volumes/data/entries"))
    assert [("big.bin", "file", 2_500_000), ("tables", "dir", 8)] == [
        (row["path"], row["kind"], row["size"]) for row in top
    ]
    everything = await rows(await ask(served, "GET", "/v1/volumes/data/entries?recursive=true"))
    assert ["big.bin", "tables", "tables/one.csv"] == [row["path"] for row in everything]
    below = await rows(await ask(served, "GET", "/v1/volumes/data/entries?path=/tables/"))
    assert ["tables/one.csv"] == [row["path"] for row in below]
    one = (await ask(served, "GET", "/v1/volumes/data/entry?path=tables/one.csv")).json()
    assert below == [one]


async def test_many_entries_come_in_pieces(
    served: Served, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skylift.kernel_gateway.volume_reads._ROWS", 7)
    for count in (7, 14, 20):
        entries = [SentEntry(b"many/%03d" % number, "file") for number in range(count)]
        assert 201 == (await commit(served, *entries, force=True)).status
        found = await rows(await ask(served, "GET", "/v1/volumes/data/entries?path=many"))
        assert [f"many/{number:03}" for number in range(count)] == [row["path"] for row in found]


async def test_a_path_that_is_not_there(served: Served, volume: Volume) -> None:
    for what in ("entries", "entry", "file"):
        answer = await ask(served, "GET", f"/v1/volumes/data/{what}?path=/none/x")
        check(answer, "GET", 404, "PathNotFoundError")
        assert "Volume 'data' has no /none/x" in problem(answer).message
    answer = await ask(served, "GET", "/v1/volumes/data/file?path=/tables")
    check(answer, "GET", 409, "PathIsDirectoryError")
    assert "/tables is a directory in volume 'data'. Read the files in it" in problem(answer).message
    answer = await ask(served, "GET", "/v1/volumes/data/file?path=/big.bin/x")
    check(answer, "GET", 409, "PathNotDirectoryError")
    answer = await ask(served, "GET", "/v1/volumes/data/file")
    check(answer, "GET", 400, "InvalidError")
    assert "/v1/volumes/data/file needs path=." == problem(answer).message
    answer = await ask(served, "GET", "/v1/volumes/data/entry?path=../x")
    check(answer, "GET", 400, "InvalidError")
    assert "'..' could lead out of it" in problem(answer).message


async def test_a_file_and_parts_of_it(served: Served, volume: Volume) -> None:
    path = "/v1/volumes/data/file?path=big.bin"
    whole = await ask(served, "GET", path)
    assert (200, BIG) == (whole.status, whole.data)
    head = await ask(served, "HEAD", path)
    assert (200, "2500000", whole.headers["ETag"]) == (
        head.status,
        head.headers["Content-Length"],
        head.headers["ETag"],
    )
    part = await ask(served, "GET", path, Range="bytes=1000000-2100000")
    assert (206, BIG[1_000_000:2_100_001]) == (part.status, part.data)
    assert "bytes 1000000-2100000/2500000" == part.headers["Content-Range"]
    rest = await ask(served, "GET", path, Range="bytes=2499999-", If_Range=head.headers["ETag"])
    assert (206, BIG[-1:]) == (rest.status, rest.data)
    other = await ask(served, "GET", path, Range="bytes=2499999-", If_Range='"another"')
    assert (200, BIG) == (other.status, other.data)
    behind = await ask(served, "GET", path, Range="bytes=2500000-")
    check(behind, "GET", 416, "InvalidError")
    assert "This file has 2,500,000 bytes: there is no range bytes=2500000-." == problem(behind).message


async def test_an_empty_file(served: Served, volume: Volume) -> None:
    assert 201 == (await commit(served, SentEntry(b"empty", "file"))).status
    answer = await ask(served, "GET", "/v1/volumes/data/file?path=empty")
    assert (200, b"", "0") == (answer.status, answer.data, answer.headers["Content-Length"])


async def test_a_chunk_that_is_gone(served: Served, volume: Volume) -> None:
    chunks = chunks_of(served, BIG)
    served.store.delete(chunks[1].blob)
    with pytest.raises(urllib3.exceptions.ProtocolError):
        await ask(served, "GET", "/v1/volumes/data/file?path=big.bin")
    answer = await ask(served, "GET", "/v1/volumes/data/file?path=big.bin", Range="bytes=1048576-")
    check(answer, "GET", 500, "RemoteError")
    assert f"has no blob {chunks[1].blob}" in problem(answer).message
    assert "upload the file again" in problem(answer).message


async def test_names_that_are_no_utf8(served: Served, volume: Volume) -> None:
    name = "ä/%".encode() + b"\xff\n'"
    assert 201 == (await commit(served, SentEntry(b"odd/" + name, "file", content=b"odd"))).status
    (row,) = await rows(await ask(served, "GET", "/v1/volumes/data/entries?path=odd/%C3%A4"))
    assert (b"odd/" + name).hex() == row["raw"]
    assert "odd/ä/%\\xff\n'" == row["path"]
    path = "/v1/volumes/data/file?path=" + quote_from_bytes(b"odd/" + name)
    assert b"odd" == (await ask(served, "GET", path)).data
    body = f"path={quote_from_bytes(b'odd/' + name)}"
    assert 200 == (await form(served, "/v1/volumes/data/remove", body)).status
    check(await ask(served, "GET", path), "GET", 404, "PathNotFoundError")


# --- changing --------------------------------------------------------------------------------------


async def test_chunks_are_asked_for_sent_and_committed(served: Served, volume: Volume) -> None:
    data = os.urandom(1_100_000)
    pieces = [data[: 1 << 20], data[1 << 20 :]]
    blobs = [blake3(piece).hexdigest() for piece in pieces]
    asked = msgspec.json.encode([[blob, len(piece)] for blob, piece in zip(blobs, pieces, strict=True)])
    missing = await ask(served, "POST", "/v1/chunks/missing", body=asked)
    assert sorted(blobs) == missing.json()["missing"]

    entry = SentEntry(
        b"/new/file.bin",
        "file",
        0o640,
        1_700_000_000_000_000_000,
        len(data),
        chunks=tuple(
            SentChunk(blob, len(piece), "raw", len(piece)) for blob, piece in zip(blobs, pieces, strict=True)
        ),
    )
    too_soon = await commit(served, entry)
    assert (409, sorted(blobs)) == (too_soon.status, too_soon.json()["missing"])

    sent = await ask(served, "POST", "/v1/chunks", body=msgspec.msgpack.encode(pieces))
    assert (201, blobs) == (sent.status, sent.json()["blobs"])
    assert [] == (await ask(served, "POST", "/v1/chunks/missing", body=asked)).json()["missing"]
    done = await commit(served, entry, message="by hand")
    assert (201, 2, "by hand", "someone") == (
        done.status,
        done.json()["version"],
        done.json()["message"],
        done.json()["who"],
    )
    assert data == (await ask(served, "GET", "/v1/volumes/data/file?path=new/file.bin")).data
    found = (await ask(served, "GET", "/v1/volumes/data/entry?path=new/file.bin")).json()
    assert (0o640, 1.7e9) == (found["mode"], found["mtime"])


async def test_a_large_list_of_entries_comes_through_the_store(served: Served, volume: Volume) -> None:
    blob = served.store.put(encode_entries([SentEntry(b"x", "file", content=b"x")]))
    body = msgspec.json.encode(CommitBody(entries=Payload(blob=blob)))
    assert 201 == (await ask(served, "POST", "/v1/volumes/data/commits", body=body)).status
    assert b"x" == (await ask(served, "GET", "/v1/volumes/data/file?path=x")).data


async def test_what_is_there_is_replaced_only_with_force(served: Served, volume: Volume) -> None:
    entry = SentEntry(b"tables/one.csv", "file", content=b"new")
    answer = await commit(served, SentEntry(b"other", "file"), entry)
    check(answer, "POST", 409, "PathExistsError")
    assert "Volume 'data' has /tables/one.csv already. Replace it with batch_upload(force=True)" in (
        problem(answer).message
    )
    check(await ask(served, "GET", "/v1/volumes/data/entry?path=other"), "GET", 404, "PathNotFoundError")
    assert 201 == (await commit(served, entry, force=True)).status
    assert b"new" == (await ask(served, "GET", "/v1/volumes/data/file?path=tables/one.csv")).data


async def test_directories_and_symlinks(served: Served, volume: Volume) -> None:
    answer = await commit(
        served,
        SentEntry(b"empty", "dir", 0o700),
        SentEntry(b"link", "link", content=b"tables/one.csv"),
    )
    assert 201 == answer.status
    top = {row["path"]: row for row in await rows(await ask(served, "GET", "/v1/volumes/data/entries"))}
    assert ("dir", 0o700) == (top["empty"]["kind"], top["empty"]["mode"])
    assert ("link", "tables/one.csv") == (top["link"]["kind"], top["link"]["target"])
    assert b"a,b\n1,2\n" == (await ask(served, "GET", "/v1/volumes/data/file?path=link")).data


@pytest.mark.parametrize(
    ("entry", "status", "said"),
    [
        (SentEntry(b"../x", "file"), 400, "'..' could lead out of it"),
        (SentEntry(b"/", "file"), 400, "name the file in it"),
        (SentEntry(b"x\0y", "file"), 400, "no '/' and no NUL"),
        (SentEntry(b"x" * 256, "file"), 400, "255 are the most"),
        (SentEntry(b"tables", "file"), 409, "/tables already"),
        (SentEntry(b"x", "link"), 400, "leads nowhere"),
        (SentEntry(b"x", "file", content=bytes(513)), 400, "512 are the most"),
        (SentEntry(b"x", "file", size=5, chunks=(SentChunk("0" * 64, 4, "raw", 4),)), 400, "has 4 bytes"),
        (SentEntry(b"x", "file", size=5, chunks=(SentChunk("../" * 9, 5, "raw", 5),)), 400, "not the name"),
        (SentEntry(b"x", "file", size=5, chunks=(SentChunk("0" * 64, 5, "raw", 4),)), 400, "4 bytes long"),
    ],
)
async def test_entries_that_cannot_be(
    served: Served, volume: Volume, entry: SentEntry, status: int, said: str
) -> None:
    answer = await commit(served, entry)
    assert status == answer.status
    assert said in problem(answer).message
    assert 1 == volume.info().version


async def test_bodies_that_are_none(served: Served, volume: Volume) -> None:
    for path, body, said in [
        ("/v1/volumes/data/commits", b'{"entries": {"data": "AAAA"}}', "no entries of files"),
        ("/v1/volumes/data/commits", b"[]", "The body of POST /v1/volumes/data/commits"),
        ("/v1/chunks/missing", b'[["x", 1]]', "takes up to 2,000 names of blobs at once"),
        ("/v1/chunks/missing", b"{}", "The body of POST /v1/chunks/missing"),
        ("/v1/chunks", b"\xc1", "The body of POST /v1/chunks"),
    ]:
        answer = await ask(served, "POST", path, body=body)
        check(answer, "POST", 400, "InvalidError")
        assert said in problem(answer).message


async def test_copy_rename_and_remove(served: Served, volume: Volume) -> None:
    at = "/v1/volumes/data"
    one = await form(served, f"{at}/copy", "source=big.bin&source=tables/one.csv&target=/tables")
    assert 200 == one.status
    copied = await form(served, f"{at}/copy", "source=tables&target=copy&recursive=true")
    assert 200 == copied.status
    assert ["copy/big.bin", "copy/one.csv"] == [
        row["path"] for row in await rows(await ask(served, "GET", f"{at}/entries?path=copy"))
    ]
    renamed = await form(served, f"{at}/rename", "source=/big.bin&target=/large.bin&message=better")
    assert (200, "better") == (renamed.status, renamed.json()["message"])
    taken = await form(served, f"{at}/rename", "source=/large.bin&target=/copy")
    check(taken, "POST", 409, "PathExistsError")
    check(await form(served, f"{at}/remove", "path=/copy"), "POST", 409, "PathIsDirectoryError")
    assert 200 == (await form(served, f"{at}/remove", "path=/copy&recursive=1")).status
    top = await rows(await ask(served, "GET", f"{at}/entries"))
    assert ["large.bin", "tables"] == [row["path"] for row in top]
    for what, body, said in [
        ("copy", "target=x", "needs source="),
        ("copy", "source=x", "needs target="),
        ("remove", "", "needs path="),
        ("remove", "path=x&recursive=perhaps", "recursive=perhaps must be true or false"),
        ("restore", "", "needs version="),
        ("restore", "version=one", "version=one must be a whole number"),
    ]:
        answer = await form(served, f"{at}/{what}", body)
        check(answer, "POST", 400, "InvalidError")
        assert said in problem(answer).message


async def test_history_and_what_was(served: Served, volume: Volume) -> None:
    at = "/v1/volumes/data"
    await form(served, f"{at}/remove", "path=/big.bin")
    history = (await ask(served, "GET", f"{at}/history")).json()
    assert [2, 1, 0] == [row["version"] for row in history]
    assert ("removed /big.bin", 1) == (history[0]["message"], history[0]["changes"]["removed"])
    assert [2] == [row["version"] for row in (await ask(served, "GET", f"{at}/history?limit=1")).json()]
    assert BIG == (await ask(served, "GET", f"{at}/file?path=big.bin&version=1")).data
    old = await rows(await ask(served, "GET", f"{at}/entries?version=1"))
    assert ["big.bin", "tables"] == [row["path"] for row in old]
    restored = await form(served, f"{at}/restore", "version=1")
    assert (200, 3, "restored version 1") == (
        restored.status,
        restored.json()["version"],
        restored.json()["message"],
    )
    assert BIG == (await ask(served, "GET", f"{at}/file?path=big.bin")).data
    for answer in (
        await ask(served, "GET", f"{at}/entry?path=big.bin&version=9"),
        await form(served, f"{at}/restore", "version=9"),
    ):
        check(answer, "GET", 404, "NotFoundError")
        assert "Volume 'data' has no version 9: it has versions 0 to 3. See history()." == (
            problem(answer).message
        )
