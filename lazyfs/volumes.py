"""Volumes: directories that many containers share, with a version for each commit.

`Volumes` finds them by name, `Volume` is one of them. A volume is a record beside the store (its newest
version) and blobs in it. Whatever is done to one makes a version: all of it is there, or nothing. Two who
change a volume at the same time are merged file by file; see `skylift.lazyfs.volume_merge`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from skylift.lazyfs.leases import Lease
from skylift.lazyfs.names import Names, check_name
from skylift.lazyfs.store import Store
from skylift.lazyfs.trees import Trees
from skylift.lazyfs.volume_commits import Commits, head_name
from skylift.lazyfs.volume_errors import (
    VolumeExistsError,
    VolumeNameError,
    VolumeNotFoundError,
    explaining,
)
from skylift.lazyfs.volume_handle import Volume, VolumeInfo
from skylift.wire.ids import is_id, new_id

__all__ = ["Volume", "VolumeInfo", "Volumes"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LEFT_SECONDS = 3600.0
"""A volume without a name is being made, or was left half made; after so long it is the latter."""


class Volumes:
    """The volumes of one space: of one user, say. Thread-safe.

    Every method raises `VolumeUnreachableError`, and `VolumeNameError` where it takes a name.
    """

    def __init__(
        self,
        store: Store,
        names: Names,
        *,
        space: str = "default",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Names are found within `space`, which is a name itself (see `Names`)."""
        check_name(space)
        self._trees = Trees(store)
        self._names = names
        self._space = space
        self._clock = clock

    def create(self, name: str) -> Volume:
        """Make an empty volume. Raises `VolumeExistsError`."""
        volume, made = self._make(name)
        if not made:
            raise VolumeExistsError(name)
        return volume

    def from_name(self, name: str, *, create_if_missing: bool = False) -> Volume:
        """The volume of that name. Raises `VolumeNotFoundError`."""
        _check_volume_name(name)
        with explaining(f"Volume {name!r}", "looking it up"):
            found = self._find(name)
        if found is not None:
            return found
        if not create_if_missing:
            raise VolumeNotFoundError(name)
        return self._make(name)[0]

    def list(self) -> list[VolumeInfo]:
        """All volumes, by name."""
        found = []
        with explaining("Volumes", "listing them"):
            prefix = self._key("")
            for key in self._names.under(prefix.rstrip("/")):
                volume = self._find(key[len(prefix) :])
                if volume is not None:
                    try:
                        found.append(volume.info())
                    except VolumeNotFoundError:
                        continue  # deleted just now
        return found

    def rename(self, name: str, new: str) -> Volume:
        """Give a volume another name. Raises `VolumeNotFoundError` and `VolumeExistsError`.

        Who is killed in the middle leaves it with both names.
        """
        _check_volume_name(name)
        _check_volume_name(new)
        with explaining(f"Volume {name!r}", "renaming it"):
            raw = self._names.get(self._key(name))
            if not raw or self._find(name) is None:
                raise VolumeNotFoundError(name)
            taken = self._names.get(self._key(new))
            if taken != raw and (taken or not self._names.swap(self._key(new), taken, raw)):
                raise VolumeExistsError(new)
            if name != new:
                self._names.swap(self._key(name), raw, b"")
            return self._volume(new, raw.decode())

    def delete(self, name: str, *, missing_ok: bool = False) -> None:
        """Delete a volume with all its versions. Raises `VolumeNotFoundError` unless `missing_ok`.

        A container that has it mounted goes on reading; its next commit says that the volume is gone.
        """
        _check_volume_name(name)
        with explaining(f"Volume {name!r}", "deleting it"):
            raw = self._names.get(self._key(name))
            # Swapped, not deleted: in between another may have deleted it and made a new one.
            if not raw or not self._names.swap(self._key(name), raw, b""):
                if missing_ok:
                    return
                raise VolumeNotFoundError(name)
            if raw not in {self._names.get(key) for key in self._names.under("volume-names")}:
                self._names.delete(head_name(raw.decode()))

    def tidy(self) -> int:
        """Remove what was left of volumes by whoever was killed while making or deleting one; how many.

        Of all spaces: for whoever collects the store's garbage, before that.
        """
        with explaining("Volumes", "tidying up"):
            named = {self._names.get(key) for key in self._names.under("volume-names")}
            count = 0
            for key in self._names.under("volumes"):
                volume_id = key.split("/")[1]
                if volume_id.encode() in named:
                    continue
                head = Commits(self._trees, self._names, volume_id, "").head()
                if self._clock() - head.created > _LEFT_SECONDS:
                    self._names.delete(key)
                    count += 1
            return count

    def _make(self, name: str) -> tuple[Volume, bool]:
        _check_volume_name(name)
        with explaining(f"Volume {name!r}", "making it"):
            key = self._key(name)
            raw = self._names.get(key)
            if not raw:
                volume_id = new_id("vo")
                volume = self._volume(name, volume_id)
                with Lease(self._names, f"making volume {name}", clock=self._clock):
                    volume.commits.begin()
                    if self._names.swap(key, raw, volume_id.encode()):
                        return volume, True
                    if self._names.get(key) == volume_id.encode():  # done, and the answer was lost
                        return volume, True
                    self._names.delete(head_name(volume_id))
            found = self._find(name)
            if found is None:  # deleted again by now
                raise VolumeNotFoundError(name)
            return found, False

    def _find(self, name: str) -> Volume | None:
        raw = self._names.get(self._key(name))
        if not raw or not is_id(raw.decode(errors="replace"), "vo"):
            return None
        return self._volume(name, raw.decode())

    def _volume(self, name: str, volume_id: str) -> Volume:
        return Volume(Commits(self._trees, self._names, volume_id, name, self._clock))

    def _key(self, name: str) -> str:
        return f"volume-names/{self._space}/{name}"


def _check_volume_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise VolumeNameError(name)
