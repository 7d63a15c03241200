"""Images that are built on a host, and containers that are made of them."""

from __future__ import annotations

import asyncio
import contextlib
import tarfile
import threading
import time
from pathlib import Path

import pytest
from image_setup import BASE, Site, home_with_base, on_site

from skylift.lazyfs.image_records import read_image
from skylift.lazyfs.leases import live_leases
from skylift.runtime.isolation import StartError
from skylift.wire import ImageSpec
from skylift.wire.images import AddFiles, Configure, CopyFrom, FromScratch, ImageDefinition, RunCommands

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a store that has the base; the tests of this module share it."""
    return home_with_base(tmp_path_factory.mktemp("images") / "home")


def command_lines() -> list[str]:
    """Of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_text(errors="replace"))
    return found


def own_children() -> list[str]:
    """Names of the processes that this thread has started or inherited, dead ones too."""
    pids = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    return [Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids]


def mount_table() -> str:
    return Path("/proc/self/mountinfo").read_text()


def run(*commands: str, **more: object) -> RunCommands:
    return RunCommands(commands=commands, **more)  # type: ignore[arg-type]


class TestSteps:
    def test_commands_change_what_was_below(self, home: Path) -> None:
        async def body(site: Site) -> tuple[int, str]:
            built = await site.build(
                BASE,
                run(
                    "mkdir -p /data/gone /data/emptied && echo a > /data/a && echo b > /data/gone/b",
                    "echo c > /data/emptied/c && ln /data/a /data/same && ln -s a /data/link",
                ),
                run(
                    "rm -r /data/gone /data/emptied && mkdir /data/emptied && echo d > /data/emptied/d",
                    "chown 33:33 /data/a && chmod 4755 /data/a",
                ),
            )
            assert 3 == len(built.image.layers)
            site.nothing_left()
            return await site.run(
                built.image, "sh", "-c", "cd /data && find . | sort; stat -c '%u %g %a %h %n' a same; id -u"
            )

        code, said = on_site(home, body)
        assert 0 == code
        assert [".", "./a", "./emptied", "./emptied/d", "./link", "./same"] == said.split("\n33")[0].split()
        assert "33 33 4755 " in said
        assert said.endswith("\n0\n")

    def test_configuration(self, home: Path) -> None:
        async def body(site: Site) -> tuple[ImageSpec, tuple[int, str]]:
            built = await site.build(
                BASE,
                Configure(env={"A": "1", "B": "2"}, workdir="/work/here"),
                Configure(env={"B": "3"}, shell=("/bin/bash", "-c"), cmd=("python",)),
                run('[[ $B == 3 ]] && echo "$A $B $C" > said', env={"C": "4"}),
            )
            return built.image, await site.run(built.image, "sh", "-c", "pwd; cat said; echo $A $B $C")

        image, ran = on_site(home, body)
        assert (0, "/work/here\n1 3 4\n1 3\n") == ran
        assert ("/bin/bash", "-c") == image.shell
        assert ("python",) == image.cmd
        assert "3.11" == image.python_version[:4]
        assert "/usr/local/bin/python" == image.python

    def test_inputs_and_secrets(self, home: Path) -> None:
        async def body(site: Site) -> tuple[int, str]:
            blob = site.store.put(b"what was sent")
            built = await site.build(
                BASE,
                run(
                    'cat /run/skylift/build/note.txt > /note && test "$TOKEN" = hush',
                    inputs={"note.txt": blob},
                    secrets={"TOKEN": "hush"},
                ),
            )
            script = "cat /note; echo -n $TOKEN; test ! -e /run/skylift"
            return await site.run(built.image, "sh", "-c", script)

        assert (0, "what was sent") == on_site(home, body)

    def test_files(self, home: Path) -> None:
        async def body(site: Site) -> tuple[int, str]:
            built = await site.build(
                BASE,
                AddFiles(target="/srv/app", archives=(site.archive({"a.py": b"A = 1", "b/c.txt": b"c"}),)),
                # /bin is a link to usr/bin in the image.
                AddFiles(target="/bin", archives=(site.archive({"hello": b"#!/bin/sh\necho hi\n"}),)),
            )
            return await site.run(
                built.image, "sh", "-c", "sh /usr/bin/hello; cd /srv/app; find . -type f | sort; ls -ld /bin"
            )

        code, said = on_site(home, body)
        assert 0 == code
        assert "hi\n./a.py\n./b/c.txt\nl" == said[: len("hi\n./a.py\n./b/c.txt\nl")]

    def test_files_of_another_image(self, home: Path) -> None:
        async def body(site: Site) -> tuple[int, str]:
            other = ImageDefinition(
                steps=(BASE, run("mkdir -p /out/x && echo made > /out/x/file && chown 7:8 /out/x/file"))
            )
            built = await site.build(BASE, CopyFrom(image=other, source="/out", target="/in"))
            return await site.run(built.image, "sh", "-c", "cat /in/x/file; stat -c '%u %g' /in/x/file")

        assert (0, "made\n7 8\n") == on_site(home, body)

    def test_files_of_another_image_with_wildcards(self, home: Path) -> None:
        async def body(site: Site) -> tuple[str, str, tuple[int, str]]:
            other = ImageDefinition(steps=(BASE, run("mkdir /out && touch /out/a1 /out/a2 /out/b")))
            several = await site.build(BASE, CopyFrom(image=other, source="/out/a?", target="/in"))
            nothing = await site.build(BASE, CopyFrom(image=other, source="/out/[^ab]*", target="/in/"))
            built = await site.build(BASE, CopyFrom(image=other, source="/out/a?", target="/in/"))
            return several.problem, nothing.problem, await site.run(built.image, "ls", "/in")

        several, nothing, there = on_site(home, body)
        assert several.endswith("/out/a? is several files, so the target is a folder: write /in/.")
        assert nothing.endswith("The other image has no /out/[^ab]*.")
        assert (0, "a1\na2\n") == there

    def test_a_file_in_the_place_of_a_folder(self, home: Path) -> None:
        async def body(site: Site) -> str:
            files = AddFiles(target="/", archives=(site.archive({"usr": b""}),))
            return (await site.build(BASE, files)).problem

        said = (
            "/usr is a folder in the image, and would be replaced by a file. Where the file is to go into it"
        )
        assert said in on_site(home, body)

    def test_folders_and_variables_that_refer_to_what_is_there(self, home: Path) -> None:
        async def body(site: Site) -> tuple[int, str]:
            built = await site.build(
                BASE,
                Configure(workdir="/a"),
                Configure(workdir="b", env={"X": "1"}),
                Configure(env={"X": "<${X}$$${NONE}>", "Y": "${X}"}, expand=True),
                AddFiles(target="c", archives=()),
            )
            return await site.run(built.image, "sh", "-c", "pwd; ls; echo $X $Y")

        assert (0, "/a/b\nc\n<1$> 1\n") == on_site(home, body)

    def test_a_layer_that_an_earlier_one_is_equal_to(self, home: Path) -> None:
        async def body(site: Site) -> tuple[int, str]:
            built = await site.build(BASE, run("echo 1 >/one"), run("rm /one"), run("echo 1 >/one"))
            return await site.run(built.image, "cat", "/one")

        assert (0, "1\n") == on_site(home, body)

    def test_python_packages_come_from_where_the_host_has_them(self, home: Path) -> None:
        async def body(site: Site) -> tuple[int, str]:
            built = await site.build(BASE, run("python -m pip install six", pip=True))
            assert "Successfully installed six" in built.text
            return await site.run(
                built.image,
                *("python", "-c", "import six; print(six.__file__, six.__cached__)"),
            )

        code, said = on_site(home, body)
        assert 0 == code, said
        assert said.startswith("/usr/local/lib/python3.11/")


