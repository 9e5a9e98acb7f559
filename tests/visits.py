"""A teacher who follows a link of `nblauncher open`, without a browser."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx

from tests import launched
from tests.classroom import Classroom
from tests.jupyter_client import JupyterClient


def follow(room: Classroom, teacher: JupyterClient, name: str) -> httpx.Response:
    """Make a link and use it: where the teacher arrives."""
    return arrive(teacher, tickets(teacher, room.json("open", name)["link"]))


def tickets(teacher: JupyterClient, link: str, host: str = "localhost") -> dict[str, str]:
    """Press the button of the link's page: where the next form leads (`target`), and its ticket. `host` is the one by
    which the test reaches the front page.
    """
    address, _, secret = link.partition("#")
    address = re.sub(r"//[^/:]+", f"//{host}", address)
    answer = teacher.http.post(address, data={"link": secret})
    while waiting := re.search(r'name="waiting" value="([^"]+)"', answer.text):
        time.sleep(0.5)
        answer = teacher.http.post(address, data={"waiting": waiting[1]})
    assert answer.status_code == 200, answer.text
    found = re.search(r'action="([^"]+)"[^>]*>\s*<input type="hidden" name="ticket" value="([^"]+)"', answer.text)
    assert found, answer.text
    return {"target": found[1], "ticket": found[2]}


def arrive(teacher: JupyterClient, given: dict[str, str]) -> httpx.Response:
    return teacher.http.post(given["target"], data={"ticket": given["ticket"]}, follow_redirects=True)


def shown(browser: JupyterClient) -> list[tuple[str, str]]:
    """Kind and text of what the pages of a signed-in client show."""
    found: list[dict[str, Any]] = browser.api("GET", "nblauncher/notices").json()["notices"]
    return [(one["kind"], one["text"]) for one in found]


def new_teacher(room: Classroom, name: str, host: str = "localhost") -> JupyterClient:
    """A private window of the teacher's, for this student's server."""
    return launched.own_server(room, name, host)
