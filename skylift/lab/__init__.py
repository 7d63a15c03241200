"""Skylift in JupyterLab and Notebook 7: what Jupyter loads. jupyter_server is imported when Jupyter asks.

A page speaks to this extension of its own Jupyter server, and this one to the gateway: so the user's token
stays here. It is a client of the gateway, as a notebook is: see docs/adr/0018.

================  ======================================================================
`extension`       the routes
`handler`         what holds for all of them: who may, errors as JSON
`gateway_link`    where the gateway is, and requests to it
`proxy`           REST of the gateway, and files of volumes
`live_proxy`      its live feed
`upload_spool`    files on their way from a page into volumes; `upload_handlers`: their routes
================  ======================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """Called by Jupyter's server: which module to load."""
    return [{"module": "skylift.lab"}]


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    """Called by ``jupyter labextension develop``: where the front end is, once it has been built."""
    return [{"src": "labextension", "dest": "skylift"}]


def _load_jupyter_server_extension(serverapp: ServerApp) -> None:
    """Called by Jupyter's server at its start."""
    from skylift.lab.extension import load

    load(serverapp)
