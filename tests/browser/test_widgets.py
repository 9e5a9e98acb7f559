"""A slider of ipywidgets, a package of the course's own, in a real Chromium: in Notebook and in Lab."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browsing import require_browser, run_until_it_answers
from tests.classroom import Classroom
from tests.notebooks import cell, notebook
from tests.running import eventually

pytestmark = [pytest.mark.browser, pytest.mark.system, pytest.mark.group("builder"), pytest.mark.slow]

STUDENT = "nbtlslider"
PORT = 28840
CODE = "import ipywidgets\n@ipywidgets.interact(x=(0, 10))\ndef show(x):\n    print('x is', x)"


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    require_browser()
    made = Classroom("nbtlw", [STUDENT], port=PORT, first_uid=32800)
    try:
        kernel = {"name": "python3", "display_name": "Python 3"}
        (made.folder / "material/slider.ipynb").write_bytes(notebook(cell(CODE, "s"), kernelspec=kernel))
        made.write(notebook={"requirements": ["ipywidgets"], "preload": []})
        made.run("setup", timeout=600)
        made.run("launch", "--background")
        yield made
    finally:
        made.close()
        shutil.rmtree(made.paths.environments, ignore_errors=True)


@pytest.mark.parametrize("place", ["notebooks/tutorial/slider.ipynb", "lab/tree/tutorial/slider.ipynb"])
def test_a_slider_is_seen_and_moves(room, page, place, tmp_path: Path):
    page.goto(f"https://localhost:{PORT}/{STUDENT}")
    page.fill("#password", room.credentials[STUDENT]["notebook_password"])
    page.click("button[type=submit]")
    page.wait_for_selector(".jp-DirListing-item:has-text('slider.ipynb')")
    page.goto(f"https://localhost:{PORT + 1}/user/{STUDENT}/{place}")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")
    run_until_it_answers(page, page.locator(".jp-CodeCell").first, "x is 5")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")
    slider = page.locator(".jupyter-widgets .slider-container").first
    slider.wait_for()
    page.screenshot(path=tmp_path / "slider.png")
    box = slider.bounding_box()
    moved = page.locator(".jp-OutputArea-output").get_by_text(re.compile("x is ([6-9]|10)")).first
    at = box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2
    eventually(lambda: page.mouse.click(*at) or moved.is_visible())
