"""The ways in and out: how long a sign-in lasts, what a log-out ends, where a bookmark leads, who answers when nobody
is there.
"""

from __future__ import annotations

import html
import pwd
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

import psutil
import pytest

from nblauncher.model import Handle
from nblauncher.supervisor import client
from nblauncher.system import processes
from tests.classroom import Classroom
from tests.jupyter_client import JupyterClient
from tests.launched import handles, is_ready, open_front_page, own_server, processes_of, states, supervisor_pid, visitor
from tests.running import eventually

pytestmark = pytest.mark.system

ADA, BOB = "nbtoutada", "nbtoutbob"
PORT = 28880


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    made = Classroom("nbtout", [ADA, BOB], port=PORT, first_uid=33000)
    try:
        made.run("setup")
        made.run("launch", "--background")
        yield made
    finally:
        made.close()


@pytest.fixture
def ada(room: Classroom) -> Iterator[JupyterClient]:
    with visitor(room, ADA) as one:
        yield one


def login_cookies(client: JupyterClient) -> dict[str, int | None]:
    """Their values, and when the browser forgets each; None: when it is closed."""
    return {
        cookie.value: cookie.expires
        for cookie in client.http.cookies.jar
        if cookie.name.startswith("nblauncher-") and cookie.value
    }


def copy_cookies(one: JupyterClient, to: JupyterClient) -> None:
    for cookie in one.http.cookies.jar:
        to.http.cookies.jar.set_cookie(cookie)


@pytest.mark.parametrize("form", ["front page", "own server"])
def test_a_sign_in_ends_with_the_browser_unless_the_computer_is_the_students_own(room, form):
    password = room.credentials[ADA]["notebook_password"]
    for ticked in ({}, {"keep": "1"}):
        if form == "front page":
            with visitor(room, ADA, **ticked) as one:
                (until,) = login_cookies(one).values()
        else:
            with own_server(room, ADA) as one:
                assert 'name="keep"' in one.http.get("login").text
                one.sign_in(password, **ticked)
                (until,) = login_cookies(one).values()
        if ticked:
            assert until is not None and 29 < (until - time.time()) / 86400 <= 30
        else:
            assert until is None


def test_who_logs_out_is_at_the_front_page_and_no_copy_of_the_cookie_is_good_any_more(room):
    with visitor(room, BOB, keep="1") as bob, own_server(room, BOB) as copy:
        bob.http.get("tree")
        copy_cookies(bob, copy)
        with copy.notebook(copy.start_kernel()) as open_tab:
            assert open_tab.run("6 * 7") == "42"
            answer = bob.log_out()
            assert (answer.status_code, answer.headers["location"]) == (303, f"https://localhost:{PORT}/{BOB}")
            while open_tab.connection.recv():
                """What the kernel still said; then the connection is closed."""
        assert login_cookies(bob) == {}
        kept = list(copy.http.cookies.jar)
        assert copy.http.get("api/status").status_code == 403

        # Nor when the server was started anew.
        room.run("shutdown", "--only", BOB)
        room.run("launch", "--background")
        for cookie in kept:
            copy.http.cookies.jar.set_cookie(cookie)
        assert copy.http.get("api/status").status_code == 403
    with visitor(room, BOB) as bob:
        assert bob.http.get("api/status").status_code == 200


@pytest.mark.parametrize(
    "method, headers",
    [
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}),
        ("GET", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "document"}),
        ("GET", {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "image"}),
        ("GET", {"Referer": "https://evil.example/"}),
        ("POST", {}),
    ],
)
def test_another_page_logs_nobody_out(ada, method, headers):
    ada.http.request(method, "logout", headers=headers)
    assert ada.http.get("api/status").status_code == 200


def test_a_link_on_a_page_of_the_students_logs_out(ada):
    headers = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "document"}
    assert ada.http.get("logout", headers=headers).headers["location"] == f"https://localhost:{PORT}/{ADA}"
    assert ada.http.get("api/status").status_code == 403


def test_a_student_who_changes_their_colour_stays_signed_in_as_before(room):
    with visitor(room, ADA, keep="1") as own:
        own.http.get("tree")
        assert own.api("PATCH", "me", json={"color": "red"}).status_code == 200
        assert list(login_cookies(own)) and None not in login_cookies(own).values()
        own.log_out()
        assert own.http.get("api/status").status_code == 403


def test_a_bookmark_leads_through_the_front_page_to_the_page_it_means(room):
    page = "notebooks/tutorial/a%20b.ipynb?x=1"
    with own_server(room, ADA) as one:
        front = one.http.get(page, follow_redirects=True)
        assert front.url.port == PORT and front.url.path == f"/{ADA}"
        assert f'name="username" type="text" value="{ADA}"' in front.text
        fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]+)"', front.text))
        form = {name: html.unescape(value) for name, value in fields.items()}
        assert form == {"next": page}
        opening = open_front_page(room, one, ADA, **form)
        arrived = one.http.post(opening.pop("target"), data={name: html.unescape(v) for name, v in opening.items()})
        assert arrived.headers["location"] == f"/user/{ADA}/{page}"
        assert one.http.get("api/status").status_code == 200


@pytest.mark.parametrize(
    "onward",
    [
        "../nbtoutbob/tree",
        "%2e%2e/nbtoutbob/",
        "x/..%2F..",
        "/evil.example/",
        "\\evil.example",
        "a\r\nSet-Cookie: b=c",
        "x" * 5000,
    ],
)
def test_a_link_to_the_front_page_leads_nobody_anywhere_but_to_their_own_pages(room, onward):
    with own_server(room, ADA) as one:
        opening = open_front_page(room, one, ADA, next=onward)
        arrived = one.http.post(opening.pop("target"), data={**opening, "next": onward})
        assert (arrived.status_code, arrived.headers["location"]) == (303, f"/user/{ADA}/")
        assert {cookie.name for cookie in one.http.cookies.jar} <= {f"nblauncher-{ADA}-{PORT + 1}", "_xsrf"}


