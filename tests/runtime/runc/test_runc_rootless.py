"""Containers of an ordinary user."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ordinary_user import OrdinaryUser, ordinary_user

pytestmark = pytest.mark.slow

PREAMBLE = """
import asyncio, json, os, sys
from pathlib import Path
from workshop import PYTHON, Workshop, environment, in_workshop
from skylift.runtime.isolation import Bind, StartError
from skylift.runtime.runc import isolation as runc_isolation
from skylift.wire import MountSpec
home = Path(sys.argv[1])
home.mkdir(mode=0o700)
"""


@pytest.fixture(scope="module")
def user() -> Iterator[OrdinaryUser]:
    with ordinary_user() as user:
        yield user


def run(user: OrdinaryUser, name: str, code: str) -> str:
    finished = user.run("-c", PREAMBLE + code, str(user.home / name))
    assert (0, "") == (finished.returncode, finished.stderr)
    return finished.stdout


def test_output_exit_code_and_files(user: OrdinaryUser) -> None:
    code = """
async def body(shop):
    assert shop.isolation.rootless
    script = "echo out; id -u; touch /root/x /tmp/y /etc/z; echo err >&2; exit 3"
    finished = await shop.run("sh", "-c", script)
    print(json.dumps([finished.stdout, finished.stderr, finished.status.code]))
    print(sorted(os.listdir(home / "host" / "containers")), sorted(os.listdir(home / "host" / "runc")))
in_workshop(home, body)
"""
    lines = run(user, "output", code).splitlines()
    assert ["out\n0\n", "err\n", 3] == json.loads(lines[0])
    assert lines[1].endswith(" []")


def test_why_containers_cannot_be_written(user: OrdinaryUser) -> None:
    code = """
async def body(shop):
    print(shop.isolation.cannot_checkpoint)
in_workshop(home, body)
"""
    assert "CRIU writes and restores containers for root only" in run(user, "written", code)


def test_files_of_the_user_are_readable_and_readonly(user: OrdinaryUser) -> None:
    code = """
notebook = home / "private" / "notebook"
notebook.mkdir(parents=True)
(home / "private").chmod(0o700)
(notebook / "helper.py").write_text("ANSWER = 42")
(notebook / "helper.py").chmod(0o600)
async def body(shop):
    script = f"import os; os.chdir({str(notebook)!r}); print(open('helper.py').read()); open('new', 'w')"
    finished = await shop.python(script, image=environment(notebook))
    print(finished.stdout, "Read-only" in finished.stderr)
in_workshop(home / "skylift", body)
"""
    assert "ANSWER = 42\n True\n" == run(user, "files", code)


def test_the_surface_is_the_same(user: OrdinaryUser) -> None:
    code = """
async def body(shop):
    probe = Bind(Path(__import__("workshop").__file__).parent / "surface_probe.py", "/opt/skylift/probe.py")
    finished = await shop.run(PYTHON, "-I", "/opt/skylift/probe.py", str(home), "/etc/shadow", binds=(probe,))
    print(finished.stdout or finished.stderr)
in_workshop(home, body)
"""
    found = json.loads(run(user, "surface", code))
    assert [1] == found["processes"]
    assert {"0000000000000000"} == set(found["capabilities"].values())
    assert ("1", "2") == (found["no_new_privileges"], found["seccomp"])
    assert [] == found["seen"]
    assert ["eth0", "lo"] == found["interfaces"] == found["sys_interfaces"]
    calls = dict(found["calls"])
    assert "ENOSYS" == calls.pop("clone3") == calls.pop("clone(CLONE_NEWUSER)")
    assert {"EPERM"} == set(calls.values())
    assert {"/dev", "/dev/mqueue", "/dev/shm"} >= {
        folder for folder, own in found["writable"].items() if not own
    }
    for kind in ("ipc", "mnt", "net", "pid", "user", "uts"):
        assert os.readlink(f"/proc/self/ns/{kind}") != found["namespaces"][kind]


def test_the_machines_loopback_is_out_of_reach_and_names_are_found(user: OrdinaryUser) -> None:
    code = """
import socket
server = socket.create_server(("127.0.0.1", 0))
port = server.getsockname()[1]
inside = f'''
import socket
for host in ("127.0.0.1", "10.0.2.2", "169.254.169.254", socket.gethostbyname(socket.gethostname())):
    try:
        socket.create_connection((host, {port}), timeout=1)
        print("connected to", host)
    except OSError:
        pass
print(open("/etc/resolv.conf").read().strip())
'''
async def body(shop):
    finished = await shop.python(inside)
    print(finished.stdout + finished.stderr, end="")
in_workshop(home, body)
"""
    assert "nameserver 10.0.2.3\n" == run(user, "network", code)


def test_slirp4netns_takes_over_where_pasta_is_missing(user: OrdinaryUser) -> None:
    code = """
import shutil
which = shutil.which
shutil.which = lambda name, *more, **also: None if name == "pasta" else which(name, *more, **also)
async def body(shop):
    finished = await shop.run("sh", "-c", "ip -brief -4 address show dev eth0; ip route get 192.0.2.77")
    print(finished.stdout + finished.stderr)
