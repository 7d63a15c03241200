"""A folder of this machine that a container writes to, as a working copy of a volume.

The folder is the upper one of an overlay, with the volume's version as the lower one; or a plain folder that
holds all of it. `Workdir.commit` finds what changed in it since the last commit, sends that, and commits it:
what others have committed meanwhile is merged and not undone. `Workdir.reload` goes on from what is newest.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import threading
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from skylift.lazyfs.leases import Lease, LeaseLostError
from skylift.lazyfs.trees import Entry
from skylift.lazyfs.volume_changes import TICK_NS, FolderChanges, Known, Skipped, fingerprint_of
from skylift.lazyfs.volume_checkout import Checkout
from skylift.lazyfs.volume_commits import Version
from skylift.lazyfs.volume_errors import VolumeBusyError, explaining
from skylift.lazyfs.volume_handle import Volume
from skylift.lazyfs.volume_paths import Parts


class Committed(NamedTuple):
    """What a commit came to."""

    version: Version
    """The newest one; where nothing has changed, that was there before."""
    skipped: tuple[Skipped, ...]


class _State(msgspec.Struct):
    """What is kept in a file, so that another process can go on."""

    lower: str
    """The root of the tree below the overlay; of a plain folder the empty tree."""
    view: str
    """The tree that was last committed from here: what the next commit is compared with."""
    number: int
    """A version that was there when `view` was; later ones may be ours."""
    committing: str = ""
    """A tree that is being committed: it may be done or not."""
    reloading: str = ""
    """A plain folder is becoming this tree: it is not done."""


class Workdir:
    """The working copy of one container. Methods may be called from any thread; one runs at a time.

    While it is in use it holds a lease on the trees that it needs: call `renew` every few minutes, and
    `close` at the end. Its methods raise what those of `Volume` raise.
    """

    def __init__(
        self,
        volume: Volume,
        folder: Path,
        base: Version | None = None,
        *,
        overlay: bool,
        state: Path | None = None,
    ) -> None:
        """`folder` is the overlay's upper one, or a plain folder that has all of `base`, or is to get it.

        With `state`, a file, what has to outlive this process is kept there; where it is there already, this
        goes on where that process was, and `base` is not used. Without it `base` is needed. A plain folder is
        to be empty at first: what the volume has is written to it here.
        """
        self.volume = volume
        self.folder = folder
        self._overlay = overlay
        self._where = f"Volume {volume.name!r}"
        self._commits = volume.commits
        self._trees = volume.commits.trees
        self._file = state
        self._known: dict[Parts, Known] = {}
        self._lock = threading.Lock()
        with explaining(self._where, "opening it"):
            self._empty = self._trees.put(()).blob
            self._resuming = False
            self._state = self._begin(base)
            self._lease = self._take_lease()
            self._finish()
            self._resuming = False
            # Nobody can have written to these files yet. Who does so now gives them another time.
            time.sleep(TICK_NS / 1e9)
            self._known = {parts: known._replace(sure=True) for parts, known in self._known.items()}

    def commit(self, *, who: str = "", message: str = "") -> Committed:
        """Commit what has changed. What is written to meanwhile is left as it was, and named in `skipped`.

        Nothing is sent that the store has. Killed at any moment, this leaves the volume at its last version,
        and the next commit finds the same changes again. Each file is whole; two files may be of different
        moments, where a program writes to both just now.
        """
        with self._lock:
            return self._commit(who, message)

    def reload(self, upper: Path | None = None, *, who: str = "", message: str = "") -> Committed:
        """Commit, then go on from what is newest.

        A plain folder is changed in place: each file that others changed is replaced, unless it was written
        to just now. Of an overlay, `upper` is its new, empty upper folder, to be mounted over the version
        that is returned. Raises `VolumeBusyError` where something could not be committed, and changes nothing
        then.
        """
        with self._lock:
            done = self._commit(who, message)
            reasons = [f"{one.path}: {one.reason}" for one in done.skipped if one.pending]
            if reasons:
                raise VolumeBusyError(self._where, reasons)
            with explaining(self._where, "reloading"):
                if self._overlay:
                    if upper is None:
                        raise ValueError("an overlay needs a new upper folder")
                    self.folder = upper
                    self._known = {}
                    self._save(_State(done.version.root, done.version.root, done.version.number))
                else:
                    self._state.reloading = done.version.root
                    self._state.number = done.version.number
                    self._save(self._state)
                    self.renew()
                    self._finish()
                self.renew()
            return done

    def renew(self) -> None:
        """Say that this is still in use. Raises OSError."""
        try:
            self._lease.renew(self._needed())
        except LeaseLostError:  # this machine slept
            self._lease = self._take_lease()

    def close(self) -> None:
        """Let go of the volume. Nothing is committed here. The folder stays, the file of its state goes."""
        with self._lock:
            if self._file is not None:
                self._file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._lease.end()

    # Committing

    def _commit(self, who: str, message: str) -> Committed:
        with explaining(self._where, "committing"):
            what = f"commit to volume {self.volume.name}"
            with Lease(self._commits.names, what, clock=self._commits.clock) as lease:
                changes = FolderChanges(
                    self._trees,
                    self.folder,
                    self._where,
                    overlay=self._overlay,
                    lower=self._state.lower,
                    view=self._state.view,
                    known=self._known,
                    lease=lease,
                    now_ns=int(self._commits.clock() * 1e9),
                )
                root = changes.write()
                self._known = changes.known
                self._state.committing = root
                self._save(self._state)
                version = self._commits.commit(self._state.view, root, who=who, message=message, lease=lease)
                self._save(_State(self._state.lower, root, version.number))
                self.renew()
        return Committed(version, tuple(changes.skipped))

    def _take_lease(self) -> Lease:
        return Lease(
            self._commits.names,
            f"container with volume {self.volume.name}",
            writing=False,
            trees=self._needed(),
            clock=self._commits.clock,
        )

    def _begin(self, base: Version | None) -> _State:
        if self._file is not None:
            with contextlib.suppress(FileNotFoundError):
                state = msgspec.json.decode(self._file.read_bytes(), type=_State)
                self._resuming = True
                return state
        if base is None:
            raise ValueError("a working copy needs a version to begin with")
        if self._overlay:
            state = _State(base.root, base.root, base.number)
        else:
            state = _State(self._empty, self._empty, base.number, reloading=base.root)
        self._save(state)
        return state

    def _finish(self) -> None:
        """What the process before was doing when it was killed, and a reload."""
        state = self._state
        if state.committing:
            for version in self._commits.history():
                if version.number <= state.number:
                    break
                if state.committing in (version.root, version.own):
                    state.view, state.number = state.committing, version.number
                    break
            state.committing = ""
            self._save(state)
        if state.reloading:
            Checkout(self._trees, self.folder, self._may_replace, self._wrote).run(
                state.view, state.reloading
            )
            self._save(_State(self._empty, state.reloading, state.number))

    def _may_replace(self, parts: Parts, folder: int) -> bool:
        """Only what is as it was committed: else somebody has written to it since."""
        try:
            status = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return True
        if stat.S_ISLNK(status.st_mode):
            return True
        known = self._known.get(parts)
        if known is None:
            return self._resuming  # what is there may be half of what was written before a kill
        return known.fingerprint == fingerprint_of(status)

    def _wrote(self, parts: Parts, folder: int, entry: Entry) -> None:
        if entry.kind == "file":
            status = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
            self._known[parts] = Known(fingerprint_of(status), entry, False)

    def _needed(self) -> tuple[str, ...]:
        state = self._state
        return tuple({root for root in (state.lower, state.view, state.committing, state.reloading) if root})

    def _save(self, state: _State) -> None:
        self._state = state
        if self._file is None:
            return
        temporary = self._file.with_name(f"{self._file.name}.{secrets.token_hex(8)}")
        try:
            with temporary.open("xb") as file:
                file.write(msgspec.json.encode(state))
                file.flush()
                os.fdatasync(file.fileno())
            temporary.replace(self._file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
