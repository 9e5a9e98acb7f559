"""What happens at a deadline: a first copy, everybody stands still, what changed is copied, everybody goes on.

Then the work goes into the teacher's store, and a signed receipt into each home. Each stage finds what the one before
left, so that after a kill the next run goes on; what was captured is never captured again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from nblauncher import (
    cgroups,
    deadlines,
    delivery,
    files,
    freezing,
    keeping,
    material,
    moments,
    receipts,
    receiving,
    replaying,
    roster,
    store,
    survey,
    workers,
)
from nblauncher.commands import freeze
from nblauncher.commands.retrieve import AT_ONCE, checked_folder, work_details
from nblauncher.deadlines import Moment
from nblauncher.errors import HostError, InputError, NblauncherError
from nblauncher.host import Host
from nblauncher.ledger import Capture
from nblauncher.manifest import stamp_in
from nblauncher.model import Account, Deadline, Exclusion, Roster, Student
from nblauncher.objects import ObjectStore
from nblauncher.plan import Details, Phase, Plan, SomeFailed, log_descriptors
from nblauncher.scope import ALL, Scope, Stored

log = logging.getLogger(__name__)

LATE_AFTER = timedelta(seconds=10)
"""A capture that begins later than this is marked late."""
LEAD = timedelta(seconds=360)
"""How long before its moment a round may begin."""
RECEIPTS = "receipts"
"""Below the home."""

_ROOT = Account("root", 0, 0, Path("/root"))
_LONGEST_CAPTURE = 25.0
"""Seconds for one student while everybody stands still."""
_NAP = 0.5
_LAST_COPY = timedelta(seconds=15)
"""So long before the moment what changed meanwhile is copied once more."""
_TOO_LATE_TO_COPY = timedelta(seconds=2)


@dataclass
class Round:
    """Everybody whose moment is the same. `pause`: seconds for which they stood still."""

    at: datetime
    moments: tuple[Moment, ...]
    pause: float = 0.0
    folders: dict[str, str] = field(default_factory=dict)
    """Where the work is in the store, by name of the deadline."""

    @property
    def usernames(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.username for one in self.moments))


def pending(host: Host) -> tuple[list[Moment], list[str]]:
    """The moments of which something is left to do, earliest first, and whose extra time is none, in words."""
    wanted = (*host.settings.deadlines, *host.course_ledger.deadlines())
    found, problems = deadlines.moments_of(wanted, _students(host), host.course_ledger.extensions())
    done = _stored(host)
    return [one for one in found if _id(one) not in done or _file(host, one).exists()], problems


def rounds(found: Iterable[Moment]) -> list[Round]:
    by_time: dict[datetime, list[Moment]] = {}
    for one in found:
        by_time.setdefault(one.at, []).append(one)
    return [Round(at, tuple(several)) for at, several in sorted(by_time.items())]


def due(host: Host, now: datetime) -> list[Round]:
    """Rounds that may begin now, those that were missed first."""
    return [one for one in rounds(pending(host)[0]) if one.at <= now + LEAD]


def plan(host: Host, one: Round) -> Plan:
    """The stages of a round."""
    facts = survey.survey(host, one.usernames)
    there = tuple(moment for moment in one.moments if moment.username in facts.members)
    if not there:
        return Plan()
    names = tuple(dict.fromkeys(moment.username for moment in there))
    by_deadline: dict[Deadline, list[str]] = {}
    for moment in there:
        by_deadline.setdefault(moment.deadline, []).append(moment.username)
    return Plan(
        (
            Phase("a first copy", tuple(EarlyCopy(moment) for moment in there), parallel=AT_ONCE),
            Phase("wait", (Wait(one.at - _LAST_COPY),)),
            Phase("what changed since", tuple(EarlyCopy(moment) for moment in there), parallel=AT_ONCE),
            Phase("the moment", (CaptureAll(one, names),)),
            Phase("publish", tuple(PublishCapture(one, each, tuple(who)) for each, who in by_deadline.items())),
            Phase("receipts", tuple(GiveReceipt(moment) for moment in there), parallel=AT_ONCE),
            Phase("clear", (ClearAway(),)),
        ),
        tuple(pending(host)[1]),
    )


@dataclass(frozen=True)
class Wait:
    """Until that time."""

    until: datetime
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return f"wait until {moments.words(self.until)}"

    def apply(self, host: Host) -> None:
        _wait_until(self.until)


@dataclass(frozen=True)
class EarlyCopy:
    """As the student, while the class runs; what is copied now need not be copied while everybody waits.

    No more than that: a student who hinders it, or has too much, is captured at the moment all the same.
    """

    moment: Moment

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.moment.username,)

    def describe(self) -> str:
        return f"copy {_what(self.moment.deadline)} of {self.moment.username} beforehand"

    def apply(self, host: Host) -> None:
        left = (self.moment.at - datetime.now(timezone.utc) - _TOO_LATE_TO_COPY).total_seconds()
        known = _load(host, self.moment)
        if left <= 0 or (known and known.captured):
            return
        try:
            account = survey.student_account(host, self.moment.username)
            _keep(host, self.moment, account, None, longest=left)
        except HostError as error:
            log.warning("%s was not copied beforehand: %s", self.moment.username, error.problem)


@dataclass(frozen=True)
class CaptureAll:
    """At the moment: everybody stands still until what changed is copied."""

    round: Round
    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"capture the work of {len(self.usernames)} students at {moments.words(self.round.at)}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        _wait_until(self.round.at)
        wanted = [one for one in self.round.moments if one.username in self.usernames]
        missing = [one for one in wanted if (known := _load(host, one)) is None or known.captured is None]
        groups = cgroups.choose(host.settings.course)
        failures: dict[str, str] = {}
        if freezing.can_freeze_groups(groups):
            failures = self._still(host, groups, missing)
        else:
            for name in dict.fromkeys(one.username for one in missing):
                failures |= self._still(host, groups, [one for one in missing if one.username == name])
        ObjectStore(_objects(host)).sync()
        done = _stored(host)
        host.course_ledger.record_captures(
            _capture(host, one, survey.student_account(host, one.username).uid)
            for one in wanted
            if one.username not in failures and _id(one) not in done
        )
        if failures:
            raise SomeFailed(failures)
        return {}

    def _still(self, host: Host, groups: cgroups.Groups, wanted: Sequence[Moment]) -> dict[str, str]:
        """Freeze, copy, thaw. Whose copy failed, and why."""
        if not wanted:
            return {}
        accounts = {one.username: survey.student_account(host, one.username) for one in wanted}
        still = freeze.remembered(host)
        students = [freezing.Student(name, one.uid) for name, one in accounts.items() if name not in still]
        began = time.monotonic()
        try:
            with freezing.frozen(groups, students) as ice:
                failures = _capture_in_parallel(host, wanted, accounts, datetime.now(timezone.utc))
                has_held = ice.held
        except HostError as error:
            return self._one_by_one(host, groups, wanted, accounts, error)
        self.round.pause += time.monotonic() - began
        log.info("%d students stood still for %.3f s", len(students), self.round.pause)
        if not has_held:
            failures = {one.username: "the class ran again before the copy was done" for one in wanted} | failures
            for one in wanted:
                _file(host, one).unlink(missing_ok=True)
        return failures

    def _one_by_one(
        self,
        host: Host,
        groups: cgroups.Groups,
        wanted: Sequence[Moment],
        accounts: Mapping[str, Account],
        error: HostError,
    ) -> dict[str, str]:
        """Somebody could not be frozen: the others are; of that one everything is looked at, and it is said."""
        names = list(dict.fromkeys(one.username for one in wanted))
        if len(names) == 1:
            log.warning("%s: %s; captured while it ran", names[0], error.problem)
            failures: dict[str, str] = {}
            for one in wanted:
                try:
                    now = datetime.now(timezone.utc)
                    _keep(host, one, accounts[one.username], now, remark=f"not frozen: {error.problem}")
                except HostError as another:
                    failures[one.username] = another.problem
            return failures
        return {
            who: why
            for name in names
            for who, why in self._still(host, groups, [one for one in wanted if one.username == name]).items()
        }


@dataclass(frozen=True)
class PublishCapture:
    """Into the teacher's store, as a retrieval of its own."""

    round: Round
    deadline: Deadline
    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"put {_what(self.deadline)} of {len(self.usernames)} students into the store"

    def apply(self, host: Host) -> Mapping[str, Details]:
        wanted = [one for one in self.round.moments if one.deadline == self.deadline and one.username in self.usernames]
        done = _stored(host)
        wanted = [one for one in wanted if _id(one) not in done]
        captured = {one.username: known for one in wanted if (known := _load(host, one)) and known.captured}
        if not captured:
            return {}
        at = min(known.captured for known in captured.values() if known.captured).astimezone()
        staging = store.open_staging(host.owner, host.settings.retrieve.target, at)
        answers: dict[str, Mapping[str, Any]] = {}
        failures: dict[str, str] = {}
        for moment in wanted:
            if (known := captured.get(moment.username)) is None:
                continue
            try:
                answers[moment.username] = self._publish(host, staging, moment, known)
            except HostError as error:
                store.discard_student(host.owner, staging.target, staging.name, moment.username)
                failures[moment.username] = error.problem
        if not answers:
            store.discard(host.owner, staging)
            raise SomeFailed(failures)
        folder = self.round.folders[self.deadline.name] = store.publish(host.owner, staging)
        host.course_ledger.record_captures(
            _capture(
                host,
                moment,
                survey.student_account(host, moment.username).uid,
                retrieved=folder,
                manifest=str(answers[moment.username]["manifest"]),
            )
            for moment in wanted
            if moment.username in answers
        )
        if failures:
            raise SomeFailed(failures)
        return {
            name: work_details(one["files"], one["bytes"], [Exclusion(*row) for row in one["exclusions"]])
            | {"deadline": self.deadline.name, "captured": moments.short(_time_of(captured[name]))}
            for name, one in answers.items()
        }

    def _publish(self, host: Host, staging: store.Staging, moment: Moment, known: _Known) -> Mapping[str, Any]:
        handed_out = host.course_ledger.handed_out(moment.username, "material")
        order = receiving.Order(
            staging.target,
            staging.name,
            moment.username,
            Scope(ALL, host.settings.material.target, handed_out),
            host.settings.retrieve,
            _time_of(known).astimezone().isoformat(timespec="seconds"),
            {"deadline": _about(moment, known)},
        )
        folder = moment.deadline.folder
        kept = {f"{folder}/{path}" if folder else path: one for path, one in known.files.items()}
        left_out = [
            Exclusion(files.join(folder, one.path).rstrip("/"), one.reason, one.incomplete) for one in known.exclusions
        ]
        return replaying.publish(host.owner, order, kept, left_out, ObjectStore(_objects(host)))


