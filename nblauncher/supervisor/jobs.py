"""What becomes of the class's jobs: one short-lived child asks the cluster for all of them, every few seconds.

A controller that does not answer means that nothing is known, never that a job has ended.
"""

from __future__ import annotations

import contextlib
import logging
import random
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from nblauncher.errors import HostError
from nblauncher.model import GOES_ON, ROOT, SHUT_DOWN, JobHandle, ServerState, SlurmSettings
from nblauncher.server import activity, node_words
from nblauncher.slurm import control, jobs, tools, words
from nblauncher.slurm.jobs import Job, JobState
from nblauncher.supervisor.doings import now
from nblauncher.supervisor.errands import Errands
from nblauncher.supervisor.job_ends import JobEnds
from nblauncher.supervisor.loop import Loop
from nblauncher.supervisor.seat import Seat
from nblauncher.supervisor.spawners.slurm import SlurmSpawner
from nblauncher.supervisor.states import Action, Event
from nblauncher.supervisor.stopping import Exit

log = logging.getLogger(__name__)

SOON, EVERY, RARELY = 1.0, 5.0, 10.0
"""Seconds between two looks: while a job begins or ends, while all run, and while the controller does not answer."""

LOOKING = 60.0
_NAMING = 10.0
"""Seconds of a look after which no further node is asked for; the next look goes on."""
NEARLY_OVER = 600
"""Seconds before its time limit from which on `status` and the student's pages name it."""

_JITTER = 20
"""Seconds by which the end may seem to move between two looks, because each takes its time."""

_WHOLE_QUEUE = ("squeue", "--noheader", "--all", "--states=PENDING", "--sort=-p,i", "--format=%i|%P")
_KINDS = {
    "Resources": "room",
    "Priority": "others",
    "Reservation": "later",
    "BeginTime": "later",
    "NodeDown": "down",
    "PartitionDown": "down",
    "PartitionInactive": "down",
    "ReqNodeNotAvail": "down",
    "Nodes required": "down",
    "Assoc": "limit",
    "QOS": "limit",
    "MaxSubmit": "limit",
}
_NOT_ITS_FAULT = ("NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED", "PREEMPTED")
"""How jobs end whatever their server does: a new one is submitted, also for a server that had not answered yet."""
_SAID_BY_THE_NODE = ("COMPLETED", "FAILED", "OUT_OF_MEMORY")
_STAYS_DOWN = ("CANCELLED", "TIMEOUT", "DEADLINE")
_LONGEST = 200
"""Characters of a job's last line in `status`."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A job at one look. `words` are Slurm's, for people; the rest of what a student wrote is checked already."""

    state: JobState
    uid: int
    mark: str
    word: str
    words: str
    why: str
    kind: str
    node: str
    address: str
    place: int
    starts_at: int
    left: int | None
    wait_status: int
    is_hopeless: bool
    is_current: bool
    """What the server says is of this start."""
    is_cut_off: bool
    """Its node does not answer."""
    is_unstarted: bool
    """Slurm could not start it on its node."""
    port: int
    said: tuple[str, ...]

    @property
    def may_go_on(self) -> bool:
        """Slurm has given the job up, and its node could not confirm it."""
        return self.word == "NODE_FAIL" or (self.is_cut_off and self.word not in _SAID_BY_THE_NODE)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Seen:
        return cls(**{**given, "state": JobState(given["state"]), "said": tuple(given["said"])})


class Owner(Protocol):
    """The seats of the class."""

    changed: set[str]

    def decide(self, seat: Seat, event: Event) -> Action: ...

    def expect(self, seat: Seat) -> None: ...

    def on_words(self, seat: Seat, words: Sequence[str]) -> None: ...

    def ended(self, seat: Seat, how: Exit) -> None: ...

    def fail(self, seat: Seat, reason: str) -> None: ...


