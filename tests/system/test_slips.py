"""slips and mail of a real class: files of the teacher's, a real mail server on loopback, no root in between."""

from __future__ import annotations

import json
import os
import pwd
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from nblauncher.accounts import SYSTEM_ACCOUNTS
from nblauncher.auth import passwords
from tests import envelope
from tests.classroom import Classroom, set_up_class
from tests.mail_server import PASSWORD, USER, MailServer, mail_server
from tests.running import eventually
from tests.taught import ADA, BOB, Taught, taught_class

pytestmark = pytest.mark.system

HOSTILE = '"<img src=file:///etc/passwd> محمد\nBcc: eve@evil.example"'


@pytest.fixture(scope="module")
def room() -> Iterator[Taught]:
    with taught_class() as made:
        enrol(made)
        yield made


@pytest.fixture(scope="module")
def rooted() -> Iterator[Classroom]:
    """A course of root's."""
    with set_up_class("nbtsl1", ["nbtslada"], port=20210, first_uid=27100) as made:
        yield made


@pytest.fixture
def server(room: Taught, tmp_path: Path) -> Iterator[MailServer]:
    with mail_server(tmp_path) as made:
        use(room, made)
        yield made
        room.paths.mailed.unlink(missing_ok=True)


def enrol(room: Taught, bobs: str = "bob@uni.example") -> None:
    rows = f"{ADA},{HOSTILE},ada@uni.example,Monday,A1\n{BOB},李小龍,{bobs},Monday,A2\n"
    (room.folder / "students.csv").write_text(f"username,name,email,section,seat\n{rows}", encoding="utf-8")
    room.hand_over()


def use(room: Classroom, server: MailServer, **more: str) -> None:
    """Write the config's section `mail`, and the login beside it."""
    (room.folder / "ca.pem").write_bytes(server.authority.read_bytes())
    login = room.folder / "mail-login"
    login.write_text(f"{USER}\n{PASSWORD}\n")
    login.chmod(0o600)
    given = {"host": "localhost", "port": server.port, "from": "Übung <kim@uni.example>"}
    room.config["mail"] = given | {"login": "mail-login", "authority": "ca.pem"} | more
    (room.folder / "notebooks.cfg").write_text(json.dumps(room.config))
    if isinstance(room, Taught):
        room.hand_over()


def asked(room: Taught, *words: str, expect: int = 0) -> dict[str, Any]:
    answer = room.sudo(*words, "--json", expect=expect)
    return envelope.checked(answer.stdout, expect, words[0], is_dry_run="--dry-run" in words)


def secrets(room: Classroom) -> list[str]:
    rows = room.credentials.values()
    return [row[column] for row in rows for column in ("notebook_password", "system_password")]


def assert_the_teachers_alone(file: Path, room: Taught) -> None:
    status = file.lstat()
    assert stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o600 and status.st_uid == room.uid


def client_of(port: int) -> psutil.Process:
    """The process that is connected to the mail server."""
    pids = {one.pid for one in psutil.net_connections("tcp") if one.raddr and one.raddr.port == port and one.pid}
    (found,) = pids - {os.getpid()}
    return psutil.Process(found)


def test_a_slip_has_what_opens_the_front_page_and_is_the_teachers_alone(room: Taught) -> None:
    answer = asked(room, "slips", "--html", "cards.html")
    assert {one["has_password"] for one in answer["students"]} == {True}
    file = room.folder / "cards.html"
    assert_the_teachers_alone(file, room)
    text = file.read_text(encoding="utf-8")
    hashes = json.loads(room.paths.hashes.read_text())
    for name, row in room.credentials.items():
        assert row["notebook_password"] in text and row["system_password"] in text and row["url"] in text
        assert passwords.is_right(row["notebook_password"], hashes[name])
    assert "<img" not in text and "&lt;img src=file:///etc/passwd&gt; محمد" in text
    log = (room.paths.logs / "nblauncher.log").read_text()
    assert not [one for one in secrets(room) if one in log]


