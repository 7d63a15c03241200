"""``%%gpu`` cells in a real kernel, over a real gateway, host and container."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import urllib3
from notebook_kernel import Cell, Notebook

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def last_status(cell: Cell) -> str:
    return cell.statuses[-1]


def test_a_cell_runs_and_its_status_line_says_where(notebook: Notebook) -> None:
    cell = notebook.ok("""
        %%gpu H100
        print('hello')
        6 * 7
        """)
    assert "hello\n" == cell.text()
    assert ["42"] == cell.values
    assert last_status(cell).startswith("H100 · local · simulated · cold start ")
    assert "done in" in last_status(cell)
    assert "$0.00" in last_status(cell)


def test_the_next_cell_finds_it_warm(notebook: Notebook) -> None:
    notebook.ok("%%gpu H100\npass")
    assert last_status(notebook.ok("%%gpu H100\npass")).startswith(
        "H100 · local · simulated · warm · done in"
    )


def test_variables_live_on_and_come_back(notebook: Notebook) -> None:
    notebook.ok("""
        %%gpu H100
        kept = [1, 2, 3]
        total = sum(kept)
        """)
    assert ["[1, 2, 3]"] == notebook.ok("%%gpu H100\nkept").values
    assert ["6"] == notebook.ok("total").values


def test_variables_of_the_notebook_are_sent_when_they_change(notebook: Notebook) -> None:
    notebook.ok("rate = 1")
    assert ["2"] == notebook.ok("%%gpu H100\nrate * 2").values
    notebook.ok("rate = 5")
    assert ["10"] == notebook.ok("%%gpu H100\nrate * 2").values


def test_a_function_of_the_notebook_sees_the_sessions_values(notebook: Notebook) -> None:
    notebook.ok("""
        scale = 2
        def scaled(x):
            return x * scale
        """)
    assert ["6"] == notebook.ok("%%gpu H100\nscaled(3)").values
    assert ["30"] == notebook.ok("""
        %%gpu H100
        scale = 10
        scaled(3)
        """).values
    assert ["30"] == notebook.ok("scaled(3)").values


def test_a_function_of_the_session_comes_back(notebook: Notebook) -> None:
    notebook.ok("""
        %%gpu H100
        base = 7
        def shifted(x):
            return x + base
        """)
    assert ["8"] == notebook.ok("shifted(1)").values


def test_what_a_method_call_changes_comes_back(notebook: Notebook) -> None:
    notebook.ok("losses = []")
    notebook.ok("%%gpu H100\nlosses.append(0.5)")
    assert ["[0.5]"] == notebook.ok("losses").values


def test_an_instance_of_a_notebooks_class_stays_one(notebook: Notebook) -> None:
    notebook.ok("""
        class Point:
            def __init__(self, x):
                self.x = x
        point = Point(1)
        """)
    notebook.ok("""
        %%gpu H100
        point.x += 1
        other = Point(5)
        """)
    assert ["(2, True, True)"] == notebook.ok(
        "point.x, isinstance(point, Point), isinstance(other, Point)"
    ).values


def test_a_deleted_variable_is_deleted_here_too(notebook: Notebook) -> None:
    notebook.ok("doomed = 1")
    notebook.ok("%%gpu H100\ndel doomed")
    assert ["False"] == notebook.ok("'doomed' in globals()").values


def test_a_branch_not_taken_leaves_the_notebooks_variable(notebook: Notebook) -> None:
    notebook.ok("untouched = 1")
    notebook.ok("""
        %%gpu H100
        if False:
            untouched = 2
        """)
    assert ["1"] == notebook.ok("untouched").values


# --- output --------------------------------------------------------------------------------------


def test_outputs_come_in_their_order(notebook: Notebook) -> None:
    cell = notebook.ok(
        """
        %%gpu H100
        import sys
        from IPython.display import display, HTML
        print('one')
        display(HTML('<i>two</i>'))
        print('three', file=sys.stderr)
        'four'
        """
    )
    kinds = [output.get("name") or output.get("kind") for output in cell.outputs]
    assert ["stdout", "display_data", "stderr", "execute_result"] == kinds


def test_ipythons_ways_of_writing_work(notebook: Notebook) -> None:
    cell = notebook.ok(
        """
        %%gpu H100
        import asyncio
        words = !echo alpha beta
        !echo from-a-shell
        %time value = 3
        await asyncio.sleep(0)
        print(words[0], value)
        """
    )
    assert "from-a-shell" in cell.text()
    assert "Wall time" in cell.text()
    assert "alpha beta 3" in cell.text()


def test_a_display_is_updated_in_place_also_by_a_later_cell(notebook: Notebook) -> None:
    first = notebook.ok("%%gpu H100\nhandle = display('old', display_id=True)")
    second = notebook.ok("%%gpu H100\nhandle.update('new')")
    shown = [
        m
        for m in first.messages
        if m.kind == "display_data" and m.content["data"].get("text/plain") == "'old'"
    ]
    updates = [m for m in second.messages if m.content.get("data", {}).get("text/plain") == "'new'"]
    assert ["update_display_data"] == [m.kind for m in updates]
    assert shown[0].content["transient"] == updates[0].content["transient"]


def test_a_plot_is_shown(notebook: Notebook) -> None:
    cell = notebook.ok("""
        %%gpu H100
        import matplotlib.pyplot as plt
        plt.plot([1, 2])
        None
        """)
    assert "image/png" in cell.outputs[-1]["data"]


def test_a_generators_items_are_shown_as_they_are_yielded(notebook: Notebook) -> None:
    cell = notebook.ok(
        """
        %%gpu H100
        import time
        def slow():
            for i in range(4):
                yield i
                time.sleep(0.3)
        slow()
        """
    )
    assert ["0", "1", "2", "3"] == cell.values
    times = [message.time for message in cell.messages if message.kind == "execute_result"]
    assert times[-1] - times[0] > 0.6


def test_clearing_the_output_leaves_the_status_line(notebook: Notebook) -> None:
    cell = notebook.ok(
        """
        %%gpu H100
        from IPython.display import clear_output
        print('a')
        clear_output()
        print('b')
        """
    )
    kinds = [m.kind for m in cell.messages]
    cleared = kinds.index("clear_output")
    assert "display_data" == kinds[cleared + 1]
    assert "b\n" == "".join(m.content["text"] for m in cell.messages[cleared:] if m.kind == "stream")


def test_run_cell_gives_the_same_outputs(notebook: Notebook) -> None:
    code = "%%gpu H100\nprint('a')\ndisplay('b')\n'c'"
    direct = notebook.ok(code).outputs
    assert direct == notebook.ok(f"_ = get_ipython().run_cell({code!r})").outputs


def test_captured_output_is_captured(notebook: Notebook) -> None:
    cell = notebook.ok("""
        %%capture captured
        %%gpu H100
        print('inside')
        42
        """)
    assert [] == [output for output in cell.outputs if "inside" in output.get("text", "")]
    assert ["'inside\\n'"] == notebook.ok("captured.stdout").values


# --- errors --------------------------------------------------------------------------------------


def test_an_error_has_the_cells_own_lines_and_none_of_ours(notebook: Notebook) -> None:
    cell = notebook.run("""
        %%gpu H100
        def divide(a, b):
            return a / b

        divide(1, 0)
        """)
    count = cell.reply["execution_count"]
    assert "ZeroDivisionError: division by zero" == cell.error
    assert f"Cell In[{count}], line 5\n" in cell.traceback
    assert f"Cell In[{count}], line 3, in divide" in cell.traceback
    assert "----> 5 divide(1, 0)" in cell.traceback
    assert "skylift" not in cell.traceback
    assert "run_cell_magic" not in cell.traceback
    assert "failed after" in last_status(cell)


def test_what_was_assigned_before_an_error_comes_back(notebook: Notebook) -> None:
    notebook.run("""
        %%gpu H100
        so_far = 11
        raise RuntimeError('stop')
        """)
    assert ["11"] == notebook.ok("so_far").values


def test_the_error_is_the_original_one(notebook: Notebook) -> None:
    notebook.ok(
        """
        class Odd(Exception):
            def __init__(self, code):
                super().__init__(f'odd {code}')
                self.code = code
        """
    )
    cell = notebook.ok(
        """
        try:
            get_ipython().run_cell_magic('gpu', 'H100', 'raise Odd(7)\\n')
        except Odd as error:
            print(error.code)
        """
    )
    assert "7\n" == cell.text()


def test_a_syntax_error_is_found_here_with_its_line(notebook: Notebook) -> None:
    cell = notebook.run("""
        %%gpu H100
        x = 1
        y = = 2
        """)
    assert f"Cell In[{cell.reply['execution_count']}], line 3" in cell.traceback
    assert "SyntaxError" == cell.reply["ename"]
    assert [] == cell.statuses


def test_what_cannot_be_sent_is_named(notebook: Notebook) -> None:
    notebook.ok("""
        import threading
        guard = threading.Lock()
        def work():
            with guard:
                pass
        """)
    cell = notebook.run("%%gpu H100\nwork()")
    assert cell.error.startswith("SerializationError: 'guard' cannot travel to the session: a _thread.lock")
    assert f"The function work, which Cell In[{cell.reply['execution_count']}] uses, reads it" in cell.error


def test_an_unknown_gpu_is_refused_by_name(notebook: Notebook) -> None:
    assert "unknown GPU 'H10'; did you mean H100" in notebook.run("%%gpu H10\nx").error


def test_a_gpu_that_this_machine_lacks_is_refused_with_what_there_is(notebook: Notebook) -> None:
    cell = notebook.run("%%gpu B200\nx = 1")
    assert "B200" in cell.error
    assert "H100" in cell.error


def test_a_process_that_ends_itself_is_told(notebook: Notebook) -> None:
    cell = notebook.run("""
        %%gpu cpu --name doomed
        import os
        os._exit(3)
        """)
    assert "3" in cell.error
    assert ["1"] == notebook.ok("%%gpu --name doomed\n1").values
    notebook.ok("%gpu stop doomed")


def test_running_out_of_memory_names_the_limit_and_the_peak(notebook: Notebook) -> None:
    cell = notebook.run("""
        %%gpu cpu --name small --memory 256M
        hoard = [bytes(b"x" * 10_000_000) for _ in range(100)]
        """)
    assert cell.error.startswith("ResourceExhaustedError: Session small ran out of memory")
    assert "256 MiB" in cell.error
    assert "--memory 1" in cell.error
    notebook.ok("%gpu stop small")


def test_a_process_that_dies_by_a_signal_is_told(notebook: Notebook) -> None:
    cell = notebook.run("""
        %%gpu cpu --name doomed
        import os, signal
        os.kill(os.getpid(), signal.SIGSEGV)
        """)
    assert "SIGSEGV" in cell.error
    notebook.ok("%gpu stop doomed")


def test_a_session_that_was_lost_gets_its_names_again(notebook: Notebook) -> None:
    notebook.ok("given = 21")
    notebook.ok("%%gpu cpu --name lost\ngiven")
    notebook.run("""
        %%gpu --name lost
        import os
        os._exit(0)
        """)
    cell = notebook.ok("%%gpu --name lost\ngiven * 2")
    assert ["42"] == cell.values
    assert "earlier container has ended (" in last_status(cell)
    assert "what lived only there is gone" in last_status(cell)
    notebook.ok("%gpu stop lost")


def test_a_timeout_is_the_cells_own(notebook: Notebook) -> None:
    notebook.ok("%%gpu cpu --name brief\npass")
    cell = notebook.run("""
        %%gpu --name brief --timeout 1s
        import time
        time.sleep(60)
        """)
    assert cell.error.startswith("FunctionTimeoutError")
    assert "1 s" in cell.error
    assert "timed out after" in last_status(cell)
    notebook.ok("%%gpu --name brief\nimport time\ntime.sleep(1.5)")
    notebook.ok("%gpu stop brief")


# --- interrupts ----------------------------------------------------------------------------------


def test_interrupting_the_kernel_interrupts_the_cell(notebook: Notebook) -> None:
    notebook.ok("%%gpu H100\nbefore = 1")
    cell = notebook.start(
        """
        %%gpu H100
        import time
        reached = 5
        print('sleeping')
        time.sleep(600)
        reached = 6
        """
    )
    cell.wait(lambda cell: "sleeping" in cell.text())
    notebook.interrupt()
    cell.wait()
    assert "KeyboardInterrupt" == cell.reply["ename"]
    assert "line 5" in cell.traceback
    assert "interrupted after" in last_status(cell)
    assert ["(1, 5)"] == notebook.ok("%%gpu H100\nbefore, reached").values
    assert ["5"] == notebook.ok("reached").values


def test_a_cell_that_is_stopped_elsewhere_is_interrupted_too(
    notebook: Notebook, environment: dict[str, str]
) -> None:
    """As the button of JupyterLab's status line does."""
    cell = notebook.start("%%gpu H100\nimport time\nprint('sleeping')\ntime.sleep(600)")
    cell.wait(lambda cell: "sleeping" in cell.text())
    home = Path(environment["SKYLIFT_HOME"])
    url = json.loads((home / "gateway.json").read_bytes())["url"]
    headers = {"Authorization": f"Bearer {(home / 'token').read_text().strip()}"}
    (call,) = urllib3.request("GET", f"{url}/v1/calls?state=running&kind=cell", headers=headers).json()[
        "calls"
    ]
    stop = f"{url}/v1/calls/{call['call_id']}/cancel"
    assert 202 == urllib3.request("POST", stop, headers=headers, json={"mode": "interrupt"}).status
    cell.wait()
    assert "KeyboardInterrupt" == cell.reply["ename"]
    assert "interrupted after" in last_status(cell)
    assert ["1"] == notebook.ok("%%gpu H100\n1").values


