"""``skylift/uploads``: a page sends a file in parts, and goes on where it was broken off."""

from __future__ import annotations

import msgspec
from tornado import web

from skylift.lab.handler import Handler, ProblemError
from skylift.lab.upload_spool import Wanted, WrongOffsetError


class UploadsHandler(Handler):
    """``POST skylift/uploads``."""

    @web.authenticated
    async def post(self) -> None:
        """Begin, or go on: `upload_id`, and how much is there already of that very file."""
        try:
            wanted = msgspec.json.decode(bytes(self._received), type=Wanted)
        except msgspec.DecodeError as error:
            raise ProblemError(
                400, "InvalidError", f"The body of POST {self.request.path}: {error}."
            ) from None
        upload = await self.parts.uploads.begin(wanted)
        offset = await self.parts.link.run(upload.offset)
        self.reply({"upload_id": upload.upload_id, "offset": offset}, 201)


class UploadHandler(Handler):
    """``skylift/uploads/ID``."""

    @web.authenticated
    async def get(self, upload_id: str) -> None:
        """How far it is: `offset` bytes are here, `sent` of them are in the store."""
        upload = await self.parts.uploads.find(upload_id)
        offset = await self.parts.link.run(upload.offset)
        self.reply({"offset": offset, "size": upload.wanted.size, "sent": upload.progress.done})

    @web.authenticated
    async def put(self, upload_id: str) -> None:
        """The bytes from `offset` on; answers with the next offset, and 409 where that is another one."""
        offset = self.get_query_argument("offset", "")
        if not offset.isdecimal():
            raise ProblemError(400, "InvalidError", f"{self.request.path} needs offset=, a number of bytes.")
        upload = await self.parts.uploads.find(upload_id)
        try:
            there = await self.parts.uploads.put(upload, int(offset), bytes(self._received))
        except WrongOffsetError as error:
            raise _wrong_offset(error) from None
        self.reply({"offset": there})

    @web.authenticated
    async def delete(self, upload_id: str) -> None:
        """Stop it, and forget it."""
        await self.parts.uploads.cancel(await self.parts.uploads.find(upload_id))
        self.set_status(204)
        self.finish()


class FinishHandler(Handler):
    """``POST skylift/uploads/ID/finish``."""

    @web.authenticated
    async def post(self, upload_id: str) -> None:
        """Put it into the volume; answers when it is there."""
        upload = await self.parts.uploads.find(upload_id)
        try:
            await self.parts.uploads.finish(upload)
        except WrongOffsetError as error:
            raise _wrong_offset(error) from None
        self.reply({"path": upload.wanted.path, "size": upload.wanted.size})


def _wrong_offset(error: WrongOffsetError) -> ProblemError:
    return ProblemError(409, "ConflictError", str(error), offset=error.offset)
