from __future__ import annotations

from pathlib import Path

import pytest

from skylift.runtime.settings import HostSettings, SettingsError, host_settings, machine_memory, read_config


def read(tmp_path: Path, text: str, system: str = "") -> HostSettings:
    (tmp_path / "config.toml").write_text(text)
    (tmp_path / "system.toml").write_text(system)
    return host_settings(read_config(tmp_path, tmp_path / "system.toml"))


def test_everything(tmp_path: Path) -> None:
    text = """
    [host]
    isolation = "process"
    cpus = 3
    memory = 4096
    memory_limit = 1024
    pids_limit = 100
    network = "user"
    subnet = "10.9.0.0/16"
    dns = ["192.0.2.1"]
    user_ids = "200000:65536"
    simulate_gpus = {"H100" = 1, "A100-40GB" = 2}
    """
    assert HostSettings(
        isolation="process",
        cpus=3.0,
        memory=4096,
        memory_limit=1024,
        pids_limit=100,
        network="user",
        subnet="10.9.0.0/16",
        dns=("192.0.2.1",),
        user_ids="200000:65536",
        simulate_gpus={"H100": 1, "A100-40GB": 2},
    ) == read(tmp_path, text)


def test_nothing(tmp_path: Path) -> None:
    settings = host_settings(read_config(tmp_path / "none", tmp_path / "none"))
    assert HostSettings() == settings
    assert "runc" == settings.isolation
    assert machine_memory() * 9 // 10 == settings.memory_offered() == settings.default_memory_limit()
    assert settings.cpus_offered() >= 1


def test_the_homes_own_wins_key_by_key(tmp_path: Path) -> None:
    settings = read(tmp_path, "[host]\ncpus = 1", "[host]\ncpus = 8\npids_limit = 7\n[gateway]\nport = 1")
    assert (1.0, 7) == (settings.cpus, settings.pids_limit)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[host]\nsimulate_gpu = {}",
            "Unknown key 'simulate_gpu' in [host] of config.toml. Did you mean simulate_gpus?",
        ),
        ("[host]\nmemory_limits = 1", "Did you mean memory_limit or memory or pids_limit?"),
        (
            "[host]\nqqq = 1",
            "Unknown key 'qqq' in [host] of config.toml. Known keys: isolation, cpus, memory",
        ),
        (
            "[host]\ncpus = 'two'",
            "Wrong value in [host] of config.toml: Expected `float | null`, got `str` - at `$.cpus`.",
        ),
        ("[host]\nisolation = 'docker'", "Wrong value in [host] of config.toml: Invalid enum value 'docker'"),
        ("host = 1", "[host] of config.toml must be a table."),
        ("[host", "config.toml is not valid TOML:"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(SettingsError, match=r"Cannot read .*config\.toml: Is a directory\."):
        read_config(tmp_path, tmp_path / "none")


def test_no_limit_at_all() -> None:
    assert 0 == HostSettings(memory_limit=0).default_memory_limit()
