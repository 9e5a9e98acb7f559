"""A student's first hour in a real Chromium: sign-in, the material, a cell, its output, and the work that is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browsing import require_browser, run_until_it_answers
from tests.classroom import Classroom
from tests.notebooks import cell, notebook, sources
from tests.running import eventually

pytestmark = [pytest.mark.browser, pytest.mark.system]

STUDENT = "nbtlwalker"
PORT = 18240
LESSON = "01-first-steps.ipynb"
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    """The sample class's material, launched for one student."""
    require_browser()
    made = Classroom("nbtlc", [STUDENT], port=PORT, first_uid=30200)
    try:
        shutil.copytree(EXAMPLES, made.folder / "material", dirs_exist_ok=True)
        made.write(material={"source": "material", "target": "tutorial", "trust": True})
        (made.folder / "material/lab.ipynb").write_bytes(lab("question"))
        made.write(notebook={})  # as it is by default
        made.run("setup")
        made.run("launch", "--background")
        yield made
    finally:
        made.close()


def lab(question: str) -> bytes:
    """A lesson with a script among its saved outputs."""
    html = {"text/html": "<p>saved</p><script>window.savedScriptHasRun = true</script>"}
    saved = {"output_type": "display_data", "data": html, "metadata": {}}
    cells = cell(question, "q", "markdown"), cell("pass", "s") | {"outputs": [saved]}, cell("answer", "a")
    return notebook(*cells, kernelspec={"name": "python3", "display_name": "Python 3"})


def opened_lesson(room, page, lesson: str, tmp_path: Path):
    """Sign in, see the material, open a notebook: its tab."""
    page.goto(f"https://localhost:{PORT}/{STUDENT}")
    page.screenshot(path=tmp_path / "1-landing.png")
    assert page.input_value("#username") == STUDENT
    page.fill("#password", room.credentials[STUDENT]["notebook_password"])
    page.click("button[type=submit]")
    page.wait_for_selector(f".jp-DirListing-item:has-text('{lesson}')")
    page.screenshot(path=tmp_path / "2-material.png")
    assert page.url == f"https://localhost:{PORT + 1}/user/{STUDENT}/tree/tutorial"
    with page.context.expect_page() as opened:
        page.dblclick(f".jp-DirListing-item:has-text('{lesson}')")
    opened.value.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")
    return opened.value


def test_a_student_finds_the_material_runs_it_and_the_work_is_kept(room, page, tmp_path: Path):
    tab = opened_lesson(room, page, LESSON, tmp_path)
    first = tab.locator(".jp-CodeCell").first
    run_until_it_answers(tab, first)
    tab.screenshot(path=tmp_path / "3-output.png")
    first.locator(".cm-content").fill("print(6 * 7, 'is what I found')")
    tab.keyboard.press("Shift+Enter")
    tab.wait_for_selector(".jp-OutputArea-output:has-text('42 is what I found')")
    tab.screenshot(path=tmp_path / "4-own-cell.png")

    # Nobody presses save.
    file = room.home(STUDENT) / "tutorial" / LESSON
    eventually(lambda: "42 is what I found" in file.read_text(), patience=45)
    outputs = [one.get("outputs") for one in json.loads(file.read_text())["cells"]]
    assert any("42 is what I found" in json.dumps(one) for one in outputs)
    room.run("retrieve")
    kept = room.folder / "retrieved/latest" / STUDENT / "work" / LESSON
    assert kept.read_bytes() == file.read_bytes()


def test_an_update_that_comes_while_the_notebook_is_open_loses_nothing(room, page, tmp_path: Path):
    """The page asks; the student's unsaved edit is there until the student says otherwise."""
    tab = opened_lesson(room, page, "lab.ipynb", tmp_path)
    tab.wait_for_function("window.savedScriptHasRun === true")  # material.trust
    file = room.home(STUDENT) / "tutorial/lab.ipynb"
    answer = tab.locator(".jp-CodeCell .cm-content").last

    def is_typed() -> bool:  # a page that is still loading may put the notebook's own text back
        answer.fill("my unsaved answer")
        tab.wait_for_timeout(1000)
        return "my unsaved answer" in answer.inner_text()

    eventually(is_typed)
    (room.folder / "material/lab.ipynb").write_bytes(lab("a better question"))
    assert "updated" in room.run("send").stdout
    assert sources(file.read_bytes()) == ["a better question", "pass", "answer"]
    tab.wait_for_selector(".jp-Dialog:has-text('Your teacher changed')")
    tab.screenshot(path=tmp_path / "5-changed.png")
    assert "my unsaved answer" in answer.inner_text()
    buttons = tab.locator(".jp-Dialog-button").all_inner_texts()
    assert [text.strip() for text in buttons] == ["Cancel", "Overwrite", "Load it, keep mine beside"]
    assert sources(file.read_bytes()) == ["a better question", "pass", "answer"]
    tab.click(".jp-Dialog-button:has-text('Overwrite')")
    # Jupyter empties the file before it writes: only what is whole is looked at.
    eventually(lambda: b"my unsaved answer" in file.read_bytes() and file.read_bytes().endswith(b"}\n"), patience=45)
    assert sources(file.read_bytes()) == ["question", "pass", "my unsaved answer"]
    # The next correction is merged into what the student chose to keep.
    (room.folder / "material/lab.ipynb").write_bytes(lab("the best question"))
    assert "conflict" in room.run("send").stdout
    assert "my unsaved answer" in sources(file.read_bytes())
    assert "the best question" in sources(file.read_bytes())
