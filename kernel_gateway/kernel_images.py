"""What hosted kernels' containers are made of: an environment of the gateway's machine, or a built image."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import msgspec

from skylift.lazyfs.image_records import IMAGES, read_image
from skylift.lazyfs.names import Names
from skylift.wire import ImageSpec

_CODE = (
    "import sys; sys.path[:] = [entry for entry in sys.path if entry]; import msgspec; "
    "from skylift.environment import collect; sys.stdout.buffer.write(msgspec.json.encode(collect()))"
)
"""Run by the environment's own Python, which alone knows what it consists of."""
_SECONDS = 60.0
_KEPT = 30.0
_SHORTEST_KEY = 8


class KernelImageError(Exception):
    """There is no such image. The message says why, and what to do."""


class KernelImages:
    """Finds them."""

    def __init__(self, names: Names, folder: Path) -> None:
        """`folder`: where Pythons are run."""
        self._names = names
        self._folder = folder
        self._environments: dict[str, tuple[float, ImageSpec]] = {}

    async def environment(self, python: str = "") -> ImageSpec:
        """The environment of a Python; "" is the gateway's own. Raises `KernelImageError`."""
        python = python or sys.executable
        at, known = self._environments.get(python, (0.0, None))
        if known is not None and time.monotonic() - at < _KEPT:
            return known
        try:
            process = await asyncio.create_subprocess_exec(
                python,
                "-c",
                _CODE,
                cwd=self._folder,
                env={name: value for name, value in os.environ.items() if name != "PYTHONSTARTUP"},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise KernelImageError(
                f"The Python of the kernel, {python}, cannot be run: {error.strerror}."
            ) from None
        try:
            out, err = await asyncio.wait_for(process.communicate(), _SECONDS)
        except asyncio.TimeoutError:
            process.kill()
            await process.wait()
            raise KernelImageError(
                f"{python} did not describe its environment within {_SECONDS:g} s."
            ) from None
        if process.returncode:
            last = (err.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
            raise KernelImageError(
                f"{python} cannot describe its environment ({last}). A kernel's environment needs skylift "
                f"and ipykernel: {python} -m pip install skylift ipykernel"
            )
        spec = msgspec.json.decode(out, type=ImageSpec)
        self._environments[python] = (time.monotonic(), spec)
        return spec

    async def built(self, key: str) -> ImageSpec:
        """An image by its key, or by the first digits of it. Raises `KernelImageError`."""
        return await asyncio.to_thread(self._built, key)

    def _built(self, key: str) -> ImageSpec:
        if len(key) < _SHORTEST_KEY or not key.isalnum():
            raise KernelImageError(
                f"image={key!r}: give the key of a built image, or {_SHORTEST_KEY} digits of it at least."
            )
        try:
            found = [name for name in self._names.under(IMAGES) if name.startswith(f"{IMAGES}/{key}")]
            image = read_image(self._names, found[0].removeprefix(f"{IMAGES}/")) if len(found) == 1 else None
        except OSError as error:
            raise KernelImageError(f"The gateway cannot look for image {key}: {error}") from error
        if image is None:
            many = f"{len(found)} images have keys that begin so" if found else "no such image was built"
            raise KernelImageError(
                f"image={key!r}: {many}. Build it in a notebook first, with image.build()."
            )
        return image
