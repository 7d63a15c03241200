"""Pairs of network interfaces, made by the kernel's own messages: ``ip`` takes much longer to start."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

_RTM_NEWLINK, _RTM_DELLINK = 16, 17
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_EXCL, _NLM_F_CREATE = 1, 4, 0x200, 0x400
_IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_NET_NS_PID = 3, 4, 10, 18, 19
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFF_UP = 1
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HH")


def make_pair(device: str, bridge: str, mtu: int, peer: str, pid: int) -> None:
    """Make an interface that is an isolated port of a bridge; its other end, `peer`, is in the network
    namespace of a process from the first: to move it there takes the kernel 16 ms. Raises OSError.
    """
    size = struct.pack("=I", mtu)
    other = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    other += _attribute(_IFLA_IFNAME, _text(peer)) + _attribute(_IFLA_MTU, size)
    other += _attribute(_IFLA_NET_NS_PID, struct.pack("=I", pid))
    kind = _attribute(_IFLA_INFO_KIND, _text("veth"))
    kind += _attribute(_IFLA_INFO_DATA, _attribute(_VETH_INFO_PEER, other))
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    body += _attribute(_IFLA_IFNAME, _text(device)) + _attribute(_IFLA_MTU, size)
    body += _attribute(_IFLA_MASTER, struct.pack("=I", socket.if_nametoindex(bridge)))
    body += _attribute(_IFLA_LINKINFO, kind)
    _ask(_RTM_NEWLINK, _NLM_F_CREATE | _NLM_F_EXCL, body, device)
    try:
        Path("/sys/class/net", device, "brport/isolated").write_text("1", encoding="ascii")
        up = _LINK.pack(socket.AF_UNSPEC, 0, socket.if_nametoindex(device), _IFF_UP, _IFF_UP)
        _ask(_RTM_NEWLINK, 0, up, device)
    except BaseException:
        delete_link(device)
        raise


def delete_link(device: str) -> None:
    """Remove an interface, and with it the other end. Raises OSError."""
    _ask(_RTM_DELLINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, socket.if_nametoindex(device), 0, 0), device)


def _ask(kind: int, flags: int, body: bytes, device: str) -> None:
    flags |= _NLM_F_REQUEST | _NLM_F_ACK
    message = _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.send(message)
        answer = sock.recv(4096)
    (number,) = struct.unpack_from("=i", answer, _HEADER.size)
    if number:
        raise OSError(-number, f"{device}: {os.strerror(-number)}")


def _attribute(kind: int, content: bytes) -> bytes:
    padding = bytes(-len(content) % 4)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(content), kind) + content + padding


def _text(text: str) -> bytes:
    return text.encode() + b"\0"
