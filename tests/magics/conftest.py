from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell


@pytest.fixture
def shell() -> Iterator[Any]:
    """An IPython shell of our own, which leaves the process as it was."""
    import sys

    main, hook = sys.modules["__main__"], sys.displayhook
    prompts = {name: getattr(sys, name) for name in ("ps1", "ps2", "ps3") if hasattr(sys, name)}
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.run_line_magic("colors", "nocolor")
    yield shell
    shell.history_manager.end_session()
    InteractiveShell.clear_instance()
    sys.modules["__main__"], sys.displayhook = main, hook
    # With a prompt, code counts as typed into it.
    for name in ("ps1", "ps2", "ps3"):
        if hasattr(sys, name):
            delattr(sys, name)
    for name, prompt in prompts.items():
        setattr(sys, name, prompt)
