"""A student's work on its way from the home into the store: what is copied so far, and when it was captured.

Each copy is a small file, owned by root, that names contents in root's object store. The ledger knows what is in the
teacher's store.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from nblauncher.commands.deadlines import folders
from nblauncher.commands.deadlines.lateness import Evidence, Late, judged, reason, written
from nblauncher.config.deadlines import Moment
from nblauncher.errors import HostError
from nblauncher.exchange.history import root_side
from nblauncher.exchange.history.root_side import Kept
from nblauncher.exchange.objects import ObjectStore
from nblauncher.exchange.retrieve.manifest import stamp_in
from nblauncher.exchange.retrieve.scope import ALL, Scope
from nblauncher.exchange.retrieve.student_side import HALF_SAVED
from nblauncher.ledger import Capture
from nblauncher.model import Account, Deadline, Exclusion, Stored
from nblauncher.planning.host import Host
from nblauncher.system import files, root_files
from nblauncher.system.storage_share import Share, content_bytes, entry_bytes

LATE_AFTER = timedelta(seconds=10)
"""A capture that begins later than this is marked late."""

LONGEST = 6.0
"""Seconds for one student while the class is frozen: several students must fit into the longest freeze."""


@dataclass
class Round:
    """The moments at the same time. `pause`: seconds for which the students were frozen."""

    at: datetime
    moments: tuple[Moment, ...]
    pause: float = 0.0
    folders: dict[str, str] = field(default_factory=dict)
    """Where the work is in the store, by name of the deadline."""

    @property
    def usernames(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(moment.username for moment in self.moments))


@dataclass(frozen=True)
class Copy:
    """One student's copy so far. `captured` is when the class was frozen, None before that."""

    files: Mapping[str, Stored]
    exclusions: tuple[Exclusion, ...]
    captured: datetime | None
    seen: datetime
    """When the copy was finished: all of the files existed before that."""
    late: Mapping[str, Late] = field(default_factory=dict)
    """Files that changed after the moment."""
    uid: int | None = None
    """Of the account; None in a file written by an older nblauncher."""

    def evidence(self, at: datetime) -> Evidence:
        """The files that certainly existed at that moment."""
        files = {}
        for path, stored in self.files.items():
            late = self.late.get(path)
            if late is not None and late.seen is not None:
                files[path] = stored, late.seen
            elif late is None:
                files[path] = stored, min(self.seen, at)
        unfinished = {
            path
            for path in (exclusion.path for exclusion in self.exclusions if exclusion.reason == HALF_SAVED)
            if self.captured and path in self.files and path not in self.late
        }
        files = {path: stored for path, stored in files.items() if path not in unfinished}
        return Evidence(files, frozenset(stored.sha256 for stored, _seen in files.values()), frozenset(unfinished))


def keep(
    host: Host,
    moment: Moment,
    account: Account,
    captured: datetime | None,
    *,
    remark: str = "",
    is_still: bool = True,
    longest: float = LONGEST,
) -> None:
    """Copy what changed since the last copy, and record it. `remark`: what is wrong with the copy as a whole.

    In a capture, a file that changed after the moment is kept as it was last seen before, else it is marked as late.
    """
    target = files.join(host.settings.material.target, moment.deadline.folder).rstrip("/")
    known = _of(account.uid, read(file_of(host, moment)))
    kept = root_side.keep(
        account,
        Scope(ALL, target, sought=folders.sought(host, moment.username, moment.deadline.folder)),
        host.settings.retrieve,
        ObjectStore(objects(host)),
        known.files if known else {},
        share=_share(host, known.files if known else {}),
        is_still=captured is not None and is_still,
        is_synced=captured is None,
        longest=longest,
    )
    copy = _judged(host, moment, kept, known, captured)
    if remark:
        copy = replace(copy, exclusions=(Exclusion("", remark, True), *copy.exclusions))
    _write(file_of(host, moment), _to_json(replace(copy, uid=account.uid)))


def add_remark(host: Host, moment: Moment, remark: str) -> None:
    """Say of the last copy what is wrong with it as a whole. HostError when it cannot be written."""
    known = read(file_of(host, moment))
    if known is not None:
        exclusions = (Exclusion("", remark, True), *known.exclusions)
        _write(file_of(host, moment), _to_json(replace(known, exclusions=exclusions)))


def _judged(host: Host, moment: Moment, kept: Kept, known: Copy | None, captured: datetime | None) -> Copy:
    """What was kept now, with what changed after the moment replaced by an earlier version or marked as late."""
    seen = datetime.now(timezone.utc)
    found, exclusions = dict(kept.files), list(kept.exclusions)
    late: dict[str, Late] = {}
    more: list[Exclusion] = []
    if captured is not None or seen > moment.at:
        found, late, more = judged(moment.at, kept.files, _evidence(host, moment, known))
    if captured is not None:
        # A second look, after a save that was under way, does not change when everything else was captured.
        captured = known.captured if known and known.captured else captured
        is_late = captured - moment.at > LATE_AFTER
        exclusions += more
        exclusions += (
            Exclusion(path, reason(change), bool(change.seen) or not is_late) for path, change in late.items()
        )
    return Copy(found, tuple(exclusions), captured, seen, late)