class Jobs:
    """Looks at the jobs of these seats."""

    def __init__(self, loop: Loop, errands: Errands, seats: Owner, spawner: SlurmSpawner, ends: JobEnds) -> None:
        self._loop, self._errands, self._seats, self._spawner = loop, errands, seats, spawner
        self._ends = ends
        self._is_looking = False
        self._due = 0.0
        self._addresses: dict[str, str] = {}

    def look(self, seats: Sequence[Seat]) -> None:
        """Ask again if it is time to. Called after every change; cheap when there is nothing to do."""
        if self._is_looking or not any(isinstance(seat.handle, JobHandle) for seat in seats):
            return
        if time.monotonic() < self._due:
            return
        asked = {seat.handle.job: seat for seat in seats if isinstance(seat.handle, JobHandle)}
        self._is_looking = True

        def answered(found: Mapping[str, Any]) -> None:
            self._addresses |= found["addresses"]
            is_silent = False
            for number, seat in asked.items():
                seen = found["jobs"].get(str(number))
                if seen is not None and isinstance(seat.handle, JobHandle) and seat.handle.job == number:
                    is_silent = not self._take(seat, seat.handle, Seen.of(seen)) or is_silent
            self._next(seats, is_silent=is_silent)

        def failed(error: HostError) -> None:
            log.warning("the cluster was asked about %d jobs: %s", len(asked), error.problem)
            for seat in asked.values():
                self._silence(seat)
            self._next(seats, is_silent=True)

        given = (self._spawner.settings, sorted(asked), dict(self._addresses))
        self._errands.run(ROOT, _look, *given, deadline=LOOKING, done=answered, failed=failed)

    def _next(self, seats: Sequence[Seat], *, is_silent: bool) -> None:
        self._is_looking = False
        is_busy = any(seat.is_remote and _is_moving(seat) for seat in seats)
        pause = RARELY if is_silent else SOON if is_busy else EVERY
        self._due = time.monotonic() + pause
        self._loop.later(pause, lambda: None)  # then `look` is called again

    def hurry(self) -> None:
        """Something was asked of the cluster: look soon."""
        self._due = min(self._due, time.monotonic() + SOON)
        self._loop.later(SOON, lambda: None)

    def _take(self, seat: Seat, handle: JobHandle, seen: Seen) -> bool:
        """Returns whether the cluster has answered about this job."""
        if seen.state is JobState.UNKNOWN:
            self._silence(seat)
            return False
        if seat.cluster.silent_since:
            seat.cluster.silent_since = 0.0
            self._seats.changed.add(seat.username)
        is_another = seen.state is not JobState.GONE and (seen.uid, seen.mark) != (handle.uid, handle.mark)
        if is_another or seen.state in (JobState.GONE, JobState.ENDED):
            self._take_end(seat, handle, seen, is_another=is_another)
        elif seen.state in (JobState.QUEUED, JobState.HELD):
            self._take_queued(seat, seen)
        elif seen.state is JobState.ENDING:
            seat.cluster.port = 0
        else:
            self._take_running(seat, seen)
        return True

    def _take_queued(self, seat: Seat, seen: Seen) -> None:
        cluster = seat.cluster
        before = (cluster.place, cluster.why, cluster.starts_at)
        cluster.place, cluster.why, cluster.starts_at = seen.place, seen.why, float(seen.starts_at)
        cluster.kind, cluster.node, cluster.port, cluster.is_suspended = seen.kind, "", 0, False
        if seat.stopping is None and (seen.state is JobState.HELD or seen.is_hopeless):
            self._seats.fail(seat, seen.words)
        elif self._seats.decide(seat, Event.WAITS) is Action.MARK_QUEUED:
            seat.cancel_timer()
            if seat.state is not ServerState.QUEUED or before != (cluster.place, cluster.why, cluster.starts_at):
                self._seats.changed.add(seat.username)
            seat.state = ServerState.QUEUED

    def _take_running(self, seat: Seat, seen: Seen) -> None:
        cluster = seat.cluster
        cluster.place, cluster.why, cluster.starts_at, cluster.left = 0, "", 0.0, seen.left
        ends_at = 0 if seen.left is None else int(now()) + seen.left
        if not ends_at or abs(ends_at - cluster.ends_at) > _JITTER:
            cluster.ends_at = ends_at
        if (cluster.node, cluster.address) != (seen.node, seen.address):
            cluster.node, cluster.address = seen.node, seen.address
            self._seats.changed.add(seat.username)
        cluster.is_cut_off = seen.is_cut_off
        was_suspended, cluster.is_suspended = cluster.is_suspended, seen.state is JobState.SUSPENDED
        is_new = self._seats.decide(seat, Event.RUNS) is Action.MARK_STARTING and seat.state is ServerState.QUEUED
        if is_new:
            seat.state = ServerState.STARTING
            self._seats.changed.add(seat.username)
        if seat.state is ServerState.STARTING and cluster.is_suspended:
            seat.cancel_timer()  # it cannot answer
        elif is_new or (seat.state is ServerState.STARTING and was_suspended):
            self._seats.expect(seat)
        if seen.is_current and seen.port and activity.LISTENS in seen.said:
            cluster.port = seen.port
            self._hear(seat, seen)

    def _take_end(self, seat: Seat, handle: JobHandle, seen: Seen, *, is_another: bool) -> None:
        self._spawner.has_ended(handle)
        seat.cluster.is_suspended = False
        if seen.is_current:
            self._hear(seat, seen)
        how = _exit(seen, is_another=is_another)
        # Slurm calls a job that ends well so if one of its kernels had run out of memory before.
        is_asleep = seat.is_idle and seen.word == "OUT_OF_MEMORY"
        is_lost = seen.may_go_on and not is_another
        seat.lost_node = seen.node if is_lost else ""
        has_begun = activity.LISTENS in seat.cluster.said
        is_plain = is_asleep or how.is_clean or (seat.stopping is not None and not is_lost)
        if is_asleep:
            how = replace(how, is_clean=True)
        if is_plain and has_begun:
            self._seats.ended(seat, how)
            return
        if is_lost and seat.stopping is not None and seat.stopping.reason == SHUT_DOWN:
            seat.stopping.reason = f"{SHUT_DOWN}; {GOES_ON.format(node=seen.node)}"

        def over(lines: tuple[str, ...]) -> None:
            if is_plain:
                self._seats.ended(seat, how)
                return
            seat.last_lines = lines
            is_told = lines and seen.word == "FAILED" and not how.is_lost
            said = f"{how.words}: {lines[-1][:_LONGEST]}" if is_told else how.words
            self._seats.ended(seat, replace(how, words=said))

        self._ends.settle(seat, handle, is_withdrawn=is_lost, has_begun=has_begun, done=over)

    def _hear(self, seat: Seat, seen: Seen) -> None:
        """What the server has not said before."""
        new = [word for word in seen.said if word not in seat.cluster.said]
        seat.cluster.said = seen.said
        if new:
            self._seats.on_words(seat, new)

    def _silence(self, seat: Seat) -> None:
        if not seat.cluster.silent_since:
            seat.cluster.silent_since = now()
            self._seats.changed.add(seat.username)


