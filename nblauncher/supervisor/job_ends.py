"""What a job leaves behind: the end of its log, perhaps a file that it never read, and perhaps a server on a node that
does not answer.

All are in the student's home, so a child that is the student looks at them.
"""

from __future__ import annotations

import pwd
from collections.abc import Callable
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.model import ROOT, Account, JobHandle
from nblauncher.server import job_file
from nblauncher.supervisor.errands import Errands
from nblauncher.supervisor.seat import Seat
from nblauncher.system import workers

READING = 10.0
"""Seconds in which the home must answer; the job's end is known without it."""


class JobEnds:
    def __init__(self, errands: Errands, course: str) -> None:
        self._errands, self._course = errands, course
        self._under_way: set[int] = set()

    def settle(
        self,
        seat: Seat,
        handle: JobHandle,
        *,
        is_withdrawn: bool,
        has_begun: bool,
        done: Callable[[tuple[str, ...]], None],
    ) -> None:
        """Call `done` with the last lines of the job's log, unless the seat has another job by then. `is_withdrawn`: a
        server that still runs somewhere ends itself as soon as it sees the home. A job that has not `begun` has perhaps
        never read its file, which has the student's secrets: it is removed.
        """
        if handle.job in self._under_way:
            return
        self._under_way.add(handle.job)

        def over(lines: list[str]) -> None:
            self._under_way.discard(handle.job)
            if seat.handle == handle:
                done(tuple(map(str, lines)))

        unread = "" if has_begun else handle.mark.rpartition(":")[2]
        given = (seat.username, handle.uid, self._course, handle.job, unread, is_withdrawn)
        self._errands.run(ROOT, _settle, *given, deadline=READING, done=over, failed=lambda _error: over([]))


def _settle(username: str, uid: int, course: str, job: int, unread: str, is_withdrawn: bool) -> list[str]:
    """In a child that is root: the directory with the accounts may be slow."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError as error:
        raise HostError(f"{username} has no account any more") from error
    account = Account(username, uid, entry.pw_gid, Path(entry.pw_dir))
    found = workers.run_as(account, _in_the_home, entry.pw_dir, course, job, unread, is_withdrawn, timeout=READING)
    return [str(line) for line in found]


def _in_the_home(home: str, course: str, job: int, unread: str, is_withdrawn: bool) -> list[str]:
    """As the student."""
    if is_withdrawn:
        job_file.withdraw(Path(home), course)
    if unread:
        job_file.drop(Path(home), unread)
    return job_file.last_lines(home, job)
