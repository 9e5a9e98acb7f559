"""status: every student's server with its kernels, memory, CPU time and disk, and when the student last did something.

Changes nothing and does not wait.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nblauncher.commands import disks, history_share
from nblauncher.commands.deadlines import freeze, listing, pending
from nblauncher.commands.deadlines.pending import Captured, CaptureState
from nblauncher.commands.running import shutdown
from nblauncher.commands.running.usage import Meter
from nblauncher.errors import HostError
from nblauncher.isolation import cgroups
from nblauncher.ledger import Membership, Usage
from nblauncher.model import Account, ServerState
from nblauncher.planning import lockouts
from nblauncher.planning.host import Host
from nblauncher.supervisor import client, doings, registry
from nblauncher.supervisor.client import Overview
from nblauncher.supervisor.specs import ServerReport

log = logging.getLogger(__name__)

_PAUSE = 0.1
_REPORTED = ("kernels", "busy_kernels", "last_activity", "last_save")
_ORPHANED = "there is no supervisor; `nblauncher launch` finds the server again"


@dataclass(frozen=True)
class View:
    """A class at one moment: what `status` shows."""

    entries: list[dict[str, Any]]
    """One per student of the course, as in `--json` (docs/reference.md)."""
    front_page: str
    """Its state in one word."""
    kernels: str
    """What the teacher should know about the kernels' fork server; empty when all is well."""
    next_deadline: Mapping[str, Any] | None

    @property
    def details(self) -> dict[str, Any]:
        """Of the object of `--json`."""
        return {
            "front_page_state": self.front_page,
            "kernels": self.kernels,
            "next_deadline": self.next_deadline,
        }


@dataclass(frozen=True)
class Facts:
    """What changes seldom, and is looked up seldom while a class is watched. All but the last by username."""

    members: Mapping[str, Membership]
    desired: Mapping[str, str]
    disks: Mapping[str, int]
    trouble: Mapping[str, Sequence[Captured]]
    words: Mapping[str, Sequence[str]]
    """Of the column that says what is the matter."""
    sign_ins: Mapping[str, datetime]
    histories: Mapping[str, Mapping[str, Any]]
    next_deadline: Mapping[str, Any] | None


def look(
    host: Host, usernames: Sequence[str], now: datetime, *, facts: Facts | None = None, meter: Meter | None = None
) -> View:
    """Look at the class once, with one question to the supervisor. A caller that looks often passes `facts` that are
    not too old, and a meter that remembers.
    """
    facts, meter = facts or gather(host, now), meter or meter_of(host)
    supervisor = client.connect(host.paths)
    found: Overview | None = None
    if supervisor is not None:
        with supervisor:
            found = supervisor.overview()
    reports = {report.username: report for report in found.servers} if found else {}
    running = [report for report in reports.values() if report.handle is not None and report.state in shutdown.RUNNING]
    frozen, used = freeze.words(host), meter.usage(running)
    is_orphaned = not reports and bool(registry.left(host.paths))
    entries = []
    for name in usernames:
        if name in facts.members:
            server = _server(host, reports.get(name), used.get(name))
            if name not in reports and is_orphaned and facts.desired.get(name, "down") != "down":
                server |= {"server": ServerState.UNKNOWN.value, "reason": _ORPHANED}
            entries.append(_entry(host, name, facts, server, freeze.told(frozen.get(name), reports.get(name))))
    front = found.front_page.state.value if found else ServerState.STOPPED.value
    kernels = found.kernels.words if found and found.kernels else kernels_words(host) if found else ""
    return View(entries, front, kernels, facts.next_deadline)


def meter_of(host: Host) -> Meter:
    return Meter(cgroups.choose(host.settings.course))


def gather(host: Host, now: datetime) -> Facts:
    """Read the ledgers and the quotas."""
    members = host.ledger.members(host.settings.course)
    accounts = {name: claim.account for name, claim in host.ledger.claims().items() if name in members}
    usage, share = host.history.usage(), history_share.of_each(host)
    known = disks.known(host, accounts)
    captures, remarks, over = pending.captures(host, now), listing.remarks(host), disks.words(host, known)
    trouble = pending.troubled(captures)
    locked = lockouts.words(host)
    words = {
        name: (
            *filter(None, (locked.get(name), over.get(name), history_share.words(usage.get(name, Usage()), share))),
            *(capture.words() for capture in trouble.get(name, ())),
            *([remarks[name]] if name in remarks and name not in trouble else ()),
        )
        for name in members
    }
    return Facts(
        members,
        host.course_ledger.desired(),
        known,
        trouble,
        words,
        _sign_ins(host, accounts),
        {name: history_share.details(usage.get(name, Usage()), share) for name in members},
        _next_deadline(captures, now),
    )


def is_running(host: Host) -> bool:
    """Whether the class's supervisor answers."""
    supervisor = client.connect(host.paths)
    if supervisor is None:
        return False
    supervisor.close()
    return True


