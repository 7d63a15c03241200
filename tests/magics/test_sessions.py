from __future__ import annotations

from typing import Any

import pytest

from skylift.exceptions import InvalidError
from skylift.image import Image
from skylift.magics.options import parse_line
from skylift.magics.sessions import NotebookSession, NotebookSessions


@pytest.fixture
def sessions() -> NotebookSessions:
    return NotebookSessions()


def for_line(sessions: NotebookSessions, line: str, **namespace: Any) -> NotebookSession:
    """The session of a cell that ran."""
    known = sessions.for_cell(parse_line(line), namespace)
    sessions.keep(known)
    return known


def refusal(sessions: NotebookSessions, line: str, **namespace: Any) -> str:
    with pytest.raises(InvalidError) as caught:
        for_line(sessions, line, **namespace)
    return str(caught.value)


def test_cells_on_the_same_gpu_share_a_session(sessions: NotebookSessions) -> None:
    assert for_line(sessions, "H100") is for_line(sessions, "h100")
    assert for_line(sessions, "H100") is not for_line(sessions, "cpu")


def test_a_named_session_is_another_one(sessions: NotebookSessions) -> None:
    first, named = for_line(sessions, "H100"), for_line(sessions, "H100 --name train")
    assert ("H100", "train") == (first.name, named.name)
    assert named is for_line(sessions, "--name train")


def test_a_cell_that_names_nothing_goes_where_the_latest_went(sessions: NotebookSessions) -> None:
    for_line(sessions, "H100")
    latest = for_line(sessions, "cpu")
    assert latest is for_line(sessions, "")
    assert latest is sessions.find("")


def test_the_first_cell_says_what_it_runs_on(sessions: NotebookSessions) -> None:
    assert "%%gpu: which GPU? Such as %%gpu H100" in refusal(sessions, "")
    assert "no session 'train' yet; the first cell says what it runs on: %%gpu H100 --name train" in refusal(
        sessions, "--name train"
    )


def test_a_session_keeps_what_it_was_started_with(sessions: NotebookSessions) -> None:
    for_line(sessions, "H100 --name train --memory 8")
    text = refusal(sessions, "L4 --name train")
    assert text.startswith("%%gpu: session train was started with GPU H100, and this cell asks for L4.")
    assert "%gpu stop train ends it, and its variables are gone" in text
    assert "was started with --cpu the default, and this cell asks for 2.0" in refusal(
        sessions, "--name train --cpu 2"
    )
    assert "train" == for_line(sessions, "--name train --memory 8 --timeout 5m").name


def test_what_becomes_of_an_idle_session_is_said_when_it_is_started(sessions: NotebookSessions) -> None:
    known = for_line(sessions, "H100 --name train --idle-policy stop")
    assert "stop" == known.session._options.idle_policy
    assert "was started with --idle-policy stop, and this cell asks for keep" in refusal(
        sessions, "--name train --idle-policy keep"
    )


def test_a_cell_that_waits_for_an_idle_session_is_told_the_way_out(sessions: NotebookSessions) -> None:
    for_line(sessions, "H100 --name train")
    detail = "waiting for an H100: 1 of 1 in use by session train (idle)"
    assert "%gpu stop train frees it; %gpu sleep train does too, and loses nothing" == sessions.way_out(
        detail
    )


def test_a_cell_that_did_not_run_leaves_nothing_behind(sessions: NotebookSessions) -> None:
    for_line(sessions, "cpu")
    sessions.for_cell(parse_line("B200 --name train"), {})
    assert "cpu" == for_line(sessions, "").name
    assert "train" == for_line(sessions, "L4 --name train").name


def test_a_session_that_was_forgotten_can_be_made_anew(sessions: NotebookSessions) -> None:
    first = for_line(sessions, "H100 --name train")
    sessions.forget(first)
    assert for_line(sessions, "L4 --name train") is not first


def test_forgetting_the_latest_leaves_the_one_before(sessions: NotebookSessions) -> None:
    before = for_line(sessions, "H100")
    sessions.forget(for_line(sessions, "cpu"))
    assert before is sessions.find("")


def test_an_unknown_session_names_those_there_are(sessions: NotebookSessions) -> None:
    with pytest.raises(InvalidError, match=r"no session yet. A %%gpu cell starts one: %%gpu H100"):
        sessions.find("")
    for_line(sessions, "H100 --name train")
    with pytest.raises(InvalidError, match=r"no session 'trian'; did you mean train\? Known: train"):
        sessions.find("trian")


def test_a_session_keeps_its_image(sessions: NotebookSessions) -> None:
    img = Image.debian_slim().pip_install("numpy")
    options = parse_line("H100 --image img")
    known = sessions.for_cell(options, {"img": img})
    assert img is known.session.image
    sessions.keep(known)
    assert known is sessions.for_cell(options, {"img": Image.debian_slim().pip_install("numpy")})
    assert "session H100 was started with what img was then, and it is another image now" in refusal(
        sessions, "H100 --image img", img=img.pip_install("torch")
    )


def test_an_image_is_a_variable_that_holds_one(sessions: NotebookSessions) -> None:
    assert "--image img: this notebook has no variable img" in refusal(sessions, "H100 --image img")
    assert "--image img: img is a str, and an Image is wanted" in refusal(
        sessions, "H100 --image img", img="x"
    )
