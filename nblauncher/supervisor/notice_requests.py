"""Requests about what students are told, and about the teacher's visits to their servers. See `requests`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from nblauncher.server.notices import LONGEST
from nblauncher.supervisor.requests import Fields, optional_list, optional_texts
from nblauncher.supervisor.specs import SpecError, checked_number, checked_username

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Say:
    """Show this message to these students (None: to the class) until this Unix second (None: until it is cleared).
    No text clears.
    """

    name: ClassVar[str] = "say"
    usernames: tuple[str, ...] | None
    text: str
    until: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {"usernames": optional_list(self.usernames), "text": self.text, "until": self.until}

    @classmethod
    def from_json(cls, fields: Fields) -> Say:
        until = fields.get("until")
        text = fields.get("text")
        if not isinstance(text, str) or len(text) > LONGEST:
            raise SpecError("not a message")
        time = None if until is None else checked_number(until, 0, 2**40)
        return cls(optional_texts(fields.get("usernames")), text, time)


@dataclass(frozen=True, slots=True)
class Tell:
    """Files of this student's that a delivery changed, or how full the disk is: used and limit; None: there is room."""

    name: ClassVar[str] = "tell"
    username: str
    changed: tuple[str, ...] | None = None
    disk: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        disk = None if self.disk is None else list(self.disk)
        return {"username": self.username, "changed": optional_list(self.changed), "disk": disk}

    @classmethod
    def from_json(cls, fields: Fields) -> Tell:
        disk = fields.get("disk")
        if disk is not None and not (isinstance(disk, list) and len(disk) == 2):
            raise SpecError("not a disk usage")
        numbers = None if disk is None else (checked_number(disk[0], 0, 2**60), checked_number(disk[1], 0, 2**60))
        return cls(checked_username(fields.get("username")), optional_texts(fields.get("changed")), numbers)


@dataclass(frozen=True, slots=True)
class Invite:
    """A link to this student's server works once within `valid` seconds; the visit lasts for `lasts`. `digest` is the
    sha256 of its secret, in hex.
    """

    name: ClassVar[str] = "invite"
    username: str
    digest: str
    valid: int
    lasts: int

    def to_json(self) -> dict[str, Any]:
        return {"username": self.username, "digest": self.digest, "valid": self.valid, "lasts": self.lasts}

    @classmethod
    def from_json(cls, fields: Fields) -> Invite:
        digest = fields.get("digest")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise SpecError("not a digest")
        valid, lasts = (checked_number(fields.get(key), 1, 86400) for key in ("valid", "lasts"))
        return cls(checked_username(fields.get("username")), digest, valid, lasts)


@dataclass(frozen=True, slots=True)
class EndVisits:
    """End the teacher's visits to these students' servers, and void unused links; None: all."""

    name: ClassVar[str] = "end_visits"
    usernames: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        return {"usernames": optional_list(self.usernames)}

    @classmethod
    def from_json(cls, fields: Fields) -> EndVisits:
        return cls(optional_texts(fields.get("usernames")))
