"""Images: what a container's root file system holds. An `Image` is a value; describing one builds nothing."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from skylift.dual import Blocking
from skylift.environment import Environment
from skylift.exceptions import InvalidError
from skylift.file_patterns import Ignore, matcher
from skylift.image_chain import Chain
from skylift.image_imports import Imports
from skylift.image_parts import Dockerfile, Fixed, Part, known_python
from skylift.image_steps import FORCE_NUMBER, ImageSteps, refuse_gpu, secret_values
from skylift.inside import container_spec
from skylift.portable_environment import PortableEnvironment, check_portable
from skylift.preload import worth_importing
from skylift.waiting import Waiter
from skylift.wire import (
    FromDebian,
    FromRegistry,
    FromScratch,
    ImageDefinition,
    ImageSpec,
    definition_keys,
)

if TYPE_CHECKING:
    from skylift.client import Client

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
"""That code in containers runs under."""

_NOT_BUILT = frozenset(
    [
        "micromamba",
        "from_name",
        "from_id",
        "from_aws_ecr",
        "from_gcp_artifact_registry",
        "micromamba_install",
        "poetry_install_from_file",
        "pip_install_private_repos",
        "publish",
    ]
)


class _ImageType(type):
    """Makes ``Image.micromamba`` and the like say that they are not built yet."""

    def __getattr__(cls, name: str) -> Any:
        if name in _NOT_BUILT:
            _refuse(name)
        raise AttributeError(f"type object 'Image' has no attribute {name!r}")


class Image(ImageSteps, metaclass=_ImageType):
    """What a container's root file system holds.

    ``Image.from_environment()``, the default, is the environment that this process runs in. The others are
    chains of steps, ``Image.debian_slim().apt_install("git").pip_install("numpy")``: each method returns
    another image. One is built before the first call that uses it; each step is kept, so a changed step makes
    only itself and those after it anew.
    """

    _environment: Environment | None
    _fixed: ImageSpec | None
    _chain: Chain | None
    _elsewhere: Chain | None
    _imports: frozenset[str]
    """What is imported in its `imports` blocks."""

    def __init__(self) -> None:
        raise InvalidError(
            "Image() makes no image; use Image.from_environment(), Image.debian_slim() or "
            "Image.from_registry(…)"
        )

    # --- what it begins with ---------------------------------------------------------------------

    @classmethod
    def from_environment(cls, *, portable: bool | None = None) -> Image:
        """The environment that this process runs in: its Python version, packages and local modules.

        The container sees them read-only, at the same paths (see `skylift.environment` for which folders).
        What is installed or edited later is seen by containers that start later, and running ones of an
        older environment are not used for new calls.

        Where no host shares this machine's files, an image is built of them: the packages and local modules,
        at the same paths, on a small Debian with the same Python. + `portable=True` does so in any case, and
        so does adding steps: ``Image.from_environment().apt_install("ffmpeg")``.

        In a container it is the environment that the container was made from.
        """
        spec = container_spec()
        if spec is not None:
            return cls._from_spec(spec.image)
        if portable:
            check_portable()
            return cls._made(chain=Chain((PortableEnvironment(),)))
        return cls._made(environment=Environment())

    @classmethod
    def debian_slim(cls, python_version: str | None = None, force_build: bool = False) -> Image:
        """A small Debian with a Python: `python_version` is ``"3.10"`` to ``"3.14"``, by default this one's.

        `force_build` makes it and all steps after it anew, once in this process.
        """
        python = _python(python_version, "debian_slim", "python_version")
        return cls._begun(Fixed(FromDebian(python=python, label=f"debian_slim {python}")), force_build)

    @classmethod
    def from_registry(
        cls,
        tag: str,
        secret: Any = None,
        *,
        setup_dockerfile_commands: Sequence[str] = (),
        force_build: bool = False,
        add_python: str | None = None,
    ) -> Image:
        """An image of a registry: ``"nvidia/cuda:12.8.1-devel-ubuntu24.04"``, ``"ghcr.io/org/image:tag"``.

        `add_python` (``"3.12"``) puts a Python into it, which it needs where it has none of 3.10 to 3.14.
        `secret` has ``REGISTRY_USERNAME`` and ``REGISTRY_PASSWORD``. `setup_dockerfile_commands` run first.
        """
        if not isinstance(tag, str) or not tag.strip() or re.search(r"\s|://", tag):
            raise InvalidError(f"from_registry({tag!r}): the name of an image, such as 'debian:12-slim'")
        username, password = _login(secret, "from_registry")
        python = _python(add_python, "from_registry", "add_python") if add_python is not None else ""
        step = FromRegistry(
            reference=tag,
            add_python=python,
            username=username,
            password=password,
            label=f"from_registry {tag}",
        )
        image = cls._begun(Fixed(step), force_build)
        return image.dockerfile_commands(list(setup_dockerfile_commands))

    @classmethod
    def from_dockerfile(
        cls,
        path: str | Path,
        *,
        context_dir: str | Path | None = None,
        build_args: Mapping[str, str] | None = None,
        ignore: Ignore | None = None,
        add_python: str | None = None,
        target: str | None = None,
        secret: Any = None,
        secrets: Sequence[Any] | None = None,
        env: Mapping[str, str] | None = None,
        gpu: Any = None,
        force_build: bool = False,
    ) -> Image:
        """What a Dockerfile describes, read when the image is built. ``COPY`` takes files from `context_dir`,
        by default the Dockerfile's folder. + `target`: the stage to build, by default the last."""
        where = "from_dockerfile"
        file = Path(path).expanduser().absolute()
        if not file.is_file():
            raise InvalidError(f"{where}: there is no file {str(path)!r} here (in {Path.cwd()})")
        for name, value in (("secrets", secrets), ("env", env)):
            if value:
                raise InvalidError(f"{where}: {name}= is not built yet; use build_args=")
        refuse_gpu(where, gpu)
        username, password = _login(secret, where)
        part = Dockerfile(
            label=f"{where} {path}",
            text=file,
            context=Path(context_dir).expanduser().absolute() if context_dir else file.parent,
            ignore=None if ignore is None else matcher(ignore, where),
            build_args=tuple((build_args or {}).items()),
            target=target or "",
            add_python=_python(add_python, where, "add_python") if add_python is not None else "",
            username=username,
            password=password,
        )
        return cls._begun(part, force_build)

    @classmethod
    def from_scratch(cls, *, force_build: bool = False) -> Image:
        """Nothing at all: for `add_local_dir`, and for other images to copy from. Code cannot run in it."""
        return cls._begun(Fixed(FromScratch(label="from_scratch")), force_build)

    # --- what is done with it --------------------------------------------------------------------

    def imports(self) -> Imports:
        """For ``with image.imports():`` around ``import`` statements, of packages that this image has.

        A template of the image's containers imports them beforehand. One that is not installed here is no
        error: its name can be used in functions, and raises ImportError when it is used here.
        """
        return Imports(self._note_imports)

    @property
    def build(self) -> Blocking[..., Image]:
        """Builds the image now, showing the log, and returns it: ``image.build()``. It is built by itself
        before the first call that needs it. Raises `ImageBuildError` naming the step that failed."""
        return Blocking(self._build)

    @property
    def key(self) -> str:
        """What the gateway knows a built image by, 64 hex digits: for ``image`` in ``[[kernels]]`` of
        config.toml. Raises `InvalidError` for the environment, which is not built."""
        if self._chain is None:
            raise InvalidError("Image.from_environment() has no key: it is not built, but shown as it is")
        return definition_keys(self._chain.definition())[-1]

    async def _build(self, waiter: Waiter, app: Any = None) -> Image:
        from skylift.results import connected_client

        await self._ready(waiter, await connected_client(waiter))
        return self

    # --- how it is done --------------------------------------------------------------------------

    @classmethod
    def _made(
        cls,
        *,
        environment: Environment | None = None,
        fixed: ImageSpec | None = None,
        chain: Chain | None = None,
        imports: frozenset[str] = frozenset(),
    ) -> Image:
        image = object.__new__(cls)
        image._environment = environment
        image._fixed = fixed
        image._chain = chain
        image._elsewhere = None
        image._imports = imports
        return image

    @classmethod
    def _begun(cls, part: Part, force_build: bool) -> Image:
        return cls._made(chain=Chain((part,), FORCE_NUMBER if force_build else 0))

    @classmethod
    def _from_spec(cls, spec: ImageSpec, imports: frozenset[str] = frozenset()) -> Image:
        return cls._made(fixed=spec, imports=imports)

    @classmethod
    def _from_definition(cls, definition: ImageDefinition, imports: frozenset[str] = frozenset()) -> Image:
        parts = tuple(Fixed(step) for step in definition.steps)
        return cls._made(chain=Chain(parts, definition.generation), imports=imports)

    def _then(self, *parts: Part) -> Image:
        chain = self._chain
        if chain is None:
            if self._environment is None:
                raise InvalidError(
                    f"{parts[0].label.partition(' ')[0]}: in a container nothing can be added to the "
                    "environment that it was made from; begin with Image.debian_slim()"
                )
            check_portable()
            chain = self._portable()
        return Image._made(chain=chain.then(parts), imports=self._imports)

    def _note_imports(self, names: Iterable[str]) -> None:
        with _noting:
            self._imports = self._imports.union(worth_importing(names))

    async def _ready(
        self, waiter: Waiter, client: Client, moment: object = None, modules: tuple[str, ...] = ()
    ) -> ImageSpec:
        """What containers of the image are made of, at this moment; built where it is not built yet.

        `modules` that are not installed here go along, where the image does not have them anyway.

        Raises `InvalidError` for local files that are gone, `ImageBuildError`.
        """
        if self._chain is not None:
            return await self._chain.with_source(modules).built(waiter, client, moment)
        if self._environment is not None and client.elsewhere:
            return await self._portable().built(waiter, client, moment)
        return self._spec(moment)

    def _portable(self) -> Chain:
        """The environment for hosts that do not share this machine's files."""
        with _noting:
            if self._elsewhere is None:
                assert self._environment is not None
                self._elsewhere = Chain((PortableEnvironment(self._environment),))
            return self._elsewhere

    @property
    def _python(self) -> str:
        """The minor version of its Python, ``"3.11"``; "" where that is not known before it is built."""
        if self._chain is not None:
            return known_python(self._chain.parts)
        return ".".join(self._spec().python_version.split(".")[:2])

    def _spec(self, moment: object = None) -> ImageSpec:
        if self._environment is not None:
            return self._environment.current(moment)
        assert self._fixed is not None
        return self._fixed

    def _latest(self) -> object:
        """The same object as long as the image is the same."""
        if self._chain is not None:
            return self._chain.latest()
        return self._environment.latest() if self._environment is not None else self._fixed

    def __reduce__(self) -> tuple[Any, ...]:
        if self._chain is not None:
            # Where it arrives there are no local files: they are in the store by then.
            return Image._from_definition, (self._chain.definition(), self._imports)
        # In a container the environment is still the one that it was made from.
        return Image._from_spec, (self._latest(), self._imports)

    def __copy__(self) -> Image:
        return self

    def __deepcopy__(self, memo: object) -> Image:
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Image) or self._chain is not None or other._chain is not None:
            return isinstance(other, Image) and self._chain == other._chain
        return self._spec() == other._spec()

    def __hash__(self) -> int:
        return hash(self._chain if self._chain is not None else self._spec().fingerprint)

    def __getattr__(self, name: str) -> Any:
        if name in _NOT_BUILT:
            _refuse(name)
        raise AttributeError(f"'Image' object has no attribute {name!r}")

    def __repr__(self) -> str:
        if self._chain is None:
            return "Image.from_environment()"
        return f"<skylift.Image: {'; '.join(part.label for part in self._chain.parts)}>"


