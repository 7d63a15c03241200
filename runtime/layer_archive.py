"""The files that a container has written, as one file of a snapshot.

A container's own files are the upper layer of an overlay. What makes it a layer must come back too: deleted
files (devices 0/0), replaced folders (extended attributes), owners, links, holes. GNU tar keeps all of it,
and is there: CRIU uses it as well.
"""

from __future__ import annotations

from pathlib import Path

from skylift.runtime.runc.commands import CommandError, run

TIMEOUT = 600.0
"""Seconds."""

_TAR = ("env", "LC_ALL=C", "tar")
_KEEP = ("--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "--sparse")


class LayerError(Exception):
    """A container's files could not be written or brought back."""


async def archive_layer(upper: Path, archive: Path) -> None:
    """Write what is in the folder `upper` to the file `archive`. The container must not be running.

    Not compressed: the store does that. Raises `LayerError`; nothing is left of the archive then.
    """
    command = [*_TAR, *_KEEP, "--one-file-system", "--warning=no-file-ignored", "--create"]
    try:
        await run([*command, f"--file={archive}", f"--directory={upper}", "."], timeout=TIMEOUT)
    except CommandError as error:
        archive.unlink(missing_ok=True)  # noqa: ASYNC240  (no time to speak of)
        raise LayerError(f"The container's files could not be saved: {_reason(error)}.") from error


async def restore_layer(archive: Path, upper: Path) -> None:
    """Bring them back into the folder `upper`, which is there and empty. Raises `LayerError`."""
    command = [*_TAR, *_KEEP, "--same-owner", "--preserve-permissions", "--extract"]
    try:
        await run([*command, f"--file={archive}", f"--directory={upper}"], timeout=TIMEOUT)
    except CommandError as error:
        raise LayerError(f"The container's files could not be brought back: {_reason(error)}.") from error


def _reason(error: CommandError) -> str:
    """What tar said first."""
    said = str(error).splitlines()[0]
    return said.rpartition("tar: ")[2].rstrip(".")
