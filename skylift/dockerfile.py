"""Dockerfiles: their text and a folder become the steps of an image.

For `skylift.image`::

    steps = parse_dockerfile(
        text, name="Dockerfile", context=Path("."), build_args={"VERSION": "3"}, add_files=pack
    )

``pack(files, target=, label=)`` is called once for each ``COPY`` or ``ADD`` that takes files of the context, and
returns the `AddFiles` step: it makes an archive of the `CopiedFile` s, whose paths are relative to `target`.
They are files, links and folders one by one: of a folder that is among them, nothing else is to be taken than
what is listed. What the text has in itself (``COPY <<EOF``) has `CopiedFile.content` in place of a source.

For instructions on top of an image (``dockerfile_commands``), `base` has that image's steps; the text has no
``FROM`` then, and what is returned begins with `base`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from skylift.exceptions import InvalidError
from skylift.wire.images import AddFiles, ImageStep


class CopiedFile(NamedTuple):
    """One file, link or folder of a build's context, and where it goes."""

    path: str
    """Relative to the step's target, with slashes; never leads out of it."""
    source: Path | None = None
    """Where it is here; a link is copied as a link, of a folder only that it is there."""
    content: bytes | None = None
    """In place of a source."""
    mode: int | None = None
    """``--chmod``; None for its own."""


class PackFiles(Protocol):
    """Makes the step that adds files to an image."""

    def __call__(self, files: Sequence[CopiedFile], *, target: str, label: str) -> AddFiles:
        """`target` is the `AddFiles.target`. Without files it only makes the folder."""


def parse_dockerfile(
    text: str,
    *,
    name: str = "Dockerfile",
    context: Path | None = None,
    build_args: Mapping[str, str] | None = None,
    base: tuple[ImageStep, ...] | None = None,
    add_files: PackFiles,
    target: str = "",
    add_python: str = "",
    username: str = "",
    password: str = "",
) -> tuple[ImageStep, ...]:
    """The steps that a Dockerfile describes.

    `name` is for messages. Without `context` there are no files to copy. `target` is the stage to stop at,
    by default the last one. `add_python`, `username` and `password` are for what the image begins with
    (`FromRegistry`); the two latter for every registry that is named.

    Raises `InvalidError` with the line, for what is wrong or cannot be done here.
    """
    raise InvalidError("Dockerfiles are not built yet")
