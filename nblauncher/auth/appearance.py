"""What all pages of a class have in common, on its students' ports too: title, language and clock.

It is in a root-owned file of the running class, which servers and porter read whenever they show a page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nblauncher.auth.texts import Texts

_MOST_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Appearance:
    """Nothing in here is secret: the sign-in page shows it."""

    title: str = ""
    language: str = "en"
    texts: Mapping[str, str] = field(default_factory=dict)
    """The teacher's own."""
    time_zone: str = ""
    """On whose clock students see times; empty: the host's."""

    @property
    def words(self) -> Texts:
        return Texts(self.language, self.texts)

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode("ascii")


def read(file: Path) -> Appearance:
    """As it is written there; English without a title if the file is gone."""
    try:
        with file.open("rb") as stream:
            return Appearance(**json.loads(stream.read(_MOST_BYTES)))
    except (OSError, ValueError, TypeError):
        return Appearance()
