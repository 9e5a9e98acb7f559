"""Grading by hand in a real Chromium: marks and comments of a teacher, and what a submission cannot do there."""

from __future__ import annotations

import csv
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browsing import browser_page, chromium, fresh_page, require_browser
from tests.formgrader import Served, can_connect, hostile_cells, plant, served, submit, tunnel
from tests.graded import Graded, graded_class
from tests.packages import alone
from tests.running import eventually
from tests.taught import ADA, BOB, TEACHER

pytestmark = [pytest.mark.browser, pytest.mark.system, pytest.mark.slow, pytest.mark.group("builder")]

PORT = 27290
NAME = "grading.class.example.org"


@pytest.fixture(scope="module")
def course() -> Iterator[Graded]:
    """Two graded submissions of nbgrader's sample; ada's has what a hostile student would put into it."""
    require_browser()
    with alone(), graded_class() as made:
        made.room.write(grading={"port": PORT})
        made.room.sudo("grade", "init")
        made.quickstart()
        made.as_teacher("nbgrader", "generate_assignment", "ps1")
        for student in (ADA, BOB):
            submit(made, student, "ps1")
        made.as_teacher("nbgrader", "autograde", "ps1")
        plant(made, ADA, "ps1", hostile_cells())
        (made.course / "autograded" / ADA / "ps1" / "evil.html").write_text("<script>document.title = 'ran'</script>")
        made.room.hand_over()
        yield made


@pytest.fixture(scope="module")
def formgrader(course: Graded) -> Iterator[Served]:
    with served(course) as one, tunnel(one, PORT):
        yield one


