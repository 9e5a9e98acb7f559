"""What students are told, in a real Chromium: messages, deadlines, a teacher's visit, a file that `send` changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.browsing import browser_page, picture, require_browser, run_until_it_answers
from tests.classroom import Classroom
from tests.notebooks import cell, notebook, sources
from tests.running import eventually

pytestmark = [pytest.mark.browser, pytest.mark.system]

ADA, BOB = "nbtmsgada", "nbtmsgbob"
PORT, GERMAN_PORT = 20600, 20610
EVA = "nbtmsgeva"
MARKUP = "Five <b>minutes</b> <img src=x onerror='document.title=1'> & <script>window.ran = 1</script>"
NOTICE = ".nblauncher-notice"


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    require_browser()
    made = Classroom("nbtmsg", [ADA, BOB], port=PORT, first_uid=27500)
    try:
        (made.folder / "material/lab.ipynb").write_bytes(lab("question"))
        made.run("setup")
        made.run("launch", "--background")
        yield made
    finally:
        made.close()


@pytest.fixture
def page(room: Classroom, page: Any) -> Any:
    """Ada's, who is signed in."""
    sign_in(room, page, ADA)
    return page


def lab(question: str, code: str = "pass") -> bytes:
    kernel = {"name": "python3", "display_name": "Python 3"}
    return notebook(cell(question, "q", "markdown"), cell(code, "s"), cell("answer", "a"), kernelspec=kernel)


def own(room: Classroom, name: str) -> str:
    return f"https://localhost:{room.port + 1 + room.names.index(name)}/user/{name}/"


def sign_in(room: Classroom, page: Any, name: str) -> None:
    page.goto(f"https://localhost:{room.port}/{name}")
    page.fill("#password", room.credentials[name]["notebook_password"])
    page.click("button[type=submit]")
    page.wait_for_selector(".jp-DirListing-item:has-text('lab.ipynb')")


def opened(room: Classroom, page: Any, place: str, name: str = ADA) -> Any:
    tab = page.context.new_page()
    tab.goto(own(room, name) + place)
    ready = ".jp-DirListing-item" if place.startswith("tree") else ".jp-Notebook-ExecutionIndicator[data-status='idle']"
    tab.wait_for_selector(ready)
    return tab


def test_a_message_stands_above_tree_notebook_and_lab_as_text_and_goes_away(room, page, tmp_path: Path):
    places = ("tree/tutorial", "notebooks/tutorial/lab.ipynb", "lab/tree/tutorial/lab.ipynb")
    tabs = [opened(room, page, place) for place in places]
    said = room.json("message", MARKUP)
    assert said["message"] == MARKUP and said["seen_by"] == [ADA, BOB]
    late = opened(room, page, places[1])
    for number, tab in enumerate((*tabs, late)):
        tab.bring_to_front()
        notice = tab.locator(f"{NOTICE}[data-kind=message]")
        notice.wait_for()
        tab.screenshot(path=tmp_path / f"message-{number}.png")
        assert notice.locator("span").inner_text() == MARKUP
        assert notice.locator("b, img, script").count() == 0 and tab.evaluate("window.ran") is None
        box, main = notice.bounding_box(), tab.locator("#main").bounding_box()
        assert main["y"] >= box["y"] + box["height"], "it covers the page"
    front = page.context.new_page()
    front.goto(f"https://localhost:{PORT}/")
    assert front.locator("#told").inner_text() == MARKUP and front.locator("#told b").count() == 0
    front.screenshot(path=tmp_path / "message-front.png")
    room.run("message", "only for bob", "--only", BOB)
    room.run("message", "Five minutes left")
    late.bring_to_front()
    late.locator(f"{NOTICE}:has-text('Five minutes left')").wait_for()
    picture(late, "message", tmp_path)
    room.run("message", "--clear")
    for tab in (*tabs, late):
        tab.bring_to_front()
        tab.locator(NOTICE).wait_for(state="detached")
        assert tab.locator("#main").bounding_box()["y"] == 0
    front.reload()
    assert front.locator("#told").count() == 0


def test_what_is_said_to_one_student_no_other_sees_and_a_hidden_notice_stays_hidden(room, page):
    room.run("message", "to bob", "--only", BOB)
    room.run("message", "to ada", "--only", ADA)
    notice = page.locator(NOTICE)
    notice.wait_for()
    assert notice.all_inner_texts() == ["to ada\n\u00d7"]
    front = page.context.new_page()
    front.goto(f"https://localhost:{PORT}/{ADA}")
    assert "to ada" not in front.content()
    page.bring_to_front()
    page.get_by_role("button", name="Hide this notice").click()
    notice.wait_for(state="detached")
    assert opened(room, page, "tree").locator(NOTICE).count() == 0
    room.run("message", "--clear")


