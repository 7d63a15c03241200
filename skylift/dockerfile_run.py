"""``RUN``, ``CMD`` and ``ENTRYPOINT`` of a Dockerfile as commands."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from skylift.dockerfile_lines import Instruction

_NO_MATTER = frozenset({"cache", "tmpfs"})
"""Mounts without which a command does the same, more slowly perhaps."""
_DEFAULTS = {"network": "default", "security": "sandbox"}


def command_of(instruction: Instruction) -> str:
    """The command of a ``RUN``, for a shell. Raises `InvalidError`."""
    for flag, value in instruction.flags:
        if flag == "mount":
            _check_mount(instruction, value)
        elif flag not in _DEFAULTS:
            instruction.refuse(f"--{flag} is not known")
        elif value != _DEFAULTS[flag]:
            instruction.refuse(f"--{flag}={value} is not supported, only {_DEFAULTS[flag]}")
    if not instruction.rest:
        instruction.refuse("has no command")
    words = instruction.words_of_list()
    if words is not None:
        if not words:
            instruction.refuse("has no command")
        return shlex.join(words)
    if len(instruction.heredocs) == 1 and instruction.rest.split()[0] == instruction.rest:
        return _script(instruction)
    return instruction.raw


def process_words(instruction: Instruction, shell: Sequence[str]) -> tuple[str, ...]:
    """What a ``CMD`` or ``ENTRYPOINT`` starts."""
    words = instruction.words_of_list()
    if words is not None:
        return words
    return (*shell, instruction.rest) if instruction.rest else ()


def _check_mount(instruction: Instruction, value: str) -> None:
    kind = "bind"
    for option in value.split(","):
        name, _, what = option.partition("=")
        if name == "type":
            kind = what
    if kind in _NO_MATTER:
        return
    instead = {
        "bind": "COPY what the command needs, and remove it in the same image if it is large",
        "secret": "use Image.run_commands(..., secrets=[...])",
        "ssh": "use Image.run_commands(..., secrets=[...]) with a token in place of a key",
    }
    instruction.refuse(
        f"--mount=type={kind} is not supported (cache and tmpfs are, and have no effect): "
        f"{instead.get(kind, 'no such type')}"
    )


def _script(instruction: Instruction) -> str:
    """A here-document that is the command itself; with ``#!`` it is a program."""
    content = instruction.heredocs[0].content
    if not content.startswith("#!"):
        return content
    end = "SKYLIFT_END"
    while end in content:
        end += "_"
    return (
        f"script=$(mktemp) && cat >\"$script\" <<'{end}'\n{content}{end}\n"
        'chmod 700 "$script" && "$script"; code=$?; rm -f "$script"; exit $code'
    )