def test_interrupting_a_generator_ends_it(notebook: Notebook) -> None:
    cell = notebook.start(
        """
        %%gpu H100
        import time
        def forever():
            while True:
                yield 'tick'
                time.sleep(0.05)
        forever()
        """
    )
    cell.wait(lambda cell: len(cell.values) >= 3)
    notebook.interrupt()
    cell.wait()
    assert "KeyboardInterrupt" == cell.reply["ename"]
    assert ["1"] == notebook.ok("%%gpu H100\n1").values


def test_interrupting_while_it_waits_takes_it_out_of_the_queue(notebook: Notebook) -> None:
    notebook.ok("%%gpu H100\npass")
    cell = notebook.start("%%gpu H100 --name second\nprint('never')")
    cell.wait(lambda cell: any("queued" in status for status in cell.statuses))
    notebook.interrupt()
    cell.wait()
    assert "KeyboardInterrupt" == cell.reply["ename"]
    assert "" == cell.text()
    reason = next(status for status in cell.statuses if "queued" in status)
    assert "1 of 1 in use" in reason
    assert "%gpu stop H100 frees it" in reason


# --- references ----------------------------------------------------------------------------------


def test_a_large_value_stays_and_is_shown_as_what_it_is(notebook: Notebook) -> None:
    notebook.ok("""
        %%gpu H100
        import numpy as np
        large = np.ones((2000, 1000))
        """)
    shown = notebook.ok("large").outputs[0]["data"]
    assert "RemoteRef to a numpy.ndarray (2000, 1000) float64, 16 MB, in session H100" == shown["text/plain"]
    assert "<b>numpy.ndarray</b>" in shown["text/html"]


