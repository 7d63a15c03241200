"""config.toml: what it says, and what is wrong with it, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from skylift.backend.settings import GatewaySettings, Settings, SettingsError, load_settings


def load(tmp_path: Path, text: str) -> Settings:
    (tmp_path / "config.toml").write_text(text)
    return load_settings(tmp_path, system=tmp_path / "none.toml")


def test_without_a_file_there_are_defaults(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, system=tmp_path / "none.toml")
    assert (GatewaySettings(), {}) == (settings.gateway, settings.prices)


def test_tables_become_settings(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        '[gateway]\nport = 8001\norigins = ["https://lab"]\n[host]\nsimulate_gpus = {H100 = 1}\n'
        '[prices]\nh100 = 2.5\ncpu = 0.04\n"Tesla K80" = 0.1\n',
    )
    assert (8001, ("https://lab",)) == (settings.gateway.port, settings.gateway.origins)
    assert {"H100": 1} == settings.host.simulate_gpus
    assert {"H100": 2.5, "cpu": 0.04, "Tesla K80": 0.1} == settings.prices


def test_kernels(tmp_path: Path) -> None:
    text = '[[kernels]]\nname = "Big"\ngpu = "H100:2"\nvolumes = { "/data" = "data:ro" }\nidle_timeout = 60\n'
    (kernel,) = load(tmp_path, text).kernels
    assert ("Big", "H100:2", {"/data": "data:ro"}, 60) == (
        kernel.name,
        kernel.gpu,
        kernel.volumes,
        kernel.idle_timeout,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[gateway]\nprot = 1\n",
            "Unknown key 'prot' in [gateway] of config.toml. Did you mean port",
        ),
        (
            "[gatway]\nport = 1\n",
            "Unknown table [gatway] in config.toml. Did you mean gateway?",
        ),
        (
            "[prices]\nH10O = 1.0\n",
            "Unknown key 'H10O' in [prices] of config.toml. Did you mean H100 or H200",
        ),
        (
            '[prices]\nH100 = "2"\n',
            "Wrong value in [prices] of config.toml: H100 must be US dollars an hour, not '2'.",
        ),
        (
            "[prices]\nH100 = -1\n",
            "Wrong value in [prices] of config.toml: H100 must be US dollars an hour, not -1.",
        ),
        (
            "[gateway]\nport = 70000\n",
            "Wrong value in [gateway] of config.toml: port must be from 0 to 65535, not 70000.",
        ),
        (
            "[gateway]\nclient_grace = -1\n",
            "Wrong value in [gateway] of config.toml: client_grace must not be negative.",
        ),
        (
            "[gateway]\nkernel_start_timeout = 0\n",
            "Wrong value in [gateway] of config.toml: kernel_start_timeout must be more than 0.",
        ),
        (
            '[[kernels]]\nname = "Big"\nmemroy = 1\n',
            "Unknown key 'memroy' in [[kernels]] of config.toml. Did you mean memory",
        ),
        (
            '[[kernels]]\nname = "Big"\nmemory_limit = 0\n',
            "Wrong value in [[kernels]] of config.toml: memory_limit must be more than 0.",
        ),
        (
            '[[kernels]]\nname = "Big"\nvolumes = { "/tmp" = "data" }\n',
            "'/tmp' is not a path that a volume can be mounted at: /data, say.",
        ),
        (
            '[[kernels]]\nname = "Big"\nimage = "12345678"\npython = "/venv/bin/python"\n',
            "image and python exclude each other.",
        ),
        (
            '[[kernels]]\nname = "A"\n[[kernels]]\nname = "A"\n',
            "Two of [[kernels]] in config.toml are called",
        ),
        (
            "[kernels]\n",
            "[[kernels]] of config.toml must be tables, each under a line [[kernels]] of its own.",
        ),
        ("gateway = 1\n", "[gateway] of config.toml must be a table."),
        ("[gateway\n", "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load(tmp_path, text)
    assert message in str(raised.value)
