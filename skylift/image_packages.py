"""Commands that install packages in an image: pip, uv and apt."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from skylift.exceptions import InvalidError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

INPUTS = "/run/skylift/build"
"""Where commands find the inputs of their step."""

SDK_NEEDS = (
    "blake3>=1.0,<2",
    "cloudpickle>=3.1,<4",
    "msgspec>=0.20,<1",
    "urllib3>=2.2,<3",
    "websockets>=15,<18",
)
"""What Skylift's own part for notebooks needs, where code in a container uses it."""

_UV = "/tmp/.skylift-uv"  # noqa: S108 (in the container that builds, which is alone)
_TWO_PACKAGES = re.compile(r"[\w.\[\]-]+(\s+[\w.\[\]-]+)+")
_APT_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*(:[a-z0-9-]+)?([=/]\S+)?")
_LOCAL = re.compile(r"(\.{1,2}(/|$)|/|~/|file:)")


def packages(given: Iterable[Any], where: str) -> tuple[str, ...]:
    """The packages that a call names, each once, in order; lists are taken apart.

    Raises `InvalidError`, beginning with `where`, for what is none.
    """
    found: list[str] = []
    for item in given:
        if isinstance(item, (list, tuple)):
            found += packages(item, where)
        elif not isinstance(item, str):
            what = f"the module {item.__name__}" if hasattr(item, "__file__") else repr(item)
            raise InvalidError(f"{where}({what}): packages are named by text, such as {where}('numpy')")
        elif not item.strip():
            raise InvalidError(f"{where}({item!r}): a package's name is empty")
        elif item.strip().startswith("-"):
            raise InvalidError(
                f"{where}({item!r}): that is an option; options go into extra_options={item!r}"
            )
        elif _TWO_PACKAGES.fullmatch(item.strip()):
            apart = ", ".join(map(repr, item.split()))
            raise InvalidError(f"{where}({item!r}): each package is an argument of its own: {where}({apart})")
        else:
            found.append(item.strip())
    return tuple(dict.fromkeys(found))


def pip_options(
    find_links: str | None,
    index_url: str | None,
    extra_index_url: str | None,
    pre: bool,
    extra_options: str,
    where: str,
) -> str:
    """As words of a command line."""
    if not isinstance(extra_options, str):
        raise InvalidError(f"{where}: extra_options={extra_options!r}: text, such as '--no-deps'")
    words: list[str] = []
    for option, name, value in (
        ("--find-links", "find_links", find_links),
        ("--index-url", "index_url", index_url),
        ("--extra-index-url", "extra_index_url", extra_index_url),
    ):
        if value is None:
            continue
        if not isinstance(value, str) or not value:
            raise InvalidError(f"{where}: {name}={value!r}: a URL")
        words += [option, shlex.quote(value)]
    if pre:
        words.append("--pre")
    if extra_options:
        words.append(extra_options)
    return "".join(f" {word}" for word in words)


def pip_install(what: str, options: str) -> str:
    """The command; `what` is a part of it."""
    return f"python -m pip install --disable-pip-version-check --root-user-action=ignore{options} {what}"


def with_uv(commands: Iterable[str], uv_version: str | None) -> tuple[str, ...]:
    """Commands in which ``uv`` can be used, of which nothing stays in the image."""
    wanted = f"uv=={uv_version}" if uv_version else "uv"
    lines = [
        "set -e",
        f"python -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target {_UV} "
        + shlex.quote(wanted),
        f'uv() {{ PYTHONPATH={_UV} python -m uv "$@"; }}',
        # uv does not read what pip is told.
        '[ -z "$PIP_TRUSTED_HOST" ] || export UV_INSECURE_HOST="${UV_INSECURE_HOST:-$PIP_TRUSTED_HOST}"',
        "export UV_NO_CACHE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_BREAK_SYSTEM_PACKAGES=1",
        *commands,
        f"rm -rf {_UV}",
    ]
    return ("\n".join(lines),)


def uv_install(what: str, options: str) -> str:
    """The command; `what` is a part of it."""
    return f'uv pip install --python "$(command -v python)" --compile-bytecode{options} {what}'


def apt_commands(names: Sequence[str]) -> tuple[str, ...]:
    """That install Debian packages. Raises `InvalidError` for what cannot be one."""
    for name in names:
        if not _APT_NAME.fullmatch(name):
            raise InvalidError(
                f"apt_install({name!r}): not the name of a Debian package, such as 'git' or 'libgl1=1.6.0-1'"
            )
    return (
        "apt-get update",
        f"apt-get install -y --no-install-recommends {' '.join(map(shlex.quote, names))}",
        "rm -rf /var/lib/apt/lists/*",
    )


def requirements(path: str, where: str, _above: tuple[Path, ...] = ()) -> str:
    """The text of a requirements file, with those that it includes in their places.

    Raises `InvalidError` where it cannot be read, or names files of this machine.
    """
    file = Path(path).expanduser()
    if file.resolve() in _above:
        raise InvalidError(f"{where}: {path} includes itself")
    out: list[str] = []
    for number, line in enumerate(read_text(file, where).splitlines(), 1):
        text = line.split(" #")[0].strip()
        included = re.fullmatch(r"(?:-r|--requirement)[ =]*(\S+)", text)
        at = f"{where}: line {number} of {path}: {text!r}"
        if included:
            out.append(requirements(str(file.parent / included[1]), where, (*_above, file.resolve())))
            continue
        if re.match(r"(-c|--constraint)\b", text):
            raise InvalidError(f"{at}: constraints are not built yet; pin the versions instead")
        name = re.sub(r"^(-e|--editable)[ =]*", "", text)
        if name != text or _LOCAL.match(name):
            raise InvalidError(
                f"{at} is a path of this machine. Leave it out, and add the package with "
                "add_local_python_source, or with add_local_dir(…, copy=True) and pip_install of where it is "
                "there"
            )
        out.append(line)
    return "\n".join(out) + "\n"


def project_dependencies(path: str, extras: Sequence[str], where: str) -> tuple[str, ...]:
    """The dependencies in a ``pyproject.toml``, with those of some extras.

    Raises `InvalidError` where it cannot be read or lacks an extra.
    """
    try:
        project: Mapping[str, Any] = tomllib.loads(read_text(Path(path).expanduser(), where)).get(
            "project", {}
        )
    except tomllib.TOMLDecodeError as error:
        raise InvalidError(f"{where}: {path} is no TOML: {error}") from None
    if "dependencies" not in project and not extras:
        raise InvalidError(f"{where}: {path} has no [project] with dependencies")
    found = list(project.get("dependencies", ()))
    known = project.get("optional-dependencies", {})
    for extra in extras:
        if extra not in known:
            listed = ", ".join(known) or "none"
            raise InvalidError(f"{where}: {path} has no optional dependencies {extra!r}; there are: {listed}")
        found += known[extra]
    return packages(found, where)


def read_text(path: Path, where: str) -> str:
    """A file's text. Raises `InvalidError`, beginning with `where`."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidError(f"{where}: there is no file {str(path)!r} here (in {Path.cwd()})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"{where}: {path}: {error}") from None
