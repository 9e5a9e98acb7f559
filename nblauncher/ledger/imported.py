"""imported.json: where a course came from, and what `setup` still takes over of it, 0600 root, replaced atomically.

A file of its own, as `lockouts`: a running class of an older release must be able to read the ledgers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.system import root_files


@dataclass(frozen=True, slots=True)
class Student:
    """What a student brings: the hash of the notebook password ('' for none), and which port after the front page's
    was theirs (0: none).
    """

    hash: str = field(default="", repr=False)
    port_offset: int = 0


@dataclass(frozen=True, slots=True)
class Imported:
    """`export` is the sha256 of its manifest. `students` are those who were not set up here yet."""

    export: str
    config: str
    is_done: bool = False
    students: Mapping[str, Student] = field(default_factory=dict)


def read(file: Path) -> Imported | None:
    """None for a course that was not imported. HostError when the file is damaged."""
    try:
        found = json.loads(file.read_text(encoding="ascii"))
        students = {str(name): Student(str(one[0]), int(one[1])) for name, one in found["students"].items()}
        return Imported(str(found["export"]), str(found["config"]), found["done"] is True, students)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise HostError(
            f"{file} is damaged: {error}",
            "Restore it from a backup, or delete it: then `setup` makes new passwords for students who are not set up.",
        ) from error


def write(file: Path, imported: Imported) -> None:
    """On disk when this returns."""
    content = {
        "export": imported.export,
        "config": imported.config,
        "done": imported.is_done,
        "students": {name: [one.hash, one.port_offset] for name, one in imported.students.items()},
    }
    root_files.replace(file, json.dumps(content, indent=0), durable=True)


def drop(file: Path, usernames: Iterable[str]) -> None:
    """These students are set up, or left the course."""
    known = read(file)
    gone = frozenset(usernames)
    if known is not None and gone & known.students.keys():
        left = {name: one for name, one in known.students.items() if name not in gone}
        write(file, replace(known, students=left))
