"""Machines in the sidebar: a session sleeps and wakes; the gateway goes away and comes back."""

from __future__ import annotations

import re

from driving import cell, cell_is_done, open_notebook, run_cell, show_sidebar
from pictures import axe, picture
from playwright.sync_api import Page, expect
from running_gateway import RunningGateway
from running_lab import RunningLab


def test_a_session_sleeps_and_wakes(page: Page, lab: RunningLab) -> None:
    lab.notebook(
        "machines.ipynb",
        "%load_ext skylift",
        "%%gpu H100 --name train\nsteps = 41\nprint('ready')",
        "%%gpu H100 --name train\nprint('the answer is', steps + 1)",
    )
    open_notebook(page, lab, "machines.ipynb")
    panel = show_sidebar(page, lab, "Machines")
    expect(panel.locator("[data-skylift-gpu=H100]")).to_contain_text("simulated")
    for number in (0, 1):
        run_cell(page, number)
        cell_is_done(page, number)
    session = panel.locator("[data-skylift-session=train]")
    expect(session).to_have_attribute("data-state", "idle")
    expect(panel.locator("[data-skylift-gpu=H100]")).to_contain_text("1 of 1 in use")
    picture(page, "jupyterlab-machines")
    axe(page)
    session.get_by_role("button", name="Put session train to sleep").click()
    expect(session).to_have_attribute("data-state", "asleep")
    expect(panel.locator("[data-skylift-gpu=H100]")).to_contain_text("0 of 1 in use")
    session.get_by_role("button", name="Wake session train").click()
    expect(session).to_have_attribute("data-state", "idle")
    run_cell(page, 2)
    cell_is_done(page, 2)
    expect(cell(page, 2)).to_contain_text("the answer is 42")
    session.get_by_role("button", name="End session train").click()
    page.get_by_role("dialog").get_by_role("button", name="End session").click()
    expect(session).to_have_count(0)


def test_the_gateway_is_killed_and_comes_back(page: Page, lab: RunningLab, gateway: RunningGateway) -> None:
    lab.notebook("away.ipynb", "1 + 1")
    open_notebook(page, lab, "away.ipynb")
    panel = show_sidebar(page, lab, "Machines")
    link = page.locator("[data-skylift-link]")
    expect(link).to_have_attribute("data-skylift-link", "connected")
    expect(panel.locator("[data-skylift-host]").first).to_be_visible()
    gateway.kill()
    expect(link).to_have_attribute("data-skylift-link", "gateway-away")
    expect(link).to_contain_text(re.compile("gateway", re.I))
    gateway.start()
    expect(link).to_have_attribute("data-skylift-link", "connected")
    expect(link).to_have_text("")
    expect(panel.locator("[data-skylift-gpu=H100]")).to_be_visible()
