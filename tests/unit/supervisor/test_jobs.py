"""What one look at the cluster means for a student's seat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import pytest

from nblauncher.errors import HostError
from nblauncher.isolation.cgroups import Group, Kind
from nblauncher.model import GOES_ON, SHUT_DOWN, JobHandle, ServerState, SlurmSettings
from nblauncher.server import job_file
from nblauncher.server.job_file import JobFile
from nblauncher.slurm.jobs import Job, JobState
from nblauncher.supervisor import job_ends, jobs, states
from nblauncher.supervisor.doings import SignIns, now
from nblauncher.supervisor.job_ends import JobEnds
from nblauncher.supervisor.jobs import Jobs, Seen
from nblauncher.supervisor.reports import is_unknown, queue_words, server_report
from nblauncher.supervisor.seat import Seat, Stopping
from nblauncher.supervisor.specs import ServerReport
from nblauncher.supervisor.states import Action, Event
from nblauncher.supervisor.stopping import Exit

ON_N1 = GOES_ON.format(node="n1")
NOBODY: Any = type("SignIns", (), {"at": lambda *_: None})()
HANDLE = JobHandle(7, 1001, "nbl:physics:0123456789abcdef")
COMMENT = "nbl1 run=0123456789abcdef r=0 port=40123 said=listens"
RUNNING = Job(7, JobState.RUNNING, 1001, "RUNNING", "n1", admin_comment=HANDLE.mark, comment=COMMENT)
QUEUED = replace(RUNNING, state=JobState.QUEUED, word="PENDING", node="", comment="", reason="Priority")


class Seats:
    """Does what Seats does with a word, and remembers how the server ended."""

    def __init__(self) -> None:
        self.changed: set[str] = set()
        self.how: Exit | None = None
        self.failed = ""
        self.expected = 0

    def decide(self, seat: Seat, event: Event) -> Action:
        return states.decide(seat.username, seat.phase, event)

    def expect(self, seat: Seat) -> None:
        self.expected += 1

    def on_words(self, seat: Seat, words: Sequence[str]) -> None:
        if "listens" in words and self.decide(seat, Event.LISTENS) is Action.MARK_READY:
            seat.state = ServerState.READY

    def ended(self, seat: Seat, how: Exit) -> None:
        self.how, seat.handle = how, None

    def fail(self, seat: Seat, reason: str) -> None:
        self.failed = reason


class Errands:
    """The cluster answers with `answer`, at once, and a job's log ends in `lines`."""

    answer: Any = None
    lines: tuple[str, ...] = ()
    is_withdrawn: object = False
    unread: object = ""
    asked = 0

    def run(self, _account: object, function: object, *given: object, done: Any, failed: Any, **_: Any) -> None:
        if function is job_ends._settle:
            *_, self.unread, self.is_withdrawn = given
            done(list(self.lines))
            return
        self.asked += 1
        failed(self.answer) if isinstance(self.answer, HostError) else done(self.answer)


class Cluster:
    def __init__(self) -> None:
        self.seats, self.errands = Seats(), Errands()
        loop, spawner = type("Loop", (), {"later": lambda *_: None})(), type("Spawner", (), {})()
        spawner.settings, spawner.has_ended = SlurmSettings(), lambda _handle: None
        ends = JobEnds(self.errands, "physics")  # type: ignore[arg-type]
        self.jobs = Jobs(loop, self.errands, self.seats, spawner, ends)  # type: ignore[arg-type]
        self.seat = Seat("ada", 1001, 8889, Group(Kind.NONE, Path("/")))
        self.seat.handle, self.seat.is_remote, self.seat.state = HANDLE, True, ServerState.STARTING
        held: Any = object()
        self.seat.sockets = [held]

    def says(self, job: Job | HostError, place: int = 0, silent: tuple[str, ...] = ()) -> None:
        if isinstance(job, HostError):
            self.errands.answer = job
        else:
            address = "10.0.0.1" if job.node else ""
            seen = jobs._seen(job, address, {job.id: place}, silent)
            self.errands.answer = {"jobs": {str(job.id): seen}, "addresses": {}}
        self.jobs._due = 0.0
        self.jobs.look([self.seat])


@pytest.fixture
def cluster(monkeypatch) -> Cluster:
    return Cluster()


def test_a_job_waits_runs_and_answers(cluster):
    cluster.says(QUEUED, place=3)
    assert cluster.seat.state is ServerState.QUEUED
    assert queue_words(cluster.seat) == "place 3 in the cluster's queue: other jobs come first"
    cluster.says(replace(RUNNING, comment=""))
    assert (cluster.seat.state, cluster.seat.cluster.node) == (ServerState.STARTING, "n1")
    cluster.says(RUNNING)
    assert cluster.seat.state is ServerState.READY
    assert (cluster.seat.cluster.address, cluster.seat.cluster.port) == ("10.0.0.1", 40123)


