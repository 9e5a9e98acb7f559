"""Servers that start when their student connects, and stop when they are not in use."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from nblauncher.commands.running.readiness import arm_servers
from nblauncher.model import Account, ServerState
from nblauncher.system import workers
from nblauncher.system.libc import pidfd_getfd
from tests import launched
from tests.classroom import Classroom, set_up_class
from tests.jupyter_client import JupyterClient
from tests.running import PASSWORD, RunningClass, eventually, made_account, running_class

pytestmark = pytest.mark.system

FRONT = 18550
ADA, BOB = 18551, 18552
KIM, LEE = NAMES = ["nbtlkim", "nbtllee"]


@pytest.fixture(scope="module")
def ada() -> Iterator[Account]:
    with made_account("nbtvdada", 25030) as account:
        yield account


@pytest.fixture(scope="module")
def bob() -> Iterator[Account]:
    with made_account("nbtvdbob", 25031) as account:
        yield account


@pytest.fixture
def course(tmp_path: Path) -> Iterator[RunningClass]:
    with running_class(tmp_path, "nbtv-sleep", FRONT) as running:
        yield running


def asleep(course: RunningClass, *seats: tuple[Account, int], idle_stop: float = 0.0) -> None:
    course.bind(*seats)
    orders = [course.order(account, port, idle_stop=idle_stop) for account, port in seats]
    outcomes = arm_servers(course.supervisor, orders, on_event=lambda outcome: None)
    assert [outcome.state for outcome in outcomes] == [ServerState.ASLEEP] * len(seats), outcomes


def is_asleep(course: RunningClass, account: Account) -> bool:
    return course.report(account).state is ServerState.ASLEEP


def processes_of(account: Account) -> list[int]:
    return [one.pid for one in launched.processes_of(account.uid)]


@contextmanager
def browser_of(course: RunningClass, account: Account, port: int) -> Iterator[JupyterClient]:
    ca = course.paths.run / "ca.pem"
    ca.write_bytes(course.ca.certificate)
    with JupyterClient(account.username, port, ca) as one:
        yield one


def test_a_server_that_sleeps_is_no_process_and_the_first_connection_wakes_it(course, ada, bob):
    asleep(course, (ada, ADA), (bob, BOB))
    assert not processes_of(ada)
    with browser_of(course, ada, ADA) as browser:
        assert browser.http.get("login").status_code == 200, "no error page and no second try"
        assert course.report(ada).state is ServerState.READY
        browser.sign_in(PASSWORD)
        assert browser.run("6 * 7") == "42"
    assert is_asleep(course, bob) and not processes_of(bob), "nobody came to him"


def test_who_connects_while_it_starts_waits_as_well(course, ada):
    asleep(course, (ada, ADA))
    waiting = [socket.create_connection(("127.0.0.1", ADA)) for _ in range(20)]
    with browser_of(course, ada, ADA) as browser:
        assert browser.http.get("login").status_code == 200
    for one in waiting:
        one.close()
    assert course.report(ada).state is ServerState.READY


def test_a_connection_that_is_given_up_at_once_hurts_nobody(course, ada):
    asleep(course, (ada, ADA))
    socket.create_connection(("127.0.0.1", ADA)).close()
    eventually(lambda: course.report(ada).state is ServerState.READY)
    with browser_of(course, ada, ADA) as browser:
        assert browser.sign_in(PASSWORD).status_code == 302


def test_an_idle_server_sleeps_and_whoever_was_signed_in_still_is_when_it_wakes(course, ada):
    asleep(course, (ada, ADA), idle_stop=3)
    with browser_of(course, ada, ADA) as browser:
        browser.sign_in(PASSWORD)
        browser.api("PUT", "contents/saved.txt", json={"type": "file", "format": "text", "content": "kept"})
        first = course.handle(ada)
        eventually(lambda: is_asleep(course, ada) and not processes_of(ada))
        assert course.report(ada).reason == "it was not in use"
        assert browser.api("GET", "contents/saved.txt").json()["content"] == "kept"
        assert course.handle(ada) != first


@pytest.mark.slow
def test_an_open_tab_that_only_asks_keeps_nothing_awake_and_work_does(course, ada):
    asleep(course, (ada, ADA), idle_stop=4)
    with browser_of(course, ada, ADA) as browser:
        browser.sign_in(PASSWORD)
        first = course.handle(ada)
        begun = time.monotonic()
        while time.monotonic() < begun + 8:
            browser.api("PUT", "contents/work.txt", json={"type": "file", "format": "text", "content": "x"})
            time.sleep(0.5)
        assert course.handle(ada) == first
        while course.report(ada).handle == first:
            with contextlib.suppress(httpx.TransportError):  # it just ends: a browser asks again
                browser.api("GET", "sessions")
            assert time.monotonic() < begun + 60
            time.sleep(0.3)


@pytest.mark.slow
def test_a_kernel_that_computes_is_never_ended_and_one_that_does_nothing_is(course, ada):
    asleep(course, (ada, ADA), idle_stop=3)
    with browser_of(course, ada, ADA) as browser:
        browser.sign_in(PASSWORD)
        kernel = browser.start_kernel()
        first = course.handle(ada)
        browser.run("import time", kernel)
        assert browser.run("time.sleep(10); print('done')", kernel) == "done\n"
        assert course.handle(ada) == first
    eventually(lambda: is_asleep(course, ada) and not processes_of(ada))


def test_a_terminal_keeps_its_server_awake(course, ada):
    asleep(course, (ada, ADA), idle_stop=2)
    with browser_of(course, ada, ADA) as browser:
        browser.sign_in(PASSWORD)
        browser.terminal("echo here-$((1+1))", until="here-2")
        first = course.handle(ada)
        time.sleep(6)
        assert course.handle(ada) == first and course.report(ada).state is ServerState.READY


def test_a_stopped_class_is_not_woken(course, ada):
    asleep(course, (ada, ADA))
    course.supervisor.stop_servers([ada.username])
    assert course.report(ada).state is ServerState.STOPPED
    with socket.create_connection(("127.0.0.1", ADA)):
        time.sleep(1)
        assert course.report(ada).state is ServerState.STOPPED and not processes_of(ada)


def test_a_server_that_is_asked_for_at_once_does_not_wait_for_anybody(course, ada):
    asleep(course, (ada, ADA))
    course.ready((ada, ADA))
    before = course.handle(ada)
    asked = arm_servers(course.supervisor, [course.order(ada, ADA)], on_event=lambda outcome: None)
    assert [(one.state, one.was_running) for one in asked] == [(ServerState.READY, True)]
    assert course.handle(ada) == before


@pytest.mark.adoption
def test_a_sleeping_students_port_is_held_also_after_a_trick(course, ada, bob):
    asleep(course, (ada, ADA), idle_stop=2)
    with browser_of(course, ada, ADA) as browser:
        browser.sign_in(PASSWORD)
        workers.run_as(ada, shut_listeners, course.handle(ada).pid)
        eventually(lambda: is_asleep(course, ada) and not processes_of(ada))
        assert workers.run_as(bob, squat, ADA) == []
        assert browser.http.get("api/status").status_code == 200


def shut_listeners(pid: int) -> None:
    """What a student can do to the sockets that the supervisor holds as well."""
    process = os.pidfd_open(pid)
    for name in os.listdir(f"/proc/{pid}/fd"):
        if os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
            one = socket.socket(fileno=pidfd_getfd(process, int(name)))
            if one.family in (socket.AF_INET, socket.AF_INET6) and one.getsockopt(
                socket.SOL_SOCKET, socket.SO_ACCEPTCONN
            ):
                one.shutdown(socket.SHUT_RDWR)


def squat(port: int) -> list[str]:
    taken = []
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        with socket.socket(family) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind((address, port))
                one.listen()
            except OSError:
                continue
            taken.append(address)
    return taken


def test_after_a_killed_supervisor_sleepers_sleep_again_with_the_next_launch(course, ada):
    asleep(course, (ada, ADA))
    course.kill_supervisor()
    course.reconnect()
    assert course.report(ada).state is ServerState.STOPPED
    asleep(course, (ada, ADA))
    with browser_of(course, ada, ADA) as browser:
        assert browser.sign_in(PASSWORD).status_code == 302


@pytest.mark.slow
@pytest.mark.adoption
def test_a_server_that_was_adopted_sleeps_and_wakes_too(course, ada):
    asleep(course, (ada, ADA), idle_stop=5)
    with browser_of(course, ada, ADA) as browser:
        browser.sign_in(PASSWORD)
        first = course.handle(ada)
        course.kill_supervisor()
        course.reconnect()
        assert course.handle(ada) == first
        order = course.order(ada, ADA, idle_stop=5)
        assert arm_servers(course.supervisor, [order], on_event=lambda outcome: None)[0].was_running
        eventually(lambda: is_asleep(course, ada) and not processes_of(ada))
        assert browser.api("GET", "status").json()["kernels"] == 0


# The commands


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    with set_up_class("nbtl5", NAMES, port=18250, first_uid=30400) as made:
        yield made


def test_a_class_on_demand_begins_without_a_server_and_each_student_gets_one_by_coming(room):
    said = room.json("launch", "--background", "--on-demand")
    assert said["status"] == "ok"
    assert launched.said_states(room) == {"": "ready", KIM: "asleep", LEE: "asleep"}
    again = room.run("launch", "--background", "--on-demand").stdout
    assert "0 of 2 servers are ready, 2 start when their students come" in again
    with launched.visitor(room, KIM) as browser:
        assert browser.run("print(6 * 7)") == "42\n"
    assert launched.said_states(room) == {"": "ready", KIM: "ready", LEE: "asleep"}
    room.run("launch", "--background")
    assert launched.said_states(room) == {"": "ready", KIM: "ready", LEE: "ready"}
    room.run("shutdown", "--yes")
    with pytest.raises(httpx.ConnectError), launched.own_server(room, LEE) as browser:
        browser.http.get("login")