def line(host: Host) -> str | None:
    """The class in one line; None when the supervisor is gone."""
    try:
        supervisor = client.connect(host.paths)
        if supervisor is None:
            return None
        with supervisor:
            entries = [{"server": report.state.value} for report in supervisor.servers()]
            return summary(entries, supervisor.front_page().state.value)
    except HostError as error:
        log.warning("%s", error)
        return None


def kernels_words(host: Host, patience: float = 0.0) -> str:
    """What the teacher should know about the kernels' fork server; empty when all is well. Waits at most `patience`
    seconds while it loads.
    """
    supervisor = client.connect(host.paths)
    if supervisor is None:
        return ""
    until = time.monotonic() + patience
    with supervisor:
        while (kernels := supervisor.hello().kernels).state == "loading" and time.monotonic() < until:
            time.sleep(_PAUSE)
    return kernels.words


def summary(entries: Sequence[dict[str, Any]], front_page: str) -> str:
    """`28 ready, 2 failed; the front page is ready`."""
    counts: dict[str, int] = {}
    for entry in entries:
        counts[entry["server"]] = counts.get(entry["server"], 0) + 1
    words = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no students"
    return f"{words}; the front page is {front_page}"


def _entry(host: Host, name: str, facts: Facts, server: Mapping[str, Any], frozen: str | None) -> dict[str, Any]:
    shown = freeze.shown(ServerState(server["server"]), frozen is not None).value
    reason = "; ".join(filter(None, (server["reason"], frozen, *facts.words[name])))
    signed_in = server["last_sign_in"] or _iso(facts.sign_ins.get(name))
    return {
        "username": name,
        "status": "unchanged",
        "error": None,
        **server,
        "server": shown,
        "reason": reason,
        "last_sign_in": signed_in,
        "never_signed_in": server["never_signed_in"] and signed_in is None,
        "frozen": frozen is not None,
        "disk_bytes": facts.disks.get(name),
        "disk_limit": host.settings.limits.disk,
        **facts.histories[name],
        "deadlines": [capture.entry() for capture in facts.trouble.get(name, ())],
        "url": host.frontend.route(name, facts.members[name].port).url,
        "port": facts.members[name].port,
    }


def _server(host: Host, report: ServerReport | None, used: tuple[int, float] | None) -> dict[str, Any]:
    """`used`: memory and CPU time if the server runs."""
    entry: dict[str, Any] = {
        "server": ServerState.STOPPED.value,
        "reason": "",
        "last_sign_in": None,
        "never_signed_in": True,
        **dict.fromkeys((*("pid", "job", "node", "memory_bytes", "cpu_seconds"), *_REPORTED)),
    }
    if report is None:
        return entry
    is_old = report.signed_in_at is None
    entry["server"] = report.state.value
    entry["reason"] = "; ".join(filter(None, (report.reason, *report.pressure)))
    entry["job"], entry["node"], entry["memory_bytes"] = report.job, report.node or None, report.memory
    entry["kernels"], entry["busy_kernels"] = report.kernels, report.busy_kernels
    entry["last_save"], entry["last_activity"] = _of_seconds(report.saved_at), _of_seconds(report.used_at)
    entry["last_sign_in"], entry["never_signed_in"] = _of_seconds(report.signed_in_at), not is_old
    if used is not None and report.handle is not None:
        entry["pid"] = report.handle.pid
        entry["memory_bytes"], entry["cpu_seconds"] = used
        if is_old:
            entry["last_activity"] = _last_written(host, report.username)
    return entry


def _last_written(host: Host, username: str) -> str | None:
    """When the server last wrote to its log: the best that is known of a class that an older release began."""
    try:
        modified = client.log_file(host.paths, username).stat().st_mtime
    except FileNotFoundError:
        return None
    return _of_seconds(modified)


def _sign_ins(host: Host, accounts: Mapping[str, Account]) -> dict[str, datetime]:
    """Of a class that does not run; the supervisor of one that does has them too."""
    known = doings.load(host.paths.state / doings.SIGN_INS)
    return {
        name: datetime.fromtimestamp(time).astimezone()
        for name, (uid, time) in known.items()
        if name in accounts and accounts[name].uid == uid
    }


def _next_deadline(captures: Sequence[Captured], now: datetime) -> dict[str, Any] | None:
    """The first moment to come, in whichever student's time."""
    coming = next((one for one in captures if one.state is CaptureState.TO_COME and one.at > now), None)
    return None if coming is None else {"deadline": coming.deadline, "at": _iso(coming.at)}


def _of_seconds(seconds: float | None) -> str | None:
    return _iso(datetime.fromtimestamp(seconds)) if seconds else None


def _iso(time: datetime | None) -> str | None:
    return time.astimezone().isoformat(timespec="seconds") if time else None