def _to_json(copy: Copy) -> str:
    content = {
        "files": {path: [entry.stamp, entry.sha256] for path, entry in copy.files.items()},
        "exclusions": [[entry.path, entry.reason, entry.incomplete] for entry in copy.exclusions],
        "captured": copy.captured.timestamp() if copy.captured else None,
        "seen": copy.seen.timestamp(),
        "late": {path: [entry.changed_ns, entry.seen and entry.seen.timestamp()] for path, entry in copy.late.items()},
        "uid": copy.uid,
    }
    return json.dumps(content)


def _write(file: Path, content: str) -> None:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        root_files.replace(file, content)
    except OSError as error:
        raise HostError(f"{file} cannot be written: {error.strerror}") from error


def _evidence(host: Host, moment: Moment, known: Copy | None) -> Evidence:
    """Includes what we handed out: that is not the student's work and cannot be late."""
    evidence = known.evidence(moment.at) if known else Evidence({})
    ours = frozenset(version.sha256 for version in host.course_ledger.handed_out(moment.username, "material").values())
    return replace(evidence, contents=evidence.contents | ours)


def _share(host: Host, known: Mapping[str, Stored]) -> Share:
    """What is already copied, plus an equal part of the free space, so that no student fills the disk."""
    members = max(1, len(host.ledger.members(host.settings.course)))
    folder = host.paths.captures if host.paths.captures.is_dir() else host.paths.state
    status = os.statvfs(folder)
    held = sum(content_bytes(stored.size) + entry_bytes(os.fsencode(path)) for path, stored in known.items())
    words = f"the student's share of what is free on the disk of {folder} is used up"
    return Share(held + status.f_bavail * status.f_frsize // members, words=words)


def load(host: Host, moment: Moment) -> Copy | None:
    """The student's copy so far; None also if it is of an earlier account of that name."""
    known = read(file_of(host, moment))
    claim = host.ledger.claim(moment.username) if known else None
    return _of(claim.account.uid, known) if claim else None


def _of(uid: int, known: Copy | None) -> Copy | None:
    return known if known is not None and known.uid in (None, uid) else None


def is_captured(host: Host, moment: Moment) -> bool:
    known = load(host, moment)
    return known is not None and known.captured is not None


def is_half_saved(host: Host, moment: Moment) -> bool:
    """Whether a file was open for writing when the class was frozen."""
    known = load(host, moment)
    return known is not None and any(exclusion.reason == HALF_SAVED for exclusion in known.exclusions)


def read(file: Path) -> Copy | None:
    """None if the file is missing, or incomplete after a power cut: then the work is copied again."""
    try:
        given = json.loads(file.read_text("ascii"))
        kept = {
            path: Stored(stamp_in(stamp) or (0, 0, 0, 0), sha256) for path, (stamp, sha256) in given["files"].items()
        }
        at = given["captured"]
        captured = None if at is None else datetime.fromtimestamp(at, timezone.utc)
        seen = datetime.fromtimestamp(given["seen"], timezone.utc)
        late = {
            path: Late(int(changed), None if time is None else datetime.fromtimestamp(time, timezone.utc))
            for path, (changed, time) in given["late"].items()
        }
        exclusions = tuple(Exclusion(*row) for row in given["exclusions"])
        return Copy(kept, exclusions, captured, seen, late, given.get("uid"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def time_of(known: Copy) -> datetime:
    if known.captured is None:
        raise HostError("the work was not captured yet")
    return known.captured


def about(moment: Moment, known: Copy) -> dict[str, Any]:
    captured = time_of(known)
    return {
        "deadline": moment.deadline.name,
        "folder": moment.deadline.folder,
        "at": moment.at.astimezone().isoformat(timespec="seconds"),
        "captured": captured.astimezone().isoformat(timespec="milliseconds"),
        "late": captured - moment.at > LATE_AFTER,
        "late_files": [
            {
                "path": path,
                "changed": written(change.changed_ns),
                "kept_as_of": change.seen and change.seen.astimezone().isoformat(timespec="milliseconds"),
            }
            for path, change in sorted(known.late.items())
        ],
    }


def stored(host: Host) -> dict[tuple[str, str, datetime], Capture]:
    """The captures in the store, by moment."""
    return {
        (capture.name, capture.username, capture.at): capture
        for capture in host.course_ledger.captures()
        if capture.retrieved
    }


def moment_id(moment: Moment) -> tuple[str, str, datetime]:
    return moment.deadline.name, moment.username, moment.at


def objects(host: Host) -> Path:
    return host.paths.captures / "objects"


def file_of(host: Host, moment: Moment) -> Path:
    return host.paths.captures / key_of(moment.deadline.name, moment.at) / f"{moment.username}.json"


def key_of(name: str, at: datetime) -> str:
    return hashlib.sha256(f"{name}\0{at.timestamp()}".encode()).hexdigest()[:16]


def what(deadline: Deadline) -> str:
    return deadline.folder or "the work"