@dataclass(frozen=True)
class GiveReceipt:
    """Signed, into the home, as the student."""

    moment: Moment

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.moment.username,)

    def describe(self) -> str:
        return f"give {self.moment.username} a receipt"

    def apply(self, host: Host) -> None:
        moment = self.moment
        known = _load(host, moment)
        done = _stored(host).get(_id(moment))
        if known is None or done is None:
            return
        about = {
            "nblauncher": 1,
            "course": host.settings.course,
            "username": moment.username,
            **_about(moment, known),
            "files": [
                {"path": path, "size": one.size, "sha256": one.sha256} for path, one in sorted(known.files.items())
            ],
            "manifest_sha256": done.manifest,
        }
        name = f"{_name_of(moment.deadline)} {moment.at.astimezone():%Y-%m-%d %H.%M.%S}.json"
        content = {name: receipts.signed(about, receipts.key(host.paths.receipt_key))}
        account = survey.student_account(host, moment.username)
        with material.bundle_of(content, host.paths.state) as bundle:
            given = delivery.deliver(account, RECEIPTS, bundle.items.values(), bundle, {}, date.today())
        given.check()
        if blocked := [one.detail for one in given.outcomes if one.outcome == delivery.BLOCKED]:
            log.warning("%s got no receipt: %s", moment.username, blocked[0])


