"""A launched class from outside: how its servers are, and students who arrive at the front page."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil

from nblauncher.model import Handle
from nblauncher.supervisor import client
from nblauncher.supervisor.client import FrontPageReport
from nblauncher.supervisor.specs import ServerReport
from tests.classroom import Classroom
from tests.jupyter_client import JupyterClient


def said_states(room: Classroom) -> dict[str, str]:
    """Each student's server, and "" for the front page, by `status --json`."""
    said = room.json("status")
    return {"": said["front_page_state"], **{one["username"]: one["server"] for one in said["students"]}}


def states(room: Classroom) -> dict[str, str]:
    """The same by the supervisor's word, without the command; empty without a supervisor."""
    supervisor = client.connect(room.paths)
    if supervisor is None:
        return {}
    with supervisor:
        servers = {report.username: report.state.value for report in supervisor.servers()}
        return {"": supervisor.front_page().state.value, **servers}


def is_ready(room: Classroom) -> bool:
    return states(room) == dict.fromkeys(["", *room.names], "ready")


def handles(room: Classroom) -> dict[str, Handle | None]:
    """pid and start time of each student's server."""
    supervisor = client.connect(room.paths)
    assert supervisor is not None
    with supervisor:
        return {report.username: report.handle for report in supervisor.servers()}


def reports(room: Classroom) -> dict[str, ServerReport]:
    supervisor = client.connect(room.paths)
    assert supervisor is not None
    with supervisor:
        return {report.username: report for report in supervisor.servers()}


def front_page(room: Classroom) -> FrontPageReport:
    supervisor = client.connect(room.paths)
    assert supervisor is not None
    with supervisor:
        return supervisor.front_page()


def supervisor_pid(room: Classroom) -> int:
    supervisor = client.connect(room.paths)
    assert supervisor is not None
    with supervisor:
        return supervisor.hello().pid


def port_of(room: Classroom, name: str) -> int:
    return room.port + 1 + room.names.index(name)


def own_server(room: Classroom, name: str, host: str = "localhost") -> JupyterClient:
    """A browser that has not signed in yet, at the student's own address."""
    ca = room.paths.tls / "ca.pem" if room.config.get("tls", {}).get("mode", "class-ca") == "class-ca" else None
    return JupyterClient(name, port_of(room, name), ca, host)


@contextmanager
def visitor(
    room: Classroom, name: str, password: str | None = None, host: str = "localhost", **ticked: str
) -> Iterator[JupyterClient]:
    """A student who came through the front page and is signed in at their own server. `ticked` are the form's other
    fields.
    """
    with own_server(room, name, host) as browser:
        page = open_front_page(room, browser, name, password, **ticked)
        target = page.pop("target")
        arrived = browser.http.post(target, data=page, follow_redirects=True)
        assert arrived.status_code == 200, arrived.text
        yield browser


def open_front_page(
    room: Classroom, browser: JupyterClient, name: str, password: str | None = None, **ticked: str
) -> dict[str, str]:
    """Fill in the front page's form: where the next form leads (`target`), and the fields it has."""
    front = re.sub(r":[0-9]+$", f":{room.port}", browser.origin)
    assert 'name="password"' in browser.http.get(f"{front}/{name}").text
    typed = room.credentials[name]["notebook_password"] if password is None else password
    answer = browser.http.post(f"{front}/", data={"username": name, "password": typed, **ticked})
    assert "set-cookie" not in answer.headers
    while "waiting" in (fields := _hidden_fields(answer)):
        time.sleep(0.5)  # the server is starting: the page's script asks again
        answer = browser.http.post(f"{front}/", data=fields)
    target = re.search(r'<form method="post" action="([^"]+)"', answer.text)
    assert target and "ticket" in fields, answer.text
    return {"target": target[1], **fields}


def _hidden_fields(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 200, answer.text
    return dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]+)"', answer.text))


def foreground(room: Classroom, *arguments: str) -> subprocess.Popen[str]:
    """`launch` in the foreground, once the class is ready."""
    process = room.start("launch", *arguments)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "servers are ready" in line, (line, process.communicate())
    return process


def processes_of(uid: int) -> list[psutil.Process]:
    """Those that still run; who reaps the dead is none of our business."""
    found = []
    for one in psutil.process_iter(["uids", "status"]):
        if one.info["uids"] and one.info["uids"].real == uid and one.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(one)
    return found


def answers(browser: JupyterClient) -> bool:
    """Whether the student's server answers; without signing in."""
    try:
        return browser.http.get("api").status_code == 200
    except httpx.TransportError:
        return False


def students(said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The students of a JSON envelope by name."""
    return {one["username"]: one for one in said["students"]}
