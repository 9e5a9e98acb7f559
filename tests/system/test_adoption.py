"""A supervisor that is killed loses nobody's server; what cannot be verified is not adopted."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nblauncher.model import Account, ServerState
from nblauncher.supervisor import client, registry
from nblauncher.system import workers
from tests.jupyter_client import JupyterClient
from tests.running import PASSWORD, RunningClass, eventually, made_account, running_class
from tests.system.test_supervisor import processes_of, squat

pytestmark = pytest.mark.system

FRONT = 18545
ADA, BOB = 18546, 18547


@pytest.fixture(scope="module")
def ada() -> Iterator[Account]:
    with made_account("nbtvoada", 25025) as account:
        yield account


@pytest.fixture(scope="module")
def bob() -> Iterator[Account]:
    with made_account("nbtvobob", 25026) as account:
        yield account


@pytest.fixture
def course(tmp_path: Path) -> Iterator[RunningClass]:
    with running_class(tmp_path, "nbtv-adopt", FRONT) as running:
        yield running


def rewrite(course: RunningClass, username: str, **changed: object) -> None:
    """Damage what the killed supervisor remembered."""
    file = course.paths.run / registry.FILE
    content = json.loads(file.read_text())
    for one in content["students"]:
        if one["username"] == username:
            one.update(changed)
    file.write_text(json.dumps(content))


@pytest.mark.adoption
def test_a_killed_supervisor_loses_no_server_no_kernel_and_no_port(course, ada, bob, tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_bytes(course.ca.certificate)
    course.bind((bob, BOB))
    course.ready((ada, ADA))
    before = course.handle(ada)
    with JupyterClient(ada.username, ADA, ca) as browser:
        browser.sign_in(PASSWORD)
        kernel = browser.start_kernel()
        browser.run("x = 6", kernel)
        course.kill_supervisor()
        assert browser.run("x * 7", kernel) == "42", "the server runs on without a supervisor"
        course.reconnect()
        assert course.report(ada).state is ServerState.READY and course.handle(ada) == before
        assert browser.run("x * 7", kernel) == "42"
        outcomes = course.up((ada, ADA), (bob, BOB))
        assert [(one.username, one.was_running) for one in outcomes if one.was_running] == [("nbtvoada", True)]
        # Its output arrives again, and its end is seen, although the new supervisor is not its parent.
        log = client.log_file(course.paths, ada.username)
        size = log.stat().st_size
        browser.api("POST", "contents", json={"type": "notebook"})
        eventually(lambda: log.stat().st_size > size)
        assert workers.run_as(bob, squat, ADA) == []
    os.kill(before.pid, signal.SIGKILL)
    eventually(lambda: course.is_up_again(ada, before))
    assert "adopted; it was started again" in course.report(ada).reason
    assert workers.run_as(bob, squat, ADA) == [], "the port outlives an adopted server as well"


def test_an_adopted_server_is_stopped_with_all_that_it_started(course, ada, tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_bytes(course.ca.certificate)
    course.ready((ada, ADA))
    course.kill_supervisor()
    with JupyterClient(ada.username, ADA, ca) as browser:
        browser.sign_in(PASSWORD)
        browser.run("import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)")
    course.reconnect().stop_servers([ada.username])
    assert not processes_of(ada)
    assert course.report(ada).state is ServerState.STOPPED


@pytest.mark.adoption
def test_two_killed_supervisors_in_a_row_lose_nobody(course, ada):
    course.ready((ada, ADA))
    before = course.handle(ada)
    for _ in range(2):
        course.kill_supervisor()
        course.reconnect()
    assert course.handle(ada) == before
    assert course.up((ada, ADA))[0].was_running


def test_a_server_that_ended_meanwhile_is_told_and_started_again(course, ada):
    course.ready((ada, ADA))
    before = course.handle(ada)
    course.kill_supervisor()
    os.kill(before.pid, signal.SIGKILL)
    eventually(lambda: not processes_of(ada))
    course.reconnect()
    assert course.report(ada).state is ServerState.FAILED
    assert course.report(ada).reason == "was not adopted: it ended while no supervisor ran"
    course.ready((ada, ADA))


@pytest.mark.parametrize(
    "field", ["start_time", *(pytest.param(one, marks=pytest.mark.slow) for one in ("uid", "inode", "port"))]
)
def test_what_cannot_be_verified_is_ended_and_started_again(course, ada, bob, field):
    course.ready((ada, ADA))
    before = course.handle(ada)
    course.kill_supervisor()
    remembered = registry.load(course.paths.run / registry.FILE)[0]
    listeners = [{"port": one.port, "family": one.family, "inode": one.inode} for one in remembered.listeners]
    if field == "start_time":
        rewrite(course, "nbtvoada", handle={"pid": before.pid, "start_time": before.start_time + 1})
    elif field == "uid":
        rewrite(course, "nbtvoada", uid=bob.uid)
    else:
        listeners[0][field] += 1
        rewrite(course, "nbtvoada", listeners=listeners)
    course.reconnect()
    assert not processes_of(ada), "nothing of it is left, and its port is free for us"
    assert course.report(ada).state is not ServerState.READY
    course.ready((ada, ADA))
    assert course.handle(ada) != before


def test_a_process_that_was_never_ours_is_not_touched(course, ada, bob):
    """The file names somebody else's process: a pid that was given anew."""
    course.ready((ada, ADA))
    course.kill_supervisor()
    other = subprocess.Popen(["sleep", "600"], user=bob.uid, group=bob.gid, extra_groups=[])
    try:
        rewrite(course, "nbtvoada", handle={"pid": other.pid, "start_time": 1})
        course.reconnect().stop_servers()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 1}', '{"version": 99, "boot_id": "x", "students": []}']
)
def test_a_damaged_memory_ends_what_it_no_longer_describes(course, ada, content):
    course.ready((ada, ADA))
    course.kill_supervisor()
    (course.paths.run / registry.FILE).write_text(content)
    course.reconnect()
    assert course.supervisor.servers() == ()
    assert not processes_of(ada)
    course.ready((ada, ADA))