_noting = threading.Lock()


@lru_cache(maxsize=1)
def default_image() -> Image:
    """What functions and sessions run in that name no image."""
    return Image.from_environment()


def _python(version: object, where: str, name: str) -> str:
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if version is None:
        version = here
    if isinstance(version, str) and version in PYTHONS:
        return version
    if isinstance(version, float):
        raise InvalidError(
            f'{where}: {name}={version!r} is a number, which has lost its zeros; write "{here}"'
        )
    if isinstance(version, str) and re.fullmatch(r"3\.\d+\.\d+", version):
        minor = version.rpartition(".")[0]
        raise InvalidError(f'{where}: {name}={version!r}: the minor version only: "{minor}"')
    raise InvalidError(f"{where}: {name}={version!r}: one of {', '.join(PYTHONS)}, as text")


def _login(secret: object, where: str) -> tuple[str, str]:
    values = secret_values([secret] if secret is not None else [], where)
    if values and not {"REGISTRY_USERNAME", "REGISTRY_PASSWORD"} <= values.keys():
        raise InvalidError(f"{where}: its secret needs REGISTRY_USERNAME and REGISTRY_PASSWORD")
    return values.get("REGISTRY_USERNAME", ""), values.get("REGISTRY_PASSWORD", "")


def _refuse(name: str) -> NoReturn:
    raise InvalidError(
        f"Image.{name} is not built yet. Image.debian_slim() and Image.from_registry(…) are what images "
        "begin with; Image.from_environment(), the default, has the packages that are installed here"
    )
