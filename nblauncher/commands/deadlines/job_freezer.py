"""Freeze students' jobs on a cluster: suspend exactly those of the class, and resume exactly those suspended here.

The record is in the course's state folder: nodes go on while this host is off, so a suspended job outlives a reboot.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.isolation import freeze_record
from nblauncher.model import JobHandle, SlurmSettings
from nblauncher.paths import CoursePaths
from nblauncher.slurm import control, jobs, tools
from nblauncher.slurm.jobs import Job, JobState
from nblauncher.supervisor import registry
from nblauncher.system import root_files

log = logging.getLogger(__name__)

BY_CAPTURE, BY_COMMAND = "jobs-frozen-by-capture.json", "jobs-frozen.json"
"""Names of the records: for each reason one."""

LEAD = 2.0
"""Seconds that a node waits before it stops a suspended job's processes (slurmstepd/req.c), so that none stops before
the moment if the job is suspended so much earlier.
"""
SETTLE = 3.0
"""Seconds from Slurm's word that a job is suspended until its last process has stopped. A second suspension before that
stops nothing, although Slurm says that it did.
"""

_WAITING = frozenset({JobState.HELD, JobState.QUEUED, JobState.STARTING})
_OVER = frozenset({JobState.ENDED, JobState.GONE})


@dataclass
class JobFreezer:
    """For one course and one reason, as isolation.freezer.Freezer. `reason` is the name of the record."""

    settings: SlurmSettings
    paths: CoursePaths
    reason: str
    _seen: dict[str, Job] = field(default_factory=dict)
    """By username: the jobs as they were once suspended."""
    _running: dict[str, str] = field(default_factory=dict)
    """By username: why a job could not be suspended."""
    _asked: set[str] = field(default_factory=set)
    _stopped_by: float = 0.0
    """On the monotonic clock: when the last process of the suspended jobs has stopped."""

    @property
    def record(self) -> Path:
        return self.paths.state / self.reason

    def recorded(self) -> dict[str, JobHandle]:
        """By username: the jobs that were suspended here, or may have been."""
        return _load(self.record)

    def known(self) -> dict[str, JobHandle]:
        """By username: the class's jobs, also while no supervisor runs."""
        students = registry.load(self.paths.state / registry.JOBS)
        return {one.username: one.handle for one in students if isinstance(one.handle, JobHandle)}

    def begin(self, usernames: Collection[str]) -> None:
        """Have the jobs suspended: their processes stop `LEAD` seconds later. `freeze` tells what became of it."""
        self._asked = set(usernames)
        handles = {name: handle for name, handle in self.known().items() if name in usernames}
        if not handles:
            return
        try:
            with self._alone() as lock:
                complaint = self._suspend(handles, lock)
        except HostError as error:
            self._running = dict.fromkeys(handles, error.problem)
            return
        found = {name: self._seen[name] for name in handles}
        self._running = {name: words for name, job in found.items() if (words := _running(job, complaint))}
        if any(job.state is JobState.SUSPENDED for job in found.values()):
            self._stopped_by = time.monotonic() + SETTLE

    def freeze(self, usernames: Collection[str]) -> dict[str, str]:
        """Until `thaw`. Returns by username why a student's job still runs; one that waits in the queue is none."""
        if not self._asked.issuperset(usernames):
            self.begin(usernames)
        time.sleep(max(0.0, self._stopped_by - time.monotonic()))
        return {name: words for name, words in self._running.items() if name in usernames}

    def freeze_new(self, frozen: Callable[[], Collection[str]]) -> None:
        """Suspend the jobs that these students have had since they were frozen. Who is frozen is asked while nobody is
        being thawed. HostError.
        """
        with self._alone() as lock:
            names, recorded = frozen(), self.recorded()
            known = self.known().items()
            self._suspend({name: one for name, one in known if name in names and recorded.get(name) != one}, lock)

    def waiting(self) -> list[str]:
        """The students whose jobs had not begun when the others were frozen."""
        return [name for name, job in self._seen.items() if job.state in _WAITING]

    def look(self, uids: Mapping[str, int]) -> dict[str, str]:
        """By username: what of a student's may have run since the freeze."""
        known = self.known()
        try:
            now = self._ask({name: handle for name, handle in known.items() if name in uids})
            others = jobs.running_of(self.settings, set(uids.values()))
            silent = control.down_nodes(self.settings)
        except HostError as error:
            asked = [name for name in uids if name in known or name in self._seen]
            return dict.fromkeys(asked, f"whether the job stayed frozen is not known: {error.problem}")
        ours = {handle.job for handle in known.values()}
        words = {name: _meanwhile(self._seen.get(name), now.get(name), silent) for name in uids}
        for name, uid in uids.items():
            if strange := [str(number) for number in others.get(uid, ()) if number not in ours]:
                words[name] = "; ".join(
                    filter(None, (words[name], f"other jobs of the student run: {', '.join(strange)}"))
                )
        return {name: text for name, text in words.items() if text}

    def thaw(self, usernames: Collection[str]) -> dict[str, str]:
        """Resume what `freeze` suspended, unless it is frozen for the other reason too. Returns by username why a job
        could not be resumed; it stays recorded.
        """
        try:
            with self._alone() as lock:
                wanted = {name: handle for name, handle in self.recorded().items() if name in usernames}
                elsewhere = _load(self.paths.state / (BY_COMMAND if self.reason == BY_CAPTURE else BY_CAPTURE))
                failures = self._resume({name: one for name, one in wanted.items() if elsewhere.get(name) != one}, lock)
                if wanted:
                    self._forget(wanted.keys() - failures.keys())
        except HostError as error:
            failures = dict.fromkeys(self.recorded().keys() & set(usernames), error.problem)
        for name, words in failures.items():
            log.error("%s's job is still suspended: %s", name, words)
        return failures

    def _forget(self, names: Collection[str]) -> None:
        """They run. Where that cannot be written (a full disk), a later `thaw` finds them running."""
        try:
            _save(self.record, {name: one for name, one in self.recorded().items() if name not in names})
        except OSError as error:
            log.error("%s still lists jobs that were resumed: %s", self.record, error)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """One process at a time. HostError also when the state folder cannot be written."""
        try:
            with freeze_record.alone(self.paths.state / "jobs-frozen.lock") as lock:
                yield lock
        except OSError as error:
            raise HostError(f"{self.paths.state} cannot be written: {error.strerror}") from error

    def _suspend(self, handles: Mapping[str, JobHandle], lock: int) -> str:
        """What Slurm complained about. Recorded before it is done; Slurm's command keeps the lock, so that whatever
        thaws after our death comes after it.
        """
        self._seen |= self._ask(handles)
        due = {name: one for name, one in handles.items() if self._seen[name].state is JobState.RUNNING}
        if not due:
            return ""
        _await_turn(lock)
        before = self.recorded()
        _save(self.record, {**before, **due})
        complaint = control.suspend(self.settings, [one.job for one in due.values()], inherit=[lock])
        self._seen |= self._ask(due)
        refused = {name for name in due if self._seen[name].state not in (JobState.SUSPENDED, JobState.UNKNOWN)}
        _save(self.record, {name: one for name, one in {**before, **due}.items() if name not in refused})
        return complaint

    def _resume(self, due: Mapping[str, JobHandle], lock: int) -> dict[str, str]:
        """By username: why a job is still suspended."""
        try:
            suspended = [due[name].job for name, job in self._ask(due).items() if job.state is JobState.SUSPENDED]
            complaint = control.resume(self.settings, suspended, inherit=[lock]) if suspended else ""
            now = self._ask(due)
        except HostError as error:
            return dict.fromkeys(due, error.problem)
        left = [name for name, job in now.items() if job.state in (JobState.SUSPENDED, JobState.UNKNOWN)]
        return dict.fromkeys(left, complaint or "Slurm did not resume its job")

    def _ask(self, handles: Mapping[str, JobHandle]) -> dict[str, Job]:
        """By username. A job that is not ours by uid and AdminComment is gone. UnansweredError."""
        if not handles:
            return {}
        tools.ping(self.settings)
        found = jobs.poll(self.settings, [handle.job for handle in handles.values()])
        return {name: _ours(found[handle.job], handle) for name, handle in handles.items()}


