"""GPUs: what NVML finds, who gets which, and what is said where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_driver import GIB, FakeDriver, gpu

from skylift.runtime.gpu_models import MODELS, describe, model_name, satisfies
from skylift.runtime.gpus import Gpu, GpuInventory, simulated_gpus, visible_devices
from skylift.runtime.nvml import GpuSample
from skylift.runtime.settings import HostSettings, SettingsError
from skylift.runtime.start_error import StartError
from skylift.wire import GpuRequest


def make(*models: str, simulated: bool = False) -> list[Gpu]:
    return [
        Gpu(
            index=index,
            uuid=f"GPU-{index}{'s' * simulated}",
            model=model,
            memory=MODELS[model].memory if model in MODELS else 8 * GIB,
            simulated=simulated,
        )
        for index, model in enumerate(models)
    ]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> FakeDriver:
    return FakeDriver(tmp_path_factory.mktemp("driver"))


INVENTORY = """
import json
from skylift.runtime.gpus import GpuInventory
from skylift.runtime.settings import HostSettings
import msgspec
inventory = GpuInventory.of_machine(HostSettings(simulate_gpus={"L4": 1}))
samples = [inventory.sample([gpu]) for gpu in inventory.gpus] + [inventory.sample(inventory.gpus[:2])]
print(json.dumps([msgspec.to_builtins(inventory.infos()), msgspec.to_builtins(samples)]))
"""


def test_what_nvml_finds(driver: FakeDriver) -> None:
    infos, samples = json.loads(
        driver.python(
            INVENTORY,
            gpu("NVIDIA H100 80GB HBM3", "GPU-a", 79.6, 10, 50),
            gpu("NVIDIA A100-SXM4-40GB", "GPU-b", 40, mig="1"),
            gpu("NVIDIA A100 80GB PCIe", "GPU-c", 80, 30, 100, mig="0"),
            gpu("broken", "GPU-d"),
            gpu("NVIDIA GeForce RTX 4090", "GPU-e", 24),
        )
    )
    found = [(info["index"], info["uuid"], info["model"], info["simulated"]) for info in infos]
    assert [
        (0, "GPU-a", "H100", False),
        (2, "GPU-c", "A100-80GB", False),  # the one before is split by MIG: left alone
        (4, "GPU-e", "NVIDIA GeForce RTX 4090", False),
        (5, "SIMULATED-L4-0", "L4", True),
    ] == found
    assert int(79.6 * GIB) == infos[0]["memory"]
    assert {"utilisation": 0.5, "memory": 10 * GIB, "memory_total": int(79.6 * GIB)} == samples[0]
    assert {"utilisation": 0.0, "memory": 0, "memory_total": 24 * GIB} == samples[3]
    both = {"utilisation": 0.75, "memory": 40 * GIB, "memory_total": int(79.6 * GIB) + 80 * GIB}
    assert both == samples[4]


def test_a_driver_that_is_not_loaded(driver: FakeDriver) -> None:
    code = """
