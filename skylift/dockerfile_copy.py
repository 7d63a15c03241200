"""``COPY`` and ``ADD`` of a Dockerfile."""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Callable, Sequence
from typing import Protocol

from skylift.dockerfile_context import BuildContext, Source
from skylift.dockerfile_lines import Instruction, split_words
from skylift.dockerfile_state import State
from skylift.dockerfile_words import expand, plain
from skylift.local_files import LocalFile
from skylift.wire.images import AddFiles, CopyFrom, ImageDefinition

_URL = re.compile(r"(https?|ftp|git|ssh)://|git@")
_ROOT = re.compile(r"(root|0)(:(root|0))?")
_MODE = re.compile(r"0?[0-7]{3,4}")


class PackFiles(Protocol):
    """Makes the step that adds files to an image."""

    def __call__(self, files: Sequence[LocalFile], *, target: str, label: str) -> AddFiles:
        """`target` is the `AddFiles.target`. Without files it only makes the folder."""


class Copying:
    """One such instruction."""

    def __init__(
        self,
        instruction: Instruction,
        state: State,
        escape: str,
        pack: PackFiles,
        context: Callable[[], BuildContext],
        image: Callable[[str], ImageDefinition],
    ) -> None:
        """`image` is what ``--from`` names."""
        self._instruction = instruction
        self._state = state
        self._escape = escape
        self._pack = pack
        self._context = context
        self._image = image
        self._mode: int | None = None
        self._from = ""

    def follow(self) -> None:
        """Add the steps. Raises `InvalidError`, `WordError`, `ContextError` and OSError."""
        instruction = self._instruction
        self._read_flags()
        words = instruction.words_of_list()
        if words is None:
            texts = {text.word for text in instruction.heredocs}
            words = tuple(
                word if word in texts else self._word(word)
                for word in split_words(instruction.rest, self._escape)
            )
        if len(words) < 2:
            instruction.refuse(f"is written {instruction.word} SOURCE... TARGET")
        *sources, target = words
        into = target.endswith("/") or posixpath.basename(target) in (".", "..")
        path = self._state.absolute(target)
        into = into or self._state.is_folder(path)
        if len(sources) > 1 and not into:
            instruction.refuse(f"of several sources, the target is a folder: write {target}/")
        if self._from:
            self._from_image(sources, path, into)
        else:
            self._from_context(sources, path, into)

    def _word(self, word: str) -> str:
        return plain(expand(word, self._state.lookup, self._escape))

    def _read_flags(self) -> None:
        instruction = self._instruction
        for flag, value in instruction.flags:
            value = self._word(value)
            if flag == "from" and instruction.word == "COPY":
                self._from = value
            elif flag == "chown":
                if not _ROOT.fullmatch(value):
                    instruction.refuse(
                        f"--chown={value} is not supported: files belong to root, as all runs as root. "
                        "Leave it out"
                    )
            elif flag == "chmod":
                if not _MODE.fullmatch(value):
                    instruction.refuse(f"--chmod={value} is not supported; write a number, as --chmod=755")
                self._mode = int(value, 8)
            elif flag != "link":
                instruction.refuse(f"--{flag} is not supported; --from, --chmod and --chown=root are")
        if self._from and self._mode is not None:
            instruction.refuse("--chmod does not go with --from: RUN chmod afterwards")

    def _from_image(self, sources: Sequence[str], path: str, into: bool) -> None:
        image = self._image(self._from)
        for source in sources:
            self._state.add(
                CopyFrom(
                    image=image,
                    source="/" + posixpath.normpath("/" + source).lstrip("/"),
                    target=path.rstrip("/") + "/" if into else path,
                    label=self._label(),
                )
            )

    def _from_context(self, sources: Sequence[str], path: str, into: bool) -> None:
        instruction = self._instruction
        inline = {text.word: text for text in instruction.heredocs}
        files: list[LocalFile] = []
        target = path if into else (posixpath.dirname(path) or ".")
        name = "" if into else posixpath.basename(path)
        for source in sources:
            if (text := inline.get(source)) is not None:
                content = text.content
                if text.expand:
                    content = plain(expand(content, self._state.lookup, self._escape, quotes=False))
                files.append(LocalFile(name or text.name, content=content.encode(), mode=self._mode))
                continue
            if instruction.word == "ADD" and _URL.match(source):
                instruction.refuse(f"{source} is not fetched: RUN curl -fsSLO {source}, with curl installed")
            found = self._context().sources(source)
            if len(found) > 1 and not into:
                instruction.refuse(f"{source} is several files, so the target is a folder: write {path}/")
            for one in found:
                if one.folder:
                    # Its content, not itself.
                    self._folder(one, path)
                    continue
                file = one.content[0].file
                if instruction.word == "ADD" and tarfile.is_tarfile(file):
                    instruction.refuse(
                        f"{source} is an archive, which is not unpacked here: COPY it, then RUN tar -xf"
                    )
                files.append(LocalFile(name or one.name, source=file, mode=self._mode))
        if files:
            self._state.add(self._pack(files, target=target, label=self._label()))

    def _folder(self, source: Source, target: str) -> None:
        files = [LocalFile(found.path, source=found.file, mode=self._mode) for found in source.content]
        self._state.add(self._pack(files, target=target, label=self._label()))

    def _label(self) -> str:
        return " ".join(f"{self._instruction.word} {self._instruction.rest}".split())[:100]
