"""Classes that do not start as planned, and classes of other kinds: taken ports, broken homes, no TLS, two at once."""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import shutil
import socket
import ssl
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from nblauncher.frontends import class_ca
from nblauncher.model import Account
from nblauncher.supervisor import client
from nblauncher.supervisor.ports import NO_IPV6
from nblauncher.system import workers
from tests import launched
from tests.classroom import Classroom, set_up_class
from tests.jupyter_client import JupyterClient

pytestmark = pytest.mark.system

ADA, BOB, EVE, ZOE = NAMES = ["nbtltada", "nbtltbob", "nbtlteve", "nbtltzoe"]
CARL = "nbtltcarl"
PORT, OTHER_PORT = 18220, 18230


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    with set_up_class("nbtl3", NAMES, port=PORT, first_uid=30150) as made:
        yield made


@pytest.fixture
def down(room: Classroom) -> Iterator[Classroom]:
    """Set up and not launched, with the config it began with."""
    before = dict(room.config)
    yield room
    room.run("shutdown")
    room.config = before
    room.write()


def as_student(name: str, function: Callable[..., object], *arguments: object) -> None:
    entry = pwd.getpwnam(name)
    workers.run_as(Account(name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir)), function, *arguments)


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Somebody else listens there."""
    with closing(socket.create_server(("127.0.0.1", port))):
        yield


def test_where_the_front_pages_port_is_taken_nothing_is_begun(down):
    with taken(PORT):
        said = down.run("launch", "--background", expect=1)
        assert said.stderr.count("Error:") == 1
        assert f"port {PORT} is already used by" in said.stderr and "web.port" in said.stderr
    assert client.connect(down.paths) is None
    assert not down.paths.tls.exists()
    assert "nothing to do" in down.run("shutdown").stdout


def leave_a_config(home: str) -> None:
    folder = Path(home, ".jupyter")
    folder.mkdir()
    (folder / "jupyter_server_config.py").write_text("import sys; sys.exit('my own config wants something else')\n")


def test_students_whose_servers_cannot_start_keep_nobody_else_from_theirs(down):
    as_student(BOB, leave_a_config, str(down.home(BOB)))
    as_student(EVE, os.chmod, str(down.home(EVE)), 0)
    with taken(PORT + 1):
        said = down.json("launch", "--background", expect=5)
    assert said["status"] == "partial" and len(said["errors"]) == 3
    students = launched.students(said)
    assert {name: student["status"] for name, student in students.items()} == {
        **dict.fromkeys((ADA, BOB, EVE), "failed"),
        ZOE: "done",
    }
    assert f"port {PORT + 1} is already used by" in students[ADA]["error"]
    assert "my own config wants something else" in students[BOB]["error"]
    assert "Permission denied" in students[EVE]["error"]
    for name in (BOB, EVE):
        assert "exit status 1" in students[name]["error"] and f"{name}.log" in students[name]["error"]
    assert launched.said_states(down) == {"": "ready", ADA: "stopped", BOB: "failed", EVE: "failed", ZOE: "ready"}
    reasons = {name: student["reason"] for name, student in launched.students(down.json("status")).items()}
    assert reasons[BOB] == "exit status 1"

    as_student(BOB, shutil.rmtree, str(down.home(BOB) / ".jupyter"))
    as_student(EVE, os.chmod, str(down.home(EVE)), 0o700)
    said = down.json("launch", "--background")
    assert [student["status"] for student in said["students"]] == ["done", "done", "done", "unchanged"]
    assert launched.is_ready(down)


def test_a_student_who_is_not_set_up_is_said(down):
    down.write([*NAMES, CARL])
    try:
        said = down.json("launch", "--background", "--only", CARL, "students.csv", expect=1)
        assert said["students"][0]["error"] == "not set up (Run `nblauncher setup`.)"
    finally:
        down.write(NAMES)


def test_without_tls_it_works_and_warns_and_lab_is_an_interface(down):
    down.write(tls={"mode": "off"}, notebook={"interface": "lab"}, web={"port": PORT, "names": ["class.example"]})
    said = down.run("launch", "--background", "--only", ADA)
    assert "Note: tls.mode is off" in said.stderr
    assert f"Students begin at http://class.example:{PORT}/" in said.stdout
    with launched.visitor(down, ADA) as ada:
        assert ada.http.get("", follow_redirects=True).url.path.startswith(f"/user/{ADA}/lab")
        assert ada.run("print(6 * 7)") == "42\n"
    by_name = {"Host": f"class.example:{PORT}"}
    assert httpx.get(f"http://127.0.0.1:{PORT}/", headers=by_name).status_code == 200
    assert httpx.get(f"http://127.0.0.1:{PORT}/", headers={"Host": "bank.example"}).status_code == 400


@pytest.mark.slow
def test_the_administrators_certificate_serves_the_class_when_the_key_may_be_shared(down):
    with tempfile.TemporaryDirectory(dir=down.folder) as folder:
        authority = class_ca.ensure_class_ca(Path(folder), ["localhost"], [], "somebody")
        own = class_ca.issue_leaf(authority, ["localhost"], [])
        files = {"mode": "files", "certificate": f"{folder}/site.pem", "key": f"{folder}/site.key"}
        Path(files["certificate"]).write_bytes(own.certificate)
        down.write(tls=files, web={"port": PORT, "names": ["localhost"]})
        assert "share_key_with_students" in down.run("launch", "--background", expect=3).stderr
        down.write(tls={**files, "share_key_with_students": True})
        assert "site.key" in down.run("launch", "--background", expect=3).stderr
        assert client.connect(down.paths) is None
        Path(files["key"]).write_bytes(own.key)
        said = down.run("launch", "--background", "--only", ADA)
        assert "every student can read the key" in said.stderr
        trust = ssl.create_default_context(cadata=authority.certificate.decode())
        for port, path in ((PORT, "/"), (PORT + 1, f"/user/{ADA}/api")):
            assert httpx.get(f"https://localhost:{port}{path}", verify=trust).status_code == 200
        assert down.json("launch", "--only", ADA, "--dry-run")["plan"] == []
        renewed = class_ca.issue_leaf(authority, ["localhost"], [])
        Path(files["certificate"]).write_bytes(renewed.certificate)
        Path(files["key"]).write_bytes(renewed.key)
        assert down.json("launch", "--only", ADA, "--dry-run")["plan"][-1] == "start the front page"


def without_ipv6() -> None:
    """socket(AF_INET6, …) fails as on a kernel without IPv6, for this process and all that it starts (seccomp(2))."""
    load, jump, answer = 0x20, 0x15, 0x06
    wanted = [
        (load, 0, 0, 0),
        (jump, 0, 3, {"x86_64": 41, "aarch64": 198}[os.uname().machine]),
        (load, 0, 0, 16),
        (jump, 0, 1, socket.AF_INET6),
        (answer, 0, 0, 0x00050000 | errno.EAFNOSUPPORT),
        (answer, 0, 0, 0x7FFF0000),
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in wanted))
    filters = struct.pack("HxxxxxxP", len(wanted), ctypes.addressof(program))
    if ctypes.CDLL(None, use_errno=True).prctl(22, 2, filters, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


@pytest.mark.slow
def test_on_a_host_without_ipv6_the_class_does_without_and_says_so(down):
    said = down.run("launch", "--background", "--only", ADA, preexec_fn=without_ipv6)
    assert f"Note: {NO_IPV6}" in said.stderr
    for port in (PORT, PORT + 1):
        with closing(socket.create_connection(("127.0.0.1", port))):
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("::1", port))
    with launched.visitor(down, ADA, host="127.0.0.1") as ada:
        assert ada.run("print(6 * 7)") == "42\n"


@pytest.mark.slow
def test_two_courses_run_beside_each_other_with_a_student_in_both(down):
    other = Classroom("nbtl2", [ADA], port=OTHER_PORT, first_uid=30150)
    try:
        other.run("setup")
        starting = [one.start("launch", "--background", "--only", ADA) for one in (down, other)]
        for process in starting:
            assert process.communicate(timeout=120)[0] and process.returncode == 0
        both_ready = {"": "ready", ADA: "ready"}
        assert launched.states(other) == both_ready
        assert launched.states(down) == {**both_ready, **dict.fromkeys((BOB, EVE, ZOE), "stopped")}
        with launched.visitor(down, ADA) as first, launched.own_server(other, ADA) as second:
            second.http.cookies = first.http.cookies
            page = launched.open_front_page(other, second, ADA)
            second.http.post(page["target"], data={"ticket": page["ticket"]})
            # Cookies know no ports: one browser has one jar for both.
            first.http.cookies = second.http.cookies
            assert is_signed_in(second) and is_signed_in(first)
        before = launched.handles(down)
        other.run("shutdown")
        assert launched.handles(down) == before and launched.states(down)[ADA] == "ready"
    finally:
        other.close()


def is_signed_in(browser: JupyterClient) -> bool:
    return browser.http.get("api/contents").status_code == 200