@dataclass(frozen=True)
class ClearAway:
    """What is in the store need not be kept twice."""

    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "clear what is in the store"

    def apply(self, host: Host) -> None:
        done = {_key(name, at) + username for name, username, at in _stored(host)}
        wanted: set[str] = set()
        for file in host.paths.captures.glob("*/*.json"):
            if file.parent.name + file.stem in done:
                file.unlink()
            else:
                known = _read(file)
                wanted |= {one.sha256 for one in known.files.values()} if known else set()
        for folder in host.paths.captures.glob("*"):
            with contextlib.suppress(OSError):
                folder.rmdir()
        ObjectStore(_objects(host)).prune(wanted)


def summary(host: Host, one: Round) -> str:
    """Where the work is and how long everybody stood still, in words."""
    if not one.folders:
        return "retrieve: nothing was captured."
    where = ", ".join(str(host.settings.retrieve.target / folder) for folder in one.folders.values())
    stood = f"; everybody stood still for {one.pause:.2f} s" if one.pause else ""
    return f"The work as it was at {moments.words(one.at)} is in {where}{stood}"


def add(host: Host, at: datetime, folder: str, now: datetime) -> Deadline:
    """A deadline of `retrieve --at`; an earlier one of the folder is replaced. InputError when it is past."""
    folder = checked_folder(folder) if folder else ""
    if at <= now:
        raise InputError(f"{moments.words(at)} is past", "Without --at the work is retrieved as it is now.")
    name = folder or f"at {at.astimezone(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
    if any(one.name == name for one in host.settings.deadlines):
        raise InputError(f"the config has a deadline for {name} already", "Change it there, and run `reload`.")
    found = Deadline(name, folder, at)
    host.course_ledger.add_deadline(found)
    return found


