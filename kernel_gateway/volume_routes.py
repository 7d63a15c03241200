"""Where volumes are on the gateway."""

from __future__ import annotations

from skylift.kernel_gateway import volumes
from skylift.kernel_gateway.handler import Handler
from skylift.kernel_gateway.volume_reads import EntriesHandler, FileHandler

_VOLUME = r"/v1/volumes/([^/]+)"

ROUTES: list[tuple[str, type[Handler]]] = [
    (r"/v1/volumes", volumes.VolumesHandler),
    (_VOLUME, volumes.OneVolumeHandler),
    (_VOLUME + "/name", volumes.NameHandler),
    (_VOLUME + "/entries", EntriesHandler),
    (_VOLUME + "/entry", volumes.EntryHandler),
    (_VOLUME + "/file", FileHandler),
    (_VOLUME + "/history", volumes.HistoryHandler),
    (_VOLUME + "/commits", volumes.CommitHandler),
    *((f"{_VOLUME}/{what}", volumes.ChangeHandler) for what in ("copy", "remove", "rename", "restore")),
    (r"/v1/chunks/missing", volumes.MissingHandler),
    (r"/v1/chunks", volumes.ChunksHandler),
]
