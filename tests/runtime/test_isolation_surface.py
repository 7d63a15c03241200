"""What a container can see and do, compared with what it may.

The lists below are the contract: whatever is not in them must not be there.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from skylift.runtime.isolation import Bind

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "runc"))

from nursery import nursery  # noqa: E402
from workshop import PYTHON, Workshop, environment, in_workshop  # noqa: E402

pytestmark = [pytest.mark.slow]

TOP_LEVEL = {
    *("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr"),  # the machine's programs, read-only
    *("dev", "etc", "home", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp", "var"),
}
DEVICES = {
    *("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue"),
    *("fd", "stdin", "stdout", "stderr", "core"),
}
ENVIRONMENT = {
    *("CUDA_VISIBLE_DEVICES", "HOME", "LANG", "LOGNAME", "NVIDIA_VISIBLE_DEVICES", "PATH", "SHELL", "TMPDIR"),
    *("USER", "ASKED_FOR", "LC_CTYPE"),
}
MOUNTS = {
    *("/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/usr"),
    *(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")),
}
COVERED_MOUNTS = ("/proc", "/sys")
"""Below these only covers that hide something or make it read-only."""
WRITABLE_MOUNTS = {"/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"} | {
    mount for mount in MOUNTS if mount.startswith("/dev/")
}
WRITABLE_FOLDERS = {"/dev", "/dev/mqueue", "/dev/shm"}
"""Beyond the container's own layer; all three are in its memory."""
ETC = {
    *(
        "alternatives",
        "ca-certificates.conf",
        "crypto-policies",
        "debian_version",
        "fonts",
        "group",
        "host.conf",
    ),
    *(
        "hostname",
        "hosts",
        "inputrc",
        "ld.so.cache",
        "ld.so.conf",
        "ld.so.conf.d",
        "locale.conf",
        "localtime",
    ),
    *("matplotlibrc", "mime.types", "mtab", "nsswitch.conf", "os-release", "passwd", "pki", "protocols"),
    *("resolv.conf", "services", "ssl", "terminfo", "timezone"),
}
OWN_NAMESPACES = {"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"}

DEEDS = {
    "make a device file": {"EPERM"},
    "give a file away": {"EPERM"},
    "become another user": {"EPERM"},
    "raise its priority": {"EPERM", "EACCES"},
    "send packets of its own making": {"ENOSYS", "EPERM"},
    "send raw IP": {"EPERM"},
    "talk to the hypervisor": {"ENOSYS"},
    "use the kernel's ciphers": {"ENOSYS"},
    "set the core pattern": {"EROFS", "EACCES"},
    "press sysrq": {"EROFS", "EACCES", "ENOENT"},
    "change the network's settings": {"EROFS", "EACCES"},
    "change a device's settings": {"EROFS", "EACCES", "ENOENT"},
    "be spared by the OOM killer": {"EACCES"},
    "read the kernel's memory": {"empty"},
    "read the kernel's keys": {"empty"},
    "write to the system": {"EROFS"},
    "write to the environment": {"EROFS"},
}


def probe(home: Path, *seen: Path, **plan: Any) -> dict[str, Any]:
    """What `surface_probe` says from inside; `seen` are paths of the machine that it looks for."""

    async def body(shop: Workshop) -> dict[str, Any]:
        finished = await shop.run(*command(seen), binds=BINDS, env={"ASKED_FOR": "yes"}, **plan)
        assert ("", 0) == (finished.stderr, finished.status.code)
        found: dict[str, Any] = json.loads(finished.stdout)
        return found

    return in_workshop(home, body)


def probe_fork(home: Path, *seen: Path) -> dict[str, Any]:
    """The same of a container that was forked from a template, from a process that its runner starts."""

    async def body(shop: Workshop) -> dict[str, Any]:
        async with nursery(shop, binds=BINDS, env={"OF_THE_TEMPLATE": "yes"}) as made:
            await made.preload()
            child = await made.fork(binds=BINDS, env={"ASKED_FOR": "yes"})
            await made.fork()
            found: dict[str, Any] = json.loads(await child.ask(output_of, command(seen)))
            return found

    return in_workshop(home, body)


