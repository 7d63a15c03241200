"""One volume: what can be done with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from skylift.lazyfs.leases import Lease
from skylift.lazyfs.trees import Entry
from skylift.lazyfs.volume_commits import Commits, Version
from skylift.lazyfs.volume_edits import TreeEditor
from skylift.lazyfs.volume_errors import (
    PathExistsError,
    PathInvalidError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    explaining,
)
from skylift.lazyfs.volume_paths import Parts, parts_of, text
from skylift.lazyfs.volume_reading import FileInfo, VolumeVersion, VolumeView
from skylift.lazyfs.volume_uploads import Progress, Upload


class VolumeInfo(msgspec.Struct, frozen=True):
    """What a list of volumes says of one."""

    name: str
    volume_id: str
    created: float
    """Seconds since 1970."""
    version: int
    """The newest one's number."""
    changed: float
    """When that was committed."""
    files: int
    size: int
    """Bytes."""


class Volume:
    """A volume. What it is asked is answered from its newest version. Thread-safe.

    Every method may raise `VolumeNotFoundError` (it was deleted), `VolumeUnreachableError`,
    `VolumeDamagedError`; those with a path `PathInvalidError` and `PathNotFoundError`; those that change it
    `VolumeFullError`. `who` and `message` are kept with the version.
    """

    def __init__(self, commits: Commits) -> None:
        self.commits = commits
        self.name = commits.name
        self.volume_id = commits.volume_id
        self._where = f"Volume {self.name!r}"

    def info(self) -> VolumeInfo:
        """What it is now."""
        with explaining(self._where, "looking at it"):
            head = self.commits.head()
            version = self.commits.load(head.version)
        return VolumeInfo(
            self.name,
            self.volume_id,
            head.created,
            version.number,
            version.time,
            version.files,
            version.size,
        )

    # Reading

    def view(self) -> VolumeView:
        """The newest version, to be read: it stays as it is."""
        with explaining(self._where, "looking for its newest version"):
            return VolumeView(self.commits.trees, self.commits.newest().root, self._where)

    def stat(self, path: str | bytes) -> FileInfo:
        """See `VolumeView.stat`."""
        return self.view().stat(path)

    def listdir(self, path: str | bytes = "/", *, recursive: bool = False) -> list[FileInfo]:
        """See `VolumeView.listdir`."""
        return self.view().listdir(path, recursive=recursive)

    def iterdir(self, path: str | bytes = "/", *, recursive: bool = False) -> Iterator[FileInfo]:
        """See `VolumeView.iterdir`."""
        return self.view().iterdir(path, recursive=recursive)

    def read_file(self, path: str | bytes) -> Iterator[bytes]:
        """See `VolumeView.read_file`."""
        return self.view().read_file(path)

    def read_range(self, path: str | bytes, offset: int, length: int) -> bytes:
        """See `VolumeView.read_range`."""
        return self.view().read_range(path, offset, length)

    # Versions

    def history(self, limit: int | None = None) -> list[Version]:
        """Its versions, the newest first."""
        found: list[Version] = []
        with explaining(self._where, "reading its history"):
            for version in self.commits.history():
                if limit is not None and len(found) >= limit:
                    break
                found.append(version)
        return found

    def at(self, number: int) -> VolumeVersion:
        """One of its versions, to be read. Raises `VersionNotFoundError`."""
        with explaining(self._where, f"looking for version {number}"):
            return VolumeVersion(self.commits.trees, self.commits.at(number), self.name)

    def restore(self, number: int, *, who: str = "", message: str = "") -> Version:
        """Make it what it was in a version. That is a new version: nothing is lost.

        Raises `VersionNotFoundError`.
        """
        with explaining(self._where, f"restoring version {number}"), self._lease("restoring") as lease:
            old = self.commits.at(number)
            newest = self.commits.newest().root
            return self.commits.commit(
                newest,
                old.root,
                who=who,
                message=message or f"restored version {number}",
                lease=lease,
            )

    def forget_before(self, number: int) -> None:
        """Let go of the versions before that one, so that what only they have can be collected.

        Raises `VersionNotFoundError`.
        """
        with explaining(self._where, f"letting go of versions before {number}"):
            self.commits.forget_before(number)

    # Changing

    def batch_upload(
        self, *, force: bool = False, who: str = "", message: str = "", progress: Progress | None = None
    ) -> Upload:
        """Send files: ``with volume.batch_upload() as batch: batch.put_file("a.csv", "/data/a.csv")``.

        They are committed together at the end of the block. Without `force`, `PathExistsError` where one is
        there already, and then none is sent. Raises `UploadInterruptedError`.
        """
        return Upload(self.commits, force=force, who=who, message=message, progress=progress)

    def copy_files(
        self,
        sources: Sequence[str | bytes],
        target: str | bytes,
        *,
        recursive: bool = False,
        who: str = "",
        message: str = "",
    ) -> Version:
        """Copy files within the volume, as ``cp`` does; nothing is read or sent for it.

        `target` is a directory where there are several sources, or one is there; else the copy's path.
        Directories only with `recursive`. Raises `PathIsDirectoryError` and `PathNotDirectoryError`.
        """
        where = self._where

        def edit(view: VolumeView, editor: TreeEditor) -> None:
            into = parts_of(where, target)
            there = editor.find(into)
            if len(sources) > 1 and (there is None or there.kind != "dir"):
                raise PathNotDirectoryError(where, text(into), "Several files need a directory to go to.")
            for source in sources:
                parts, entry = view.find(source, follow=False)
                if entry.kind == "dir" and not recursive:
                    raise PathIsDirectoryError(
                        where, text(parts), "Copy it with recursive=True (cp -r on the command line)."
                    )
                to = (*into, *parts[-1:]) if there is not None and there.kind == "dir" else into
                if entry.kind == "dir" and to[: len(parts)] == parts:
                    raise PathInvalidError(where, text(to), f"it is in {text(parts)}, which was to be copied")
                _copy(view, editor, to, entry)

        shown = ", ".join(text(parts_of(where, source)) for source in sources[:3])
        return self._edit(edit, who, message or f"copied {shown} to {text(parts_of(where, target))}")

    def remove_file(
        self, path: str | bytes, *, recursive: bool = False, who: str = "", message: str = ""
    ) -> Version:
        """Remove a file or a symlink, or with `recursive` a directory. Raises `PathIsDirectoryError`."""
        where = self._where

        def edit(view: VolumeView, editor: TreeEditor) -> None:
            parts, entry = view.find(path, follow=False)
            if entry.kind == "dir" and not recursive:
                raise PathIsDirectoryError(where, text(parts), "Remove it with recursive=True.")
            editor.remove(parts)

        return self._edit(edit, who, message or f"removed {text(parts_of(where, path))}")

    def rename(
        self,
        source: str | bytes,
        target: str | bytes,
        *,
        force: bool = False,
        who: str = "",
        message: str = "",
    ) -> Version:
        """Give a file or a directory another path; nothing is read or sent for it.

        `target` is the new path itself, also where a directory is there. Raises `PathExistsError` where
        something is there, unless `force`.
        """
        where = self._where

        def edit(view: VolumeView, editor: TreeEditor) -> None:
            parts, entry = view.find(source, follow=False)
            to = parts_of(where, target)
            if not parts or not to:
                raise PathInvalidError(where, "/", "the root stays where it is")
            if parts == to:
                return
            if to[: len(parts)] == parts:
                raise PathInvalidError(where, text(to), f"it is in {text(parts)}, which was to be renamed")
            if parts[: len(to)] == to:
                raise PathInvalidError(where, text(to), f"{text(parts)}, which was to be renamed, is in it")
            if editor.find(to) is not None:
                if not force:
                    raise PathExistsError(
                        where, text(to), "Replace it with rename(…, force=True), or take another path."
                    )
                editor.remove(to)
            editor.remove(parts)
            editor.put(to, entry)

        named = f"renamed {text(parts_of(where, source))} to {text(parts_of(where, target))}"
        return self._edit(edit, who, message or named)

    def _edit(self, edit: Callable[[VolumeView, TreeEditor], None], who: str, message: str) -> Version:
        with explaining(self._where, "changing it"), self._lease("changing") as lease:
            base = self.commits.newest().root
            now_ns = int(self.commits.clock() * 1e9)
            editor = TreeEditor(self.commits.trees, base, self._where, now_ns)
            edit(VolumeView(self.commits.trees, base, self._where), editor)
            return self.commits.commit(base, editor.write(), who=who, message=message, lease=lease)

    def _lease(self, what: str) -> Lease:
        return Lease(self.commits.names, f"{what} volume {self.name}", clock=self.commits.clock)


def _copy(view: VolumeView, editor: TreeEditor, to: Parts, entry: Entry) -> None:
    """A directory that is there and one that comes become one, as with ``cp -r``."""
    there = editor.find(to)
    if entry.kind != "dir" or there is None or there.kind != "dir":
        editor.put(to, entry)
        return
    for child in view.trees.entries(entry.blob):
        _copy(view, editor, (*to, child.name), child)
