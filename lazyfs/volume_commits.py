"""Versions of a volume: the chain of commits, and the record of the newest one.

A version is a blob: the root of its tree, and the version before it. The name ``volumes/ID/head`` says which
one is the newest. A commit puts what is new in the store, then swaps that record: before the swap nothing has
changed, after it everything has. Who finds that the record is another's by now merges, and tries again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from skylift.lazyfs.garbage import Reach
from skylift.lazyfs.leases import Lease, LeaseRecord
from skylift.lazyfs.names import Names
from skylift.lazyfs.store import BlobMissingError, Store
from skylift.lazyfs.trees import TreeFormatError, Trees
from skylift.lazyfs.volume_errors import VersionNotFoundError, VolumeError, VolumeNotFoundError
from skylift.lazyfs.volume_merge import Changes, Merge, changes_between
from skylift.lazyfs.volume_paths import printable

_MOST_MESSAGE = 1000


class Version(msgspec.Struct, frozen=True):
    """One commit."""

    number: int
    """0 is the empty volume, each commit is one more."""
    root: str
    """The blob of its tree."""
    time: float
    """Seconds since 1970."""
    who: str = ""
    message: str = ""
    changes: Changes = Changes()
    """Against the version before."""
    files: int = 0
    size: int = 0
    """Bytes of all files."""
    overwritten: tuple[str, ...] = ()
    """Paths that another commit had changed too, since the one that this one began with: this one's stayed.
    The first 100, in a form that can be printed."""
    overwritten_count: int = 0
    parent: str = ""
    """The blob of the version before."""
    own: str = ""
    """The tree as it was before it was merged with what others had committed; "" where nothing was merged.
    Who committed it may begin the next commit with it."""
    skip: str = ""
    """The blob of version ``number & (number - 1)``, so that old ones are found in a few steps."""


class Head(msgspec.Struct, frozen=True):
    """What is kept under ``volumes/ID/head``."""

    version: str
    """The newest version's blob."""
    number: int
    oldest: int
    """Versions before this one have been let go of."""
    name: str
    """Of the volume, for people."""
    created: float
    """Seconds since 1970."""


def head_name(volume_id: str) -> str:
    """Where a volume's head is kept."""
    return f"volumes/{volume_id}/head"


