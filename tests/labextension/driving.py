"""What the tests do in a page, in words."""

from __future__ import annotations

import contextlib
import re

from playwright.sync_api import Locator, Page, expect
from running_lab import RunningLab


def open_notebook(page: Page, lab: RunningLab, name: str) -> None:
    """Open it, and wait for its kernel."""
    page.goto(lab.address(name))
    expect(page.locator(".jp-Notebook .jp-Cell").first).to_be_visible()
    if lab.program == "lab":
        expect(page.locator(".jp-Notebook-ExecutionIndicator").first).to_have_attribute("data-status", "idle")


def show_sidebar(page: Page, lab: RunningLab, section: str) -> Locator:
    """Bring a section of the sidebar to the front; returns it."""
    region = page.get_by_role("region", name="Skylift", exact=True)
    if not region.is_visible():
        if lab.program == "notebook":
            page.get_by_role("menuitem", name="View", exact=True).click()
            page.get_by_role("menuitem", name=re.compile("Left Sidebar")).hover()
            page.get_by_role("menuitem", name=re.compile("Skylift")).click()
        else:
            page.get_by_role("tab", name="Skylift").click()
    region.get_by_role("tab", name=section, exact=True).click()
    panel = region.get_by_role("tabpanel", name=section, exact=True)
    expect(panel).to_be_visible()
    return panel


def cell(page: Page, number: int) -> Locator:
    """One cell of the notebook, from 0 on."""
    return page.locator(".jp-Notebook .jp-Cell").nth(number)


def run_cell(page: Page, number: int) -> None:
    """Click into it, and Ctrl+Enter; does not wait for its end."""
    before = prompt(page, number).inner_text()
    for _ in range(10):
        cell(page, number).locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        # What is pressed while a notebook is just being set up is lost.
        with contextlib.suppress(AssertionError):
            expect(prompt(page, number)).not_to_have_text(before, timeout=5000)
            return
    raise AssertionError(f"cell {number} does not begin")


def prompt(page: Page, number: int) -> Locator:
    """``[ ]:``, ``[*]:`` or its number."""
    return cell(page, number).locator(".jp-InputPrompt").first


def cell_is_done(page: Page, number: int) -> None:
    """Wait until a cell has its number."""
    expect(prompt(page, number)).to_have_text(re.compile(r"\[\d+\]:"))
