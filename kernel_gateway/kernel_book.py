"""Which hosted kernels a user has, in a file: the next gateway takes them up from it."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import msgspec

from skylift.backend.settings import KernelSettings
from skylift.lazyfs.store import blob_name

log = logging.getLogger(__name__)


class KernelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel that is up."""

    kernel_name: str
    settings: KernelSettings
    client_id: str
    call_id: str
    folder: str
    """Of its sockets."""
    key: bytes
    """That its messages are signed with."""
    signature_scheme: str
    notebook: str = ""


class _Page(msgspec.Struct):
    user: str
    kernels: dict[str, KernelRecord] = {}


class KernelBook:
    """Of one user."""

    def __init__(self, folder: Path, user: str) -> None:
        """`folder` is there, and closed to other users: keys of kernels are in its files."""
        stem = blob_name(user.encode("utf-8", "surrogatepass"))[:32]
        self._file = folder / f"{stem}.json"
        self.sessions = folder / f"{stem}.sessions"
        """A database of jupyter_server's: which notebook has which kernel."""
        self._page = _read(self._file) or _Page(user)

    @property
    def kernels(self) -> dict[str, KernelRecord]:
        """By kernel id."""
        return dict(self._page.kernels)

    def put(self, kernel_id: str, record: KernelRecord) -> None:
        """A kernel is up, or up again."""
        self._page.kernels[kernel_id] = record
        self._write()

    def drop(self, kernel_id: str) -> None:
        """A kernel is over."""
        if self._page.kernels.pop(kernel_id, None) is not None:
            self._write()

    def _write(self) -> None:
        temporary = self._file.with_suffix(".new")
        try:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(msgspec.json.encode(self._page))
            temporary.replace(self._file)
        except OSError as error:
            # They work on; only the next gateway will not know of them, and ends them.
            log.warning("The kernels of %s cannot be written down: %s", self._page.user, error)


def users_with_kernels(folder: Path) -> list[str]:
    """Those for whom there is something to be taken up."""
    pages = [_read(file) for file in folder.glob("*.json")]
    return sorted(page.user for page in pages if page is not None and page.kernels)


def _read(file: Path) -> _Page | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Page)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        log.warning("%s cannot be read, and its kernels are ended: %s", file, error)
        return None
