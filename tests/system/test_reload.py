"""reload: new students in a class that runs, and nobody who works notices."""

from __future__ import annotations

import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nblauncher.ledger import CourseLedger
from nblauncher.supervisor import client
from nblauncher.supervisor.requests import PortWanted
from tests import launched
from tests.classroom import QUICK, Classroom, set_up_class

pytestmark = pytest.mark.system

ADA, BOB, EVE = "nbtnada", "nbtnbob", "nbtneve"
PORT = 18260


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    with set_up_class("nbtn1", [ADA, BOB], port=PORT, first_uid=30100) as made:
        yield made


@pytest.fixture
def up(room: Classroom) -> Classroom:
    if not launched.is_ready(room):
        room.write([ADA, BOB])
        room.run("launch", "--background")
    return room


def test_without_a_class_there_is_nothing_to_bring_it_into(room):
    room.write([ADA, BOB, EVE])
    answer = room.run("reload", expect=4)
    assert "the class does not run" in answer.stderr and "launch" in answer.stderr
    assert EVE not in room.credentials


def test_a_new_student_gets_account_and_server_and_nobody_else_notices(up):
    before, front = launched.handles(up), launched.front_page(up)
    up.write([ADA, BOB, EVE])
    said = up.json("reload")
    assert [(one["username"], one["status"], one["server"]) for one in said["students"]] == [
        (ADA, "unchanged", "ready"),
        (BOB, "unchanged", "ready"),
        (EVE, "done", "ready"),
    ]
    assert {name: handle for name, handle in launched.handles(up).items() if name != EVE} == before
    assert launched.front_page(up).handle == front.handle
    with launched.visitor(up, EVE) as eve:
        assert eve.api("GET", "me").json()["identity"]["username"] == EVE
        assert eve.api("GET", "contents/tutorial/lab1.txt").json()["content"] == "measure the pendulum\n"
    front = launched.front_page(up)
    answer = up.run("reload")
    assert answer.stdout.startswith("Nothing to do: 3 of 3 servers are ready.")
    assert launched.front_page(up) == front


def test_a_student_who_was_shut_down_stays_so(up):
    up.run("shutdown", "--only", BOB)
    front = launched.front_page(up)
    up.run("reload")
    assert launched.states(up) == {"": "ready", ADA: "ready", BOB: "stopped", EVE: "ready"}
    assert launched.front_page(up) == front  # knows nothing new
    up.run("launch", "--background")


def test_a_row_that_is_refused_changes_nothing(up):
    before = launched.handles(up)
    up.write([ADA, BOB, EVE, "root"])
    assert "root" in up.run("reload", expect=3).stderr
    assert launched.handles(up) == before
    up.write([ADA, BOB, EVE])


@pytest.fixture
def physics() -> Iterator[Path]:
    """A Python environment of the course's own, with a package that nblauncher's does not have."""
    folder = Path(tempfile.mkdtemp(prefix="nbtn-", dir="/opt"))
    try:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        packages = next((folder / "lib").iterdir()) / "site-packages"
        (packages / "pendulum_lab.py").write_text("LENGTH = 0.994\n")
        (packages / "ipykernel.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        yield folder / "bin" / "python"
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow  # makes an environment
def test_kernels_run_with_a_python_of_the_courses_own(up, physics):
    before = launched.handles(up)
    up.write(notebook={"kernel_python": str(physics)})
    assert f"{physics}: Python" in up.run("check", expect=None).stdout
    assert up.run("reload").stdout.startswith(f"{len(up.names)} of {len(up.names)} servers are ready.")
    assert launched.handles(up) == before
    with launched.visitor(up, ADA) as ada:
        assert ada.run("import pendulum_lab; print(pendulum_lab.LENGTH)") == "0.994\n"
        assert ada.run("import sys; print(sys.prefix)").startswith(str(up.home(ADA)))  # where %pip installs to
    assert up.run("reload").stdout.startswith("Nothing to do")
    up.write(notebook=QUICK)
    up.run("reload")
    with launched.visitor(up, BOB) as bob:
        assert bob.run("import importlib.util; print(importlib.util.find_spec('pendulum_lab'))") == "None\n"


@pytest.mark.parametrize(
    ("python", "words"),
    [("/nonexistent/python", "No such file"), ("/bin/false", "exit status 1"), ("/root/python", "ermission denied")],
)
def test_a_python_that_runs_no_kernels_is_refused_and_the_class_goes_on(up, python, words):
    before = launched.handles(up)
    up.write(notebook={"kernel_python": python})
    try:
        answer = up.run("reload", expect=4)
        assert f"kernels cannot run with {python}" in answer.stderr and words in answer.stderr
        assert "problem" in up.run("check", expect=1).stdout
        assert launched.handles(up) == before
    finally:
        up.write(notebook=QUICK)
    up.run("reload")


def test_where_servers_start_on_demand_a_new_one_does_too(room):
    room.run("shutdown", "--yes")
    room.write([ADA, BOB, EVE])
    room.run("launch", "--on-demand", "--background")
    room.write([ADA, BOB, EVE, "nbtnkim"])
    room.run("reload")
    assert launched.states(room) == {"": "ready", **dict.fromkeys(room.names, "asleep")}


# A reload that was killed


@pytest.fixture
def all_up(room: Classroom) -> Classroom:
    """Everybody who is in the course has a server that runs."""
    room.run("shutdown", "--yes")
    room.run("launch", "--background")
    return room


@pytest.mark.parametrize(("line", "newcomer"), [("should run", "nbtnkoe"), ("hold the class's ports", "nbtnzoe")])
def test_a_killed_reload_is_finished_by_the_next_one(all_up, line, newcomer):
    all_up.write([*all_up.names, newcomer])
    process = all_up.start("reload")
    assert process.stderr is not None
    while line not in process.stderr.readline():
        assert process.poll() is None
    process.kill()
    process.communicate()
    all_up.run("reload")
    assert launched.states(all_up)[newcomer] == "ready"


def test_a_port_that_was_held_for_a_wanted_server_is_served_by_the_next_reload(all_up):
    newcomer = "nbtnpia"
    all_up.write([*all_up.names, newcomer])
    all_up.run("setup")
    CourseLedger(all_up.paths.ledger).set_desired([newcomer], "up")
    supervisor = client.connect(all_up.paths)
    assert supervisor is not None
    with supervisor:
        wanted = PortWanted(launched.port_of(all_up, newcomer), newcomer, pwd.getpwnam(newcomer).pw_uid)
        assert supervisor.bind([wanted]) == ({}, ())
    assert launched.states(all_up)[newcomer] == "stopped"
    all_up.run("reload")
    assert launched.states(all_up)[newcomer] == "ready"