@pytest.mark.parametrize("path", ["/", "/tree", "/lab", "/login", "/logout", "/user/", f"/user/{BOB}/tree", "/nowhere"])
def test_a_port_leads_to_the_front_page_and_says_no_name(room, path):
    with own_server(room, ADA) as one:
        answer = one.http.get(f"{one.origin}{path}")
        assert answer.headers["location"] == f"https://localhost:{PORT}/"
        assert ADA not in answer.text and BOB not in answer.text


@pytest.mark.parametrize(
    "path", ["nowhere", "files/nothing.txt", "tree/nothing", "lab/tree/x", "nblauncher/nothing", ""]
)
def test_a_stranger_sees_no_page_of_jupyters(room, path):
    with own_server(room, ADA) as one:
        answer = one.http.get(path, follow_redirects=True)
        if answer.url.port == PORT:
            assert answer.url.path == f"/{ADA}"
        else:
            assert answer.status_code == 404 and f'href="/user/{ADA}/"' in answer.text
        assert "Sign in to your notebooks" in answer.text or "There is nothing here" in answer.text
        assert "Jupyter Server" not in answer.text


@pytest.fixture
def closed(room: Classroom) -> Iterator[Classroom]:
    """bob's server is stopped, and the front page is closed."""
    room.run("shutdown", "--only", BOB)
    supervisor = client.connect(room.paths)
    assert supervisor is not None
    with supervisor:
        supervisor.stop_front_page()
    yield room
    room.run("launch", "--background")
    eventually(lambda: is_ready(room))


def test_a_stopped_server_and_a_closed_front_page_answer_at_once(closed):
    with own_server(closed, BOB) as bob, own_server(closed, ADA) as ada:
        for path in ("", "tree", "api/status", "nblauncher/ticket"):
            answer = bob.http.get(path)
            assert answer.status_code == 503 and "is not running" in answer.text
            assert f'href="https://localhost:{PORT}/{BOB}"' in answer.text
        assert bob.http.post("api/kernels").status_code == 503
        assert bob.http.get(f"{bob.origin}/").headers["location"] == f"https://localhost:{PORT}/"
        front = bob.http.get(f"https://localhost:{PORT}/{BOB}")
        assert front.status_code == 503 and "front page is closed" in front.text
        plain = bob.http.get(f"http://localhost:{PORT + 2}/user/{BOB}/tree")
        assert plain.headers["location"] == f"{bob.origin}/user/{BOB}/tree"
        assert ada.http.get("api").status_code == 200, "servers that are up serve themselves"


def test_nobody_learns_from_a_stopped_server_whose_it_is(closed):
    with own_server(closed, BOB) as bob:
        theirs, nobodys = (bob.http.get(f"{bob.origin}/user/{name}/tree") for name in (BOB, "nbtoutnix"))
        assert theirs.text.replace(BOB, "NAME") == nobodys.text.replace("nbtoutnix", "NAME")
        for path in ("/", "/tree", "/user/"):
            answer = bob.http.get(f"{bob.origin}{path}")
            assert not [name for name in closed.names if name in answer.text + str(answer.headers)]


def test_who_answers_for_a_stopped_server_is_neither_root_nor_a_student_and_the_port_stays_ours(closed):
    porter = eventually(lambda: porter_of(closed))
    assert porter.uids() == (pwd.getpwnam("nblauncher").pw_uid,) * 3
    uid = pwd.getpwnam(BOB).pw_uid
    assert not processes_of(uid)
    for port in (PORT, PORT + 2):
        done = subprocess.run(
            [sys.executable, "-c", f"import socket; socket.create_server(('', {port}))"],
            user=uid,
            capture_output=True,
            text=True,
        )
        assert "Address already in use" in done.stderr


def test_a_porter_that_dies_is_there_again(closed):
    porter = eventually(lambda: porter_of(closed))
    porter.terminate()
    with own_server(closed, BOB) as bob:
        assert bob.http.get("tree").status_code == 503
    assert porter_of(closed).pid != porter.pid


@pytest.mark.slow
def test_who_waits_for_a_server_that_dies_again_and_again_is_told_so(closed):
    for _ in range(5):  # the fifth time it is started again after eight seconds
        eventually(lambda: states(closed)[ADA] == "ready")
        handle = handles(closed)[ADA]
        assert handle is not None
        processes.send_signal(handle, signal.SIGKILL)
        eventually(partial(is_another, closed, handle))
    eventually(lambda: states(closed)[ADA] == "starting")
    with own_server(closed, ADA) as ada:
        assert "is not running" in ada.http.get("tree").text
        assert eventually(lambda: ada.http.get("api").status_code == 200)


def is_another(room: Classroom, handle: Handle) -> bool:
    return handles(room)[ADA] != handle


def test_what_is_started_again_serves_itself(closed):
    closed.run("launch", "--background")
    eventually(lambda: is_ready(closed))
    with visitor(closed, BOB) as bob:
        assert bob.run("6 * 7") == "42"


def porter_of(room: Classroom) -> psutil.Process | None:
    children = psutil.Process(supervisor_pid(room)).children()
    return next((one for one in children if "nblauncher.web.porter" in one.cmdline()), None)