import os
del os.environ["FAKE_NVML"]
from skylift.runtime.nvml import Nvml
print(Nvml.load(), Nvml.why_not())
"""
    assert "None Driver Not Loaded\n" == driver.python(code)


@pytest.mark.parametrize(
    ("nvml", "ours"),
    [
        ("Tesla T4", "T4"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA A10", "NVIDIA A10"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40", "NVIDIA L40"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GB200", "NVIDIA GB200"),
        ("NVIDIA GH200 480GB", "NVIDIA GH200 480GB"),
    ],
)
def test_names(nvml: str, ours: str) -> None:
    assert ours == model_name(nvml)


def test_upgrades() -> None:
    assert satisfies("H200", "H100", exact=False)
    assert not satisfies("H200", "H100", exact=True)
    assert not satisfies("H100", "H200", exact=False)
    assert satisfies("A100-80GB", "A100-40GB", exact=False)
    assert satisfies("H100", "h100", exact=True)
    assert satisfies("NVIDIA L40", "any", exact=False)


def test_a_gpu_is_with_one_container_at_a_time() -> None:
    inventory = GpuInventory(make("H100", "H100"))
    first = inventory.take(GpuRequest(model="H100"), "co-1")
    second = inventory.take(GpuRequest(model="H100"), "co-2")
    assert {"GPU-0", "GPU-1"} == {gpu.uuid for gpu in (*first, *second)}
    assert ["co-1", "co-2"] == [info.in_use_by for info in inventory.infos()]
    with pytest.raises(
        StartError,
        match=r"1 × H100 cannot be had now: of 2 on this host, 2 are in use by co-1, co-2\.",
    ) as caught:
        inventory.take(GpuRequest(model="H100"), "co-3")
    assert "ResourceExhaustedError" == caught.value.error
    inventory.give_back("co-1")
    inventory.give_back("co-1")
    assert first == inventory.take(GpuRequest(model="H100"), "co-3")


def test_the_model_that_is_asked_for_comes_before_a_better_one() -> None:
    inventory = GpuInventory(make("H200", "H100"))
    assert "H100" == inventory.take(GpuRequest(model="H100"), "co-1")[0].model
    assert "H200" == inventory.take(GpuRequest(model="H100"), "co-2")[0].model
    with pytest.raises(StartError, match="cannot be had now"):
        inventory.take(GpuRequest(model="H100", exact=True), "co-3")


def test_any_is_the_smallest_and_a_real_one_before_a_simulated_one() -> None:
    inventory = GpuInventory([*make("H100", "T4"), *make("T4", simulated=True)])
    assert ["T4", False] == [
        (taken := inventory.take(GpuRequest(model="any"), "co-1")[0]).model,
        taken.simulated,
    ]
    assert "H100" == inventory.take(GpuRequest(model="any"), "co-2")[0].model
    assert inventory.take(GpuRequest(model="any"), "co-3")[0].simulated


def test_several_are_of_one_model() -> None:
    inventory = GpuInventory(make("H100", "H200", "H200"))
    assert ["H200", "H200"] == [
        gpu.model for gpu in inventory.take(GpuRequest(model="H100", count=2), "co-1")
    ]


FEWER = "Ask for fewer, or for another model."
SIMULATE = 'add simulate_gpus = {"H100" = 1} to [host] of config.toml to run the code without one.'
LACKING = [
    (
        ("T4", "T4"),
        GpuRequest(model="H100"),
        f"This host has no H100: it has 2 × T4. Ask for what it has, or {SIMULATE}",
    ),
    ((), GpuRequest(model="any"), f"This host has no GPU. A{SIMULATE[1:]}"),
    (
        ("H100", "H100", "L4"),
        GpuRequest(model="H100", count=8),
        f"This host cannot give 8 × H100 to one container: it has 2 × H100 and 1 × L4. {FEWER}",
    ),
]


@pytest.mark.parametrize(("models", "request_", "text"), LACKING)
def test_a_gpu_that_there_is_not(models: tuple[str, ...], request_: GpuRequest, text: str) -> None:
    with pytest.raises(StartError) as caught:
        GpuInventory(make(*models)).take(request_, "co-1")
    assert ("ResourceExhaustedError", text) == (caught.value.error, str(caught.value))


def test_simulated_ones_have_the_size_of_real_ones() -> None:
    found = simulated_gpus({"h100": 1, "L4": 2}, first_index=3)
    assert [(3, "H100", 80 * GIB), (4, "L4", 24 * GIB), (5, "L4", 24 * GIB)] == [
        (gpu.index, gpu.model, gpu.memory) for gpu in found
    ]
    assert 3 == len({gpu.uuid for gpu in found})
    assert "1 × H100 (simulated) and 2 × L4 (simulated)" == describe(gpu.info() for gpu in found)
    assert GpuSample(memory_total=48 * GIB) == GpuInventory(found).sample(found[1:])


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({"H10": 1}, "there is no GPU 'H10'. Did you mean H100"),
        ({"H100": -1}, "H100 = -1 must be between 0 and 64"),
        ({"H100": 65}, "H100 = 65 must be between 0 and 64"),
    ],
)
def test_a_wrong_simulated_gpu(counts: dict[str, int], text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        GpuInventory.of_machine(HostSettings(simulate_gpus=counts))
    assert text in str(caught.value)
    assert "simulate_gpus in [host] of config.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("gpus", "env"),
    [
        ([], {"NVIDIA_VISIBLE_DEVICES": "void", "CUDA_VISIBLE_DEVICES": ""}),
        (make("H100", "H100"), {"NVIDIA_VISIBLE_DEVICES": "GPU-0,GPU-1"}),
        (
            make("H100", "H100", simulated=True),
            {"NVIDIA_VISIBLE_DEVICES": "void", "CUDA_VISIBLE_DEVICES": "", "SKYLIFT_SIMULATED_GPU": "H100:2"},
        ),
    ],
)
def test_what_programs_are_told(gpus: list[Gpu], env: dict[str, Any]) -> None:
    assert env == visible_devices(gpus)


def test_nothing_is_sampled_without_gpus(tmp_path: Path) -> None:
    assert GpuSample() == GpuInventory([]).sample([])
