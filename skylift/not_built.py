"""What stands for public names whose feature is not built yet."""

from __future__ import annotations

from typing import Any, NoReturn

from skylift.exceptions import InvalidError


class NotBuilt:
    """Can be imported; any use raises `InvalidError` with its name."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise InvalidError(f"skylift.{self.__name__} is not built yet")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise InvalidError(f"skylift.{self.__name__}.{name} is not built yet")

    def __repr__(self) -> str:
        return f"<skylift.{self.__name__}: not built yet>"
