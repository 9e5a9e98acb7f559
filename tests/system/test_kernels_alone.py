"""No process of a student's accepts anybody else: a server, its kernels, their debugger, whatever they are doing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psutil
import pytest

from nblauncher.model import Account
from nblauncher.server import class_files
from nblauncher.supervisor.spawners import Preload
from nblauncher.system import workers
from tests.jupyter_client import JupyterClient, Notebook
from tests.neighbours import attack, tcp_listeners
from tests.running import RunningClass, eventually, made_account, running_class

pytestmark = pytest.mark.system

FRONT, ADA = 18570, 18571
CODE = "def f(x):\n    y = x + 1\n    return y\nprint(f(1))"

STATES = ("a server", "a kernel", "a forked child", "a debugger", "a breakpoint", "a debugger that was switched off")


@pytest.fixture(scope="module")
def ada() -> Iterator[Account]:
    with made_account("nbtvpada", 25070) as account:
        yield account


@pytest.fixture(scope="module")
def bob() -> Iterator[Account]:
    with made_account("nbtvpbob", 25071) as account:
        yield account


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory, ada: Account) -> Iterator[RunningClass]:
    with running_class(tmp_path_factory.mktemp("alone"), "nbtv-alone", FRONT, spawner="forkserver") as running:
        running.kernels = class_files.Kernels(socket=running.paths.kernels_socket)
        running.supervisor.prepare("forkserver", kernels=Preload(sys.executable, ()))
        eventually(lambda: "the kernels' fork server is ready" in running.logs())
        running.ready((ada, ADA))
        yield running


@pytest.fixture(params=["forked", "a program of its own"])
def client(request: pytest.FixtureRequest, course: RunningClass, ada: Account) -> Iterator[JupyterClient]:
    """A student whose kernels are started in this way."""
    is_forked = request.param == "forked"
    socket = course.paths.kernels_socket if is_forked else None
    class_files.write(course.paths.run, replace(course.kernels, socket=socket))
    with course.visitor(ada, ADA) as one:
        pid = int(one.run("import os; print(os.getpid())"))
        was_forked = psutil.Process(pid).environ()["HOME"].startswith("/run/nblauncher/")  # as the fork server was
        assert was_forked == is_forked
        end_kernels(one)
        yield one
        end_kernels(one)


def end_kernels(client: JupyterClient) -> None:
    for kernel in client.api("GET", "kernels").json():
        client.api("DELETE", f"kernels/{kernel['id']}")


def switched_on(notebook: Notebook) -> None:
    options = {"clientID": "test", "adapterID": "", "pathFormat": "path", "linesStartAt1": True}
    assert notebook.debug("initialize", **options)["success"]
    assert notebook.debug("attach")["success"]


def at_a_breakpoint(notebook: Notebook) -> tuple[str, int]:
    """The message of a cell that stands in line 3 of `f`, and its thread."""
    cell = notebook.debug("dumpCell", code=CODE)["body"]["sourcePath"]
    lines = [{"line": 3}]
    assert notebook.debug("setBreakpoints", source={"path": cell}, breakpoints=lines, sourceModified=False)["success"]
    assert notebook.debug("configurationDone")["success"]
    message = notebook.begin(CODE)
    stopped = notebook.receive(lambda one: one["content"].get("event") == "stopped")
    return message, stopped["content"]["body"]["threadId"]


def go_on(notebook: Notebook, message: str, thread: int) -> None:
    notebook.ask_debugger("continue", threadId=thread)
    assert "2\n" in notebook.finish(message)


def switched_off(notebook: Notebook) -> None:
    assert notebook.debug("disconnect", restart=False, terminateDebuggee=False)["success"]
    assert not notebook.debug("debugInfo")["body"]["isStarted"]


FORK = """
import os
waits, go = os.pipe()
pid = os.fork()
if pid == 0:
    print("of a child", flush=True)
    os.read(waits, 1)
    os._exit(0)
"""


def states(client: JupyterClient) -> Iterator[str]:
    """One after the other, each of STATES; every one lasts until the next is asked for."""
    yield STATES[0]
    with client.notebook(client.start_kernel()) as notebook:
        assert notebook.run("1 + 1") == "2"
        yield STATES[1]
        notebook.begin(FORK)
        notebook.receive(lambda one: "of a child" in one["content"].get("text", ""))  # before or after the cell is done
        yield STATES[2]
        notebook.run("os.write(go, b'x'); os.waitpid(pid, 0)")
        switched_on(notebook)
        yield STATES[3]
        message, thread = at_a_breakpoint(notebook)
        yield STATES[4]
        go_on(notebook, message, thread)
        switched_off(notebook)
        yield STATES[5]


def test_no_process_of_a_student_listens_on_tcp_whatever_it_does(client, ada):
    found = {state: tcp_listeners(ada.uid) for state in states(client)}
    assert found == {state: [] for state in STATES}


def test_a_neighbour_gets_nowhere_whatever_the_kernel_does(client, course, ada, bob):
    log = course.paths.logs / f"{ada.username}.log"
    planted, said = ada.home / "from-bob", log.stat().st_size
    expression = f"open({str(planted)!r}, 'w').close()"
    reached: dict[str, Any] = {}
    for state in states(client):
        runtime = course.paths.students_run / str(ada.uid)
        sockets = [str(path) for path in runtime.iterdir() if path.is_socket()]
        assert (state == STATES[0]) or sockets
        reached[state] = workers.run_as(bob, attack, ada.uid, sockets, expression, timeout=60)
        assert not planted.exists(), state
    assert reached == {state: [] for state in STATES}
    assert log.stat().st_size - said < 10_000


def test_a_student_debugs_a_notebook(client):
    with client.notebook(client.start_kernel()) as notebook:
        for _ in range(2):  # and again, after it was switched off
            assert not notebook.debug("debugInfo")["body"]["isStarted"]
            switched_on(notebook)
            message, thread = at_a_breakpoint(notebook)
            frame = notebook.debug("stackTrace", threadId=thread)["body"]["stackFrames"][0]
            assert (frame["name"], frame["line"]) == ("f", 3)
            scope = notebook.debug("scopes", frameId=frame["id"])["body"]["scopes"][0]["variablesReference"]
            variables = notebook.debug("variables", variablesReference=scope)["body"]["variables"]
            assert {one["name"]: one["value"] for one in variables} == {"x": "1", "y": "2"}
            said = notebook.debug("evaluate", expression="'ä' * x", frameId=frame["id"], context="repl")["body"]
            assert said["result"] == "'ä'"
            go_on(notebook, message, thread)
            switched_off(notebook)
        assert notebook.run("1 + 1") == "2"


def test_a_debugged_cell_starts_programs_and_pools(client):
    code = (
        "import multiprocessing, subprocess, sys, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "print(subprocess.run([sys.executable, '-c', 'print(3)'], capture_output=True, text=True).stdout)\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    print(pool.map(abs, [-1, -2]))"
    )
    with client.notebook(client.start_kernel()) as notebook:
        switched_on(notebook)
        assert notebook.run(code).split("\n")[:3] == ["3", "", "[1, 2]"]


def test_what_a_kernel_had_in_the_runtime_folder_goes_with_it(client, course, ada):
    runtime = course.paths.students_run / str(ada.uid)
    with client.notebook(client.start_kernel()) as notebook:
        switched_on(notebook)
        assert [one for one in os.listdir(runtime) if one.startswith("kernel-debug-")]
    end_kernels(client)
    eventually(lambda: not [one for one in os.listdir(runtime) if one.startswith("kernel-")])
