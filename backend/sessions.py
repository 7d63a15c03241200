"""Sessions: one container each, which keeps its variables, so it is not replaced behind anyone's back."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from skylift.backend.pools import Pool, pool_id, session_label
from skylift.backend.reasons import gpu_text
from skylift.wire import FunctionSpec, Problem

if TYPE_CHECKING:
    from skylift.backend.call_log import CallLog
    from skylift.backend.dispatch import Dispatcher
    from skylift.backend.endings import Endings
    from skylift.backend.registry import Registry
    from skylift.backend.sleeping import SleepingSessions


class Sessions:
    """Finds the pool of a session, and ends sessions."""

    def __init__(
        self,
        registry: Registry,
        call_log: CallLog,
        dispatcher: Dispatcher,
        endings: Endings,
        sleeping: SleepingSessions,
    ) -> None:
        self.registry = registry
        self.log = call_log
        self.dispatcher = dispatcher
        self.endings = endings
        self.sleeping = sleeping
        self.notebooks: dict[str, str] = {}
        """By session, of those that are up."""

    def pool(self, spec: FunctionSpec, user: str, notebook: str) -> Pool | Problem:
        """The pool for a session's cell, or why the session cannot run it.

        A session that is up goes on with what it has when only its image's fingerprint, its times or its
        environment are other than they were; other GPUs, cores or limits would need another container. That
        holds for one that sleeps, too.
        """
        key = pool_id(spec, user)
        pool, asleep = self.registry.pools.get(key), self.registry.sleeping.get(key)
        if asleep is not None and (pool is None or not pool.containers):
            difference = _difference(asleep.session.spec, spec)
            if difference is not None:
                return Problem(
                    error="ConflictError",
                    message=f"{session_label(spec)} sleeps, with {difference[0]}, and this cell asks for "
                    f"{difference[1]}. A cell that asks for the same wakes it, as %gpu wake does; %gpu stop "
                    "ends it, and its variables are lost. Or give the other session a name of its own "
                    "(--name).",
                )
            if pool is None:
                pool = self.registry.pool_for(spec, user)
            else:
                pool.respecify(spec)
        elif pool is None:
            pool = self.registry.pool_for(spec, user)
        elif pool.spec is not spec and pool.spec != spec:
            if not pool.containers and not pool.calls:
                del self.registry.pools[pool.pool_id]
                pool = self.registry.pool_for(spec, user)
            elif (difference := _difference(pool.spec, spec)) is not None:
                return Problem(
                    error="ConflictError",
                    message=f"{pool.label} is up with {difference[0]}, and this cell asks for "
                    f"{difference[1]}. Stop it first (%gpu stop; its variables are lost then), or give the "
                    "other session a name of its own (--name).",
                )
            else:
                pool.respecify(spec)
        if notebook and self.notebooks.get(spec.session) != notebook:
            self.notebooks[spec.session] = notebook
            self.log.session(spec.session, user, spec.session_name, notebook)
        return pool

    def find(self, session_id: str, user: str) -> Pool | None:
        """The pool of a session of this user that is up, waited for or being woken."""
        for pool in self.registry.pools.values():
            if pool.session == session_id and pool.user == user:
                return pool
        return None

    def stop(self, session_id: str, user: str) -> bool:
        """End a session: what waits for it is cancelled, and its container is ended, or what is kept of it
        deleted where it sleeps. False where there is none."""
        pool = self.find(session_id, user)
        slept = self.sleeping.end(session_id, user)
        if pool is None:
            return slept
        for call in pool.waiting_calls():
            self.endings.cancel(call, "cancel", f"{pool.label} was stopped")
        for container in list(pool.members.values()):
            self.dispatcher.stop_container(container, "the session was stopped", monotonic())
        self.registry.drop_pool_if_unused(pool)
        return True


def _difference(up: FunctionSpec, asked: FunctionSpec) -> tuple[str, str] | None:
    """What of a container is not as it is asked for, in words: as it is, as it should be."""
    if up.gpus != asked.gpus:
        return _gpus(up), _gpus(asked)
    if up.cpu != asked.cpu or up.cpu_limit != asked.cpu_limit:
        return f"cpu={_range(up.cpu, up.cpu_limit)}", f"cpu={_range(asked.cpu, asked.cpu_limit)}"
    if up.memory != asked.memory or up.memory_limit != asked.memory_limit:
        return (
            f"memory={_range(up.memory, up.memory_limit)}",
            f"memory={_range(asked.memory, asked.memory_limit)}",
        )
    if up.block_network != asked.block_network:
        words = {True: "no network", False: "network"}
        return words[up.block_network], words[asked.block_network]
    if up.image.python != asked.image.python or up.image.machine != asked.image.machine:
        return f"the Python of {up.image.python}", f"the Python of {asked.image.python}"
    return None


def _gpus(spec: FunctionSpec) -> str:
    return " or ".join(gpu_text(request) for request in spec.gpus) or "no GPU"


def _range(reserved: float, limit: float | None) -> str:
    return f"{reserved:g}" if limit is None else f"({reserved:g}, {limit:g})"
