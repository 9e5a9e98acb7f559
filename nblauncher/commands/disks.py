"""limits.disk: enforced by quotas if the homes' file system has them, else measured while the class runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.exchange import homes
from nblauncher.isolation import quotas
from nblauncher.model import Account
from nblauncher.planning import survey
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Details, ForOne, Phase, Plan
from nblauncher.planning.survey import Facts
from nblauncher.server.notices import NEARLY_FULL
from nblauncher.supervisor import client
from nblauncher.system import memory, root_files

log = logging.getLogger(__name__)

LONGEST = 20.0
"""Seconds to measure one home."""


def lock(host: Host) -> Path:
    """Its own lock: measuring must not block `send`, as a student decides how long it takes."""
    return host.paths.state / "disks.lock"


def unlimited(host: Host, usernames: Sequence[str]) -> list[str]:
    """Students with another quota than the config says; none where there are no quotas."""
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
    """Whether disk usage must be measured because no quota enforces it."""
    return host.settings.limits.disk is not None and not (host.settings.accounts.create and _has_quotas(host))


@dataclass(frozen=True)
class LimitDisk(ForOne):
    """The quota of one student's uid."""

    def describe(self) -> str:
        return f"set the disk quota of {self.username}"

    def apply(self, host: Host) -> None:
        account = survey.student_account(host, self.username)
        quotas.limit(account.home, account.uid, host.settings.limits.disk)


def forget(host: Host, account: Account) -> None:
    """Remove the quota with the account, whatever the config says now."""
    folder = host.settings.accounts.home
    if _has_quotas(host) and (quota := quotas.read(folder, account.uid)) and quota.limit is not None:
        quotas.limit(folder, account.uid, None)


def plan_watch(usernames: Sequence[str], facts: Facts) -> Plan:
    """Measure every student's home."""
    wanted = tuple(name for name in usernames if name in facts.members)
    return Plan((Phase("look at disks", tuple(map(Measure, wanted))),))


@dataclass(frozen=True)
class Measure(ForOne):
    """Measure a student's files in a child that is the student, for `status`."""

    def describe(self) -> str:
        return f"measure the home of {self.username}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        used = homes.used(survey.student_account(host, self.username), longest=LONGEST)
        known = _measured(host) | {self.username: used}
        root_files.replace(_file(host), json.dumps(known))
        if over := _over(host, used):
            log.warning("%s: %s", self.username, over)
        _tell(host, self.username, used if over else None)
        return {self.username: {"used_bytes": used}}


def _tell(host: Host, username: str, used: int | None) -> None:
    """Let the student's pages warn, or stop. `used` is None while there is room."""
    limit = host.settings.limits.disk
    try:
        supervisor = client.connect(host.paths)
        if supervisor is not None and limit is not None:
            with supervisor:
                supervisor.tell_disk(username, None if used is None else (used, limit))
    except HostError as error:
        log.info("%s's pages do not warn of the disk: %s", username, error.problem)


def known(host: Host, accounts: Mapping[str, Account]) -> dict[str, int]:
    """The bytes that each student's files take, as the quota counts them, or as they were measured last. Changes
    nothing.
    """
    measured = _measured(host)
    if not host.settings.accounts.create or not _has_quotas(host):
        return {name: measured[name] for name in accounts if name in measured}
    folders: dict[Path, list[int]] = {}
    for account in accounts.values():
        folders.setdefault(account.home.parent, []).append(account.uid)
    found = {
        uid: quota.used for folder, uids in folders.items() for uid, quota in quotas.read_all(folder, uids).items()
    }
    return {
        name: found.get(account.uid, measured.get(name, 0))
        for name, account in accounts.items()
        if account.uid in found or name in measured
    }


def total(host: Host, accounts: Mapping[str, Account]) -> int | None:
    """Bytes of these students' files together; None if one is not known."""
    sizes = known(host, accounts)
    return sum(sizes.values()) if sizes.keys() >= accounts.keys() else None


def words(host: Host, used: Mapping[str, int]) -> dict[str, str]:
    """For `status`: students near or above limits.disk."""
    return {name: over for name, size in used.items() if (over := _over(host, size))}


def _over(host: Host, used: int) -> str:
    """Warn from 90 percent."""
    limit = host.settings.limits.disk
    if limit is None or used < NEARLY_FULL * limit:
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
