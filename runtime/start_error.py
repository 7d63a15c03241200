"""The error of a container that cannot be made."""

from __future__ import annotations

from skylift.wire import Problem


class StartError(Exception):
    """A container could not be made.

    `error` is the name of a class in `skylift.exceptions`: ``InvalidError`` where the plan asks for what is
    never given (a mount of ``/``), ``ResourceExhaustedError`` where this host lacks it, ``InternalFailure``
    else.
    """

    def __init__(self, message: str, error: str = "InternalFailure") -> None:
        super().__init__(message)
        self.error = error

    def problem(self) -> Problem:
        """The same, as it travels."""
        return Problem(error=self.error, message=str(self))
