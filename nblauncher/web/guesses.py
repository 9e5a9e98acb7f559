"""Wrong guesses cost time: their own answers come later. A right password is never delayed, let alone refused.

Counted per address and name, because a classroom is one NAT address and a lock-out would let a neighbour stop an exam
(DESIGN section 5). Pure bookkeeping; whoever answers does the waiting.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict, deque
from collections.abc import Callable

WINDOW = 300.0
"""Seconds for which a wrong guess is remembered."""

FREE_GUESSES = 3
LONGEST_DELAY = 10.0

_GLOBAL_STEP = 300
_MAX_KEYS = 10_000
_KEPT_PER_KEY = FREE_GUESSES + int(LONGEST_DELAY)


class Guesses:
    """The wrong guesses of the last five minutes. `clock` is monotonic seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, max_keys: int = _MAX_KEYS) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self._by_key: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()
        self._all: deque[float] = deque(maxlen=_GLOBAL_STEP * int(LONGEST_DELAY))

    def __len__(self) -> int:
        return len(self._by_key)

    def wrong(self, address: str, username: str) -> float:
        """Remember a wrong guess; returns how many seconds later than usual it is to be answered.

        One second more for each after the third of the same address and name; and, the global brake against a crowd
        of addresses or names, one more for every 300 wrong guesses of anybody. Ten at most.
        """
        now = self._clock()
        key = (address_group(address), username)
        theirs = self._by_key.setdefault(key, deque(maxlen=_KEPT_PER_KEY))
        self._by_key.move_to_end(key)
        for times in (theirs, self._all):
            times.append(now)
            while times[0] <= now - WINDOW:
                times.popleft()
        self._forget(now)
        own = len(theirs) - FREE_GUESSES
        return min(LONGEST_DELAY, float(max(0, own, len(self._all) // _GLOBAL_STEP)))

    def _forget(self, now: float) -> None:
        """Drop old keys, and the longest silent ones when hostile names or addresses fill the memory."""
        while self._by_key:
            key, times = next(iter(self._by_key.items()))
            if len(self._by_key) <= self._max_keys and times[-1] > now - WINDOW:
                return
            del self._by_key[key]


def address_group(address: str) -> str:
    """Whom an address stands for: a v4 address itself, of v6 the /64 (one machine has all of it)."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
