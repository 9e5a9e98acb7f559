"""What squeue prints is read as nothing but what Slurm itself says, whatever students write into their jobs."""

from __future__ import annotations

import pytest

from nblauncher.model import SlurmSettings
from nblauncher.slurm import jobs, words
from nblauncher.slurm.jobs import Job, JobState

SITE = SlurmSettings()
NONCE = "5d41402abc4b2a76"


def asked(*ids: int) -> jobs.Query:
    return jobs.query(SITE, ids, nonce=NONCE)


def line(number: int, state: str = "RUNNING", *, nonce: str = NONCE, comment: str = "(null)", **columns: str) -> str:
    """As squeue prints it: every column padded and cut."""
    values = {
        "userid": "1001",
        "state": state,
        "batchhost": "n/a" if state == "PENDING" else "n1",
        "restartcnt": "0",
        "exit_code": "0",
        "starttime": "1796056453",
        "timeleft": "29:58",
        "reason": "None",
        "admin_comment": "nbl:physics101:r1",
        **columns,
    }
    row = "".join(f"{values[name][:width]:{width}}|" for name, width in jobs._COLUMNS.items())
    return f"{number:<14}|{nonce}|{row}{comment[:200]:200}\n"


def read(output: str, *ids: int) -> dict[int, Job]:
    return jobs.read(asked(*ids), 0, output, "")


def test_a_running_job_is_read_whole():
    job = read(line(7, comment="nbl r1 r=0 http://10.0.0.1:2001/", restartcnt="2"), 7)[7]
    assert job == Job(
        7,
        JobState.RUNNING,
        uid=1001,
        word="RUNNING",
        node="n1",
        restarts=2,
        wait_status=0,
        starts_at=1796056453,
        left=1798,
        reason="",
        admin_comment="nbl:physics101:r1",
        comment="nbl r1 r=0 http://10.0.0.1:2001/",
    )


def test_a_comment_with_line_breaks_forges_no_line_of_another_student():
    forged = line(8, "FAILED", nonce="0" * 16, userid="1002")
    output = line(7, comment="(") + forged.rstrip() + "\n" + line(8, userid="1002")
    found = read(output, 7, 8)
    assert found[8].state is JobState.RUNNING and found[8].uid == 1002
    assert found[7].state is JobState.RUNNING


def test_a_comment_that_is_a_whole_line_of_an_earlier_question_changes_nothing():
    """The nonce of one question is of no use for the next one."""
    earlier = line(8, "FAILED", nonce="f" * 16)
    assert read(line(7, comment="x\n" + earlier)[:-1] + "\n", 7, 8)[8].state is JobState.GONE


def test_two_questions_have_different_nonces():
    assert jobs.query(SITE, [1]).nonce != jobs.query(SITE, [1]).nonce


def test_columns_separators_in_a_comment_stay_in_it():
    job = read(line(7, comment="a|b|RUNNING|n2\nc|"), 7)[7]
    assert job.comment == "a|b|RUNNING|n2\nc|" and job.node == "n1"


def test_a_separator_in_another_tools_admin_comment_moves_nothing():
    job = read(line(7, admin_comment="site|x", comment="mine"), 7)[7]
    assert (job.admin_comment, job.comment) == ("site|x", "mine")


def test_a_job_that_was_not_asked_for_is_not_told():
    assert set(read(line(7) + line(99), 7)) == {7}


def test_nobody_asks_for_an_empty_list_which_means_everybody():
    for ids in ([], [0], [-1, 5]):
        with pytest.raises(ValueError, match="no jobs"):
            jobs.query(SITE, ids)
    assert jobs.poll(SITE, []) == {}


def test_the_ids_are_explicit_and_each_is_there_once():
    assert "--jobs=7,8" in asked(8, 7, 8).argv


def test_a_job_that_slurm_forgot_is_gone_and_not_unknown():
    assert read(line(7), 7, 8)[8].state is JobState.GONE
    complaint = "slurm_load_jobs error: Invalid job id specified"
    assert jobs.read(asked(9), 1, "", complaint)[9].state is JobState.GONE


@pytest.mark.parametrize(
    "status, complaint",
    [
        (1, "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"),
        (1, "slurm_load_jobs error: Protocol authentication error"),
        (-9, ""),
        (127, ""),
        (1, ""),
    ],
)
def test_without_an_answer_every_job_is_unknown_and_none_is_dead(status, complaint):
    output = line(7, "FAILED")
    assert {job.state for job in jobs.read(asked(7, 8), status, output, complaint).values()} == {JobState.UNKNOWN}