class TestPathsThatLeadOut:
    def test_a_name_with_dots(self, home: Path) -> None:
        async def body(site: Site) -> str:
            return (
                await site.build(
                    BASE, AddFiles(target="/srv", archives=(site.archive({"../../etc/x": b"x"}),))
                )
            ).problem

        assert "'../../etc/x', which would be outside of its target" in on_site(home, body)

    def test_through_a_link_of_the_archive(self, home: Path, tmp_path: Path) -> None:
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)

        async def body(site: Site) -> tuple[int, str]:
            built = await site.build(
                BASE, AddFiles(target="/srv", archives=(site.archive({"out": link, "out/x": b"x"}),))
            )
            return await site.run(built.image, "cat", f"{tmp_path}/x")

        assert (0, "x") == on_site(home, body)
        assert [] == list(tmp_path.iterdir())

    def test_a_device(self, home: Path) -> None:
        device = tarfile.TarInfo("disk")
        device.type, device.devmajor, device.devminor = tarfile.BLKTYPE, 8, 0

        async def body(site: Site) -> str:
            return (
                await site.build(BASE, AddFiles(target="/", archives=(site.archive({"disk": device}),)))
            ).problem

        assert "disk is a device or a pipe" in on_site(home, body)


class TestFailures:
    def test_the_step_its_exit_code_and_its_last_lines(self, home: Path) -> None:
        async def body(site: Site) -> str:
            built = await site.build(BASE, run("seq 1 100; echo no luck >&2; exit 7"), run("true"))
            site.nothing_left()
            return built.problem

        problem = on_site(home, body)
        first, *lines = problem.splitlines()
        assert "Step 2 of 3 (RunCommands): the command ended with exit code 7." == first
        assert 20 >= len(lines) > 10
        assert "    no luck" in lines

    def test_a_package_that_is_not_there_says_so_as_pip_does(self, home: Path) -> None:
        async def body(site: Site) -> str:
            step = run("python -m pip install there-is-no-such-package-0815", pip=True, label="pip_install")
            return (await site.build(BASE, step)).problem

        problem = on_site(home, body)
        assert problem.startswith("Step 2 of 2 (pip_install): the command ended with exit code 1.")
        assert "No matching distribution found for there-is-no-such-package-0815" in problem

    def test_without_a_network(self, home: Path) -> None:
        async def body(site: Site) -> str:
            step = run("python -c 'import socket; socket.create_connection((\"198.18.0.1\", 9), 3)'")
            return (await site.build(BASE, step)).problem

        problem = on_site(home, body, network="none")
        assert "Network is unreachable" in problem

    def test_a_cancelled_build_leaves_nothing(self, home: Path) -> None:
        async def body(site: Site) -> str:
            build = site.begin(BASE, run("echo begun; sleep 1000"))
            await site.said(build, "begun")
            # What it puts in the store belongs to nothing yet: no collector may take it.
            (lease,) = live_leases(site.names, time.time())
            assert ("build of an image", True) == (lease.what, lease.writing)
            site.cancel(build)
            built = await site.ended(build)
            site.nothing_left()
            assert [] == live_leases(site.names, time.time())
            return built.problem

        assert "The build was cancelled." == on_site(home, body)

    def test_a_bootstrap_that_is_cancelled(self, home: Path) -> None:
        async def body(site: Site) -> None:
            build = site.begin(BASE, generation=2)
            await site.said(build, "apt-get update")
            site.cancel(build)
            assert "The build was cancelled." == (await site.ended(build)).problem
            site.nothing_left()
            assert [] == [line for line in command_lines() if str(site.folder) in line]
            assert "mmdebstrap" not in own_children()

        on_site(home, body)

    def test_a_shell_that_is_not_there(self, home: Path) -> None:
        async def body(site: Site) -> str:
            return (await site.build(FromScratch(), run("true"))).problem

        assert "Step 2 of 2 (RunCommands): " in on_site(home, body)

    def test_an_unknown_python(self, home: Path) -> None:
        from skylift.wire.images import FromDebian

        async def body(site: Site) -> str:
            return (await site.build(FromDebian(python="3.99"))).problem

        problem = on_site(home, body)
        assert "no Python 3.99 can be had here. This host can put 3.11 into an image" in problem


