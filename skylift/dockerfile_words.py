"""Variables in the words of a Dockerfile: ``$NAME``, ``${NAME:-else}``, quotes, and what is escaped."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)\})")


class OfBase(NamedTuple):
    """A variable of which only the image that all begins with knows what it is."""

    name: str


Value: TypeAlias = tuple["str | OfBase", ...]
"""Pieces that follow each other."""
Lookup: TypeAlias = Callable[[str], "Value | None"]
"""What a variable is; None for one that is not set."""


class WordError(Exception):
    """Words that mean nothing. The message says why, for people."""


def expand(word: str, lookup: Lookup, escape: str, *, quotes: bool = True) -> Value:
    """One word without its quotes, and with what its variables are.

    Without `quotes` (in a here-document) they are characters as others. Raises `WordError`.
    """
    value, at = _Reader(word, lookup, escape, quotes).read(0, until="")
    assert at == len(word)
    return joined(value)


def joined(pieces: Sequence[str | OfBase]) -> Value:
    """With texts that follow each other in one piece."""
    value: list[str | OfBase] = []
    for piece in pieces:
        if piece == "":
            continue
        if isinstance(piece, str) and value and isinstance(value[-1], str):
            value[-1] += piece
        else:
            value.append(piece)
    return tuple(value)


def plain(value: Value) -> str:
    """As text. Raises `WordError` where only the base image knows a part of it."""
    for piece in value:
        if isinstance(piece, OfBase):
            raise WordError(
                f"${piece.name} is set neither by ENV nor by ARG here, and what the base image has is known "
                "only in ENV and RUN"
            )
    return "".join(str(piece) for piece in value)


def template(value: Value) -> str:
    """As the text of `Configure.env` with `Configure.expand`."""
    return "".join(
        f"${{{piece.name}}}" if isinstance(piece, OfBase) else piece.replace("$", "$$") for piece in value
    )


def from_template(text: str) -> Value:
    """What `template` was given."""
    pieces: list[str | OfBase] = []
    at = 0
    for match in _REFERENCE.finditer(text):
        pieces += [text[at : match.start()], OfBase(match[1]) if match[1] else "$"]
        at = match.end()
    return joined([*pieces, text[at:]])


class _Reader:
    def __init__(self, text: str, lookup: Lookup, escape: str, quotes: bool) -> None:
        self._text = text
        self._lookup = lookup
        self._escape = escape
        self._quotes = quotes

    def read(self, at: int, until: str) -> tuple[list[str | OfBase], int]:
        """The pieces up to a character, and where that is."""
        text = self._text
        pieces: list[str | OfBase] = []
        quoted = False
        while at < len(text):
            char = text[at]
            if char == until and not quoted:
                return pieces, at
            if char == self._escape:
                if at + 1 == len(text):
                    pieces.append(char)
                    at += 1
                    continue
                following = text[at + 1]
                special = following in ('"', "$", self._escape) if self._quotes else following in "$\\"
                literal = quoted or not self._quotes
                pieces.append(following if not literal or special else char + following)
                at += 2
            elif char == "'" and not quoted and self._quotes:
                end = text.find("'", at + 1)
                if end < 0:
                    raise WordError(f"a ' without its end in {text}")
                pieces.append(text[at + 1 : end])
                at = end + 1
            elif char == '"' and self._quotes:
                quoted = not quoted
                at += 1
            elif char == "$":
                more, at = self._variable(at + 1)
                pieces += more
            else:
                pieces.append(char)
                at += 1
        if quoted:
            raise WordError(f'a " without its end in {text}')
        if until:
            raise WordError(f"a ${{ without its }} in {text}")
        return pieces, at

    def _variable(self, at: int) -> tuple[list[str | OfBase], int]:
        text = self._text
        match = _NAME.match(text, at)
        if match:
            return list(self._lookup(match[0]) or ()), match.end()
        if at == len(text) or text[at] != "{":
            return ["$"], at
        match = _NAME.match(text, at + 1)
        if match is None:
            raise WordError(f"{text[at - 1 :]} does not begin with a variable's name")
        name, at = match[0], match.end()
        value = self._lookup(name)
        if at < len(text) and text[at] == "}":
            return list(value or ()), at + 1
        if at == len(text):
            raise WordError(f"a ${{ without its }} in {text}")
        colon = text[at : at + 1] == ":"
        at += colon
        operator = text[at : at + 1]
        if operator not in ("-", "+", "?"):
            raise WordError(f"of ${{{name}…}} only :-, :+, :?, -, + and ? can be used")
        other, at = self.read(at + 1, until="}")
        if value is not None and any(isinstance(piece, OfBase) for piece in value):
            raise WordError(
                f"whether ${name} is set is known only to the base image: set it with ENV or ARG first"
            )
        there = value is not None and (bool(value) or not colon)
        if operator == "?":
            if not there:
                raise WordError(plain(joined(other)) or f"${name} is not set")
            return list(value or ()), at + 1
        if operator == "+":
            return (other if there else []), at + 1
        return (list(value or ()) if there else other), at + 1
