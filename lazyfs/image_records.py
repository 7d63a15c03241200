"""What is known of built images: records by the keys of their steps (see `skylift.wire.images`).

``images/KEY`` is an image that was built, ``image-steps/KEY`` what one of its steps made. Both refer to
layers in the store. Of a layer that has lost a blob nothing can be made: ask `still_there` first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from skylift.lazyfs.chunked import ChunkedFormatError, decode
from skylift.lazyfs.garbage import Reach
from skylift.lazyfs.leases import LeaseRecord
from skylift.lazyfs.names import Names
from skylift.lazyfs.store import BlobDamagedError, BlobMissingError, Store
from skylift.wire import ImageSpec

IMAGES, STEPS, TRACES = "images", "image-steps", "image-traces"


def read_image(names: Names, key: str) -> ImageSpec | None:
    """The image that was built of the steps with this last key. Raises OSError."""
    return _decoded(names.get(f"{IMAGES}/{key}"))


def write_image(names: Names, key: str, image: ImageSpec) -> None:
    """Remember a built image. Raises OSError."""
    names.put(f"{IMAGES}/{key}", msgspec.json.encode(image))


def read_step(names: Names, key: str) -> ImageSpec | None:
    """The image as it was after the step with this key. Raises OSError."""
    return _decoded(names.get(f"{STEPS}/{key}"))


def write_step(names: Names, key: str, image: ImageSpec) -> None:
    """Remember what a step made. Raises OSError."""
    names.put(f"{STEPS}/{key}", msgspec.json.encode(image))


def read_trace(names: Names, layer: str) -> tuple[int, ...]:
    """The layer's chunks in the order in which its first container read them; () where nobody knows. Raises
    OSError."""
    value = names.get(f"{TRACES}/{layer}")
    try:
        return msgspec.msgpack.decode(value, type=tuple[int, ...]) if value is not None else ()
    except msgspec.DecodeError:
        return ()


def write_trace(names: Names, layer: str, chunks: Sequence[int]) -> None:
    """Remember a trace, for hosts that mount the layer after this one. Raises OSError."""
    names.put(f"{TRACES}/{layer}", msgspec.msgpack.encode(tuple(chunks)))


def still_there(image: ImageSpec, store: Store) -> bool:
    """Whether the store has every blob of every layer of an image; looks for each, and reads none but those
    that name them. Call it in a thread."""
    try:
        return all(store.has(blob) for layer in image.layers for blob in layer_blobs(layer, store))
    except (BlobMissingError, BlobDamagedError, ChunkedFormatError):
        return False


def layer_blobs(layer: str, store: Store) -> Iterator[str]:
    """The blobs that a layer is made of. Raises `ChunkedFormatError`, and what `Store.get` raises."""
    yield layer
    yield from decode(store.get(layer)).blobs


def images_reach(names: Names, store: Store) -> Reach:
    """For `skylift.lazyfs.garbage`: the blobs of all built images, and of the steps that they were made in.

    A layer that has lost its first blob reaches nothing: its image is built anew.
    """
    known: dict[str, tuple[str, ...]] = {}

    def reach(leases: Sequence[LeaseRecord]) -> Iterable[str]:
        for prefix in (IMAGES, STEPS):
            for name in names.under(prefix):
                image = _decoded(names.get(name))
                for layer in image.layers if image is not None else ():
                    if layer not in known:
                        try:
                            known[layer] = tuple(layer_blobs(layer, store))
                        except (BlobMissingError, BlobDamagedError, ChunkedFormatError):
                            continue
                    yield from known[layer]

    return reach


def _decoded(value: bytes | None) -> ImageSpec | None:
    """None also for a record of another version of Skylift."""
    if value is None:
        return None
    try:
        return msgspec.json.decode(value, type=ImageSpec)
    except msgspec.DecodeError:
        return None
