"""How an image is described: a chain of steps, each of which changes what the one before it made.

A step's key is a hash of itself and of the key of the step before it (`definition_keys`). What a step made is
kept under its key, so that images share what they have in common, and a changed step makes only itself and
those after it anew.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from blake3 import blake3

FORMAT = 1
"""Changes with what a step makes, so that nothing older is taken for it."""


class Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="step", omit_defaults=True):
    """Base of the steps."""

    label: str = ""
    """For people: ``"pip_install numpy"``; no part of the step's key."""


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """A tar archive (POSIX, not compressed) in the store, in pieces that follow each other."""

    blobs: tuple[str, ...]
    size: int
    """Bytes of all of them."""


# --- what an image begins with: always the first step, and nowhere else ----------------------------


class FromScratch(Step, frozen=True, kw_only=True, tag="scratch"):
    """Nothing at all."""


class FromDebian(Step, frozen=True, kw_only=True, tag="debian"):
    """A small Debian with a Python."""

    python: str
    """``"3.11"``: found as ``python`` and ``python3`` on PATH, with pip and venv."""


class FromRegistry(Step, frozen=True, kw_only=True, tag="registry"):
    """An image of an OCI registry."""

    reference: str
    """``"docker.io/library/debian:12"``, ``"…@sha256:…"``; a tag is looked up when the step is made."""
    add_python: str = ""
    """``"3.11"``; "" leaves the image's own."""
    username: str = ""
    password: str = ""
    """No part of the step's key."""


# --- what changes it -------------------------------------------------------------------------------


class RunCommands(Step, frozen=True, kw_only=True, tag="run"):
    """Commands, each run by the image's shell as root in its folder, with the network; the first that fails
    ends the build."""

    commands: tuple[str, ...]
    env: dict[str, str] = {}
    """Beside the image's; for these commands only."""
    inputs: dict[str, str] = {}
    """Blobs that the commands find as ``/run/skylift/build/NAME``."""
    secrets: dict[str, str] = {}
    """As `env`, but no part of the step's key, and kept nowhere."""
    pip: bool = False
    """The commands get the index that pip has on the host (its ``PIP_…`` settings)."""


class AddFiles(Step, frozen=True, kw_only=True, tag="files"):
    """The content of archives, put in a folder, in order; owned by root."""

    target: str
    """Absolute, or relative to the image's folder (`Configure.workdir`, else ``/``); made where it is
    missing, also where there are no archives."""
    archives: tuple[Archive, ...]


class CopyFrom(Step, frozen=True, kw_only=True, tag="copy_from"):
    """Files of another image: ``COPY --from=`` of a Dockerfile."""

    image: ImageDefinition
    source: str
    """Absolute, with the wildcards of a Dockerfile. Of a folder, its content is copied."""
    target: str
    """As in `AddFiles`; a file goes into it where it ends with ``/``, and else gets this name."""


class Configure(Step, frozen=True, kw_only=True, tag="configure"):
    """What a container of the image begins with. None leaves what was."""

    env: dict[str, str] = {}
    """Added to what is there."""
    expand: bool = False
    """In the values of `env`, ``${NAME}`` is what the image has before this step ("" for nothing), ``$$`` a
    dollar sign."""
    workdir: str | None = None
    """As the target of `AddFiles`."""
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    shell: tuple[str, ...] | None = None
    """What runs a command: ``("/bin/sh", "-c")``."""


ImageStep: TypeAlias = FromScratch | FromDebian | FromRegistry | RunCommands | AddFiles | CopyFrom | Configure


class ImageDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A chain of steps; the first is a ``From…``, no other is."""

    steps: tuple[ImageStep, ...]
    generation: int = 0
    """Another number makes everything anew (``force_build``)."""


_PASSING = {"label": "", "secrets": {}, "password": "", "username": ""}
_encoder = msgspec.msgpack.Encoder(order="deterministic")


def definition_keys(definition: ImageDefinition) -> tuple[str, ...]:
    """The key of each step, 64 hex digits. The last one is the image's."""
    keys: list[str] = []
    key = f"{FORMAT} {definition.generation}"
    for step in definition.steps:
        said: dict[str, object] = {name: value for name, value in _PASSING.items() if hasattr(step, name)}
        if isinstance(step, CopyFrom):
            said["image"] = ImageDefinition(steps=())
            key += definition_keys(step.image)[-1]
        key = blake3(key.encode() + _encoder.encode(msgspec.structs.replace(step, **said))).hexdigest()
        keys.append(key)
    return tuple(keys)
