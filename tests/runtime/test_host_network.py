"""What commands of a build are told of this machine's network."""

from __future__ import annotations

from pathlib import Path

import pytest

from skylift.runtime.host_network import CERTIFICATES, CONSTRAINTS, host_network


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """An environment in which pip has no settings of the machine's."""
    return {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PIP_CONFIG_FILE": "/dev/null"}


def test_nothing_is_set_where_nothing_is_set(quiet: dict[str, str]) -> None:
    network = host_network(quiet)
    assert {} == network.env
    assert () == network.pip_folders
    assert not {name for name in network.pip_env if "INDEX" in name or "CERT" in name}


def test_proxies_go_to_all_commands(quiet: dict[str, str]) -> None:
    network = host_network({**quiet, "https_proxy": "http://proxy:3128", "NO_PROXY": "localhost"})
    assert {"https_proxy": "http://proxy:3128", "NO_PROXY": "localhost"} == network.env


def test_certificates(quiet: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("a certificate")
    network = host_network({**quiet, "SSL_CERT_FILE": str(file)})
    assert str(file) == network.certificates
    assert CERTIFICATES == network.env["SSL_CERT_FILE"] == network.pip_env["PIP_CERT"]


def test_an_index_of_files_is_shown_where_it_is(quiet: dict[str, str], tmp_path: Path) -> None:
    index, wheels, constraints = (
        tmp_path / "pypi" / "simple",
        tmp_path / "wheels",
        tmp_path / "constraints.txt",
    )
    index.mkdir(parents=True)
    wheels.mkdir()
    constraints.write_text("six<2\n")
    network = host_network(
        {
            **quiet,
            "PIP_INDEX_URL": f"file://{index}",
            "PIP_FIND_LINKS": f"{wheels} https://elsewhere/wheels",
            "PIP_CONSTRAINT": str(constraints),
        }
    )
    assert (str(tmp_path / "pypi"), str(wheels)) == network.pip_folders
    assert f"file://{index}" == network.pip_env["PIP_INDEX_URL"] == network.pip_env["UV_DEFAULT_INDEX"]
    assert CONSTRAINTS == network.pip_env["PIP_CONSTRAINT"]
    assert [(folder, True) for folder in network.pip_folders] == [
        (bind.target, not bind.writable) for bind in network.binds(pip=True)
    ]
    assert [] == network.binds(pip=False)


def test_settings_of_a_configuration_file(quiet: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nindex-url = https://index.invalid/simple\ntrusted-host = index.invalid\n")
    network = host_network({**quiet, "PIP_CONFIG_FILE": str(file)})
    assert "https://index.invalid/simple" == network.pip_env["PIP_INDEX_URL"]
    assert "index.invalid" == network.pip_env["PIP_TRUSTED_HOST"]
