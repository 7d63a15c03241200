"""Which user and group ids of the host a container's ids are."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import msgspec

DEFAULT_START = 100_000
DEFAULT_SIZE = 65_536


class IdRange(msgspec.Struct, frozen=True):
    """`size` ids from `start` on."""

    start: int
    size: int


class Extent(msgspec.Struct, frozen=True):
    """`size` ids: those from `inside` on in a user namespace are those from `outside` on in its parent."""

    inside: int
    outside: int
    size: int

    def line(self) -> str:
        """As ``/proc/PID/uid_map`` has it."""
        return f"{self.inside} {self.outside} {self.size}\n"


class IdMaps(msgspec.Struct, frozen=True, kw_only=True):
    """How ids of a container map: in one step where the host is root; over a keeper's namespace where not.

    An ordinary user may map ranges only with ``newuidmap``, once per namespace, from outside. So there the
    host makes one namespace (the keeper's) in which it is root, and each container's own namespace within
    it.
    """

    users: tuple[Extent, ...]
    """Of a container's user namespace, in the namespace that runc runs in."""
    groups: tuple[Extent, ...]
    keeper_users: tuple[Extent, ...] = ()
    """Of the keeper's namespace, in the host's; empty where the host is root."""
    keeper_groups: tuple[Extent, ...] = ()
    owner: tuple[int, int]
    """User and group of the host that are 0 in a container."""

    @property
    def single(self) -> bool:
        """Whether a container has but one user and one group."""
        return sum(extent.size for extent in self.users) == 1


def root_maps(user_ids: str = "", subuid: Path = Path("/etc/subuid")) -> IdMaps:
    """Maps for a host that runs as root.

    `user_ids` is ``"START:SIZE"`` from the settings. Without it: what `subuid` grants to root, else the first
    range from 100000 on that it grants to nobody. Raises ValueError where `user_ids` is not of that form.
    """
    ids = parse_range(user_ids) if user_ids else (_granted(subuid, "root", 0) or _free_range(subuid))
    extents = (Extent(0, ids.start, ids.size),)
    return IdMaps(users=extents, groups=extents, owner=(ids.start, ids.start))


def rootless_maps(
    subuid: Path = Path("/etc/subuid"), subgid: Path = Path("/etc/subgid"), *, helpers: bool = True
) -> IdMaps:
    """Maps for an ordinary user: itself as root, and the ids granted to it from 1 on.

    Without a grant, or without ``newuidmap`` and ``newgidmap`` (`helpers`), a container has but its root.
    """
    uid, gid = os.getuid(), os.getgid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    users = _granted(subuid, name, uid) if helpers else None
    groups = _granted(subgid, name, uid) if helpers else None
    if users is None or groups is None:
        one = (Extent(0, 0, 1),)
        return IdMaps(
            users=one,
            groups=one,
            keeper_users=(Extent(0, uid, 1),),
            keeper_groups=(Extent(0, gid, 1),),
            owner=(uid, gid),
        )
    # One extent of a nested namespace must lie within one extent of its parent.
    return IdMaps(
        users=(Extent(0, 0, 1), Extent(1, 1, users.size)),
        groups=(Extent(0, 0, 1), Extent(1, 1, groups.size)),
        keeper_users=(Extent(0, uid, 1), Extent(1, users.start, users.size)),
        keeper_groups=(Extent(0, gid, 1), Extent(1, groups.start, groups.size)),
        owner=(uid, gid),
    )


def parse_range(text: str) -> IdRange:
    """``"100000:65536"`` as a range. Raises ValueError that says what it should look like."""
    start, _, size = text.partition(":")
    if not (start.isdecimal() and size.isdecimal() and int(start) > 0 and int(size) > 0):
        raise ValueError(
            f'user_ids in [host] of config.toml is {text!r}; it must be "START:SIZE", as "100000:65536".'
        )
    return IdRange(int(start), int(size))


def _entries(path: Path) -> list[tuple[str, IdRange]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    entries = []
    for line in lines:
        parts = line.strip().split(":")
        if len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal():
            entries.append((parts[0], IdRange(int(parts[1]), int(parts[2]))))
    return entries


def _granted(path: Path, name: str, uid: int) -> IdRange | None:
    """The largest range granted to a user, by name or number; None without one of a useful size."""
    ranges = [ids for who, ids in _entries(path) if who in (name, str(uid)) and ids.size > 1]
    return max(ranges, key=lambda ids: ids.size, default=None)


def _free_range(path: Path) -> IdRange:
    start = DEFAULT_START
    for _, ids in sorted(_entries(path), key=lambda entry: entry[1].start):
        if ids.start < start + DEFAULT_SIZE and start < ids.start + ids.size:
            start = ids.start + ids.size
    return IdRange(start, DEFAULT_SIZE)