def extend(host: Host, username: str, more: timedelta, which: str | None) -> Moment:
    """More time for one student: of the deadline of that name, else of the next one. Answers with the new moment.

    InputError when there is none to come.
    """
    to_come = [one for one in pending(host)[0] if one.username == username]
    found = [one for one in to_come if which is None or one.deadline.name == which]
    if not found:
        known = ", ".join(one.deadline.name for one in to_come) or "none"
        raise InputError(f"{username} has no such deadline to come (there is: {known})")
    host.course_ledger.extend(found[0].deadline.name, username, more)
    return Moment(found[0].deadline, username, found[0].at + more)


def verify(host: Host, data: bytes) -> tuple[str, dict[str, Any]]:
    """What a genuine receipt says, in words and as it is. InputError when it is not genuine."""
    about = receipts.verified(data, receipts.key(host.paths.receipt_key))
    name, size = str(about["username"]), sum(int(one["size"]) for one in about["files"])
    kept = [
        one
        for one in host.course_ledger.captures()
        if one.username == name and one.manifest == about["manifest_sha256"] and one.retrieved
    ]
    if not kept:
        where = "This course has no record of it any more; its own word stands."
    elif workers.run_as(
        host.owner, _has_manifest, host.settings.retrieve.target, kept[-1].retrieved, name, kept[-1].manifest
    ):
        where = f"The work is in {host.settings.retrieve.target / kept[-1].retrieved / name}, with this manifest."
    else:
        where = f"{kept[-1].retrieved} is not in the store any more as it was written."
    late = ", LATE" if about["late"] else ""
    what = f"{len(about['files'])} files, {size} bytes"
    return f"Genuine: {name}, {about['deadline']}, captured at {about['captured']}{late}; {what}.\n{where}", about


def _has_manifest(target: Path, folder: str, username: str, sha256: str) -> bool:
    """Runs as the teacher."""
    try:
        content = (target / folder / username / "manifest.json").read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content).hexdigest() == sha256


@dataclass(frozen=True)
class _Known:
    """One student's copy as far as it is; `captured` is when everybody stood still, None before that."""

    files: Mapping[str, Stored]
    exclusions: tuple[Exclusion, ...]
    captured: datetime | None


def _keep(
    host: Host,
    moment: Moment,
    account: Account,
    captured: datetime | None,
    *,
    remark: str = "",
    longest: float = _LONGEST_CAPTURE,
) -> None:
    """Copy what changed since the last look, and remember what there is. `remark`: why the student was not frozen."""
    target = files.join(host.settings.material.target, moment.deadline.folder).rstrip("/")
    known = _load(host, moment)
    kept = keeping.keep(
        account,
        Scope(ALL, target),
        host.settings.retrieve,
        ObjectStore(_objects(host)),
        known.files if known else {},
        is_still=captured is not None and not remark,
        is_synced=captured is None,
        longest=longest,
    )
    content = {
        "files": {path: [one.stamp, one.sha256] for path, one in kept.files.items()},
        "exclusions": [
            *([["", remark, True]] if remark else []),
            *([one.path, one.reason, one.incomplete] for one in kept.exclusions),
        ],
        "captured": captured.timestamp() if captured else None,
    }
    file = _file(host, moment)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_suffix(".new")
    draft.write_text(json.dumps(content), "ascii")
    draft.chmod(0o600)
    draft.replace(file)


