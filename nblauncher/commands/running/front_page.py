"""Starts the front page with all students' hashes; restarts it when its inputs change or it died."""

from __future__ import annotations

import logging
import pwd
import sys
from dataclasses import dataclass
from pathlib import Path

from nblauncher.accounts import SYSTEM_ACCOUNTS
from nblauncher.commands.running import classroom, nginx
from nblauncher.errors import HostError
from nblauncher.model import Account, ServerState, TlsFiles
from nblauncher.planning.host import Host
from nblauncher.supervisor import client
from nblauncher.supervisor.client import Client
from nblauncher.supervisor.specs import FrontPageSpec
from nblauncher.system import root_files

log = logging.getLogger(__name__)

DEADLINE = 30.0
"""Seconds within which the front page must answer."""


@dataclass(frozen=True)
class StartFrontPage:
    """The sign-in page, run as the account `nblauncher`, with the hashes of all students of the course. One that runs
    is only told of other students and passwords.
    """

    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "start the front page"

    def apply(self, host: Host) -> None:
        if is_current(host):
            return
        with client.start(host.paths) as supervisor:
            if not _renew(host, supervisor):
                supervisor.stop_front_page()
                _start(host, supervisor)


def is_current(host: Host) -> bool:
    """Whether it runs with the present students, hosts, passwords and certificate."""
    expected = classroom.expected_digest(host)
    supervisor = client.connect(host.paths)
    if supervisor is None or expected is None:
        return False
    with supervisor:
        if supervisor.front_page().state is not ServerState.READY:
            return False
    return _started_with(host)[0] == expected


def is_up(host: Host) -> bool:
    """Whether it runs, or died and is about to be started again."""
    supervisor = client.connect(host.paths)
    if supervisor is None:
        return False
    with supervisor:
        return supervisor.front_page().state is not ServerState.STOPPED


def stop(host: Host) -> bool:
    """Stop it; the servers run on. False when the supervisor is gone."""
    try:
        supervisor = client.connect(host.paths)
        if supervisor is None:
            return False
        with supervisor:
            supervisor.stop_front_page()
    except HostError as error:
        log.warning("%s", error)
        return False
    return True


def revive(host: Host) -> None:
    """Restart the front page after it died; the supervisor starts a process for this.

    Takes no lock, so that a long `setup` does not keep the class out. Does nothing if it runs again already, or was
    stopped on purpose.
    """
    supervisor = client.connect(host.paths)
    if supervisor is None:
        return
    with supervisor:
        if supervisor.front_page().state is ServerState.FAILED:
            _start(host, supervisor)


def _renew(host: Host, supervisor: Client) -> bool:
    """If only students or their passwords changed: let the running front page take them over, and so disturb no other
    student who is signing in. False if it must be started again.
    """
    certificate = classroom.issuer(host)("")
    config = classroom.front_page_inputs(host, certificate)
    now = _digests(host, config, certificate, nginx.digest(host))
    if supervisor.front_page().state is not ServerState.READY or _started_with(host)[1] != now[1]:
        return False
    try:
        is_renewed = supervisor.renew_front_page(config, _front_account())
    except HostError as error:
        log.info("the front page is started again: %s", error.problem)  # a supervisor of an older release
        return False
    if is_renewed:
        _record(host, now)
    return is_renewed


def _start(host: Host, supervisor: Client) -> None:
    certificate = classroom.issuer(host)("")
    config = classroom.front_page_inputs(host, certificate)
    account, has_proxy = _front_account(), host.frontend.is_proxy
    spec = FrontPageSpec(account, host.settings.web.port, _revival(host))
    if supervisor.front_page().handle is None:
        supervisor.start_front_page(spec, config, None if has_proxy else certificate)
    report = supervisor.wait_for_front_page(DEADLINE)
    if has_proxy and supervisor.front_page().handle is not None:
        config_file = nginx.start(host, supervisor, account, certificate, _revival(host))
        report = nginx.wait(host, supervisor, config_file, DEADLINE)
        nginx.tidy(host, config_file)
    if report.state is not ServerState.READY:
        last = f": {report.last_lines[-1]}" if report.last_lines else ""
        reason = report.reason or "it does not answer"
        raise HostError(f"the front page did not start: {reason}{last}", f"See {host.paths.logs}/_front-page.log.")
    _record(host, _digests(host, config, certificate, nginx.digest(host, report.proxy_ports)))


def _digests(host: Host, config: bytes, certificate: TlsFiles | None, proxy: bytes) -> tuple[str, str]:
    """Of all inputs, and of all but the students."""
    return (
        classroom.digest(config, certificate, proxy),
        classroom.digest(classroom.without_students(config), certificate, proxy),
    )


def _record(host: Host, digests: tuple[str, str]) -> None:
    root_files.replace(_digest_file(host), "\n".join(digests), durable=True)


def _started_with(host: Host) -> tuple[str, str]:
    """The digests of what the front page has; empty if they are not known."""
    try:
        whole, _, rest = _digest_file(host).read_text("ascii").partition("\n")
    except FileNotFoundError:
        return "", ""
    return whole, rest


def _front_account() -> Account:
    entry = pwd.getpwnam(SYSTEM_ACCOUNTS[0])
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))


def _revival(host: Host) -> tuple[str, ...]:
    return (sys.executable, "-I", "-m", "nblauncher", "launch", "--front-page-only", host.settings.course)


def _digest_file(host: Host) -> Path:
    return host.paths.run / "front-page.sha256"
