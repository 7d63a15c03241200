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
import stat
import subprocess
import tempfile
from pathlib import Path

import msgspec

from skylift.lazyfs.chunked import ChunkedFile, ChunkedFormatError, Progress, decode, encode, write_chunks
from skylift.lazyfs.store import Store, StoreError

CHUNK = 256 * 1024
"""Bytes. Programs read a little here and there of an image: larger ones bring much that nobody needs."""

_UUID = "00000000-0000-0000-0000-000000000000"
_NO_CLAMP = str(2**32 - 1)
"""Seconds: mkfs.erofs stamps the image with this instead of the time of day, and lowers what is later."""
_INODE = 128
"""Bytes that an entry takes in the image at most, beside its content; roughly."""
_BLOCK = 4096
_LONGEST_NAME = 255
"""Bytes; erofs-utils up to 1.5 cut such a name short, and then do not find the file."""


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
    longest = _check_tree(folder, image.parent)
    command = ["mkfs.erofs", "--quiet", "-d1", "-U", _UUID]
    if all_root:
        command.append("--all-root")
    try:
        done = subprocess.run(
            [*command, str(image), str(folder)],
            env={**os.environ, "SOURCE_DATE_EPOCH": _NO_CLAMP, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        raise LayerError(
            "mkfs.erofs is missing, with which layers are made: install erofs-utils (apt-get install "
            "erofs-utils; scripts/setup does)."
        ) from None
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        why = said[-1] if said else f"it ended with {done.returncode}"
        if len(os.fsencode(longest)) == _LONGEST_NAME:
            why = f"its version here knows no names of {_LONGEST_NAME} bytes, as of {longest!r} ({why})"
        raise LayerError(f"mkfs.erofs could not make a layer of {folder}: {why}")


def _check_tree(folder: Path, where: Path) -> str:
    """The longest name in it. mkfs.erofs writes holes as zeros, and says little when the disk is full."""
    needed = 0
    longest = ""
    seen: set[tuple[int, int]] = set()
    for path, folders, files in os.walk(folder, onerror=_unreadable):
        needed += _BLOCK + _INODE * (len(folders) + len(files))
        longest = max([longest, *folders, *files], key=lambda name: len(os.fsencode(name)))
        for name in files:
            found = os.lstat(os.path.join(path, name))
            if stat.S_ISREG(found.st_mode):
                if found.st_nlink > 1:
                    if (found.st_dev, found.st_ino) in seen:
                        continue
                    seen.add((found.st_dev, found.st_ino))
                needed += found.st_size
    free = shutil.disk_usage(where).free
    if needed > free:
        raise LayerError(
            f"A layer of {folder} takes {needed:,} bytes in {where} while it is made (holes in files count "
            f"in full), and {free:,} are free there. Free some, or set TMPDIR to a folder on a larger disk."
        )
    return longest


def _unreadable(error: OSError) -> None:
    raise LayerError(f"{error.filename} cannot be read ({error.strerror}), so no layer can be made of it.")
