"""Grade one submission with the teacher's program: root starts what is needed, and judges nothing itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nblauncher.errors import HostError
from nblauncher.forkserver.requests import Place
from nblauncher.grading import records, working_folder
from nblauncher.grading.by_command import program, teacher_child
from nblauncher.grading.task import Task
from nblauncher.grading.workshop import Workshop
from nblauncher.isolation import limits, views
from nblauncher.model import ROOT
from nblauncher.system import workers

_DELIVERING = 300.0
_OVERHEAD = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted(Task):
    """The program, with its arguments and variables. `path` is where programs are looked for."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    path: str


def grade(place: Workshop, wanted: Wanted, username: str, digest: str, number: int) -> Mapping[str, Any]:
    """The record that was written. HostError when it was not the submission that failed: then nothing was written."""
    with place.seat(wanted.uids, 2 * number, wanted.limits, wanted.disk) as seat:
        said: dict[str, Any] = {"digest": digest, "data": None, "exit_code": None, "output": "", "why": ""}
        why, said["warnings"] = _deliver(seat, wanted, username)
        if why:
            said["why"] = why
        else:
            _run(seat, wanted, said)
        about = (wanted.root, wanted.assignment, username, said)
        record = records.checked(workers.run_as(wanted.teacher, teacher_child.remember, *about))
        if record is None:
            raise HostError("the teacher's child sent what is not a record")
        return record


def _deliver(seat: Place, wanted: Wanted, username: str) -> tuple[str, list[str]]:
    """Why the submission cannot be graded, and what was left out of it."""
    source, output = os.pipe2(os.O_CLOEXEC)
    most = wanted.disk + _OVERHEAD
    arguments = (wanted.root, wanted.assignment, username, output, wanted.disk)
    try:
        giver = workers.start(wanted.teacher, teacher_child.deliver, *arguments, keep={output})
    finally:
        os.close(output)
    filling = (seat.account, seat.sandbox, wanted.assignment, source, most)
    try:
        taker = workers.start(ROOT, working_folder.fill, *filling, keep={source})
    except BaseException:
        giver.stop()
        raise
    finally:
        os.close(source)
    try:
        taker.result(_DELIVERING)
        return "", list(giver.result(_DELIVERING))
    except HostError as error:
        taker.stop()
        giver.stop()
        return error.problem, []


def _run(seat: Place, wanted: Wanted, said: dict[str, Any]) -> None:
    account = seat.account
    own = {"HOME": str(views.HOME), "USER": account.username, "LOGNAME": account.username, "PATH": wanted.path}
    environment = {**wanted.environment, **own, program.VARIABLE: program.RESULT}
    ended = program.run(seat, wanted.argv, environment, wanted.assignment, seconds=wanted.seconds, most=wanted.output)
    said["output"], said["exit_code"] = ended.output, ended.exit_code
    pressure = limits.pressure(seat.sandbox.group).words(wanted.limits)
    said["warnings"] = [*said["warnings"], *(f"its code: {words}" for words in pressure)]
    if ended.exit_code is None:
        said["why"] = f"it was not done after {wanted.seconds} s and was ended"
    else:
        said["data"] = program.result_of(seat)
