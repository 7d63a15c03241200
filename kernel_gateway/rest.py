"""What the sidebar lists, and the little that it does: JSON of `skylift.backend.views`."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from skylift.backend.control import VERSION
from skylift.backend.database import DatabaseError
from skylift.backend.problems import no_call
from skylift.backend.views import CallFilter, Slept, SpendBy, Woken
from skylift.kernel_gateway.handler import Handler, RequestError
from skylift.lazyfs.store import StoreError
from skylift.wire import FINAL_STATES, CancelMode, Problem

Q = TypeVar("Q", bound=msgspec.Struct)


class CallsQuery(CallFilter, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Query of ``GET /v1/calls``: a `CallFilter` and a page. Lists are repeated or separated by commas."""

    before: str = ""
    limit: int = 100


class OutputQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Query of ``GET /v1/calls/{id}/output``."""

    from_seq: int = 0
    limit: int = 1000


class ContainersQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Query of ``GET /v1/containers``."""

    running: bool = True
    limit: int = 100


class SpendQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Query of ``GET /v1/spend``."""

    by: SpendBy = "day"
    days: int = 30


class CancelBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/calls/{id}/cancel``."""

    mode: CancelMode = "cancel"
    reason: str = ""


class CollectBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/store/collect``."""

    dry_run: bool = False


class NoBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of what needs none."""


class Done(msgspec.Struct, frozen=True):
    """Answer of what is done soon, not at once."""

    accepted: Literal[True] = True


class Health(msgspec.Struct, frozen=True):
    """Answer of ``GET /v1/health``."""

    gateway_id: str
    version: str


class RestHandler(Handler):
    """Base of these routes."""

    def query(self, kind: type[Q]) -> Q:
        """The query of the request as `kind`. Raises `RequestError` that names the parameter at fault."""
        lists = {field.name for field in msgspec.structs.fields(kind) if isinstance(field.default, tuple)}
        given: dict[str, Any] = {}
        for name in self.request.query_arguments:
            values = [text for each in self.get_query_arguments(name) for text in each.split(",") if text]
            given[name] = values if name in lists else self.get_query_argument(name)
        try:
            return msgspec.convert(given, kind, strict=False)
        except msgspec.ValidationError as error:
            known = ", ".join(field.name for field in msgspec.structs.fields(kind))
            raise RequestError(400, f"{self.request.path}: {error}. Its parameters are {known}.") from None


class HealthHandler(Handler):
    """``GET /v1/health``: is this a gateway, and which."""

    needs_token = False

    def get(self) -> None:
        """No token, and nothing that needs one."""
        self.reply(Health(gateway_id=self.gateway.control.gateway_id, version=VERSION))


class CallsHandler(RestHandler):
    """``GET /v1/calls``."""

    for_containers = True

    async def get(self) -> None:
        """A page of calls, newest first."""
        query = self.query(CallsQuery)
        fields = msgspec.structs.asdict(query)
        before, limit = fields.pop("before"), _between(fields.pop("limit"), 1, 1000, "limit")
        self.reply(await self.gateway.control.calls(self.user, CallFilter(**fields), before, limit))


class CallHandler(RestHandler):
    """``GET /v1/calls/{id}``."""

    for_containers = True

    async def get(self, call_id: str) -> None:
        """One call: its times, container and figures."""
        call = await self.gateway.control.call(self.user, call_id)
        if call is None:
            raise _no_call(call_id)
        self.reply(call)


class OutputHandler(RestHandler):
    """``GET /v1/calls/{id}/output``."""

    for_containers = True

    async def get(self, call_id: str) -> None:
        """What it printed and showed, from `from_seq` on."""
        query = self.query(OutputQuery)
        page = await self.gateway.control.output(
            self.user, call_id, max(query.from_seq, 0), _between(query.limit, 1, 10_000, "limit")
        )
        if page is None:
            raise _no_call(call_id)
        self.reply(page)


class UsageHandler(RestHandler):
    """``GET /v1/calls/{id}/usage``."""

    async def get(self, call_id: str) -> None:
        """What it has used, from its beginning: at most 300 samples."""
        usage = await self.gateway.control.usage(self.user, call_id)
        if usage is None:
            raise _no_call(call_id)
        self.reply(usage)


class GraphHandler(RestHandler):
    """``GET /v1/calls/{id}/graph``."""

    for_containers = True

    async def get(self, call_id: str) -> None:
        """The call, the calls that its code made, and so on."""
        graph = await self.gateway.control.graph(self.user, call_id)
        if graph is None:
            raise _no_call(call_id)
        self.reply(graph)


class CancelHandler(RestHandler):
    """``POST /v1/calls/{id}/cancel``."""

    for_containers = True

    async def post(self, call_id: str) -> None:
        """Ask a call to end; how it did end is in its state, a little later."""
        wish: CancelBody = self.body(CancelBody)
        if self.container_id and wish.mode == "terminate":
            raise self.beyond_scope("end containers (mode terminate)")
        control = self.gateway.control
        if not control.cancel_call(self.user, call_id, wish.mode, wish.reason):
            call = await control.call(self.user, call_id)
            if call is None:
                raise _no_call(call_id)
            if call.call.state in FINAL_STATES:
                raise RequestError(409, f"Call {call_id} is over already: {call.call.state}.")
        self.reply(Done(), 202)


