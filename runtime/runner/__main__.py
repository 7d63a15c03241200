"""Starts the runner, as ``python <this folder>`` (in a container) or ``python -m skylift.runtime.runner``."""

from __future__ import annotations

import importlib
import os
import sys

if __name__ == "__main__":
    if __package__:
        package = __package__
    else:
        # The folder itself is on sys.path now, where our modules would hide the user's of the same name.
        # Its parent goes last: the cloudpickle beside us is for users who have none.
        folder = os.path.dirname(os.path.abspath(__file__))
        sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != folder]
        sys.path.append(os.path.dirname(folder))
        package = os.path.basename(folder)
    importlib.import_module(package + ".init").main()
