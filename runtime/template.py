"""One template, and what the containers that come from it have in common."""

from __future__ import annotations

import asyncio
import time

import msgspec
from blake3 import blake3

from skylift.runtime.gpus import Gpu
from skylift.runtime.isolation import ContainerPlan, ContainerProcess
from skylift.runtime.template_link import TemplateLink
from skylift.wire import FunctionSpec, SnapshotRef, TemplateInfo, TemplateState, new_id


def template_key(spec: FunctionSpec, user: str, devices: str = "") -> str:
    """What containers must have in common to be forked from one template; 32 hex digits.

    `devices` says which GPUs the template sees, where its containers are to have some.
    """
    return blake3(
        msgspec.msgpack.encode(
            (
                user,
                spec.image.fingerprint,
                spec.image.layers,
                (spec.image.workdir, spec.image.entrypoint),
                spec.image.python,
                spec.image.sys_path,
                [mount.path for mount in spec.image.mounts],
                sorted(spec.image.env.items()),
                sorted(spec.env.items()),
                bool(spec.session),
                spec.preload,
                spec.template_code,
                spec.parameters,
                devices,
            )
        )
    ).hexdigest(16)


class Template:
    """One template, or why there is none."""

    def __init__(self, key: str, spec: FunctionSpec, gpus: tuple[Gpu, ...]) -> None:
        self.key = key
        self.spec = spec
        self.gpus = gpus
        """Those that it sees, so that its containers can: all of the host's, or none."""
        self.template_id = new_id("tp")
        self.label = "sessions" if spec.session else f"{spec.app}.{spec.name}"
        self.state: TemplateState = "making"
        self.reason = ""
        self.restored = False
        self.snapshot: SnapshotRef | None = None
        self.created = time.time()
        self.used = time.monotonic()
        self.forks: set[str] = set()
        self.spare = False
        """One was forked ahead."""
        self.failures = 0
        """Forks that failed since the last one that did not."""
        self.ended = False
        """It worked, and then its process ended."""
        self.again = False
        """Its snapshot could not be restored: another one may be made of the same key."""
        self.plan: ContainerPlan | None = None
        self.process: ContainerProcess | None = None
        self.link: TemplateLink | None = None
        self.settled = asyncio.Event()
        """It is not about to be made or restored any more."""

    @property
    def forkable(self) -> bool:
        """Whether containers can be forked from it now."""
        return self.state == "ready" and self.process is not None

    def info(self, host_id: str) -> TemplateInfo:
        """What people are told of it."""
        return TemplateInfo(
            template_id=self.template_id,
            host_id=host_id,
            label=self.label,
            state=self.state,
            reason=self.reason,
            forks=len(self.forks),
            spare=self.spare,
            memory=self.process.use().memory if self.process is not None else 0,
            restored=self.restored,
            snapshot=self.snapshot,
            created=self.created,
        )


def one_line(error: BaseException) -> str:
    """For reasons."""
    if isinstance(error, asyncio.TimeoutError):
        return "it took too long"
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