BINDS = (Bind(HERE / "runc" / "surface_probe.py", "/opt/skylift/probe.py"),)


def command(seen: tuple[Path, ...]) -> list[str]:
    return [PYTHON, "-I", "/opt/skylift/probe.py", *map(str, seen)]


def output_of(command: list[str]) -> str:
    import subprocess

    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def host_secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the machine that anybody may read."""
    path = tmp_path_factory.mktemp("machine") / "secret"
    path.write_text("secret")
    path.chmod(0o644)
    return path


FORKED = pytest.param(
    "forked",
    marks=[
        pytest.mark.root,
        pytest.mark.skipif(os.geteuid() != 0, reason="containers are forked by hosts that run as root"),
    ],
)


@pytest.fixture(scope="module", params=["cold", FORKED])
def path(request: pytest.FixtureRequest) -> str:
    """How the container starts."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def surface(path: str, tmp_path_factory: pytest.TempPathFactory, host_secret: Path) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("surface") / "skylift"
    home.mkdir(mode=0o700)
    (home / "token").write_text("token")
    look = probe if path == "cold" else probe_fork
    return look(home, host_secret, home, home / "token", Path("/etc/shadow"), Path("/root/.ssh"), HERE)


def image_targets() -> set[str]:
    return {mount.path for mount in environment().mounts}


def test_it_sees_no_process_but_its_own(surface: dict[str, Any], path: str) -> None:
    # Where it was forked: the first process, the runner, and the probe that it started.
    processes = surface["processes"]
    assert (1, 1 if path == "cold" else 3) == (processes[0], len(processes))


def test_it_sees_no_file_beyond_its_root(surface: dict[str, Any], path: str) -> None:
    of_image = {PurePosixPath(target).parts[1] for target in image_targets()}
    of_template = {".skylift"} if path == "forked" else set()  # an empty folder
    assert set() == set(surface["top"]) - TOP_LEVEL - of_image - of_template
    assert set() == set(surface["etc"]) - ETC
    assert [] == surface["seen"]
    assert not surface["shadow"]
    assert ["nobody", "root"] == surface["users"]


def test_its_home_has_nothing_of_the_machines(surface: dict[str, Any]) -> None:
    of_image = {PurePosixPath(target).parts[2] for target in image_targets() if target.startswith("/root/")}
    assert of_image == set(surface["home"])
    assert "/root" == surface["cwd"]


def test_it_has_only_harmless_devices(surface: dict[str, Any]) -> None:
    assert set() == set(surface["dev"]) - DEVICES


def test_its_mounts_are_the_allowed_ones(surface: dict[str, Any], path: str) -> None:
    allowed = MOUNTS | image_targets() | {"/opt/skylift/probe.py"}
    if path == "forked":
        allowed |= {"/opt/skylift/lib/skylift_runner", "/opt/skylift/lib/cloudpickle", "/run/skylift"}
    for mount in surface["mounts"]:
        at, options = mount["at"], mount["options"]
        if at not in allowed:
            assert at.startswith(COVERED_MOUNTS), mount
            assert "ro" in options or mount["type"] in ("tmpfs", "devtmpfs"), mount
        elif at not in WRITABLE_MOUNTS:
            assert "ro" in options, mount
        if at not in ("/", *WRITABLE_MOUNTS):
            assert "nosuid" in options or at.startswith(COVERED_MOUNTS), mount


def test_it_has_no_capability(surface: dict[str, Any]) -> None:
    names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert dict.fromkeys(names, "0" * 16) == surface["capabilities"]
    assert "1" == surface["no_new_privileges"]


def test_its_root_is_nobody_on_the_machine(surface: dict[str, Any]) -> None:
    assert [0, 0, 0, 0] == surface["ids"][:4]
    assert surface["ids"][4] in ([], [0])
    inside, outside, size = map(int, surface["uid_map"][:3])
    assert (inside, size > 0) == (0, True)
    if os.geteuid() == 0:
        assert outside >= 100_000


