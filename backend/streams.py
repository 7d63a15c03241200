"""Streams of events on their way from hosts to clients and into the log, and the windows that hold them
back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from skylift.backend.calls import Call
from skylift.backend.database import Database, DatabaseError
from skylift.backend.log_reader import Chunk, LogReader
from skylift.lazyfs.store import StoreError
from skylift.wire import (
    Accepted,
    EndMap,
    Event,
    Events,
    Persisted,
    Problem,
    Refused,
    Window,
    decode_events,
    encode,
    encode_events,
    event_cost,
)

if TYPE_CHECKING:
    from skylift.backend.call_log import CallLog, Logged
    from skylift.backend.registry import Client, Registry

SLACK = 256 * 1024
"""Bytes that a client may be behind beyond twice its window before it gets its events from the log."""

NO_EVENTS = encode_events([])


class Attachment:
    """A client that is sent a call's events.

    It is *live* when it has been sent all there are, and gets each frame as it comes. It is not while it is
    sent older events from the log, a page at a time and never more than its window ahead of what it has
    consumed; a live one that falls far behind becomes one of those.
    """

    __slots__ = (
        "call",
        "client",
        "closed",
        "consumed",
        "live",
        "next_seq",
        "offset",
        "sent",
        "wake",
        "window",
    )

    def __init__(
        self, client: Client, call: Call, next_seq: int, window: int, total: int, offset: int = 0
    ) -> None:
        self.client = client
        self.call = call
        self.next_seq = next_seq
        """The next event to send."""
        self.window = window
        self.sent = total
        """Cost of what was sent, as the client counts it."""
        self.consumed = total
        self.offset = offset
        """Cost of the events that the client does not count, because it did not ask for them."""
        self.live = False
        self.closed = False
        self.wake: asyncio.Event | None = None
        """Set when something happens that a replay may be waiting for."""

    def nudge(self) -> None:
        """Let a waiting replay look again."""
        if self.wake is not None:
            self.wake.set()


class Streams:
    """Forwards, logs, replays, and moves windows."""

    def __init__(self, registry: Registry, database: Database, call_log: CallLog, reader: LogReader) -> None:
        self.registry = registry
        self.database = database
        self.log = call_log
        self.reader = reader
        self._replays: set[asyncio.Task[None]] = set()
        call_log.on_logged = self.logged
        database.drained.append(self._drained)

    # --- from the host -----------------------------------------------------------------------------

    def accept(self, call: Call, message: Events, frame: bytes) -> None:
        """Take the next events of a call: send them to whom they are for, and to the log."""
        if not call.answered:
            answer(call)
        count = message.count
        call.next_seq += count
        call.total += message.cost
        for attachment in call.attachments:
            if not attachment.live:
                attachment.nudge()
                continue
            port = attachment.client.port
            if port is None:
                continue
            if attachment.next_seq != message.seq:
                self._send_rest(attachment, message)
                continue
            if not frame:
                frame = encode(message)
            port.send_encoded(frame)
            attachment.next_seq += count
            attachment.sent += message.cost
            if attachment.sent - attachment.consumed > 2 * attachment.window + SLACK:
                self._fall_behind(attachment)
        if count:
            call.output_bytes += len(message.body)
            self.log.output(call, message)

    def finished(self, call: Call) -> None:
        """A call is over, and its last frame has been accepted."""
        for attachment in call.attachments:
            if attachment.live:
                attachment.client.attachments.pop(call.call_id, None)
                attachment.closed = True
            else:
                attachment.nudge()
        call.attachments = [attachment for attachment in call.attachments if not attachment.closed]
        call.driver = None

    def _send_rest(self, attachment: Attachment, message: Events) -> None:
        # It has seen more than this gateway: the log lost its last moments, and the host tells them again.
        port = attachment.client.port
        after = message.seq + message.count
        if port is None or (after <= attachment.next_seq and message.end is None):
            return
        rest = events_from(message, attachment.next_seq, self.blob_size)
        port.send(rest)
        attachment.next_seq = max(attachment.next_seq, after)
        attachment.sent += rest.cost

    # --- the log -----------------------------------------------------------------------------------

    def logged(self, entries: list[Logged]) -> None:
        """Part of some streams is in the log: tell their hosts."""
        for entry in entries:
            call = entry.call
            call.logged_seq = max(call.logged_seq, entry.seq)
            call.logged_total = max(call.logged_total, entry.total)
            call.end_logged = entry.over
            host = self.registry.hosts.get(call.host_id)
            if host is not None and host.port is not None:
                host.port.send(Persisted(call_id=call.call_id, seq=entry.seq, end=entry.over))
                if entry.over and call.inputs is not None:
                    host.port.send(EndMap(call_id=call.call_id))
            if not call.over and call.log_consumes:
                self.move_window(call, call.logged_total)
            if call.waiters is not None:
                waiters, call.waiters = call.waiters, None
                for wake in waiters:
                    wake()

    # --- windows -----------------------------------------------------------------------------------

    def consumed(self, client: Client, call_id: str, total: int) -> None:
        """A client has consumed events of a call."""
        attachment = client.attachments.get(call_id)
        if attachment is None or total <= attachment.consumed:
            return
        attachment.consumed = total
        if not attachment.live:
            attachment.nudge()
        call = attachment.call
        if call.driver is attachment and not call.log_consumes:
            self.move_window(call, total + attachment.offset)

    def move_window(self, call: Call, total: int) -> None:
        """Tell a call's host that its consumer has come so far."""
        if total <= call.told or call.over or self.database.congested:
            return
        host = self.registry.hosts.get(call.host_id)
        if host is None or host.port is None:
            return
        call.told = total
        host.port.send(Window(call_id=call.call_id, total=total))

    def repeat_window(self, call: Call) -> None:
        """Tell a call's host where its consumer is, whatever it was told before."""
        call.told = 0
        self.refresh_window(call)

    def refresh_window(self, call: Call) -> None:
        """Move a call's window to where its consumer, whoever that is now, has come."""
        if call.log_consumes:
            self.move_window(call, call.logged_total)
        elif call.driver is not None:
            self.move_window(call, call.driver.consumed + call.driver.offset)

    def _drained(self) -> None:
        for call in list(self.registry.calls.values()):
            self.refresh_window(call)

    # --- attaching ---------------------------------------------------------------------------------

    def attach_new(self, client: Client, call: Call) -> None:
        """Attach the client that has just submitted a call."""
        attachment = Attachment(client, call, 0, call.window, 0)
        attachment.live = True
        call.attachments.append(attachment)
        client.attachments[call.call_id] = attachment
        if call.driver is None:
            call.driver = attachment

    def attach(self, client: Client, call: Call, seq: int, window: int, total: int) -> None:
        """Send a client a call's events from `seq` on (-1: from now on). An attachment that the client has
        to the call ends."""
        self.detach(client, call.call_id)
        if seq < 0:
            attachment = Attachment(client, call, call.next_seq, window, total, call.total - total)
        else:
            attachment = Attachment(client, call, seq, window, total)
        client.attachments[call.call_id] = attachment
        call.attachments.append(attachment)
        self._choose_driver(call)
        if attachment.next_seq >= call.next_seq and not call.over:
            attachment.live = True
        else:
            self._start_replay(attachment)

    def detach(self, client: Client, call_id: str) -> None:
        """Send a client no more of a call."""
        attachment = client.attachments.pop(call_id, None)
        if attachment is None:
            return
        attachment.closed = True
        attachment.nudge()
        call = attachment.call
        call.attachments.remove(attachment)
        if call.driver is attachment:
            call.driver = None
            self._choose_driver(call)

    def detach_all(self, client: Client) -> None:
        """The client's connection is gone."""
        for call_id in list(client.attachments):
            self.detach(client, call_id)

    def _choose_driver(self, call: Call) -> None:
        if call.driver is None or call.driver.client.client_id != call.client_id:
            for attachment in call.attachments:
                if call.driver is None or attachment.client.client_id == call.client_id:
                    call.driver = attachment
        self.refresh_window(call)

    # --- replays -----------------------------------------------------------------------------------

    def _fall_behind(self, attachment: Attachment) -> None:
        attachment.live = False
        self._start_replay(attachment)

    def _start_replay(self, attachment: Attachment) -> None:
        attachment.wake = asyncio.Event()
        task = self.registry.loop.create_task(self._replay(attachment))
        self._replays.add(task)
        task.add_done_callback(self._replays.discard)

    async def _replay(self, attachment: Attachment) -> None:
        call, client = attachment.call, attachment.client
        try:
            while not attachment.closed and client.port is not None:
                if attachment.next_seq >= call.next_seq:
                    self._caught_up(attachment)
                    return
                if attachment.sent - attachment.consumed >= attachment.window:
                    await self._wait(attachment)
                elif attachment.next_seq >= call.logged_seq:
                    self._wake_when_logged(attachment)
                    await self._wait(attachment)
                else:
                    for chunk in await self.reader.output(call.call_id, attachment.next_seq):
                        await self._send_chunk(attachment, chunk)
        except DatabaseError as error:
            if client.port is not None and not attachment.closed:
                problem = Problem(error="InternalFailure", message=str(error))
                client.port.send(Refused(call_id=call.call_id, problem=problem))
            self.detach(client, call.call_id)

    def _caught_up(self, attachment: Attachment) -> None:
        call, port = attachment.call, attachment.client.port
        if not call.over:
            attachment.live = True
            attachment.wake = None
            return
        if port is not None:
            port.send(last_frame(call))
        self.detach(attachment.client, call.call_id)

    async def _send_chunk(self, attachment: Attachment, chunk: Chunk) -> None:
        """Send a chunk from the attachment's next event on, as its window allows."""
        call = attachment.call
        message = Events(
            call_id=call.call_id,
            seq=chunk.seq,
            count=chunk.events,
            body=chunk.body,
            cost=chunk.cost,
            done=chunk.done,
        )
        while attachment.next_seq < chunk.seq + chunk.events and not attachment.closed:
            room = attachment.window - (attachment.sent - attachment.consumed)
            if room <= 0:
                await self._wait(attachment)
                continue
            port = attachment.client.port
            if port is None:
                return
            part = message
            if attachment.next_seq > chunk.seq or message.cost > room:
                part = events_from(message, attachment.next_seq, self.blob_size, room)
            port.send(part)
            attachment.next_seq = part.seq + part.count
            attachment.sent += part.cost

    async def _wait(self, attachment: Attachment) -> None:
        if attachment.wake is not None:
            await attachment.wake.wait()
            attachment.wake.clear()

    def blob_size(self, blob: str) -> int:
        """Bytes of an event's data that is in the store."""
        try:
            return self.registry.store.size(blob)
        except (StoreError, ValueError, OSError):
            return 0

    def _wake_when_logged(self, attachment: Attachment) -> None:
        call = attachment.call
        if call.waiters is None:
            call.waiters = []
        call.waiters.append(attachment.nudge)

    async def stop(self) -> None:
        """End the replays."""
        for task in list(self._replays):
            task.cancel()
        await asyncio.gather(*self._replays, return_exceptions=True)


