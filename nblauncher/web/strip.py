"""The next deadlines as a page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from nblauncher.auth.texts import Texts

_MOST = 3


@dataclass(frozen=True, slots=True)
class ShownDeadline:
    """`when` on the class's clock, and how long it is until then."""

    folder: str
    when: str
    seconds: float


def shown(
    deadlines: Sequence[tuple[str, datetime]], now: datetime, texts: Texts, time_zone: str
) -> list[ShownDeadline]:
    """The next ones, soonest first."""
    to_come = sorted((at, folder) for folder, at in deadlines if at > now)[:_MOST]
    return [
        ShownDeadline(folder, texts.moment(at, now, time_zone), (at - now).total_seconds()) for at, folder in to_come
    ]
