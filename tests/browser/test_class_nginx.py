"""A student's way through nginx in a real Chromium, each at a host name of their own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nblauncher.supervisor import client
from tests.browsing import accessibility_problems, require_browser, run_until_it_answers
from tests.classroom import Classroom
from tests.running import limited_by

pytestmark = [
    pytest.mark.browser,
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("nginx", path="/usr/sbin:/usr/bin") is None, reason="NO NGINX: install nginx-light"
    ),
]

ADA = "nbtfada"
HOST, PORT = "class.example.org", 18680
OWN = f"https://{ADA}.{HOST}:{PORT}/user/{ADA}/"
NOTEBOOK = Path(__file__).parents[2] / "nblauncher/commands/samples/material/welcome.ipynb"


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    require_browser()
    made = Classroom("nbtf-hosts", [ADA], port=PORT, first_uid=26550)
    try:
        shutil.copy(NOTEBOOK, made.folder / "material/welcome.ipynb")
        made.write(web={"port": PORT, "frontend": "nginx", "routing": "hosts", "names": [HOST]})
        made.run("setup")
        made.run("launch", "--background")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def flags() -> list[str]:
    return [f"--host-resolver-rules=MAP *.{HOST} 127.0.0.1, MAP {HOST} 127.0.0.1"]


def test_a_student_arrives_at_the_own_host_and_a_kernel_answers(room, page, tmp_path: Path):
    page.goto(f"https://{HOST}:{PORT}/{ADA}")
    page.screenshot(path=tmp_path / "front.png")
    page.fill("#password", room.credentials[ADA]["notebook_password"])
    page.click("button[type=submit]")
    page.wait_for_selector(".jp-DirListing-item:has-text('welcome.ipynb')")
    assert page.url == f"{OWN}tree/tutorial"
    with page.context.expect_page() as opened:
        page.dblclick(".jp-DirListing-item:has-text('welcome.ipynb')")
    tab = opened.value
    tab.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")
    cell = tab.locator(".jp-CodeCell").first
    run_until_it_answers(tab, cell, "42 through nginx", code="print(6 * 7, 'through nginx')")
    # Memory without end: the kernel goes, and the cell says why. Without a control group it meets its own limit.
    says = "your memory was used up" if limited_by(room.course, "memory") else "MemoryError"
    cell.locator(".cm-content").fill("x = []\nwhile True: x.append(bytearray(10_000_000))")
    run_until_it_answers(tab, cell, says)
    tab.screenshot(path=tmp_path / "memory.png")


def test_who_is_not_there_looks_again_until_the_server_is(room, page, tmp_path: Path):
    room.run("shutdown", "--only", ADA)
    page.goto(f"{OWN}tree")
    page.wait_for_selector("h1:has-text('is not running')")
    page.screenshot(path=tmp_path / "away.png")
    found = accessibility_problems(page)
    supervisor = client.connect(room.paths)
    assert supervisor is not None
    with supervisor:
        supervisor.stop_front_page()
    page.goto(f"https://{HOST}:{PORT}/{ADA}?next=tree")
    page.wait_for_selector("h1:has-text('front page is closed')")
    page.screenshot(path=tmp_path / "closed.png")
    assert [*found, *accessibility_problems(page)] == []
    room.run("launch", "--background")
    page.wait_for_selector("#password")  # by itself
    assert page.url == f"https://{HOST}:{PORT}/{ADA}?next=tree"
