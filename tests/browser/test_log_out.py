"""The way out, in a real Chromium: the button in Notebook and Lab, the front page after it, and the next student."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nblauncher.supervisor import client
from tests.browsing import require_browser
from tests.classroom import Classroom
from tests.notebooks import cell, notebook

pytestmark = [pytest.mark.browser, pytest.mark.system]

ADA, BOB = "nbtleaver", "nbtnext"
PORT = 28900
HOST = "class.example.org"
NGINX = pytest.mark.skipif(shutil.which("nginx", path="/usr/sbin:/usr/bin") is None, reason="NO NGINX")
FRONT_ENDS = [
    "direct",
    *(pytest.param(routing, marks=[NGINX, pytest.mark.slow]) for routing in ("ports", "hosts", "paths")),
]


@pytest.fixture(scope="module", params=FRONT_ENDS)
def room(request) -> Iterator[Classroom]:
    require_browser()
    made = Classroom("nbtleave", [ADA, BOB], port=PORT, first_uid=33050)
    more = {} if request.param == "direct" else {"frontend": "nginx", "routing": request.param}
    try:
        kernel = {"name": "python3", "display_name": "Python 3"}
        (made.folder / "material/lab.ipynb").write_bytes(notebook(cell("6 * 7", "s"), kernelspec=kernel))
        made.write(web={"port": PORT, "names": [HOST], **more})
        made.run("setup")
        made.run("launch", "--background")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def flags() -> list[str]:
    return [f"--host-resolver-rules=MAP *.{HOST} 127.0.0.1, MAP {HOST} 127.0.0.1"]


def own_address(room: Classroom, name: str) -> str:
    routing = room.config["web"].get("routing", "ports")
    host = f"{name}.{HOST}" if routing == "hosts" else HOST
    port = PORT + 1 + room.names.index(name) if routing == "ports" else PORT
    return f"https://{host}:{port}/user/{name}/"


def sign_in(room: Classroom, page, name: str) -> None:
    page.goto(f"https://{HOST}:{PORT}/{name}")
    page.fill("#password", room.credentials[name]["notebook_password"])
    page.click("button[type=submit]")
    page.wait_for_selector(".jp-DirListing-item:has-text('lab.ipynb')")


@pytest.mark.parametrize(
    ("way", "place"),
    [
        ("button", "tree"),
        ("menu", "notebooks/tutorial/lab.ipynb"),
        pytest.param("button", "lab/tree/tutorial/lab.ipynb", marks=pytest.mark.slow),
        pytest.param("menu", "tree", marks=pytest.mark.slow),
        pytest.param("button", "notebooks/tutorial/lab.ipynb", marks=pytest.mark.slow),
        pytest.param("menu", "lab/tree/tutorial/lab.ipynb", marks=pytest.mark.slow),
    ],
)
def test_the_way_out_is_on_every_page_and_ends_at_the_front_page(room, page, place, way, tmp_path: Path):
    own = own_address(room, ADA)
    sign_in(room, page, ADA)
    page.goto(own + place)
    out = page.get_by_role("button", name="Log out")
    out.wait_for()
    if place != "tree":
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")
    page.screenshot(path=tmp_path / "1-before.png")
    if way == "menu":
        page.get_by_role("menuitem", name="File", exact=True).click()
        out = page.get_by_role("menuitem", name="Log out")
        out.wait_for()
        page.screenshot(path=tmp_path / "2-menu.png")
    out.click()
    page.wait_for_selector("#password")
    page.screenshot(path=tmp_path / "3-after.png")
    assert page.url == f"https://{HOST}:{PORT}/{ADA}"
    assert page.input_value("#username") == ADA and not page.is_checked("#keep")
    assert not [one for one in page.context.cookies() if one["name"].startswith("nblauncher-")]
    page.go_back()
    page.goto(own + "api/status")
    assert "Forbidden" in page.content()


def test_a_page_that_shows_the_students_own_form_asks_whose_computer_it_is(room, page, tmp_path: Path):
    page.goto(own_address(room, ADA) + "login")
    page.screenshot(path=tmp_path / "own-form.png")
    page.check("#keep")
    page.fill("#password_input", room.credentials[ADA]["notebook_password"])
    page.click("#login_submit")
    page.wait_for_selector(".jp-DirListing-item:has-text('lab.ipynb')")
    (login,) = [one for one in page.context.cookies() if one["name"].startswith("nblauncher-")]
    assert login["expires"] > 0
    page.goto(own_address(room, ADA) + "logout")
    page.wait_for_selector("#username")


@pytest.mark.parametrize("room", ["direct"], indirect=True)
def test_who_comes_too_early_goes_on_by_themselves(room, page, tmp_path: Path):
    room.run("shutdown", "--only", BOB)
    page.goto(own_address(room, BOB) + "notebooks/tutorial/lab.ipynb")
    page.wait_for_selector("h1:has-text('is not running')")
    page.screenshot(path=tmp_path / "1-stopped.png")
    supervisor = client.connect(room.paths)
    assert supervisor is not None
    with supervisor:
        supervisor.stop_front_page()
    page.click("text=Go to the front page")
    page.wait_for_selector("h1:has-text('front page is closed')")
    page.screenshot(path=tmp_path / "2-closed.png")
    room.run("launch", "--background")
    page.wait_for_selector("#password")  # by itself
    assert page.input_value("#username") == BOB
    page.goto(own_address(room, BOB) + "notebooks/tutorial/lab.ipynb")
    page.fill("#password", room.credentials[BOB]["notebook_password"])
    page.click("button[type=submit]")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")
    assert page.url == own_address(room, BOB) + "notebooks/tutorial/lab.ipynb"