class TestCaching:
    def test_a_second_build_makes_nothing_and_a_changed_step_only_itself(self, home: Path) -> None:
        async def body(site: Site) -> None:
            first = await site.build(BASE, run("echo 1 > /one"), run("echo 2 > /two"))
            again = await site.build(BASE, run("echo 1 > /one"), run("echo 2 > /two"))
            changed = await site.build(BASE, run("echo 1 > /one"), run("echo 3 > /two"))
            assert ["cached", "done", "done"] == first.states
            assert ["cached", "cached", "cached"] == again.states
            assert ["cached", "cached", "done"] == changed.states
            assert first.image == again.image
            assert first.image.layers[:2] == changed.image.layers[:2]
            assert first.image == read_image(site.names, first.image.fingerprint)

        on_site(home, body)

    def test_the_same_commands_make_the_same_layer(self, home: Path) -> None:
        async def body(site: Site) -> None:
            step = run(
                "mkdir -p /code && echo 'A = 1' > /code/a.py && python -m compileall -q /code && touch /tmp/x"
            )
            first = await site.build(BASE, step)
            await asyncio.sleep(1.1)  # times in file systems and bytecode are of whole seconds
            second = await site.build(BASE, run("true"), step)
            assert first.image.layers[-1] == second.image.layers[-1]
            script = "import sys; sys.path.append('/code'); import a"
            _, said = await site.run(second.image, "python", "-v", "-c", script)
            assert "/code/__pycache__/a.cpython-311.pyc matches /code/a.py" in said

        on_site(home, body)

    def test_a_layer_that_is_gone_from_the_store_is_made_anew(self, home: Path) -> None:
        async def body(site: Site) -> None:
            first = await site.build(BASE, run("echo precious > /kept"))
            site.store.delete(first.image.layers[-1])
            again = await site.build(BASE, run("echo precious > /kept"))
            assert ["cached", "done"] == again.states
            assert first.image.layers == again.image.layers

        on_site(home, body)

    def test_builds_of_one_step_at_a_time_make_it_once(self, home: Path) -> None:
        async def body(site: Site) -> None:
            step = run("sleep 0.5; date +%N > /now")
            builds = [site.begin(BASE, step) for _ in range(3)]
            images = {(await site.ended(build)).image.layers for build in builds}
            assert 1 == len(images)

        on_site(home, body)


