"""The porter answers for servers that are not running: `python -I -m nblauncher.web.porter`, run by the supervisor.

It runs as the front page's account. The supervisor hands it the listening sockets of stopped servers and of a closed
front page, and takes them back before the server or the front page starts. It knows neither names nor passwords: every
student's port gives the same answers, which disclose nothing about the class but its title, its language and the
address of its front page.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from tornado.web import Application, Finish, RequestHandler

from nblauncher.auth import appearance, visitor_pages
from nblauncher.auth.front_door import FrontDoor
from nblauncher.model import USERNAME, TlsFiles
from nblauncher.system import privileges
from nblauncher.system.descriptors import read_and_close
from nblauncher.system.tls_context import server_context
from nblauncher.system.wire import close_all
from nblauncher.web.accepting import Listener
from nblauncher.web.door import Door

log = logging.getLogger("nblauncher.web.porter")

LOOKS_AGAIN = 5
"""Seconds after which a page tries again."""

_MOST_SOCKETS = 16
_MAX_PACKET = 4096
_OWN_PATH = re.compile(rf"/user/({USERNAME.pattern})(/.*)?")


class Closed(RequestHandler):
    """Answers every request: the server is not running, or the front page is closed."""

    SUPPORTED_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

    def initialize(self, front_door: FrontDoor, is_front_page: bool, has_tls: bool, look: Path) -> None:
        self._front_door, self._is_front_page, self._has_tls = front_door, is_front_page, has_tls
        self._look = look

    def set_default_headers(self) -> None:
        self.set_header("Server", "nblauncher")
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Security-Policy", visitor_pages.POLICY)
        self.set_header("Referrer-Policy", "strict-origin")
        self.set_header("X-Content-Type-Options", "nosniff")

    def prepare(self) -> None:
        own = _OWN_PATH.fullmatch(self.request.path)
        page = self._front_door.page(self.request, own[1] if own else "")
        if page is not None and self._has_tls and self.request.protocol != "https":
            self.redirect(f"https://{self.request.host.lower()}{self.request.uri or '/'}", status=307)
        elif self._is_front_page or own or page is None:
            self.set_status(503)
            self.set_header("Retry-After", str(LOOKS_AGAIN))
            template = "closed.html" if self._is_front_page else "stopped.html"
            look = appearance.read(self._look)
            self.finish(visitor_pages.render(template, look, front_page=page or "/", looks_again=LOOKS_AGAIN))
        else:
            self.redirect(page)
        raise Finish


class Porter:
    """Holds the sockets that the supervisor has handed over, by port."""

    def __init__(self, link: socket.socket, doors: dict[bool, Door]) -> None:
        """`doors` maps whether a socket is the front page's to the door that serves it."""
        link.setblocking(False)
        self._link, self._doors = link, doors
        self._open: dict[int, list[Listener]] = {}
        self.ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(link, self._listen)

    def _listen(self) -> None:
        """Open or close a port on the supervisor's request. When it hangs up, the class is over."""
        try:
            packet, descriptors, _flags, _address = socket.recv_fds(self._link, _MAX_PACKET, _MOST_SOCKETS)
        except BlockingIOError:
            return
        if not packet:
            asyncio.get_running_loop().remove_reader(self._link)
            self.ended.set()
            return
        request = json.loads(packet)
        for listener in self._open.pop(request["port"], ()):
            listener.close()
        if request["is_closed"]:
            sockets = [socket.socket(fileno=number) for number in descriptors]
            self._open[request["port"]] = self._doors[request["is_front_page"]].open(sockets)
        else:
            close_all(descriptors)


def main(arguments: list[str] | None = None) -> int:
    """Serve until the supervisor is gone or SIGTERM comes. Returns the exit status; refuses to be root."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("tornado.general").setLevel(logging.ERROR)
    if 0 in (*os.getresuid(), *os.getresgid()):
        log.error("the porter does not run as root")
        return 4
    given = _parse(arguments)
    os.set_inheritable(given.link, False)
    tls = None
    if given.tls_certificate is not None:
        tls = server_context(TlsFiles(read_and_close(given.tls_certificate), read_and_close(given.tls_key)))
    # From here on the key is in memory, as in the front page.
    privileges.set_dumpable(False)
    privileges.forbid_new_privileges()
    asyncio.run(_serve(socket.socket(fileno=given.link), FrontDoor(given.front_port, ""), tls, given.appearance))
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m nblauncher.web.porter", allow_abbrev=False)
    parser.add_argument("--link", required=True, type=int, metavar="FD")
    parser.add_argument("--front-port", required=True, type=int)
    parser.add_argument("--appearance", required=True, type=Path)
    for name in ("--tls-certificate", "--tls-key"):
        parser.add_argument(name, type=int, metavar="FD")
    return parser.parse_args(arguments)


async def _serve(link: socket.socket, front_door: FrontDoor, tls: Any, look: Path) -> None:
    doors = {}
    for is_front_page in (True, False):
        about = {"front_door": front_door, "is_front_page": is_front_page, "has_tls": tls is not None, "look": look}
        pages = Application([(r".*", Closed, about)], log_function=lambda _handler: None)
        # A browser that kept its connection would go on asking the porter after the server has started.
        doors[is_front_page] = Door(pages, tls, keeps_connections=False)
    porter = Porter(link, doors)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, porter.ended.set)
    await porter.ended.wait()
    for door in doors.values():
        door.close()


if __name__ == "__main__":
    sys.exit(main())
