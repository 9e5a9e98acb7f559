"""A home on its way to the teacher's store: root forks two children and connects them by pipes that it never reads."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nblauncher.config.settings import RetrieveSettings
from nblauncher.errors import HostError
from nblauncher.exchange import rows
from nblauncher.exchange.retrieve import store, student_side, teacher_side
from nblauncher.exchange.retrieve.scope import Scope
from nblauncher.exchange.retrieve.store import Staging
from nblauncher.exchange.students import student
from nblauncher.model import Account, Work
from nblauncher.system import workers

_PIPE_BYTES = 1 << 20
_STALL = 60.0
_LONGEST = 6 * 3600.0
_LAST_WORDS = 10.0


@dataclass(frozen=True, slots=True)
class Collected:
    """What one student's folder in the staging amounts to. All exclusions are in the manifest, the first 200 here."""

    work: Work
    digest: str
    """Of the paths, sizes and sha256 of everything stored; two equal digests are equal work."""
    listing: str
    """Of everything that the student's child walked; equal to `listing(...)` as long as nothing in the home changes."""
    changed: int = 0
    """Files that the student made or changed since `since`."""
    gone: int = 0
    """Files of the last retrieval that are not in this one."""
    since: str = ""
    """The folder of that last retrieval; empty: since the material was handed out."""


def collect(
    account: Account,
    owner: Account,
    staging: Staging,
    scope: Scope,
    limits: RetrieveSettings,
    *,
    previous: str = "",
    stall: float = _STALL,
    longest: float = _LONGEST,
) -> Collected:
    """Bring one student's work into the staging folder.

    `previous` is the published folder with this student's last retrieval; what is unchanged there is hard-linked.
    `stall` and `longest` are seconds without a sign of life and in all. HostError when the copy failed; the staging
    then holds nothing of this student. What is left out is in `work.exclusions`, and is not an error.
    """
    order = teacher_side.Order(
        staging.target,
        staging.name,
        account.username,
        scope,
        limits,
        staging.time.isoformat(timespec="seconds"),
        previous=previous,
    )
    try:
        read = (student_side.gather, account.home, scope, limits, longest)
        answer, listed = joined(student(account), *read, owner=owner, order=order, stall=stall, longest=longest)
    except HostError as error:
        store.discard_student(owner, staging.target, staging.name, account.username)
        raise HostError(f"the work of {account.username} was not retrieved: {error.problem}", error.hint) from error
    exclusions = tuple(map(rows.exclusion_from, rows.objects(answer["exclusions"])))
    return Collected(
        Work(rows.size(answer, "files"), rows.size(answer, "bytes"), exclusions),
        rows.text(answer, "digest"),
        str(listed),
        rows.size(answer, "changed"),
        rows.size(answer, "gone"),
        previous if answer["has_previous"] else "",
    )


def listing(account: Account, scope: Scope, limits: RetrieveSettings, *, longest: float = _LONGEST) -> str:
    """The home's listing once more, for comparison with `Collected.listing` before anything is deleted. HostError."""
    return str(workers.run_as(student(account), student_side.listing, account.home, scope, limits, timeout=longest))


def joined(
    reader: Account,
    read: Callable[..., object],
    *arguments: object,
    owner: Account,
    order: teacher_side.Order,
    stall: float,
    longest: float,
) -> tuple[rows.Row, Any]:
    """What `teacher_side.receive` answers as the owner, and `read(output, known, *arguments)` as the reader.

    `stall` and `longest` are seconds without a frame and in all. HostError of the child that failed first.
    """
    stream, output = os.pipe()
    known, tell = os.pipe()
    with contextlib.suppress(PermissionError):  # tests without root may be over the user's share of pipe memory
        fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    try:
        sender = workers.start(reader, read, output, known, *arguments, keep={output, known})
        try:
            receiver = workers.start(owner, teacher_side.receive, order, stream, tell, stall, keep={stream, tell})
        except BaseException:
            sender.stop()
            raise
    finally:
        for descriptor in (stream, output, known, tell):
            os.close(descriptor)
    try:
        answer = receiver.result(longest)
        return answer, sender.result(_LAST_WORDS)
    except HostError as error:
        if error.problem == teacher_side.STOPPED:
            sender.result(_LAST_WORDS)  # it ended first and knows why: an unreadable home, or it was killed
        raise
    finally:
        receiver.stop()
        sender.stop()
