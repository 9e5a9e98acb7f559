"""A student's kernels are ended on the teacher's request while the server goes on: the server does it itself.

A server on a node is asked by nblauncher.supervisor.node_requests.

Root does not look for kernels among a student's processes: which of them are kernels only the server knows.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from nblauncher.model import Handle, JobHandle, ServerState
from nblauncher.server import activity
from nblauncher.supervisor.loop import Loop
from nblauncher.supervisor.seat import Seat
from nblauncher.system import processes

DEADLINE = 15.0
"""Seconds within which a server must report that it has ended its kernels."""

NO_WORD = "the server does not answer; restart it without --kernels"
NOT_RUNNING = "the server is not running"
TOO_OLD = "the server is of an older release; restart it without --kernels"

Outcome = int | str
"""How many kernels were ended, or why that is not known."""


def end_kernels(loop: Loop, seats: Sequence[Seat], done: Callable[[Mapping[str, Outcome]], None]) -> None:
    """Ask these servers to end their kernels; `done` is called once, with an outcome for each student."""
    outcomes: dict[str, Outcome] = {}
    is_over = False

    def finish() -> None:
        nonlocal is_over
        if not is_over and len(outcomes) == len(seats):
            is_over = True
            done(outcomes)

    def give_up() -> None:
        for seat in seats:
            seat.cluster.kernels_to_end = ""
            outcomes.setdefault(seat.username, NO_WORD)
        finish()

    def take(username: str, outcome: Outcome) -> None:
        outcomes.setdefault(username, outcome)
        finish()

    for seat in seats:
        if why := _objection(seat):
            outcomes[seat.username] = why
    for seat in seats:
        if seat.username not in outcomes:
            seat.doings.ended.append(partial(take, seat.username))
            if isinstance(seat.handle, Handle):
                processes.send_signal(seat.handle, activity.END_KERNELS)
            else:
                seat.cluster.kernels_to_end = secrets.token_hex(8)
    loop.later(DEADLINE, give_up)
    finish()


def _objection(seat: Seat) -> str:
    """Why this server is not asked."""
    if seat.state is not ServerState.READY or seat.handle is None:
        return NOT_RUNNING
    if isinstance(seat.handle, JobHandle):
        return ""
    if seat.news_pipe < 0 or not activity.handles(seat.handle.pid):
        return TOO_OLD
    return ""
