from __future__ import annotations

from pathlib import Path

from skylift.runtime.runc.name_servers import PUBLIC_SERVERS, NameServers, name_servers


def test_the_machines_own(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text(
        "# made by hand\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch example.org\noptions ndots:2\n"
    )
    found = name_servers((), conf, tmp_path / "none")
    assert (
        NameServers(servers=("192.0.2.1", "2001:db8::1"), rest=("search example.org", "options ndots:2"))
        == found
    )
    assert (
        "nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch example.org\noptions ndots:2\n"
        == found.resolv_conf()
    )


def test_behind_the_stub_of_systemd(tmp_path: Path) -> None:
    conf, systemd = tmp_path / "resolv.conf", tmp_path / "systemd.conf"
    conf.write_text("nameserver 127.0.0.53\nsearch example.org\n")
    systemd.write_text("nameserver 192.0.2.1\n")
    assert NameServers(servers=("192.0.2.1",), rest=("search example.org",)) == name_servers(
        (), conf, systemd
    )


def test_only_on_the_loopback(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 127.0.0.1\nnameserver ::1\nnameserver not-an-address\n")
    assert NameServers(servers=PUBLIC_SERVERS, public=True) == name_servers((), conf, tmp_path / "none")


def test_configured_ones_come_first(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 192.0.2.1\n")
    assert NameServers(servers=("192.0.2.9",)) == name_servers(("192.0.2.9",), conf)
