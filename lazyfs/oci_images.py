"""Images of registries become layers: `pull_image`.

What a layer of theirs became is remembered beside the store, so that images share what they have in common
and nothing is pulled twice. Some layers are other folders on top of other layers (`Unpacked.depends`): those
are remembered with all that is below them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from skylift.lazyfs.chunked import ChunkedFormatError
from skylift.lazyfs.image_records import layer_blobs
from skylift.lazyfs.layers import LayerError, build_layer
from skylift.lazyfs.mounts import unpack_layer
from skylift.lazyfs.names import Names
from skylift.lazyfs.oci_errors import OciContentError, OciDigestError, OciError
from skylift.lazyfs.oci_layers import Below, Limits, Unpacked, unpack
from skylift.lazyfs.oci_manifests import Descriptor, parse_platform
from skylift.lazyfs.oci_reference import parse_reference
from skylift.lazyfs.oci_registry import NO_ROOM, Registry, disk_full
from skylift.lazyfs.overlay_marks import is_whiteout
from skylift.lazyfs.store import BlobDamagedError, BlobMissingError, Store

RECORDS = "oci-layers/v1"
"""Names; another number with what `unpack` makes."""
MAX_UNPACKED = 256 << 30
"""Bytes of one layer."""
_AT_ONCE = 3
_EMPTY = b"-"


class PulledImage(NamedTuple):
    """An image that was pulled."""

    layers: tuple[str, ...]
    """Ids of layers in the store, the lowest first."""
    env: dict[str, str]
    workdir: str
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    shell: tuple[str, ...]
    user: str
    """As the image has it: ``""``, ``"1000"``, ``"app:app"``."""
    digest: str
    """Of its manifest for this platform."""


def pull_image(
    reference: str,
    store: Store,
    names: Names,
    *,
    scratch: Path | None = None,
    username: str = "",
    password: str = "",
    platform: str = "",
    plain_http: Collection[str] = (),
    told: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancelled: threading.Event | None = None,
) -> PulledImage:
    """Pull an image, or find it pulled, and put its layers in the store. As root; call it in a thread.

    `scratch` (by default the system's temporary folder) needs room for all compressed layers, and for one
    that is unpacked, twice. `platform` is ``"linux/arm64"``, or "" for this machine's. Registries in
    `plain_http` (``"registry.lan:5000"``), and those on this machine's loopback, are spoken to without TLS.
    `told` hears lines for people, `progress` the bytes of layers that came, and of all; both from several
    threads. Where `cancelled` is set, it ends soon.

    Who keeps what was pulled holds a lease on the store meanwhile. Raises `OciError`, and what `build_layer`
    raises.
    """
    wanted = parse_platform(platform)
    parsed = parse_reference(reference)
    if os.geteuid():
        raise OciError(f"{parsed} can only be unpacked by root, to whom its files belong.")
    registry = Registry(
        parsed,
        username=username,
        password=password,
        plain_http=True if parsed.registry in plain_http else None,
        cancelled=cancelled,
    )
    try:
        digest, manifest = registry.image(wanted)
        config = registry.config(manifest, wanted)
        with tempfile.TemporaryDirectory(prefix="pull-", dir=scratch) as folder:
            pull = _Pull(registry, store, names, Path(folder), told, progress)
            layers = pull.layers(manifest.layers, config.diff_ids)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise disk_full(parsed, scratch or Path(tempfile.gettempdir())) from error
        raise
    finally:
        registry.close()
    process = config.process
    return PulledImage(
        layers=layers,
        env=process.variables,
        workdir=process.working_dir,
        entrypoint=process.entrypoint or (),
        cmd=process.cmd or (),
        shell=process.shell or (),
        user=process.user,
        digest=digest,
    )


class _Pull:
    """The layers of one image."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        names: Names,
        folder: Path,
        told: Callable[[str], None],
        progress: Callable[[int, int], None],
    ) -> None:
        self._registry = registry
        self._reference = registry.reference
        self._store = store
        self._names = names
        self._folder = folder
        self._told = told
        self._progress = progress
        self._lock = threading.Lock()
        self._done = self._total = 0
        self._ids: list[str] = []
        self._trees: list[LayerTree | None] = []
        """What the layers so far show; None for those that were not unpacked now."""

    def layers(self, descriptors: tuple[Descriptor, ...], diff_ids: tuple[str, ...]) -> tuple[str, ...]:
        chains = _chains(diff_ids)
        known = [self._known(diff, chain) for diff, chain in zip(diff_ids, chains, strict=True)]
        wanted = [number for number, layer in enumerate(known) if layer is None]
        self._total = sum(descriptors[number].size for number in wanted)
        if known:
            self._told(
                f"{self._reference}: {len(known)} layers, {len(wanted)} to pull ({self._total:,} bytes)"
            )
        free = shutil.disk_usage(self._folder).free
        if self._total > free:
            raise disk_full(self._reference, self._folder, self._total - free)
        with self._fetched([descriptors[number] for number in wanted]) as files:
            for number, layer in enumerate(known):
                tree: LayerTree | None = None
                if layer is None:
                    fetching, path = files[descriptors[number].digest]
                    fetching.result()
                    layer, tree = self._made(number, path, diff_ids[number], chains[number], len(known))
                    if descriptors[number].digest not in [
                        descriptors[later].digest for later in wanted if later > number
                    ]:
                        path.unlink()
                if layer:
                    self._ids.append(layer)
                    self._trees.append(tree)
        # The same layer cannot be twice in an overlay. The upper one says all again that the lower one said.
        return tuple(layer for at, layer in enumerate(self._ids) if layer not in self._ids[at + 1 :])

    # --- parts -----------------------------------------------------------------------------------

    def _known(self, diff: str, chain: str) -> str | None:
        """The layer that it became before; "" for an empty one, None where that is not known."""
        for name in (_record("diff", diff), _record("chain", chain)):
            value = self._names.get(name)
            if value == _EMPTY:
                return ""
            if value is not None:
                layer = value.decode("ascii", "replace")
                try:
                    if all(self._store.has(blob) for blob in layer_blobs(layer, self._store)):
                        return layer
                except (BlobMissingError, BlobDamagedError, ChunkedFormatError, ValueError):
                    continue
        return None

    @contextmanager
    def _fetched(self, descriptors: list[Descriptor]) -> Iterator[dict[str, tuple[Future[None], Path]]]:
        """Each blob as a file, by its digest; some are fetched at the same time."""
        files: dict[str, tuple[Future[None], Path]] = {}
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pull") as pool:
            try:
                for descriptor in descriptors:
                    if descriptor.digest not in files:
                        path = self._folder / descriptor.digest.replace(":", "-")
                        files[descriptor.digest] = pool.submit(self._fetch, descriptor, path), path
                yield files
            except BaseException:
                for future, _ in files.values():
                    future.cancel()
                self._registry.http.stop()
                raise

    def _fetch(self, descriptor: Descriptor, path: Path) -> None:
        self._registry.blob(descriptor, path, self._moved)

    def _moved(self, count: int) -> None:
        with self._lock:
            self._done += count
            done = self._done
        self._progress(done, self._total)

    def _made(self, number: int, path: Path, diff: str, chain: str, layers: int) -> tuple[str, LayerTree]:
        folder = self._folder / "layer"
        folder.mkdir(mode=0o700)
        try:
            unpacked = self._unpack(path, folder, diff)
            tree = LayerTree.of(folder)
            layer = ""
            if not unpacked.empty:
                self._told(f"layer {number + 1} of {layers}: unpacked, going into the store")
                layer = build_layer(folder, self._store, scratch=self._folder).id
        except LayerError as error:
            raise OciContentError(f"{self._reference}: {error}") from error
        finally:
            shutil.rmtree(folder)
        record = _record("chain", chain) if unpacked.depends else _record("diff", diff)
        self._names.put(record, layer.encode() or _EMPTY)
        return layer, tree

    def _unpack(self, path: Path, folder: Path, diff: str) -> Unpacked:
        limits = Limits(
            size=MAX_UNPACKED,
            free=lambda: shutil.disk_usage(self._folder).free,
            full=lambda size: disk_full(self._reference, self._folder, size),
        )
        below = Below(self._names_below, self._status_below) if self._ids else None
        algorithm = diff.partition(":")[0]
        with path.open("rb") as file:
            try:
                unpacked = unpack(file, folder, below, limits, algorithm, self._registry.http.check_cancelled)
            except OciContentError as error:
                raise OciContentError(f"{self._reference}: {error}") from error
        if unpacked.diff_id != diff:
            raise OciDigestError(
                f"{self._reference}: a layer has another content than its configuration says ({diff}). Push "
                "it anew."
            )
        return unpacked

    def _names_below(self, path: str) -> list[str]:
        shown: set[str] = set()
        hidden: set[str] = set()
        for tree in self._reaching(path):
            names, marks = tree.folders[path]
            shown.update(name for name in names if name not in hidden)
            hidden.update(names, marks)
        return sorted(shown)

    def _status_below(self, path: str) -> os.stat_result | None:
        for tree in self._reaching(path):
            return tree.status[path]
        return None

    def _reaching(self, path: str) -> Iterator[LayerTree]:
        """The layers that show something in a folder, the topmost first."""
        parents = [path[:end] for end, sign in enumerate(path) if sign == "/"] + ([path] if path else [])
        for number in range(len(self._ids) - 1, -1, -1):
            tree = self._tree(number)
            if path in tree.folders:
                yield tree
            # A file or a whiteout in the place of it, or of a folder that it is in, hides what is below.
            for place in parents:
                parent, _, name = place.rpartition("/")
                names, marks = tree.folders.get(parent, (frozenset(), frozenset()))
                if name in marks or (name in names and place not in tree.folders):
                    return

    def _tree(self, number: int) -> LayerTree:
        tree = self._trees[number]
        if tree is None:
            # One that was pulled before: rarely needed, so that it is not kept.
            folder = self._folder / "known"
            unpack_layer(self._ids[number], self._store, folder, scratch=self._folder)
            tree = self._trees[number] = LayerTree.of(folder)
            shutil.rmtree(folder)
        return tree


class LayerTree:
    """The folders of a layer, without what is in its files."""

    def __init__(self) -> None:
        self.folders: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
        """By path: the names in it, and those that it hides."""
        self.status: dict[str, os.stat_result] = {}

    @classmethod
    def of(cls, folder: Path) -> LayerTree:
        """Of the layer in a folder."""
        tree = cls()
        todo = [""]
        while todo:
            path = todo.pop()
            names: set[str] = set()
            marks: set[str] = set()
            with os.scandir(folder / path) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    (marks if is_whiteout(status) else names).add(entry.name)
                    if stat.S_ISDIR(status.st_mode):
                        inner = f"{path}/{entry.name}" if path else entry.name
                        tree.status[inner] = status
                        todo.append(inner)
            tree.folders[path] = (frozenset(names), frozenset(marks))
        return tree


def _chains(diff_ids: tuple[str, ...]) -> list[str]:
    """For each layer, the name of it with all that is below it, as the image specification has them."""
    chains: list[str] = []
    for diff in diff_ids:
        text = f"{chains[-1]} {diff}" if chains else ""
        chains.append(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" if text else diff)
    return chains


def _record(kind: str, digest: str) -> str:
    return f"{RECORDS}/{kind}-{digest.replace(':', '-')}"
