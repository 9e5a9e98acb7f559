"""How a fork server begins, and how a process that it forked ends."""

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

from nblauncher import children
from nblauncher.fork_requests import answer
from nblauncher.forkserver import trusted
from nblauncher.model import Account

log = logging.getLogger("nblauncher.forkserver")

WARM_UP_ACCOUNT = "nblauncher"
_MOST_REPORTED = 20


def open_link(number: str) -> socket.socket:
    """The socket to the supervisor, who alone ends a fork server. Its log goes to stderr."""
    link = socket.socket(fileno=int(number))
    link.set_inheritable(False)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for one in (signal.SIGINT, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    return link


def refuses_to_import(link: socket.socket) -> bool:
    """Whether somebody else than root can change what this interpreter imports; the supervisor is told what."""
    problems = trusted.objections()
    for problem in problems:
        log.error("refusing to import: %s", problem)
    if problems:
        answer(link, {"refused": problems[:_MOST_REPORTED]})
    return bool(problems)


def unprivileged() -> Account | None:
    """Whom a warm-up runs as. None where there is no such account."""
    try:
        entry = pwd.getpwnam(WARM_UP_ACCOUNT)
    except KeyError:
        log.warning("there is no account %s to warm up as", WARM_UP_ACCOUNT)
        return None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, children.NOWHERE)


def live(act: Callable[[], int]) -> NoReturn:
    """A forked process's life, ended as an interpreter would. `act` returns the exit status."""
    status = 1
    try:
        status = act()
    except SystemExit as asked:
        status = _status_of(asked)
    except BaseException:
        # The boundary of this process: there is no caller, and the student's log gets what is written here.
        traceback.print_exc()
    finally:
        _end(status)


def _status_of(end: SystemExit) -> int:
    """As an interpreter takes it: words are said, and mean failure."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


def _end(status: int) -> NoReturn:
    """As an interpreter ends (Py_FinalizeEx): threads are waited for, what was registered for the end runs, streams are
    flushed. Modules are not taken apart, which would copy what the parent shares.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    finally:
        os._exit(status)
