"""A real gateway, a real JupyterLab, and a real Chromium without a display."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright
from running_lab import RunningLab

from scripts.own_gateway import left_behind

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "end_to_end"))

from running_gateway import RunningGateway  # noqa: E402

CONFIG = """
[gateway]
client_grace = 5

[host]
simulate_gpus = { H100 = 1, L4 = 2 }

[prices]
H100 = 3.95
L4 = 0.80
cpu = 0.04
"""
PATIENCE = 60_000
"""Milliseconds after which something that should be in the page is missed."""

expect.set_options(timeout=PATIENCE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here starts browsers, and those of one file share a server."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(300))
            item.add_marker(pytest.mark.xdist_group("browser"))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Started anew for each file of tests."""
    gateway = RunningGateway(tmp_path_factory.mktemp("gateway") / "home", CONFIG)
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.close()
        print(gateway.logs())
    assert [] == left_behind(gateway.home)


@pytest.fixture(scope="module")
def lab(gateway: RunningGateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    """JupyterLab before it."""
    lab = RunningLab(tmp_path_factory.mktemp("lab"), gateway.home)
    try:
        lab.start()
        yield lab
    finally:
        lab.close()
        print(lab.log()[-20_000:])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium of this system. Not for longer: while Playwright is there, this thread's event loop runs, and
    other tests could start none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program is not None, "Chromium is missing: scripts/setup dev installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Page]:
    """A page of its own for each test; where the test fails, its picture is kept in the test's folder."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    failed = request.session.testsfailed
    try:
        yield page
    finally:
        if request.session.testsfailed > failed or os.environ.get("KEEP_PICTURES"):
            try:
                page.screenshot(path=tmp_path / "page.png")
                print(f"the page: {tmp_path / 'page.png'}")
            except Error as error:
                print(f"no picture: {error}")
        print("\n".join(said[-60:]))
        context.close()
