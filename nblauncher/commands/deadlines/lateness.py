"""Which files of a capture existed at the moment, by the times that the kernel gave them.

A student can set mtime but not ctime: a file that was written, renamed or touched after the moment has a later ctime.
Its content may still be unchanged, if it was seen before. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from nblauncher.model import Exclusion, Stored

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Late:
    """A file that changed after the moment. `seen`: when the earlier version that is kept instead was seen; None if
    there is none and the late version is kept.
    """

    changed_ns: int
    seen: datetime | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Earlier observations: contents by path, and when each was seen. `contents` were there in time, at any path.
    `unfinished` files were being saved when the class was frozen.
    """

    files: Mapping[str, tuple[Stored, datetime]]
    contents: frozenset[str] = frozenset()
    unfinished: frozenset[str] = frozenset()


def changed_ns(stored: Stored) -> int:
    _size, mtime, ctime, _inode = stored.stamp
    return max(mtime, ctime)


def nanoseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000


def judged(
    at: datetime, found: Mapping[str, Stored], evidence: Evidence
) -> tuple[dict[str, Stored], dict[str, Late], list[Exclusion]]:
    """The files to keep; which of them are late; remarks."""
    moment = nanoseconds(at)
    kept, late, remarks = dict(found), {}, []
    for path, stored in found.items():
        if changed_ns(stored) <= moment or stored.sha256 in evidence.contents:
            continue
        if path in evidence.unfinished:
            remarks.append(Exclusion(path, "its save was under way at the moment and ended after it", False))
            continue
        earlier = evidence.files.get(path)
        late[path] = Late(changed_ns(stored), earlier[1] if earlier else None)
        if earlier:
            kept[path] = earlier[0]
    return kept, late, remarks


def reason(late: Late) -> str:
    when = written(late.changed_ns)
    if late.seen is None:
        return f"LATE: changed at {when}, after the moment; no earlier version of it was seen"
    return (
        f"changed at {when}, after the moment: kept is what was seen at {_words(late.seen)}; the later version is not"
    )


def written(changed: int) -> str:
    """In the host's zone; a time outside the calendar as a number."""
    try:
        return _words(_EPOCH + timedelta(microseconds=changed // 1000))
    except OverflowError:
        return f"{changed / 1e9:.3f} s after 1970"


def _words(at: datetime) -> str:
    return at.astimezone().isoformat(timespec="milliseconds")
