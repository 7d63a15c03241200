"""Images made here, and registries to pull them from: Debian's, and one that does what a test wants."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import urllib3
import zstandard

from skylift.lazyfs.chunked import ChunkedReader
from skylift.lazyfs.layers import open_layer
from skylift.lazyfs.store import Store

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker.distribution.manifest"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def entry(name: str, content: bytes | None = None, **fields: Any) -> tuple[tarfile.TarInfo, bytes | None]:
    """One of an archive: a file, or with `type` something else; a folder where the name ends with a slash."""
    info = tarfile.TarInfo(name.rstrip("/") if len(name) > 1 else name)
    info.mtime = 1_600_000_000
    info.mode = 0o755 if name.endswith("/") else 0o644
    info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
    for field, value in fields.items():
        setattr(info, field, value)
    if content is not None:
        info.size = len(content)
    return info, content


def link(name: str, target: str) -> tuple[tarfile.TarInfo, None]:
    return entry(name, type=tarfile.SYMTYPE, linkname=target)[0], None


def hard_link(name: str, target: str) -> tuple[tarfile.TarInfo, None]:
    return entry(name, type=tarfile.LNKTYPE, linkname=target)[0], None


def archive(*entries: tuple[tarfile.TarInfo, bytes | None]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content) if content is not None else None)
    return data.getvalue()


class PushedLayer(NamedTuple):
    """A layer as it lies in a registry."""

    blob: bytes
    media_type: str
    diff_id: str

    @classmethod
    def of(cls, tar: bytes, compression: str = "gzip") -> PushedLayer:
        if compression == "gzip":
            return cls(gzip.compress(tar, mtime=0), f"{OCI}.layer.v1.tar+gzip", digest_of(tar))
        if compression == "zstd":
            blob = zstandard.ZstdCompressor().compress(tar)
            return cls(blob, f"{OCI}.layer.v1.tar+zstd", digest_of(tar))
        return cls(tar, f"{OCI}.layer.v1.tar", digest_of(tar))


class PushedImage:
    """An image: its blobs and its manifest."""

    def __init__(
        self,
        *layers: PushedLayer,
        config: dict[str, Any] | None = None,
        architecture: str = "amd64",
        docker: bool = False,
    ) -> None:
        said = {
            "architecture": architecture,
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        }
        self.config = json.dumps(said).encode()
        self.layers = layers
        self.architecture = architecture
        self.media_type = f"{DOCKER}.v2+json" if docker else f"{OCI}.manifest.v1+json"
        kind = "application/vnd.docker.container.image.v1+json" if docker else f"{OCI}.config.v1+json"
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": self.media_type,
                "config": {"mediaType": kind, **_part(self.config)},
                "layers": [{"mediaType": layer.media_type, **_part(layer.blob)} for layer in layers],
            }
        ).encode()

    @property
    def blobs(self) -> list[bytes]:
        return [self.config, *(layer.blob for layer in self.layers)]

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


def index(*images: PushedImage, docker: bool = False) -> tuple[bytes, str]:
    """One of several images, and its media type."""
    media_type = f"{DOCKER}.list.v2+json" if docker else f"{OCI}.index.v1+json"
    attestation = {"mediaType": f"{OCI}.manifest.v1+json", **_part(b"attestation")}
    manifests = [
        {**attestation, "platform": {"os": "unknown", "architecture": "unknown"}},
        *(
            {
                "mediaType": image.media_type,
                **_part(image.manifest),
                "platform": {"os": "linux", "architecture": image.architecture},
            }
            for image in images
        ),
    ]
    said = {"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}
    return json.dumps(said).encode(), media_type


def _part(data: bytes) -> dict[str, Any]:
    return {"digest": digest_of(data), "size": len(data)}


class DebianRegistry:
    """Debian's ``docker-registry`` on a port of this machine."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{probe.getsockname()[1]}"
        config = folder / "config.yml"
        config.write_text(
            "version: 0.1\nlog: {level: error}\n"
            f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: '{self.host}'}}\n"
        )
        self._http = urllib3.PoolManager(retries=False)
        self._process = subprocess.Popen(
            ["docker-registry", "serve", str(config)],
            env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def push(self, name: str, image: PushedImage, tag: str) -> None:
        for blob in image.blobs:
            self.push_blob(name, blob)
        self.push_manifest(name, image.manifest, image.media_type, tag)

    def push_blob(self, name: str, blob: bytes) -> None:
        started = self._http.request("POST", f"http://{self.host}/v2/{name}/blobs/uploads/")
        assert started.status == 202, started.data
        place = started.headers["Location"]
        sign = "&" if "?" in place else "?"
        done = self._http.request(
            "PUT",
            f"{place}{sign}digest={digest_of(blob)}",
            body=blob,
            headers={"Content-Type": "application/octet-stream"},
        )
        assert done.status == 201, done.data

    def push_manifest(self, name: str, manifest: bytes, media_type: str, tag: str) -> None:
        done = self._http.request(
            "PUT",
            f"http://{self.host}/v2/{name}/manifests/{tag}",
            body=manifest,
            headers={"Content-Type": media_type},
        )
        assert done.status == 201, done.data

    def _wait(self) -> None:
        end = time.monotonic() + 60
        while self._process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                if self._http.request("GET", f"http://{self.host}/v2/").status == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(f"docker-registry does not start ({self._process.poll()})")


class Asked(NamedTuple):
    """A request that a `FakeRegistry` got."""

    path: str
    query: str
    headers: dict[str, str]
    host: str


class Answer(NamedTuple):
    """What it answers."""

    status: int
    headers: dict[str, str] = {}
    body: bytes = b""
    cut: int | None = None
    """The connection ends after so many bytes of the body."""


class FakeRegistry:
    """Serves images from memory; what `before` answers to a request goes out in place of it."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[Asked] = []
        self.before: Callable[[Asked], Answer | None] = lambda asked: None
        self._content: dict[str, tuple[bytes, str]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                # Of a proxy, the whole URL is asked for.
                place = urlsplit(self.path)
                path, query = place.path, place.query
                host = place.netloc or self.headers["Host"]
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(path, query, headers, host)
                outer.asked.append(asked)
                answer = outer.before(asked) or outer.usual(asked)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in answer.headers:
                    self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(answer.body[: answer.cut])
                if answer.cut is not None:
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # who asked has hung up

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def push(self, name: str, image: PushedImage, tag: str) -> None:
        for blob in image.blobs:
            self._content[f"/v2/{name}/blobs/{digest_of(blob)}"] = blob, "application/octet-stream"
        self.push_manifest(name, image.manifest, image.media_type, tag)

    def push_manifest(self, name: str, manifest: bytes, media_type: str, tag: str) -> None:
        for version in (tag, digest_of(manifest)):
            self._content[f"/v2/{name}/manifests/{version}"] = manifest, media_type

    def usual(self, asked: Asked) -> Answer:
        found = self._content.get(asked.path)
        if found is None:
            code = "MANIFEST_UNKNOWN" if "/manifests/" in asked.path else "BLOB_UNKNOWN"
            return Answer(404, body=json.dumps({"errors": [{"code": code}]}).encode())
        data, media_type = found
        wanted = asked.headers.get("range", "")
        if wanted:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            said = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            return Answer(206, {"Content-Type": media_type, **said}, data[start:])
        return Answer(200, {"Content-Type": media_type}, data)

    def count(self, part: str) -> int:
        """How many requests had this in their paths."""
        return sum(part in asked.path for asked in self.asked)


@contextlib.contextmanager
def mounted(layers: Sequence[str], store: Store, folder: Path) -> Iterator[Path]:
    """Layers on top of each other, as a container sees them. As root."""
    with contextlib.ExitStack() as stack:
        lower = []
        folder.mkdir()
        stack.callback(shutil.rmtree, folder)
        for number, layer in enumerate(layers):
            image, place = folder / f"{number}.erofs", folder / str(number)
            ChunkedReader(open_layer(layer, store), store).copy_to(image)
            place.mkdir()
            subprocess.run(["mount", "-t", "erofs", "-o", "loop,ro", image, place], check=True)
            stack.callback(subprocess.run, ["umount", place], check=True)
            lower.insert(0, str(place))
        root = folder / "root"
        root.mkdir()
        (folder / "none").mkdir()
        lower.append(str(folder / "none"))
        subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={':'.join(lower)}", root], check=True
        )
        stack.callback(subprocess.run, ["umount", root], check=True)
        yield root


def files_in(root: Path) -> dict[str, str]:
    """What is in a folder, by its path: ``/`` for a folder, ``-> x`` for a link, ``!`` for a device, else the
    content."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            text = "/"
        elif stat.S_ISLNK(status.st_mode):
            text = f"-> {path.readlink()}"
        elif stat.S_ISREG(status.st_mode):
            text = path.read_text()
        else:
            text = "!"
        found[str(path.relative_to(root))] = text
    return found
