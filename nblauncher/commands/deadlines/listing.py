"""`deadlines`: until when each student has time, and what was captured. Changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from nblauncher.commands.deadlines import copies, pending
from nblauncher.config import times
from nblauncher.config.deadlines import Moment
from nblauncher.ledger import Capture
from nblauncher.model import Deadline
from nblauncher.planning.host import Host

TO_COME, WAITING, TAKEN = "to come", "not captured", "not stored"
CAPTURED, LATE, INCOMPLETE = "captured", "late", "incomplete"

_RECENT = timedelta(days=7)


@dataclass(frozen=True)
class Row:
    """One student's moment."""

    moment: Moment
    capture: Capture | None
    remark: str
    """Why the capture is incomplete, or where the folder was found."""
    is_complete: bool
    is_taken: bool
    """Whether it was captured, even if it is not in the store yet."""
    now: datetime

    @property
    def state(self) -> str:
        if self.capture is None:
            return TO_COME if self.moment.at > self.now else TAKEN if self.is_taken else WAITING
        if not self.is_complete:
            return INCOMPLETE
        return LATE if self.is_late else CAPTURED

    @property
    def is_late(self) -> bool:
        return self.capture is not None and self.capture.captured - self.moment.at > copies.LATE_AFTER

    @property
    def words(self) -> str:
        """For the table."""
        late = " (late)" if self.is_late and self.state != LATE else ""
        return f"{self.state}{late}{': ' if self.remark else ''}{self.remark}"

    @property
    def is_as_expected(self) -> bool:
        return self.state in (TO_COME, CAPTURED) and not self.remark

    def as_json(self) -> dict[str, Any]:
        return {
            "deadline": self.moment.deadline.name,
            "folder": self.moment.deadline.folder,
            "at": _iso(self.moment.at),
            "extra_seconds": int((self.moment.at - self.moment.deadline.at).total_seconds()),
            "state": self.state,
            "captured": _iso(self.capture.captured) if self.capture else None,
            "late": self.is_late,
            "remark": self.remark,
        }


def rows(host: Host, usernames: Collection[str], *, now: datetime | None = None) -> list[Row]:
    """Every moment of these students, by deadline, the earliest first."""
    now = now or datetime.now(timezone.utc)
    found, stored, remarks = pending.all_moments(host)[0], copies.stored(host), host.course_ledger.remarks()
    made = []
    for moment in found:
        if moment.username in usernames:
            capture = stored.get(copies.moment_id(moment))
            words, is_complete = remarks.get(copies.moment_id(moment), ("", True))
            is_taken = capture is not None or copies.is_captured(host, moment)
            made.append(Row(moment, capture, words if capture else "", is_complete, is_taken, now))
    return sorted(made, key=lambda row: (row.moment.deadline.at, row.moment.deadline.name, row.moment.at))


def table(found: Sequence[Row], there: Collection[str], *, every_student: bool) -> list[tuple[str, str, str, str]]:
    """Deadline, student, until when, state: one row for the class, and one for each exception."""
    lines = []
    for each, theirs in _by_deadline(found).items():
        lines.append((_title(each), f"the class ({len(theirs)})", times.short(each.at), _of_class(each, theirs, there)))
        are_alike = len({(row.state, row.remark) for row in theirs}) == 1
        for row in sorted(theirs, key=lambda row: (row.moment.at, row.moment.username)):
            is_as_the_class = row.moment.at == each.at and (are_alike or row.is_as_expected)
            if every_student or not is_as_the_class:
                lines.append(("", row.moment.username, times.short(row.moment.at), row.words))
    return lines


def as_json(found: Sequence[Row], there: Collection[str]) -> list[dict[str, Any]]:
    """The class's own deadlines."""
    return [
        {
            "deadline": each.name,
            "folder": each.folder,
            "at": _iso(each.at),
            "starts": _iso(each.starts) if each.starts else None,
            "in_material": not each.folder or each.folder in there,
            "students": len(theirs),
            **{state.replace(" ", "_"): count for state, count in _counts(theirs).items()},
        }
        for each, theirs in _by_deadline(found).items()
    ]


def students(found: Sequence[Row], usernames: Sequence[str]) -> list[dict[str, Any]]:
    """For the envelope."""
    theirs: dict[str, list[dict[str, Any]]] = {name: [] for name in usernames}
    for row in found:
        theirs[row.moment.username].append(row.as_json())
    return [
        {"username": name, "status": "unchanged", "error": None, "deadlines": entries}
        for name, entries in theirs.items()
    ]


def remarks(host: Host, *, now: datetime | None = None) -> Mapping[str, str]:
    """For `status`: captures of the last days that are incomplete or were found elsewhere, by student."""
    since = (now or datetime.now(timezone.utc)) - _RECENT
    found: dict[str, list[str]] = {}
    for (name, username, at), (words, _is_complete) in sorted(host.course_ledger.remarks().items()):
        if at >= since:
            found.setdefault(username, []).append(f"deadline {name}: {words}")
    return {username: "; ".join(lines) for username, lines in found.items()}


def _by_deadline(found: Sequence[Row]) -> dict[Deadline, list[Row]]:
    made: dict[Deadline, list[Row]] = {}
    for row in found:
        made.setdefault(row.moment.deadline, []).append(row)
    return made


def _counts(theirs: Sequence[Row]) -> dict[str, int]:
    states = (TO_COME, WAITING, TAKEN, CAPTURED, LATE, INCOMPLETE)
    return {state: sum(row.state == state for row in theirs) for state in states}


def _of_class(each: Deadline, theirs: Sequence[Row], there: Collection[str]) -> str:
    """`27 captured, 1 incomplete`."""
    counts = {state: count for state, count in _counts(theirs).items() if count}
    words = TO_COME if list(counts) == [TO_COME] else ", ".join(f"{count} {state}" for state, count in counts.items())
    return words if not each.folder or each.folder in there else f"{words}; the folder is not in the material yet"


def _title(each: Deadline) -> str:
    return each.name if each.name in (each.folder, "") or not each.folder else f"{each.name} ({each.folder})"


def _iso(time: datetime) -> str:
    return time.astimezone().isoformat(timespec="seconds")
