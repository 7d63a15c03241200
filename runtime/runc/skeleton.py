"""The part of a container's root that is the same for all containers of a host.

A folder with what every Linux program expects (``/etc/passwd``, ``/tmp``, a home, ...), made once and then
the lower layer of each container's overlay. It has nothing of this machine but what programs need to find
their libraries, certificates, fonts, time zone and name servers.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

FORMAT = 1
"""Changes with what this module writes, so that an older skeleton is not taken."""

SYSTEM_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Links into ``usr`` on today's systems; where one is a folder it is mounted like ``/usr`` (see `mounts`)."""

FOLDERS = {
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "mnt": 0o755,
    "opt": 0o755,
    "opt/skylift": 0o755,
    "opt/skylift/lib": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "run": 0o755,
    "run/skylift": 0o755,
    "srv": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "usr": 0o755,
    "var": 0o755,
    "var/cache": 0o755,
    "var/lib": 0o755,
    "var/log": 0o755,
    "var/tmp": 0o1777,
}

LINKS = {"var/run": "/run", "var/lock": "/run/lock", "etc/mtab": "/proc/self/mounts"}

TEXTS = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    "etc/host.conf": "multi on\n",
}

COPIED = (
    "etc/alternatives",
    "etc/ca-certificates.conf",
    "etc/crypto-policies",
    "etc/debian_version",
    "etc/fonts",
    "etc/inputrc",
    "etc/ld.so.cache",
    "etc/ld.so.conf",
    "etc/ld.so.conf.d",
    "etc/locale.conf",
    "etc/localtime",
    "etc/matplotlibrc",
    "etc/mime.types",
    "etc/os-release",
    "etc/pki/ca-trust",
    "etc/pki/tls/cert.pem",
    "etc/pki/tls/certs",
    "etc/pki/tls/openssl.cnf",
    "etc/protocols",
    "etc/services",
    "etc/ssl/certs",
    "etc/ssl/openssl.cnf",
    "etc/terminfo",
    "etc/timezone",
)
"""Of the machine's own, where it has them. Nothing in here is a secret; nothing that may be is in here."""

MAX_COPIED_FILE = 8 * 1024 * 1024
"""Bytes. A larger file in a copied folder is left out."""


class Skeletons:
    """The skeletons of a host, by what they were made of; all but the newest are old ones still in use."""

    def __init__(self, folder: Path, owner: tuple[int, int], root: Path = Path("/")) -> None:
        """`folder` has them; `owner` is the host's user and group that is root in containers; `root` is where
        the machine's own files are taken from."""
        self.folder = folder
        self._owner = owner
        self._root = root

    def current(self, resolv_conf: str) -> Path:
        """The skeleton for the machine as it is now; made where it is missing. Raises OSError."""
        path = self.folder / self._key(resolv_conf)
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=".making-", dir=self.folder))
            try:
                self._make(made, resolv_conf)
                made.chmod(0o755)
                try:
                    made.rename(path)
                except OSError:  # another has made the same meanwhile
                    if not path.exists():
                        raise
            finally:
                shutil.rmtree(made, ignore_errors=True)
        return path

    def remove_others(self, keep: Path) -> None:
        """Remove every other skeleton. Only while no container runs: it is a layer of their roots."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if path != keep:
                    shutil.rmtree(path, ignore_errors=True)

    def _key(self, resolv_conf: str) -> str:
        digest = hashlib.sha256(f"{FORMAT} {self._owner} {resolv_conf}".encode())
        for name in SYSTEM_LINKS:
            path = self._root / name
            digest.update(f"{name} {os.readlink(path) if path.is_symlink() else path.is_dir()}\n".encode())
        for path, status in self._sources():
            target = os.readlink(path) if stat.S_ISLNK(status.st_mode) else ""
            digest.update(f"{path} {status.st_mtime_ns} {status.st_size} {target}\n".encode())
        return digest.hexdigest()[:16]

    def _sources(self) -> Iterator[tuple[Path, os.stat_result]]:
        for name in COPIED:
            yield from _tree(self._root / name)

    def _make(self, made: Path, resolv_conf: str) -> None:
        for name, mode in FOLDERS.items():
            (made / name).mkdir()
            (made / name).chmod(mode)
        for name, target in LINKS.items():
            (made / name).symlink_to(target)
        for name in SYSTEM_LINKS:
            source = self._root / name
            if source.is_symlink():
                (made / name).symlink_to(os.readlink(source))
            elif source.is_dir():
                (made / name).mkdir()
        for path, status in self._sources():
            _copy(path, status, made / path.relative_to(self._root))
        for name, text in {**TEXTS, "etc/resolv.conf": resolv_conf}.items():
            (made / name).write_text(text, encoding="utf-8")
        if os.geteuid() == 0:
            for path, _ in _tree(made):
                os.chown(path, *self._owner, follow_symlinks=False)


def _tree(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """A file, or a folder and all that is in it, folders first; links as links; unreadable ones left out."""
    try:
        status = path.lstat()
        names: Sequence[str] = sorted(os.listdir(path)) if stat.S_ISDIR(status.st_mode) else ()
    except OSError:
        return
    yield path, status
    for name in names:
        yield from _tree(path / name)


def _copy(source: Path, status: os.stat_result, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if stat.S_ISLNK(status.st_mode):
        target.symlink_to(os.readlink(source))
    elif stat.S_ISDIR(status.st_mode):
        target.mkdir(exist_ok=True)
    elif stat.S_ISREG(status.st_mode) and status.st_size <= MAX_COPIED_FILE and status.st_mode & stat.S_IROTH:
        shutil.copyfile(source, target)
        target.chmod(0o644)
