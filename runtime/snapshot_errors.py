"""What can be wrong with a snapshot.

::

    SnapshotError
    ├── SnapshotSpaceError         no room on a disk; nothing half is left
    ├── SnapshotMissingError       the store has no such snapshot (any more)
    ├── SnapshotDamagedError       its bytes are not what was written: retire it
    └── SnapshotUnreachableError   the store does not answer: another time it may
"""

from __future__ import annotations


class SnapshotError(Exception):
    """A snapshot cannot be written or restored."""


class SnapshotSpaceError(SnapshotError):
    """There is no room for it on a disk."""


class SnapshotMissingError(SnapshotError):
    """The store does not have it."""


class SnapshotDamagedError(SnapshotError):
    """It, or a part of it, is not what was written."""


class SnapshotUnreachableError(SnapshotError):
    """The store cannot be read now."""
