"""Pairs of network interfaces, made by the kernel's own messages: ``ip`` takes much longer to start."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

_RTM_NEWLINK, _RTM_DELLINK, _RTM_NEWNEIGH = 16, 17, 28
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_REPLACE, _NLM_F_EXCL, _NLM_F_CREATE = 1, 4, 0x100, 0x200, 0x400
_AF_BRIDGE, _NTF_MASTER, _NUD_NOARP, _NUD_PERMANENT = 7, 4, 0x40, 0x80
_NDA_DST, _NDA_LLADDR = 1, 2
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_NET_NS_PID = 1, 3, 4, 10, 18, 19
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFF_UP = 1
_SET = _NLM_F_CREATE | _NLM_F_REPLACE
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HH")
_NEIGHBOUR = struct.Struct("=BxxxiHBx")


def hardware_address(address: str) -> bytes:
    """That of the interface which has this IPv4 address: so what is known of one holds for the next, too."""
    return b"\x02\x53" + socket.inet_aton(address)


def make_pair(device: str, bridge: str, mtu: int, peer: str, pid: int, address: str) -> None:
    """Make an interface that is an isolated port of a bridge; its other end, `peer`, is in the network
    namespace of a process from the first: to move it there takes the kernel 16 ms. Raises OSError.

    What is for `address` goes to it, whatever others on the bridge say of themselves: a process that has not
    given up its privileges yet could take another's address.
    """
    hardware, index = hardware_address(address), socket.if_nametoindex(bridge)
    size = struct.pack("=I", mtu)
    other = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    other += _attribute(_IFLA_IFNAME, _text(peer)) + _attribute(_IFLA_MTU, size)
    other += _attribute(_IFLA_ADDRESS, hardware)
    other += _attribute(_IFLA_NET_NS_PID, struct.pack("=I", pid))
    kind = _attribute(_IFLA_INFO_KIND, _text("veth"))
    kind += _attribute(_IFLA_INFO_DATA, _attribute(_VETH_INFO_PEER, other))
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    body += _attribute(_IFLA_IFNAME, _text(device)) + _attribute(_IFLA_MTU, size)
    body += _attribute(_IFLA_MASTER, struct.pack("=I", index))
    body += _attribute(_IFLA_LINKINFO, kind)
    _ask(_RTM_NEWLINK, _NLM_F_CREATE | _NLM_F_EXCL, body, device)
    try:
        port = socket.if_nametoindex(device)
        for name, value in (("isolated", "1"), ("learning", "0")):
            Path("/sys/class/net", device, "brport", name).write_text(value, encoding="ascii")
        known = _NEIGHBOUR.pack(_AF_BRIDGE, port, _NUD_NOARP, _NTF_MASTER)
        _ask(_RTM_NEWNEIGH, _SET, known + _attribute(_NDA_LLADDR, hardware), device)
        known = _NEIGHBOUR.pack(socket.AF_INET, index, _NUD_PERMANENT, 0)
        known += _attribute(_NDA_DST, socket.inet_aton(address)) + _attribute(_NDA_LLADDR, hardware)
        _ask(_RTM_NEWNEIGH, _SET, known, bridge)
        _ask(_RTM_NEWLINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, port, _IFF_UP, _IFF_UP), device)
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