def test_a_reference_works_in_the_next_cell_and_can_be_fetched(notebook: Notebook) -> None:
    notebook.ok("""
        %%gpu H100
        import numpy as np
        large = np.ones((2000, 1000))
        """)
    notebook.ok("renamed = large")
    assert ["2000000.0"] == notebook.ok("%%gpu H100\nfloat(renamed.sum())").values
    assert ["2000000.0"] == notebook.ok("float(renamed.get().sum())").values


def test_running_the_cell_again_gives_a_new_value(notebook: Notebook) -> None:
    notebook.ok("""
        %%gpu H100
        import numpy as np
        again = np.full(1_000_000, 1.0)
        """)
    notebook.ok("%%gpu H100\nagain = np.full(1_000_000, 2.0)")
    assert ["2.0"] == notebook.ok("float(again.get()[0])").values
    assert ["2.0"] == notebook.ok("%%gpu H100\nfloat(again[0])").values


def test_what_cannot_be_pickled_comes_as_a_reference(notebook: Notebook) -> None:
    notebook.ok("""
        %%gpu H100
        import threading
        lock = threading.Lock()
        """)
    shown = notebook.ok("lock").outputs[0]["data"]
    assert "It cannot be pickled." in shown["text/html"]
    assert ["False"] == notebook.ok("%%gpu H100\nlock.locked()").values