in_workshop(home, body)
"""
    found = run(user, "slirp", code)
    assert "10.0.2.100/24" in found
    assert "192.0.2.77 via 10.0.2.2 dev eth0" in found


def test_without_granted_ids_a_container_has_one_user(user: OrdinaryUser) -> None:
    code = """
from skylift.runtime.runc.id_map import rootless_maps
runc_isolation.rootless_maps = lambda helpers: rootless_maps(helpers=False)
async def body(shop):
    finished = await shop.run("sh", "-c", "id -u; cat /proc/self/uid_map; touch /root/x")
    print(finished.stdout + finished.stderr)
in_workshop(home, body)
"""
    found = run(user, "single", code).split()
    assert ["0", "0", "0", "1"] == found[:4]


def test_what_a_crashed_host_left_is_removed_by_the_next(user: OrdinaryUser) -> None:
    code = """
import subprocess, signal
crash = '''
import asyncio, os, sys
from pathlib import Path
from workshop import Workshop
async def main():
    shop = Workshop(Path(sys.argv[1]))
    await shop.isolation.adopt()
    container = await shop.start("sleep", "605")
    print(container.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
import signal
asyncio.run(main())
'''
crashed = subprocess.run([sys.executable, "-c", crash, str(home)], capture_output=True, text=True)
pid = int(crashed.stdout)
def runs(pid, word):
    try:
        return word in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
before = runs(pid, b"605")
notes = [int(name) for name in os.listdir(home / "host" / "networks")]
async def body(shop):
    after = [runs(each, b"pasta") for each in notes]
    print(before, runs(pid, b"605"), after, os.listdir(home / "host" / "runc"))
in_workshop(home, body)
"""
    lines = run(user, "crash", code)
    assert lines.startswith("True False [")
    assert "True" not in lines.partition(" False ")[2]
    assert lines.endswith(" []\n")


def test_the_doctor_knows_that_it_is_not_root(user: OrdinaryUser) -> None:
    finished = user.run("-m", "skylift.runtime.doctor", "--home", str(user.home / "doctor"), "--json")
    found = json.loads(finished.stdout)
    states = {finding["name"]: finding["state"] for finding in found["findings"]}
    assert (0, "", True, "runc") == (
        finished.returncode,
        finished.stderr,
        found["rootless"],
        found["isolation"],
    )
    assert {"ok"} == {states[name] for name in ("runc", "user namespaces", "user ids", "overlay", "network")}


def test_a_bridge_needs_root(user: OrdinaryUser) -> None:
    code = """
async def body(shop): pass
try:
    in_workshop(home, body, network="bridge")
except StartError as error:
    print(error)
"""
    assert 'network = "bridge" needs a host that runs as root; use "user".' in run(user, "bridge", code)


def test_its_files_are_gone_in_the_end(user: OrdinaryUser) -> None:
    code = """
async def body(shop):
    container = await shop.start("sh", "-c", "mkdir -p /tmp/a/b; chmod 0 /tmp/a; echo made")
    await shop.finish(container)
    print([os.listdir(folder) for folder in (home / "host" / "containers").iterdir()])
in_workshop(home, body)
print(sorted(os.listdir(home / "host")))
"""
    assert "[[]]\n['containers', 'runc', 'skeletons']\n" == run(user, "gone", code)


def test_the_user_is_an_ordinary_one(user: OrdinaryUser) -> None:
    assert "0" != user.run("-c", "import os; print(os.geteuid())").stdout.strip()
    assert Path(user.home).exists()


def test_an_image_is_unpacked(user: OrdinaryUser) -> None:
    code = """
import shutil, stat, subprocess
from skylift.lazyfs.layers import build_layer
from skylift.lazyfs.store import LocalStore
from skylift.wire import ImageSpec
lower, upper = home / "lower", home / "upper"
said = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout
libraries = [word for word in said.split() if word.startswith("/")]
for path in ["/bin/sh", *libraries]:
    target = lower / path[1:]
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)
(lower / "data").mkdir()
(lower / "data/old").write_text("old")
(upper / "data").mkdir(parents=True)
(upper / "data/new").write_text("new")
os.mknod(upper / "data/old", stat.S_IFCHR, os.makedev(0, 0))
store = LocalStore(home / "store")
layers = tuple(build_layer(tree, store, scratch=home, all_root=True).id for tree in (lower, upper))
image = ImageSpec(kind="layers", python="", python_version="", layers=layers)
async def body(shop):
    script = "cd /data; echo *; read x < new; echo $x; echo y > own; echo *; read h < /etc/hostname; echo $h"
    for _ in range(2):
        finished = await shop.run("/bin/sh", "-c", script, image=image)
        print(finished.stdout + finished.stderr)
in_workshop(home, body)
"""
    assert 2 * "new\nnew\nnew own\nskylift\n\n" == run(user, "unpacked", code)
