"""The texts of the pages that students see, in the class's language. Each text stands once, in web/texts/LANGUAGE.json.

A text may have `{placeholders}`, `**bold**` and `` `code` ``, and is escaped: neither a text nor a value is markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from functools import cache
from pathlib import Path
from types import MappingProxyType
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from markupsafe import Markup, escape

import nblauncher
from nblauncher.model import LANGUAGES

_FOLDER = Path(nblauncher.__file__).parent / "web" / "texts"
_FAR = timedelta(days=200)
_PLACE = re.compile(r"\{([a-z]+)\}")
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_CODE = re.compile(r"`([^`\n]+)`")
_RIGHT_TO_LEFT = frozenset({"ar", "ckb", "dv", "fa", "he", "ps", "sd", "ug", "ur", "yi"})
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)


@cache
def shipped(language: str) -> Mapping[str, str]:
    """The texts of a language that is shipped."""
    return MappingProxyType(json.loads((_FOLDER / f"{language}.json").read_bytes()))


def missing(given: Mapping[str, str]) -> list[str]:
    """The texts that a translation lacks."""
    return [key for key in shipped("en") if key not in given]


def objections(given: Mapping[str, str]) -> list[str]:
    """What is odd in a translation, in words: unknown names, other placeholders than the English text has."""
    english = shipped("en")
    found = [f"there is no text called {key}" for key in given if key not in english]
    for key, text in given.items():
        places = set(_PLACE.findall(text))
        expected = set(_PLACE.findall(english.get(key, text)))
        found += [f"{key} lacks {{{place}}}" for place in sorted(expected - places)]
        found += [f"{key} has {{{place}}}, which is not filled in" for place in sorted(places - expected)]
    return found


@dataclass(frozen=True, slots=True)
class Texts:
    """All texts in one language; `given` are the teacher's, which come first. What is missing is English."""

    language: str = "en"
    given: Mapping[str, str] = field(default_factory=dict)

    @property
    def direction(self) -> str:
        """Of the HTML attribute `dir`."""
        return "rtl" if self.language.partition("-")[0].lower() in _RIGHT_TO_LEFT else "ltr"

    def __call__(self, key: str, **values: object) -> Markup:
        """As HTML."""
        return _as_html(self._text(key), values)

    def lines(self, key: str, **values: object) -> list[Markup]:
        """As HTML, line by line."""
        return [_as_html(line, values) for line in self._text(key).splitlines() if line.strip()]

    def plain(self, key: str, **values: object) -> str:
        """As text, without its own bold and code."""
        return _filled(_CODE.sub(r"\1", _BOLD.sub(r"\1", self._text(key))), values)

    def raw(self, key: str) -> str:
        """With its placeholders, for a script that fills them in."""
        return self._text(key)

    def moment(self, at: datetime, now: datetime, zone: str = "") -> str:
        """A date with its time on the class's clock: the zone of that name, else the host's. With the year if it is
        months away.

        "UTC" is added when that is only what the host runs on.
        """
        clock = _zone(zone)
        local = at.astimezone(clock)
        words = self.plain(
            "date" if abs(at - now) < _FAR else "date_far",
            weekday=self._text(_WEEKDAYS[local.weekday()]),
            day=local.day,
            month=self._text(_MONTHS[local.month - 1]),
            year=local.year,
            time=f"{local:%H:%M}",
        )
        return f"{words} (UTC)" if clock is None and local.tzname() == "UTC" else words

    def clock(self, at: datetime, now: datetime, zone: str = "") -> str:
        """The time alone if that is today on the class's clock, else as `moment`."""
        clock = _zone(zone)
        local = at.astimezone(clock)
        if local.date() != now.astimezone(clock).date():
            return self.moment(at, now, zone)
        return self.plain("notice_clock", time=f"{local:%H:%M}")

    def left(self, seconds: float) -> str:
        """How long it is until then. `static/page.js` says the same while the page is open."""
        minutes = max(0, int(seconds // 60))
        values = {"days": minutes // 1440, "hours": minutes // 60 % 24, "minutes": minutes % 60}
        if seconds <= 0:
            return self.plain("left_none")
        if minutes == 0:
            return self.plain("left_seconds")
        if minutes < 60:
            return self.plain("left_minutes", **values)
        if minutes < 1440:
            return self.plain("left_hours", **values)
        return self.plain("left_days", **values)

    def _text(self, key: str) -> str:
        own = self.language.partition("-")[0].lower()
        if key in self.given:
            return self.given[key]
        return (shipped(own) if own in LANGUAGES else shipped("en"))[key]


def _zone(name: str) -> tzinfo | None:
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None  # the host's data about zones are gone


def _filled(text: str, values: Mapping[str, object]) -> str:
    return _PLACE.sub(lambda place: str(values.get(place[1], place[0])), text)


def _as_html(text: str, values: Mapping[str, object]) -> Markup:
    """In one pass over the placeholders: nothing in a value is a placeholder or markup."""
    html = _CODE.sub(r"<code>\1</code>", _BOLD.sub(r"<b>\1</b>", str(escape(text))))
    return Markup(_PLACE.sub(lambda place: str(escape(values.get(place[1], place[0]))), html))  # noqa: S704 — escaped