def test_a_pdf_is_made_for_the_teacher_and_for_root(room: Taught, rooted: Classroom) -> None:
    pytest.importorskip("weasyprint", exc_type=Exception)
    asked(room, "slips")
    asked(room, "slips", "--only", ADA)
    for name in ("slips.pdf", f"slips-only-{ADA}.pdf"):
        assert_the_teachers_alone(room.folder / name, room)
    rooted.run("slips", "--pdf", "cards.pdf", "--paper", "letter")
    for file in (room.folder / "slips.pdf", rooted.folder / "cards.pdf"):
        assert file.read_bytes().startswith(b"%PDF-") and stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_password_that_opens_nothing_is_not_printed_and_the_student_is_named(room: Taught) -> None:
    file = room.folder / "credentials.csv"
    good = file.read_bytes()
    old = room.credentials[ADA]["notebook_password"]
    file.write_bytes(good.replace(old.encode(), b"abcd-efgh-jkmn-pqrs"))
    try:
        answer = asked(room, "slips", "--html", "cards.html", expect=5)
        assert {one["username"]: one["has_password"] for one in answer["students"]} == {ADA: False, BOB: True}
        text = (room.folder / "cards.html").read_text(encoding="utf-8")
        assert "abcd-efgh-jkmn-pqrs" not in text and "not known any more" in text
        file.unlink()
        answer = asked(room, "slips", "--html", "cards.html", expect=1)
        assert "not known any more" in answer["errors"][0]
    finally:
        file.write_bytes(good)
        file.chmod(0o600)
        room.hand_over()


def test_nothing_that_students_get_may_hold_the_slips(room: Taught) -> None:
    room.folder.joinpath("handy").symlink_to("material", target_is_directory=True)
    for place in ("material/cards.html", "handy/cards.html", "grading/../material/cards.html"):
        assert "handed out to every student" in asked(room, "slips", "--html", place, expect=4)["errors"][0]
    assert not (room.folder / "material" / "cards.html").exists()


def test_a_link_in_its_place_is_replaced_and_never_followed(room: Taught) -> None:
    roster = (room.folder / "students.csv").read_bytes()
    (room.folder / "linked.html").symlink_to("students.csv")
    asked(room, "slips", "--html", "linked.html")
    assert_the_teachers_alone(room.folder / "linked.html", room)
    assert (room.folder / "students.csv").read_bytes() == roster


def test_what_the_teacher_may_not_write_root_does_not_write(room: Taught) -> None:
    assert "could not be written" in asked(room, "slips", "--html", "/etc/nbts-cards.html", expect=1)["errors"][0]
    assert not Path("/etc/nbts-cards.html").exists()


def test_every_student_gets_their_own_slip_once(room: Taught, server: MailServer) -> None:
    assert asked(room, "mail", "--dry-run")["plan"] == [
        f"mail {ADA} at ada@uni.example",
        f"mail {BOB} at bob@uni.example",
    ]
    server.refused = {"bob@uni.example"}
    answer = asked(room, "mail", "--subject", "Prüfung ✓", expect=5)
    assert {one["username"]: bool(one["mailed"]) for one in answer["students"]} == {ADA: True, BOB: False}
    assert server.recipients == ["ada@uni.example"] and server.to("ada@uni.example")["subject"] == "Prüfung ✓"
    plain = server.to("ada@uni.example").get_body(("plain",))
    assert plain is not None
    text = plain.get_content()
    mine, others = room.credentials[ADA], room.credentials[BOB]
    assert mine["notebook_password"] in text and others["notebook_password"] not in text
    server.refused = set()
    asked(room, "mail")
    assert server.recipients == ["ada@uni.example", "bob@uni.example"]
    assert "nothing to do" in room.sudo("mail").stdout
    asked(room, "mail", "--again", "--only", ADA)
    assert server.recipients[2:] == ["ada@uni.example"]
    first, again = (mail["message-id"] for to, mail in server.mails if to == "ada@uni.example")
    assert first != again
    state = room.paths.mailed
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    everything = state.read_text() + (room.paths.logs / "nblauncher.log").read_text()
    assert not [one for one in (*secrets(room), PASSWORD) if one in everything]


