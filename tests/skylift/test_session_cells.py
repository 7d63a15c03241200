"""Sessions: cells, names that go and come, references."""

from __future__ import annotations

import gc
import pickle
import threading

import numpy as np
import pytest
from sdk_gateway import FakeGateway, pickles_and_header

from skylift import exceptions
from skylift.exceptions import (
    ConflictError,
    InvalidError,
    NotFoundError,
    RemoteError,
    SerializationError,
)
from skylift.serialization import dumps
from skylift.session import CellRun, Pickled, RemoteRef, Session, Slept
from skylift.wire import CallStatus, Cancel, ContainerInfo, Define, Detach, Problem, StopSession, Submit


def finish(run: CellRun) -> CellRun:
    for _ in run:
        pass
    return run


def cell(session: Session, code: str, **options) -> CellRun:
    return finish(session.run_cell(code, filename="In[1]", **options))


def headers(gateway: FakeGateway) -> list[dict]:
    return [pickles_and_header(gateway.control.bytes_of(message.args))[0] for message in gateway.sent(Submit)]


def test_variables_live_from_cell_to_cell(gateway: FakeGateway) -> None:
    session = Session(name="train")
    cell(session, "x = 2")
    run = cell(session, "y = x * k", send={"k": 21}, assigned=["y"])
    assert {"y": 42} == run.assigned
    assert None is run.error
    assert run.end is not None
    assert "done" == run.end.state
    assert 1 == len(gateway.sent(Define))
    (define,) = gateway.sent(Define)
    assert (session.session_id, "train", 1) == (
        define.spec.session,
        define.spec.session_name,
        define.spec.max_containers,
    )


def test_items_come_in_order(gateway: FakeGateway) -> None:
    run = Session().run_cell("print('one')\nprint('two')", filename="In[1]")
    texts = [item.data.decode() for item in run if not isinstance(item, CallStatus)]
    assert ["one\n", "two\n"] == texts
    with pytest.raises(StopIteration):
        run.next()


def test_next_gives_none_when_nothing_came(gateway: FakeGateway) -> None:
    gateway.control.may_run.clear()
    run = Session().run_cell("x = 1", filename="In[1]")
    assert None is run.next(timeout=0.02)
    gateway.control.may_run.set()
    finish(run)


def test_statuses_are_items_and_tell_the_container(gateway: FakeGateway) -> None:
    gateway.control.may_run.clear()
    session = Session()
    run = session.run_cell("x = 1", filename="In[1]")
    gateway.wait_for(lambda: gateway.control.calls)
    info = ContainerInfo(
        container_id="co-1", host_id="ho-1", state="ready", app="notebook", function="session", gpu="H100"
    )
    gateway.control.say_status(run.call_id, state="running", container=info)
    item = run.next(timeout=10)
    assert isinstance(item, CallStatus)
    assert info == session.container
    assert item == run.status
    gateway.control.may_run.set()
    finish(run)


def test_only_what_has_changed_is_sent(gateway: FakeGateway) -> None:
    session = Session()
    config = {"lr": 0.1}
    cell(session, "a = config", send={"config": config})
    cell(session, "b = config", send={"config": config})
    config["lr"] = 0.2
    cell(session, "c = config", send={"config": config})
    assert [["config"], [], ["config"]] == [list(header["send"]) for header in headers(gateway)]
    assert [[], ["config"], []] == [header["have"] for header in headers(gateway)]


def test_what_a_cell_assigns_is_sent_again_unless_it_is_held(gateway: FakeGateway) -> None:
    session = Session()
    cell(session, "n = n + 1", send={"n": 1}, assigned=["n"])
    cell(session, "m = n", send={"n": 2})
    assert ["n"] == list(headers(gateway)[-1]["send"])
    session.holds({"n": Pickled(dumps(2))})
    cell(session, "m = n", send={"n": 2})
    assert [] == list(headers(gateway)[-1]["send"])


