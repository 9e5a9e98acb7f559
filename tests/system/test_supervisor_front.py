"""The front page under the supervisor, and the way from it to a student's own server."""

from __future__ import annotations

import html
import os
import re
import signal
import ssl
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from nblauncher.model import Account, ServerState
from nblauncher.supervisor.requests import PortWanted
from nblauncher.supervisor.specs import FrontPageSpec
from nblauncher.web.inputs import ClassPage, Enrolled, render_config
from tests.jupyter_client import JupyterClient
from tests.running import PASSWORD, TARGET, RunningClass, eventually, made_account, running_class

pytestmark = pytest.mark.system

FRONT, ADA, BOB = 18555, 18556, 18557
ORIGIN = f"https://localhost:{FRONT}"


@pytest.fixture(scope="module")
def students() -> Iterator[tuple[Account, Account, Account]]:
    """ada, bob, and the account of the front page."""
    with (
        made_account("nbtvxada", 25060) as ada,
        made_account("nbtvxbob", 25061) as bob,
        made_account("nbtvfront", 25062) as front,
    ):
        yield ada, bob, front


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("class")


@pytest.fixture(scope="module")
def served(folder: Path, students: tuple[Account, Account, Account]) -> Iterator[RunningClass]:
    ada, bob, _front = students
    with running_class(folder, "nbtv-front", FRONT) as running:
        (folder / "ca.pem").write_bytes(running.ca.certificate)
        running.ready((ada, ADA), (bob, BOB))
        yield running


@pytest.fixture
def course(served: RunningClass) -> RunningClass:
    """Without a front page."""
    served.supervisor.stop_front_page()
    return served


@pytest.fixture
def shared(served: RunningClass, folder: Path, students: tuple[Account, Account, Account]) -> tuple[RunningClass, Path]:
    """With a front page."""
    if served.supervisor.front_page().state is not ServerState.READY:
        start_front(served, students)
    return served, folder


def start_front(
    course: RunningClass, students: tuple[Account, Account, Account], restart: tuple[str, ...] = ()
) -> None:
    ada, bob, front = students
    errors, _notes = course.supervisor.bind([PortWanted(FRONT)])
    assert not errors
    course.supervisor.start_front_page(FrontPageSpec(front, FRONT, restart), page(course, ada, bob), course.leaf())
    report = course.supervisor.wait_for_front_page(60)
    assert report.state is ServerState.READY, (report, course.logs())


def page(course: RunningClass, ada: Account, bob: Account) -> bytes:
    return render_config(
        ClassPage(
            course=course.paths.course,
            interface="notebook",
            front_port=FRONT,
            hosts=frozenset({"localhost", "127.0.0.1"}),
            has_tls=True,
            ca_pem=course.ca.certificate,
            ca_fingerprint=course.ca.fingerprint,
            students={
                "nbtvxada": Enrolled(ada.uid, ADA, course.hashed),
                "nbtvxbob": Enrolled(bob.uid, BOB, course.hashed),
            },
        )
    )


def browser(folder: Path) -> httpx.Client:
    return httpx.Client(verify=ssl.create_default_context(cafile=str(folder / "ca.pem")), timeout=60)


def ticket_for(folder: Path, username: str) -> tuple[str, str]:
    """Sign in at the front page: where its form leads, and the ticket in it."""
    with browser(folder) as client:
        answer = client.post(
            f"{ORIGIN}/", data={"username": username, "password": PASSWORD}, headers={"Origin": ORIGIN}
        )
    action = re.search(r'action="([^"]+/nblauncher/ticket)"', answer.text)
    ticket = re.search(r'name="ticket" value="([^"]+)"', answer.text)
    assert action and ticket, answer.text
    return html.unescape(action[1]), ticket[1]


def test_a_sign_in_at_the_front_page_ends_in_the_students_own_server(course, students, folder):
    start_front(course, students)
    target, ticket = ticket_for(folder, "nbtvxada")
    assert target == f"https://localhost:{ADA}/user/nbtvxada/nblauncher/ticket"
    with JupyterClient("nbtvxada", ADA, folder / "ca.pem") as client:
        headers = {"Origin": ORIGIN, "Sec-Fetch-Site": "same-site"}
        answer = client.http.post(target, data={"ticket": ticket}, headers=headers)
        assert (answer.status_code, answer.headers["location"]) == (303, "/user/nbtvxada/")
        assert (
            "samesite=lax" in answer.headers["set-cookie"].lower()
            and "httponly" in answer.headers["set-cookie"].lower()
        )
        assert "secure" in answer.headers["set-cookie"].lower()
        landed = client.http.get("", follow_redirects=True)
        assert landed.url.path == f"/user/nbtvxada/tree/{TARGET}"
        client.http.get("login")
        assert client.run("6 * 7") == "42"
        client.http.cookies.clear()
        answer = client.http.post(target, data={"ticket": ticket}, headers=headers)
        assert answer.status_code == 403 and "used before" in answer.text and "password_input" in answer.text
        assert client.http.get("api/status").status_code == 403
    assert ticket not in course.logs()


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 303),
        ({"Origin": ORIGIN}, 303),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": f"https://localhost:{BOB}"}, 403),
        ({"Origin": f"http://localhost:{FRONT}"}, 403),
        ({"Origin": f"https://evil.example:{FRONT}"}, 403),
        ({"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
    ],
)
def test_only_the_front_page_may_bring_a_ticket(shared, headers, status):
    _course, folder = shared
    target, ticket = ticket_for(folder, "nbtvxada")
    with browser(folder) as client:
        assert client.post(target, data={"ticket": ticket}, headers=headers).status_code == status
        assert client.get(target).status_code == 302
        for nonsense in ("", "x", ticket * 9, "A" * 22, "\0"):
            assert client.post(target, data={"ticket": nonsense}).status_code in (400, 403)


