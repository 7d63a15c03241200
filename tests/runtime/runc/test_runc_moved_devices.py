"""Which device file stands for which where a container is restored with others."""

from __future__ import annotations

import pytest

from skylift.runtime.runc.moved_devices import moved

CONTROL = "/dev/nvidiactl"


@pytest.mark.parametrize(
    ("written", "here", "moves"),
    [
        ([CONTROL, "/dev/nvidia0"], [CONTROL, "/dev/nvidia0"], {}),
        ([CONTROL, "/dev/nvidia0"], [CONTROL, "/dev/nvidia1"], {"/dev/nvidia0": "/dev/nvidia1"}),
        (
            ["/dev/nvidia9", "/dev/nvidia10", "/dev/nvidia2"],
            ["/dev/nvidia2", "/dev/nvidia4", "/dev/nvidia11"],
            {"/dev/nvidia9": "/dev/nvidia4", "/dev/nvidia10": "/dev/nvidia11"},
        ),
        (["/dev/nvidia0", "/dev/nvidia1"], ["/dev/nvidia1"], {"/dev/nvidia0": ""}),
        (
            ["/dev/dri/card0", "/dev/dri/renderD128"],
            ["/dev/dri/renderD129", "/dev/dri/card1"],
            {"/dev/dri/card0": "/dev/dri/card1", "/dev/dri/renderD128": "/dev/dri/renderD129"},
        ),
        (["/dev/nvidia-uvm"], [CONTROL], {"/dev/nvidia-uvm": ""}),
    ],
)
def test_names(written: list[str], here: list[str], moves: dict[str, str]) -> None:
    assert moves == moved(written, here)
