"""Whose a browser is when its student has gone: how long a sign-in lasts, and what a log-out ends."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.classroom import Classroom
from tests.jupyter_client import JupyterClient
from tests.launched import own_server, visitor

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
