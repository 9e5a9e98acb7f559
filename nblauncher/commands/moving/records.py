"""records.json and hashes.json of an export: what root remembers of a course, for the next host and for other systems.

Pure. Whoever brings an export may have written it, so each field is checked when it is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from nblauncher.errors import InputError
from nblauncher.exchange.moving import manifest
from nblauncher.exchange.retrieve.scope import ALL, CHANGED, HOME
from nblauncher.ledger import Brought, Capture, Retrieval
from nblauncher.model import USERNAME, Deadline

_MOST = 1_000_000
"""Records of one kind."""
_LONGEST_TEXT = 4000
_LONGEST = 10 * 366 * 24 * 3600
"""Seconds of extra time."""
_MOST_MEMORY, _MOST_ROUNDS = 65_536, 10
"""KiB and rounds of a hash: what a guess at the front page may cost."""
_HASH = re.compile(r"argon2:\$argon2id\$v=19\$m=(\d{1,6}),t=(\d{1,2}),p=1\$[A-Za-z0-9+/]{8,88}\$[A-Za-z0-9+/]{16,88}")
_SHA256 = re.compile("[0-9a-f]{64}")
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")


@dataclass(frozen=True, slots=True)
class Person:
    """A student as the old host knew the account. The new one gives the account a uid of its own."""

    username: str
    uid: int
    gid: int
    port: int
    is_guest: bool = False
    locked_since: str = ""


@dataclass(frozen=True, slots=True)
class Records:
    """What root remembers of a course."""

    front_port: int
    people: tuple[Person, ...] = ()
    brought: Brought = field(default_factory=Brought)

    @property
    def lockouts(self) -> dict[str, str]:
        return {one.username: one.locked_since for one in self.people if one.locked_since}


def to_json(records: Records) -> bytes:
    """records.json. Times are ISO 8601 in UTC."""
    brought = records.brought
    content = {
        "front_port": records.front_port,
        "students": [
            {
                "username": one.username,
                "uid": one.uid,
                "gid": one.gid,
                "port": one.port,
                "guest": one.is_guest,
                "locked_since": one.locked_since or None,
            }
            for one in records.people
        ],
        "deadlines": [{"name": one.name, "folder": one.folder, "at": _iso(one.at)} for one in brought.deadlines],
        "extensions": [
            {"deadline": name, "username": username, "seconds": int(more.total_seconds())}
            for (name, username), more in brought.extensions.items()
        ],
        "captures": [
            {
                "deadline": one.name,
                "username": one.username,
                "at": _iso(one.at),
                "captured": _iso(one.captured),
                "retrieved": one.retrieved,
                "manifest_sha256": one.manifest,
                "remark": one.remark,
            }
            for one in brought.captures
        ],
        "failed_captures": [
            {"deadline": name, "username": username, "at": _iso(at), "reason": reason}
            for (name, username, at), reason in brought.failures.items()
        ],
        "remarks": [
            {"deadline": name, "username": username, "at": _iso(at), "words": words, "complete": is_complete}
            for (name, username, at), (words, is_complete) in brought.remarks.items()
        ],
        "retrievals": [
            {
                "scope": one.scope,
                "folder": one.folder,
                "username": one.username,
                "digest": one.digest,
                "complete": one.is_complete,
            }
            for one in brought.retrievals
        ],
    }
    return (json.dumps(content, indent=1) + "\n").encode("ascii")


def from_json(data: bytes) -> Records:
    """InputError for anything that is malformed, or far too large to be true."""
    content = manifest.checked_json(data, manifest.RECORDS)
    if not isinstance(content, dict):
        raise _malformed("not an object")
    people = tuple(
        Person(
            _username(row),
            _number(row, "uid", 1, 1 << 32),
            _number(row, "gid", 0, 1 << 32),
            _number(row, "port", 1, 1 << 16),
            _truth(row, "guest"),
            "" if row.get("locked_since") is None else _iso(_time(row, "locked_since")),
        )
        for row in _rows(content, "students")
    )
    if len({one.username for one in people}) < len(people):
        raise _malformed("a student is there twice")
    return Records(_number(content, "front_port", 1, 1 << 16), people, _brought(content, people))


def hashes_to_json(hashes: Mapping[str, str]) -> bytes:
    return (json.dumps(dict(hashes), indent=0) + "\n").encode("ascii")


def hashes_from_json(data: bytes) -> dict[str, str]:
    """username → "argon2:…". InputError for anything that nblauncher would not have written."""
    content = manifest.checked_json(data, manifest.HASHES)
    if not isinstance(content, dict):
        raise _malformed("not an object", manifest.HASHES)
    for name, text in content.items():
        found = _HASH.fullmatch(text) if isinstance(text, str) and USERNAME.fullmatch(name) else None
        if found is None or int(found[1]) > _MOST_MEMORY or not 1 <= int(found[2]) <= _MOST_ROUNDS:
            raise _malformed("a hash that nblauncher did not make", manifest.HASHES)
    return content


def _brought(content: Mapping[str, Any], people: tuple[Person, ...]) -> Brought:
    return Brought(
        tuple(one.username for one in people),
        tuple(
            Deadline(_text(row, "name"), _text(row, "folder"), _time(row, "at")) for row in _rows(content, "deadlines")
        ),
        {
            (_text(row, "deadline"), _username(row)): timedelta(seconds=_number(row, "seconds", -_LONGEST, _LONGEST))
            for row in _rows(content, "extensions")
        },
        tuple(
            Capture(
                _text(row, "deadline"),
                _username(row),
                0,
                _time(row, "at"),
                _time(row, "captured"),
                _matching(row, "retrieved", _FOLDER, or_empty=True),
                _matching(row, "manifest_sha256", _SHA256, or_empty=True),
                _text(row, "remark"),
            )
            for row in _rows(content, "captures")
        ),
        {_moment(row): _text(row, "reason") for row in _rows(content, "failed_captures")},
        {_moment(row): (_text(row, "words"), _truth(row, "complete")) for row in _rows(content, "remarks")},
        tuple(
            Retrieval(
                _one_of(row, "scope", (CHANGED, ALL, HOME)),
                _matching(row, "folder", _FOLDER),
                _username(row),
                0,
                _matching(row, "digest", _SHA256),
                _truth(row, "complete"),
            )
            for row in _rows(content, "retrievals")
        ),
    )


def _rows(content: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    rows = content.get(key)
    if not isinstance(rows, list) or len(rows) > _MOST:
        raise _malformed(f"{key} is not a list, or is far too long")
    for row in rows:
        if not isinstance(row, dict):
            raise _malformed(f"{key} has something else than objects")
        yield row


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT or "\0" in value:
        raise _malformed(f"{key} is not a text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _malformed(f"{key} is not a text") from None
    return value


def _matching(row: Mapping[str, Any], key: str, pattern: re.Pattern[str], *, or_empty: bool = False) -> str:
    value = _text(row, key)
    if not pattern.fullmatch(value) and not (or_empty and not value):
        raise _malformed(f"{key} is not what it should be")
    return value


def _username(row: Mapping[str, Any]) -> str:
    return _matching(row, "username", USERNAME)


def _one_of(row: Mapping[str, Any], key: str, words: tuple[str, ...]) -> str:
    if (value := row.get(key)) not in words:
        raise _malformed(f"{key} is not one of {', '.join(words)}")
    return str(value)


def _number(row: Mapping[str, Any], key: str, least: int, most: int) -> int:
    value = row.get(key)
    if type(value) is not int or not least <= value < most:
        raise _malformed(f"{key} is not a number that is possible")
    return value


def _truth(row: Mapping[str, Any], key: str) -> bool:
    value = row.get(key)
    if not isinstance(value, bool):
        raise _malformed(f"{key} is not true or false")
    return value


def _time(row: Mapping[str, Any], key: str) -> datetime:
    try:
        found = datetime.fromisoformat(_text(row, key))
        if found.tzinfo is not None and 2000 < found.year < 3000:
            return found.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        pass
    raise _malformed(f"{key} is not a time")


def _moment(row: Mapping[str, Any]) -> tuple[str, str, datetime]:
    return _text(row, "deadline"), _username(row), _time(row, "at")


def _iso(time: datetime) -> str:
    return time.astimezone(timezone.utc).isoformat()


def _malformed(what: str, name: str = manifest.RECORDS) -> InputError:
    return InputError(
        f"{name} of the export is malformed: {what}",
        "It is damaged or not one of nblauncher's. Nothing was changed. Copy it again, or export again.",
    )