class TestContainersOfLayers:
    def test_what_is_in_their_root(self, home: Path) -> None:
        async def body(site: Site) -> tuple[int, str]:
            built = await site.build(BASE)
            script = (
                "head -1 /etc/hosts; test -s /etc/resolv.conf && cat /etc/hostname; ls /; touch /usr/own; "
                "id -u; stat -c '%a %U' /tmp /root /"
            )
            return await site.run(built.image, "sh", "-c", script)

        code, said = on_site(home, body)
        assert 0 == code, said
        assert said.startswith("127.0.0.1 localhost\nskylift\nbin\n")
        assert said.endswith("0\n1777 root\n700 root\n755 root\n")

    def test_layers_are_let_go_with_the_last_container(self, home: Path) -> None:
        async def body(site: Site) -> None:
            built = await site.build(BASE)
            await site.run(built.image, "true")
            layers = site.isolation.layers
            assert layers is not None
            mounts = mount_table()
            assert f"{site.home}/host/layers/shown" not in mounts
            assert f"{site.home}/host/layers/mounts" not in mounts

        on_site(home, body)
        assert str(home) not in Path("/proc/self/mountinfo").read_text()

    def test_what_was_read_stays_as_long_as_there_is_room(self, home: Path) -> None:
        async def copies(site: Site) -> tuple[int, int]:
            built = await site.build(BASE, run("echo room > /room"))
            await site.run(built.image, "cat", "/room")
            assert site.isolation.layers is not None
            site.isolation.layers.why_unpacked = "a test says so"
            await site.run(built.image, "cat", "/room")
            folder = site.home / "host" / "layers"
            return len([*folder.glob("daemon/copies/*")]), len([*folder.glob("unpacked/*")])

        mounted, unpacked = on_site(home, copies)
        assert mounted >= 2
        assert unpacked >= 2
        assert (0, 0) == on_site(home, copies, layer_cache=0)

    def test_where_layers_cannot_be_mounted_they_are_unpacked(self, home: Path) -> None:
        async def body(site: Site) -> tuple[int, str]:
            built = await site.build(
                BASE,
                run("mkdir -p /data/sub && echo a > /data/a && echo b > /data/sub/b"),
                run("rm -r /data/sub && mkdir /data/sub && rm /data/a && chown 33 /data/sub"),
            )
            assert site.isolation.layers is not None
            site.isolation.layers.why_unpacked = "a test says so"
            return await site.run(built.image, "sh", "-c", "find /data | sort; stat -c %u /data/sub; id -u")

        assert (0, "/data\n/data/sub\n33\n0\n") == on_site(home, body)

    def test_a_program_that_is_not_there(self, home: Path) -> None:
        async def body(site: Site) -> None:
            built = await site.build(BASE)
            with pytest.raises(StartError, match="no-such-program"):
                await site.run(built.image, "no-such-program")
            site.nothing_left()

        on_site(home, body)

    def test_layers_that_the_store_does_not_have(self, home: Path) -> None:
        image = ImageSpec(kind="layers", python="", python_version="", layers=("0" * 64,))

        async def body(site: Site) -> None:
            with pytest.raises(StartError, match=r"The image's layers cannot be had on this host: .*no blob"):
                await site.run(image, "true")

        on_site(home, body)