def test_a_reference_cannot_go_to_another_session(notebook: Notebook) -> None:
    notebook.ok("""
        %%gpu H100
        import numpy as np
        large = np.ones((2000, 1000))
        """)
    cell = notebook.run("%%gpu cpu\nlarge.sum()")
    assert "large" in cell.error
    assert ".get()" in cell.error


# --- several cells and notebooks -----------------------------------------------------------------


def test_a_changed_cell_is_run_as_it_is_now(notebook: Notebook) -> None:
    notebook.ok("""
        %%gpu H100
        def answer():
            return 1
        """)
    assert ["1"] == notebook.ok("%%gpu H100\nanswer()").values
    notebook.ok("""
        %%gpu H100
        def answer():
            return 2
        """)
    assert ["2"] == notebook.ok("%%gpu H100\nanswer()").values
    notebook.ok("def answer():\n    return 3")
    assert ["3"] == notebook.ok("%%gpu H100\nanswer()").values


def test_two_notebooks_of_one_name_have_sessions_of_their_own(
    notebook: Notebook, second_notebook: Notebook
) -> None:
    notebook.ok("%%gpu cpu\nmine = 1")
    second_notebook.ok("%%gpu cpu\nmine = 2")
    assert ["1"] == notebook.ok("%%gpu cpu\nmine").values
    assert ["2"] == second_notebook.ok("%%gpu cpu\nmine").values


