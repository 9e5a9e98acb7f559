"""A running class from the command line: sign-in, Ctrl-C, kill -9, shutdown. One class of two for all tests."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import re
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pexpect
import psutil
import pytest

from nblauncher.isolation import cgroups
from nblauncher.isolation.cgroups import Kind
from nblauncher.model import Account
from nblauncher.supervisor import client
from nblauncher.system import workers
from tests import launched
from tests.classroom import COMMAND, Classroom, set_up_class
from tests.running import eventually

pytestmark = pytest.mark.system

ADA, BOB = NAMES = ["nbtlada", "nbtlbob"]
PORT = 18200
READY = {"": "ready", ADA: "ready", BOB: "ready"}


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    with set_up_class("nbtl1", NAMES, port=PORT, first_uid=30000) as made:
        yield made


@pytest.fixture
def up(room: Classroom) -> Classroom:
    """The class, running: what a test before stopped is started again."""
    if not launched.is_ready(room):
        room.run("launch", "--background")
    return room


def uid(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


# Before it runs


def test_without_a_class_status_and_shutdown_have_nothing_to_say(room):
    assert launched.said_states(room) == {"": "stopped", ADA: "stopped", BOB: "stopped"}
    assert "nothing to do" in room.run("shutdown").stdout


def test_a_dry_run_changes_nothing(room):
    before = {path: path.stat().st_mtime_ns for path in room.paths.state.rglob("*")}
    said = room.json("launch", "--dry-run")
    assert said["plan"] == ["hold the class's ports", "start 2 servers", "start the front page"]
    assert {path: path.stat().st_mtime_ns for path in room.paths.state.rglob("*")} == before
    assert not room.paths.tls.exists() and not room.paths.supervisor_socket.exists()


def test_an_interruption_before_the_class_is_ready_is_130_and_the_next_launch_goes_on(room):
    process = room.start("launch")
    assert process.stderr is not None
    while "hold the class's ports" not in process.stderr.readline():
        pass
    eventually(lambda: len(launched.handles(room)) == 2 and all(launched.handles(room).values()))
    process.send_signal(signal.SIGINT)
    out, _err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.startswith("Interrupted.") and "launch` again" in out
    said = launched.said_states(room)
    assert said.pop("") == "stopped" and set(said.values()) <= {"starting", "ready"}
    started = launched.handles(room)
    room.run("launch", "--background")
    assert launched.states(room) == READY
    assert launched.handles(room) == started


# Arriving


def test_the_envelope_says_where_everybody_is_and_the_second_launch_does_nothing(up):
    said = up.json("launch", "--background")
    assert (said["nblauncher"], said["command"], said["status"], said["exit_code"]) == (1, "launch", "ok", 0)
    assert said["errors"] == []
    assert re.fullmatch(rf"https://[^/]+:{PORT}/", said["front_page"])
    host = said["front_page"].removesuffix(f":{PORT}/")
    assert said["students"] == [
        {
            "username": name,
            "status": "unchanged",
            "error": None,
            "server": "ready",
            "port": PORT + 1 + number,
            "url": f"{host}:{PORT + 1 + number}/user/{name}/",
        }
        for number, name in enumerate(NAMES)
    ]
    assert "Nothing to do" in up.run("launch", "--background").stdout


def test_every_address_is_verified_by_the_ca_that_the_front_page_offers(up):
    said = up.json("launch", "--background")
    offered = httpx.get(f"{said['front_page']}ca.pem", verify=False)
    trust = ssl.create_default_context(cadata=offered.text)
    assert httpx.get(said["front_page"], verify=trust).status_code == 200
    for student in said["students"]:
        assert httpx.get(f"{student['url']}api", verify=trust).json()["version"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_a_student_signs_in_at_the_front_page_and_runs_a_cell_as_themselves(up, host):
    with launched.visitor(up, ADA, host=host) as ada:
        assert ada.api("GET", "me").json()["identity"]["username"] == ADA
        listing = ada.api("GET", "contents/tutorial").json()["content"]
        assert [one["name"] for one in listing] == ["lab1.txt"]
        assert ada.run("import os; print(os.getuid(), os.getcwd())") == f"{uid(ADA)} {up.home(ADA)}\n"


def test_a_password_is_taken_in_capitals_with_spaces_at_both_forms(up):
    typed = " " + up.credentials[ADA]["notebook_password"].upper().replace("-", " ")
    with launched.visitor(up, ADA, password=typed) as ada:
        assert ada.api("GET", "me")
    with launched.own_server(up, ADA) as ada:
        assert ada.sign_in(typed).status_code == 302


def test_a_neighbours_server_takes_neither_cookie_nor_password_nor_ticket(up):
    with launched.visitor(up, ADA) as ada, launched.own_server(up, BOB) as bob:
        (session,) = [one for one in ada.http.cookies.jar if one.name == f"nblauncher-{ADA}-{PORT + 1}"]
        assert session.path == f"/user/{ADA}/"
        for name in (session.name, f"nblauncher-{BOB}-{PORT + 2}"):
            bob.http.cookies.set(name, session.value or "", path=f"/user/{BOB}/")
        assert bob.http.get("api/contents").status_code == 403
        assert bob.sign_in(up.credentials[ADA]["notebook_password"]).status_code == 401
        ticket = launched.open_front_page(up, ada, ADA)["ticket"]
        assert bob.http.post("nblauncher/ticket", data={"ticket": ticket}).status_code == 403
        assert bob.http.get("api/contents").status_code == 403


def test_the_system_password_opens_no_notebook(up):
    with launched.own_server(up, ADA) as ada:
        assert ada.sign_in(up.credentials[ADA]["system_password"]).status_code == 401


def test_no_secret_is_in_an_argument_an_environment_or_a_log(up):
    with launched.visitor(up, ADA) as ada:
        used = launched.open_front_page(up, ada, ADA)["ticket"]
    with launched.own_server(up, ADA) as ada:
        assert ada.sign_in("a-wrong-guess-of-adas").status_code == 401
        assert ada.sign_in(up.credentials[ADA]["notebook_password"]).status_code == 302
    secrets = {used, "a-wrong-guess-of-adas", *json.loads(up.paths.hashes.read_text()).values()}
    for row in up.credentials.values():
        secrets |= {row["notebook_password"], row["system_password"]}
    keys = [*up.paths.tls.rglob("*.key")]
    assert len(keys) == 4, "the CA's, the front page's and two servers'"
    secrets |= {key.read_text().splitlines()[1] for key in keys}
    front = launched.front_page(up).handle
    assert front is not None
    pids = [launched.supervisor_pid(up), front.pid]
    pids += [one.pid for name in NAMES for one in launched.processes_of(uid(name))]
    assert len(pids) >= 4
    places = {f"/proc/{pid}/{what}" for pid in pids for what in ("cmdline", "environ")}
    places |= {str(file) for file in up.paths.logs.iterdir()}
    for place in places:
        content = Path(place).read_text(errors="replace")
        assert not [secret[:6] + "…" for secret in secrets if secret in content], place


# The terminal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_the_front_page_and_nothing_else(up, number):
    before = launched.handles(up)
    process = launched.foreground(up)
    # A visitor who says nothing does not hold it up.
    with socket.create_connection(("127.0.0.1", PORT)):
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 0, (out, err)
    assert "front page is stopped" in err
    assert launched.said_states(up) == {**READY, "": "stopped"}
    assert launched.handles(up) == before
    with launched.own_server(up, ADA) as ada:
        closed = ada.http.get(f"https://localhost:{PORT}/")
        assert closed.status_code == 503 and "front page is closed" in closed.text
        assert ada.sign_in(up.credentials[ADA]["notebook_password"]).status_code == 302
    assert up.json("launch", "--dry-run")["plan"] == ["hold the class's ports", "start the front page"]


def on_a_terminal(room: Classroom, *arguments: str) -> pexpect.spawn:
    command, *rest = [*COMMAND, *arguments]
    return pexpect.spawn(command, rest, cwd=str(room.folder), encoding="utf-8", timeout=60, dimensions=(24, 60))


def test_on_a_terminal_it_shows_the_state_in_one_line_until_ctrl_c(up):
    terminal = on_a_terminal(up, "launch")
    terminal.expect("2 of 2 servers are ready")
    terminal.expect("\r\x1b\\[K2 ready; the front page is ready")
    terminal.sendintr()
    terminal.expect("front page is stopped")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    assert "Traceback" not in terminal.before


def test_a_closed_terminal_leaves_everything_running(up):
    before = (launched.handles(up), launched.front_page(up).handle)
    terminal = on_a_terminal(up, "launch")
    terminal.expect("the front page is ready")
    os.close(terminal.child_fd)
    _pid, status = os.waitpid(terminal.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    terminal.closed, terminal.child_fd = True, -1
    assert (launched.handles(up), launched.front_page(up).handle) == before


def test_a_terminal_that_closes_before_the_class_is_ready_does_not_stop_the_start(room):
    room.run("shutdown")
    terminal = on_a_terminal(room, "launch")
    eventually(lambda: room.paths.supervisor_socket.exists() and any(launched.handles(room).values()))
    os.close(terminal.child_fd)
    _pid, status = os.waitpid(terminal.pid, 0)
    terminal.closed, terminal.child_fd = True, -1
    assert os.waitstatus_to_exitcode(status) == 0
    assert launched.states(room) == READY


def test_nobody_waits_for_a_launch_in_the_foreground(up):
    """Nor for anything else that holds the course's lock, when they only look."""
    before = launched.handles(up)
    process = launched.foreground(up)
    with launched.visitor(up, ADA) as ada:
        ada.run("open('tutorial/answer.txt', 'w').write('9.81')")
    (up.folder / "material" / "lab2.txt").write_text("measure it again\n")
    assert launched.students(up.json("send"))[ADA]["status"] == "done"
    assert (up.home(BOB) / "tutorial" / "lab2.txt").exists()
    up.run("retrieve")
    assert (up.folder / "retrieved" / "latest" / ADA / "work" / "answer.txt").read_text() == "9.81"
    assert launched.students(up.json("launch", "--background"))[BOB]["status"] == "unchanged"
    with (up.paths.state / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert launched.said_states(up) == READY
        up.json("launch", "--dry-run")
    assert launched.handles(up) == before
    up.run("shutdown")
    _out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "The class was shut down." in err


def test_a_reader_that_goes_away_is_no_bug(up):
    """`nblauncher status | head -1`"""
    for arguments in (["status"], ["status", "--json"], ["-vv", "launch", "--background"], ["--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        done = up.run(*arguments, stdout=writing)
        assert done.stderr == "" or "-vv" in arguments
        gone = up.run(*arguments, stdout=writing, stderr=writing)
        os.close(writing)
        assert gone.returncode == 0
    assert "Traceback" not in (up.paths.logs / "nblauncher.log").read_text()


def test_a_changed_config_reaches_running_servers_only_by_a_restart_which_launch_says(up):
    before = launched.handles(up)
    up.write(notebook={"environment": {"OMP_NUM_THREADS": "1"}})
    said = up.run("launch", "--background")
    assert f"Note: {ADA}, {BOB}: running with an older config" in said.stderr
    assert launched.handles(up) == before
    up.run("shutdown", "--only", ADA)
    assert f"Note: {BOB}: running" in up.run("launch", "--background").stderr
    with launched.visitor(up, ADA) as ada:
        assert ada.run("import os; print(os.environ['OMP_NUM_THREADS'])") == "1\n"
    up.write(notebook={})
    assert f"Note: {ADA}: running" in up.run("launch", "--background").stderr


# kill -9


def test_a_killed_client_changes_nothing(up):
    before = (launched.handles(up), launched.front_page(up).handle)
    process = launched.foreground(up)
    process.kill()
    process.communicate()
    assert up.json("launch", "--background")["status"] == "ok"
    assert (launched.handles(up), launched.front_page(up).handle) == before


def test_a_killed_server_is_started_again_by_itself_and_status_says_why(up):
    before = launched.handles(up)
    psutil.Process(before[ADA].pid).kill()
    eventually(lambda: launched.handles(up)[ADA] not in (None, before[ADA]) and launched.is_ready(up))
    said = launched.students(up.json("status"))[ADA]
    assert said["reason"] == "killed by SIGKILL; it was started again"
    with launched.visitor(up, ADA) as browser:
        assert browser.http.get("api/status").status_code == 200
    after = launched.handles(up)
    assert after[ADA] != before[ADA]
    assert after[BOB] == before[BOB]


@pytest.mark.adoption
def test_after_a_killed_supervisor_the_servers_are_adopted(up):
    before = launched.handles(up)
    foreground = launched.foreground(up)
    psutil.Process(launched.supervisor_pid(up)).kill()
    _out, err = foreground.communicate(timeout=60)
    assert foreground.returncode == 1
    assert "launch` again" in err
    said = launched.students(up.json("status"))
    assert said[ADA]["server"] == "unknown" and "launch" in said[ADA]["reason"]
    with launched.own_server(up, ADA) as ada:
        assert launched.answers(ada), "the students notice nothing"
    said = up.json("launch", "--background")
    assert launched.handles(up) == before
    assert launched.states(up) == READY
    with launched.visitor(up, ADA) as ada:
        assert ada.run("print(6 * 7)") == "42\n"


def test_a_killed_front_page_starts_again_by_itself_also_when_the_config_was_spoilt(up):
    config = (up.folder / "notebooks.cfg").read_text()
    before = launched.front_page(up).handle
    assert before is not None
    (up.folder / "notebooks.cfg").write_text("course: [\n")
    try:
        psutil.Process(before.pid).kill()
        eventually(lambda: launched.front_page(up).state.value == "ready" and launched.front_page(up).handle != before)
    finally:
        (up.folder / "notebooks.cfg").write_text(config)
    with launched.visitor(up, ADA):
        pass
    assert up.json("launch", "--dry-run")["plan"] == []


def test_a_front_page_that_was_stopped_on_purpose_is_not_started_by_itself(up):
    process = launched.foreground(up)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    up.run("launch", "--front-page-only", up.course)
    assert launched.front_page(up).state.value == "stopped"


# shutdown

ESCAPE = """
import os, subprocess, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # a kernel has threads; what is forked here only execs
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv("/bin/sleep", ["sleep", "987654"])
    os._exit(0)
os.wait()
"""


def test_shutdown_ends_what_came_from_the_servers_and_nothing_else(up):
    outside = subprocess.Popen(
        ["setpriv", f"--reuid={uid(ADA)}", f"--regid={uid(ADA)}", "--clear-groups", "sleep", "900"]
    )
    try:
        with launched.visitor(up, ADA) as ada:
            kernel = int(ada.run(f"{ESCAPE}\nprint(os.getpid())"))
            ada.terminal("sleep 876543 & echo started-$((40+2))", until="started-42")
        mine = {one.pid: one.cmdline() for one in launched.processes_of(uid(ADA))}
        assert kernel in mine
        assert {"987654", "876543"} <= {word for words in mine.values() for word in words}
        groups = cgroups.choose(up.course)
        assert groups.names()
        up.run("shutdown")
        assert groups.names() == () and (groups.kind is Kind.NONE or not groups.root.exists())
        assert [one.pid for one in launched.processes_of(uid(ADA))] == [outside.pid]
        assert "nothing to do" in up.run("shutdown").stdout
    finally:
        outside.kill()
        outside.wait()
    for port in range(PORT, PORT + 4):
        for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            with socket.socket(family) as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind((address, port))
    assert client.connect(up.paths) is None


def squat(port: int) -> list[str]:
    """Where a process could listen on this port, by every trick that sockets know."""
    places = []
    for address in ("0.0.0.0", "127.0.0.1", "::", "::1"):
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as one:
                one.setsockopt(socket.SOL_SOCKET, option, 1)
                try:
                    one.bind((address, port))
                    one.listen()
                    places.append(address)
                except OSError:
                    continue
    return places


def test_one_students_server_is_stopped_and_nobody_takes_the_port_meanwhile(up):
    before = launched.handles(up)
    said = up.json("shutdown", "--only", ADA)
    assert [student["username"] for student in said["students"]] == [ADA]
    assert launched.states(up) == {**READY, ADA: "stopped"}
    supervisor = client.connect(up.paths)
    assert supervisor is not None
    with supervisor:
        seat = {one.username: one for one in supervisor.servers()}[ADA]
    assert seat.handle is None
    bob = Account(BOB, uid(BOB), pwd.getpwnam(BOB).pw_gid, up.home(BOB))
    assert workers.run_as(bob, squat, PORT + 1) == []
    assert "nothing to do" in up.run("shutdown", "--only", ADA).stdout
    typed = {"username": ADA, "password": up.credentials[ADA]["notebook_password"]}
    with launched.own_server(up, ADA) as browser:
        page = browser.http.post(f"https://localhost:{PORT}/", data=typed).text
    assert "Your teacher stopped it." in page
    assert next(one for one in up.json("status")["students"] if one["username"] == ADA)["reason"] == "it was shut down"
    up.run("launch", "--background")
    after = launched.handles(up)
    assert after[BOB] == before[BOB]


def test_shutdown_after_a_killed_supervisor_ends_the_servers_it_left(up):
    psutil.Process(launched.supervisor_pid(up)).kill()
    assert launched.processes_of(uid(ADA))
    up.run("shutdown")
    assert [one for name in NAMES for one in launched.processes_of(uid(name))] == []
    assert "nothing to do" in up.run("shutdown").stdout
    assert launched.said_states(up) == {"": "stopped", ADA: "stopped", BOB: "stopped"}
