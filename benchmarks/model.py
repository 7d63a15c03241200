"""What the benchmarks of containers run: 20 layers of 1024 × 1024 in PyTorch, and one pass through them.

The sides get it as code and not as a module of ours: a class by value, or this file's text.
"""

from __future__ import annotations

import importlib.util
from typing import Any

NEEDS_TORCH = (
    "This benchmark runs a model in PyTorch, which is not installed here: pip install 'skylift[bench-torch]' "
    "(a build for CPUs is enough)."
)


def require_torch() -> None:
    """Raises SystemExit, saying what to install, where PyTorch is missing."""
    if importlib.util.find_spec("torch") is None:
        raise SystemExit(NEEDS_TORCH)


def model_class() -> type[Any]:
    """The class: `build` makes the model, `forward` is one pass. It is pickled by value."""

    class Model:
        def build(self) -> None:
            import torch

            # Before anything is calculated: a pool of threads would not outlive a fork.
            torch.set_num_threads(1)
            torch.manual_seed(0)
            layers = [torch.nn.Linear(1024, 1024) for _ in range(20)]
            self.model = torch.nn.Sequential(*layers)

        def forward(self, number: int) -> float:
            import torch

            with torch.no_grad():
                return float(self.model(torch.full((1, 1024), float(number))).abs().sum())

    return Model