def test_a_detached_cell_runs_on_and_can_be_attached(notebook: Notebook) -> None:
    cell = notebook.ok(
        """
        %%gpu cpu --detach
        import time
        for i in range(3):
            print('step', i)
            time.sleep(0.1)
        reached = 'end'
        """
    )
    assert "runs on without the notebook" in last_status(cell)
    call_id = last_status(cell).split("%gpu attach ")[1].split()[0]
    attached = notebook.ok(f"%gpu attach {call_id}")
    assert "step 0\nstep 1\nstep 2\n" == attached.text()
    assert ["'end'"] == notebook.ok("reached").values


def test_attaching_from_now_leaves_out_what_was_before(notebook: Notebook) -> None:
    cell = notebook.ok("""
        %%gpu cpu --detach
        import time
        for i in range(100):
            print('step', i)
            time.sleep(0.02)
        """)
    call_id = last_status(cell).split("%gpu attach ")[1].split()[0]
    late = notebook.ok(f"import time\ntime.sleep(0.5)\n%gpu attach {call_id} --from now").text()
    assert "step 0\n" not in late
    assert late.endswith("step 99\n")
    whole = notebook.ok(f"%gpu attach {call_id}").text()
    assert [f"step {i}" for i in range(100)] == whole.splitlines()


def test_a_restarted_kernel_finds_the_gpu_free(
    environment: dict[str, str], tmp_path: Path, notebook: Notebook
) -> None:
    notebook.run("%gpu stop H100")
    restarted = Notebook(environment, tmp_path)
    try:
        restarted.ok("%load_ext skylift")
        restarted.ok("%%gpu H100\npass")
        restarted.restart()
        restarted.ok("%load_ext skylift")
        assert ["1"] == restarted.ok("%%gpu H100\n1").values
    finally:
        restarted.run("%gpu stop")
        restarted.close()


