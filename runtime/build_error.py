"""The error of an image that could not be built."""

from __future__ import annotations

from skylift.wire import Problem


class BuildError(Exception):
    """A step of an image failed. The message says why, for people."""

    def __init__(self, message: str, *, said: bool = False) -> None:
        """With `said`, what the step printed last tells more."""
        super().__init__(message)
        self.said = said


def build_problem(error: str, step: int, steps: int, label: str, last_lines: list[str]) -> Problem:
    """What whoever asked for the image is told; `step` from 0."""
    where = f"Step {step + 1} of {steps}" + (f" ({label})" if label else "")
    lines = "".join(f"\n    {line}" for line in last_lines)
    return Problem(error="ImageBuildError", message=f"{where}: {error}{lines}")
