"""Volumes in the sidebar, as a person uses them."""

from __future__ import annotations

import re

from driving import cell, cell_is_done, open_notebook, run_cell, show_sidebar
from pictures import axe, picture
from playwright.sync_api import Locator, Page, expect
from running_gateway import RunningGateway
from running_lab import RunningLab

SIZE = 50_000_000

DROP = """
([target, name, size, text]) => {
  let bytes;
  if (text === null) {
    bytes = new Uint8Array(size);
    let state = 1;
    for (let at = 0; at < size; at++) {
      state = (state * 1103515245 + 12345) & 0x7fffffff;
      bytes[at] = state >> 16;
    }
  } else {
    bytes = new TextEncoder().encode(text);
  }
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name));
  for (const kind of ['dragenter', 'dragover', 'drop']) {
    target.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer }));
  }
}
"""


def drop(target: Locator, name: str, size: int = 0, text: str | None = None) -> None:
    """As a file from the desktop."""
    expect(target).to_be_visible()
    target.evaluate(f"(target, rest) => ({DROP})([target, ...rest])", [name, size, text])


def row(panel: Locator, volume: str, path: str) -> Locator:
    """A line of the tree."""
    where = f'[data-volume="{volume}"][data-path="{path}"]'
    return panel.locator(f"[role=treeitem]{where}:not([data-kind=note], [data-kind=problem])")


def test_a_file_from_drop_to_deletion(page: Page, lab: RunningLab, gateway: RunningGateway) -> None:
    lab.notebook(
        "volumes.ipynb",
        "%load_ext skylift",
        "%%gpu cpu --volume data:/data\nimport hashlib\n"
        "print(hashlib.sha256(open('/data/big.bin', 'rb').read()).hexdigest())",
        "import skylift\nb''.join(skylift.Volume.from_name('data').read_file('notes.txt'))",
    )
    open_notebook(page, lab, "volumes.ipynb")
    panel = show_sidebar(page, lab, "Volumes")

    # A volume.
    panel.get_by_role("button", name="New volume").first.click()
    page.get_by_role("textbox", name=re.compile("volume", re.I)).last.fill("data")
    page.keyboard.press("Enter")
    data = row(panel, "data", "")
    expect(data).to_be_visible()

    # A large file, dropped on it.
    drop(data, "big.bin", SIZE)
    big = row(panel, "data", "big.bin")
    expect(big).to_be_visible()
    expect(big).to_contain_text("50 MB")
    (version,) = [each["version"] for each in gateway.get("/v1/volumes") if each["name"] == "data"]
    run_cell(page, 0)
    cell_is_done(page, 0)
    run_cell(page, 1)
    cell_is_done(page, 1)
    wanted = page.evaluate(
        f"""async () => {{
            const bytes = new Uint8Array({SIZE});
            let state = 1;
            for (let at = 0; at < {SIZE}; at++) {{
                state = (state * 1103515245 + 12345) & 0x7fffffff;
                bytes[at] = state >> 16;
            }}
            const digest = await crypto.subtle.digest('SHA-256', bytes);
            return [...new Uint8Array(digest)].map(each => each.toString(16).padStart(2, '0')).join('');
        }}"""
    )
    expect(cell(page, 1)).to_contain_text(wanted)

    # A small one; renamed; written again, and back to what it was.
    drop(data, "first.txt", text="the first version")
    first = row(panel, "data", "first.txt")
    expect(first).to_be_visible()
    first.click(button="right")
    page.get_by_role("menuitem", name="Rename").click()
    page.keyboard.press("Control+A")
    page.keyboard.type("notes.txt")
    page.keyboard.press("Enter")
    notes = row(panel, "data", "notes.txt")
    expect(notes).to_be_visible()
    expect(first).to_have_count(0)
    renamed = next(each["version"] for each in gateway.get("/v1/volumes") if each["name"] == "data")
    assert renamed > version
    drop(data, "notes.txt", text="the second version")
    again = page.get_by_role("group", name="What to do about notes.txt")
    again.get_by_role("button", name="Replace").click()
    gateway.wait_for(
        "/v1/volumes",
        lambda found: any(each["name"] == "data" and each["version"] > renamed for each in found),
    )
    picture(page, "jupyterlab-volumes")
    axe(page)

    data.click(button="right")
    page.get_by_role("menuitem", name="History").click()
    history = page.locator('.jp-skylift-history-box[data-volume="data"]')
    expect(history.get_by_role("button", name=f"Restore version {renamed}")).to_be_visible()
    picture(page, "jupyterlab-history")
    history.get_by_role("button", name=f"Restore version {renamed}").click()
    page.get_by_role("dialog").get_by_role("button", name="Restore").click()
    expect(history.locator(f'tr[data-version="{renamed + 2}"]')).to_be_visible()
    page.get_by_role("tab", name="volumes.ipynb").click()
    run_cell(page, 2)
    cell_is_done(page, 2)
    expect(cell(page, 2)).to_contain_text("the first version")

    # Looked at, and deleted.
    notes.click()
    expect(
        page.locator('[data-path="notes.txt"][data-kind]').get_by_text("the first version")
    ).to_be_visible()
    notes.click(button="right")
    page.get_by_role("menuitem", name="Delete…").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(notes).to_have_count(0)
    assert ["big.bin"] == [each["path"] for each in gateway.get_lines("/v1/volumes/data/entries?path=")]