def events_from(
    message: Events, seq: int, blob_size: Callable[[str], int], room: int | None = None
) -> Events:
    """The part of a frame from event `seq` on, of at most `room` bytes of cost, but at least one event."""
    events = decode_events(message.body) if message.count else []
    skipped = max(0, seq - message.seq)
    events = events[skipped:]
    taken: list[Event] = []
    cost = 0
    for event in events:
        size = event_cost(blob_size(event.blob) if event.blob else len(event.data))
        if taken and room is not None and cost + size > room:
            break
        taken.append(event)
        cost += size
    whole = len(taken) == len(events)
    if not skipped and whole:
        return message
    indexes = {event.meta.get("index") for event in taken if event.kind in ("result", "error")}
    return Events(
        call_id=message.call_id,
        seq=message.seq + min(skipped, message.count),
        count=len(taken),
        body=encode_events(taken),
        cost=cost,
        done=tuple(index for index in message.done if index in indexes),
        end=message.end if whole else None,
    )


def answer(call: Call) -> None:
    """Tell the client that has submitted a call that it is ours."""
    call.answered = True
    for attachment in call.attachments:
        port = attachment.client.port
        if port is not None and attachment.client.client_id == call.client_id:
            port.send(Accepted(call_id=call.call_id))


def last_frame(call: Call) -> Events:
    """The frame that says how a call ended, without events."""
    return Events(call_id=call.call_id, seq=call.next_seq, count=0, body=NO_EVENTS, end=call.end())
