"""What this machine's programs know of the network, for the commands that build an image.

Proxies, the index that pip has, apt's settings, and the certificates of a network that looks into TLS. Only a
build's commands get them; nothing of it is in an image.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from skylift.runtime.isolation import Bind
from skylift.runtime.runc.build import INPUTS

CERTIFICATES = f"{INPUTS}/.host/ca.pem"
CONSTRAINTS = f"{INPUTS}/.host/constraints.txt"
APT = "/etc/apt/apt.conf.d/99skylift-build"

_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
_CERTIFICATE_NAMES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
)
_PIP_NAMES = ("index-url", "extra-index-url", "find-links", "trusted-host", "no-index", "proxy", "timeout")
_UV_NAMES = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS"}
_APT_KINDS = ("Acquire::http::", "Acquire::https::", "Acquire::Check-", "Acquire::Retries", "Acquire::Force")


class HostNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """Settings for the commands of a build."""

    env: Mapping[str, str] = {}
    """For all commands."""
    pip_env: Mapping[str, str] = {}
    """For those that install Python packages."""
    pip_folders: tuple[str, ...] = ()
    """Folders of this machine that `pip_env` names, which are mounted at the same paths."""
    certificates: str = ""
    """A file; at `CERTIFICATES` in the container."""
    constraints: str = ""
    """A file; at `CONSTRAINTS`, for `pip_env`."""
    apt: str = ""
    """What is in `APT`, for an image that has apt."""

    def binds(self, *, pip: bool) -> list[Bind]:
        """What is mounted beyond what is in a step's own folder of inputs."""
        names = self.pip_folders if pip else ()
        return [Bind(Path(os.path.realpath(name)), name) for name in names]


def host_network(env: Mapping[str, str] = os.environ) -> HostNetwork:
    """As it is now. Runs pip and apt-config, for at most some seconds."""
    shown = {}
    for name in _PROXIES:
        for spelled in (name, name.upper()):
            if env.get(spelled):
                shown[spelled] = env[spelled]
    certificates = next((env[name] for name in _CERTIFICATE_NAMES if os.path.isfile(env.get(name, ""))), "")
    pip = _pip_settings(env)
    certificates = certificates or (pip["cert"] if os.path.isfile(pip.get("cert", "")) else "")
    if certificates:
        shown.update(dict.fromkeys(_CERTIFICATE_NAMES, CERTIFICATES))
    pip_env = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore", "PIP_NO_INPUT": "1"}
    for name in _PIP_NAMES:
        if pip.get(name):
            pip_env[f"PIP_{name.upper().replace('-', '_')}"] = pip[name]
            if name in _UV_NAMES:
                pip_env[_UV_NAMES[name]] = ",".join(pip[name].split()) if name == "find-links" else pip[name]
    if certificates:
        pip_env["PIP_CERT"] = CERTIFICATES
    constraints = pip.get("constraint", "")
    if os.path.isfile(constraints):
        pip_env["PIP_CONSTRAINT"] = CONSTRAINTS
    return HostNetwork(
        env=shown,
        pip_env=pip_env,
        pip_folders=tuple(_folders(pip.get(name, "") for name in _UV_NAMES)),
        certificates=certificates,
        constraints=constraints if os.path.isfile(constraints) else "",
        apt=_apt_settings(bool(certificates)),
    )


def _pip_settings(env: Mapping[str, str]) -> dict[str, str]:
    """By pip's names of them; what comes later wins, as with pip."""
    said = _output([sys.executable, "-m", "pip", "config", "list"], env)
    order = {"global": 0, "user": 1, "site": 2, "install": 3, ":env:": 4}
    found: list[tuple[int, str, str]] = []
    for line in said.splitlines():
        name, separator, value = line.partition("=")
        kind, _, key = name.rpartition(".")
        if separator and kind in order:
            try:
                text = msgspec.json.decode(value.replace("'", '"'), type=str)
            except msgspec.DecodeError:
                continue
            found.append((order[kind], key, " ".join(text.split())))
    told = {key: text for _, key, text in sorted(found)}
    for name in (*_PIP_NAMES, "cert", "constraint"):
        if spoken := env.get(f"PIP_{name.upper().replace('-', '_')}"):
            told[name] = spoken
    return told


def _folders(values: Iterable[str]) -> Iterable[str]:
    """The folders of this machine that are named in settings."""
    seen = set()
    for value in values:
        for word in value.split():
            parts = urlsplit(word)
            path = unquote(parts.path) if parts.scheme == "file" else word
            if parts.scheme not in ("", "file") or not os.path.isabs(path) or not os.path.isdir(path):
                continue
            if parts.scheme == "file" and os.path.basename(os.path.normpath(path)) == "simple":
                # Files of an index are often beside it.
                path = os.path.dirname(os.path.normpath(path))
            if path not in seen:
                seen.add(path)
                yield os.path.normpath(path)


def _apt_settings(certificates: bool) -> str:
    lines = [
        line
        for line in _output(["apt-config", "dump"], os.environ).splitlines()
        if line.startswith(_APT_KINDS) and '"";' not in line and "CaInfo" not in line
    ]
    if certificates:
        lines.append(f'Acquire::https::CaInfo "{CERTIFICATES}";')
    return "".join(f"{line}\n" for line in lines)


def _output(command: list[str], env: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            command, env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""
