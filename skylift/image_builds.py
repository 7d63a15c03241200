"""Waiting for an image that is built: once in this process for each, with its log shown."""

from __future__ import annotations

import threading
from queue import Empty
from typing import TYPE_CHECKING

from skylift.build_view import TICK, BuildView
from skylift.calls import Lost
from skylift.exceptions import InternalFailure
from skylift.followed_builds import FollowedBuild
from skylift.remote_errors import problem_error
from skylift.waiting import Waiter
from skylift.wire import BuildOutput, ImageDefinition, ImageSpec, definition_keys

if TYPE_CHECKING:
    from skylift.client import Client

__all__ = ["BuildView", "built_image", "forget_built", "known_image"]

_built: dict[tuple[str, str], ImageSpec] = {}
"""By gateway and key."""
_shown: set[str] = set()
"""Keys of images whose log is being shown: a second one that waits for the same shows nothing."""
_lock = threading.Lock()


def known_image(client: Client, definition: ImageDefinition) -> ImageSpec | None:
    """The image, if this process has waited for it before."""
    return _built.get((client.gateway_id, _key(definition)))


def forget_built() -> None:
    """Ask the gateway again for every image."""
    _built.clear()


async def built_image(
    waiter: Waiter, client: Client, definition: ImageDefinition, view: BuildView
) -> ImageSpec:
    """The image, built where it is not yet. Who is interrupted while it waits cancels the build, unless
    others wait for it too.

    Raises `ImageBuildError`, and `NotFoundError` where files are not in the store.
    """
    key = _key(definition)
    known = _built.get((client.gateway_id, key))
    if known is not None:
        return known
    with _lock:
        shows = key not in _shown
        _shown.add(key)
    if not shows:
        view.hide()
    build = FollowedBuild(definition)
    try:
        client.build(build)
        while True:
            try:
                message = await waiter.take(build.mailbox, TICK if view.visible else None)
            except Empty:
                view.tick()
                continue
            if isinstance(message, BuildOutput):
                view.output(message)
            elif isinstance(message, Lost):
                raise message.error
            elif message.problem is not None:
                view.failed()
                raise problem_error(message.problem)
            elif message.image is not None:
                view.built()
                with _lock:
                    _built[client.gateway_id, key] = message.image
                return message.image
            else:
                raise InternalFailure("the gateway says that a build is over, and not how")
    finally:
        client.forget_build(build)
        if shows:
            with _lock:
                _shown.discard(key)


def _key(definition: ImageDefinition) -> str:
    return definition_keys(definition)[-1]
