"""Layers: read-only file trees as EROFS images, kept in the store in chunks.

`build_layer` makes one of a folder. Equal trees make equal images, chunk for chunk, wherever and whenever
they are made; modification times belong to the tree, since Python believes a ``.pyc`` only where it names the
time of its source.

::

    StoreError
    └── LayerError      a folder that cannot become a layer, or a layer that is none
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import msgspec

from skylift.lazyfs.chunked import ChunkedFile, ChunkedFormatError, Progress, decode, encode, write_chunks
from skylift.lazyfs.erofs_image import FolderImage, TreeError
from skylift.lazyfs.store import Store, StoreError

CHUNK = 256 * 1024
"""Bytes. Programs read a little here and there of an image: larger ones bring much that nobody needs."""


class LayerError(StoreError):
    """A folder that cannot become a layer, or a layer that is none."""


class Layer(msgspec.Struct, frozen=True):
    """A file tree in the store."""

    id: str
    """The blob that says which chunks it is made of; equal trees have equal ones."""
    size: int
    """Bytes of the EROFS image."""


def build_layer(
    folder: Path,
    store: Store,
    *,
    all_root: bool = False,
    scratch: Path | None = None,
    progress: Progress | None = None,
) -> Layer:
    """Make a layer of a folder's content and put it in the store.

    With `all_root` all files belong to root; else to whom they belong there. The image is written under
    `scratch` first (the system's temporary folder), uncompressed: that takes as much room as the tree. Called
    in a thread; takes seconds for a large tree. `progress` hears of the second half, the chunks.

    Raises `LayerError`, and what `write_chunks` raises.
    """
    with tempfile.TemporaryDirectory(prefix="layer-", dir=scratch) as temporary:
        image = Path(temporary) / "image.erofs"
        make_image(folder, image, all_root=all_root)
        file = write_chunks(image, store, durable=True, progress=progress, chunk_size=CHUNK)
    return Layer(store.put(encode(file), durable=True), file.size)


def open_layer(layer_id: str, store: Store) -> ChunkedFile:
    """What a layer is made of. Raises `LayerError`, and what `Store.get` raises."""
    try:
        return decode(store.get(layer_id))
    except ChunkedFormatError as error:
        raise LayerError(f"Blob {layer_id} is not a layer: {error}") from error


def make_image(folder: Path, image: Path, *, all_root: bool = False) -> None:
    """Write a folder's content as an EROFS image. Raises `LayerError`."""
    if not folder.is_dir():
        raise LayerError(f"{folder} is not a folder, so no layer can be made of it.")
    try:
        made = FolderImage(folder, all_root=all_root)
    except TreeError as error:
        raise LayerError(f"No layer can be made of {folder}: {error}.") from error
    except OSError as error:
        raise LayerError(
            f"{_name_of(error, folder)} cannot be read ({error.strerror}), so no layer can be made of it."
        ) from error
    free = shutil.disk_usage(image.parent).free
    if made.size > free:
        raise LayerError(
            f"A layer of {folder} takes {made.size:,} bytes in {image.parent} while it is made (holes in "
            f"files count in full), and {free:,} are free there. Free some, or set TMPDIR to a folder on a "
            "larger disk."
        )
    try:
        made.write(image)
    except TreeError as error:
        raise LayerError(f"No layer can be made of {folder}: {error}.") from error
    except OSError as error:
        raise LayerError(
            f"No layer can be made of {folder}: {_name_of(error, image)}: {error.strerror or error}."
        ) from error


def _name_of(error: OSError, otherwise: Path) -> str:
    return os.fsdecode(error.filename) if error.filename else str(otherwise)