def _await_turn(lock: int) -> None:
    """Until the last suspension is over, also that of a process that was killed. The lock's file has its time, on the
    clock that all processes share since the boot.
    """
    last = os.pread(lock, 32, 0).decode("ascii", errors="replace")
    since = time.monotonic() - float(last) if re.fullmatch(r"[0-9]+\.[0-9]+", last) else SETTLE
    if 0 <= since < SETTLE:
        time.sleep(SETTLE - since)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{time.monotonic():.3f}".encode("ascii"), 0)


def _ours(job: Job, handle: JobHandle) -> Job:
    is_another = job.is_live and (job.uid, job.admin_comment) != (handle.uid, handle.mark)
    return Job(job.id, JobState.GONE) if is_another else job


def _running(job: Job, complaint: str) -> str:
    """Why it still runs; empty: nothing of it does."""
    if job.state is JobState.RUNNING:
        return f"job {job.id} could not be suspended: {complaint or 'Slurm does not say why'}"
    if job.state is JobState.ENDING:
        return f"job {job.id} is ending"
    if job.state is JobState.UNKNOWN:
        return f"Slurm does not say whether job {job.id} is suspended"
    return ""


def _meanwhile(then: Job | None, now: Job | None, silent: Mapping[str, str]) -> str:
    """What of a job may have run between two looks; empty: nothing. What ran at the first one was said already."""
    if then is None:
        is_quiet = now is None or now.state in _WAITING or now.state is JobState.SUSPENDED
        return "" if is_quiet else "a job began meanwhile"
    is_same = now is not None and (now.id, now.restarts) == (then.id, then.restarts)
    if then.state in _WAITING:
        return "" if is_same and now is not None and now.state in _WAITING else f"job {then.id} began meanwhile"
    if then.state is not JobState.SUSPENDED:
        return ""
    if not is_same or now is None or now.state is not JobState.SUSPENDED:
        return f"job {then.id} did not stay suspended"
    if then.node in silent:
        return f"node {then.node} does not answer: whether job {then.id} is frozen is not known"
    return ""


def _load(file: Path) -> dict[str, JobHandle]:
    text = root_files.read(file)
    if text is None:
        return {}
    try:
        return {str(name): JobHandle(**handle) for name, handle in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        log.warning("%s is damaged and is not used: %s", file, error)
        return {}


def _save(file: Path, handles: Mapping[str, JobHandle]) -> None:
    if not handles:
        file.unlink(missing_ok=True)
        return
    content = {name: {"job": one.job, "uid": one.uid, "mark": one.mark} for name, one in handles.items()}
    root_files.replace(file, json.dumps(content), durable=True)