def _exit(seen: Seen, *, is_another: bool) -> Exit:
    said = "Slurm no longer has this job" if is_another else seen.words
    if seen.may_go_on and not is_another:
        said = f"{said}; {GOES_ON.format(node=seen.node)}"
    return Exit(
        said,
        is_clean=seen.word == "COMPLETED" and seen.wait_status == 0,
        stays_down=seen.word in _STAYS_DOWN or is_another or seen.state is JobState.GONE,
        is_lost=not is_another and (seen.word in _NOT_ITS_FAULT or seen.is_unstarted),
    )


def _is_moving(seat: Seat) -> bool:
    return seat.stopping is not None or seat.state in (ServerState.STARTING, ServerState.QUEUED)


def _look(settings: SlurmSettings, ids: list[int], addresses: dict[str, str]) -> dict[str, Any]:
    """In a child that is root: all that students could write is read here."""
    try:
        tools.ping(settings)
    except tools.UnansweredError:
        found = {number: Job(number, JobState.UNKNOWN) for number in ids}
    else:
        found = jobs.poll(settings, ids)
    silent = _silent_nodes(settings) if any(job.node for job in found.values()) else frozenset()
    places = _places(settings) if any(job.state is JobState.QUEUED for job in found.values()) else {}
    new = _addresses(settings, {job.node for job in found.values() if job.node} - addresses.keys())
    known = {**addresses, **new}
    by = jobs.cancelled_by(settings, [number for number, job in found.items() if job.word == "CANCELLED"])
    seen = {
        number: _seen(job, known.get(job.node, ""), places, silent, by.get(number)) for number, job in found.items()
    }
    return {"jobs": seen, "addresses": new}


