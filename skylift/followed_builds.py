"""The client's end of the build of one image: what is heard of it, each word once."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from skylift.calls import Lost
from skylift.waiting import Mailbox
from skylift.wire import BuildEnded, BuildImage, BuildOutput, ImageDefinition, new_id

BuildMessage: TypeAlias = "BuildOutput | BuildEnded | Lost"


class FollowedBuild:
    """One build. The reader thread delivers to it, and one consumer takes from its `mailbox`."""

    def __init__(self, definition: ImageDefinition) -> None:
        self.message = BuildImage(build_id=new_id("bu"), image=definition)
        self.mailbox: Mailbox[BuildMessage] = Mailbox()
        self._heard = 0
        self._gateway = ""

    def asked(self, gateway_id: str) -> BuildImage:
        """What to send to a gateway; one that was started again counts what is printed from 0."""
        if gateway_id != self._gateway:
            self._gateway, self._heard = gateway_id, 0
        return self.message

    def deliver(self, message: BuildMessage) -> None:
        """Takes in a message about it; what was heard before a reconnect is left out."""
        if isinstance(message, BuildOutput) and message.text:
            end = message.at + len(message.text)
            if end <= self._heard:
                message = msgspec.structs.replace(message, text="")
            elif message.at < self._heard:
                message = msgspec.structs.replace(message, text=message.text[self._heard - message.at :])
            self._heard = max(self._heard, end)
        self.mailbox.put(message)