def test_a_memory_that_others_could_have_written_is_not_used(course, ada):
    course.ready((ada, ADA))
    course.kill_supervisor()
    (course.paths.run / registry.FILE).chmod(0o666)
    course.reconnect()
    assert course.supervisor.servers() == ()


@pytest.mark.slow
def test_a_server_that_hangs_is_started_anew(course, ada):
    course.ready((ada, ADA))
    before = course.handle(ada)
    course.kill_supervisor()
    course.reconnect()
    os.kill(before.pid, signal.SIGSTOP)
    outcomes = course.up((ada, ADA), deadline=8)
    assert [(one.state, one.was_running) for one in outcomes] == [(ServerState.READY, False)]
    assert course.handle(ada) != before


def test_a_student_cannot_pass_off_a_socket_of_their_own(course, ada):
    """The server closes the class's sockets and listens on the port by itself while the supervisor is dead."""
    course.bind((ada, ADA))
    course.ready((ada, ADA))
    pid = course.handle(ada).pid
    course.kill_supervisor()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not processes_of(ada))

    def squatter() -> int:
        child = os.fork()
        if child == 0:
            with socket.socket() as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind(("0.0.0.0", ADA))
                one.listen()
                signal.pause()
        return child

    thief = workers.run_as(ada, squatter)
    eventually(lambda: psutil.Process(thief).net_connections("tcp"))
    inodes = [int(os.readlink(link)[8:-1]) for link in _sockets(thief)]
    rewrite(
        course,
        "nbtvoada",
        handle={"pid": thief, "start_time": _start_time(thief)},
        listeners=[{"port": ADA, "family": int(socket.AF_INET), "inode": inodes[0]}],
    )
    course.reconnect()
    assert course.report(ada).state is ServerState.FAILED
    assert course.report(ada).reason == "was not adopted: its process could not be verified"


def _sockets(pid: int) -> list[str]:
    links = [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]
    return [link for link in links if os.readlink(link).startswith("socket:")]


def _start_time(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
