"""Dockerfiles: their text and a folder become the steps of an image.

For `skylift.image`::

    steps = parse_dockerfile(
        text, name="Dockerfile", context=Path("."), build_args={"VERSION": "3"}, add_files=pack
    )

``pack(files, target=, label=)`` is called for each ``COPY`` or ``ADD`` that takes files of the context, and
returns the `AddFiles` step. The files, whose paths are relative to `target`, are all there is: of a folder
that is among them, nothing else is to be taken.

For instructions on top of an image (``dockerfile_commands``), `base` has that image's steps; the text has no
``FROM`` then, and what is returned begins with `base`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from skylift.dockerfile_context import BuildContext, ContextError
from skylift.dockerfile_copy import Copying, PackFiles
from skylift.dockerfile_lines import Instruction, Instructions, read_instructions, split_words
from skylift.dockerfile_run import command_of, process_words
from skylift.dockerfile_state import SHELL, State
from skylift.dockerfile_words import Value, WordError, expand, plain
from skylift.exceptions import InvalidError
from skylift.wire.images import (
    Configure,
    FromRegistry,
    FromScratch,
    ImageDefinition,
    ImageStep,
    RunCommands,
)

__all__ = ["PackFiles", "parse_dockerfile"]

PLATFORM = "linux/amd64"
"""What ``TARGETPLATFORM`` and the like say; the image itself is that of the host's machine."""
_LABEL = 100
_IGNORED = frozenset({"EXPOSE", "HEALTHCHECK", "LABEL", "MAINTAINER", "STOPSIGNAL", "VOLUME"})
_PROXIES = frozenset({"ALL_PROXY", "FTP_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"})
_STAGE = re.compile(r"[a-z][a-z0-9._-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ROOT = re.compile(r"(root|0)(:(root|0))?")
_OF_PLATFORM = {
    f"{whose}{what}": value
    for whose in ("TARGET", "BUILD")
    for what, value in (("PLATFORM", PLATFORM), ("OS", "linux"), ("ARCH", "amd64"), ("VARIANT", ""))
}


def parse_dockerfile(
    text: str,
    *,
    name: str = "Dockerfile",
    context: Path | None = None,
    build_args: Mapping[str, str] | None = None,
    base: tuple[ImageStep, ...] | None = None,
    add_files: PackFiles,
    target: str = "",
    add_python: str = "",
    username: str = "",
    password: str = "",
) -> tuple[ImageStep, ...]:
    """The steps that a Dockerfile describes.

    `name` is for messages. Without `context` there are no files to copy. `target` is the stage to stop at,
    by default the last one; stages that it does not need are not looked at. `add_python`, `username` and
    `password` are for what the image begins with (`FromRegistry`); the two latter for every registry that is
    named.

    Raises `InvalidError` with the line, for what is wrong or cannot be done here, and OSError where a file of
    the context cannot be read.
    """
    file = read_instructions(text, name)
    credentials = {"username": username, "password": password}
    reader = _Reader(file, name, context, build_args or {}, add_files, credentials)
    return reader.on_top_of(base) if base is not None else reader.whole(target, add_python)


class _Stage(NamedTuple):
    opening: Instruction
    base: str
    name: str
    instructions: tuple[Instruction, ...]


class _Reader:
    """Turns the instructions of one file into steps."""

    def __init__(
        self,
        file: Instructions,
        name: str,
        context: Path | None,
        build_args: Mapping[str, str],
        add_files: PackFiles,
        credentials: Mapping[str, str],
    ) -> None:
        self._file = file
        self._name = name
        self._folder = context
        self._context: BuildContext | None = None
        self._build_args = build_args
        self._add_files = add_files
        self._credentials = credentials
        self._global: dict[str, str] = {}
        self._stages: list[_Stage] = []
        self._read: dict[int, State] = {}
        self._check_build_args()

    def on_top_of(self, base: tuple[ImageStep, ...]) -> tuple[ImageStep, ...]:
        for instruction in self._file.all:
            if instruction.word == "FROM":
                instruction.refuse("these commands go on top of an image, and have no FROM of their own")
        state = State(base)
        self._follow(self._file.all, state, before=0)
        return tuple(state.steps)

    def whole(self, target: str, add_python: str) -> tuple[ImageStep, ...]:
        self._find_stages()
        number = len(self._stages) - 1
        if target:
            wanted = self._stage_number(target, len(self._stages))
            if wanted is None:
                named = ", ".join(stage.name for stage in self._stages if stage.name) or "none with a name"
                raise InvalidError(f"{self._name} has no stage {target!r}; its stages are {named}")
            number = wanted
        steps = self._stage(number).steps
        if add_python:
            first = steps[0]
            if not isinstance(first, FromRegistry):
                raise InvalidError(f"{self._name} begins with scratch, to which no Python can be added")
            steps = [FromRegistry(**{**_fields(first), "add_python": add_python}), *steps[1:]]
        return tuple(steps)

    # --- stages ----------------------------------------------------------------------------------

    def _find_stages(self) -> None:
        opening: tuple[Instruction, str, str] | None = None
        body: list[Instruction] = []
        for instruction in self._file.all:
            if instruction.word == "FROM":
                if opening is not None:
                    self._stages.append(_Stage(*opening, tuple(body)))
                opening, body = self._from(instruction), []
            elif opening is not None:
                body.append(instruction)
            elif instruction.word == "ARG":
                self._arg(instruction, self._global, self._lookup_global, {})
            else:
                instruction.refuse("before the first FROM there can only be ARG")
        if opening is None:
            raise InvalidError(f"{self._name} has no FROM: it must say what the image begins with")
        self._stages.append(_Stage(*opening, tuple(body)))

    def _from(self, instruction: Instruction) -> tuple[Instruction, str, str]:
        words = [self._plain(instruction, word, self._lookup_global) for word in instruction.rest.split()]
        for flag, value in instruction.flags:
            if flag != "platform":
                instruction.refuse(f"--{flag} is not known; --platform is")
            platform = self._plain(instruction, value, self._lookup_global)
            if platform not in ("linux", PLATFORM):
                instruction.refuse(
                    f"--platform={platform} is not supported: images are those of the host's machine"
                )
        if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
            instruction.refuse("is written FROM IMAGE or FROM IMAGE AS NAME")
        if not words[0]:
            instruction.refuse(f"{instruction.rest.split()[0]} is empty; give an ARG before FROM a default")
        stage = words[2].lower() if len(words) == 3 else ""
        if stage and not _STAGE.fullmatch(stage):
            instruction.refuse(f"{words[2]!r} cannot be the name of a stage: letters, digits, . _ -")
        return instruction, words[0], stage

    def _stage_number(self, name: str, before: int) -> int | None:
        for number in range(before - 1, -1, -1):
            if self._stages[number].name == name.lower():
                return number
        return int(name) if name.isdigit() and int(name) < before else None

    def _stage(self, number: int) -> State:
        if number in self._read:
            return self._read[number]
        stage = self._stages[number]
        earlier = self._stage_number(stage.base, number) if not stage.base.isdigit() else None
        if earlier is not None:
            state = State(self._stage(earlier).steps)
        elif stage.base == "scratch":
            state = State([FromScratch(label="FROM scratch")])
        else:
            state = State([self._registry(stage.base)])
        self._follow(stage.instructions, state, before=number)
        self._read[number] = state
        return state

    def _registry(self, reference: str) -> FromRegistry:
        return FromRegistry(reference=reference, label=f"FROM {reference}", **self._credentials)

    # --- instructions ----------------------------------------------------------------------------

    def _follow(self, instructions: Sequence[Instruction], state: State, *, before: int) -> None:
        for name, value in self._build_args.items():
            if name.upper() in _PROXIES:
                state.args[name] = value
        for instruction in instructions:
            self._one(instruction, state, before)

    def _one(self, instruction: Instruction, state: State, before: int) -> None:
        try:
            self._apply(instruction, state, before)
        except (WordError, ContextError) as error:
            instruction.refuse(str(error))

    def _apply(self, instruction: Instruction, state: State, before: int) -> None:
        word = instruction.word
        if word in _IGNORED:
            return
        if word not in ("RUN", "COPY", "ADD") and instruction.flags:
            instruction.refuse(f"--{instruction.flags[0][0]} is not known here")
        if word == "RUN":
            self._run(instruction, state)
        elif word in ("COPY", "ADD"):
            Copying(
                instruction,
                state,
                self._file.escape,
                self._add_files,
                self._build_context,
                lambda name: self._image(instruction, name, before),
            ).follow()
        elif word == "ENV":
            state.set_env(self._env(instruction, state), _label(instruction))
        elif word == "ARG":
            self._arg(instruction, state.args, state.lookup, self._global)
        elif word == "WORKDIR":
            folder = self._plain(instruction, instruction.rest, state.lookup)
            if not folder:
                instruction.refuse("names no folder")
            state.enter(folder, _label(instruction))
        elif word == "USER":
            user = self._plain(instruction, instruction.rest, state.lookup)
            if not _ROOT.fullmatch(user):
                instruction.refuse(
                    f"{user} is not supported: in a container all runs as root, who outside of it is an "
                    "ordinary user without rights. Leave the line out"
                )
        else:
            self._process(instruction, state)

    def _process(self, instruction: Instruction, state: State) -> None:
        word, label = instruction.word, _label(instruction)
        if word == "CMD":
            state.cmd_set = True
            state.configure(Configure(cmd=process_words(instruction, state.shell), label=label))
        elif word == "ENTRYPOINT":
            # A command that was meant for another entry point is gone with it.
            cmd = None if state.cmd_set else ()
            entrypoint = process_words(instruction, state.shell)
            state.configure(Configure(entrypoint=entrypoint, cmd=cmd, label=label))
        elif word == "SHELL":
            shell = instruction.words_of_list()
            if not shell:
                instruction.refuse('is written SHELL ["/bin/bash", "-c"]')
            state.configure(Configure(shell=shell, label=label))
        elif word == "ONBUILD":
            instruction.refuse("is not supported: images are described by what they do themselves")
        else:
            instruction.refuse(
                "is not known. Known are FROM, RUN, COPY, ADD, ENV, ARG, WORKDIR, ENTRYPOINT, CMD, SHELL, "
                f"USER root; {', '.join(sorted(_IGNORED))} have no effect"
            )

    def _run(self, instruction: Instruction, state: State) -> None:
        command = command_of(instruction)
        label = _label(instruction)
        env = state.run_env()
        if instruction.words_of_list() is None or state.shell == SHELL:
            state.add(RunCommands(commands=(command,), env=env, label=label))
            return
        # A list of words is run as it is, whatever SHELL says.
        shell = state.shell
        state.configure(Configure(shell=SHELL, label=label))
        state.add(RunCommands(commands=(command,), env=env, label=label))
        state.configure(Configure(shell=shell, label=label))

    def _env(self, instruction: Instruction, state: State) -> dict[str, Value]:
        words = split_words(instruction.rest, self._file.escape)
        if not words:
            instruction.refuse("is written ENV NAME=VALUE")
        if "=" not in words[0]:  # ENV NAME all that follows
            name, *more = instruction.rest.split(None, 1)
            if not more:
                instruction.refuse(f"{name} has no value; write ENV {name}=VALUE")
            return {self._variable(instruction, name): expand(more[0], state.lookup, self._file.escape)}
        values: dict[str, Value] = {}
        for word in words:
            name, equals, value = word.partition("=")
            if not equals:
                instruction.refuse(f"{word} has no value; put a value with spaces in quotes")
            values[self._variable(instruction, name)] = expand(value, state.lookup, self._file.escape)
        return values

    def _arg(
        self,
        instruction: Instruction,
        args: dict[str, str],
        lookup: Callable[[str], Value | None],
        outer: Mapping[str, str],
    ) -> None:
        words = split_words(instruction.rest, self._file.escape)
        if not words:
            instruction.refuse("is written ARG NAME or ARG NAME=DEFAULT")
        for word in words:
            name, equals, default = word.partition("=")
            self._variable(instruction, name)
            if name in self._build_args:
                args[name] = self._build_args[name]
            elif equals:
                args[name] = self._plain(instruction, default, lookup)
            elif name in outer or name in _OF_PLATFORM:
                args[name] = outer.get(name, _OF_PLATFORM.get(name, ""))

    # --- parts -----------------------------------------------------------------------------------

    def _lookup_global(self, name: str) -> Value | None:
        if name not in self._global and name not in _OF_PLATFORM:
            return None
        value = self._global.get(name, _OF_PLATFORM.get(name, ""))
        return (value,) if value else ()

    def _plain(self, instruction: Instruction, word: str, lookup: Callable[[str], Value | None]) -> str:
        try:
            return plain(expand(word, lookup, self._file.escape))
        except WordError as error:
            instruction.refuse(str(error))

    def _variable(self, instruction: Instruction, name: str) -> str:
        if not _VARIABLE.fullmatch(name):
            instruction.refuse(f"{name!r} cannot be the name of a variable: letters, digits and _")
        return name

    def _image(self, instruction: Instruction, name: str, before: int) -> ImageDefinition:
        """What ``--from`` names."""
        number = self._stage_number(name, before)
        if number is not None:
            return ImageDefinition(steps=tuple(self._stage(number).steps))
        if name.isdigit() or self._stage_number(name, len(self._stages)) is not None:
            instruction.refuse(f"--from={name} is no stage before this one")
        return ImageDefinition(steps=(self._registry(name),))

    def _build_context(self) -> BuildContext:
        if self._folder is None:
            raise ContextError("there is no context to copy from: name its folder")
        if self._context is None:
            self._context = BuildContext(self._folder, self._name)
        return self._context

    def _check_build_args(self) -> None:
        declared = {
            word.partition("=")[0]
            for instruction in self._file.all
            if instruction.word == "ARG"
            for word in split_words(instruction.rest, self._file.escape)
        }
        for name in self._build_args:
            if name not in declared and name.upper() not in _PROXIES:
                known = ", ".join(sorted(declared)) or "none"
                raise InvalidError(
                    f"{self._name} has no ARG {name}, which build_args gives; its ARGs: {known}"
                )


def _fields(step: FromRegistry) -> dict[str, str]:
    return {name: getattr(step, name) for name in step.__struct_fields__}


def _label(instruction: Instruction) -> str:
    words = " ".join(f"{instruction.word} {instruction.rest}".split())
    return words if len(words) <= _LABEL else words[: _LABEL - 1] + "…"
