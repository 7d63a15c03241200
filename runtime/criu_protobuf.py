"""As much of protobuf as CRIU's images and its protocol take, without its compiler and its library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types."""


class ProtobufError(ValueError):
    """These bytes are no message."""


def encode(message: Iterable[tuple[int, int | str | bytes]]) -> bytes:
    """A message of these fields: numbers (bools too), texts and messages, in their order."""
    encoded = bytearray()
    for number, value in message:
        if isinstance(value, int):
            encoded += _varint(number << 3 | VARINT) + _varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            encoded += _varint(number << 3 | BYTES) + _varint(len(data)) + data
    return bytes(encoded)


def numbers(message: bytes) -> dict[int, int]:
    """The fields of a message that are numbers."""
    return {number: value for number, _, value, _ in fields(message) if isinstance(value, int)}


def fields(message: bytes) -> Iterator[tuple[int, int, int | bytes, bytes]]:
    """Number, wire type, value and encoded form of each field."""
    at = 0
    value: int | bytes
    while at < len(message):
        start = at
        key, at = _read_varint(message, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _read_varint(message, at)
        else:
            if kind == BYTES:
                length, at = _read_varint(message, at)
            elif kind in (FIXED64, FIXED32):
                length = 8 if kind == FIXED64 else 4
            else:
                raise ProtobufError(f"A message has a field of the unknown kind {kind}.")
            value = message[at : at + length]
            if len(value) != length:
                raise ProtobufError("A message is cut off.")
            at += length
        yield key >> 3, kind, value, message[start:at]


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = shift = 0
    while at < len(message):
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
    raise ProtobufError("A message is cut off.")


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
