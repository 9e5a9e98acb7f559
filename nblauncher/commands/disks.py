"""limits.disk: held by quotas where the file system of the homes has them, else watched while the class runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nblauncher import homes, memory, quotas, root_files, survey
from nblauncher.errors import HostError
from nblauncher.host import Host
from nblauncher.model import Account
from nblauncher.plan import Details, Phase, Plan
from nblauncher.survey import Facts

log = logging.getLogger(__name__)

LONGEST = 20.0
"""Seconds that looking through one home may take."""


def lock(host: Host) -> Path:
    """Whoever counts must not keep others from sending: a student decides how long that takes."""
    return host.paths.state / "disks.lock"


def unlimited(host: Host, usernames: Sequence[str]) -> list[str]:
    """Those of our accounts whose quota is another one than the config says; nobody where there are no quotas."""
    if not host.settings.accounts.create or not _has_quotas(host):
        return []
    claims = host.ledger.claims()
    found = []
    for name in usernames:
        if name in claims:
            quota = quotas.read(claims[name].account.home, claims[name].account.uid)
            if quota is not None and quota.limit != _in_blocks(host.settings.limits.disk):
                found.append(name)
    return found


def is_watched(host: Host) -> bool:
    """Whether somebody has to look how much the students' files take."""
    return host.settings.limits.disk is not None and not (host.settings.accounts.create and _has_quotas(host))


@dataclass(frozen=True)
class LimitDisk:
    """The quota of one student's uid."""

    username: str

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)

    def describe(self) -> str:
        return f"set the disk quota of {self.username}"

    def apply(self, host: Host) -> None:
        account = survey.student_account(host, self.username)
        quotas.limit(account.home, account.uid, host.settings.limits.disk)


def forget(host: Host, account: Account) -> None:
    """An account that goes takes its quota along, whatever the config says by now."""
    folder = host.settings.accounts.home
    if _has_quotas(host) and (quota := quotas.read(folder, account.uid)) and quota.limit is not None:
        quotas.limit(folder, account.uid, None)


def plan_watch(usernames: Sequence[str], facts: Facts) -> Plan:
    """Look through everybody's home."""
    wanted = tuple(name for name in usernames if name in facts.members)
    return Plan((Phase("look at disks", tuple(map(Measure, wanted))),))


@dataclass(frozen=True)
class Measure:
    """How much a student's files take, counted by the student's child; `status` tells it."""

    username: str

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)

    def describe(self) -> str:
        return f"measure the home of {self.username}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        used = homes.used(survey.student_account(host, self.username), longest=LONGEST)
        known = _measured(host) | {self.username: used}
        root_files.replace(_file(host), json.dumps(known))
        if over := _over(host, used):
            log.warning("%s: %s", self.username, over)
        return {self.username: {"used_bytes": used}}


def words(host: Host, accounts: Mapping[str, Account]) -> dict[str, str]:
    """For `status`: who has used up, or more than, what limits.disk allows. Looks only."""
    if host.settings.limits.disk is None:
        return {}
    measured = _measured(host)
    found = {}
    for name, account in accounts.items():
        quota = quotas.read(account.home, account.uid) if not is_watched(host) else None
        used = quota.used if quota is not None else measured.get(name, 0)
        if over := _over(host, used):
            found[name] = over
    return found


def _over(host: Host, used: int) -> str:
    """Nine tenths are worth a word."""
    limit = host.settings.limits.disk
    if limit is None or used < 0.9 * limit:
        return ""
    return f"files take {memory.words(used)} of {memory.words(limit)}"


def _has_quotas(host: Host) -> bool:
    try:
        return quotas.read(host.settings.accounts.home, 0) is not None
    except HostError as error:
        log.warning("%s", error.problem)
        return False


def _in_blocks(size: int | None) -> int | None:
    return None if size is None else max(1, size // 1024) * 1024


def _measured(host: Host) -> dict[str, int]:
    text = root_files.read(_file(host))
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return {str(name): int(used) for name, used in found.items()} if isinstance(found, dict) else {}


def _file(host: Host) -> Path:
    return host.paths.run / "disks.json"
