"""Two trees that began as the same one become one again, file by file.

What only one side changed is as that side has it. What both changed is as the later one has it: a file is
one side's or the other's, never a mixture. Removing a file is a change like any other, and removing a
directory is the removal of the files that were in it; so a file that the other side has put there meanwhile
stays, and so does its directory. Where one side has a file and the other a directory, the later one's takes
the place, unless all that the later one did to the directory was to remove files of it.
"""

from __future__ import annotations

import msgspec

from skylift.lazyfs.trees import Entry, Trees, Written, dir_entry
from skylift.lazyfs.volume_paths import Parts, text

_MOST_NAMED = 100


class Changes(msgspec.Struct, frozen=True):
    """What one tree has that another does not have."""

    added: int = 0
    """Files and symlinks."""
    changed: int = 0
    removed: int = 0
    bytes_written: int = 0
    """The sizes of those that were added or changed."""
    bytes_removed: int = 0
    """The sizes of those that were removed."""

    def __add__(self, other: Changes) -> Changes:
        return Changes(
            self.added + other.added,
            self.changed + other.changed,
            self.removed + other.removed,
            self.bytes_written + other.bytes_written,
            self.bytes_removed + other.bytes_removed,
        )


def changes_between(trees: Trees, old: str, new: str) -> Changes:
    """Count what differs. Reads only the directories that differ."""
    total = Changes()
    for before, after in trees.differences(old, new).values():
        if before and after and before.kind == "dir" == after.kind:
            total += changes_between(trees, before.blob, after.blob)
        elif before and after and before.kind != "dir" and after.kind != "dir":
            total += Changes(changed=1, bytes_written=after.size)
        else:
            if before:
                total += Changes(removed=before.files, bytes_removed=before.size)
            if after:
                total += Changes(added=after.files, bytes_written=after.size)
    return total


class Merge:
    """Merges the trees of one store."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees
        self._empty = ""
        self.overwritten: list[str] = []
        """Paths that both sides had changed, of which the later one's stayed; the first 100."""
        self.overwritten_count = 0

    def merge(self, base: str, earlier: str, later: str) -> str:
        """The root of the merged tree. Raises what the store raises."""
        self._empty = self._trees.put(()).blob
        return self._directories(base, earlier, later, ()).blob

    def _directories(self, base: str, earlier: str, later: str, at: Parts) -> Written:
        if later in (earlier, base):
            return self._trees.written(earlier)
        if earlier == base:
            return self._trees.written(later)
        ours = self._trees.differences(base, later)
        theirs = self._trees.differences(base, earlier)
        changes: dict[bytes, Entry | None] = {}
        for name, (before, after) in ours.items():
            if name in theirs:
                changes[name] = self._both(before, theirs[name][1], after, (*at, name))
            else:
                changes[name] = after
        return self._trees.change(earlier, changes)

    def _both(
        self, base: Entry | None, earlier: Entry | None, later: Entry | None, at: Parts
    ) -> Entry | None:
        """One name that both sides have changed."""
        if earlier == later:
            return later
        was_directory = base is not None and base.kind == "dir"
        if not (_directory_or_none(earlier) and _directory_or_none(later)):
            if later is not None and later.kind == "dir" and was_directory:
                # The earlier side has put a file here. What the later one put beside it decides.
                kept = self._directory(base, None, later, at)
                if kept is None:
                    return earlier
                self._note(at)
                return kept
            if later is None and was_directory:
                return earlier
            self._note(at)
            return later
        if earlier is None and later is None:
            return None
        if not was_directory and (earlier is None or later is None):
            # A file that one side removed, and of which the other made a directory.
            return later if earlier is None else earlier
        return self._directory(base, earlier, later, at)

    def _directory(
        self, base: Entry | None, earlier: Entry | None, later: Entry | None, at: Parts
    ) -> Entry | None:
        """Directories, or what was one; None where nothing is left in it that either side wanted."""
        base = base if base is not None and base.kind == "dir" else None
        blobs = [entry.blob if entry else self._empty for entry in (base, earlier, later)]
        written = self._directories(blobs[0], blobs[1], blobs[2], at)
        if written.empty and (earlier is None or later is None):
            return None
        one = later or earlier
        if one is None:
            return None
        other = earlier or one
        mode = one.mode if base is None or one.mode != base.mode else other.mode
        return dir_entry(one.name, written, mode, max(one.mtime_ns, other.mtime_ns))

    def _note(self, at: Parts) -> None:
        self.overwritten_count += 1
        if len(self.overwritten) < _MOST_NAMED:
            self.overwritten.append(text(at))


def _directory_or_none(entry: Entry | None) -> bool:
    return entry is None or entry.kind == "dir"
