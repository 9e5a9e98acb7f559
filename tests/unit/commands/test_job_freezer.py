"""Jobs of a class are suspended and resumed, on a Slurm that a few scripts play."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nblauncher.commands.deadlines import job_freezer
from nblauncher.commands.deadlines.job_freezer import BY_CAPTURE, BY_COMMAND, JobFreezer
from nblauncher.errors import HostError
from nblauncher.model import JobHandle, SlurmSettings
from nblauncher.paths import CoursePaths
from nblauncher.supervisor import registry
from nblauncher.supervisor.registry import Registry, Remembered

ADA, BOB = JobHandle(7, 1001, "nbl:physics:r7"), JobHandle(8, 1002, "nbl:physics:r8")

SQUEUE = """\
#!/bin/sh
cd {folder}
case "$*" in *--user*) cat others; exit;; esac
nonce=$(expr "$*" : '.*jobid:14|\\([0-9a-f]*\\)|')
for job in 7 8; do
    uid=$((994 + job)) state=$(cat state.$job) mark=nbl:physics:r$job
    printf "%s |$nonce|%s|%s|n1|0|0|0|10:00|None|%-64s|\\n" $job $uid $state $mark
done
"""
SCONTROL = """\
#!/bin/sh
cd {folder}
case "$1" in
ping) [ -e silent ] && {{ echo 'Slurmctld(primary) at ctl is DOWN'; echo '***'; exit 1; }}
    echo 'Slurmctld(primary) at ctl is UP';;
suspend) echo "$*" >>calls; [ -e refuses ] && {{ echo "Access/permission denied for job 7" >&2; exit 1; }}
    for job in $(echo $2 | tr , ' '); do echo SUSPENDED >state.$job; done;;
