"""Times that people write: in the host's zone unless one is given; ambiguous and nonexistent times are refused.

Every time that we show can be typed back with the same meaning: `short`, `words`, ISO 8601, names of stored folders.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from nblauncher.printable import printable

_WRITTEN = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)[ T](?P<time>\d\d[:.]\d\d(?:[:.]\d\d(?:[.,](?P<fraction>\d{1,6}))?)?) ?"
    r"(?P<zone>Z|UTC|[+-]\d\d:?\d\d|[A-Za-z_]+/[A-Za-z_/+-]+)?(?P<utc> \((?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d UTC\))?",
    re.ASCII,
)
_FOLDER = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)T(?P<time>\d{6})(?P<zone>[+-]\d{4})(?P<fraction>)(?P<utc>)(?:-[A-Za-z0-9._-]+)?", re.ASCII
)
"""A folder's name in the store, with or without its part."""
_DAYS = r"(?:(?P<days>[0-9]{1,4}) ?(?:d|days?|tage?)\.?)"
_HOURS = r"(?:(?P<hours>[0-9]{1,5}) ?(?:h|hrs?|hours?|std|stunden?)\.?)"
_MINUTES = r"(?:(?P<minutes>[0-9]{1,6}) ?(?:m|mins?|minutes?|minuten?|')?\.?)"
_AND = r"(?: ?(?:,|and|und)? ?(?=[0-9]))?"
_LENGTH = re.compile(f"{_DAYS}?{_AND}{_HOURS}?{_AND}{_MINUTES}?", re.I)
_CLOCK = re.compile(r"(?P<hours>[0-9]{1,3}):(?P<minutes>[0-5][0-9])(?::00)? ?h?", re.I)


def parsed(text: str) -> datetime:
    """An aware time from `2026-11-27 17:00`, optionally with seconds and `+01:00`, `Z` or `Europe/Berlin`.

    ValueError, in words, for anything else, and for a time that a clock change makes ambiguous or skips.
    """
    match = _matched(text)
    clock = re.sub(r"\D", "", match["time"]).ljust(6, "0")[:6]
    try:
        naive = datetime.fromisoformat(f"{match['day']} {clock[:2]}:{clock[2:4]}:{clock[4:]}")
    except ValueError as error:
        raise ValueError(f'"{printable(text[:60])}" is not a time: {error}') from None
    time = _resolved(naive, _zone_of(match["zone"]))
    if match["utc"] and not match["utc"].endswith(f"{time.astimezone(timezone.utc):%H:%M:%S} UTC)"):
        raise ValueError(f'"{printable(text[:60])}" gives two times that are not the same')
    return time.replace(microsecond=int((match["fraction"] or "").ljust(6, "0")))


def last_meant(text: str) -> datetime:
    """The last instant that a time means: shown times are cut to milliseconds, folders' names to seconds.

    ValueError as `parsed`.
    """
    match, time = _matched(text), parsed(text)
    is_cut = match["fraction"] is not None  # of a folder's name it is empty: the whole second
    return time + timedelta(microseconds=10 ** (6 - len(match["fraction"])) - 1) if is_cut else time


def length(text: str) -> timedelta:
    """`15m`, `2h`, `1d`, `1h30m`, `1:30`, `15 minutes`; minutes without a unit. ValueError in words."""
    plain = text.strip()
    match = _CLOCK.fullmatch(plain) or _LENGTH.fullmatch(plain)
    found = {unit: int(count) for unit, count in match.groupdict().items() if count} if match else {}
    is_sum = len(found) == 1 or found.get("minutes", 0) < 60
    if not found or not is_sum or not plain[0].isdigit() or not (plain[-1].isalnum() or plain[-1] in ".'"):
        raise ValueError(f'"{printable(text[:60])}" is not a length of time such as 15m, 2h or 1d')
    return timedelta(**found)


def words(time: datetime) -> str:
    """`2026-11-27 17:00:00 +0100 (16:00:00 UTC)`: in the host's zone and in UTC."""
    utc = time.astimezone(timezone.utc)
    day = "" if utc.date() == time.astimezone().date() else f"{utc:%Y-%m-%d} "
    return f"{short(time)} ({day}{utc:%H:%M:%S} UTC)"


def short(time: datetime) -> str:
    """`2026-11-27 17:00:00 +0100`, with milliseconds where there are any: the host's zone with the offset."""
    milliseconds = f".{time.microsecond // 1000:03}" if time.microsecond else ""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}{milliseconds} {time.astimezone():%z}"


def iso(time: datetime) -> str:
    """`2026-11-27T17:00:00.000+01:00`: the same for programs."""
    return time.astimezone().isoformat(timespec="milliseconds")


def named_zone(text: str) -> ZoneInfo:
    """ValueError in words if the host does not know it."""
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f'"{printable(text[:60])}" is not a zone that this host knows, such as Europe/Berlin'
        ) from None


def _matched(text: str) -> re.Match[str]:
    plain = text.strip()
    match = _WRITTEN.fullmatch(plain) or _FOLDER.fullmatch(plain)
    if match is None:
        raise ValueError(
            f'"{printable(text[:60])}" is not a time such as 2026-11-27 17:00 or 2026-11-27 17:00 Europe/Berlin'
        )
    return match


def _zone_of(text: str | None) -> tzinfo | None:
    """None: the host's."""
    if text is None:
        return None
    if text in ("Z", "UTC"):
        return timezone.utc
    if text[0] in "+-":
        hours, minutes = int(text[1:3]), int(text[-2:])
        if hours > 14 or minutes > 59:
            raise ValueError(f'"{printable(text)}" is not an offset from UTC')
        return timezone((1 if text[0] == "+" else -1) * timedelta(hours=hours, minutes=minutes))
    return named_zone(text)


def _resolved(naive: datetime, zone: tzinfo | None) -> datetime:
    first, second = (_utc(naive.replace(fold=fold), zone) for fold in (0, 1))
    if first == second:
        return first
    back = first.astimezone(zone).replace(tzinfo=None)
    if back != naive:
        raise ValueError(f"{naive:%Y-%m-%d %H:%M} does not exist: the clock is put forward then; give another time")
    raise ValueError(
        f"{naive:%Y-%m-%d %H:%M} is there twice, because the clock is put back then; add the offset, such as "
        f"{_offset(first, zone)} or {_offset(second, zone)}"
    )


def _utc(naive: datetime, zone: tzinfo | None) -> datetime:
    return (naive.astimezone() if zone is None else naive.replace(tzinfo=zone)).astimezone(timezone.utc)


def _offset(time: datetime, zone: tzinfo | None) -> str:
    text = time.astimezone(zone).strftime("%z")
    return f"{text[:3]}:{text[3:]}"