def test_a_new_container_gets_everything_again(gateway: FakeGateway) -> None:
    session = Session()
    cell(session, "a = x", send={"x": 1})
    gateway.control.sessions[session.session_id].clear()
    run = cell(session, "y = x + z", send={"x": 1, "z": 5}, assigned=["y"])
    assert {"y": 6} == run.assigned
    assert [["x"], ["z"], ["x", "z"]] == [list(header["send"]) for header in headers(gateway)]


def test_large_values_stay_and_come_when_they_are_asked_for(gateway: FakeGateway) -> None:
    session = Session(name="train")
    run = cell(session, "import numpy\nbig = numpy.ones((1000, 1000))", assigned=["big"])
    ref = run.assigned["big"]
    assert isinstance(ref, RemoteRef)
    assert ("numpy.ndarray", (1000, 1000), "float64", 8_000_000, "size") == (
        ref.type_name,
        ref.shape,
        ref.dtype,
        ref.nbytes,
        ref.why,
    )
    assert "<RemoteRef numpy.ndarray (1000, 1000) float64 8,000,000 bytes in session train>" == repr(ref)
    assert {"total": 1e6} == cell(
        session, "total = float(big.sum())", send={"big": ref}, assigned=["total"]
    ).assigned
    assert np.array_equal(np.ones((1000, 1000)), ref.get())


def test_a_reference_goes_nowhere_else(gateway: FakeGateway) -> None:
    one, two = Session(name="one"), Session(name="two")
    ref = cell(one, "import threading; f = threading.Lock()", assigned=["f"]).assigned["f"]
    assert ref.why.startswith("unpicklable: ")
    with pytest.raises(SerializationError, match=r"'f' lives in session one, .* session two.*f = f\.get\(\)"):
        two.run_cell("f", filename="In[1]", send={"f": ref})
    with pytest.raises(
        SerializationError, match=r"lives in session one.*bring the value here with \.get\(\)"
    ):
        pickle.dumps(ref)


def test_the_session_is_told_what_is_no_longer_referred_to(gateway: FakeGateway) -> None:
    session = Session()
    run = cell(session, "import threading; f = threading.Lock(); g = f", assigned=["f", "g"])
    assert run.assigned["f"] is run.assigned["g"]
    ref_id = run.assigned["f"].ref_id
    del run
    gc.collect()
    cell(session, "pass")
    cell(session, "pass")
    assert [[], [ref_id], []] == [header["drop"] for header in headers(gateway)]


def test_names_that_are_gone(gateway: FakeGateway) -> None:
    run = cell(Session(), "x = 1\ndel x", assigned=["x"])
    assert ("x",) == run.gone
    assert {} == run.assigned


def test_an_error_ends_the_cell_and_the_session_lives(gateway: FakeGateway) -> None:
    session = Session()
    run = cell(session, "x = 1\n1 / 0")
    assert isinstance(run.error, ZeroDivisionError)
    assert {"x": 1} == cell(session, "pass", assigned=["x"]).assigned


def test_put_get_and_names(gateway: FakeGateway) -> None:
    session = Session()
    with pytest.raises(InvalidError, match="has not run a cell yet"):
        session.names()
    session.put({"x": [1, 2]})
    listed = session.names()
    assert ["x"] == list(listed)
    assert [1, 2] == listed["x"].get()
    problem = Problem(error="NotFoundError", message="the session no longer holds it")
    gateway.control.refuse = lambda message: problem if isinstance(message, Submit) else None
    with pytest.raises(NotFoundError, match="no longer holds it"):
        listed["x"].get()


def test_a_value_that_cannot_travel_is_named_and_nothing_is_sent(gateway: FakeGateway) -> None:
    with pytest.raises(
        SerializationError, match=r"'lock' cannot travel to the session: a _thread.lock cannot"
    ):
        Session().run_cell("lock", filename="In[1]", send={"lock": threading.Lock()})
    assert [] == gateway.control.messages