def test_a_neighbours_ticket_is_neither_good_nor_used_up(shared):
    _course, folder = shared
    target, ticket = ticket_for(folder, "nbtvxada")
    with browser(folder) as client:
        theirs = f"https://localhost:{BOB}/user/nbtvxbob/nblauncher/ticket"
        assert client.post(theirs, data={"ticket": ticket}).status_code == 403
        assert client.post(target, data={"ticket": ticket}).status_code == 303


def test_the_front_page_is_nobody_in_particular(shared, students):
    course, _folder = shared
    handle = course.supervisor.front_page().handle
    assert handle is not None
    status = Path(f"/proc/{handle.pid}/status").read_text()
    uid = students[2].uid
    assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}" in status and "NoNewPrivs:\t1" in status
    links = {os.readlink(f"/proc/{handle.pid}/fd/{name}") for name in os.listdir(f"/proc/{handle.pid}/fd")}
    assert not [link for link in links if "memfd" in link or "/var/" in link or "servers.json" in link]
    assert b"argon2" not in Path(f"/proc/{handle.pid}/cmdline").read_bytes()
    assert Path(f"/proc/{handle.pid}/environ").read_bytes().count(b"=") == 2


def test_the_front_page_asks_how_a_server_is(shared, students):
    course, folder = shared
    course.supervisor.stop_servers(["nbtvxbob"])
    with browser(folder) as client:
        answer = client.post(f"{ORIGIN}/", data={"username": "nbtvxbob", "password": PASSWORD})
        assert "nblauncher/ticket" not in answer.text
    course.ready((students[1], BOB))
    assert ticket_for(folder, "nbtvxbob")


def test_stopping_the_front_page_leaves_the_servers(course, students, folder):
    start_front(course, students)
    assert course.supervisor.stop_front_page().state is ServerState.STOPPED
    assert {one.state for one in course.supervisor.servers()} == {ServerState.READY}
    start_front(course, students)


def test_a_front_page_that_dies_is_told(course, students):
    start_front(course, students)
    os.kill(course.supervisor.front_page().handle.pid, signal.SIGKILL)
    report = eventually(lambda: _if_failed(course))
    assert report.reason == "killed by SIGKILL"
    start_front(course, students)


def _if_failed(course: RunningClass):
    report = course.supervisor.front_page()
    return report if report.state is ServerState.FAILED else None


def test_a_front_page_that_dies_is_started_again_by_the_command_it_came_with(course, students, folder, tmp_path):
    """The command is root's and short-lived; it asks the supervisor as any other client does."""
    ada, bob, front = students
    (tmp_path / "config").write_bytes(page(course, ada, bob))
    leaf = course.leaf()
    (tmp_path / "certificate").write_bytes(leaf.certificate)
    (tmp_path / "key").write_bytes(leaf.key)
    (tmp_path / "again.py").write_text(
        textwrap.dedent(f"""
            from pathlib import Path
            from nblauncher.paths import CoursePaths
            from nblauncher.model import Account, TlsFiles
            from nblauncher.supervisor import client
            from nblauncher.supervisor.specs import FrontPageSpec
            folder = Path({str(tmp_path)!r})
            front = Account("nbtvfront", {front.uid}, {front.gid}, Path("/"))
            with client.start(CoursePaths("nbtv-front")) as supervisor:
                supervisor.start_front_page(
                    FrontPageSpec(front, {FRONT}),
                    (folder / "config").read_bytes(),
                    TlsFiles((folder / "certificate").read_bytes(), (folder / "key").read_bytes()),
                )
            """)
    )
    start_front(course, students, (sys.executable, "-I", str(tmp_path / "again.py")))
    before = course.supervisor.front_page().handle
    os.kill(before.pid, signal.SIGKILL)
    eventually(lambda: course.supervisor.front_page().handle not in (before, None))
    assert course.supervisor.wait_for_front_page(60).state is ServerState.READY
    assert ticket_for(folder, "nbtvxada")


@pytest.mark.adoption
def test_a_killed_supervisor_takes_the_front_page_along_and_a_new_one_has_its_port(course, students, folder):
    start_front(course, students)
    pid = course.supervisor.front_page().handle.pid
    course.kill_supervisor()
    course.reconnect()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert {one.state for one in course.supervisor.servers()} == {ServerState.READY}
    start_front(course, students)
    assert ticket_for(folder, "nbtvxada")


def test_a_front_page_that_talks_nonsense_harms_nobody(course, students):
    """Whatever has taken over the front page has only its line to the supervisor."""
    ada, _bob, front = students
    course.supervisor.bind([PortWanted(FRONT)])
    # A config that is not one: it ends at once.
    course.supervisor.start_front_page(FrontPageSpec(front, FRONT), b"nonsense", None)
    report = eventually(lambda: _if_failed(course))
    assert "exit status" in report.reason and any("JSON" in line for line in report.last_lines)
    assert course.report(ada).state is ServerState.READY
