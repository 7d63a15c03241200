"""What a registry says an image is made of: manifests, indexes of several of them, and configurations."""

from __future__ import annotations

import platform as this_machine
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from skylift.lazyfs.oci_errors import OciContentError, OciPlatformError
from skylift.lazyfs.oci_reference import Reference, is_digest

_DOCKER = "application/vnd.docker.distribution.manifest"
_OCI = "application/vnd.oci.image"
INDEXES = (f"{_OCI}.index.v1+json", f"{_DOCKER}.list.v2+json")
MANIFESTS = (f"{_OCI}.manifest.v1+json", f"{_DOCKER}.v2+json")
_OLD = (f"{_DOCKER}.v1+json", f"{_DOCKER}.v1+prettyjws")
_MACHINES = {
    "x86_64": "amd64",
    "amd64": "amd64",
    "aarch64": "arm64",
    "arm64": "arm64",
    "armv7l": "arm/v7",
    "i686": "386",
}
_VARIANTS = {"arm64": "v8", "arm": "v7", "amd64": "v1"}
"""Where an image or a platform names none."""
_MOST_LAYERS = 500


class Platform(msgspec.Struct, frozen=True):
    """A kind of machine."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def fits(self, other: Platform) -> bool:
        """Whether a program for that platform is one for this."""
        return (self.os, self.architecture, self._variant()) == (
            other.os,
            other.architecture,
            other._variant(),
        )

    def _variant(self) -> str:
        return self.variant or _VARIANTS.get(self.architecture, "")


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """A blob of a registry."""

    digest: str
    size: int
    media_type: str = ""
    platform: Platform | None = None


class Manifest(msgspec.Struct, frozen=True):
    """One image for one platform."""

    config: Descriptor
    layers: tuple[Descriptor, ...] = ()


class _Index(msgspec.Struct, frozen=True):
    manifests: tuple[Descriptor, ...]


class _Kind(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    manifests: Any = None


class ProcessConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """What containers of an image begin with."""

    env: tuple[str, ...] | None = None
    working_dir: str = ""
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    user: str = ""
    shell: tuple[str, ...] | None = None

    @property
    def variables(self) -> dict[str, str]:
        """`env` by name."""
        return {name: value for name, _, value in (line.partition("=") for line in self.env or ()) if name}


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...] | None = ()


class ImageConfig(msgspec.Struct, frozen=True):
    """What an image says of itself."""

    rootfs: _RootFs
    config: ProcessConfig | None = None
    architecture: str = ""
    os: str = ""
    variant: str = ""

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """Digests of the layers, unpacked."""
        return self.rootfs.diff_ids or ()

    @property
    def process(self) -> ProcessConfig:
        """What containers begin with."""
        return self.config or ProcessConfig()


class Choice(NamedTuple):
    """What a manifest turned out to be: an image, or what to ask for next."""

    manifest: Manifest | None
    next: Descriptor | None


def parse_platform(text: str) -> Platform:
    """``"linux/arm64/v8"``; "" is this machine's. Raises `OciPlatformError`."""
    if not text:
        machine = this_machine.machine()
        text = f"linux/{_MACHINES.get(machine.lower(), machine)}"
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise OciPlatformError(f"{text!r} is no platform: write it as linux/amd64 or linux/arm/v7.")
    return Platform(*parts)


def read_manifest(data: bytes, media_type: str, reference: Reference, wanted: Platform) -> Choice:
    """Raises `OciContentError` and `OciPlatformError`."""
    try:
        kind = msgspec.json.decode(data, type=_Kind)
        media_type = kind.media_type or media_type
        if media_type in _OLD or kind.schema_version == 1:
            raise OciContentError(
                f"{reference} is in a format of 2015 that is not read any more. Push it anew with a current "
                "docker."
            )
        if media_type in INDEXES or (media_type not in MANIFESTS and kind.manifests is not None):
            index = msgspec.json.decode(data, type=_Index)
            return Choice(None, _chosen(index.manifests, reference, wanted))
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise OciContentError(f"{reference}: its manifest cannot be read: {error}.") from error
    for descriptor in (manifest.config, *manifest.layers):
        _check(descriptor, reference)
    if len(manifest.layers) > _MOST_LAYERS:
        raise OciContentError(
            f"{reference} has {len(manifest.layers)} layers, and {_MOST_LAYERS} are the most."
        )
    return Choice(manifest, None)


def read_config(data: bytes, manifest: Manifest, reference: Reference, wanted: Platform) -> ImageConfig:
    """Raises `OciContentError` and `OciPlatformError`."""
    try:
        config = msgspec.json.decode(data, type=ImageConfig)
    except msgspec.DecodeError as error:
        kind = f" ({manifest.config.media_type})" if manifest.config.media_type else ""
        raise OciContentError(f"{reference} is not an image of containers{kind}: {error}.") from error
    if len(config.diff_ids) != len(manifest.layers) or not all(map(is_digest, config.diff_ids)):
        raise OciContentError(
            f"{reference} contradicts itself: {len(manifest.layers)} layers, and digests of "
            f"{len(config.diff_ids)}."
        )
    made_for = Platform(config.os or wanted.os, config.architecture or wanted.architecture, config.variant)
    if (made_for.os, made_for.architecture) != (wanted.os, wanted.architecture):
        raise OciPlatformError(_not_for(reference, wanted, [made_for]))
    return config


def _chosen(found: Sequence[Descriptor], reference: Reference, wanted: Platform) -> Descriptor:
    for descriptor in found:
        if descriptor.platform is not None and wanted.fits(descriptor.platform):
            _check(descriptor, reference)
            return descriptor
    for descriptor in found:  # another variant, where this one was not asked for
        other = descriptor.platform
        if other is None or wanted.variant:
            continue
        if (other.os, other.architecture) == (wanted.os, wanted.architecture):
            _check(descriptor, reference)
            return descriptor
    platforms = [descriptor.platform for descriptor in found if descriptor.platform is not None]
    raise OciPlatformError(_not_for(reference, wanted, platforms))


def _not_for(reference: Reference, wanted: Platform, there: Sequence[Platform]) -> str:
    known = sorted({str(platform) for platform in there if platform.os not in ("", "unknown")})
    return (
        f"{reference} is not made for {wanted}, only for {', '.join(known) or 'nothing that it names'}. "
        "Choose another image or tag, or a host with such a processor."
    )


def _check(descriptor: Descriptor, reference: Reference) -> None:
    if not is_digest(descriptor.digest) or descriptor.size < 0:
        raise OciContentError(
            f"{reference} names a part of it {descriptor.digest[:100]!r}, which is no digest."
        )
    if "+encrypted" in descriptor.media_type:
        raise OciContentError(f"{reference} is encrypted, which cannot be unpacked here.")
