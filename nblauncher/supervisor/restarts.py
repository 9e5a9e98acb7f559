"""When a server that died is started again: at once, then later and later, and not for ever."""

from __future__ import annotations

from dataclasses import dataclass, field

PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Seconds before the first, the second, ... attempt within the window."""

WINDOW = 60.0


@dataclass
class Restarts:
    """One server's deaths, as times of a clock that never goes back (seconds)."""

    deaths: list[float] = field(default_factory=list)

    def pause(self, now: float) -> float | None:
        """Seconds until it is started again after a death right now; None: it stays down."""
        self.deaths = [death for death in self.deaths if now - death < WINDOW]
        self.deaths.append(now)
        number = len(self.deaths)
        return PAUSES[number - 1] if number <= len(PAUSES) else None
