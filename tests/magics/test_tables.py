from __future__ import annotations

import time

from skylift.magics.remote_ref import size
from skylift.magics.tables import Table, clock_time


def test_a_table_as_text_and_as_html() -> None:
    table = Table(["Name", "State"], [["train", "idle"], ["<b>", "x"]], empty="none", note="That is all.")
    assert "Name   State\ntrain  idle\n<b>    x\nThat is all." == repr(table)
    markup = table._repr_html_()
    assert "<td" in markup
    assert "&lt;b&gt;" in markup
    assert "That is all." in markup


def test_a_state_has_a_colour_beside_its_word() -> None:
    rows = [["running", "fc-1"], ["failed: ValueError: no", "fc-2"], ["asleep since 10:00", ""], ["", "fc-3"]]
    markup = Table(["State", "ID"], rows, empty="none")._repr_html_()
    for colour, words in (("#3b82f6", "running"), ("#dc4c4c", "failed: Val"), ("#8b8f98", "asleep since")):
        assert f'style="color: {colour}">●</span> {words}' in markup
    assert 3 == markup.count("●")
    assert "<code>fc-2</code>" in markup
    # What it looks like is up to whoever shows it: no colour of text or background, and nothing that runs.
    assert "background" not in markup
    assert "<script" not in markup


def test_an_empty_table_says_so() -> None:
    table = Table(["Name"], [], empty="There is none.")
    assert "There is none." == repr(table)
    assert "<div>There is none.</div>" == table._repr_html_()


def test_clock_times() -> None:
    assert "" == clock_time(0)
    now = time.time()
    assert time.strftime("%H:%M:%S", time.localtime(now)) == clock_time(now)
    assert "Jan 01" in clock_time(time.mktime((2001, 1, 1, 12, 0, 0, 0, 0, -1)))


def test_sizes() -> None:
    assert ["512 B", "1.5 kB", "34 MB", "1.3 GB"] == [size(n) for n in (512, 1500, 34_000_000, 1_300_000_000)]
