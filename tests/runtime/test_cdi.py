"""CDI specifications, read and applied."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from skylift.runtime.cdi import CdiError, Edits, Registry
from skylift.runtime.isolation import Bind

GPU = "nvidia.com/gpu"

YAML = """\
cdiVersion: 0.5.0
kind: nvidia.com/gpu
annotations: {made-by: nvidia-ctk}
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
      type: c
      major: 195
      minor: 0
    - path: /dev/dri/card1
      hostPath: /dev/null
      permissions: rw
- name: GPU-a
  containerEdits:
    deviceNodes:
    - {path: /dev/nvidia0, type: c, major: 195, minor: 0}
containerEdits:
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  deviceNodes:
  - {path: /dev/nvidiactl, type: c, major: 195, minor: 255}
  hooks:
  - hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
    args: [nvidia-cdi-hook, update-ldcache, --folder, /usr/lib/x86_64-linux-gnu]
    timeout: 5
  mounts:
  - hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15
    containerPath: /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15
    options: [ro, nosuid, nodev, bind]
  - hostPath: tmpfs
    containerPath: /run/nvidia
    type: tmpfs
    options: [nosuid]
  additionalGIDs: [44]
  intelRdt: {closID: x}
"""


def write(folder: Path, name: str, content: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def specification(*names: str, env: str = "") -> dict[str, Any]:
    return {
        "cdiVersion": "0.6.0",
        "kind": GPU,
        "devices": [{"name": name, "containerEdits": {"env": [f"{env}{name}=1"]}} for name in names],
        "containerEdits": {"env": [f"COMMON{env}=1"]},
    }


def test_a_specification_as_the_vendors_tool_writes_it(tmp_path: Path) -> None:
    write(tmp_path, "nvidia.yaml", YAML)
    registry = Registry.read((tmp_path,))
    assert [f"{GPU}=0", f"{GPU}=GPU-a"] == registry.names(GPU)
    assert {} == registry.problems
    null = os.stat("/dev/null").st_rdev
    library = "/usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15"
    device = {"type": "bind", "options": ["bind", "nosuid", "noexec", "rw"]}
    rule = {"allow": True, "type": "c", "major": 195, "access": "rwm"}
    assert Edits(
        env=("NVIDIA_VISIBLE_DEVICES=void",),
        binds=(Bind(Path(library), library),),
        mounts=(
            {"destination": "/dev/nvidiactl", "source": "/dev/nvidiactl", **device},
            {"destination": "/run/nvidia", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
            {"destination": "/dev/nvidia0", "source": "/dev/nvidia0", **device},
            {"destination": "/dev/dri/card1", "source": "/dev/null", **device},
        ),
        device_rules=(
            {**rule, "minor": 255},
            {**rule, "minor": 0},
            {**rule, "major": os.major(null), "minor": os.minor(null), "access": "rw"},
        ),
        hooks={
            "createContainer": (
                {
                    "path": "/usr/bin/nvidia-cdi-hook",
                    "args": ["nvidia-cdi-hook", "update-ldcache", "--folder", "/usr/lib/x86_64-linux-gnu"],
                    "env": [],
                    "timeout": 5,
                },
            )
        },
        groups=(44,),
    ) == registry.edits([f"{GPU}=0"])


def test_what_all_devices_share_comes_once(tmp_path: Path) -> None:
    write(tmp_path, "nvidia.json", specification("0", "1"))
    assert ("COMMON=1", "0=1", "1=1") == Registry.read((tmp_path,)).edits([f"{GPU}=0", f"{GPU}=1"]).env


def test_a_later_folder_wins(tmp_path: Path) -> None:
    write(tmp_path / "etc", "a.json", specification("0", "1", env="ETC"))
    write(tmp_path / "run", "b.json", specification("0", env="RUN"))
    registry = Registry.read((tmp_path / "etc", tmp_path / "run", tmp_path / "none"))
    assert ("COMMONRUN=1", "RUN0=1", "COMMONETC=1", "ETC1=1") == registry.edits([f"{GPU}=0", f"{GPU}=1"]).env


def test_a_device_twice_in_one_folder_is_nobodys(tmp_path: Path) -> None:
    one = write(tmp_path / "etc", "a.json", specification("0", "1"))
    other = write(tmp_path / "etc", "b.json", specification("0"))
    registry = Registry.read((tmp_path / "etc",))
    with pytest.raises(CdiError, match=rf"Device {GPU}=0 is in both {one} and {other}; remove one of them\."):
        registry.edits([f"{GPU}=0"])
    assert ("COMMON=1", "1=1") == registry.edits([f"{GPU}=1"]).env
    write(tmp_path / "run", "c.json", specification("0", env="RUN"))
    registry = Registry.read((tmp_path / "etc", tmp_path / "run"))
    assert ("COMMONRUN=1", "RUN0=1") == registry.edits([f"{GPU}=0"]).env


def test_a_device_that_there_is_not(tmp_path: Path) -> None:
    write(tmp_path, "nvidia.json", specification("0", "all"))
    with pytest.raises(CdiError) as caught:
        Registry.read((tmp_path,)).edits([f"{GPU}=7"])
    assert f"No CDI specification has the device {GPU}=7. There are {GPU}=0, {GPU}=all." == str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.json", "{", "cannot be read: Expecting property name"),
        ("a.yaml", "kind: [", "cannot be read: while parsing"),
        ("a.json", {"kind": GPU, "devices": []}, "missing required field `cdiVersion`"),
        (
            "a.json",
            {"cdiVersion": "0.5.0", "kind": "gpu", "devices": []},
            "kind is 'gpu', not \"vendor/class\"",
        ),
        ("a.yaml", "just text", "Expected `object`, got `str`"),
    ],
)
def test_a_broken_specification_is_passed_over_and_named(
    tmp_path: Path, name: str, content: Any, why: str
) -> None:
    path = write(tmp_path, name, content)
    write(tmp_path, "good.json", specification("0"))
    registry = Registry.read((tmp_path,))
    assert ("COMMON=1", "0=1") == registry.edits([f"{GPU}=0"]).env
    with pytest.raises(CdiError) as caught:
        registry.edits([f"{GPU}=1"])
    assert str(path) in str(caught.value)
    assert why in str(caught.value)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, "README", "text")
    write(tmp_path, "a.yml", YAML)
    registry = Registry.read((tmp_path,))
    assert ([], {}) == (registry.names(GPU), registry.problems)


def test_a_device_file_that_is_gone(tmp_path: Path) -> None:
    content = specification("0")
    content["devices"][0]["containerEdits"] = {"deviceNodes": [{"path": "/dev/no-such-gpu"}]}
    write(tmp_path, "a.json", content)
    with pytest.raises(CdiError, match=r"The device file /dev/no-such-gpu cannot be opened: No such file"):
        Registry.read((tmp_path,)).edits([f"{GPU}=0"])