@pytest.fixture(scope="module")
def browser(driver: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(driver, tmp_path_factory.mktemp("browser"), None) as one:
        yield one


@pytest.fixture
def page(formgrader: Served, browser: Any) -> Iterator[Any]:
    with fresh_page(browser, viewport={"width": 1280, "height": 1000}) as one:
        sign_in(one, formgrader)
        yield one


def sign_in(page: Any, formgrader: Served) -> None:
    page.goto(formgrader.url)
    page.fill("#password_input", formgrader.password)
    page.click("#login_submit")
    page.wait_for_selector("h1:has-text('Manage Assignments')")


def open_submission(page: Any, formgrader: Served, student: str) -> None:
    """By the page of the manual grader, as a teacher finds it."""
    page.goto(f"{formgrader.url}formgrader/manage_students/{student}/ps1")
    page.click("#main-table a:has-text('problem1')")
    page.wait_for_selector("textarea.comment")


def test_at_a_name_of_its_own_the_cookie_is_for_no_student(driver: Any, course: Graded, tmp_path: Path):
    """On the network: TLS with a certificate that no student has, and a port that is taken is named."""
    room = course.room
    room.write(grading={"name": NAME, "port": PORT + 1}, web={"port": room.port, "names": ["class.example.org"]})
    try:
        with socket.create_server(("", PORT + 1)):
            said = room.sudo("grade", "serve", expect=1).stderr
            assert f"port {PORT + 1} is already used by" in said and "grading.port" in said
        with served(course) as one:
            assert one.url == f"https://{NAME}:{PORT + 1}/" and one.said["tunnel"] == ""
            rules = f"--host-resolver-rules=MAP {NAME} 127.0.0.1"
            with browser_page(driver, tmp_path / "home", room.paths.tls / "ca.pem", rules) as page:
                sign_in(page, one)
                (cookie,) = [each for each in page.context.cookies() if each["name"].startswith("__Host-")]
                assert cookie["domain"] == NAME and cookie["secure"] and cookie["httpOnly"]
                assert cookie["sameSite"] == "Strict" and cookie["expires"] == -1
            begin = time.monotonic()
            one.process.send_signal(signal.SIGINT)
            assert one.process.wait(10) == 0 and time.monotonic() - begin < 10
    finally:
        room.write(grading={"port": PORT}, web={"port": room.port})


def test_a_killed_command_takes_the_formgrader_with_it(course: Graded):
    course.room.write(
        grading={"name": NAME, "port": PORT + 1}, web={"port": course.room.port, "names": ["class.example.org"]}
    )
    try:
        with served(course) as one:
            (server,) = one.servers()
            one.process.kill()
            eventually(lambda: not Path(f"/proc/{server}").exists())
    finally:
        course.room.write(grading={"port": PORT}, web={"port": course.room.port})


def test_a_mark_and_a_comment_by_hand_end_up_in_feedback_and_csv(course, formgrader, page, tmp_path: Path):
    page.wait_for_selector("#main-table a:has-text('ps1')")
    page.screenshot(path=tmp_path / "1-assignments.png")
    page.goto(f"{formgrader.url}formgrader/manage_submissions/ps1")
    page.wait_for_selector(f"#main-table :text('{BOB}')")
    page.screenshot(path=tmp_path / "2-submissions.png")
    open_submission(page, formgrader, BOB)
    page.wait_for_load_state("networkidle")
    panel = page.locator(".nbgrader_cell:has(textarea.comment):has(input.score)").first
    panel.locator("input.score").fill("0.75")
    panel.locator("input.score").press("Tab")
    panel.locator("textarea.comment").fill("A clear argument, but the last step is missing.")
    panel.locator("textarea.comment").press("Tab")
    page.screenshot(path=tmp_path / "3-submission.png", full_page=True)
    page.wait_for_load_state("networkidle")
    comments = f"[c.manual_comment for n in book.find_submission('ps1', '{BOB}').notebooks for c in n.comments]"
    eventually(lambda: "A clear argument, but the last step is missing." in course.gradebook(comments))
    marks = f"[g.manual_score for n in book.find_submission('ps1', '{BOB}').notebooks for g in n.grades]"
    assert 0.75 in course.gradebook(marks)
    course.as_teacher("nbgrader", "generate_feedback", "ps1", "--student", BOB)
    shown = (course.course / "feedback" / BOB / "ps1" / "problem1.html").read_text()
    assert "the last step is missing" in shown
    course.as_teacher("nbgrader", "export")
    with (course.course / "grades.csv").open() as file:
        scores = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    assert scores[BOB] == scores[ADA] + 0.75


def test_nothing_of_a_submission_runs_in_the_teachers_tab(formgrader, page, tmp_path: Path):
    open_submission(page, formgrader, ADA)
    page.wait_for_load_state("networkidle")
    page.screenshot(path=tmp_path / "hostile.png", full_page=True)
    assert page.locator(":text('an honest table')").count()
    assert page.evaluate("window.ran") is None
    assert not page.locator("#notebook script[src*=evil], #notebook iframe, #notebook [onerror]").count()
    with pytest.raises(Exception, match="Content Security Policy"):
        page.add_script_tag(content="window.ran = 1")
    page.goto(f"{page.url.partition('?')[0].rstrip('/')}/evil.html")
    assert page.title() != "ran"


def test_the_buttons_that_run_students_code_as_the_teacher_refuse(formgrader, page, tmp_path: Path):
    page.goto(f"{formgrader.url}formgrader/manage_submissions/ps1")
    page.locator(".autograde a").first.click()
    page.wait_for_selector(":text('nblauncher grade')")
    page.screenshot(path=tmp_path / "autograde.png")


def test_another_folders_config_is_never_loaded(formgrader, page, tmp_path: Path):
    (tmp_path / "nbgrader_config.py").write_text("raise SystemExit('ran')")
    page.goto(f"{formgrader.url}formgrader?path={tmp_path}")
    page.wait_for_selector("h1:has-text('Manage Assignments')")
    assert page.locator("h1:has-text('Manage Assignments')").count()


@pytest.mark.parametrize("interface", ["lab", "tree"])
def test_lab_and_notebook_show_the_formgrader_in_a_tab(formgrader, page, tmp_path: Path, interface):
    page.goto(f"{formgrader.url}{interface}")
    page.wait_for_selector(".jp-DirListing-item:has-text('gradebook.db')")
    page.click(".lm-MenuBar-itemLabel:has-text('Nbgrader')")
    page.screenshot(path=tmp_path / f"{interface}-menu.png")
    with page.expect_event("framenavigated", lambda frame: "manage_assignments" in frame.url):
        page.click(".lm-Menu-itemLabel:has-text('Formgrader')")
    page.wait_for_timeout(2000)
    page.screenshot(path=tmp_path / f"{interface}-formgrader.png")
    frame = next(frame for frame in page.frames if "manage_assignments" in frame.url)
    frame.wait_for_selector("#main-table a:has-text('ps1')")


def test_only_the_teacher_reaches_the_socket_and_only_with_the_password(course, formgrader):
    assert not can_connect(ADA, formgrader.socket)
    assert can_connect(TEACHER, formgrader.socket)
    with client(formgrader) as browser:
        assert browser.get("/formgrader/api/assignments").status_code in (302, 403)
        assert "/formgrader/api/assignments" not in sign_in_by_form(browser, "abcd-efgh-jkmn-pqrs").headers.get(
            "location", ""
        )
        assert browser.get("/formgrader/api/assignments").status_code in (302, 403)
        assert sign_in_by_form(browser, formgrader.password).status_code == 302
        assert browser.get("/formgrader/api/assignments").status_code == 200
        for foreign in (
            {"Sec-Fetch-Site": "same-site"},
            {"Origin": "http://localhost:8001"},
            {"Host": "class.example.org"},
        ):
            assert browser.get("/formgrader/api/assignments", headers=foreign).status_code == 403


def test_the_password_is_nowhere_but_on_the_terminal(course, formgrader):
    logs = "".join(file.read_text() for file in course.room.paths.logs.iterdir() if file.is_file())
    assert "grade" in logs and formgrader.password not in logs
    for pid in (formgrader.process.pid, *formgrader.servers()):
        said = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
        assert formgrader.password.encode() not in b"".join(said)
    assert {Path(f"/proc/{pid}").stat().st_uid for pid in formgrader.servers()} == {course.room.uid}


def test_one_is_open_at_a_time_and_it_ends_with_the_command(course, formgrader):
    said = course.room.sudo("grade", "serve", expect=6).stderr
    assert "is open already" in said
    (server,) = formgrader.servers()
    assert Path(f"/proc/{server}").exists()


def client(formgrader: Served) -> httpx.Client:
    return httpx.Client(
        transport=httpx.HTTPTransport(uds=formgrader.socket),
        base_url=formgrader.url,
        follow_redirects=False,
        timeout=30,
    )


def sign_in_by_form(browser: httpx.Client, password: str) -> httpx.Response:
    browser.get("/login")
    return browser.post("/login", data={"_xsrf": browser.cookies["_xsrf"], "password": password})
