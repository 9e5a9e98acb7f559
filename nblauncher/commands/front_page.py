"""The front page's start: with everybody's hashes, and again when it must know something new or died."""

from __future__ import annotations

import pwd
import sys
from dataclasses import dataclass
from pathlib import Path

from nblauncher import hashes
from nblauncher.accounts import SYSTEM_ACCOUNTS
from nblauncher.commands import classroom, proxy
from nblauncher.errors import HostError
from nblauncher.host import Host
from nblauncher.model import Account, ServerState
from nblauncher.supervisor import client
from nblauncher.supervisor.client import Client
from nblauncher.supervisor.specs import FrontPageSpec

DEADLINE = 30.0
"""Seconds until the front page must answer."""


@dataclass(frozen=True)
class StartFrontPage:
    """The sign-in page, as the account `nblauncher`, with the hashes of everybody in the course."""

    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "start the front page"

    def apply(self, host: Host) -> None:
        if is_current(host):
            return
        with client.start(host.paths) as supervisor:
            supervisor.stop_front_page()
            _start(host, supervisor)


def is_current(host: Host) -> bool:
    """Whether it runs and knows the students, hosts, passwords and certificate of now."""
    expected = classroom.expected_digest(host)
    supervisor = client.connect(host.paths)
    if supervisor is None or expected is None:
        return False
    with supervisor:
        if supervisor.front_page().state is not ServerState.READY:
            return False
    try:
        return _digest_file(host).read_text("ascii") == expected
    except FileNotFoundError:
        return False


def revive(host: Host) -> None:
    """What the supervisor has done by a process of its own when the front page died: start it again.

    Takes no lock, so that a long `setup` does not keep the class out. Nothing happens when somebody was quicker, or
    stopped it on purpose.
    """
    supervisor = client.connect(host.paths)
    if supervisor is None:
        return
    with supervisor:
        if supervisor.front_page().state is ServerState.FAILED:
            _start(host, supervisor)


def _start(host: Host, supervisor: Client) -> None:
    certificate = classroom.issuer(host)("")
    config = classroom.front_page_inputs(host, certificate)
    account, has_proxy = _front_account(), host.frontend.is_proxy
    spec = FrontPageSpec(account, host.settings.web.port, _revival(host))
    if supervisor.front_page().handle is None:
        supervisor.start_front_page(spec, config, None if has_proxy else certificate)
    report = supervisor.wait_for_front_page(DEADLINE)
    if has_proxy and supervisor.front_page().handle is not None:
        told = proxy.start(host, supervisor, account, certificate, _revival(host))
        report = proxy.wait(host, supervisor, told, DEADLINE)
        proxy.tidy(host, told)
    if report.state is not ServerState.READY:
        last = f": {report.last_lines[-1]}" if report.last_lines else ""
        reason = report.reason or "it does not answer"
        raise HostError(f"the front page did not start: {reason}{last}", f"See {host.paths.logs}/_front-page.log.")
    hashes.write_private(
        _digest_file(host),
        classroom.digest(config, certificate, proxy.digest(host, report.proxy_ports)).encode("ascii"),
    )


def _front_account() -> Account:
    entry = pwd.getpwnam(SYSTEM_ACCOUNTS[0])
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))


def _revival(host: Host) -> tuple[str, ...]:
    return (sys.executable, "-I", "-m", "nblauncher", "launch", "--front-page-only", host.settings.course)


def _digest_file(host: Host) -> Path:
    return host.paths.run / "front-page.sha256"
