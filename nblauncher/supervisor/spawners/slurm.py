"""The spawner `slurm`: each server is a job of the student's, on a node of the cluster.

Whatever asks the cluster runs in a short-lived child: nothing in the supervisor waits for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nblauncher.errors import HostError
from nblauncher.model import ROOT, Account, JobHandle, Limits, ServerHandle, SlurmSettings
from nblauncher.server import job_file
from nblauncher.server.job_file import JobFile
from nblauncher.slurm import control, submission, tools
from nblauncher.supervisor.errands import Errands
from nblauncher.supervisor.spawners.protocol import Answer, EventLoop, Order, Started
from nblauncher.system import workers
from nblauncher.system.descriptors import read_and_close
from nblauncher.system.wire import close_all

log = logging.getLogger(__name__)

SLURM = "slurm"
"""Its name in the config."""

SUBMITTING = 90.0
"""Seconds that a submission may take: sbatch itself waits for a controller that does not answer."""

AT_A_TIME = 2 * (os.cpu_count() or 1)
"""Submissions under way; more wait for their turn, so that a whole class does not start hundreds of processes."""

CANCELLING = 60.0
_TOGETHER = 0.05
"""Seconds in which jobs to be cancelled are collected, for one call."""
_AGAIN = 3.0
_OF_THE_HOST = ("TZ", "OMP_NUM_THREADS")
"""Variables of a server's environment that hold on a node too; the others name places of this host."""

_HOME = 15.0
"""Seconds for a file in the home: one that hangs, perhaps by its student's doing, must not take the others' turns."""
_ENDING = 20.0
_PAUSE = 0.2


class SlurmSpawner:
    """`course` is part of the AdminComment. `settings` are those of the last order."""

    is_remote = True

    def __init__(self, loop: EventLoop, errands: Errands, course: str) -> None:
        self._loop, self._errands, self._course = loop, errands, course
        self.settings = SlurmSettings()
        self._to_cancel: dict[int, int] = {}
        self._is_cancelling = False
        self._to_submit: deque[Callable[[], None]] = deque()
        self._submitting = 0

    def start(self, order: Order, answer: Answer) -> None:
        """Submit a job; answers when the cluster has."""
        try:
            given = self.settings = settings_in(order.slurm.get("settings"))
        except HostError as error:
            answer(error)
            return
        files = [os.dup(file) for file in (order.config, order.certificate, order.key) if file is not None]
        if len(files) != 3:
            close_all(files)
            answer(HostError("a server on a node needs a certificate", "Set tls.mode: class-ca."))
            return
        environment = {name: order.environment[name] for name in _OF_THE_HOST if name in order.environment}
        about = {**order.slurm, "environment": {**environment, **order.slurm.get("environment", {})}}
        self._to_submit.append(lambda: self._submit(given, order, files, about, answer))
        self._submit_next()

    def _submit_next(self) -> None:
        while self._to_submit and self._submitting < AT_A_TIME:
            self._submitting += 1
            self._to_submit.popleft()()

    def _submit(
        self, given: SlurmSettings, order: Order, files: list[int], about: Mapping[str, Any], answer: Answer
    ) -> None:
        run = secrets.token_hex(8)
        mark = submission.admin_comment(self._course, run)
        wanted = (given, order.sandbox.limits, order.account, self._course, run, files, about, order.sign_ins)

        def is_over(result: Started | HostError) -> None:
            self._submitting -= 1
            answer(result)
            self._submit_next()

        def submitted(number: object) -> None:
            is_over(Started(JobHandle(int(str(number)), order.account.uid, mark), None))

        try:
            self._errands.run(ROOT, _submit, *wanted, deadline=SUBMITTING, done=submitted, failed=is_over, keep=files)
        finally:
            close_all(files)

    def know(self, config: str, programs: str) -> None:
        """How the cluster is asked about jobs that the last supervisor submitted."""
        self.settings = SlurmSettings(config=config, programs=programs)

    def poll(self, handle: ServerHandle) -> bool:
        """Whether it runs only the cluster knows; see nblauncher.supervisor.jobs."""
        return isinstance(handle, JobHandle)

    def stop(self, handle: ServerHandle) -> None:
        """Cancelled with all others that are stopped at this moment, in one call."""
        if isinstance(handle, JobHandle):
            self._to_cancel[handle.job] = handle.uid
            if not self._is_cancelling:
                self._is_cancelling = True
                self._loop.later(_TOGETHER, self._cancel)

    def kill(self, handle: ServerHandle) -> None:
        self.stop(handle)

    def has_ended(self, handle: JobHandle) -> None:
        """It need not be cancelled any more."""
        self._to_cancel.pop(handle.job, None)

    def _cancel(self) -> None:
        jobs = dict(self._to_cancel)
        if not jobs:
            self._is_cancelling = False
            return

        def done(_found: object) -> None:
            log.info("cancelled the jobs %s", sorted(jobs))
            for number in jobs:
                self._to_cancel.pop(number, None)
            self._cancel()

        def failed(error: HostError) -> None:
            log.warning("the jobs %s are not cancelled yet: %s", sorted(jobs), error.problem)
            self._loop.later(_AGAIN, self._cancel)

        self._errands.run(ROOT, _cancel, self.settings, jobs, deadline=CANCELLING, done=done, failed=failed)