def test_interrupt_detach_attach(gateway: FakeGateway) -> None:
    gateway.control.may_run.clear()
    session = Session()
    run = session.run_cell("print('there')", filename="In[1]")
    gateway.wait_for(lambda: gateway.control.calls)
    run.detach()
    gateway.wait_for(lambda: gateway.sent(Detach))
    gateway.control.may_run.set()
    again = session.attach(run.call_id)
    assert ["there\n"] == [item.data.decode() for item in again if not isinstance(item, CallStatus)]
    assert [True] == [message.keep for message in gateway.sent(Detach)]
    gateway.control.may_run.clear()
    run = session.run_cell("print('there')", filename="In[1]")
    run.interrupt()
    finish(run)
    assert run.end is not None
    assert "cancelled" == run.end.state
    assert ["interrupt"] == [message.mode for message in gateway.sent(Cancel)]


def test_a_detached_cell_is_durable_and_can_be_followed_later(gateway: FakeGateway) -> None:
    session = Session()
    cell(session, "a = x", send={"x": 1})
    run = session.run_cell("print('there', x)", filename="In[1]", send={"x": 1}, detached=True)
    submit = gateway.sent(Submit)[-1]
    assert (True, True) == (submit.durable, submit.detached)
    assert ["x"] == list(headers(gateway)[-1]["send"])
    assert ["there 1\n"] == [item.data.decode() for item in run if not isinstance(item, CallStatus)]


def test_stop_ends_the_session_and_the_next_cell_begins_another(gateway: FakeGateway) -> None:
    session = Session()
    session.stop()
    assert [] == gateway.sent(StopSession)
    cell(session, "x = 1")
    first = session.session_id
    session.stop()
    run = cell(session, "found = 'x' in globals()", assigned=["found"])
    assert [first] == [message.session for message in gateway.sent(StopSession)]
    assert {"found": False} == run.assigned
    assert session.session_id != first


def test_cells_survive_a_lost_connection(gateway: FakeGateway) -> None:
    run = Session().run_cell("for i in range(3000): print(i)", filename="In[1]")
    texts = []
    for item in run:
        if not isinstance(item, CallStatus):
            texts.append(item.data.decode())
            if len(texts) in (100, 2000):
                gateway.cut()
    assert [f"{i}\n" for i in range(3000)] == texts


def test_a_session_sleeps_and_wakes(gateway: FakeGateway) -> None:
    session = Session(name="train")
    cell(session, "x = 1")
    assert Slept(seconds=0.8, size=210_000_000, unpacked=600_000_000) == session.sleep()
    assert 0.24 == session.wake()
    assert [("sleep", session.session_id), ("wake", session.session_id)] == gateway.control.asked
    run = cell(session, "y = x", assigned=["y"])
    assert {"y": 1} == run.assigned


def test_why_a_session_does_not_sleep_or_wake(gateway: FakeGateway) -> None:
    session = Session(name="train")
    for act in (session.sleep, session.wake):
        with pytest.raises(NotFoundError, match="session train has not run a cell yet"):
            act()
    cell(session, "x = 1")
    for error, kind in (("ConflictError", ConflictError), ("TimeoutError", exceptions.TimeoutError)):
        gateway.control.sleeps = Problem(error=error, message="session train cannot sleep: it is busy.")
        with pytest.raises(kind, match="session train cannot sleep: it is busy"):
            session.sleep()
    gateway.control.wakes = Problem(error="RemoteError", message="session train could not be woken: no room.")
    with pytest.raises(RemoteError, match="session train could not be woken: no room"):
        session.wake()
    gateway.control.sleeps = None
    with pytest.raises(NotFoundError, match=f"There is no session {session.session_id} of yours."):
        session.sleep()


def test_what_becomes_of_an_idle_session_travels(gateway: FakeGateway) -> None:
    assert "sleep" == Session().spec.idle_policy
    assert "sleep-or-stop" == Session(idle_policy="sleep-or-stop").spec.idle_policy
    with pytest.raises(InvalidError, match="idle_policy='sleeep': unknown; did you mean 'sleep'"):
        Session(idle_policy="sleeep")
