"""The sessions of this notebook: which one a ``%%gpu`` cell runs in."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from skylift.exceptions import InvalidError
from skylift.gpu import parse_gpus
from skylift.image import Image
from skylift.magics.gateway import end_session, is_running
from skylift.magics.options import CellOptions, nearest
from skylift.session import Session
from skylift.volume import Volume


@dataclass
class NotebookSession:
    """A session and how it came about."""

    name: str
    session: Session
    options: CellOptions
    """Of the cell that it started with."""
    container_id: str = ""
    """Of the container that its last cell ran in."""
    detached: list[str] = field(default_factory=list)
    """Ids of the cells that were to run on without the notebook."""


class NotebookSessions:
    """By name. A session that was not named has what it runs on for a name: ``"H100"``, ``"cpu"``."""

    def __init__(self) -> None:
        self._by_name: dict[str, NotebookSession] = {}
        self._latest = ""
        self._ends_in = 0

    def __iter__(self) -> Iterator[NotebookSession]:
        return iter(list(self._by_name.values()))

    def for_cell(self, options: CellOptions, namespace: Mapping[str, Any]) -> NotebookSession:
        """The session that a cell with these options runs in: the named one, or the one on these GPUs, or the
        latest where the cell names neither; a new one where there is none, to be kept once it runs.

        Raises `InvalidError` where that session was made of something else.
        """
        name = options.name or options.gpu_text or self._latest
        known = self._by_name.get(name)
        if known is None:
            return self._new(name, options, namespace)
        _check_same(known, options)
        if options.image and _image(options.image, namespace) != known.session.image:
            raise InvalidError(
                f"%%gpu: session {known.name} was started with what {options.image} was then, and it is "
                f"another image now. Another --name makes a second session beside it; %gpu stop {known.name} "
                "ends it, and its variables are gone."
            )
        return known

    def keep(self, known: NotebookSession) -> None:
        """A cell has run in this session: later cells find it, and it is the latest."""
        self._by_name[known.name] = known
        self._latest = known.name
        if not self._ends_in:
            self._ends_in = os.getpid()
            atexit.register(self.end)

    def find(self, name: str) -> NotebookSession:
        """The session of this name, or the latest for "".

        Raises `InvalidError` that names those there are.
        """
        if not self._by_name:
            raise InvalidError("This notebook has no session yet. A %%gpu cell starts one: %%gpu H100")
        known = self._by_name.get(name or self._latest)
        if known is None:
            raise InvalidError(f"This notebook has no session {name!r}; {nearest(name, self._by_name)}")
        return known

    def way_out(self, detail: str) -> str:
        """What frees the GPU that a cell waits for, where an idle session of this notebook has it, or ""."""
        for known in self:
            if f"session {known.name} (idle" in detail:
                return f"%gpu stop {known.name} frees it; %gpu sleep {known.name} does too, and loses nothing"
        return ""

    def of_call(self, call: Mapping[str, Any]) -> NotebookSession:
        """The session that a call (a row of ``/v1/calls``) belongs to: one of this notebook, or one that an
        earlier kernel left behind, which is taken up."""
        for known in self:
            if known.session.session_id == call["session"]:
                return known
        gpu = call["gpu"] or None
        session = Session(name=call["function"], gpu=gpu, session_id=call["session"])
        options = CellOptions(gpus=parse_gpus(gpu), name=call["function"])
        return NotebookSession(call["function"], session, options, call["container_id"])

    def forget(self, session: NotebookSession) -> None:
        """A cell that asks for it gets a new one."""
        self._by_name.pop(session.name, None)
        if self._latest == session.name:
            self._latest = next(reversed(self._by_name), "")

    def end(self) -> None:
        """Ends the sessions, which nobody can reach once this process is gone; the kernel that takes its
        place may want their GPU. One in which a detached cell runs on stays."""
        if self._ends_in != os.getpid():
            return
        for known in self:
            with contextlib.suppress(Exception):
                if not any(is_running(call_id) for call_id in known.detached):
                    end_session(known.session.session_id)

    def _new(self, name: str, options: CellOptions, namespace: Mapping[str, Any]) -> NotebookSession:
        if options.gpus is None:
            if options.name:
                raise InvalidError(
                    f"This notebook has no session {name!r} yet; the first cell says what it runs on: "
                    f"%%gpu H100 --name {name}"
                )
            raise InvalidError(
                "%%gpu: which GPU? Such as %%gpu H100, %%gpu H100,A100-80GB (in order of preference), "
                "%%gpu any, or %%gpu cpu. Later cells may leave it out"
            )
        given: dict[str, Any] = {}
        if options.cpu is not None:
            given["cpu"] = options.cpu
        if options.memory is not None:
            given["memory"] = (options.memory, options.memory)
        if options.idle is not None:
            given["idle_timeout"] = options.idle
        if options.idle_policy:
            given["idle_policy"] = options.idle_policy
        if options.image:
            given["image"] = _image(options.image, namespace)
        if options.volumes:
            given["volumes"] = {
                path: Volume.from_name(volume, create_if_missing=True).with_mount_options(read_only=read_only)
                for path, (volume, read_only) in options.volumes.items()
            }
        session = Session(
            name=name,
            gpu=options.gpu_text.split(",") if options.gpus else None,
            env=options.env or None,
            **given,
        )
        return NotebookSession(name=name, session=session, options=options)


def _image(variable: str, namespace: Mapping[str, Any]) -> Image:
    if variable not in namespace:
        raise InvalidError(f"%%gpu: --image {variable}: this notebook has no variable {variable}")
    image = namespace[variable]
    if not isinstance(image, Image):
        raise InvalidError(
            f"%%gpu: --image {variable}: {variable} is a {type(image).__name__}, and an Image is wanted, "
            "such as Image.debian_slim().pip_install('numpy')"
        )
    return image


def _check_same(known: NotebookSession, options: CellOptions) -> None:
    """A container cannot change what it is made of; its variables would be lost without a word."""
    wanted = replace(options, detach=False, dry_run=False, timeout=None)
    for option, text in (
        ("gpus", "gpu_text"),
        ("cpu", "cpu"),
        ("memory", "memory"),
        ("idle", "idle"),
        ("idle_policy", "idle_policy"),
        ("image", "image"),
        ("env", "env"),
        ("volumes", "volumes"),
    ):
        asked, has = getattr(wanted, option), getattr(known.options, option)
        if asked not in (None, "", {}) and asked != has:
            what = "GPU" if option == "gpus" else f"--{option.replace('_', '-')}"
            raise InvalidError(
                f"%%gpu: session {known.name} was started with {what} {_said(getattr(known.options, text))}, "
                f"and this cell asks for {_said(getattr(options, text))}. Another --name makes a second one "
                f"beside it; %gpu stop {known.name} ends it, and its variables are gone."
            )


def _said(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={_said(text)}" for name, text in value.items()) or "none"
    if isinstance(value, tuple):
        return f"{value[0]}{' (read-only)' if value[1] else ''}"
    return "the default" if value in (None, "") else str(value)
