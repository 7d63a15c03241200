"""The client's end of one call: its ordered events, what has been consumed, what to say after a reconnect."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeAlias

from skylift.remote_errors import problem_error
from skylift.waiting import Mailbox, Waiter
from skylift.wire import (
    DEFAULT_WINDOW,
    Accepted,
    Attach,
    CallStatus,
    Cancel,
    CancelMode,
    ClientMessage,
    Consumed,
    Define,
    Detach,
    End,
    Event,
    Events,
    Inputs,
    Problem,
    Refused,
    Status,
    Submit,
    decode_events,
    event_cost,
)

if TYPE_CHECKING:
    from skylift.client import Client
    from skylift.connection import Connection


class Lost:
    """The connection is gone for good, and this call with it."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Nudge:
    """Wakes the consumer for something that is not a message."""


CallMessage: TypeAlias = "Events | Accepted | Refused | Status | Lost | Nudge"


class InputsToSend(Protocol):
    """What a map's call knows of its inputs."""

    def resend(self, call_id: str) -> Iterable[Inputs]:
        """The inputs that have no result yet."""

    def done(self, indexes: Iterable[int]) -> None:
        """These inputs have their result."""


class RemoteCall:
    """One call. The reader thread delivers to it; one consumer at a time takes from it.

    A call that this client submits has `submit` and `define`; one that it attaches to has neither.
    """

    def __init__(
        self,
        client: Client,
        call_id: str,
        *,
        submit: Submit | None = None,
        define: Define | None = None,
        inputs: InputsToSend | None = None,
        first_seq: int = 0,
        first_total: int = 0,
        follow_status: bool = False,
        mailbox: Mailbox[tuple[RemoteCall, CallMessage]] | None = None,
    ) -> None:
        self.client = client
        self.call_id = call_id
        self.submit = submit
        self.define = define
        self.status: CallStatus | None = None
        self.end: End | None = None
        """Set once everything has been consumed."""
        self.mailbox: Mailbox[tuple[RemoteCall, CallMessage]] = mailbox or Mailbox()
        self.link: Connection | None = None
        """The connection that knows of this call; guarded by `link_lock`."""
        self.link_lock = threading.Lock()
        self._inputs = inputs
        self._follow_status = follow_status
        self._cancel: Cancel | None = None
        self._failed = False
        # What has arrived: events below `_next_seq`, of cost `_received`.
        self._next_seq = first_seq
        self._received = first_total
        # What the consumer has been given, has done with, and has reported.
        self.taken_seq = max(first_seq, 0)
        self.taken_total = first_total
        self._consumed = (self.taken_seq, first_total)
        self._reported = first_total
        self._took_large = False

    # --- the reader thread -----------------------------------------------------------------------

    def deliver(self, message: CallMessage) -> None:
        """Takes in a message about this call."""
        if isinstance(message, Events):
            frame = self._new_part(message)
            if frame is None:
                return
            message = frame
            if frame.end is not None:
                self.client.forget(self)
            if self._inputs is not None and frame.done:
                self._inputs.done(frame.done)
        elif isinstance(message, Status):
            self.status = message.status
            if not self._follow_status:
                return
        elif isinstance(message, Accepted) and (self.submit is None or not self.submit.durable):
            return
        self.mailbox.put((self, message))

    def _new_part(self, frame: Events) -> Events | None:
        """The frame without what was delivered before; None if nothing is left of it."""
        if self._next_seq < 0:
            self._next_seq = self.taken_seq = frame.seq
        if frame.seq > self._next_seq:
            # Something in between got lost: ask again from where we are.
            self.client.say(self, self._attach())
            return None
        old = self._next_seq - frame.seq
        if old >= frame.count and (old > frame.count or frame.end is None):
            return None
        if old:
            events = decode_events(frame.body)[old:] if frame.count else []
            frame = _frame_of(frame, self._next_seq, events)
        self._next_seq = frame.seq + frame.count
        self._received += frame.cost
        return frame

    def resume(self) -> Iterator[ClientMessage]:
        """What to send on a new connection so that the call goes on as if there had been no other."""
        if self.submit is not None and self._next_seq <= 0:
            yield _again(self.submit)
        elif not (self.submit is not None and self.submit.detached):
            yield self._attach()
        if self._inputs is not None:
            yield from self._inputs.resend(self.call_id)
        if self._consumed[1]:
            yield self._say_consumed()
        if self._cancel is not None:
            yield self._cancel

    def _attach(self) -> Attach:
        return Attach(call_id=self.call_id, seq=self._next_seq, total=self._received, window=DEFAULT_WINDOW)

    def _say_consumed(self) -> Consumed:
        seq, total = self._consumed
        return Consumed(call_id=self.call_id, seq=seq, total=total)

    # --- the consumer ----------------------------------------------------------------------------

    async def events(self, waiter: Waiter, timeout: float | None = None) -> list[Event] | None:
        """The events of the next frame, or None after the last. Calling it again says that they are consumed.

        Raises what the gateway refuses the call with, the loss of the connection, and `queue.Empty` when
        nothing came within `timeout` seconds. An empty list: something other than events came.
        """
        if self.end is not None:
            return None
        self.consume()
        _, message = await waiter.take(self.mailbox, timeout)
        return self.take_in(message)

    def consume(self) -> None:
        """The consumer has done with all events that it was given. To be called before it waits for more."""
        if self.taken_total == self._consumed[1]:
            return
        self._consumed = (self.taken_seq, self.taken_total)
        if self.end is not None:
            return
        if self._took_large or self.taken_total - self._reported >= DEFAULT_WINDOW // 4:
            self._took_large = False
            self._reported = self.taken_total
            self.client.say(self, self._say_consumed())

    def take_in(self, message: CallMessage) -> list[Event]:
        """The events of a message that has been taken from the mailbox."""
        if isinstance(message, Events):
            return self._take_in_events(message)
        if isinstance(message, Refused):
            self._failed = True
            raise problem_error(message.problem)
        if isinstance(message, Lost):
            self._failed = True
            # One loss ends many calls, each with an exception of its own.
            raise type(message.error)(*message.error.args)
        return []

    def _take_in_events(self, frame: Events) -> list[Event]:
        events = decode_events(frame.body) if frame.count else []
        # What is in the store counts for much more where it was produced than in the frame.
        self._took_large = self._took_large or any(event.blob for event in events)
        self.taken_seq = frame.seq + frame.count
        self.taken_total += frame.cost
        if frame.end is not None:
            self.end = frame.end
        return events

    def cancel(self, mode: CancelMode = "cancel", reason: str = "") -> None:
        """Ends the call; it goes on being delivered until its end."""
        self._cancel = Cancel(call_id=self.call_id, mode=mode, reason=reason)
        self.client.say(self, self._cancel)

    def abandon(self, reason: str) -> None:
        """Ends the call, of which nothing more is wanted."""
        if self.end is None and not self._failed:
            self.client.forget(self)
            self.client.send(Cancel(call_id=self.call_id, reason=reason))
            self.client.send(Detach(call_id=self.call_id, keep=False))

    def detach(self) -> None:
        """Stops following the call, which runs on."""
        followed = self.client.forget(self)
        if self.end is None and not self._failed and not followed:
            self.client.send(Detach(call_id=self.call_id, keep=True))


def _frame_of(frame: Events, seq: int, events: list[Event]) -> Events:
    from skylift.wire import encode_events

    return Events(
        call_id=frame.call_id,
        seq=seq,
        count=len(events),
        body=encode_events(events) if events else b"",
        cost=sum(event_cost(len(event.data)) for event in events),
        done=frame.done,
        end=frame.end,
    )


def _again(submit: Submit) -> Submit:
    import msgspec

    return msgspec.structs.replace(submit, resubmitted=True)


def unexpected_end(call: RemoteCall, what: str) -> BaseException:
    """The error for a call that ended without a result and without saying why."""
    end = call.end
    state, summary = (end.state, end.summary) if end is not None else ("failed", "")
    names = {"cancelled": "InputCancellation", "timeout": "FunctionTimeoutError", "failed": "RemoteError"}
    text = summary or f"{what} ended as {state!r} without a result"
    return problem_error(Problem(error=names.get(state, "InternalFailure"), message=text))