@pytest.mark.parametrize(
    "comment",
    [
        COMMENT.replace("0123456789abcdef", "fedcba9876543210"),
        COMMENT.replace("r=0", "r=1"),
        COMMENT.replace("40123", "22"),
        f"{COMMENT} url=http://10.0.0.2/",
        "",
    ],
)
def test_a_comment_of_another_start_or_of_the_students_own_making_is_not_believed(cluster, comment):
    cluster.says(replace(RUNNING, comment=comment))
    assert (cluster.seat.state, cluster.seat.cluster.port) == (ServerState.STARTING, 0)


@pytest.mark.parametrize("job", [replace(RUNNING, uid=1002), replace(RUNNING, admin_comment="nbl:other:1")])
def test_a_job_of_another_uid_or_mark_is_not_ours(cluster, job):
    cluster.says(job)
    assert cluster.seats.how == Exit("Slurm no longer has this job", stays_down=True)


SUSPENDED = replace(RUNNING, state=JobState.SUSPENDED, word="SUSPENDED")


def test_a_suspended_job_is_neither_dead_nor_too_slow(cluster):
    cluster.says(replace(SUSPENDED, comment=""))
    assert cluster.seat.cluster.is_suspended and cluster.seat.state is ServerState.STARTING
    assert cluster.seat.timer is None and cluster.seats.expected == 0
    cluster.says(replace(RUNNING, comment=""))
    assert not cluster.seat.cluster.is_suspended and cluster.seats.expected == 1
    cluster.says(RUNNING)
    cluster.says(SUSPENDED)
    report = server_report(cluster.seat, cast(SignIns, type("SignIns", (), {"at": lambda *_: 0.0})()))
    assert report.is_suspended and report.state is ServerState.READY and cluster.seats.how is None
    assert ServerReport.from_json(report.to_json()) == report


def test_silence_is_not_an_end(cluster):
    cluster.says(RUNNING)
    for silent in (Job(7, JobState.UNKNOWN), HostError("no answer within 60 s")):
        cluster.says(silent)
        assert cluster.seats.how is None and is_unknown(cluster.seat)
        assert (cluster.seat.state, cluster.seat.cluster.port) == (ServerState.READY, 40123)
    cluster.says(RUNNING)
    assert not is_unknown(cluster.seat)


@pytest.mark.parametrize(
    ("word", "status", "how"),
    [
        ("COMPLETED", 0, Exit("it ended by itself", is_clean=True)),
        ("FAILED", 256, Exit("it failed on n1 (exit status 1): disk full")),
        ("NODE_FAIL", 0, Exit(f"its node n1 failed; {ON_N1}", is_lost=True)),
        ("PREEMPTED", 0, Exit("it was ended in favour of another job", is_lost=True)),
        ("TIMEOUT", 0, Exit("its time limit was reached", stays_down=True)),
        ("OUT_OF_MEMORY", 9, Exit("it was ended because memory ran out")),
    ],
)
def test_how_a_job_ended_is_said_in_plain_words(cluster, word, status, how):
    cluster.errands.lines = ("Traceback:", "disk full")
    cluster.says(replace(RUNNING, state=JobState.ENDED, word=word, wait_status=status))
    assert cluster.seats.how == how
    assert cluster.seat.last_lines == (() if how.is_clean else ("Traceback:", "disk full"))
    assert cluster.errands.is_withdrawn == (word == "NODE_FAIL")


def test_a_server_that_fell_asleep_is_asleep_though_one_of_its_kernels_had_run_out_of_memory(cluster):
    cluster.seat.is_idle = True
    cluster.says(replace(RUNNING, state=JobState.ENDED, word="OUT_OF_MEMORY", wait_status=0))
    assert cluster.seats.how is not None and cluster.seats.how.is_clean


def test_a_node_that_does_not_answer_is_told_and_a_stop_there_is_not_called_done(cluster):
    cluster.says(RUNNING, silent=("n1",))
    assert "the cluster does not reach its node n1" in server_report(cluster.seat, NOBODY).pressure
    cluster.seat.stopping = Stopping(ServerState.STOPPED, SHUT_DOWN, is_requested=True)
    cluster.says(replace(RUNNING, state=JobState.ENDED, word="CANCELLED"), silent=("n1",))
    assert cluster.seat.stopping.reason == f"{SHUT_DOWN}; {ON_N1}" and cluster.errands.is_withdrawn


