"""The line behind ``%%gpu``: which GPU, and the options after it."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from skylift.exceptions import InvalidError
from skylift.gpu import MODELS, gpu_text, parse_gpus
from skylift.options import IDLE_POLICIES
from skylift.volume_paths import check_mount_paths, mount_path
from skylift.wire import GpuRequest

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?", re.IGNORECASE)
_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(m|mb|mib|g|gb|gib|t|tb|tib)?", re.IGNORECASE)
_MIB = {"": 1024, "m": 1, "g": 1024, "t": 1024 * 1024}


@dataclass(frozen=True)
class Option:
    """One option of ``%%gpu``."""

    name: str
    value: str
    """What its value looks like, for the help; "" for a switch."""
    help: str
    read: Callable[[str], Any] = str
    repeatable: bool = False


@dataclass(frozen=True)
class CellOptions:
    """What a ``%%gpu`` line asks for. None: not said."""

    gpus: tuple[GpuRequest, ...] | None = None
    """Empty for ``cpu``."""
    cpu: float | None = None
    """Cores."""
    memory: int | None = None
    """MiB, reserved and at most."""
    timeout: float | None = None
    """Seconds for this cell."""
    idle: float | None = None
    """Seconds that the session is kept when nothing runs."""
    idle_policy: str = ""
    """What becomes of it then."""
    name: str = ""
    image: str = ""
    """The name of a variable of the notebook."""
    env: dict[str, str] = field(default_factory=dict)
    volumes: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """By path: the volume's name, and whether it is read-only."""
    detach: bool = False
    dry_run: bool = False

    @property
    def gpu_text(self) -> str:
        """``"H100,A100-80GB"``, ``"cpu"``, or "" where nothing was said."""
        if self.gpus is None:
            return ""
        return ",".join(gpu_text(gpu) for gpu in self.gpus) or "cpu"


def seconds(text: str) -> float:
    """``"2h"``, ``"5m"``, ``"90s"``, ``"90"``, ``"1h30m"`` in seconds. Raises ValueError."""
    total, position = 0.0, 0
    text = text.strip()
    while position < len(text):
        match = _DURATION.match(text, position)
        if match is None:
            break
        total += float(match[1]) * _SECONDS[(match[2] or "").lower()]
        position = match.end()
    if position < len(text) or total <= 0:
        raise ValueError("a duration such as 90s, 5m, 2h or 1h30m, above 0")
    return total


