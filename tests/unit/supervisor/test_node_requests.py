"""When servers on nodes are asked, apart from which others, and what their answers mean for a seat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nblauncher.errors import HostError
from nblauncher.isolation.cgroups import Group, Kind
from nblauncher.model import JobHandle, ServerState
from nblauncher.paths import CoursePaths
from nblauncher.server.host_requests import HostAnswer, HostRequest
from nblauncher.server.notices import Message, Notices
from nblauncher.supervisor.doings import now
from nblauncher.supervisor.node_calls import Wanted
from nblauncher.supervisor.node_requests import EVERY, NodeRequests
from nblauncher.supervisor.seat import Seat

ANSWER = HostAnswer(0, 0, 0, 0, 0)
QUIET = "it does not answer in time"


class Errands:
    """Children that answer when the test says so."""

    def __init__(self) -> None:
        self.open: list[tuple[Sequence[Wanted], Any, Any]] = []

    def run(self, _account: object, _function: object, *arguments: Any, done: Any, failed: Any, **_: Any) -> None:
        self.open.append((arguments[1], done, failed))


class Timer:
    def cancel(self) -> None: ...


class Loop:
    def later(self, seconds: float, _call: object) -> Timer:
        return Timer()


class Board:
    """What each student is told: one text, and the end of the job."""

    def __init__(self, uids: Mapping[str, int]) -> None:
        self.text: str | None = ""
        self._uids, self._ends = uids, dict[str, int]()

    def warn_of_ends(self, ends: Mapping[str, int]) -> None:
        self._ends = dict(ends)

    def written(self, uid: int) -> bytes:
        name = next(name for name, known in self._uids.items() if known == uid)
        if self.text is None:
            return b""
        messages = (Message("1", self.text, 1),) if self.text else ()
        return replace(Notices(messages), ends_at=self._ends.get(name, 0)).to_bytes()


class Class:
    def __init__(self, *names: str) -> None:
        self.now = 1000.0
        self.seats = [self._seat(name, number) for number, name in enumerate(names, 1)]
        self.board = Board({seat.username: seat.uid for seat in self.seats})
        self.errands, self.words = Errands(), list[tuple[str, Sequence[str]]]()
        about: Any = (Loop(), self.errands, self, self.board, CoursePaths("physics"))
        self.requests = NodeRequests(*about, clock=lambda: self.now)

    def _seat(self, name: str, number: int) -> Seat:
        seat = Seat(name, 1000 + number, 8888 + number, Group(Kind.NONE, Path("/")))
        seat.handle, seat.is_remote = JobHandle(number, seat.uid, f"nbl:c:0{number}"), True
        seat.state = ServerState.READY
        seat.cluster.address, seat.cluster.port, seat.attempt = "10.0.0.1", 40000 + number, 1
        return seat

    def on_words(self, seat: Seat, words: Sequence[str]) -> None:
        self.words.append((seat.username, words))

    def look(self, seconds: float = 0.0) -> list[list[str]]:
        """Who is asked by then: a list for each child."""
        self.now += seconds
        before = len(self.errands.open)
        self.requests.look(self.seats)
        return [[one.username for one in wanted] for wanted, _, _ in self.errands.open[before:]]

    def answer(self, **given: Any) -> None:
        """The oldest child is done. `given`: what single servers answer; the others answer well."""
        wanted, done, _failed = self.errands.open.pop(0)
        done({one.username: given.get(one.username, ANSWER.to_json()) for one in wanted})

    def request(self) -> HostRequest:
        return HostRequest.parse(self.errands.open[-1][0][0].body)


@pytest.fixture
def room() -> Class:
    return Class("ada", "bob")


def test_a_server_is_asked_when_it_is_ready_then_every_few_seconds_and_at_once_with_news(room: Class):
    assert room.look() == [["ada", "bob"]]
    assert room.look() == [], "the child is under way"
    room.answer()
    assert room.look() == [] and room.look(EVERY - 1) == []
    assert room.look(1) == [["ada", "bob"]]
    room.answer()
    room.board.text = "Five minutes left"
    assert room.look() == [["ada", "bob"]]
    assert Notices.parse(room.request().notices).messages[0].text == "Five minutes left"


def test_a_frozen_server_is_asked_again_as_soon_as_it_runs_and_what_it_did_before_is_no_news(room: Class):
    room.look()
    room.answer()
    room.words.clear()
    room.seats[0].cluster.is_suspended = True
    assert room.look(EVERY) == [["bob"]]
    room.answer()
    room.seats[0].cluster.is_suspended = False
    assert room.look() == [["ada"]]
    room.answer()
    assert room.words[-1] == ("ada", ["kernels=0/0"])


def test_what_is_said_meanwhile_is_sent_as_soon_as_the_child_is_back(room: Class):
    room.look()
    room.board.text = "Five minutes left"
    assert room.look() == []
    room.answer()
    assert room.look() == [["ada", "bob"]]
    room.answer()
    assert room.look() == []


def test_a_server_that_hangs_is_asked_apart_from_the_others_and_later_and_later(room: Class):
    room.look()
    room.answer(bob=QUIET)
    assert room.look() == [["bob"]], "once more, with patience"
    room.board.text = "Five minutes left"
    assert room.look() == [["ada"]], "while bob's hangs"
    room.answer(bob=QUIET)
    room.answer()
    room.board.text = "Four minutes left"
    assert room.look() == [["ada"]], "bob's is given time"
    room.answer()
    assert room.look(2 * EVERY) == [["ada"]]
    room.answer()
    assert room.look(2 * EVERY) == [["ada"], ["bob"]]


def test_a_slow_server_gets_its_request_at_once_with_more_patience_and_comes_back_to_the_others(room: Class):
    room.look()
    room.answer(bob=QUIET)
    for asked in ([["bob"]], [["ada"], ["bob"]], [["ada", "bob"]]):
        assert room.look(0 if asked == [["bob"]] else EVERY) == asked
        while room.errands.open:
            room.answer()


def test_a_server_that_answers_every_other_time_stays_apart(room: Class):
    room.look()
    room.answer(bob=QUIET)
    assert room.look() == [["bob"]]
    room.answer(bob=QUIET)
    for said in (ANSWER.to_json(), QUIET, ANSWER.to_json(), QUIET):
        asked = room.look(30)
        assert asked == [["ada"], ["bob"]]
        room.answer()
        room.answer(bob=said)
    for _ in range(6):
        room.look(30)
        while room.errands.open:
            room.answer()
    assert room.look(30) == [["ada", "bob"]], "it has answered well for long enough"


@pytest.mark.parametrize("said", [None, [], 1, {"kernels": 10**9}, {**ANSWER.to_json(), "memory": "x"}, "x" * 1000])
def test_whatever_a_server_answers_the_supervisor_goes_on(room: Class, said):
    room.look()
    room.answer(bob=said)
    assert [name for name, _words in room.words] == ["ada"]
    assert room.look(EVERY)[0] == ["ada"]


def test_counts_that_grow_are_what_the_student_did(room: Class):
    room.look()
    room.answer(ada=replace(ANSWER, kernels=2, busy=1, saves=1, uses=1, sign_ins=1, memory=81_000_000).to_json())
    assert room.words[0] == ("ada", ["kernels=2/1", "saved", "used", "session"])
    assert room.seats[0].doings.memory == 81_000_000
    room.words.clear()
    room.look(EVERY)
    room.answer(ada=replace(ANSWER, kernels=2, busy=0, saves=1, uses=2, sign_ins=1).to_json())
    assert room.words[0] == ("ada", ["kernels=2/0", "used"])
    assert room.seats[0].doings.memory is None


def test_what_a_server_did_before_it_was_adopted_is_no_news(room: Class):
    room.seats[0].attempt = 0
    room.look()
    room.answer(ada=replace(ANSWER, saves=7, sign_ins=2).to_json())
    assert room.words[0] == ("ada", ["kernels=0/0"])
    room.look(EVERY)
    room.answer(ada=replace(ANSWER, saves=8, sign_ins=2).to_json())
    assert ("ada", ["kernels=0/0", "saved"]) in room.words


def test_a_wish_to_end_kernels_is_sent_at_once_until_it_is_fulfilled(room: Class):
    room.look()
    room.answer(ada=QUIET)
    room.look()
    room.answer(ada=QUIET)
    cluster = room.seats[0].cluster
    cluster.kernels_to_end = "0" * 16
    assert room.look() == [["ada"]], "also to a server that was silent"
    assert room.request().end_kernels == "0" * 16
    room.answer(ada=replace(ANSWER, ended="1" * 16, ended_kernels=1).to_json())
    assert room.look() == [] and cluster.kernels_to_end, "it did something else, and is not asked without end"
    room.look(60)
    while room.errands.open:
        room.answer(ada=replace(ANSWER, ended="0" * 16, ended_kernels=2).to_json())
    assert ("ada", ["kernels=0/0", "ended=2"]) in room.words and cluster.kernels_to_end == ""


def test_the_end_of_a_job_is_told_when_it_is_soon_and_taken_back_when_the_limit_is_raised(room: Class):
    room.look()
    room.answer()
    cluster = room.seats[0].cluster
    cluster.ends_at = int(now()) + 3600
    assert room.look() == []
    cluster.ends_at = int(now()) + 300
    assert room.look() == [["ada"]]
    assert Notices.parse(room.request().notices).ends_at == cluster.ends_at
    room.answer()
    cluster.ends_at = 0
    assert room.look() == [["ada"]]
    assert Notices.parse(room.request().notices).ends_at == 0


@pytest.mark.parametrize("change", ["stopping", "port", "job"])
def test_an_answer_that_comes_too_late_is_not_taken(room: Class, change):
    room.look()
    seat = room.seats[0]
    if change == "job":
        seat.handle = JobHandle(9, seat.uid, "nbl:c:09")
    elif change == "port":
        seat.cluster.port = 0
    else:
        seat.state = ServerState.STOPPED
    room.answer()
    assert [name for name, _words in room.words] == ["bob"]


def test_a_host_that_cannot_start_children_knows_nothing_and_tries_again(room: Class):
    room.look()
    _wanted, _done, failed = room.errands.open.pop(0)
    failed(HostError("no process left"))
    assert room.words == [] and room.look() == []
    assert room.look(60) == [["ada", "bob"]]


def test_whose_servers_took_another_password_over_is_told_once(room: Class):
    room.look()
    told: list[Any] = []
    room.seats[1].cluster.port = 0
    room.requests.look(room.seats)
    room.requests.renew(room.seats, 9, told.append)
    wanted, done, _failed = room.errands.open.pop()
    assert [one.username for one in wanted] == ["ada"], "bob's server is not there"
    done(["ada"])
    room.requests.renew(room.seats, 9, told.append)
    room.errands.open.pop()[2](HostError("no process left"))
    assert told == [["ada"], ()]


def test_a_server_that_refused_the_new_password_before_it_had_it_is_asked_at_once(room: Class):
    room.look()
    room.answer(ada=QUIET)
    room.look()
    room.answer(ada=QUIET)
    assert room.look() == []
    room.requests.renew(room.seats, 9, lambda _kept: None)
    room.errands.open.pop()[1](["ada"])
    assert room.look() == [["ada"]]


def test_nothing_is_sent_before_the_first_notices_are_written(room: Class):
    room.board.text = None
    assert room.look() == []
