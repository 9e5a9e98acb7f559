"""What a student meets in Chromium with and without the class CA, counted on a real class (docs/browser.md)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browsing import CHROMIUM, browser_page, require_browser, run_until_it_answers, sync_api
from tests.classroom import Classroom

pytestmark = [pytest.mark.browser, pytest.mark.system, pytest.mark.slow]

STUDENT = "nbtdwalker"
PORT = 19120
FRONT_PAGE = f"https://localhost:{PORT}/"
OWN_SERVER = f"https://localhost:{PORT + 1}/user/{STUDENT}/"
NOTEBOOK = Path(__file__).parents[2] / "nblauncher/commands/samples/material/welcome.ipynb"


@pytest.fixture(scope="module")
def classroom() -> Iterator[Classroom]:
    """A launched class of one student."""
    require_browser(CHROMIUM)
    made = Classroom("nbtdwarn", [STUDENT], port=PORT, first_uid=29000)
    try:
        shutil.copy(NOTEBOOK, made.folder / "material/welcome.ipynb")
        made.run("setup")
        made.run("launch", "--background")
        yield made
    finally:
        made.close()


@pytest.fixture(params=["stranger", "trusted"])
def visit(request, driver, classroom, tmp_path: Path) -> Iterator[Visit]:
    """A fresh Chromium that has never heard of the class, or that was told to trust its CA."""
    has_ca = request.param == "trusted"
    authority = classroom.paths.tls / "ca.pem" if has_ca else None
    with browser_page(driver, tmp_path / "home", authority, program=CHROMIUM) as page:
        yield Visit(page, tmp_path, has_ca=has_ca)


class Visit:
    """A student at the browser, who goes on at every warning and counts them."""

    def __init__(self, page: Any, pictures: Path, *, has_ca: bool) -> None:
        self.page, self.has_ca = page, has_ca
        self.warned_about: list[str] = []
        self._pictures = pictures

    def go(self, address: str) -> None:
        try:
            self.page.goto(address)
        except sync_api.Error as error:
            assert "ERR_CERT_AUTHORITY_INVALID" in str(error)

    def arrive(self, selector: str, address: str) -> None:
        """Wait for a page, and on the way for a warning."""
        self.page.wait_for_selector(f"{selector}, #proceed-link", state="attached")
        if self.page.query_selector("#proceed-link") is not None:
            self.go_on(address)
            self.page.wait_for_selector(selector)
        self.page.screenshot(path=self._pictures / f"{selector.strip('#.')}.png")

    def go_on(self, address: str) -> None:
        """Past the warning that is shown."""
        self.page.wait_for_selector("#details-button")
        self.warned_about.append(address)
        self.page.screenshot(path=self._pictures / f"warning-{len(self.warned_about)}.png")
        self.page.click("#details-button")
        self.page.click("#proceed-link")
        self.page.wait_for_url("**", wait_until="commit")

    def open_notebook_and_run_a_cell(self) -> None:
        """The kernel talks over a WebSocket, for which a browser shows no warning: it works or it does not."""
        with self.page.context.expect_page() as opened:
            self.page.dblclick(".jp-DirListing-item:has-text('welcome.ipynb')")
        notebook = opened.value
        notebook.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")
        assert notebook.query_selector("#proceed-link") is None
        cell = notebook.locator(".jp-CodeCell").first
        run_until_it_answers(notebook, cell, "42 from the kernel", code="print(6 * 7, 'from the kernel')")
        notebook.screenshot(path=self._pictures / "notebook.png")


def test_signing_in_at_the_front_page_shows_two_warnings_without_the_class_ca_and_none_with_it(visit, classroom):
    visit.go(FRONT_PAGE)
    visit.arrive("#username", FRONT_PAGE)
    visit.page.fill("#username", STUDENT)
    visit.page.fill("#password", classroom.credentials[STUDENT]["notebook_password"])
    visit.page.click("button[type=submit]")
    visit.arrive(".jp-DirListing-item", OWN_SERVER)
    assert visit.page.url == f"{OWN_SERVER}tree/tutorial"
    visit.open_notebook_and_run_a_cell()
    assert visit.warned_about == ([] if visit.has_ca else [FRONT_PAGE, OWN_SERVER])


def test_a_bookmark_of_the_own_server_shows_two_warnings_without_the_class_ca_and_asks_for_the_password(
    visit, classroom
):
    visit.go(OWN_SERVER)
    if not visit.has_ca:
        visit.go_on(OWN_SERVER)
    visit.arrive("#password", FRONT_PAGE)
    assert visit.page.input_value("#username") == STUDENT
    visit.page.fill("#password", classroom.credentials[STUDENT]["notebook_password"])
    visit.page.click("button[type=submit]")
    visit.arrive(".jp-DirListing-item", OWN_SERVER)
    assert visit.warned_about == ([] if visit.has_ca else [OWN_SERVER, FRONT_PAGE])