def test_a_deadline_is_announced_with_its_time(room, page, tmp_path: Path):
    at = (datetime.now() + timedelta(minutes=9)).replace(second=0, microsecond=0)
    added = room.json("retrieve", "--at", f"{at:%Y-%m-%d %H:%M}")
    try:
        notice = page.locator(f"{NOTICE}[data-kind=deadline]")
        notice.wait_for()
        page.screenshot(path=tmp_path / "deadline.png")
        assert f"at {at:%H:%M}, in " in notice.inner_text() and "saved by then counts" in notice.inner_text()
    finally:
        room.run("retrieve", "--cancel", added["deadline"])
    notice.wait_for(state="detached")


def test_a_link_opens_one_server_once_the_student_sees_it_and_it_ends(room, page, tmp_path: Path):
    students = opened(room, page, "notebooks/tutorial/lab.ipynb")
    link = room.json("open", ADA)["link"]
    teachers = page.context.browser.new_context().new_page()  # a private window
    teachers.goto(link)
    assert link.partition("#")[2] not in teachers.url
    teachers.screenshot(path=tmp_path / "open-1.png")
    teachers.click("button[type=submit]")
    teachers.wait_for_selector(".jp-DirListing-item:has-text('lab.ipynb')")
    teachers.locator(f"{NOTICE}:has-text('You are here')").wait_for()
    teachers.screenshot(path=tmp_path / "open-2.png")
    (cookie,) = [one for one in teachers.context.cookies() if one["name"].startswith("nblauncher-")]
    assert cookie["expires"] == -1 and cookie["path"] == f"/user/{ADA}/"
    students.bring_to_front()
    students.locator(f"{NOTICE}:has-text('Your teacher has opened your notebook server')").wait_for()
    students.screenshot(path=tmp_path / "open-3.png")
    assert BOB not in students.content()
    again = teachers.context.new_page()
    again.goto(link)
    again.click("button[type=submit]")
    again.wait_for_selector("h1:has-text('does not work')")
    again.goto(own(room, BOB))
    again.wait_for_selector("#password")  # nobody is signed in there
    assert status(teachers) == 200
    room.run("open", ADA, "--end")
    assert status(teachers) == 403
    assert status(students) == 200
    log = (room.paths.logs / "nblauncher.log").read_text()
    assert f"the teacher's link to {ADA}'s server was used" in log and link.partition("#")[2] not in log


def status(page: Any) -> int:
    """Of ada's server, for a page of it."""
    return page.evaluate("async address => (await fetch(address)).status", f"/user/{ADA}/api/status")


def test_a_link_is_refused_where_it_would_lead_nowhere(room):
    room.run("freeze", "--only", BOB)
    assert "frozen" in room.run("open", BOB, expect=4).stderr
    room.run("thaw", "--only", BOB)
    room.run("shutdown", "--only", BOB)
    assert "does not run" in room.run("open", BOB, expect=4).stderr
    room.run("launch", "--background")
    assert room.json("open", BOB)["link"]


_END_KERNELS = """async base => {
    const headers = {"X-XSRFToken": document.cookie.match(/\\b_xsrf=([^;]*)/)[1]};
    for (const one of await (await fetch(`${base}api/sessions`)).json()) {
        await fetch(`${base}api/sessions/${one.id}`, {method: "DELETE", headers});
    }
}"""
"""So that the server has a kernel only once the page has one."""


def test_a_page_without_edits_shows_what_send_changed(room, page, tmp_path: Path):
    page.evaluate(_END_KERNELS, f"/user/{ADA}/")
    tab = opened(room, page, "notebooks/tutorial/lab.ipynb")
    run_until_it_answers(tab, tab.locator(".jp-CodeCell").first, code="kept = 6 * 7; kept")
    eventually(lambda: "kept" in (room.home(ADA) / "tutorial/lab.ipynb").read_text(), patience=45)
    (room.folder / "material/lab.ipynb").write_bytes(lab("a better question"))
    room.run("send")
    tab.locator(".jp-MarkdownCell:has-text('a better question')").wait_for()
    tab.locator("text=Your teacher changed lab.ipynb").first.wait_for()
    tab.screenshot(path=tmp_path / "changed.png")
    assert not tab.locator(".jp-Dialog").count()
    run_until_it_answers(tab, tab.locator(".jp-CodeCell").nth(1), "42", code="kept")


