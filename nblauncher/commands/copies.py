"""A student's work on its way from the home into the store: what is copied so far, and what was captured when.

Each copy is a small file of root's that names contents in a store of root's; the ledger knows what is in the teacher's.
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

from nblauncher import files, keeping
from nblauncher.commands import folders
from nblauncher.commands.lateness import Evidence, Late, judged, reason, written
from nblauncher.deadlines import Moment
from nblauncher.errors import HostError
from nblauncher.gathering import HALF_SAVED
from nblauncher.host import Host
from nblauncher.ledger import Capture
from nblauncher.manifest import stamp_in
from nblauncher.model import Account, Deadline, Exclusion
from nblauncher.objects import ObjectStore
from nblauncher.scope import ALL, Scope, Stored
from nblauncher.shares import Share, content_bytes, entry_bytes

LATE_AFTER = timedelta(seconds=10)
"""A capture that begins later than this is marked late."""

LONGEST = 6.0
"""Seconds for one student while everybody stands still: several of them must fit into the time that they may."""


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


@dataclass(frozen=True)
class Copy:
    """One student's copy as far as it is; `captured` is when everybody stood still, None before that."""

    files: Mapping[str, Stored]
    exclusions: tuple[Exclusion, ...]
    captured: datetime | None
    seen: datetime
    """When the look was over: all of it was there before."""
    late: Mapping[str, Late] = field(default_factory=dict)
    """What changed after the moment."""

    uid: int | None = None
    """Whose files they were; None in a file of an older nblauncher."""

    def evidence(self, at: datetime) -> Evidence:
        """What of it was certainly there at that moment."""
        files = {}
        for path, one in self.files.items():
            late = self.late.get(path)
            if late is not None and late.seen is not None:
                files[path] = one, late.seen
            elif late is None:
                files[path] = one, min(self.seen, at)
        unfinished = {
            one.path
            for one in self.exclusions
            if self.captured and one.reason == HALF_SAVED and one.path in self.files and one.path not in self.late
        }
        files = {path: one for path, one in files.items() if path not in unfinished}
        return Evidence(files, frozenset(one.sha256 for one, _seen in files.values()), frozenset(unfinished))


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
    """Copy what changed since the last look, and remember what there is. `remark`: what is wrong with all of it.

    At the moment, what changed after it is kept as it was seen before, if it was, and else is marked as late.
    """
    target = files.join(host.settings.material.target, moment.deadline.folder).rstrip("/")
    known = _of(account.uid, read(file_of(host, moment)))
    kept = keeping.keep(
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
    seen = datetime.now(timezone.utc)
    found, said = dict(kept.files), list(kept.exclusions)
    late: dict[str, Late] = {}
    more: list[Exclusion] = []
    if captured is not None or seen > moment.at:
        found, late, more = judged(moment.at, kept.files, _evidence(host, moment, known))
    if captured is not None:
        # A second look, after a save that was under way, changes nothing of when everything else was captured.
        captured = known.captured if known and known.captured else captured
        is_late = captured - moment.at > LATE_AFTER
        said += [*more, *(Exclusion(path, reason(one), bool(one.seen) or not is_late) for path, one in late.items())]
    content = {
        "files": {path: [one.stamp, one.sha256] for path, one in found.items()},
        "exclusions": [
            *([["", remark, True]] if remark else []),
            *([one.path, one.reason, one.incomplete] for one in said),
        ],
        "captured": captured.timestamp() if captured else None,
        "seen": seen.timestamp(),
        "late": {path: [one.changed_ns, one.seen and one.seen.timestamp()] for path, one in late.items()},
        "uid": account.uid,
    }
    _write(file_of(host, moment), json.dumps(content))


def _write(file: Path, content: str) -> None:
    draft = file.with_suffix(".new")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.write_text(content, "ascii")
        draft.chmod(0o600)
        draft.replace(file)
    except OSError as error:
        raise HostError(f"{file} cannot be written: {error.strerror}") from error


def _evidence(host: Host, moment: Moment, known: Copy | None) -> Evidence:
    """With what we handed out ourselves: that is not the student's work, whenever it came."""
    evidence = known.evidence(moment.at) if known else Evidence({})
    ours = frozenset(one.sha256 for one in host.course_ledger.handed_out(moment.username, "material").values())
    return replace(evidence, contents=evidence.contents | ours)


def _share(host: Host, known: Mapping[str, Stored]) -> Share:
    """What is copied already, and an equal part of what the disk has left, so that no student fills it."""
    members = max(1, len(host.ledger.members(host.settings.course)))
    folder = host.paths.captures if host.paths.captures.is_dir() else host.paths.state
    status = os.statvfs(folder)
    held = sum(content_bytes(one.size) + entry_bytes(os.fsencode(path)) for path, one in known.items())
    words = f"the student's share of what is free on the disk of {folder} is used up"
    return Share(held + status.f_bavail * status.f_frsize // members, words=words)


def load(host: Host, moment: Moment) -> Copy | None:
    """The student's copy so far; None also where it is that of another account, which had the name before."""
    known = read(file_of(host, moment))
    claim = host.ledger.claim(moment.username) if known else None
    return _of(claim.account.uid, known) if claim else None


def _of(uid: int, known: Copy | None) -> Copy | None:
    return known if known is not None and known.uid in (None, uid) else None


def is_half_saved(host: Host, moment: Moment) -> bool:
    """Whether a file was open for writing when everybody stood still."""
    known = load(host, moment)
    return known is not None and any(one.reason == HALF_SAVED for one in known.exclusions)


def read(file: Path) -> Copy | None:
    """None where it is missing, or a power cut left half of it: then it is copied again."""
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
                "changed": written(one.changed_ns),
                "kept_as_of": one.seen and one.seen.astimezone().isoformat(timespec="milliseconds"),
            }
            for path, one in sorted(known.late.items())
        ],
    }


def stored(host: Host) -> dict[tuple[str, str, datetime], Capture]:
    """What is in the store, by moment."""
    return {(one.name, one.username, one.at): one for one in host.course_ledger.captures() if one.retrieved}


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