class Commits:
    """The versions of one volume. Thread-safe.

    Every method raises what the store raises, OSError where the names do not answer, and
    `VolumeNotFoundError` where the volume was deleted.
    """

    def __init__(
        self, trees: Trees, names: Names, volume_id: str, name: str, clock: Callable[[], float] = time.time
    ) -> None:
        self.trees = trees
        self.names = names
        self.volume_id = volume_id
        self.name = name
        self.clock = clock

    def begin(self) -> None:
        """Write version 0, which is empty."""
        root = self.trees.put(()).blob
        now = self.clock()
        blob = self.trees.store.put(msgspec.msgpack.encode(Version(0, root, now)))
        self.trees.store.settle()
        head = Head(blob, 0, 0, self.name, now)
        self.names.put(head_name(self.volume_id), msgspec.json.encode(head))

    def head(self) -> Head:
        """What is newest now."""
        return self._head()[1]

    def newest(self) -> Version:
        """The newest version."""
        return self.load(self.head().version)

    def load(self, blob: str) -> Version:
        """The version in a blob."""
        try:
            return msgspec.msgpack.decode(self.trees.store.get(blob), type=Version)
        except msgspec.MsgspecError as error:
            raise TreeFormatError(f"Blob {blob} is no version of a volume: {error}.") from error

    def at(self, number: int) -> Version:
        """One version. Raises `VersionNotFoundError`."""
        head = self.head()
        if not head.oldest <= number <= head.number:
            raise VersionNotFoundError(self.name, number, head.oldest, head.number)
        return self.load(self._find(head, number))

    def history(self) -> Iterator[Version]:
        """All versions that there are, the newest first."""
        return (version for _, version in self.chain())

    def chain(self) -> Iterator[tuple[str, Version]]:
        """The same, each with its blob."""
        head = self.head()
        blob = head.version
        while True:
            version = self.load(blob)
            yield blob, version
            if version.number <= head.oldest:
                return
            blob = version.parent

    def commit(
        self,
        base: str,
        root: str,
        *,
        who: str = "",
        message: str = "",
        lease: Lease | None = None,
        check: Callable[[str], None] | None = None,
    ) -> Version:
        """Make a tree the newest version. It began as `base`, another tree; what came since is merged.

        What is not in `base` and what only others changed stays as they have it; of what both changed this
        commit's stays. Where that leaves nothing to change, there is no new version: the newest is returned.
        `lease` is the one under which the tree was written: it is renewed before and after the head changes.
        `check` is called with the root that is newest, and may refuse by raising.

        Once this returns, the version outlives a power failure. Until then the volume is as it was.
        """
        while True:
            raw, head = self._head()
            newest = self.load(head.version)
            if check is not None:
                check(newest.root)
            merge = Merge(self.trees)
            merged = root if newest.root == base else merge.merge(base, newest.root, root)
            if merged == newest.root:
                return newest
            number = head.number + 1
            skipped = number & (number - 1)
            written = self.trees.written(merged)
            version = Version(
                number=number,
                root=merged,
                time=self.clock(),
                who=printable(who),
                message=printable(message)[:_MOST_MESSAGE],
                changes=changes_between(self.trees, newest.root, merged),
                files=written.files,
                size=written.size,
                overwritten=tuple(map(printable, merge.overwritten)),
                overwritten_count=merge.overwritten_count,
                parent=head.version,
                own="" if merged == root else root,
                skip=self._find(head, skipped) if skipped >= head.oldest else "",
            )
            blob = self.trees.store.put(msgspec.msgpack.encode(version))
            self.trees.store.settle()
            if lease is not None:
                lease.renew_when_due()
            done = self._swap(raw, msgspec.structs.replace(head, version=blob, number=number))
            if done or self._has(number, blob):  # it may be done though the answer was lost
                if lease is not None:
                    lease.renew_when_due()
                return version

    def forget_before(self, number: int) -> None:
        """Let go of the versions before that one: a collector may take what only they have.

        Raises `VersionNotFoundError` where there is no such version; the newest stays in any case.
        """
        while True:
            raw, head = self._head()
            if number > head.number:
                raise VersionNotFoundError(self.name, number, head.oldest, head.number)
            if number <= head.oldest or self._swap(raw, msgspec.structs.replace(head, oldest=number)):
                return

    def _head(self) -> tuple[bytes, Head]:
        raw = self.names.get(head_name(self.volume_id))
        if raw is None:
            raise VolumeNotFoundError(self.name)
        try:
            return raw, msgspec.json.decode(raw, type=Head)
        except msgspec.MsgspecError as error:
            raise VolumeError(f"The record of volume {self.name!r} is damaged: {error}.") from error

    def _swap(self, raw: bytes, head: Head) -> bool:
        return self.names.swap(head_name(self.volume_id), raw, msgspec.json.encode(head))

    def _has(self, number: int, blob: str) -> bool:
        head = self.head()
        return head.oldest <= number <= head.number and self._find(head, number) == blob

    def _find(self, head: Head, number: int) -> str:
        """The blob of a version that the head still has."""
        blob, at = head.version, head.number
        while at > number:
            version = self.load(blob)
            skipped = at & (at - 1)
            if version.skip and skipped >= number:
                blob, at = version.skip, skipped
            else:
                blob, at = version.parent, at - 1
        return blob


def volumes_reach(store: Store, names: Names) -> Reach:
    """What the volumes in a store need: all their versions, and the trees that leases name. For `collect`.

    What was found is remembered, so that it is quick when it is asked again: make one for each collection.
    """
    trees = Trees(store, kept_entries=0)
    seen: set[str] = set()
    """Blobs whose trees have been walked to their ends, unless one raises: then all is void."""

    def versions() -> Iterator[Version]:
        for name in names.under("volumes"):
            if name.endswith("/head"):
                commits = Commits(trees, names, name.split("/")[1], name.split("/")[1])
                with contextlib.suppress(VolumeNotFoundError):  # deleted just now
                    for blob, version in commits.chain():
                        seen.add(blob)
                        yield version

    def reach(leases: Sequence[LeaseRecord]) -> Iterator[str]:
        nonlocal seen
        for version in versions():
            for root in filter(None, (version.root, version.own)):
                yield from trees.blobs(root, seen)
        for lease in leases:
            for root in lease.trees:
                walked = set(seen)
                try:
                    yield from trees.blobs(root, walked)
                except BlobMissingError:
                    continue  # of a container whose volume was deleted, part of it may be gone
                seen |= walked
        yield from seen

    return reach
