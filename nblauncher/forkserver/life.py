"""How a fork server starts, and how a process that it forked ends."""

from __future__ import annotations

import atexit
import logging
import os
import pwd
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NoReturn

from nblauncher.forkserver.requests import answer
from nblauncher.isolation import spawn
from nblauncher.model import Account
from nblauncher.system import trusted

log = logging.getLogger("nblauncher.forkserver")

WARM_UP_ACCOUNT = "nblauncher"
_MOST_REPORTED = 20


def open_link(number: str) -> socket.socket:
    """The socket to the supervisor, which alone ends a fork server. The log goes to stderr."""
    link = socket.socket(fileno=int(number))
    link.set_inheritable(False)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    return link


def refuses_to_import(link: socket.socket) -> bool:
    """Whether accounts other than root can change what this interpreter imports; if so, tell the supervisor what."""
    problems = trusted.objections()
    for problem in problems:
        log.error("refusing to import: %s", problem)
    if problems:
        answer(link, {"refused": problems[:_MOST_REPORTED]})
    return bool(problems)


def unprivileged() -> Account | None:
    """The account that a warm-up runs as. None if it does not exist."""
    try:
        entry = pwd.getpwnam(WARM_UP_ACCOUNT)
    except KeyError:
        log.warning("no warm-up: there is no account %s", WARM_UP_ACCOUNT)
        return None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, spawn.NOWHERE)


def live(act: Callable[[], int]) -> NoReturn:
    """Run a forked process and end it as an interpreter would. `act` returns the exit status."""
    status = 1
    try:
        status = act()
    except SystemExit as end:
        status = _status_of(end)
    except BaseException:
        # There is no caller: what is written here goes to the student's log.
        traceback.print_exc()
    finally:
        _end(status)


def _status_of(end: SystemExit) -> int:
    """As an interpreter does it: a text is printed, and means failure."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


def _end(status: int) -> NoReturn:
    """As an interpreter ends (Py_FinalizeEx): wait for threads, call exit functions, flush streams. Modules are not
    torn down, which would copy the memory that is shared with the parent.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    finally:
        os._exit(status)
