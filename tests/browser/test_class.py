"""A student's first hour in a real Chromium: sign-in, the material, a cell, its output, and the work that is kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.classroom import Classroom
from tests.running import eventually

pytestmark = [pytest.mark.browser, pytest.mark.system]

sync_api = pytest.importorskip("playwright.sync_api", reason="NO BROWSER TEST: the package playwright is missing")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CERTUTIL = shutil.which("certutil")
STUDENT = "nbtlwalker"
PORT = 18240
FLAGS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
LESSON = "01-first-steps.ipynb"
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    """The sample class's material, launched for one student."""
    if CHROMIUM is None or CERTUTIL is None:
        pytest.skip("NO BROWSER TEST: install chromium and certutil (libnss3-tools)")
    made = Classroom("nbtl1", [STUDENT], port=PORT, first_uid=30000)
    try:
        shutil.copytree(EXAMPLES, made.folder / "material", dirs_exist_ok=True)
        made.run("setup")
        made.run("launch", "--background")
        yield made
    finally:
        made.close()


@pytest.fixture
def page(room: Classroom, tmp_path: Path):
    """A browser in which the class CA was installed, as docs/browser.md says."""
    store = tmp_path / "home/.pki/nssdb"
    store.mkdir(parents=True)
    database = ["-d", f"sql:{store}"]
    subprocess.run([CERTUTIL, *database, "-N", "--empty-password"], check=True)
    authority = str(room.paths.tls / "ca.pem")
    subprocess.run([CERTUTIL, *database, "-A", "-t", "C,,", "-n", "class", "-i", authority], check=True)
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS, env={**os.environ, "HOME": str(tmp_path / "home")}
        )
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        context.set_default_timeout(60_000)
        yield context.new_page()
        chromium.close()


def run_until_it_answers(notebook, cell):
    """On a busy machine the first key may come before the notebook listens; running a cell twice does no harm."""
    output = cell.locator(".jp-OutputArea-output").first
    for _ in range(6):
        cell.locator(".cm-content").click()
        notebook.keyboard.press("Shift+Enter")
        try:
            output.wait_for(timeout=10_000)
            return
        except sync_api.TimeoutError:
            continue
    output.wait_for()


def test_a_student_finds_the_material_runs_it_and_the_work_is_kept(room, page, tmp_path: Path):
    page.goto(f"https://localhost:{PORT}/{STUDENT}")
    page.screenshot(path=tmp_path / "1-landing.png")
    assert page.input_value("#username") == STUDENT
    page.fill("#password", room.credentials[STUDENT]["notebook_password"])
    page.click("button[type=submit]")

    page.wait_for_selector(f".jp-DirListing-item:has-text('{LESSON}')")
    page.screenshot(path=tmp_path / "2-material.png")
    assert page.url == f"https://localhost:{PORT + 1}/user/{STUDENT}/tree/tutorial"
    with page.context.expect_page() as opened:
        page.dblclick(f".jp-DirListing-item:has-text('{LESSON}')")
    notebook = opened.value
    notebook.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")

    cell = notebook.locator(".jp-CodeCell").first
    run_until_it_answers(notebook, cell)
    notebook.screenshot(path=tmp_path / "3-output.png")
    cell.locator(".cm-content").fill("print(6 * 7, 'is what I found')")
    notebook.keyboard.press("Shift+Enter")
    notebook.wait_for_selector(".jp-OutputArea-output:has-text('42 is what I found')")
    notebook.screenshot(path=tmp_path / "4-own-cell.png")

    # Nobody presses save.
    file = room.home(STUDENT) / "tutorial" / LESSON
    eventually(lambda: "42 is what I found" in file.read_text(), patience=45)
    outputs = [cell.get("outputs") for cell in json.loads(file.read_text())["cells"]]
    assert any("42 is what I found" in json.dumps(one) for one in outputs)
    room.run("retrieve")
    kept = room.folder / "retrieved/latest" / STUDENT / "work" / LESSON
    assert kept.read_bytes() == file.read_bytes()