def test_a_detached_cell_outlives_its_kernel(
    environment: dict[str, str], tmp_path: Path, notebook: Notebook
) -> None:
    restarted = Notebook(environment, tmp_path)
    try:
        restarted.ok("%load_ext skylift")
        cell = restarted.ok("""
            %%gpu cpu --detach
            import time
            print('begun')
            time.sleep(5)
            large = bytes(3_000_000)
            small = 5
            """)
        call_id = last_status(cell).split("%gpu attach ")[1].split()[0]
        restarted.restart()
        restarted.ok("%load_ext skylift")
        assert "begun\n" == restarted.ok(f"%gpu attach {call_id}").text()
        assert ["(5, 3000000)"] == restarted.ok("small, len(large.get())").values
        assert ["3000005"] == restarted.ok("%%gpu\nlen(large) + small").values
    finally:
        restarted.run("%gpu stop")
        restarted.close()


# --- the line magics -----------------------------------------------------------------------------


def test_the_table_of_sessions(notebook: Notebook) -> None:
    notebook.ok("%%gpu H100\npass")
    table = notebook.ok("%gpu").outputs[0]["data"]
    assert "H100 (simulated)" in table["text/plain"]
    assert "<table" in table["text/html"]


def test_put_and_get(notebook: Notebook) -> None:
    notebook.ok("%%gpu cpu\nthere = list(range(5))")
    notebook.ok("""
        import math
        number = 4.5
        %gpu put number
        """)
    assert ["4.5"] == notebook.ok("%%gpu cpu\nnumber").values
    notebook.ok("del there\n%gpu get there")
    assert ["[0, 1, 2, 3, 4]"] == notebook.ok("there").values
    assert "has no variable 'ther'; did you mean there" in notebook.run("%gpu get ther").error


def test_logs(notebook: Notebook) -> None:
    notebook.ok("%%gpu cpu\nprint('remember me')")
    assert "remember me" in notebook.ok("%gpu logs cpu").text()


def test_runs_machines_spend_doctor(notebook: Notebook) -> None:
    notebook.ok("%%gpu H100\n'a run to be listed'")
    assert "a run to be listed" in notebook.ok("%skylift runs").outputs[0]["data"]["text/plain"]
    assert "of 1 H100 (simulated)" in notebook.ok("%skylift machines").outputs[0]["data"]["text/plain"]
    assert "Total" in notebook.ok("%skylift spend").outputs[0]["data"]["text/plain"]
    assert "1 × H100 (simulated" in notebook.ok("%skylift doctor").outputs[0]["data"]["text/plain"]


def test_a_dry_run_runs_nothing(notebook: Notebook) -> None:
    cell = notebook.ok("%%gpu B200,H100 --dry-run\nprint('never')")
    text = cell.outputs[0]["data"]["text/plain"]
    assert "never" not in cell.text()
    assert "B200" in text
    assert "H100 (simulated)" in text
    assert "Nothing was run." in text


def test_stopping_frees_the_gpu(notebook: Notebook) -> None:
    notebook.ok("%%gpu H100\nlost = 1")
    assert "Session H100 has ended." in notebook.ok("%gpu stop H100").text()
    assert ["'H100'"] == notebook.ok(
        """
        %%gpu H100 --name other
        import os
        os.environ['SKYLIFT_SIMULATED_GPU']
        """
    ).values
    notebook.ok("%gpu stop other")


def test_the_kernel_completes_gpus_and_options(notebook: Notebook) -> None:
    def completions(code: str) -> list[str]:
        reply = notebook.client.complete(code, len(code), reply=True, timeout=60)
        matches: list[str] = reply["content"]["matches"]
        return matches

    assert "H100" == completions("%%gpu h1")[0]
    assert "--timeout" == completions("%%gpu H100 --ti")[0]


def test_the_kernel_shows_the_reference(notebook: Notebook) -> None:
    reply = notebook.ok("%%gpu?").reply
    assert "Run the cell in a container with a GPU." in reply["payload"][0]["data"]["text/plain"]
