"""Moving a network interface to another namespace: the one thing that ``ip`` is too slow for."""

from __future__ import annotations

import os
import socket
import struct

_RTM_NEWLINK, _NLM_F_REQUEST, _NLM_F_ACK = 16, 1, 4
_IFLA_NET_NS_PID = 19
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HHI")


def move_to_namespace(device: str, pid: int) -> None:
    """Move an interface of this namespace to the network namespace of a process. Raises OSError."""
    body = _LINK.pack(socket.AF_UNSPEC, 0, socket.if_nametoindex(device), 0, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size, _IFLA_NET_NS_PID, pid)
    flags = _NLM_F_REQUEST | _NLM_F_ACK
    message = _HEADER.pack(_HEADER.size + len(body), _RTM_NEWLINK, flags, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.send(message)
        answer = sock.recv(4096)
    (number,) = struct.unpack_from("=i", answer, _HEADER.size)
    if number:
        raise OSError(-number, f"{device}: {os.strerror(-number)}")