def _addresses(settings: SlurmSettings, nodes: Collection[str]) -> dict[str, str]:
    """Those that are found in time: a name service that is down would cost the whole look, and the next one too. In any
    order, so that a name that takes long each time keeps no other waiting for ever.
    """
    found: dict[str, str] = {}
    until = time.monotonic() + _NAMING
    for node in random.sample(sorted(nodes), len(nodes)):
        if time.monotonic() > until:
            break
        with contextlib.suppress(HostError, ValueError):
            found[node] = control.node_address(settings, node)
    return found


def _silent_nodes(settings: SlurmSettings) -> frozenset[str]:
    """Nodes that do not answer: what runs there can be neither watched nor ended."""
    try:
        return frozenset(control.down_nodes(settings))
    except HostError:
        return frozenset()


def _seen(
    job: Job, address: str, places: Mapping[int, int], silent: Collection[str] = (), by: int | None = None
) -> dict[str, Any]:
    """`by` is the uid that cancelled it, if known."""
    said = node_words.parse(job.comment)
    is_current = said is not None and job.admin_comment.endswith(f":{said.run}") and said.restarts == job.restarts
    return {
        "state": job.state.value,
        "uid": job.uid,
        "mark": job.admin_comment,
        "word": job.word,
        "words": words.plain(job, by=by),
        "why": words.waits(job.reason) if job.state is JobState.QUEUED else "",
        "kind": kind_of(job.reason),
        "node": job.node,
        "address": address,
        "place": places.get(job.id, 0),
        "starts_at": job.starts_at or 0 if job.state is JobState.QUEUED else 0,
        "left": job.left,
        "wait_status": job.wait_status,
        "is_hopeless": job.state is JobState.QUEUED and job.reason in words.HOPELESS,
        "is_current": is_current,
        "is_cut_off": job.node in silent,
        "is_unstarted": job.reason == "JobLaunchFailure" and job.wait_status == 0,
        "port": said.port if said is not None else 0,
        "said": sorted(said.said) if said is not None else [],
    }


def kind_of(reason: str) -> str:
    """What a student is told of Slurm's reason: the page has a text for each."""
    return next((kind for beginning, kind in _KINDS.items() if reason.startswith(beginning)), "other")


def _places(settings: SlurmSettings) -> dict[int, int]:
    """The place of each queued job among those of its partition, from 1."""
    try:
        listed = tools.call(settings, *_WHOLE_QUEUE)
    except HostError:
        return {}
    counts: dict[str, int] = {}
    places: dict[int, int] = {}
    for number, partition in re.findall(r"^([0-9]+)(?:_\S*)?\|(\S+)$", listed, re.M):
        counts[partition] = counts.get(partition, 0) + 1
        places.setdefault(int(number), counts[partition])
    return places
