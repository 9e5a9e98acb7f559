"""Choose uids and ports for new students. Pure: the caller passes those that are taken."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from nblauncher.errors import HostError
from nblauncher.system.blocked_ports import BLOCKED_PORTS

_HIGHEST_PORT = 65535


def new_nonce() -> str:
    """The mark that `useradd -c` writes, by which we recognize our accounts."""
    return f"nbl-{secrets.token_hex(8)}"


def uids(count: int, *, within: range, spent: frozenset[int], is_free: Callable[[int], bool]) -> list[int]:
    """The next uids of the range after the highest one ever used; HostError when they run out."""
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


def ports(
    newcomers: Sequence[str],
    *,
    front_port: int,
    spent: frozenset[int],
    taken: frozenset[int],
    wanted: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, int]:
    """username → port: consecutive ports after the last used one. A port that is taken, or that browsers block, is
    replaced by one after that range. Students who had a port on another host (`wanted`) get it if it is free.
    """
    kept = {
        name: port
        for name, port in wanted.items()
        if name in newcomers and port <= _HIGHEST_PORT and port not in spent | taken | BLOCKED_PORTS | {front_port}
    }
    if kept:
        others = [name for name in newcomers if name not in kept]
        rest = ports(others, front_port=front_port, spent=spent | frozenset(kept.values()), taken=taken)
        return {name: kept.get(name) or rest[name] for name in newcomers}
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