resume) echo "$*" >>calls; for job in $(echo $2 | tr , ' '); do echo RUNNING >state.$job; done;;
esac
"""


class Site:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        for name, text in {"squeue": SQUEUE, "scontrol": SCONTROL, "sinfo": "#!/bin/sh\ncat {folder}/nodes\n"}.items():
            (folder / name).write_text(text.format(folder=folder))
            (folder / name).chmod(0o755)
        self.write(others="", nodes="n1|idle\n", **{"state.7": "RUNNING", "state.8": "RUNNING"})
        monkeypatch.setattr(CoursePaths, "state", property(lambda _paths: folder))
        monkeypatch.setattr(job_freezer, "SETTLE", 0.0)
        seats = {name: seat(name, handle) for name, handle in {"ada": ADA, "bob": BOB}.items()}
        Registry(folder / registry.JOBS, outlives_boot=True).save(seats)

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / name).write_text(text)

    def freezer(self, reason: str = BY_COMMAND) -> JobFreezer:
        return JobFreezer(SlurmSettings(programs=str(self.folder)), CoursePaths("physics"), reason)

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines() if (self.folder / "calls").exists() else []


def seat(name: str, handle: JobHandle) -> Remembered:
    return Remembered(name, handle.uid, 8889, (), "ready", "", handle, 0, 0.0)


pytestmark = pytest.mark.skipif("os.geteuid() != 0", reason="only root's own records are believed")


@pytest.fixture
def site(tmp_path, monkeypatch) -> Site:
    return Site(tmp_path, monkeypatch)


def test_jobs_are_suspended_in_one_call_recorded_and_resumed(site):
    jobs = site.freezer()
    assert jobs.freeze(["ada", "bob"]) == {} and jobs.look({"ada": 1001, "bob": 1002}) == {}
    assert jobs.recorded() == {"ada": ADA, "bob": BOB}
    assert site.freezer().thaw(["ada", "bob"]) == {}
    assert site.calls == ["suspend 7,8", "resume 7,8"] and jobs.recorded() == {}


def test_a_job_of_another_uid_or_mark_is_left_alone(site):
    handles = {"ada": JobHandle(7, 1001, "nbl:physics:other"), "bob": JobHandle(8, 1009, BOB.mark)}
    Registry(site.folder / registry.JOBS, outlives_boot=True).save(
        {name: seat(name, one) for name, one in handles.items()}
    )
    assert site.freezer().freeze(["ada", "bob"]) == {} and site.calls == []


def test_a_job_that_the_cluster_suspended_by_itself_is_not_resumed(site):
    site.write(**{"state.7": "SUSPENDED"})
    jobs = site.freezer()
    assert jobs.freeze(["ada"]) == {} and jobs.thaw(["ada"]) == {} and site.calls == []


def test_a_site_that_refuses_is_quoted_and_nothing_is_left_to_undo(site):
    site.write(refuses="")
    jobs = site.freezer()
    assert "Access/permission denied" in jobs.freeze(["ada"])["ada"]
    assert jobs.recorded() == {}


def test_a_silent_controller_is_said_and_what_is_suspended_stays_recorded(site):
    jobs = site.freezer()
    jobs.freeze(["ada"])
    site.write(silent="")
    assert "does not answer" in site.freezer().freeze(["bob"])["bob"]
    assert "does not answer" in jobs.look({"ada": 1001})["ada"]
    assert "does not answer" in jobs.thaw(["ada"])["ada"] and jobs.recorded() == {"ada": ADA}
    (site.folder / "silent").unlink()
    assert jobs.thaw(["ada"]) == {} and jobs.recorded() == {}


@pytest.mark.parametrize("state", ["RUNNING", "CANCELLED", "COMPLETING", "PENDING"])
def test_a_job_that_did_not_stay_suspended_is_listed(site, state):
    jobs = site.freezer(BY_CAPTURE)
    jobs.freeze(["ada", "bob"])
    site.write(**{"state.7": state})
    assert jobs.look({"ada": 1001, "bob": 1002}) == {"ada": "job 7 did not stay suspended"}


def test_a_waiting_job_is_quiet_until_it_begins(site):
    site.write(**{"state.7": "PENDING"})
    jobs = site.freezer(BY_CAPTURE)
    assert jobs.freeze(["ada"]) == {} and jobs.waiting() == ["ada"] and jobs.look({"ada": 1001}) == {}
    site.write(**{"state.7": "RUNNING"})
    assert jobs.look({"ada": 1001}) == {"ada": "job 7 began meanwhile"}


def test_a_node_that_does_not_answer_and_other_jobs_of_the_student_are_listed(site):
    jobs = site.freezer(BY_CAPTURE)
    jobs.freeze(["ada", "bob"])
    site.write(nodes="n1|idle*\n", others="7|1001\n99|1001\n5|1003\n")
    said = jobs.look({"ada": 1001})["ada"]
    assert "node n1 does not answer" in said and "other jobs of the student run: 99" in said


def test_what_is_frozen_for_another_reason_stays_frozen(site):
    site.freezer(BY_COMMAND).freeze(["ada"])
    (site.folder / BY_CAPTURE).write_text((site.folder / BY_COMMAND).read_text())
    (site.folder / BY_CAPTURE).chmod(0o600)
    assert site.freezer(BY_CAPTURE).thaw(["ada"]) == {} and site.calls == ["suspend 7"]
    assert site.freezer(BY_COMMAND).thaw(["ada"]) == {} and site.calls == ["suspend 7", "resume 7"]


def test_a_new_job_of_a_frozen_student_is_suspended_unless_the_student_was_thawed(site):
    jobs = site.freezer()
    jobs.freeze_new(lambda: ["ada"])
    jobs.freeze_new(lambda: ["ada"])
    jobs.freeze_new(list)
    assert site.calls == ["suspend 7"]


def test_two_suspensions_are_some_seconds_apart(site, monkeypatch):
    monkeypatch.setattr(job_freezer, "SETTLE", 0.4)
    slept: list[float] = []
    monkeypatch.setattr(job_freezer.time, "sleep", slept.append)
    site.freezer().freeze_new(lambda: ["ada"])
    site.freezer().thaw(["ada"])
    site.freezer().freeze_new(lambda: ["ada"])
    (pause,) = slept
    assert 0 < pause <= 0.4


def full_disk(*_given: object, **_more: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_on_a_full_disk_nothing_is_suspended_and_nobody_is_taken_for_frozen(site, monkeypatch):
    jobs = site.freezer()
    monkeypatch.setattr(job_freezer.root_files, "replace", full_disk)
    assert "cannot be written: No space left on device" in jobs.freeze(["ada"])["ada"]
    with pytest.raises(HostError, match="cannot be written"):  # which the watching process takes for "try again"
        jobs.freeze_new(lambda: ["ada"])
    assert site.calls == []


def test_on_a_full_disk_jobs_are_resumed_all_the_same_and_forgotten_later(site, monkeypatch):
    site.freezer().freeze(["ada", "bob"])
    with monkeypatch.context() as patch:
        patch.setattr(job_freezer.root_files, "replace", full_disk)
        assert site.freezer().thaw(["ada"]) == {}
    assert site.calls == ["suspend 7,8", "resume 7"] and site.freezer().recorded() == {"ada": ADA, "bob": BOB}
    assert site.freezer().thaw(["ada"]) == {} and site.freezer().recorded() == {"bob": BOB}
    assert site.calls == ["suspend 7,8", "resume 7"]


def test_what_cannot_even_be_looked_at_is_not_taken_for_thawed(site, monkeypatch):
    site.freezer().freeze(["ada"])
    monkeypatch.setattr(job_freezer.freeze_record, "alone", full_disk)
    assert "cannot be written" in site.freezer().thaw(["ada"])["ada"]
