"""Which columns of an export mean what: headers of Moodle, Canvas, Blackboard, ILIAS and Google Classroom, in English
and German.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FIRST, LAST, NAME, EMAIL, ID, LOGIN, SECTION, ROLE, SEAT, EXTRA_TIME = (
    *("first", "last", "name", "email", "student_id", "login", "section", "role", "seat", "extra_time"),
)

_KNOWN: Mapping[str, str] = {
    FIRST: "firstname givenname forename vorname vornamen rufname",
    LAST: "lastname surname familyname nachname familienname zuname",
    NAME: "student studentname fullname name studierende studierender studierendername vollstaendigername"
    " firstnamelastname firstnamesurname lastnamefirstname vornamenachname nachnamevorname namevorname displayname"
    " anzeigename studentin teilnehmer teilnehmerin lernende",
    EMAIL: "emailaddress email emailadresse mailadresse mail universityemail schoolemail",
    ID: "sisuserid sisbenutzerid studentid idnumber matriculationnumber matriculationno"
    " matriculation matrikelnummer matrikelnr matrikel matnr martikelnummer studentnumber"
    " studentno studierendennummer studentidnumber idnummer studentenid studierendenid teilnehmerid externalid id",
    LOGIN: "username sisloginid sisanmeldeid loginid login loginname anmeldename benutzername nutzername"
    " benutzerkennung nutzerkennung unikennung kennung userid",
    SECTION: "section sections groups group gruppen gruppe abschnitt abschnitte sektion lerngruppe kursgruppe kohorte"
    " klasse class",
    ROLE: "roles role rollen rolle rolestatus rollestatus courserole kursrolle",
    SEAT: "seat sitzplatz",
    EXTRA_TIME: "extratime",
}
"""Headers without spaces and signs; of several in one file the first in this list counts."""
_FIELDS = {word: (field, rank) for field, words in _KNOWN.items() for rank, word in enumerate(words.split())}

_BLANK = frozenset({"-", "–", "—", "n/a"})

_SYSTEMS: Sequence[tuple[str, tuple[str, ...]]] = (
    ("Canvas", ("student id section",)),
    ("Blackboard", ("availability lastaccess", "verfuegbarkeit letzterzugriff", "verfuegbarkeit lastaccess")),
    (
        "Moodle",
        (
            *("firstname emailaddress roles", "firstname emailaddress groups", "firstname emailaddress institution"),
            *("lastname lastdownloadedfromthiscourse", "surname lastdownloadedfromthiscourse"),
            *("nachname letzterdownloadausdiesemkurs", "vorname emailadresse idnummer"),
            *("vorname emailadresse rollen", "vorname emailadresse gruppen", "vorname emailadresse institution"),
        ),
    ),
    ("ILIAS", ("login lastname firstname", "anmeldename nachname vorname", "benutzername nachname vorname")),
    ("Google Classroom", ("lastname firstname emailaddress", "nachname vorname emailadresse")),
)
"""A system, and headers that stand together only there, the more telling system first."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Where what stands in a row."""

    index: Mapping[str, int]
    """Field → column."""
    header: Sequence[str]
    system: str
    """The system that the header looks like; '' for none of these."""

    @property
    def ignored(self) -> tuple[str, ...]:
        """Headers of columns that mean nothing to us, or that another one says better."""
        used = frozenset(self.index.values())
        return tuple(text.strip() for number, text in enumerate(self.header) if number not in used and text.strip())

    def cell(self, row: Sequence[str], field: str) -> str:
        """The cell in one line, without white space around it; '' where there is none."""
        index = self.index.get(field, len(row))
        text = plain(row[index]) if index < len(row) else ""
        return "" if text.casefold() in _BLANK else text


def merit(cells: Sequence[str]) -> int:
    """How many of our fields a row names, if it is a header."""
    return len(_index(cells))


def find(header: Sequence[str]) -> Columns:
    keys = frozenset(map(key, header))
    system = next((name for name, signs in _SYSTEMS if any(keys >= set(sign.split()) for sign in signs)), "")
    return Columns(_index(header), header, system)


def column_named(header: Sequence[str], name: str) -> int | None:
    """The column whose header a person would call so."""
    return next((index for index, text in enumerate(header) if key(text) == key(name)), None)


def _index(header: Sequence[str]) -> dict[str, int]:
    best: dict[str, tuple[int, int]] = {}
    for column, text in enumerate(header):
        field, rank = _FIELDS.get(key(text), ("", 0))
        if field and (field not in best or rank < best[field][0]):
            best[field] = (rank, column)
    return {field: column for field, (_rank, column) in best.items()}


def key(text: str) -> str:
    """A header as letters and digits: `E-Mail-Adresse` is `emailadresse`."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    for umlaut, letters in (("ä", "ae"), ("ö", "oe"), ("ü", "ue")):
        folded = folded.replace(umlaut, letters)
    return "".join(character for character in folded if character.isalnum())


def plain(text: str) -> str:
    """A cell in one line, without invisible characters at its ends."""
    return " ".join(unicodedata.normalize("NFC", text).split()).strip("\ufeff\u200b\u200e\u200f")