@pytest.mark.parametrize(
    "word, reason, state",
    [
        ("PENDING", "Priority", JobState.QUEUED),
        ("PENDING", "JobHeldUser", JobState.HELD),
        ("PENDING", "JobHeldAdmin", JobState.HELD),
        ("PENDING", "user env retrieval failed requeued held", JobState.HELD),
        ("PENDING", "launch failed requeued held", JobState.HELD),
        ("REQUEUE_HOLD", "None", JobState.HELD),
        ("CONFIGURING", "None", JobState.STARTING),
        ("COMPLETING", "None", JobState.ENDING),
        ("SUSPENDED", "None", JobState.SUSPENDED),
        ("NODE_FAIL", "NodeDown", JobState.ENDED),
        ("OUT_OF_MEMORY", "OutOfMemory", JobState.ENDED),
        ("CANCELLED", "None", JobState.ENDED),
        ("TELEPORTING", "None", JobState.UNKNOWN),
        ("", "None", JobState.UNKNOWN),
    ],
)
def test_a_state_is_one_of_few(word, reason, state):
    assert read(line(7, word, reason=reason), 7)[7].state is state


def test_a_broken_line_is_unknown_and_no_crash():
    assert read(f"7             |{NONCE}|1001|RUNNING", 7)[7].state is JobState.UNKNOWN
    assert read("\0\n|||\n" + line(7, userid="x", restartcnt="", starttime="N/A", timeleft="INVALID"), 7)[7] == Job(
        7, JobState.RUNNING, word="RUNNING", node="n1", admin_comment="nbl:physics101:r1"
    )


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("29:58", 1798),
        ("1:00:00", 3600),
        ("365-00:00:00", 31_536_000),
        ("0:00", 0),
        ("UNLIMITED", None),
        ("NOT_SET", None),
        ("", None),
    ],
)
def test_slurms_times_are_seconds(text, seconds):
    assert jobs.seconds(text) == seconds


@pytest.mark.parametrize(
    "text, words", [("768", "exit status 3"), ("3:0", "exit status 3"), ("0:9", "killed by SIGKILL")]
)
def test_an_exit_code_is_read_in_both_forms(text, words):
    assert jobs.exit_words(read(line(7, "FAILED", exit_code=text), 7)[7]) == words


@pytest.mark.parametrize(
    "job, sentence",
    [
        (Job(7, JobState.QUEUED, reason="Resources"), "queued: it is next, and waits until a node has room"),
        (Job(7, JobState.QUEUED, reason="Priority"), "queued: other jobs come first"),
        (Job(7, JobState.QUEUED), "queued: it was submitted a moment ago"),
        (
            Job(7, JobState.QUEUED, reason="AssocMaxJobsLimit"),
            "queued: a limit of its account is reached (AssocMaxJobsLimit)",
        ),
        (Job(7, JobState.QUEUED, reason="Nonsense"), "queued: Slurm says Nonsense"),
        (
            Job(7, JobState.HELD, reason="JobHeldAdmin"),
            "held: it was put on hold by an administrator; an administrator must release or cancel it",
        ),
        (Job(7, JobState.ENDED, word="TIMEOUT"), "its time limit was reached"),
        (Job(7, JobState.ENDED, word="NODE_FAIL", node="n2"), "its node n2 failed"),
        (Job(7, JobState.ENDED, word="OUT_OF_MEMORY"), "it was ended because memory ran out"),
        (Job(7, JobState.ENDED, word="CANCELLED"), "it was cancelled"),
        (Job(7, JobState.ENDED, word="FAILED", node="n1", wait_status=256), "it failed on n1 (exit status 1)"),
        (Job(7, JobState.GONE), "Slurm no longer has this job"),
        (Job(7, JobState.UNKNOWN), "Slurm's controller does not answer"),
        (Job(7, JobState.UNKNOWN, word="TELEPORTING"), "Slurm reports TELEPORTING"),
        (Job(7, JobState.RUNNING, node="n1"), "running on n1"),
    ],
)
def test_a_job_is_told_in_plain_words(job, sentence):
    assert words.plain(job) == sentence


def test_who_cancelled_a_job_is_told_if_it_is_known():
    assert words.plain(Job(7, JobState.ENDED, word="CANCELLED"), by=1002) == "it was cancelled by uid 1002"


def test_a_reason_from_outside_cannot_steer_a_terminal():
    assert "\x1b" not in words.plain(Job(7, JobState.QUEUED, reason="\x1b[2J"))
