"""An image as a chain of parts: its definition, made anew when local files change, and what was built."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from skylift.archives import Packer
from skylift.exceptions import InvalidError, NotFoundError
from skylift.image_builds import BuildView, built_image, known_image
from skylift.image_parts import NOT_PYTHON, Fixed, Part, PythonSource, Steps, sdk_packages
from skylift.local_modules import SDK
from skylift.portable_environment import PortableEnvironment
from skylift.waiting import BLOCKING, Waiter
from skylift.wire import ImageDefinition, ImageSpec

if TYPE_CHECKING:
    from skylift.client import Client

LOOK_AGAIN = 0.02
"""Seconds after which local files are looked at again in the same cell; more where looking takes long."""


class Chain:
    """The parts of one image. It is a value, but for what it remembers of its local files."""

    def __init__(self, parts: tuple[Part, ...], generation: int = 0) -> None:
        self.parts = parts
        self.generation = generation
        self._lock = threading.RLock()
        self._stamp: object = None
        self._moment: object = None
        self._look_again = 0.0
        self._definition: ImageDefinition | None = None
        self._packer: Packer | None = None
        self._with_source: dict[tuple[str, ...], Chain] = {}

    def then(self, parts: Sequence[Part]) -> Chain:
        """With more parts. Raises `InvalidError` where that is not possible."""
        late = next((part for part in reversed(self.parts) if part.late), None)
        for part in parts:
            if late is not None and not part.late and not _runs_nothing(part):
                raise InvalidError(
                    f"{part.label!r} comes after {late.label!r}, whose files are added last. Put it before "
                    "that, or say copy=True there, so that they become part of the image at that point"
                )
        return Chain((*self.parts, *parts), self.generation)

    async def built(self, waiter: Waiter, client: Client, moment: object) -> ImageSpec:
        """What containers are made of. See `Image._ready`."""
        # Without the lock, which whoever sends files holds for long.
        definition = self._definition if self._fresh(moment) and self._packer_of(client) else None
        if definition is not None and (spec := known_image(client, definition)) is not None:
            return spec
        view = BuildView()
        try:
            for attempt in (1, 2):
                definition = await waiter.call(self._defined, client, moment, view)
                try:
                    return await built_image(waiter, client, definition, view)
                except NotFoundError:
                    # The store has lost some of the files since they were sent.
                    if attempt == 2:
                        raise
                    self._forget()
        finally:
            view.close()
        raise AssertionError

    def with_source(self, modules: tuple[str, ...]) -> Chain:
        """With the source of modules that are not installed here; the same chain for the same ones."""
        if not modules or isinstance(self.parts[0], PortableEnvironment):
            return self
        chain = self._with_source.get(modules)
        if chain is None:
            parts = list(self.parts)
            if SDK in modules:
                # Before what is added last: an edited file installs nothing anew.
                last = next((number for number, part in enumerate(parts) if part.late), len(parts))
                parts.insert(last, sdk_packages())
            parts.append(PythonSource(f"source of {', '.join(modules)}", modules, True, NOT_PYTHON))
            chain = self._with_source[modules] = Chain(tuple(parts), self.generation)
        return chain

    def definition(self) -> ImageDefinition:
        """Its steps; local files are in the store. Connects, where there are any."""
        if all(isinstance(part, Fixed) and not part.inputs for part in self.parts):
            return ImageDefinition(steps=self._steps(None), generation=self.generation)
        from skylift.client import Client
        from skylift.results import connected_client
        from skylift.waiting import run

        client = Client.current() if Client.current().connected else run(connected_client(BLOCKING))
        view = BuildView()
        try:
            return self._defined(client, self._moment, view)
        finally:
            view.close()

    def latest(self) -> object:
        """The same object until a local file changes."""
        with self._lock:
            if not self._fresh(self._moment):
                self._look(self._moment)
            return self._stamp

    def _defined(self, client: Client, moment: object, view: BuildView) -> ImageDefinition:
        with self._lock:
            if not self._fresh(moment):
                self._look(moment)
            packer = self._packer_of(client)
            if packer is None:
                self._definition = None
                packer = self._packer = packer_of(client)
            if self._definition is None:
                packer.progress = view.sending
                steps = self._steps(packer)
                self._definition = ImageDefinition(steps=steps, generation=self.generation)
            return self._definition

    def _packer_of(self, client: Client) -> Packer | None:
        """The packer that the definition was made with, if that is still the right one."""
        return self._packer if self._packer is packer_of(client) else None

    def _steps(self, packer: Packer | None) -> Steps:
        steps: Steps = ()
        for part in self.parts:
            steps = part.steps(steps, packer)  # type: ignore[arg-type]  # None where no part needs it
        return steps

    def _fresh(self, moment: object) -> bool:
        return self._stamp is not None and moment == self._moment and time.monotonic() < self._look_again

    def _look(self, moment: object) -> None:
        """Looks at the local files: where one has changed, the definition is no longer right."""
        began = time.monotonic()
        stamp = tuple(part.stamp() for part in self.parts)
        took = time.monotonic() - began
        self._moment = moment
        only_fixed = all(isinstance(part, Fixed) for part in self.parts)
        self._look_again = float("inf") if only_fixed else time.monotonic() + max(LOOK_AGAIN, 20 * took)
        if stamp != self._stamp:
            self._stamp, self._definition = stamp, None

    def _forget(self) -> None:
        with self._lock:
            self._definition = None
            if self._packer is not None:
                self._packer.forget()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chain) and (self.parts, self.generation) == (other.parts, other.generation)

    def __hash__(self) -> int:
        return hash((tuple(part.label for part in self.parts), self.generation))


def packer_of(client: Client) -> Packer:
    """The packer for this client's gateway."""
    global _packer
    with _packer_lock:
        http = client.http
        if _packer is None or _packer[:2] != (client.gateway_id, id(http)):
            _packer = (client.gateway_id, id(http), Packer(http))
        return _packer[2]


_packer: tuple[str, int, Packer] | None = None
_packer_lock = threading.Lock()


def _runs_nothing(part: Part) -> bool:
    """Whether a part only says what containers begin with, which it can do on top of late files."""
    from skylift.wire import Configure

    return isinstance(part, Fixed) and isinstance(part.step, Configure)
