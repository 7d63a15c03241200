"""What is known of an image while a Dockerfile is read: its steps so far, variables, folders."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence

import msgspec

from skylift.dockerfile_words import OfBase, Value, from_template, plain, template
from skylift.wire.images import AddFiles, Configure, FromScratch, ImageStep

SHELL = ("/bin/sh", "-c")
_FOLDERS = frozenset(
    f"/{path}"
    for path in (
        *(
            "",
            "bin",
            "boot",
            "dev",
            "etc",
            "home",
            "lib",
            "media",
            "mnt",
            "opt",
            "proc",
            "root",
            "run",
            "sbin",
        ),
        *("srv", "sys", "tmp", "usr", "usr/bin", "usr/lib", "usr/local", "usr/local/bin", "usr/local/lib"),
        *("usr/local/sbin", "usr/local/share", "usr/sbin", "usr/share", "var", "var/lib", "var/tmp"),
    )
)
"""Where a file is copied into them, they are taken to be there."""


class State:
    """One stage of a Dockerfile, as far as it was read."""

    def __init__(self, steps: Sequence[ImageStep]) -> None:
        self.steps = list(steps)
        self.env: dict[str, Value] = {}
        self.args: dict[str, str] = {}
        self.shell: tuple[str, ...] = SHELL
        self.workdir: str | None = None
        """None while only the base image knows; then paths stay relative."""
        self.cmd_set = False
        self._base_unknown = not steps or not isinstance(steps[0], FromScratch)
        self._folders: set[str] = set(_FOLDERS)
        if not self._base_unknown:
            self.workdir = "/"
        for step in steps:
            if isinstance(step, Configure):
                self._note(step)
            elif isinstance(step, AddFiles):
                self._folders.add(step.target)

    def lookup(self, name: str) -> Value | None:
        """What a variable is; None for one that is not set."""
        if name in self.env:
            return self.env[name]
        if name in self.args:
            return (self.args[name],) if self.args[name] else ()
        return (OfBase(name),) if self._base_unknown else None

    def run_env(self) -> dict[str, str]:
        """What commands have beside the image's environment."""
        return {name: value for name, value in self.args.items() if name not in self.env}

    def set_env(self, values: Mapping[str, Value], label: str) -> None:
        """For all that follows; what the values refer to is how it was before."""
        if any(isinstance(piece, OfBase) for value in values.values() for piece in value):
            env = {name: template(value) for name, value in values.items()}
            self.configure(Configure(env=env, expand=True, label=label))
        else:
            self.configure(Configure(env={name: plain(value) for name, value in values.items()}, label=label))

    def configure(self, step: Configure) -> None:
        """What containers begin with; of several in a row one step is made."""
        last = self.steps[-1] if self.steps else None
        self._note(step)
        if isinstance(last, Configure) and last.expand == step.expand and not step.expand:
            said = {name: getattr(step, name) for name in ("workdir", "entrypoint", "cmd", "shell")}
            said = {name: value for name, value in said.items() if value is not None}
            label = f"{last.label}; {step.label}" if last.label and step.label else last.label or step.label
            self.steps[-1] = msgspec.structs.replace(
                last, env={**last.env, **step.env}, label=label[:200], **said
            )
        else:
            self.steps.append(step)

    def add(self, step: ImageStep) -> None:
        """A step that adds files or runs commands."""
        self.steps.append(step)
        if isinstance(step, AddFiles):
            self._folders.add(step.target)

    def absolute(self, path: str) -> str:
        """A path of the image; relative still where only the base image knows its folder."""
        clean = posixpath.normpath(posixpath.join(self.workdir or "", path))
        return "/" + clean.lstrip("/") if clean.startswith("/") else clean

    def is_folder(self, path: str) -> bool:
        """Whether a path, from `absolute`, is a folder as far as is known here."""
        return (
            path in self._folders
            or path == "."
            or any(known.startswith(f"{path}/") for known in self._folders)
        )

    def enter(self, path: str, label: str) -> None:
        """``WORKDIR``: the folder is made, and what follows is relative to it."""
        folder = self.absolute(path)
        self.add(AddFiles(target=folder, archives=(), label=label))
        self.configure(Configure(workdir=folder, label=label))

    def _note(self, step: Configure) -> None:
        for name, text in step.env.items():
            value = from_template(text) if step.expand else ((text,) if text else ())
            known = not any(isinstance(piece, OfBase) for piece in value)
            self.env[name] = value if known else (OfBase(name),)
        if step.workdir is not None:
            folder = self.absolute(step.workdir)
            self.workdir = folder if folder.startswith("/") else None
            # What is relative is so to another folder now.
            self._folders = {known for known in self._folders if known.startswith("/")}
            self._folders |= {self.workdir} if self.workdir else set()
        if step.shell is not None:
            self.shell = step.shell or SHELL
