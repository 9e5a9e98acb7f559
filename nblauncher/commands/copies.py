"""A student's work on its way from the home into the store: what is copied so far, and what was captured when.

Each copy is a small file of root's that names contents in a store of root's; the ledger knows what is in the teacher's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from nblauncher import files, keeping
from nblauncher.commands import folders
from nblauncher.deadlines import Moment
from nblauncher.errors import HostError
from nblauncher.gathering import HALF_SAVED
from nblauncher.host import Host
from nblauncher.ledger import Capture
from nblauncher.manifest import stamp_in
from nblauncher.model import Account, Deadline, Exclusion
from nblauncher.objects import ObjectStore
from nblauncher.scope import ALL, Scope, Stored

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


def keep(
    host: Host,
    moment: Moment,
    account: Account,
    captured: datetime | None,
    *,
    remark: str = "",
    longest: float = LONGEST,
) -> None:
    """Copy what changed since the last look, and remember what there is. `remark`: why the student was not frozen."""
    target = files.join(host.settings.material.target, moment.deadline.folder).rstrip("/")
    known = load(host, moment)
    kept = keeping.keep(
        account,
        Scope(ALL, target, sought=folders.sought(host, moment.username, moment.deadline.folder)),
        host.settings.retrieve,
        ObjectStore(objects(host)),
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
    file = file_of(host, moment)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_suffix(".new")
    draft.write_text(json.dumps(content), "ascii")
    draft.chmod(0o600)
    draft.replace(file)


def load(host: Host, moment: Moment) -> Copy | None:
    return read(file_of(host, moment))


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
        return Copy(kept, tuple(Exclusion(*row) for row in given["exclusions"]), captured)
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
