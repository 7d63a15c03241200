"""``skylift volume …``."""

from __future__ import annotations

import argparse
import os
import posixpath
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skylift.exceptions import InvalidError, PathNotFoundError
from skylift.volume import Volume
from skylift.volume_access import FileEntry, FileEntryType
from skylift.volume_downloads import Downloads

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_volume_commands(commands: Commands) -> None:
    """Adds them to the command line."""
    volume = commands.add_parser("volume", help="list, fill, read and restore volumes")
    actions = volume.add_subparsers(required=True, metavar="ACTION")

    def action(name: str, what: str, *arguments: tuple[Any, ...], aliases: Sequence[str] = ()) -> Any:
        parser = actions.add_parser(name, help=what, aliases=list(aliases))
        for argument in arguments:
            *flags, options = argument
            parser.add_argument(*flags, **options)
        return parser

    one = ("name", {"metavar": "VOLUME"})
    at = ("--version", {"type": int, "metavar": "NUMBER", "help": "what it was in that version"})
    force = ("-f", "--force", {"action": "store_true", "help": "replace what is there"})
    recursive = ("-r", "--recursive", {"action": "store_true", "help": "directories too"})
    action("create", "make an empty volume", one).set_defaults(command=_create)
    action("list", "all volumes").set_defaults(command=_list)
    delete = action("delete", "delete a volume with all its versions", one)
    delete.add_argument("-y", "--yes", action="store_true", help="do not ask")
    delete.set_defaults(command=_delete)
    rename = action("rename", "give a volume another name", one, ("new_name", {"metavar": "NEW-NAME"}))
    rename.set_defaults(command=_rename)
    ls = action("ls", "what is in it", one, ("path", {"nargs": "?", "default": "/"}), at)
    ls.add_argument("-r", "--recursive", action="store_true", help="what is in its directories too")
    ls.set_defaults(command=_ls)
    put = action(
        "put",
        "send a file or a directory; again after it broke off, it goes on where it was",
        one,
        ("local", {"metavar": "LOCAL-PATH"}),
        ("remote", {"nargs": "?", "default": "/", "metavar": "REMOTE-PATH"}),
        force,
    )
    put.set_defaults(command=_put)
    get = action(
        "get",
        "fetch a file or a directory; again after it broke off, it goes on where it was",
        one,
        ("remote", {"metavar": "REMOTE-PATH"}),
        ("local", {"nargs": "?", "default": ".", "metavar": "LOCAL-PATH", "help": "- is standard output"}),
        force,
        at,
    )
    get.set_defaults(command=_get)
    paths = ("paths", {"nargs": "+", "metavar": "PATH", "help": "what to copy, and where to"})
    action("cp", "copy within it", one, paths, recursive).set_defaults(command=_cp)
    action("rm", "remove a file", one, ("path", {"metavar": "PATH"}), recursive).set_defaults(command=_rm)
    move = action("mv", "give a file another path", one, ("source", {}), ("target", {}), force)
    move.set_defaults(command=_mv)
    history = action("history", "its versions", one)
    history.add_argument("-n", type=int, default=20, metavar="COUNT", help="how many (20)")
    history.set_defaults(command=_history)
    restore = action("restore", "make it what it was", one, ("version", {"type": int, "metavar": "NUMBER"}))
    restore.set_defaults(command=_restore)


def _create(options: argparse.Namespace) -> int:
    Volume.objects.create(options.name)
    print(f"Made volume {options.name}. A function has it with volumes={{'/{options.name}': volume}}.")
    return 0


def _list(options: argparse.Namespace) -> int:
    rows = [
        [info.name, f"{info.files:,}", size_of(info.size), str(info.version), _when(info.changed)]
        for info in Volume.objects.list()
    ]
    _table(["NAME", "FILES", "SIZE", "VERSION", "CHANGED"], rows, "There are no volumes.")
    return 0


def _delete(options: argparse.Namespace) -> int:
    info = Volume.from_name(options.name).info()
    if not options.yes:
        if not sys.stdin.isatty():
            raise InvalidError(f"volume delete {options.name}: give --yes where nobody can be asked")
        answer = input(
            f"Delete volume {options.name} ({info.files:,} files, {size_of(info.size)}) with all its "
            "versions? "
            "[y/N] "
        )
        if answer.strip().lower() not in ("y", "yes"):
            print("Nothing was deleted.")
            return 1
    Volume.objects.delete(options.name)
    print(f"Deleted volume {options.name}.")
    return 0


