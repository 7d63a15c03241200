"""Pictures for the docs, and a look for what keeps people out."""

from __future__ import annotations

import os
from pathlib import Path

from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"


def picture(page: Page, name: str) -> None:
    """Keep a picture for the docs, where PICTURES=1 asks for new ones; else only make it."""
    page.wait_for_timeout(300)  # for what fades in
    data = page.screenshot()
    if os.environ.get("PICTURES"):
        IMAGES.mkdir(exist_ok=True)
        (IMAGES / f"{name}.png").write_bytes(data)


def axe(page: Page, *within: str) -> None:
    """Have axe-core look at what is ours: nothing serious may be wrong."""
    page.add_script_tag(path=AXE)
    found = page.evaluate(
        """within => axe.run({ include: within.map(each => [each]) }, { resultTypes: ['violations'] })
            .then(result => result.violations
                .filter(each => each.impact === 'serious' || each.impact === 'critical')
                .map(each => `${each.id}: ${each.help}: ${each.nodes.slice(0, 5).map(
                    node => node.html.slice(0, 200)).join(' | ')}`))""",
        list(within) or ["#jp-skylift-sidebar"],
    )
    assert [] == found
