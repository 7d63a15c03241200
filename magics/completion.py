"""Tab completion in the lines of ``%%gpu``, ``%gpu`` and ``%skylift``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, context_matcher

from skylift.magics.help import LINE_COMMANDS, SKYLIFT_COMMANDS
from skylift.magics.options import GPU_NAMES, OPTIONS
from skylift.magics.sessions import NotebookSessions
from skylift.options import IDLE_POLICIES

_IDENTIFIER = "skylift"
_WITH_VALUE = {option.name for option in OPTIONS if option.value}


class Completion:
    """What may stand at the cursor. `register` has IPython's completer ask, and nobody else, on our lines."""

    def __init__(self, shell: Any, sessions: NotebookSessions) -> None:
        self._shell = shell
        self._sessions = sessions
        self._lines: dict[str, Callable[[str], list[str]]] = {
            "%%gpu": self.gpu_cell,
            "%gpu": self.gpu_line,
            "%skylift": self.skylift_line,
        }

    def register(self) -> None:
        """Has IPython's completer ask us."""

        @context_matcher(identifier=_IDENTIFIER)  # type: ignore[untyped-decorator]
        def matcher(context: CompletionContext) -> dict[str, Any]:
            return self._match(context)

        self.unregister()
        self._shell.Completer.custom_matchers.append(matcher)

    def unregister(self) -> None:
        """Takes that back."""
        matchers = self._shell.Completer.custom_matchers
        matchers[:] = [
            matcher for matcher in matchers if getattr(matcher, "matcher_identifier", "") != _IDENTIFIER
        ]

    def _match(self, context: CompletionContext) -> dict[str, Any]:
        line: str = context.text_until_cursor
        command, blank, _ = line.lstrip().partition(" ")
        complete = self._lines.get(command) if blank else None
        if complete is None:
            return {"completions": []}
        token: str = context.token.lower()
        fitting = [word for word in complete(line) if word.lower().startswith(token)]
        completions = [SimpleCompletion(text=word, type="magic") for word in fitting]
        return {"completions": completions, "suppress": True, "ordered": True}

    def gpu_cell(self, line: str) -> list[str]:
        """For ``%%gpu …`` up to the cursor."""
        words = line.split()[1:]
        ended = line[-1:].isspace()
        current = "" if ended or not words else words[-1]
        before = words if ended else words[:-1]
        if before and before[-1] in _WITH_VALUE:
            return self._values(before[-1])
        if current.startswith("-"):
            used = set(before)
            return [o.name for o in OPTIONS if o.name not in used or o.repeatable]
        named = [word for word in before if not word.startswith("-")]
        if named and not named[-1].endswith(",") and not current:
            return [o.name for o in OPTIONS if o.name not in before or o.repeatable]
        taken = {spec.lower() for word in [*named, current] for spec in word.split(",")[:-1]}
        return [gpu for gpu in GPU_NAMES if gpu.lower() not in taken and not (taken and gpu == "cpu")]

    def gpu_line(self, line: str) -> list[str]:
        """For ``%gpu …`` up to the cursor."""
        words = line.split()[1:]
        ended = line[-1:].isspace()
        before = words if ended else words[:-1]
        if not before:
            return [command.split()[0] for command in LINE_COMMANDS if command]
        if before[0] in ("stop", "sleep", "wake", "logs") or before[-1] == "--session":
            return self._session_names()
        if before[0] in ("put", "get"):
            return [name for name in self._shell.user_ns if not name.startswith("_")]
        if before[0] == "attach":
            return ["now", "start"] if before[-1] == "--from" else ["--from"]
        return []

    def skylift_line(self, line: str) -> list[str]:
        """For ``%skylift …`` up to the cursor."""
        words = line.split()[1:]
        before = words if line[-1:].isspace() else words[:-1]
        if before == ["spend"]:
            return ["day", "gpu", "function", "notebook"]
        return list(SKYLIFT_COMMANDS) if not before else []

    def _values(self, option: str) -> list[str]:
        if option == "--name":
            return self._session_names()
        if option == "--image":
            from skylift.image import Image

            return [name for name, value in self._shell.user_ns.items() if isinstance(value, Image)]
        if option == "--idle-policy":
            return list(IDLE_POLICIES)
        if option in ("--timeout", "--idle"):
            return ["5m", "30m", "2h"]
        return []

    def _session_names(self) -> list[str]:
        return [session.name for session in self._sessions]