def settings_in(given: object) -> SlurmSettings:
    """From a spec's JSON. HostError when it is none."""
    if not isinstance(given, Mapping):
        raise HostError("the supervisor was not told about the cluster", "Run `nblauncher launch` again.")
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    try:
        return SlurmSettings(**fields)
    except TypeError as error:
        raise HostError(f"the settings of the cluster are not understood: {error}") from error


def _submit(
    settings: SlurmSettings,
    limits: Limits,
    account: Account,
    course: str,
    run: str,
    files: list[int],
    about: Mapping[str, Any],
    sign_ins: str,
) -> int:
    """In a child that is root: the student's own children write the file and submit. Returns the job's number."""
    tools.ping(settings)
    _end_others(settings, account, course)
    config, certificate, key = (read_and_close(file).decode("ascii") for file in files)
    more: dict[str, Any] = {name: about.get(name, {}) for name in ("appearance", "environment", "kernel")}
    more |= {"sign_ins": sign_ins, "course": course, "lost_node": str(about.get("lost_node", ""))}
    given = JobFile(config, certificate, key, **more)
    output = str(job_file.folder_of(account.home) / "%j.log")
    try:
        file = Path(str(workers.run_as(account, _put, str(account.home), run, given, timeout=_HOME)))
        command = [settings.python or sys.executable, "-I", "-m", "nblauncher.server.node", str(file), run]
        asked = submission.submission(settings, limits, account, command, course=course, run=run, output=output)
        return submission.submit(settings, asked, account)
    except HostError:
        # If there is a job after all, it finds no file and ends; if there is none, no secrets are left.
        with contextlib.suppress(HostError):
            workers.run_as(account, _drop, str(account.home), run, timeout=_HOME)
        raise


def _end_others(settings: SlurmSettings, account: Account, course: str) -> None:
    """Jobs that a killed supervisor submitted and did not note: there are never two servers over one home. One that was
    cancelled still runs until its node says that it has ended.
    """
    until = time.monotonic() + _ENDING
    while others := _others(settings, account, course):
        if time.monotonic() > until:
            raise HostError(
                f"an older job of {account.username} does not end: {', '.join(map(str, sorted(others)))}",
                "Look at it with `scontrol show job`, and cancel it.",
            )
        control.cancel(settings, {number: account.uid for number, is_ending in others.items() if not is_ending})
        time.sleep(_PAUSE)


def _others(settings: SlurmSettings, account: Account, course: str) -> dict[int, bool]:
    """By number, whether it is ending already. Known by the mark, which only root can write, or before it was written
    by the name, which the student can change: one who does so in that moment may have two servers. A name with line
    breaks reaches no other student's job.
    """
    theirs = ("squeue", "--noheader", "--all", f"--user={account.uid}")
    states = "--states=PENDING,RUNNING,SUSPENDED,COMPLETING"
    listed = tools.call(settings, *theirs, states, "--Format=jobid:14,state:16,admin_comment:64,name:80")
    mark, name = re.escape(submission.mark_of(course)), re.escape(submission.job_name(course))
    found = re.findall(rf"^([0-9]+) +([A-Z_]+) +(?:{mark}|.*\b{name} *$)", listed, re.M)
    return {int(number): state == "COMPLETING" for number, state in found}


def _put(home: str, run: str, given: JobFile) -> str:
    """As the student."""
    return str(job_file.put(Path(home), run, given))


def _drop(home: str, run: str) -> None:
    """As the student."""
    job_file.drop(Path(home), run)


def _cancel(settings: SlurmSettings, owners: Mapping[int, int]) -> list[int]:
    """In a child that is root."""
    return sorted(control.cancel(settings, owners))
