"""The front page in a real Chromium that trusts the class CA, up to the student's own server (a stand-in)."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nblauncher.frontends import class_ca
from nblauncher.system.tls_context import server_context
from tests import front_page as tools
from tests.browsing import STAYS, accessibility_problems, chromium, require_browser, sync_api

pytestmark = [pytest.mark.browser, pytest.mark.system, pytest.mark.group("front page")]

PORT = 18720


@pytest.fixture(scope="module")
def front() -> Iterator[tools.FrontPageProcess]:
    require_browser()
    with tools.accounts(26010) as people:
        made = tools.FrontPageProcess(
            PORT, {"nbtwada": (people["nbtwada"], PORT + 1), "nbtwbob": (people["nbtwbob"], PORT + 2)}
        )
        server = tools.StudentServer(people["nbtwada"], PORT + 1, made.tickets_path, made.leaf())
        yield made
        server.close()
        made.close()


@pytest.fixture(scope="module")
def browser(driver: Any, front: tools.FrontPageProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    bank = "--host-resolver-rules=MAP bank.example 127.0.0.2"
    with chromium(driver, tmp_path_factory.mktemp("browser"), front.folder / "tls/ca.pem", bank) as one:
        yield one


def sign_in(page, password: str) -> None:
    page.fill("#password", password)
    page.click("button[type=submit]")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_a_student_walks_from_the_front_page_to_their_own_server(front, page, tmp_path: Path, host):
    page.goto(f"https://{host}:{PORT}/")
    page.screenshot(path=tmp_path / "1-front-page.png")
    page.fill("#username", "nbtwada")
    sign_in(page, "wrong")
    page.wait_for_selector("[role=alert]")
    assert page.input_value("#username") == "nbtwada"
    page.screenshot(path=tmp_path / "2-wrong-password.png")
    sign_in(page, tools.PASSWORD.upper().replace("-", " "))
    page.wait_for_selector("#who")
    page.screenshot(path=tmp_path / "3-own-server.png")
    assert "signed in" in page.inner_text("#who")
    assert page.url == f"https://{host}:{PORT + 1}/user/nbtwada/tree"
    (cookie,) = page.context.cookies()
    assert cookie["path"] == "/user/nbtwada/", "the front page sets none"
    assert cookie["value"] == f"https://{host}:{PORT}", "the ticket came with the front page's origin"


def test_no_page_before_the_notebooks_has_a_barrier(front, browser, tmp_path: Path):
    """axe-core: light and dark, desktop and phone."""
    context = browser.new_context()
    context.add_init_script(STAYS)
    page = context.new_page()
    found = []

    def look(name: str, heading: str) -> None:
        page.wait_for_selector(f"h1:has-text('{heading}')")
        page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
        found.extend(accessibility_problems(page))

    soon = int(time.time()) + 7500
    front.tell_deadlines(("ps1", soon), ("ps2", soon + 90_000))
    page.goto(f"https://localhost:{PORT}/nbtwada")
    page.wait_for_selector(".strip .left:has-text('2 h 4 min left')")
    look("sign-in", "Sign in to your notebooks")
    sign_in(page, "wrong")
    page.wait_for_selector("#password[aria-invalid=true]")
    look("wrong-password", "Sign in to your notebooks")
    sign_in(page, tools.PASSWORD)
    look("opening", "Opening your notebooks")
    front.own["nbtwbob"] = [("ps1", soon + 3600)]
    for state, heading in (
        ("ready", "Opening your notebooks"),
        ("starting", "Your notebooks are starting"),
        ("stopped", "Your notebooks are not running"),
        ("failed", "Your notebooks are not running"),
    ):
        front.states["nbtwbob"] = state
        page.goto(f"https://localhost:{PORT}/nbtwbob")
        sign_in(page, tools.PASSWORD)
        page.wait_for_selector("#own-deadlines .left:has-text('3 h 4 min left')")
        look(state, heading)
    page.goto(f"https://localhost:{PORT}/ca.html")
    look("certificate", "How to trust this class")
    assert page.locator("details[open] summary").inner_text() == "Linux (Chrome, Chromium)"
    answer = page.goto(f"https://localhost:{PORT}/nowhere/at/all")
    assert answer is not None and answer.status == 404
    look("not-found", "There is nothing here")
    context.close()
    front.states["nbtwbob"], front.own = "ready", {}
    assert found == []


def test_a_password_can_be_looked_at_while_it_is_typed(front, page):
    page.goto(f"https://localhost:{PORT}/nbtwada")
    page.fill("#password", "wrong")
    page.click("text=Show password")
    assert page.get_attribute("#password", "type") == "text"
    page.click("text=Hide password")
    assert page.get_attribute("#password", "type") == "password"
    page.click("text=Show password")
    with page.expect_request("**/") as sent:
        page.click("button[type=submit]")
    assert sent.value.post_data is not None and "password=wrong" in sent.value.post_data
    page.wait_for_selector("[role=alert]")


def test_it_works_without_scripts(front, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"https://localhost:{PORT}/nbtwada")
    assert page.locator("text=Show password").is_hidden()
    sign_in(page, tools.PASSWORD)
    page.click("text=Open my notebooks")
    page.wait_for_selector("#who")
    assert "signed in" in page.inner_text("#who")
    context.close()


def test_a_starting_server_is_waited_for_and_a_failed_one_said(front, page, tmp_path: Path):
    front.states["nbtwada"] = "starting"
    page.goto(f"https://localhost:{PORT}/nbtwada")
    sign_in(page, tools.PASSWORD)
    page.wait_for_selector("text=Your notebooks are starting")
    page.screenshot(path=tmp_path / "starting.png")
    front.states["nbtwada"] = "ready"
    page.wait_for_selector("#who")
    front.states["nbtwbob"] = "failed"
    page.goto(f"https://localhost:{PORT}/nbtwbob")
    sign_in(page, tools.PASSWORD)
    page.wait_for_selector("text=could not be started")
    page.screenshot(path=tmp_path / "failed.png")


def test_a_form_on_another_students_server_cannot_sign_anybody_in(front, page):
    page.goto(f"https://localhost:{PORT + 1}/")
    page.set_content(
        f'<form method=post action="https://localhost:{PORT}/"><input name=username value=nbtwada>'
        f'<input name=password value="{tools.PASSWORD}"><button>go</button></form>'
    )
    page.click("button")
    page.wait_for_selector("text=came from another page")


def test_the_pages_keep_to_their_own_policy(front, page):
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    for path in ("", "nbtwada", "ca.html"):
        page.goto(f"https://localhost:{PORT}/{path}")
    assert page.inner_text("#fingerprint").replace("\n", "") == front.ca.fingerprint
    assert problems == []


@pytest.mark.parametrize("host", ["bank.example", "127.0.0.2"])
def test_chromium_rejects_what_the_class_ca_signs_for_somebody_else(front, page, host):
    """As if the CA's key were stolen: the certificate is right for the host, but the host is not the class's."""
    stolen = class_ca.issue_leaf(front.ca, ["bank.example"], []) if host == "bank.example" else None
    stolen = stolen or class_ca.issue_leaf(front.ca, [], [host])
    with socket.create_server(("127.0.0.2", PORT + 3)) as listening:
        threading.Thread(target=serve_pages, args=(listening, server_context(stolen)), daemon=True).start()
        try:
            with pytest.raises(sync_api.Error, match="ERR_CERT_INVALID"):
                page.goto(f"https://{host}:{PORT + 3}/")
        finally:
            listening.shutdown(socket.SHUT_RDWR)


def serve_pages(listening, context: ssl.SSLContext) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        try:
            with context.wrap_socket(connection, server_side=True) as secure:
                secure.recv(4096)
                secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
        except OSError:
            continue
