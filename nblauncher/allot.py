"""Which uid and which port a newcomer gets. Pure: what is taken is given."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from nblauncher.errors import HostError

_HIGHEST_PORT = 65535

BLOCKED_PORTS = frozenset(
    {1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, *range(6665, 6670), 6679, 6697, 10080}
)
"""Those above 1023 that no browser connects to (the Fetch Standard's "port blocking")."""


def new_nonce() -> str:
    """What `useradd -c` writes so that we know our accounts again."""
    return f"nbl-{secrets.token_hex(8)}"


def uids(count: int, *, within: range, spent: frozenset[int], is_free: Callable[[int], bool]) -> list[int]:
    """The next uids of the range after the highest one ever given; HostError when they run out."""
    highest = max((uid for uid in spent if uid in within), default=within.start - 1)
    chosen: list[int] = []
    for uid in range(highest + 1, within.stop):
        if len(chosen) == count:
            break
        if is_free(uid):
            chosen.append(uid)
    if len(chosen) < count:
        raise HostError(
            f"{count} more uids are needed and accounts.uid_range {within.start}-{within.stop - 1} has only "
            f"{len(chosen)} left (a uid is never given twice)",
            "Widen accounts.uid_range in the config. No account was made.",
        )
    return chosen


def ports(newcomers: Sequence[str], *, front_port: int, spent: frozenset[int], taken: frozenset[int]) -> dict[str, int]:
    """username → port: one after the other from the next never-used one; a taken one, and one that browsers block, is
    replaced from after them.
    """
    taken = taken | BLOCKED_PORTS
    first = max(spent | {front_port}) + 1
    after = first + len(newcomers)
    chosen: dict[str, int] = {}
    for port, username in enumerate(newcomers, start=first):
        if port in taken or port > _HIGHEST_PORT:
            while after in taken and after <= _HIGHEST_PORT:
                after += 1
            port, after = after, after + 1
        if port > _HIGHEST_PORT:
            raise HostError(
                f"there is no free port left for {username} above web.port {front_port}",
                "Choose a lower web.port in the config. Nothing was changed.",
            )
        chosen[username] = port
    return chosen
