"""When a server that died is started again: at once, then after longer and longer pauses, and not for ever."""

from __future__ import annotations

from dataclasses import dataclass, field

PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Seconds before the first, the second, ... attempt within the window."""

WINDOW = 60.0


@dataclass
class Restarts:
    """When one server died, in seconds of time.monotonic."""

    deaths: list[float] = field(default_factory=list)

    def pause(self, now: float) -> float | None:
        """It died now: seconds until it is started again. None: it stays down."""
        self.deaths = [death for death in self.deaths if now - death < WINDOW]
        self.deaths.append(now)
        number = len(self.deaths)
        return PAUSES[number - 1] if number <= len(PAUSES) else None
