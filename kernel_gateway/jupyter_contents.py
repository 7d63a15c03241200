"""Notebooks that live as long as the gateway: VS Code makes one to ask for a kernel by."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from jupyter_server.services.contents.checkpoints import Checkpoints
from jupyter_server.services.contents.manager import ContentsManager
from tornado.web import HTTPError
from traitlets import Dict

LIMIT = 256
"""Of files; each is no larger than a request."""


class NoCheckpoints(Checkpoints):
    """There are none."""

    def create_checkpoint(self, contents_mgr: Any, path: str) -> dict[str, Any]:
        return {"id": "none", "last_modified": datetime.now(timezone.utc)}

    def restore_checkpoint(self, contents_mgr: Any, checkpoint_id: str, path: str) -> None:
        raise HTTPError(404, "There are no checkpoints here.")

    def rename_checkpoint(self, checkpoint_id: str, old_path: str, new_path: str) -> None:
        """Nothing to do."""

    def delete_checkpoint(self, checkpoint_id: str, path: str) -> None:
        """Nothing to do."""

    def list_checkpoints(self, path: str) -> list[Any]:
        return []


class ScratchContents(ContentsManager):
    """A flat folder in memory, empty at first. Notebooks themselves are where the notebook's user is."""

    files = Dict()

    def _checkpoints_class_default(self) -> type[Checkpoints]:
        return NoCheckpoints

    def dir_exists(self, path: str) -> bool:
        return path.strip("/") == ""

    def is_hidden(self, path: str) -> bool:
        return False

    def file_exists(self, path: str = "") -> bool:
        return path.strip("/") in self.files

    def get(
        self,
        path: str,
        content: bool = True,
        type: Any = None,  # noqa: A002
        format: Any = None,  # noqa: A002
        require_hash: bool = False,
    ) -> Any:
        key = path.strip("/")
        if not key:
            listed = [self._model(name, content=False) for name in self.files] if content else None
            return {**self._plain("", "directory"), "content": listed, "format": "json" if content else None}
        if key not in self.files:
            raise HTTPError(404, "There is no file %s here.", key)
        return self._model(key, content=content)

    def save(self, model: dict[str, Any], path: str = "") -> Any:
        key = path.strip("/")
        if not key or "/" in key or model.get("type") == "directory":
            raise HTTPError(400, "There are no folders here.")
        if key not in self.files and len(self.files) >= LIMIT:
            raise HTTPError(507, f"There is room for {LIMIT} files here. Delete some.")
        self.files[key] = {
            "type": model.get("type", "file"),
            "format": model.get("format"),
            "content": model.get("content"),
            "at": datetime.now(timezone.utc),
        }
        return self._model(key, content=False)

    def delete_file(self, path: str) -> None:
        if self.files.pop(path.strip("/"), None) is None:
            raise HTTPError(404, "There is no file %s here.", path)

    def rename_file(self, old_path: str, new_path: str) -> None:
        old, new = old_path.strip("/"), new_path.strip("/")
        if old not in self.files:
            raise HTTPError(404, "There is no file %s here.", old)
        if new in self.files or not new or "/" in new:
            raise HTTPError(409, "A file cannot be called %s here.", new)
        self.files[new] = self.files.pop(old)

    def _model(self, key: str, *, content: bool) -> dict[str, Any]:
        kept = self.files[key]
        model = self._plain(key, kept["type"], kept["at"])
        if content:
            model["content"] = kept["content"]
            model["format"] = "json" if kept["type"] == "notebook" else kept["format"] or "text"
            if kept["type"] != "notebook":
                model["mimetype"] = "text/plain"
        return model

    def _plain(self, key: str, kind: str, at: datetime | None = None) -> dict[str, Any]:
        at = at or datetime.now(timezone.utc)
        return {
            "name": key,
            "path": key,
            "type": kind,
            "created": at,
            "last_modified": at,
            "content": None,
            "format": None,
            "mimetype": None,
            "writable": True,
            "size": None,
        }
