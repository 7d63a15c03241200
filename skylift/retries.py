"""How often, and after how long, a failed call is tried again."""

from __future__ import annotations

from dataclasses import dataclass

from skylift.exceptions import InvalidError
from skylift.wire import RetryPolicy

MAX_RETRIES = 100


@dataclass(frozen=True, kw_only=True)
class Retries:
    """A retry policy: ``@app.function(retries=Retries(max_retries=3))`` makes at most four calls.

    Retry number n waits ``initial_delay * backoff_coefficient ** (n - 1)`` seconds, at most `max_delay`.
    What the infrastructure loses is retried beyond this budget; a cancelled call is not retried.
    Raises `InvalidError` for numbers out of range.
    """

    max_retries: int
    backoff_coefficient: float = 2.0
    initial_delay: float = 1.0
    max_delay: float = 60.0

    def __post_init__(self) -> None:
        if (
            isinstance(self.max_retries, bool)
            or not isinstance(self.max_retries, int)
            or not 0 <= self.max_retries <= MAX_RETRIES
        ):
            raise InvalidError(f"max_retries={self.max_retries!r}: a whole number from 0 to {MAX_RETRIES}")
        for name, low, high in (
            ("backoff_coefficient", 1.0, 10.0),
            ("initial_delay", 0.0, 3600.0),
            ("max_delay", 1.0, 3600.0),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise InvalidError(f"{name}={value!r}: a number from {low:g} to {high:g}")

    def policy(self) -> RetryPolicy:
        """As it travels."""
        return RetryPolicy(
            max_retries=self.max_retries,
            initial_delay=float(self.initial_delay),
            backoff_coefficient=float(self.backoff_coefficient),
            max_delay=float(self.max_delay),
        )


def retry_policy(retries: int | Retries | None) -> RetryPolicy | None:
    """What ``retries=`` takes, as it travels. A number retries at once-a-second steps without growing delays.

    Raises `InvalidError` for anything but a whole number or `Retries`.
    """
    if retries is None:
        return None
    if isinstance(retries, Retries):
        return retries.policy()
    if isinstance(retries, bool) or not isinstance(retries, int):
        raise InvalidError(f"retries={retries!r}: a whole number, or skylift.Retries(max_retries=…)")
    return Retries(max_retries=retries, backoff_coefficient=1.0).policy()
