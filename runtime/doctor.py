"""What this machine can do as a host, what is missing, why it matters and how to get it.

``python -m skylift.runtime.doctor [--home FOLDER] [--json]`` prints it, and exits with 1 where no container
can be made.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from skylift.runtime.image_checks import examine_images
from skylift.runtime.machine_checks import Finding, examine
from skylift.runtime.plain_process import WARNING
from skylift.runtime.settings import HostSettings, SettingsError, host_settings, machine_memory, read_config
from skylift.runtime.start_path_checks import examine_start_paths

WIDTH = 96


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was found."""

    hostname: str
    kernel: str
    rootless: bool
    cpus: float
    """Cores that the host offers."""
    memory: int
    """MiB that the host offers, of `machine_memory`."""
    machine_memory: int
    isolation: str
    """``"runc"``, ``"process"``, or ``"none"`` where containers cannot be made."""
    findings: tuple[Finding, ...]

    @property
    def works(self) -> bool:
        """Whether the host can make what its settings ask for."""
        return self.isolation != "none"


async def report(settings: HostSettings, home: Path) -> Report:
    """Look at this machine; see `examine`."""
    findings = [finding async for finding in examine(settings, home)]
    findings += [finding async for finding in examine_start_paths(settings, home)]
    findings += examine_images(settings)
    lacking = any(finding.state == "missing" for finding in findings)
    isolation = settings.isolation if settings.isolation == "process" or not lacking else "none"
    return Report(
        hostname=platform.node(),
        kernel=f"{platform.system()} {platform.release()}",
        rootless=os.geteuid() != 0,
        cpus=settings.cpus_offered(),
        memory=settings.memory_offered(),
        machine_memory=machine_memory(),
        isolation=isolation,
        findings=tuple(findings),
    )


def text(report: Report) -> str:
    """The report for people."""
    who = "an ordinary user" if report.rootless else "root"
    lines = [
        f"{report.hostname}: {report.kernel}, as {who}",
        f"offers {report.cpus:g} cores and {report.memory:,} of {report.machine_memory:,} MiB",
        "",
    ]
    for finding in report.findings:
        lines += _wrapped(f"{finding.state:<8} {finding.name}: {finding.text}", 9)
        if finding.state != "ok":
            lines += _wrapped(f"         why: {finding.why}", 14)
            lines += _wrapped(f"         fix: {finding.fix}", 14)
    lines += ["", *_wrapped(_summary(report), 0)]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m skylift.runtime.doctor", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--home", type=Path, default=default_home(), help="Skylift's folder (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    try:
        settings = host_settings(read_config(options.home))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 1
    found = asyncio.run(report(settings, options.home))
    if options.json:
        print(msgspec.json.encode(found).decode())
    else:
        print(text(found), end="")
    return 0 if found.works else 1


def default_home() -> Path:
    """``$SKYLIFT_HOME``, or where it is by default."""
    if home := os.environ.get("SKYLIFT_HOME"):
        return Path(home)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Path(data, "skylift")


def _summary(report: Report) -> str:
    if report.isolation == "process":
        return WARNING
    if report.works:
        warnings = sum(finding.state == "warning" for finding in report.findings)
        return "Containers can be made here." + (
            f" {warnings} of the above could be better." if warnings else ""
        )
    missing: Iterable[str] = (each.name for each in report.findings if each.state == "missing")
    return (
        f"Containers cannot be made here: {', '.join(missing)} {'is' if _one(report) else 'are'} missing. "
        'isolation = "process" in [host] of config.toml does without, and isolates nothing.'
    )


def _one(report: Report) -> bool:
    return sum(each.state == "missing" for each in report.findings) == 1


def _wrapped(line: str, indent: int) -> list[str]:
    return textwrap.wrap(
        line,
        WIDTH,
        subsequent_indent=" " * indent,
        drop_whitespace=True,
        break_long_words=False,
        break_on_hyphens=False,
    )


if __name__ == "__main__":
    sys.exit(main())