def mebibytes(text: str) -> int:
    """``"32"`` and ``"32G"`` (GiB), ``"512M"``, ``"1T"`` in MiB. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    amount = int(float(match[1]) * _MIB[(match[2] or "")[:1].lower()]) if match else 0
    if amount <= 0:
        raise ValueError("a size such as 32 (GiB), 32G or 512M, above 0")
    return amount


def _cores(text: str) -> float:
    try:
        cores = float(text)
    except ValueError:
        cores = 0.0
    if cores <= 0:
        raise ValueError("a number of cores such as 2 or 0.5, above 0")
    return cores


def _session_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", text):
        raise ValueError("letters, digits, dots, dashes and underscores, at most 64, such as train-2")
    return text


def _idle_policy(text: str) -> str:
    if text.lower() in IDLE_POLICIES:
        return text.lower()
    near = difflib.get_close_matches(text.lower(), IDLE_POLICIES, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"one of {', '.join(IDLE_POLICIES)}{hint}")


def _variable(text: str) -> str:
    if not text.isidentifier():
        raise ValueError("the name of a variable that holds an Image")
    return text


def _volume(text: str) -> tuple[str, str, bool]:
    name, _, rest = text.partition(":")
    path, _, mode = rest.partition(":")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) or not path or mode not in ("", "ro", "rw"):
        raise ValueError("NAME:/PATH, such as data:/data, with :ro behind it where it is only to be read")
    try:
        return name, mount_path(path), mode == "ro"
    except InvalidError as error:
        raise ValueError(f"a path in the container: {error}") from None


def _volumes(given: Iterable[tuple[str, str, bool]]) -> dict[str, tuple[str, bool]]:
    check_mount_paths([path for _, path, _ in given])
    return {path: (name, read_only) for name, path, read_only in given}


def _environment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError("NAME=value")
    return name, value


OPTIONS = (
    Option("--cpu", "CORES", "cores to reserve, such as 8 or 0.5", _cores),
    Option("--memory", "SIZE", "memory that it has, and no more: 32 or 32G are GiB, 512M are MiB", mebibytes),
    Option("--timeout", "TIME", "ends the cell after this long: 90s, 5m, 2h (default 24h)", seconds),
    Option("--idle", "TIME", "keeps the session this long when nothing runs (default 10m)", seconds),
    Option(
        "--idle-policy",
        "POLICY",
        "then: sleep (kept where it cannot), sleep-or-stop, stop, keep (default sleep)",
        _idle_policy,
    ),
    Option(
        "--name", "NAME", "names the session; cells with the same name share their variables", _session_name
    ),
    Option("--image", "VARIABLE", "a variable that holds an Image (default: this environment)", _variable),
    Option("--env", "NAME=VALUE", "an environment variable; may be given more than once", _environment, True),
    Option(
        "--volume",
        "NAME:/PATH[:ro]",
        "a volume, made where there is none; ro: only to be read",
        _volume,
        True,
    ),
    Option("--detach", "", "runs on without the notebook; %gpu attach ID streams it back"),
    Option(
        "--dry-run", "", "says what it would run on and cost, where, and what else there is; runs nothing"
    ),
)
"""In the order of the help."""

_BY_NAME = {option.name: option for option in OPTIONS}

NOT_BUILT_YET = {
    "--cloud": "clouds are not built yet: cells run on this machine",
    "--region": "clouds are not built yet: cells run on this machine",
    "--zone": "clouds are not built yet: cells run on this machine",
    "--on-demand": "clouds are not built yet: cells run on this machine",
    "--secret": "secrets are not built yet: --env passes an environment variable",
    "--max-cost": "limits on cost are not built yet: --timeout limits the time",
}


def parse_line(line: str) -> CellOptions:
    """What the text after ``%%gpu`` says.

    Raises `InvalidError` that names what is wrong and what there is.
    """
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise InvalidError(f"%%gpu {line.strip()}: {error}") from None
    gpu_words: list[str] = []
    values: dict[str, Any] = {}
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not word.startswith("-"):
            gpu_words.append(word)
            continue
        name, equals, value = word.partition("=")
        option = _option(name)
        if option.name in values and not option.repeatable:
            raise InvalidError(f"%%gpu: {name} is there twice")
        if not option.value:
            if equals:
                raise InvalidError(f"%%gpu: {name} takes no value")
            values[name] = True
            continue
        if not equals:
            if position == len(words):
                raise InvalidError(f"%%gpu: {name} needs a value: {option.help}")
            value = words[position]
            position += 1
        try:
            read = option.read(value)
        except ValueError as error:
            raise InvalidError(f"%%gpu: {name} {value!r}: it takes {error}") from None
        if option.repeatable:
            values.setdefault(name, []).append(read)
        else:
            values[name] = read
    return CellOptions(
        gpus=_gpus(gpu_words),
        cpu=values.get("--cpu"),
        memory=values.get("--memory"),
        timeout=values.get("--timeout"),
        idle=values.get("--idle"),
        idle_policy=values.get("--idle-policy", ""),
        name=values.get("--name", ""),
        image=values.get("--image", ""),
        env=dict(values.get("--env", ())),
        volumes=_volumes(values.get("--volume", ())),
        detach=values.get("--detach", False),
        dry_run=values.get("--dry-run", False),
    )


def _option(name: str) -> Option:
    if name in NOT_BUILT_YET:
        raise InvalidError(f"%%gpu: {name}: {NOT_BUILT_YET[name]}")
    option = _BY_NAME.get(name)
    if option is None:
        raise InvalidError(f"%%gpu: unknown option {name}; {nearest(name, _BY_NAME, NOT_BUILT_YET)}")
    return option


def _gpus(words: list[str]) -> tuple[GpuRequest, ...] | None:
    if not words:
        return None
    # "H100, A100" is one list, whatever the spaces.
    parts = " ".join(words)
    if len(words) > 1 and not re.fullmatch(r"[^\s,]+(\s*,\s*[^\s,]+)*", parts):
        raise InvalidError(
            f"%%gpu: {words[1]!r} is neither a GPU nor an option. Several GPUs in order of preference are "
            f"written with commas: %%gpu {','.join(words)}"
        )
    if parts.lower() == "cpu":
        return ()
    specs = [part.strip() for part in parts.split(",")]
    if "cpu" in (spec.lower() for spec in specs):
        raise InvalidError(f"%%gpu {parts}: cpu stands alone; leave it out to wait for one of the GPUs")
    return parse_gpus(specs)


def nearest(word: str, known: Iterable[str], others: Iterable[str] = ()) -> str:
    """``did you mean --name? Known: …``, for errors; `others` may be meant, and are not listed."""
    known = list(known)
    near = difflib.get_close_matches(word.lower(), [*known, *others], n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{hint}Known: {', '.join(known)}"


GPU_NAMES = (*reversed(MODELS), "any", "cpu")
"""What may stand where ``%%gpu`` wants a GPU, large ones first."""