def test_its_namespaces_are_its_own(surface: dict[str, Any]) -> None:
    expected = OWN_NAMESPACES if os.geteuid() == 0 else OWN_NAMESPACES - {"cgroup"}
    of_host = {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
    differing = {name for name, value in surface["namespaces"].items() if of_host.get(name) != value}
    assert set() == expected - differing
    assert "skylift" == surface["hostname"]


def test_it_sees_only_its_own_cgroup(surface: dict[str, Any]) -> None:
    if os.geteuid() == 0:
        assert ["/"] == surface["cgroups"]


def test_system_calls_that_reach_out_are_refused(surface: dict[str, Any]) -> None:
    assert "2" == surface["seccomp"]  # a filter
    calls = dict(surface["calls"])
    # As if the kernel had it not: then the C library takes clone, which can be filtered.
    assert "ENOSYS" == calls.pop("clone3") == calls.pop("clone(CLONE_NEWUSER)")
    assert dict.fromkeys(calls, "EPERM") == calls


def test_what_programs_try_when_they_want_out_is_refused(surface: dict[str, Any]) -> None:
    assert set(DEEDS) == set(surface["deeds"])
    unexpected = {deed: said for deed, said in surface["deeds"].items() if said not in DEEDS[deed]}
    assert {} == unexpected


def test_it_writes_only_to_its_own_layer(surface: dict[str, Any]) -> None:
    beyond = {folder for folder, own in surface["writable"].items() if not own}
    assert set() == beyond - WRITABLE_FOLDERS
    assert {"/root", "/tmp"} <= set(surface["writable"])


def test_its_network_is_its_own(surface: dict[str, Any]) -> None:
    assert ["eth0", "lo"] == surface["interfaces"] == surface["sys_interfaces"]


def test_its_environment_has_nothing_of_the_hosts(surface: dict[str, Any], path: str) -> None:
    of_runner = {"SKYLIFT_SOCKET", "SKYLIFT_TOKEN"} if path == "forked" else set()
    assert set() == set(surface["environment"]) - ENVIRONMENT - of_runner


def test_it_inherits_no_descriptor(surface: dict[str, Any]) -> None:
    assert {"0": "/dev/null", "1": "pipe", "2": "pipe"} == surface["descriptors"]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="containers are forked by hosts that run as root")
def test_a_forked_one_sees_and_can_do_what_a_cold_one_does(tmp_path: Path) -> None:
    found = []
    for look in (probe, probe_fork):
        home = tmp_path / look.__name__
        home.mkdir(mode=0o700)
        found.append(look(home))
    cold, forked = found
    for same in ("dev", "interfaces", "capabilities", "no_new_privileges", "seccomp", "uid_map", "ids"):
        assert cold[same] == forked[same], same
    for same in ("calls", "deeds", "hostname", "cgroups", "cwd", "limits", "etc", "home", "users"):
        assert cold[same] == forked[same], same
    assert set() == set(forked["writable"]) - set(cold["writable"]) - {"/.skylift"}
    covers = [
        {mount["at"] for mount in each["mounts"] if mount["at"].startswith(COVERED_MOUNTS)} for each in found
    ]
    assert covers[0] == covers[1]
    options = {mount["at"]: set(mount["options"]) for mount in cold["mounts"]}
    for mount in forked["mounts"]:
        strict = options.get(mount["at"], {"ro"}) & {"ro", "nosuid", "nodev", "noexec"}
        if not mount["at"].startswith(("/proc/", "/sys/")):
            assert set() == strict - set(mount["options"]), mount


def test_a_blocked_network_has_a_loopback_alone(tmp_path: Path) -> None:
    home = tmp_path / "skylift"
    home.mkdir(mode=0o700)
    found = probe(home, block_network=True)
    assert ["lo"] == found["interfaces"] == found["sys_interfaces"]