@pytest.mark.parametrize(
    "place", ["notebooks/tutorial/lab.ipynb", pytest.param("lab/tree/tutorial/lab.ipynb", marks=pytest.mark.slow)]
)
def test_with_edits_enter_loads_what_send_changed_and_keeps_them_beside(room, page, place, tmp_path: Path):
    tab = opened(room, page, place)
    file = room.home(ADA) / "tutorial/lab.ipynb"
    mine = f"my unsaved answer in {place.partition('/')[0]}"
    typed = tab.locator(f".jp-CodeCell:has-text('{mine}')")
    while typed.count() == 0:  # JupyterLab may draw the cells again while it opens the notebook
        tab.locator(".jp-CodeCell .cm-content").last.fill(mine)
        tab.wait_for_timeout(500)
    (room.folder / "material/lab.ipynb").write_bytes(lab(f"for {place}"))
    room.run("send")
    dialog = tab.locator(".jp-Dialog:has-text('Your teacher changed this file')")
    dialog.wait_for()
    tab.screenshot(path=tmp_path / "conflict.png")
    tab.keyboard.press("Enter")
    tab.locator(f".jp-MarkdownCell:has-text('for {place}')").wait_for()
    tab.screenshot(path=tmp_path / "conflict-after.png")
    copies = [one for one in file.parent.glob("lab (mine *).ipynb") if mine in one.read_text()]
    assert len(copies) == 1 and mine in sources(copies[0].read_bytes())
    assert f"for {place}" in sources(file.read_bytes()) and mine not in file.read_text()
    assert json.loads(file.read_text())["cells"]


@pytest.fixture(scope="module")
def german_room() -> Iterator[Classroom]:
    require_browser()
    made = Classroom("nbtmsgde", [EVA], port=GERMAN_PORT, first_uid=27600)
    try:
        (made.folder / "texts.yaml").write_text("notice_hide: <b>Weg</b> damit\n")
        made.write(web={"port": GERMAN_PORT, "language": "de", "texts": "texts.yaml"})
        (made.folder / "material/lab.ipynb").write_bytes(lab("Frage"))
        made.run("setup")
        made.run("launch", "--background")
        yield made
    finally:
        made.close()


@pytest.mark.slow
def test_strip_and_question_are_in_the_language_of_the_class(driver, german_room, tmp_path: Path):
    """German as it is shipped, and a text of the teacher's, which is text there too."""
    room, viewport = german_room, {"width": 1280, "height": 900}
    with browser_page(driver, tmp_path / "home", room.paths.tls / "ca.pem", viewport=viewport) as page:
        sign_in(room, page, EVA)
        tab = opened(room, page, "notebooks/tutorial/lab.ipynb", EVA)
        at = (datetime.now() + timedelta(minutes=9)).replace(second=0, microsecond=0)
        room.run("retrieve", "--at", f"{at:%Y-%m-%d %H:%M}")
        notice = tab.locator(f"{NOTICE}[data-kind=deadline]")
        notice.wait_for()
        assert f"Die Abgabefrist endet um {at:%H:%M} Uhr, in " in notice.inner_text()
        assert "Speichern Sie Ihre Arbeit (Strg+S)" in notice.inner_text()
        assert notice.locator("button").get_attribute("aria-label") == "<b>Weg</b> damit"
        assert tab.locator("#nblauncher-notices").get_attribute("lang") == "de"
        tab.screenshot(path=tmp_path / "german-deadline.png")
        tab.locator(".jp-CodeCell .cm-content").last.fill("meine Antwort")
        (room.folder / "material/lab.ipynb").write_bytes(lab("eine bessere Frage"))
        room.run("send")
        dialog = tab.locator(".jp-Dialog")
        dialog.locator("text=Ihre Lehrkraft hat diese Datei geändert").wait_for()
        tab.screenshot(path=tmp_path / "german-conflict.png")
        labels = dialog.locator("button .jp-Dialog-buttonLabel").all_inner_texts()
        assert labels == ["Abbrechen", "Überschreiben", "Laden, meine behalten"]
        assert "„lab.ipynb“ geändert" in dialog.inner_text() and "{" not in dialog.inner_text()
        tab.keyboard.press("Enter")
        tab.locator("text=Diese Seite zeigt die geänderte").first.wait_for()
        tab.screenshot(path=tmp_path / "german-kept.png")
