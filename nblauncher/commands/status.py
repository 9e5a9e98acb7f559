"""status: who is up, on what, using how much. Looks, changes nothing, waits for nobody."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from nblauncher import cgroups
from nblauncher.commands import disks, freeze, listing, pending, shutdown, snapshot
from nblauncher.host import Host
from nblauncher.ledger import Usage
from nblauncher.model import ServerState
from nblauncher.supervisor import client, registry
from nblauncher.supervisor.specs import ServerReport

_PAUSE = 0.1


def rows(host: Host, usernames: Sequence[str], now: datetime) -> list[dict[str, Any]]:
    """One entry per student of the course, as in `--json` (docs/reference.md)."""
    members = host.ledger.members(host.settings.course)
    desired = host.course_ledger.desired()
    found = {report.username: report for report in shutdown.reports(host)}
    accounts = {name: claim.account for name, claim in host.ledger.claims().items() if name in members}
    about_disks, about_captures = disks.words(host, accounts), listing.remarks(host)
    usage, share = host.history.usage(), snapshot.share_of(host)
    trouble, frozen = pending.trouble(host, now), freeze.words(host)
    is_orphaned = not found and bool(registry.load(host.paths.run / registry.FILE))
    return [
        {
            "username": name,
            "status": "unchanged",
            "error": None,
            **_with(
                _server(
                    host,
                    found.get(name),
                    desired.get(name, "down"),
                    is_orphaned=is_orphaned,
                    is_frozen=name in frozen,
                ),
                frozen.get(name),
                about_disks.get(name),
                snapshot.shortage_words(usage.get(name, Usage()), share),
                *(one.words() for one in trouble.get(name, ())),
                about_captures.get(name) if name not in trouble else None,
            ),
            **snapshot.usage_details(usage.get(name, Usage()), share),
            "deadlines": [one.entry() for one in trouble.get(name, ())],
            "url": host.frontend.route(name, members[name].port).url,
            "port": members[name].port,
        }
        for name in usernames
        if name in members
    ]


def front_page_state(host: Host) -> str:
    """The front page's state in one word."""
    supervisor = client.connect(host.paths)
    if supervisor is None:
        return ServerState.STOPPED.value
    with supervisor:
        return supervisor.front_page().state.value


def kernels_words(host: Host, patience: float = 0.0) -> str:
    """What the teacher should know of how kernels begin in the running class; empty when all is well. Waits at most
    `patience` seconds while their fork server loads.
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


def _server(
    host: Host, report: ServerReport | None, desired: str, *, is_orphaned: bool, is_frozen: bool
) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "server": ServerState.STOPPED.value,
        "pid": None,
        "memory_bytes": None,
        "cpu_seconds": None,
        "last_activity": None,
        "reason": "",
    }
    if report is None:
        if is_orphaned and desired != "down":
            entry["server"] = ServerState.UNKNOWN.value
            entry["reason"] = "the supervisor was killed; `nblauncher launch` finds the server again"
        return entry
    entry["server"] = freeze.shown(report.state, is_frozen).value
    entry["reason"] = "; ".join(filter(None, (report.reason, *report.pressure)))
    if report.handle is not None and report.state in shutdown.RUNNING:
        entry["pid"] = report.handle.pid
        entry["memory_bytes"], entry["cpu_seconds"] = usage(report)
        entry["last_activity"] = _last_words(host, report.username)
    return entry


def _with(entry: dict[str, Any], *words: str | None) -> dict[str, Any]:
    return {**entry, "reason": "; ".join(filter(None, (entry["reason"], *words)))}


def usage(report: ServerReport) -> tuple[int, float]:
    """Memory in bytes (proportional set size) and CPU-seconds of everything alive in the student's group."""
    memory, seconds = 0, 0.0
    for pid in _pids(report.group) if report.group else [report.handle.pid if report.handle else 0]:
        try:
            process = psutil.Process(pid)
            memory += process.memory_full_info().pss
            times = process.cpu_times()
        except psutil.Error:
            continue  # it ended while we looked
        seconds += times.user + times.system
    return memory, round(seconds, 2)


def _pids(group: str) -> tuple[int, ...]:
    return cgroups.Group(cgroups.Kind.V2, Path(group)).pids()


def _last_words(host: Host, username: str) -> str | None:
    """When the server last wrote to its log, which every save and every kernel does."""
    try:
        modified = client.log_file(host.paths, username).stat().st_mtime
    except FileNotFoundError:
        return None
    return datetime.fromtimestamp(modified).astimezone().isoformat(timespec="seconds")
