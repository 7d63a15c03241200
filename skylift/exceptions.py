"""What Skylift raises.

Error
├── InvalidError                  a wrong argument, option or use; found before anything runs
├── NotFoundError                 no such call, session, blob, GPU, volume
│   └── PathNotFoundError         nothing there in a volume          (also a FileNotFoundError)
├── AlreadyExistsError
│   └── PathExistsError           something is there in a volume     (also a FileExistsError)
├── PathIsDirectoryError          a file of a volume was wanted      (also an IsADirectoryError)
├── PathNotDirectoryError         a directory of one was wanted      (also a NotADirectoryError)
├── ConflictError                 someone else has it, or it changed meanwhile
├── AuthError                     wrong or missing token
├── PermissionDeniedError         known, but not allowed
├── ResourceExhaustedError        out of memory, of disk, of quota
├── ConnectionError               the gateway cannot be reached or started
├── VersionError                  client and gateway, or client and container, do not fit together
├── TimeoutError
│   ├── FunctionTimeoutError      the function ran into its ``timeout``
│   └── OutputExpiredError        the result is no longer kept
├── SerializationError            a value cannot travel; names the variable
├── DeserializationError          a value came, and cannot be loaded here (or there)
├── ExecutionError                a function cannot run now, or raised a type that cannot be imported here
├── RemoteError                   the container failed, not the function
│   └── ImageBuildError
└── InternalFailure               a bug in Skylift; please report it

InputCancellation                 a BaseException: raised inside a function whose call is cancelled

What a function raises comes back as itself, not as one of these. ``FunctionCall.get(timeout=)`` raises the
builtin ``TimeoutError`` when the result is not there in time.
"""

from __future__ import annotations

__all__ = [
    "AlreadyExistsError",
    "AuthError",
    "ConflictError",
    "ConnectionError",
    "DeserializationError",
    "Error",
    "ExecutionError",
    "FunctionTimeoutError",
    "ImageBuildError",
    "InputCancellation",
    "InternalFailure",
    "InvalidError",
    "NotFoundError",
    "OutputExpiredError",
    "PathExistsError",
    "PathIsDirectoryError",
    "PathNotDirectoryError",
    "PathNotFoundError",
    "PermissionDeniedError",
    "RemoteError",
    "ResourceExhaustedError",
    "SerializationError",
    "TimeoutError",
    "VersionError",
]


class Error(Exception):
    """Base of everything that Skylift raises."""


class InvalidError(Error):
    """A wrong argument, option or use. Nothing has run."""


class NotFoundError(Error):
    """What was named does not exist."""


class AlreadyExistsError(Error):
    """What was to be made exists."""


class PathNotFoundError(NotFoundError, FileNotFoundError):
    """There is nothing at that path of a volume."""


class PathExistsError(AlreadyExistsError, FileExistsError):
    """There is something at that path of a volume."""


class PathIsDirectoryError(Error, IsADirectoryError):
    """There is a directory of a volume where a file was wanted."""


class PathNotDirectoryError(Error, NotADirectoryError):
    """There is a file of a volume where a directory was wanted."""


class ConflictError(Error):
    """Someone else has it, or it changed in the meantime."""


class AuthError(Error):
    """The token is missing or wrong."""


class PermissionDeniedError(Error):
    """The token is right, and this is not allowed to it."""


class ResourceExhaustedError(Error):
    """Out of memory, disk or quota; the message has the limit and what was used."""


class ConnectionError(Error):  # noqa: A001
    """The gateway cannot be reached or started."""


class VersionError(Error):
    """Two programs that are to work together have versions that do not."""


class TimeoutError(Error):  # noqa: A001
    """Something of Skylift took longer than it may."""


class FunctionTimeoutError(TimeoutError):
    """The function ran into its ``timeout``."""


class OutputExpiredError(TimeoutError):
    """The result of this call is no longer kept."""


class SerializationError(Error):
    """A value cannot travel to or from a container; the message names it."""


class DeserializationError(Error):
    """A value that travelled cannot be loaded where it arrived."""


class ExecutionError(Error):
    """A function cannot run as things are, or raised an exception whose type cannot be imported here.

    In the second case the text is the traceback from the container.
    """


class RemoteError(Error):
    """The container failed, not the function in it."""


class ImageBuildError(RemoteError):
    """An image could not be built."""


class InternalFailure(Error):  # noqa: N818
    """Something that should not happen; a bug of Skylift."""


class InputCancellation(BaseException):
    """Raised inside a function whose call is cancelled. No ``Exception``: handlers let it pass."""
