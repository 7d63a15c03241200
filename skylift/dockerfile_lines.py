"""The text of a Dockerfile as instructions: comments, directives, continued lines, here-documents."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from skylift.exceptions import InvalidError

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.*?)\s*")
_DIRECTIVES = frozenset({"check", "escape", "syntax"})
_HEREDOC = re.compile(r"""\d*<<(-?)(["']?)([A-Za-z_][^<>"'\s]*)\2""")
_WITH_HEREDOCS = frozenset({"ADD", "COPY", "RUN"})
_FLAG = re.compile(r"--([a-z][a-z-]*)(?:=(\S*))?(?:\s+|$)")


class Heredoc(NamedTuple):
    """A text that stands in the file itself."""

    word: str
    """What stands for it in the instruction: ``<<-"NAME"``."""
    name: str
    content: str
    expand: bool
    """Its name was not quoted: variables in it are replaced."""


class Instruction(NamedTuple):
    """One instruction, which may have been on several lines."""

    file: str
    line: int
    """Where it begins, from 1."""
    word: str
    """In capitals."""
    flags: tuple[tuple[str, str], ...]
    """``--name=value`` at its beginning; a value that is not there is ``"true"``."""
    rest: str
    """What follows, without the white space around it."""
    heredocs: tuple[Heredoc, ...] = ()
    raw: str = ""
    """`rest` with the here-documents as they are in the file."""

    def refuse(self, problem: str) -> NoReturn:
        """Raises `InvalidError`, which says where."""
        raise InvalidError(f"{self.file}, line {self.line}: {self.word}: {problem}")

    def words_of_list(self) -> tuple[str, ...] | None:
        """The words of the form ``["a", "b"]``; None where it has another."""
        if not self.rest.startswith("["):
            return None
        try:
            words = json.loads(self.rest)
        except ValueError:
            return None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            return None
        return tuple(words)


class Instructions(NamedTuple):
    """A whole file."""

    all: tuple[Instruction, ...]
    escape: str


def read_instructions(text: str, file: str) -> Instructions:
    r"""The instructions of a file, and the character that escapes (``\``, or ````` where it says so).

    Raises `InvalidError`.
    """
    lines = text.removeprefix("\ufeff").splitlines()
    escape = _escape(lines, file)
    continued = re.compile(re.escape(escape) + r"[ \t]*$")
    found: list[Instruction] = []
    number = 0
    while number < len(lines):
        begin = number
        line = lines[number]
        number += 1
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        whole = ""
        while continued.search(line):
            whole += continued.sub("", line)
            while number < len(lines) and (
                not lines[number].strip() or lines[number].lstrip().startswith("#")
            ):
                number += 1
            if number == len(lines):
                line = ""
                break
            line = lines[number]
            number += 1
        whole = (whole + line).strip()
        instruction = _instruction(file, begin + 1, whole)
        if instruction.word in _WITH_HEREDOCS and not instruction.rest.startswith("["):
            instruction, number = _with_heredocs(instruction, lines, number, escape)
        found.append(instruction)
    return Instructions(tuple(found), escape)


def split_words(text: str, escape: str) -> list[str]:
    """Words between white space; quotes and what is escaped stay as they are."""
    words: list[str] = []
    word = quote = ""
    at = 0
    while at < len(text):
        char = text[at]
        if char == escape and quote != "'" and at + 1 < len(text):
            word += text[at : at + 2]
            at += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char.isspace():
            if word:
                words.append(word)
            word = ""
            at += 1
            continue
        word += char
        at += 1
    if word:
        words.append(word)
    return words


def _escape(lines: Sequence[str], file: str) -> str:
    escape = "\\"
    for number, line in enumerate(lines, 1):
        match = _DIRECTIVE.fullmatch(line.strip())
        if match is None or match[1].lower() not in _DIRECTIVES:
            break
        if match[1].lower() == "escape":
            if match[2] not in ("\\", "`"):
                raise InvalidError(f"{file}, line {number}: escape is \\ or `, not {match[2]!r}")
            escape = match[2]
    return escape


def _instruction(file: str, line: int, whole: str) -> Instruction:
    word, *more = whole.split(None, 1)
    rest = more[0] if more else ""
    flags = []
    if word.upper() != "HEALTHCHECK":
        while match := _FLAG.match(rest):
            flags.append((match[1], match[2] if match[2] is not None else "true"))
            rest = rest[match.end() :]
    return Instruction(file, line, word.upper(), tuple(flags), rest, (), rest)


def _with_heredocs(
    instruction: Instruction, lines: Sequence[str], number: int, escape: str
) -> tuple[Instruction, int]:
    """The instruction with the texts that follow it, and the line after them."""
    heredocs = []
    raw = instruction.rest
    for word in split_words(instruction.rest, escape):
        match = _HEREDOC.fullmatch(word)
        if match is None:
            continue
        tabs, quote, name = match[1] == "-", match[2], match[3]
        begin = number
        while number < len(lines) and (lines[number].lstrip("\t") if tabs else lines[number]) != name:
            number += 1
        if number == len(lines):
            instruction.refuse(f"<<{name} has no end: a line with nothing but {name}")
        body = lines[begin:number]
        number += 1
        raw += "\n" + "\n".join([*body, lines[number - 1]])
        content = "".join(f"{line.lstrip(chr(9)) if tabs else line}\n" for line in body)
        heredocs.append(Heredoc(word, name, content, not quote))
    return instruction._replace(heredocs=tuple(heredocs), raw=raw), number
