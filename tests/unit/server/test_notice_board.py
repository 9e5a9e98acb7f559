"""What the pages of a student's server show: read from the student's file, and announced when it changes."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from jupyter_events import EventLogger

from nblauncher.auth.appearance import Appearance
from nblauncher.server.notice_board import ADMISSION, EVENT, NoticeBoard
from nblauncher.server.notices import Message, Notices, Visit
from nblauncher.server.sessions import Session, Sessions
from tests.fakes import Clock

NOW = int(time.time())


class Events:
    def __init__(self) -> None:
        self.count = 0

    def register_event_schema(self, schema: Any) -> None:
        EventLogger().register_event_schema(schema)  # Jupyter takes it

    def emit(self, *, schema_id: str, data: dict[str, Any]) -> None:
        assert (schema_id, data) == (EVENT, {})
        self.count += 1


class Server:
    def __init__(self, folder: Path) -> None:
        self.file, self.clock, self.events = folder / "notices.json", Clock(), Events()
        self.clock.now = NOW
        self.idle: float | None = None
        self.sessions = Sessions(folder / "logged-out")
        self.board = NoticeBoard(self.file, folder, self.sessions, lambda: self.idle, self.clock)
        self.board.announce_with(self.events)  # type: ignore[arg-type]

    def write(self, notices: Notices) -> None:
        new = self.file.with_name("new")
        new.write_bytes(notices.to_bytes())
        new.replace(self.file)

    def shown(self, visit: str = "") -> list[tuple[str, str]]:
        return [(one["kind"], one["text"]) for one in self.board.shown(visit)["notices"]]


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def test_open_tabs_are_told_when_something_changed_and_not_otherwise(server: Server):
    server.board.look()
    assert server.events.count == 0
    server.write(Notices((Message("1", "Five minutes left", NOW),)))
    server.board.look()
    server.board.look()
    assert server.events.count == 1
    server.file.unlink()
    server.board.look()
    assert server.events.count == 2 and server.shown() == []


def test_open_tabs_are_told_what_a_request_saw_before(server: Server):
    server.write(Notices(visits=(Visit("0" * 16, NOW, NOW + 3600),)))
    assert server.board.has_visit("0" * 16)
    server.board.look()
    assert server.events.count == 1


def test_a_message_is_shown_until_its_time(server: Server):
    server.write(Notices((Message("1", "<b>soon</b>", NOW, NOW + 60), Message("2", "always", NOW))))
    assert server.shown() == [("message", "<b>soon</b>"), ("message", "always")]
    server.clock.now += 60
    assert server.shown() == [("message", "always")]


def test_texts_and_times_are_those_of_the_class(tmp_path: Path):
    """In its language, on its clock, with the day unless it is today there; looked up every time."""
    look = [Appearance(language="de", time_zone="Pacific/Kiritimati"), Appearance()]
    board = NoticeBoard(tmp_path / "file", tmp_path, Sessions(tmp_path / "x"), lambda: 200.0, look=lambda: look[0])
    at = int(NOW) + 400 * 86400
    notices = Notices(deadlines=(("ps1", at),), visits=(Visit("0" * 16, NOW, NOW + 3600),), disk=(95, 100))
    (tmp_path / "file").write_bytes(notices.to_bytes())
    visit, deadline, disk, idle = board.shown()["notices"]
    local = datetime.fromtimestamp(at, ZoneInfo("Pacific/Kiritimati"))
    assert deadline["clock"].endswith(f"{local.year}, {local:%H:%M} Uhr")
    assert visit["text"].startswith("Ihre Lehrkraft hat Ihren Notebook-Server geöffnet, ")
    assert "belegen" in disk["text"] and "schläft" in idle["text"]
    look.pop(0)
    assert "Your files take" in board.shown()["notices"][2]["text"]


def test_deadlines_that_are_over_are_not_shown(server: Server):
    server.write(Notices(deadlines=(("ps1", NOW), ("ps2", NOW + 60))))
    (found,) = server.board.shown()["notices"]
    assert (found["folder"], found["until"]) == ("ps2", NOW + 60)
    assert found["clock"].endswith(f"{datetime.fromtimestamp(NOW + 60):%H:%M}")


@pytest.mark.parametrize(
    ("disk", "is_shown"), [((89, 100), False), ((90, 100), True), ((120, 100), True), ((0, 0), False)]
)
def test_a_disk_that_is_nearly_full_is_said_with_what_to_do(server: Server, disk, is_shown):
    server.write(replace(Notices(), disk=disk))
    assert [("delete" in text) for kind, text in server.shown()] == [True] * is_shown


def test_a_server_that_is_about_to_sleep_says_so_once(server: Server):
    server.idle = 301.0
    server.board.look()
    assert server.shown() == [] and server.events.count == 0
    server.idle = 300.0
    server.board.look()
    server.board.look()
    assert [kind for kind, _text in server.shown()] == ["idle"] and server.events.count == 1
    server.idle = None
    server.board.look()
    assert server.shown() == [] and server.events.count == 2


def test_student_and_teacher_both_see_the_visit(server: Server):
    server.write(Notices(visits=(Visit("0" * 16, NOW, NOW + 3600),)))
    assert "Your teacher has opened" in server.shown()[0][1]
    assert "You are here" in server.shown("0" * 16)[0][1]
    server.clock.now += 3600
    assert server.shown() == [] and not server.board.has_visit("0" * 16)


class Socket:
    def __init__(self) -> None:
        self.is_open = True

    def close(self, code: int, reason: str) -> None:
        self.is_open = False


def test_the_end_of_a_visit_cuts_its_tabs_off_and_no_others(server: Server):
    visit = Visit("0" * 16, NOW, NOW + 3600)
    teachers, students = Session.begin(is_kept=True, visit=visit.name), Session.begin(is_kept=False)
    assert not teachers.is_kept and Session.parse(teachers.to_json()) == teachers
    sockets = Socket(), Socket()
    for session, one in zip((teachers, students), sockets, strict=True):
        server.sessions.connected(session, one)  # type: ignore[arg-type]
    server.write(Notices(visits=(visit,)))
    server.board.look()
    assert [one.is_open for one in sockets] == [True, True]
    server.clock.now += 3600
    server.board.look()
    assert [one.is_open for one in sockets] == [False, True]
    assert server.sessions.is_over(teachers) and not server.sessions.is_over(students)


def test_a_visit_counts_from_the_moment_that_it_is_written(server: Server):
    server.board.look()
    server.write(Notices(visits=(Visit("0" * 16, NOW, NOW + 3600),)))
    assert server.board.has_visit("0" * 16)


def test_the_end_of_a_job_is_shown_until_it_comes(server: Server):
    server.write(Notices(ends_at=NOW + 300))
    ((kind, text),) = server.shown()
    assert kind == "time-limit" and "time on the cluster ends at" in text
    server.clock.now += 300
    assert server.shown() == []


def test_a_ticket_vouches_for_a_visit_until_the_notice_of_it_comes(server: Server):
    server.board.admit("0" * 16)
    server.write(Notices())
    server.board.look()
    assert server.board.has_visit("0" * 16) and not server.board.has_visit("1" * 16)
    server.write(Notices(visits=(Visit("0" * 16, NOW, NOW + 3600),)))
    assert server.board.has_visit("0" * 16)
    server.write(Notices())
    assert not server.board.has_visit("0" * 16), "the teacher ended it"


def test_a_visit_of_which_no_notice_comes_is_over_soon(server: Server):
    server.board.admit("0" * 16)
    server.clock.now += ADMISSION
    assert not server.board.has_visit("0" * 16)
    server.board.look()
    server.write(Notices(visits=(Visit("1" * 16, NOW, NOW + 3600),)))
    server.board.admit("1" * 16)
    server.write(Notices())
    assert not server.board.has_visit("1" * 16), "its notice was there before the ticket"
