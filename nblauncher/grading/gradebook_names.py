"""A student's first and last name for nbgrader's gradebook, from the roster. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from nblauncher.model import Student

_LONGEST = 128
"""Characters of a column of the gradebook."""
_FIRST = ("first_name", "firstname", "given_name", "vorname", "prénom", "prenom", "nombre")
_LAST = ("last_name", "lastname", "surname", "family_name", "nachname", "nom", "apellido", "apellidos")
_PARTICLES = frozenset(
    {
        *("von", "zu", "zur", "van", "der", "den", "ten", "ter", "de", "del", "della", "di", "da", "do", "dos", "das"),
        *("du", "la", "le", "los", "las", "y", "e", "bin", "ibn", "al", "el", "af", "av"),
    }
)
"""Lower-case words that begin a last name: Ludwig van Beethoven."""


def row_of(student: Student) -> Mapping[str, str]:
    """As in the file that `nbgrader db student import` takes; '' for what the roster does not say."""
    first, last = _given(student, _FIRST), _given(student, _LAST)
    if not first and not last:
        first, last = split(student.name)
    names = {"first_name": first, "last_name": last, "email": student.email}
    return {"id": student.username, **{key: _plain(value)[:_LONGEST] for key, value in names.items()}}


def split(name: str) -> tuple[str, str]:
    """First and last name: "Lovelace, Ada" and "Ada Lovelace" are the same. One word alone is the first name."""
    last, comma, first = _plain(name).partition(",")
    if comma and first.strip():
        return first.strip(), last.strip()
    words = last.split()
    at = max(len(words) - 1, 1)
    while at > 1 and words[at - 1] in _PARTICLES:
        at -= 1
    return " ".join(words[:at]), " ".join(words[at:])


def _given(student: Student, columns: tuple[str, ...]) -> str:
    """A column of the roster that is only this part of the name."""
    for column, cell in student.extra:
        if column.casefold().strip().replace(" ", "_").replace("-", "_") in columns:
            return cell
    return ""


def _plain(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
