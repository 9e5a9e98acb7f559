"""Throttle wrong guesses: their answers are delayed. A right password is never delayed, let alone rejected.

Counted by address and name, because a classroom can be one NAT address, and a lock-out would let one student stop
another's exam (docs/decisions/no-lock-out.md). This only counts; the caller waits.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TypeVar

from nblauncher.system.clients import address_group

_Key = TypeVar("_Key")

__all__ = ["Guesses", "address_group"]

WINDOW = 300.0
"""Seconds for which a wrong guess is remembered."""

FREE_GUESSES = 3
LONGEST_DELAY = 10.0

_GLOBAL_STEP = 300
_MOST_OF_ONE = 100
"""How many guesses of one address count for the global throttle: one flood alone does not start it."""

_MAX_KEYS = 10_000
_KEPT_PER_KEY = FREE_GUESSES + int(LONGEST_DELAY)
_KEPT = _GLOBAL_STEP * int(LONGEST_DELAY)


class Guesses:
    """The wrong guesses of the last five minutes. `clock` is monotonic seconds, `group` the client of an address."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_keys: int = _MAX_KEYS,
        group: Callable[[str], str] = address_group,
    ) -> None:
        self._clock, self._group = clock, group
        self._max_keys = max_keys
        self._by_key: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()
        self._by_group: OrderedDict[str, deque[float]] = OrderedDict()
        self._all: deque[float] = deque(maxlen=_KEPT)

    def __len__(self) -> int:
        return len(self._by_key)

    def wrong(self, address: str, username: str) -> float:
        """Count a wrong guess; returns the seconds by which its answer is delayed.

        One second for each guess after the third of the same address and name, or for every 300 of the same address
        with any names, or, against a crowd of addresses, for every 300 of all addresses, of which one address counts
        for at most a third; whichever is most, and at most ten.
        """
        now = self._clock()
        group = self._group(address)
        key = (group, username)
        by_key = self._by_key.setdefault(key, deque(maxlen=_KEPT_PER_KEY))
        by_group = self._by_group.setdefault(group, deque(maxlen=_KEPT))
        self._by_key.move_to_end(key)
        self._by_group.move_to_end(group)
        for times in (by_key, by_group, self._all):
            while times and times[0] <= now - WINDOW:
                times.popleft()
        by_key.append(now)
        by_group.append(now)
        if len(by_group) <= _MOST_OF_ONE:
            self._all.append(now)
        self._forget(self._by_key, now)
        self._forget(self._by_group, now)
        own = len(by_key) - FREE_GUESSES
        return min(LONGEST_DELAY, float(max(0, own, len(by_group) // _GLOBAL_STEP, len(self._all) // _GLOBAL_STEP)))

    def _forget(self, kept: OrderedDict[_Key, deque[float]], now: float) -> None:
        """Drop old keys, and the least recent ones if hostile names or addresses fill the memory."""
        while kept:
            key, times = next(iter(kept.items()))
            if len(kept) <= self._max_keys and times[-1] > now - WINDOW:
                return
            del kept[key]