def _capture_in_parallel(
    host: Host, wanted: Sequence[Moment], accounts: Mapping[str, Account], captured: datetime
) -> dict[str, str]:
    """A few forked processes of root's, each for its part of the class: while everybody waits, every fork counts."""
    parts = [part for start in range(AT_ONCE) if (part := wanted[start::AT_ONCE])]
    running = [
        (part, workers.start(_ROOT, _capture_each, host, part, accounts, captured, keep=log_descriptors()))
        for part in parts
    ]
    failures: dict[str, str] = {}
    try:
        for part, worker in running:
            try:
                failures |= worker.result(freezing.LONGEST)
            except NblauncherError as error:
                failures |= {one.username: error.problem for one in part}
    finally:
        for _part, worker in running:
            worker.stop()
    return failures


def _capture_each(
    host: Host, wanted: Sequence[Moment], accounts: Mapping[str, Account], captured: datetime
) -> dict[str, str]:
    failures: dict[str, str] = {}
    for one in wanted:
        try:
            _keep(host, one, accounts[one.username], captured)
        except HostError as error:
            failures[one.username] = error.problem
    return failures


def _load(host: Host, moment: Moment) -> _Known | None:
    return _read(_file(host, moment))


def _read(file: Path) -> _Known | None:
    """None where it is missing, or a power cut left half of it: then it is copied again."""
    try:
        given = json.loads(file.read_text("ascii"))
        kept = {
            path: Stored(stamp_in(stamp) or (0, 0, 0, 0), sha256) for path, (stamp, sha256) in given["files"].items()
        }
        at = given["captured"]
        captured = None if at is None else datetime.fromtimestamp(at, timezone.utc)
        return _Known(kept, tuple(Exclusion(*row) for row in given["exclusions"]), captured)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _capture(host: Host, moment: Moment, uid: int, *, retrieved: str = "", manifest: str = "") -> Capture:
    known = _load(host, moment)
    captured = _time_of(known) if known else moment.at
    return Capture(moment.deadline.name, moment.username, uid, moment.at, captured, retrieved, manifest)


def _time_of(known: _Known) -> datetime:
    if known.captured is None:
        raise HostError("the work was not captured yet")
    return known.captured


def _about(moment: Moment, known: _Known) -> dict[str, Any]:
    captured = _time_of(known)
    return {
        "deadline": moment.deadline.name,
        "folder": moment.deadline.folder,
        "at": moment.at.astimezone().isoformat(timespec="seconds"),
        "captured": captured.astimezone().isoformat(timespec="milliseconds"),
        "late": captured - moment.at > LATE_AFTER,
    }


def _stored(host: Host) -> dict[tuple[str, str, datetime], Capture]:
    """What is in the store, by moment."""
    return {(one.name, one.username, one.at): one for one in host.course_ledger.captures() if one.retrieved}


def _id(moment: Moment) -> tuple[str, str, datetime]:
    return moment.deadline.name, moment.username, moment.at


def _students(host: Host) -> list[Student]:
    """Those of the course, with what the accepted roster says about them."""
    try:
        known = roster.parse((host.paths.accepted / "students.csv").read_bytes(), "students.csv")
    except (OSError, InputError):
        known = Roster()
    rows = {student.username: student for student in known}
    return [rows.get(name, Student(name)) for name in host.ledger.members(host.settings.course)]


def _wait_until(at: datetime) -> None:
    """By the clock, which may be set meanwhile."""
    while (left := (at - datetime.now(timezone.utc)).total_seconds()) > 0:
        time.sleep(min(left, _NAP))


def _objects(host: Host) -> Path:
    return host.paths.captures / "objects"


def _file(host: Host, moment: Moment) -> Path:
    return host.paths.captures / _key(moment.deadline.name, moment.at) / f"{moment.username}.json"


def _key(name: str, at: datetime) -> str:
    return hashlib.sha256(f"{name}\0{at.timestamp()}".encode()).hexdigest()[:16]


def _name_of(deadline: Deadline) -> str:
    return deadline.folder.replace("/", "-") or "everything"


def _what(deadline: Deadline) -> str:
    return deadline.folder or "the work"