class ContainersHandler(RestHandler):
    """``GET /v1/containers``."""

    async def get(self) -> None:
        """Containers, newest first."""
        query = self.query(ContainersQuery)
        limit = _between(query.limit, 1, 1000, "limit")
        self.reply(await self.gateway.control.containers(self.user, query.running, limit))


class ContainerHandler(RestHandler):
    """``DELETE /v1/containers/{id}``."""

    def delete(self, container_id: str) -> None:
        """End a container; calls that it runs fail."""
        if not self.gateway.control.stop_container(self.user, container_id):
            raise RequestError(404, f"There is no running container {container_id} of yours.")
        self.reply(Done(), 202)


class SessionsHandler(RestHandler):
    """``GET /v1/sessions``."""

    def get(self) -> None:
        """Sessions that are up or waited for."""
        self.reply(self.gateway.control.sessions(self.user))


class SessionHandler(RestHandler):
    """``DELETE /v1/sessions/{id}``."""

    def delete(self, session_id: str) -> None:
        """End a session, also one that sleeps; its variables are gone."""
        if not self.gateway.control.stop_session(self.user, session_id):
            raise _no_session(session_id)
        self.reply(Done(), 202)


class SleepAndWake(RestHandler):
    """What the next two share."""

    def answer(self, session_id: str, result: Slept | Woken | Problem | None) -> None:
        """Say what has come of it; 409 with the reason where it has not."""
        if result is None:
            raise _no_session(session_id)
        self.reply(result, 409 if isinstance(result, Problem) else 200)


class SleepHandler(SleepAndWake):
    """``POST /v1/sessions/{id}/sleep``."""

    async def post(self, session_id: str) -> None:
        """Put it to sleep; answers when it sleeps."""
        self.body(NoBody)
        self.answer(session_id, await self.gateway.control.sleep_session(self.user, session_id))


class WakeHandler(SleepAndWake):
    """``POST /v1/sessions/{id}/wake``."""

    async def post(self, session_id: str) -> None:
        """Wake it; answers when it is up."""
        self.body(NoBody)
        self.answer(session_id, await self.gateway.control.wake_session(self.user, session_id))


class TemplatesHandler(RestHandler):
    """``GET /v1/templates``."""

    def get(self) -> None:
        """What containers are forked from."""
        self.reply(self.gateway.control.templates())


class HostsHandler(RestHandler):
    """``GET /v1/hosts``."""

    def get(self) -> None:
        """The machines and their GPUs."""
        self.reply(self.gateway.control.hosts())


class SpendHandler(RestHandler):
    """``GET /v1/spend``."""

    async def get(self) -> None:
        """What containers cost."""
        query = self.query(SpendQuery)
        self.reply(
            await self.gateway.control.spend(self.user, query.by, _between(query.days, 1, 3660, "days"))
        )


class CollectHandler(RestHandler):
    """``POST /v1/store/collect``."""

    async def post(self) -> None:
        """Free what nothing in the store needs; answers when it is done."""
        wanted = self.body(CollectBody)
        try:
            done = await self.gateway.control.collector.collect(dry_run=wanted.dry_run)
        except (StoreError, DatabaseError, OSError, TypeError) as error:
            raise RequestError(503, f"No garbage was collected: {error}") from error
        self.reply(done._asdict())


class UnknownHandler(Handler):
    """Every other path."""

    def get(self) -> None:
        """404, but only for whom it may concern: a wrong token gets 401 here too."""
        raise RequestError(404, f"There is no {self.request.path} here.")

    head = post = put = delete = patch = get


def _between(value: int, low: int, high: int, name: str) -> int:
    if not low <= value <= high:
        raise RequestError(400, f"{name} must be from {low} to {high}, not {value}.")
    return value


def _no_session(session_id: str) -> RequestError:
    return RequestError(404, f"There is no session {session_id} of yours.")


def _no_call(call_id: str) -> RequestError:
    return RequestError(404, no_call(call_id).message)


ROUTES: list[tuple[str, type[Handler]]] = [
    (r"/v1/health", HealthHandler),
    (r"/v1/calls", CallsHandler),
    (r"/v1/calls/([a-z]{2}-[0-9a-z]+)", CallHandler),
    (r"/v1/calls/([a-z]{2}-[0-9a-z]+)/output", OutputHandler),
    (r"/v1/calls/([a-z]{2}-[0-9a-z]+)/graph", GraphHandler),
    (r"/v1/calls/([a-z]{2}-[0-9a-z]+)/usage", UsageHandler),
    (r"/v1/calls/([a-z]{2}-[0-9a-z]+)/cancel", CancelHandler),
    (r"/v1/containers", ContainersHandler),
    (r"/v1/containers/([a-z]{2}-[0-9a-z]+)", ContainerHandler),
    (r"/v1/sessions", SessionsHandler),
    (r"/v1/sessions/([a-z]{2}-[0-9a-z]+)", SessionHandler),
    (r"/v1/sessions/([a-z]{2}-[0-9a-z]+)/sleep", SleepHandler),
    (r"/v1/sessions/([a-z]{2}-[0-9a-z]+)/wake", WakeHandler),
    (r"/v1/templates", TemplatesHandler),
    (r"/v1/hosts", HostsHandler),
    (r"/v1/spend", SpendHandler),
    (r"/v1/store/collect", CollectHandler),
]
