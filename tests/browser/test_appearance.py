"""The class's title, language and the student's name: on the pages of a server, in Notebook and Lab, after a reload."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from nblauncher.supervisor import client
from tests import launched
from tests.browsing import STAYS, accessibility_problems, picture, require_browser, run_until_it_answers
from tests.classroom import QUICK, Classroom

pytestmark = [pytest.mark.browser, pytest.mark.system]

ADA = "nbtglove"
PORT = 20710
OWN = f"https://localhost:{PORT + 1}/user/{ADA}/"
NOTEBOOK = Path(__file__).parents[2] / "nblauncher/commands/samples/material/welcome.ipynb"
NAME = "Ada Lovelace"
TITLE = "Physics 101, winter term"
WEB = {
    "port": PORT,
    "title": TITLE,
    "greeting": "Welcome to the lab course! Today: the pendulum.",
    "contact": "Kim, room 2.12, kim@example.org",
    "time_zone": "Europe/Berlin",
}


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    require_browser()
    made = Classroom("nbtg-look", [ADA], port=PORT, first_uid=27620)
    try:
        shutil.copy(NOTEBOOK, made.folder / "material/welcome.ipynb")
        soon = (datetime.now(timezone.utc) + timedelta(hours=5)).strftime("%Y-%m-%d %H:00Z")
        made.write(web=WEB, deadlines={"pendulum": soon}, notebook={**QUICK, "interface": "notebook"})
        (made.folder / "students.csv").write_text(f"username,name\n{ADA},{NAME}\n")
        made.run("setup")
        made.run("launch", "--background")
        yield made
    finally:
        made.close()


def sign_in(room: Classroom, page) -> None:
    page.goto(f"https://localhost:{PORT}/{ADA}")
    page.fill("#password", room.credentials[ADA]["notebook_password"])
    page.click("button[type=submit]")
    page.wait_for_selector(".jp-DirListing-item:has-text('welcome.ipynb')")


def test_the_front_page_has_title_greeting_contact_and_the_next_deadline(room, page, tmp_path: Path):
    page.goto(f"https://localhost:{PORT}/{ADA}")
    assert page.inner_text("header a").startswith(TITLE)
    assert page.inner_text("#greeting") == WEB["greeting"] and WEB["contact"] in page.inner_text("#contact")
    assert "Deadline for pendulum:" in page.inner_text("#deadlines") and "UTC" not in page.inner_text("#deadlines")
    assert " h " in page.inner_text("#deadlines .left")
    picture(page, "front-page", tmp_path)
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 780})
    picture(page, "phone", tmp_path)


def test_name_course_and_logo_are_on_every_page_of_the_notebooks(room, page, tmp_path: Path):
    sign_in(room, page)
    for place in ("", "lab", "notebooks/tutorial/welcome.ipynb"):
        page.emulate_media(color_scheme="dark" if place == "lab" else "light")
        if place:
            page.goto(OWN + place)
        page.wait_for_selector("#nblauncher-student")
        assert [page.inner_text(f"#nblauncher-{one}") for one in ("student", "course")] == [NAME, TITLE]
        if place == "lab":
            page.wait_for_selector("body[data-jp-theme-light='false']", state="attached")
            page.screenshot(path=tmp_path / "dark.png")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")
    page.wait_for_function("[...document.querySelectorAll('img[src*=logo]')].some(one => one.naturalWidth > 20)")
    run_until_it_answers(page, page.locator(".jp-CodeCell").first, "It works.")
    plot = page.locator(".jp-CodeCell").nth(1)
    plot.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    plot.locator(".jp-OutputArea-output img").wait_for()
    plot.locator(".cm-content").click()
    page.mouse.wheel(0, 190)
    picture(page, "notebook", tmp_path)


def test_no_page_of_a_students_server_has_a_barrier(room, page, tmp_path: Path):
    """axe-core: light and dark, desktop and phone."""
    found = []

    def look(name: str) -> None:
        assert page.inner_text("header") == TITLE
        page.screenshot(path=tmp_path / f"{name}.png")
        found.extend(accessibility_problems(page))

    page.goto(OWN + "login")
    look("sign-in")
    page.click("text=Show password")
    page.fill("#password_input", "wrong")
    page.click("#login_submit")
    page.wait_for_selector("#password_input[aria-invalid=true]")
    look("wrong-password")
    sign_in(room, page)
    answer = page.goto(OWN + "no/such/page")
    assert answer is not None and answer.status == 404
    look("not-found")
    page.goto(f"https://localhost:{PORT}/")
    page.evaluate(f"location.href = '{OWN}logout'")  # from another origin the server asks
    page.wait_for_selector("h1:has-text('Log out?')")
    look("log-out")
    page.click("button:has-text('Log out')")
    page.wait_for_selector("#username")
    found.extend(accessibility_problems(page))
    room.run("shutdown", "--only", ADA)
    page.goto(OWN + "tree")
    page.wait_for_selector("h1:has-text('is not running')")
    look("stopped")
    room.run("launch", "--background")
    page.wait_for_selector("#username")  # by itself
    assert found == []


@pytest.mark.slow
def test_no_page_of_a_teachers_link_and_no_closed_front_page_has_a_barrier(room, page, tmp_path: Path):
    found = []

    def look(name: str, heading: str) -> None:
        page.wait_for_selector(f'h1:has-text("{heading}")')
        assert page.inner_text("header").startswith(TITLE)
        page.screenshot(path=tmp_path / f"{name}.png")
        found.extend(accessibility_problems(page))

    page.add_init_script(STAYS)
    link = room.json("open", ADA)["link"]
    page.goto(link)
    look("link", "Open a student's notebooks")
    page.click("button[type=submit]")
    look("opening", f"Opening {ADA}'s notebooks")
    page.goto("about:blank")  # otherwise only what stands behind the # is another
    page.goto(link)
    page.click("button[type=submit]")
    look("used", "does not work")
    page.goto("about:blank")
    link = room.json("open", ADA)["link"]
    room.run("shutdown", "--only", ADA)
    page.goto(link)
    page.click("button[type=submit]")
    look("down", "There is nothing to open")
    supervisor = client.connect(room.paths)
    assert supervisor is not None
    with supervisor:
        supervisor.stop_front_page()
    page.goto(f"https://localhost:{PORT}/{ADA}")
    look("closed", "front page is closed")
    room.run("launch", "--background")
    assert found == []


@pytest.mark.slow
def test_another_title_and_language_are_on_all_pages_after_a_reload_and_no_server_is_restarted(room, page):
    before = launched.handles(room)
    texts = room.folder / "texts.yaml"
    texts.write_text('sign_in: "Se connecter <b>"\nlog_out: Quitter\n')
    title = "Ondes </script><b>&amp;"
    room.write(web={**WEB, "title": title, "language": "fr", "texts": "texts.yaml"})
    (room.folder / "students.csv").write_text(f"username,name\n{ADA},Ada King\n")
    room.run("reload")
    assert launched.handles(room) == before
    assert room.run("reload").stdout.startswith("Nothing to do")
    page.goto(OWN + "login")
    assert page.get_attribute("html", "lang") == "fr" and page.inner_text("header") == title
    assert page.inner_text("#login_submit") == "Se connecter <b>"
    sign_in(room, page)
    page.wait_for_selector("button:has-text('Quitter')")
    assert page.inner_text("#nblauncher-course") == title
    texts.unlink()
    assert "texts.yaml does not exist" in room.run("reload", expect=3).stderr
    assert "`nblauncher check` says why" in room.run("launch", "--background", expect=3).stderr
    assert room.run("status").returncode == 0
