"""Runs Python as an ordinary user of this machine, whoever runs the tests.

Root makes a user for it; the interpreter and the packages, which may lie in folders that only root can
enter, are mounted where the user can see them, in a mount namespace that ends with the process.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import skylift.lazyfs
import skylift.runtime
import skylift.wire

HERE = Path(__file__).parent
TUN = Path("/dev/net/tun")


class OrdinaryUser:
    """One, for as long as the context lasts."""

    def __init__(
        self, name: str, home: Path, python: str, wrapper: Sequence[str], env: dict[str, str]
    ) -> None:
        self.name = name
        self.home = home
        self.python = python
        self._wrapper = list(wrapper)
        self._env = env

    def run(self, *arguments: str, timeout: float = 110) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments."""
        return subprocess.run(
            [*self._wrapper, self.python, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self._env,
            cwd="/",
            check=False,
        )


@contextlib.contextmanager
def ordinary_user() -> Iterator[OrdinaryUser]:
    """The user who runs the tests, or one that is made for them."""
    if os.geteuid() != 0:
        with tempfile.TemporaryDirectory() as folder:
            user = pwd.getpwuid(os.getuid())
            yield OrdinaryUser(user.pw_name, Path(folder), sys.executable, (), dict(os.environ))
        return
    name = f"skylift-t{os.getpid()}"
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", name], check=True)
    try:
        user = pwd.getpwnam(name)
        home = Path(user.pw_dir)
        packages = home / "packages" / "skylift"
        _copy_packages(packages)
        places = {sys.base_prefix: home / "python", sysconfig.get_path("purelib"): home / "site"}
        for place in places.values():
            place.mkdir()
        shutil.copytree(HERE, home / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        python = home / "python" / Path(os.path.realpath(sys.executable)).relative_to(sys.base_prefix)
        if TUN.exists():
            # As udev has it; elsewhere only root may open it. The machine's own stays as it is.
            own = home / "tun"
            os.mknod(own, stat.S_IFCHR, TUN.stat().st_rdev)
            own.chmod(0o666)
            places[str(own)] = TUN
        mounts = " && ".join(f"mount --bind {source} {place}" for source, place in places.items())
        script = f'{mounts} && exec setpriv --reuid={user.pw_uid} --regid={user.pw_gid} --init-groups "$@"'
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "USER": name,
            "PYTHONPATH": f"{home}/packages:{home}/site:{home}/tests",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        yield OrdinaryUser(name, home, str(python), ["unshare", "--mount", "sh", "-c", script, "sh"], env)
    finally:
        subprocess.run(["userdel", "--remove", name], capture_output=True, check=False)


def _copy_packages(target: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    for package in (skylift.lazyfs, skylift.runtime, skylift.wire):
        source = Path(str(package.__file__)).parent
        shutil.copytree(source, target / package.__name__.rpartition(".")[2], ignore=ignored)
    (target / "__init__.py").touch()