def _rename(options: argparse.Namespace) -> int:
    Volume.rename(options.name, options.new_name)
    return 0


def _ls(options: argparse.Namespace) -> int:
    entries = _volume(options).listdir(options.path, recursive=options.recursive)
    rows = [[_mode(entry), size_of(entry.size), _when(entry.mtime), _shown(entry)] for entry in entries]
    _table(["MODE", "SIZE", "CHANGED", "PATH"], rows, "It is empty.")
    return 0


def _put(options: argparse.Namespace) -> int:
    volume = _volume(options)
    local, remote = Path(options.local), options.remote
    with volume.batch_upload(force=options.force) as batch:
        if local.is_dir():
            batch.put_directory(local, _below(remote, local) if remote.endswith("/") else remote)
        else:
            batch.put_file(local, remote)
    made = batch.version
    if made is None:
        print(f"{local} is empty: there was nothing to send.")
    else:
        count = made.added + made.changed
        print(f"Sent {count:,} files; volume {options.name} is at version {made.version}.")
    return 0


def _below(remote: str, local: Path) -> str:
    return remote if remote == "/" else posixpath.join(remote, local.resolve().name)


def _get(options: argparse.Namespace) -> int:
    volume = _volume(options)
    if options.local == "-":
        for piece in volume.read_file(options.remote):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return 0
    downloads = Downloads(volume, force=options.force)
    done = downloads.get(options.remote, Path(options.local))
    print(f"Fetched {done.files:,} files, {size_of(done.size)}{_resumed(done.resumed)}.")
    return 0


def _resumed(count: int) -> str:
    return f", {size_of(count)} of which were here already" if count else ""


def _cp(options: argparse.Namespace) -> int:
    if len(options.paths) < 2:
        raise InvalidError(f"volume cp {options.name} {options.paths[0]}: where to?")
    *sources, target = options.paths
    _volume(options).copy_files(sources, target, recursive=options.recursive)
    return 0


def _rm(options: argparse.Namespace) -> int:
    _volume(options).remove_file(options.path, recursive=options.recursive)
    return 0


def _mv(options: argparse.Namespace) -> int:
    volume = _volume(options)
    target = options.target
    if target.endswith("/") or _is_directory(volume, target):
        target = posixpath.join(target, posixpath.basename(options.source.rstrip("/")))
    volume.rename(options.source, target, force=options.force)
    return 0


def _is_directory(volume: Volume, path: str) -> bool:
    try:
        return volume.stat(path).type == FileEntryType.DIRECTORY
    except PathNotFoundError:
        return False


def _history(options: argparse.Namespace) -> int:
    rows = [
        [
            str(version.version),
            _when(version.time),
            f"+{version.added:,} ~{version.changed:,} -{version.removed:,}",
            f"{version.files:,}",
            size_of(version.size),
            version.who,
            version.message,
        ]
        for version in Volume.from_name(options.name).history(limit=options.n)
    ]
    _table(["VERSION", "TIME", "CHANGES", "FILES", "SIZE", "WHO", "MESSAGE"], rows, "")
    return 0


def _restore(options: argparse.Namespace) -> int:
    made = Volume.from_name(options.name).restore(options.version)
    was = f"Volume {options.name} is what it was in version {options.version}"
    print(f"{was}; that is version {made.version}.")
    return 0


def _volume(options: argparse.Namespace) -> Volume:
    return Volume.from_name(options.name, version=getattr(options, "version", None))


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> None:
    lines = [list(headings), *map(list, rows)]
    if len(lines) == 1:
        print(empty)
        return
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _mode(entry: FileEntry) -> str:
    kind = {FileEntryType.DIRECTORY: "d", FileEntryType.SYMLINK: "l"}.get(entry.type, "-")
    letters = "".join("rwx"[2 - bit % 3] if entry.mode >> bit & 1 else "-" for bit in range(8, -1, -1))
    return kind + letters


def _shown(entry: FileEntry) -> str:
    path = os.fsencode(entry.path).decode("utf-8", "backslashreplace")
    path = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in path)
    if entry.type == FileEntryType.DIRECTORY:
        return path + "/"
    return f"{path} -> {entry.target}" if entry.target else path


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def size_of(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
