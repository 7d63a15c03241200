"""Images: what a container's root file system holds. An `Image` is a value; describing one builds nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NoReturn

from skylift.environment import Environment
from skylift.exceptions import InvalidError
from skylift.image_imports import Imports
from skylift.inside import container_spec
from skylift.preload import worth_importing
from skylift.wire import ImageSpec

_NOT_BUILT = frozenset(
    [
        "debian_slim",
        "from_registry",
        "from_dockerfile",
        "from_scratch",
        "micromamba",
        "from_name",
        "from_id",
        "from_aws_ecr",
        "from_gcp_artifact_registry",
        "pip_install",
        "uv_pip_install",
        "pip_install_from_requirements",
        "pip_install_from_pyproject",
        "uv_sync",
        "apt_install",
        "run_commands",
        "run_function",
        "dockerfile_commands",
        "micromamba_install",
        "poetry_install_from_file",
        "pip_install_private_repos",
        "add_local_file",
        "add_local_dir",
        "add_local_python_source",
        "env",
        "workdir",
        "entrypoint",
        "cmd",
        "shell",
        "pipe",
        "build",
        "publish",
    ]
)


class _ImageType(type):
    """Makes ``Image.debian_slim`` and the like say that they are not built yet."""

    def __getattr__(cls, name: str) -> Any:
        if name in _NOT_BUILT:
            _refuse(name)
        raise AttributeError(f"type object 'Image' has no attribute {name!r}")


class Image(metaclass=_ImageType):
    """What a container's root file system holds. Make one with `Image.from_environment`."""

    _environment: Environment | None
    _fixed: ImageSpec | None
    _imports: frozenset[str]
    """What is imported in its `imports` blocks."""

    def __init__(self) -> None:
        raise InvalidError("Image() makes no image; use Image.from_environment()")

    @classmethod
    def from_environment(cls) -> Image:
        """The environment that this process runs in: its Python version, packages and local modules.

        The container sees them read-only, at the same paths (see `skylift.environment` for which folders).
        What is installed or edited later is seen by containers that start later, and running ones of an
        older environment are not used for new calls.

        In a container it is the environment that the container was made from.
        """
        spec = container_spec()
        if spec is not None:
            return cls._from_spec(spec.image)
        image = object.__new__(cls)
        image._environment = Environment()
        image._fixed = None
        image._imports = frozenset()
        return image

    def imports(self) -> Imports:
        """For ``with image.imports():`` around ``import`` statements, of packages that this image has.

        A template of the image's containers imports them beforehand. One that is not installed here is no
        error: its name can be used in functions, and raises ImportError when it is used here.
        """
        return Imports(self._note_imports)

    def _note_imports(self, names: Iterable[str]) -> None:
        with _noting:
            self._imports = self._imports.union(worth_importing(names))

    @classmethod
    def _from_spec(cls, spec: ImageSpec, imports: frozenset[str] = frozenset()) -> Image:
        image = object.__new__(cls)
        image._environment = None
        image._fixed = spec
        image._imports = imports
        return image

    def _spec(self, moment: object = None) -> ImageSpec:
        if self._environment is not None:
            return self._environment.current(moment)
        assert self._fixed is not None
        return self._fixed

    def _latest_spec(self) -> ImageSpec:
        return self._environment.latest() if self._environment is not None else self._spec()

    def __reduce__(self) -> tuple[Any, ...]:
        # In a container the environment is still the one that it was made from.
        return Image._from_spec, (self._latest_spec(), self._imports)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and self._spec() == other._spec()

    def __hash__(self) -> int:
        return hash(self._spec().fingerprint)

    def __getattr__(self, name: str) -> Any:
        if name in _NOT_BUILT:
            _refuse(name)
        raise AttributeError(f"'Image' object has no attribute {name!r}")

    def __repr__(self) -> str:
        return "Image.from_environment()"


_noting = threading.Lock()


@lru_cache(maxsize=1)
def default_image() -> Image:
    """What functions and sessions run in that name no image."""
    return Image.from_environment()


def _refuse(name: str) -> NoReturn:
    raise InvalidError(
        f"Image.{name} is not built yet. Image.from_environment(), the default, gives a container the "
        "packages that are installed here"
    )
