"""What of a capture was there at the moment, by the times that the kernel gave the files.

mtime is the student's to set, ctime is not: a file that was written, renamed or touched after the moment has a later
one. Such a file may still be what it was: then its content was seen before. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from nblauncher.model import Exclusion
from nblauncher.scope import Stored

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Late:
    """A file that changed after the moment. `seen`: when the version that is kept instead was seen; None: there is
    none, and the late one is kept.
    """

    changed_ns: int
    seen: datetime | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known from before: contents by path, and when each was seen; `contents` were there in time, wherever.
    Of `unfinished` files a save was under way when everything stood still.
    """

    files: Mapping[str, tuple[Stored, datetime]]
    contents: frozenset[str] = frozenset()
    unfinished: frozenset[str] = frozenset()


def changed_ns(one: Stored) -> int:
    _size, mtime, ctime, _inode = one.stamp
    return max(mtime, ctime)


def nanoseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000


def judged(
    at: datetime, found: Mapping[str, Stored], evidence: Evidence
) -> tuple[dict[str, Stored], dict[str, Late], list[Exclusion]]:
    """What to keep of what was found; which of it is late; what is to be said of it."""
    moment = nanoseconds(at)
    kept, late, said = dict(found), {}, []
    for path, one in found.items():
        if changed_ns(one) <= moment or one.sha256 in evidence.contents:
            continue
        if path in evidence.unfinished:
            said.append(Exclusion(path, "its save was under way at the moment and ended after it", False))
            continue
        earlier = evidence.files.get(path)
        late[path] = Late(changed_ns(one), earlier[1] if earlier else None)
        if earlier:
            kept[path] = earlier[0]
    return kept, late, said


def reason(one: Late) -> str:
    when = written(one.changed_ns)
    if one.seen is None:
        return f"LATE: changed at {when}, after the moment; no earlier version of it was seen"
    return f"changed at {when}, after the moment: kept is what was seen at {_words(one.seen)}; the later version is not"


def written(changed: int) -> str:
    """In the host's zone; a time that no calendar has, as a number."""
    try:
        return _words(_EPOCH + timedelta(microseconds=changed // 1000))
    except OverflowError:
        return f"{changed / 1e9:.3f} s after 1970"


def _words(at: datetime) -> str:
    return at.astimezone().isoformat(timespec="milliseconds")
