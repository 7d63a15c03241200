"""One bucket in one container, served by a process of its own. See `lazyfs.bucket_files`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from skylift.lazyfs.bucket_mount import BucketMount
from skylift.runtime.mounted_volume import Left
from skylift.wire import VolumeMount

log = logging.getLogger(__name__)

_MOST_SAID = 16 * 1024
"""Bytes."""
_SEND_SECONDS = 60.0
"""For so long the end of a container waits for what it wrote to be sent; it goes on being sent afterwards."""


class MountedBucket:
    """As `MountedVolume`, but there is nothing to commit: files are sent when they are closed."""

    def __init__(self, mount: VolumeMount, folder: Path, owner: tuple[int, int]) -> None:
        """`folder` is made, for what is being written. Blocks. Raises `StoreError` and OSError."""
        self.mount = mount
        self.folder = folder
        self._owner = owner
        self._told = 0
        """Bytes of the log that were passed on."""
        self._served = BucketMount(
            folder, mount.bucket, mount.bucket_env, owner=owner, read_only=mount.read_only
        )

    def wish(self, pid: int) -> dict[str, Any]:
        """For `runc/volume_mount.py`."""
        return {
            "do": "mount",
            "pid": pid,
            "served": [self._served.pid, str(self._served.target)],
            "target": self.mount.path,
            "read_only": self.mount.read_only,
            "owner": list(self._owner),
        }

    def commit(self, *, force: bool = False) -> list[Left]:
        """Nothing is to be committed; what went wrong since, in words."""
        with self._served.log_file.open("rb") as file:
            file.seek(self._told)
            said = file.read(_MOST_SAID)
            self._told += len(said)
        lines = dict.fromkeys(said.decode("utf-8", "replace").splitlines())
        return [Left(f"{self.mount.path}: {line}", pending=False) for line in lines if line.strip()]

    def reload(self) -> None:
        """What others change is seen without."""

    def renew(self) -> None:
        """Nothing needs to be renewed."""

    def close(self) -> None:
        """The container has ended: wait until what it wrote was sent."""
        self._served.detach()
        if not self._served.wait(_SEND_SECONDS):
            log.warning("What was written to %s is still being sent.", self.mount.name)
        for left in self.commit():
            log.warning("%s", left.text)