def test_an_address_that_was_corrected_is_sent_the_slip(room: Taught, server: MailServer) -> None:
    try:
        enrol(room, "bob@typo.example")
        asked(room, "mail")
        enrol(room)
        asked(room, "mail")
        assert server.recipients == ["ada@uni.example", "bob@typo.example", "bob@uni.example"]
        enrol(room, "Ada@uni.example")
        notes = asked(room, "mail", "--dry-run", "--again")["notes"]
        assert notes == [f"{ADA}, {BOB} have the same address, ada@uni.example"]
        enrol(room, "")
        assert "no mail address" in asked(room, "mail", expect=5)["errors"][0]
    finally:
        enrol(room)


def test_after_sigkill_the_rest_is_sent_by_a_process_that_is_the_teacher(room: Taught, server: MailServer) -> None:
    server.thinks = 60.0
    teacher = {"SUDO_UID": str(room.uid)}
    command = room.start("mail", env={**os.environ, **teacher})
    try:
        assert eventually(lambda: ADA in room.paths.mailed.read_text() if room.paths.mailed.exists() else False)
        sender = client_of(server.port)
        assert set(sender.uids()) == {room.uid}
        hidden = (PASSWORD, *secrets(room))
        for one in psutil.process_iter():
            try:
                shown = " ".join([*one.cmdline(), *one.environ().values()])
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            assert not [secret for secret in hidden if secret in shown]
    finally:
        command.send_signal(signal.SIGKILL)
        command.communicate()
    assert eventually(lambda: not sender.is_running())
    server.thinks = 0.0
    asked(room, "mail")
    assert server.recipients == ["ada@uni.example", "bob@uni.example"]


def test_mails_of_roots_course_are_sent_by_no_root(rooted: Classroom, tmp_path: Path) -> None:
    rows = "nbtslada,Ada,ada@uni.example\n"
    (rooted.folder / "students.csv").write_text(f"username,name,email\n{rows}")
    with mail_server(tmp_path) as server:
        use(rooted, server)
        rooted.run("mail")
        server.thinks = 60.0
        command = rooted.start("mail", "--again")
        try:
            assert eventually(lambda: len(server.senders) == 2)
            assert set(client_of(server.port).uids()) == {pwd.getpwnam(SYSTEM_ACCOUNTS[0]).pw_uid}
        finally:
            command.send_signal(signal.SIGKILL)
            command.communicate()


@pytest.mark.parametrize(
    "content, mode, owner, code, words",
    [
        (f"{USER}\n{PASSWORD}\n", 0o640, "teacher", 4, "other accounts may read it"),
        (f"{USER}\n{PASSWORD}\n", 0o600, "student", 4, "it belongs to"),
        (f"{USER}\n", 0o600, "teacher", 3, "is not a login"),
        (f"{USER}\n{PASSWORD}\nmore\n", 0o600, "teacher", 3, "is not a login"),
    ],
)
def test_a_login_that_others_could_read_or_have_written_is_refused_once(
    room: Taught, server: MailServer, content: str, mode: int, owner: str, code: int, words: str
) -> None:
    login = room.folder / "mail-login"
    login.write_text(content)
    login.chmod(mode)
    os.chown(login, room.uid if owner == "teacher" else pwd.getpwnam(ADA).pw_uid, -1)
    answer = asked(room, "mail", expect=code)
    assert words in answer["errors"][0] and PASSWORD not in answer["errors"][0]
    assert not server.connections


@pytest.mark.parametrize(
    "more, words",
    [
        ({"authority": None}, "certificate cannot be verified"),
        ({"security": "tls"}, "no encrypted connection"),
        ({"port": "1"}, "no connection to the mail server"),
    ],
)
def test_what_is_wrong_for_everybody_is_one_message(
    room: Taught, server: MailServer, more: dict[str, Any], words: str
) -> None:
    use(room, server, **{key: int(value) if key == "port" else value for key, value in more.items() if value})
    if more.get("authority", "") is None:
        del room.config["mail"]["authority"]
        (room.folder / "notebooks.cfg").write_text(json.dumps(room.config))
        room.hand_over()
    answer = room.sudo("mail", expect=1)
    assert answer.stderr.count(words) == 1 and f"{ADA}, {BOB}" in answer.stderr
    assert not server.mails and not server.logins
