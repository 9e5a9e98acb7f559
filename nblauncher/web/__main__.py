"""The front page's process: `python -I -m nblauncher.web`, run by the supervisor as the account `nblauncher`.

Everything arrives by descriptor and is read before the first request: listening sockets, config, certificate and key
(sealed memfds), the line to the supervisor, the listening socket for tickets. It ends when the supervisor does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import sys
from dataclasses import dataclass

from nblauncher.auth.checker import PasswordChecker
from nblauncher.auth.guesses import Guesses
from nblauncher.auth.tickets import TicketBook
from nblauncher.model import TlsFiles
from nblauncher.system import privileges
from nblauncher.system.clients import Clients
from nblauncher.system.descriptors import read_and_close
from nblauncher.system.tls_context import server_context
from nblauncher.web import certificate, visits
from nblauncher.web.door import Door
from nblauncher.web.inputs import ClassPage, parse_config
from nblauncher.web.pages import FrontPage, application
from nblauncher.web.redemptions import Redemptions
from nblauncher.web.renewals import Renewals
from nblauncher.web.supervisor_link import SupervisorLink
from nblauncher.web.ticket_desk import open_desk

log = logging.getLogger("nblauncher.web")


@dataclass(frozen=True, slots=True)
class Inherited:
    """What the supervisor gave us."""

    class_page: ClassPage
    tls: ssl.SSLContext | None
    listening: tuple[socket.socket, ...]
    supervisor: socket.socket
    desk: socket.socket
    """The link to the ticket desk."""
    renewals: socket.socket | None = None


def main(arguments: list[str] | None = None) -> int:
    """Serve until the supervisor is gone or SIGTERM comes. Returns the exit status; refuses to be root."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # Failed handshakes of strangers are not worth a line, and strangers would choose its text.
    logging.getLogger("tornado.general").setLevel(logging.ERROR)
    if 0 in (*os.getresuid(), *os.getresgid()):
        log.error("the front page does not run as root")
        return 4
    given = parse_arguments(arguments)
    given.tickets = open_desk(given.tickets)
    inherited = take_over(given)
    # From here on the key is in memory: no core dump, no ptrace by another course's front page (the same account).
    privileges.set_dumpable(False)
    privileges.forbid_new_privileges()
    asyncio.run(serve(inherited))
    return 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m nblauncher.web", allow_abbrev=False)
    parser.add_argument("--listen", required=True, type=lambda text: [int(part) for part in text.split(",")])
    for name in ("--config", "--supervisor", "--tickets"):
        parser.add_argument(name, required=True, type=int, metavar="FD")
    for name in ("--tls-certificate", "--tls-key", "--renewals"):
        parser.add_argument(name, type=int, metavar="FD")
    return parser.parse_args(arguments)


def take_over(given: argparse.Namespace) -> Inherited:
    """Read and close the memory files; adopt the sockets."""
    for descriptor in (*given.listen, given.supervisor, given.renewals):
        if descriptor is not None:
            os.set_inheritable(descriptor, False)
    class_page = parse_config(read_and_close(given.config))
    tls = None
    if class_page.has_tls and not class_page.routing:
        tls = server_context(TlsFiles(read_and_close(given.tls_certificate), read_and_close(given.tls_key)))
    return Inherited(
        class_page,
        tls,
        tuple(socket.socket(fileno=descriptor) for descriptor in given.listen),
        socket.socket(fileno=given.supervisor),
        given.tickets,
        None if given.renewals is None else socket.socket(fileno=given.renewals),
    )


async def serve(inherited: Inherited) -> None:
    """Answer requests and redeem tickets until the end."""
    of = inherited.class_page
    hashes = {username: student.hashed for username, student in of.students.items()}
    checker, book = PasswordChecker(hashes), TicketBook()
    supervisor = await SupervisorLink.over(inherited.supervisor)
    uids = {username: student.uid for username, student in of.students.items()}
    redemptions = Redemptions(inherited.desk, book, uids, supervisor.ended.set)
    clients = Clients()
    own = supervisor.own_deadlines
    front_page = FrontPage(of, checker, Guesses(), book, supervisor, own_deadlines=own, clients=clients)
    pages = application(front_page, {**visits.ROUTES, **certificate.ROUTES})

    def take(new: ClassPage) -> None:
        hashes.clear()
        hashes.update({username: student.hashed for username, student in new.students.items()})
        uids.clear()
        uids.update({username: student.uid for username, student in new.students.items()})
        front_page.renew(new)

    renewals = None if inherited.renewals is None else Renewals(inherited.renewals, of, take)
    door = Door(pages, inherited.tls, is_behind_proxy=bool(of.routing), clients=clients)
    door.open(inherited.listening)
    _end_when_asked(supervisor)
    supervisor.say_ready()
    log.info("the front page is ready")
    with contextlib.suppress(asyncio.CancelledError):
        await supervisor.ended.wait()
    door.close()
    redemptions.close()
    if renewals is not None:
        renewals.close()
    checker.close()
    await supervisor.close()


def _end_when_asked(supervisor: SupervisorLink) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.ended.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)


if __name__ == "__main__":
    sys.exit(main())