@pytest.mark.parametrize("reason", ["JobHeldAdmin", "PartitionTimeLimit"])
def test_a_job_that_would_wait_for_ever_fails_at_once(cluster, reason):
    state = JobState.HELD if "Held" in reason else JobState.QUEUED
    cluster.says(replace(QUEUED, state=state, reason=reason))
    assert cluster.seats.failed


def test_a_job_that_is_being_stopped_is_only_waited_for(cluster):
    cluster.seat.stopping = Stopping(ServerState.STOPPED, "", is_requested=True)
    cluster.says(QUEUED)
    cluster.says(RUNNING)
    assert cluster.seat.state is ServerState.STARTING and not cluster.seats.failed


def test_nothing_is_asked_without_jobs(cluster):
    cluster.seat.handle = None
    cluster.says(RUNNING)
    assert cluster.errands.asked == 0


def test_a_look_survives_the_way_through_json():
    given = jobs._seen(RUNNING, "10.0.0.1", {})
    assert {**asdict(Seen.of(given)), "said": given["said"]} == {**given, "said": given["said"]}


def test_the_end_of_a_job_stays_where_it_is_between_two_looks_unless_the_limit_changes(cluster):
    cluster.says(replace(RUNNING, left=300))
    first = cluster.seat.cluster.ends_at
    assert abs(first - now() - 300) < 2
    cluster.says(replace(RUNNING, left=302))
    assert cluster.seat.cluster.ends_at == first
    cluster.says(replace(RUNNING, left=3600))
    assert cluster.seat.cluster.ends_at > first + 3000
    cluster.says(replace(RUNNING, left=None))
    assert cluster.seat.cluster.ends_at == 0


def test_one_look_asks_the_accounting_once_however_many_were_cancelled(tmp_path):
    """It may be down, and each question to it would take seconds of the same look."""
    calls = tmp_path / "calls"
    scripts = {
        "scontrol": "echo 'Slurmctld(primary) at ctl is UP'",
        "squeue": "nonce=$(expr \"$*\" : '.*jobid:14|\\([0-9a-f]*\\)|')\n"
        'for job in 7 8 9; do echo "$job |$nonce|1001|CANCELLED||0|0|0|0:00|None|nbl:physics:r |"; done',
        "sacct": f"echo \"$*\" >>{calls}\nprintf '7|CANCELLED by 1001\\n8|CANCELLED by 0\\n9|COMPLETED\\n'",
    }
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    found = jobs._look(SlurmSettings(programs=str(tmp_path)), [7, 8, 9], {})["jobs"]
    assert len(calls.read_text().splitlines()) == 1 and "--jobs=7,8,9" in calls.read_text()
    words = [found[number]["words"] for number in (7, 8, 9)]
    assert words == ["it was cancelled by uid 1001", "it was cancelled by uid 0", "it was cancelled"]


def test_a_slow_name_service_costs_a_look_only_the_addresses_that_it_would_have_found(monkeypatch):
    clock, asked = [0.0], list[str]()

    def address(_settings: SlurmSettings, node: str) -> str:
        clock[0] += 8.0
        asked.append(node)
        if len(asked) == 1:
            raise HostError("this host does not know the address of the node")
        return "10.0.0.2"

    monkeypatch.setattr(jobs.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(jobs.control, "node_address", address)
    assert jobs._addresses(SlurmSettings(), {"n3", "n2", "n1"}) == {asked[1]: "10.0.0.2"}


@pytest.mark.parametrize("has_answered", [False, True])
def test_the_secrets_of_a_job_that_never_answered_do_not_stay_in_the_home(cluster, has_answered):
    cluster.says(RUNNING if has_answered else QUEUED)
    cluster.seat.stopping = Stopping(ServerState.STOPPED, SHUT_DOWN)
    cluster.says(replace(QUEUED, state=JobState.ENDED, word="CANCELLED", comment=RUNNING.comment * has_answered))
    assert cluster.seats.how is not None
    assert cluster.errands.unread == ("" if has_answered else "0123456789abcdef")


def test_what_a_job_never_read_is_removed_and_what_others_wait_for_is_not(tmp_path):
    given = JobFile("{}", "certificate", "key", course="physics")
    file, other = job_file.put(tmp_path, "0a", given), job_file.put(tmp_path, "0b", replace(given, course="chemistry"))
    assert job_ends._in_the_home(str(tmp_path), "physics", 7, "", False) == [] and file.exists()
    assert job_ends._in_the_home(str(tmp_path), "physics", 7, "0a", False) == [] and not file.exists()
    assert other.exists()
