"""A bucket that is mounted on this machine, served by a process of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from skylift.lazyfs.store import StoreError


class BucketMountError(StoreError):
    """A bucket cannot be mounted. The message says why and what to do."""


class BucketMount:
    """One bucket, mounted. Its methods block; raises OSError where the process cannot be started."""

    def __init__(
        self,
        folder: Path,
        url: str,
        env: Mapping[str, str],
        *,
        owner: tuple[int, int] = (0, 0),
        read_only: bool = False,
    ) -> None:
        """Mounts the bucket of `url` (see `open_store`). `env` has the keys, as ``AWS_ACCESS_KEY_ID`` and so
        on; without that name requests are not signed. All files belong to `owner`; `folder` is for what is
        being written. Raises `BucketMountError`.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log_file = folder / "bucket.log"
        self.target = folder / "files"
        """Where it is mounted, in the mount namespace of `pid`."""
        wish = {
            "url": url,
            "env": dict(env),
            "target": str(self.target),
            "scratch": str(folder / "scratch"),
            "owner": list(owner),
            "read_only": read_only,
        }
        with self.log_file.open("ab") as said:
            self._process = subprocess.Popen(
                # The folder is for people, who look at the list of processes.
                [sys.executable, "-m", "skylift.lazyfs.bucket_worker", str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,
            )
        self.pid = self._process.pid
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(wish).encode() + b"\n")
            self._process.stdin.flush()
        with self._process.stdout as answers:
            answer = json.loads(answers.readline() or b"{}")
        if "ready" not in answer:
            self.abort()
            why = answer.get("problem") or f"its process ended early; {self.log_file} says more"
            raise BucketMountError(why)

    @property
    def files(self) -> Path:
        """Where others see it who may trace its process."""
        return Path(f"/proc/{self.pid}/root{self.target}")

    def detach(self) -> None:
        """Unmount it: it stays where else it was attached, and ends with that. As at this process's end."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it was unmounted everywhere and what was written was sent; False where that takes
        longer."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """Unmount, and wait."""
        self.detach()
        self.wait()

    def abort(self) -> None:
        """Unmount, and lose what was not sent. Who has a file open gets errors."""
        self.detach()
        self._process.kill()
        self._process.wait()
