"""References to values that live in a session."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, NoReturn

from skylift.exceptions import SerializationError

if TYPE_CHECKING:
    from skylift.session import Session


class RemoteRef:
    """A value that lives in a session. Works in its next ``%%gpu`` cells without moving.

    When the last reference here to the value is gone, the session is told with its next cell to let go of it.
    """

    session: Session
    ref_id: str
    type_name: str
    """As in ``torch.Tensor``."""
    shape: tuple[int, ...] | None
    dtype: str | None
    device: str | None
    nbytes: int | None
    repr_text: str
    """What ``repr`` gives there, shortened."""
    why: str
    """Why it did not come as itself: ``"size"``, ``"generator"``, ``"device"`` or ``"unpicklable: …"``."""

    def __init__(self, session: Session, described: dict[str, Any]) -> None:
        self.session = session
        self.ref_id = described["id"]
        module = described.get("module", "builtins")
        name = described.get("type", "object")
        self.type_name = name if module in ("builtins", "__main__") else f"{module}.{name}"
        shape = described.get("shape")
        self.shape = None if shape is None else tuple(shape)
        self.dtype = described.get("dtype")
        self.device = described.get("device")
        self.nbytes = described.get("nbytes")
        self.repr_text = described.get("repr", "")
        self.why = described.get("why", "")

    def get(self) -> Any:
        """The value itself, brought here. Raises `SerializationError` where it cannot travel, and
        `NotFoundError` when the session has lost it."""
        return self.session.get(self)

    def __repr__(self) -> str:
        parts = [self.type_name]
        if self.shape is not None:
            parts.append(str(self.shape))
        parts += [part for part in (self.dtype, self.device) if part]
        if self.nbytes is not None:
            parts.append(f"{self.nbytes:,} bytes")
        return f"<RemoteRef {' '.join(parts)} in session {self.session.name or self.session.session_id}>"

    def __reduce__(self) -> NoReturn:
        raise SerializationError(
            f"this {self.type_name} lives in session {self.session.name or self.session.session_id}, and a "
            "reference to it means nothing elsewhere. Use it in a %%gpu cell of that session, or bring the "
            "value here with .get() and pass that"
        )


class References:
    """The references of one session: one object for each value, and which of them are gone."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._alive: weakref.WeakValueDictionary[str, RemoteRef] = weakref.WeakValueDictionary()
        self._gone: set[str] = set()

    def of(self, described: dict[str, Any]) -> RemoteRef:
        """The reference that the session describes; the same object as long as it lives."""
        ref = self._alive.get(described["id"])
        if ref is None:
            ref = RemoteRef(self._session, described)
            self._alive[ref.ref_id] = ref
            self._gone.discard(ref.ref_id)
            weakref.finalize(ref, self._note_gone, ref.ref_id).atexit = False
        return ref

    def _note_gone(self, ref_id: str) -> None:
        self._gone.add(ref_id)

    def take_gone(self) -> list[str]:
        """Those that the session may let go of; each is told once."""
        gone, self._gone = self._gone, set()
        # One that has come back since is wanted again.
        return sorted(gone - set(self._alive))
