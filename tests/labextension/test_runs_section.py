"""Runs in the sidebar, and a run in the main area."""

from __future__ import annotations

import re

from driving import cell, cell_is_done, open_notebook, run_cell, show_sidebar
from pictures import axe, picture
from playwright.sync_api import Locator, Page, expect
from running_lab import RunningLab

LONG = """\
import time
for step in range(400):
    print(f"\\x1b[32mstep {step}\\x1b[0m loss {1 / (step + 1):.4f}", flush=True)
    time.sleep(0.05)"""


def run_of(panel: Locator, words: str) -> Locator:
    """The line of a run."""
    return panel.locator("[data-call-id]").filter(has_text=words)


def test_from_queued_to_done(page: Page, lab: RunningLab) -> None:
    lab.notebook(
        "queue.ipynb",
        "%load_ext skylift",
        "%%gpu H100 --name first --detach --idle 1s\nprint('the first')\nimport time; time.sleep(6)",
        "%%gpu H100 --name second --detach --idle 1s\nprint('the second')",
    )
    open_notebook(page, lab, "queue.ipynb")
    panel = show_sidebar(page, lab, "Runs")
    for number in range(3):
        run_cell(page, number)
        cell_is_done(page, number)
    first, second = run_of(panel, "the first"), run_of(panel, "the second")
    expect(first).to_have_attribute("data-state", "running")
    expect(second).to_have_attribute("data-state", "queued")
    expect(second).to_have_attribute("data-state", "done")
    expect(first).to_have_attribute("data-state", "done")
    expect(second).to_contain_text("H100")
    panel.get_by_role("searchbox", name="Search runs").fill("second")
    expect(first).to_have_count(0)
    expect(second).to_be_visible()


def test_a_log_while_it_streams_and_a_cancellation(page: Page, lab: RunningLab) -> None:
    lab.notebook("stream.ipynb", "%load_ext skylift", f"%%gpu L4 --name training\nprint('train')\n{LONG}")
    open_notebook(page, lab, "stream.ipynb")
    panel = show_sidebar(page, lab, "Runs")
    run_cell(page, 0)
    cell_is_done(page, 0)
    run_cell(page, 1)
    run = run_of(panel, "train")
    expect(run).to_have_attribute("data-state", "running")
    # The status line in the notebook is live, and has a button that stops.
    expect(cell(page, 1).get_by_role("button", name=re.compile("^(Stop|Interrupt)"))).to_be_visible()
    picture(page, "jupyterlab-runs")
    run.click()
    view = page.locator(".jp-skylift-run-header").locator("xpath=..")
    log = view.get_by_role("region", name="Log")
    expect(log).to_contain_text("step 20")
    expect(log).to_contain_text("step 40")  # it goes on, and is followed
    search = view.get_by_role("searchbox", name="Search the log")
    search.fill("step 11 ")
    page.keyboard.press("Enter")
    expect(view.locator(".jp-skylift-log-found")).to_contain_text("1")
    search.fill("")
    picture(page, "jupyterlab-run")
    axe(page, "#jp-skylift-sidebar", ".jp-skylift-run-header")
    view.get_by_role("tab", name="Timeline").click()
    expect(view.get_by_role("region", name="Timeline")).to_contain_text(re.compile("cold|forked|restored"))
    view.get_by_role("button", name="Cancel", exact=True).click()
    expect(run).to_have_attribute("data-state", "cancelled")  # unasked, within its first minute
    view.get_by_role("tab", name="Log").click()
    with page.expect_download() as download:
        view.get_by_role("button", name="Download").click()
    text = download.value.path().read_text()
    assert "step 0" in text
    assert "step 40" in text
    assert text.count("step 12") < 20
    view.get_by_role("button", name="Show the cell").click()
    expect(cell(page, 1)).to_be_in_viewport()


def test_the_traceback_of_what_failed(page: Page, lab: RunningLab) -> None:
    lab.notebook(
        "fail.ipynb", "%load_ext skylift", "%%gpu cpu\nprint('fails')\nlosses = {}\nlosses['epoch 3']"
    )
    open_notebook(page, lab, "fail.ipynb")
    panel = show_sidebar(page, lab, "Runs")
    for number in range(2):
        run_cell(page, number)
        cell_is_done(page, number)
    run = run_of(panel, "fails")
    expect(run).to_have_attribute("data-state", "failed")
    run.click()
    traceback = page.get_by_label("Traceback")
    expect(traceback).to_contain_text("losses['epoch 3']")
    expect(traceback).to_contain_text("KeyError")
    picture(page, "jupyterlab-failed")
    axe(page, ".jp-skylift-run-header", ".jp-skylift-run-error")


def test_stopping_from_the_status_line(page: Page, lab: RunningLab) -> None:
    lab.notebook(
        "stop.ipynb",
        "%load_ext skylift",
        "%%gpu cpu --name kept\nkept = 'still here'\nprint('going')\nimport time; time.sleep(100)",
        "%%gpu cpu --name kept\nprint(kept)",
    )
    open_notebook(page, lab, "stop.ipynb")
    run_cell(page, 0)
    cell_is_done(page, 0)
    run_cell(page, 1)
    expect(cell(page, 1).locator(".jp-OutputArea").first).to_contain_text("going")
    cell(page, 1).get_by_role("button", name=re.compile("^(Stop|Interrupt)")).click()
    cell_is_done(page, 1)
    run_cell(page, 2)
    cell_is_done(page, 2)
    expect(cell(page, 2)).to_contain_text("still here")
