"""Bytes from messages, and messages from bytes."""

from __future__ import annotations

import struct

import msgspec

from skylift.wire.client_link import ClientMessage, GatewayMessage
from skylift.wire.host_link import HostCommand, HostMessage
from skylift.wire.limits import MAX_FRAME
from skylift.wire.values import Event, Message

# --- encoding ------------------------------------------------------------------------------------

_encoder = msgspec.msgpack.Encoder()
_event_list = msgspec.msgpack.Decoder(list[Event])
_client_message: msgspec.msgpack.Decoder[ClientMessage] = msgspec.msgpack.Decoder(ClientMessage)
_gateway_message: msgspec.msgpack.Decoder[GatewayMessage] = msgspec.msgpack.Decoder(GatewayMessage)
_host_message: msgspec.msgpack.Decoder[HostMessage] = msgspec.msgpack.Decoder(HostMessage)
_host_command: msgspec.msgpack.Decoder[HostCommand] = msgspec.msgpack.Decoder(HostCommand)


def encode(message: Message) -> bytes:
    """The msgpack bytes of a message."""
    return _encoder.encode(message)


def encode_events(events: list[Event]) -> bytes:
    """The `body` of an `Events` frame."""
    return _encoder.encode(events)


def decode_events(body: bytes) -> list[Event]:
    """The events of an `Events` frame. Raises `msgspec.DecodeError` on anything else."""
    return _event_list.decode(body)


def decode_client_message(frame: bytes) -> ClientMessage:
    """Raises `msgspec.DecodeError` (`msgspec.ValidationError` names the field) on malformed frames."""
    return _client_message.decode(frame)


def decode_gateway_message(frame: bytes) -> GatewayMessage:
    """Raises `msgspec.DecodeError` on malformed frames."""
    return _gateway_message.decode(frame)


def decode_host_message(frame: bytes) -> HostMessage:
    """Raises `msgspec.DecodeError` on malformed frames."""
    return _host_message.decode(frame)


def decode_host_command(frame: bytes) -> HostCommand:
    """Raises `msgspec.DecodeError` on malformed frames."""
    return _host_command.decode(frame)


_LENGTH = struct.Struct(">I")


def frame(message: Message) -> bytes:
    """A message of the host link, behind its 4-byte big-endian length."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class FrameBuffer:
    """Cuts a byte stream into the frames of the host link."""

    def __init__(self, limit: int = 4 * MAX_FRAME) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes. Raises ValueError when one is longer than the limit."""
        self._buffer += data
        frames: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= 4:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > self._limit:
                raise ValueError(f"a frame of {length} bytes is over the limit of {self._limit}")
            if len(self._buffer) - start - 4 < length:
                break
            frames.append(bytes(self._buffer[start + 4 : start + 4 + length]))
            start += 4 + length
        if start:
            del self._buffer[:start]
        return frames
