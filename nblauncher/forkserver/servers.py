"""The fork server of notebook servers: `python -I -m nblauncher.forkserver.servers LINK FOUND`, as root.

LINK is the number of its socket to the supervisor, FOUND a file of root's that keeps what a warm-up found. It says
`{"ready": ...}` or `{"refused": [...]}`, then answers a request with the pid of the forked server or a problem. The
supervisor, not this process, becomes the servers' parent. It ends when the supervisor hangs up.
"""

from __future__ import annotations

import atexit
import logging
import os
import pwd
import signal
import socket
import struct
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from nblauncher import children, privileges
from nblauncher.children import Child
from nblauncher.fork_requests import Request, RequestError, answer, receive
from nblauncher.forkserver import preload, renewal, trusted
from nblauncher.model import Account
from nblauncher.wire import WireError, close_all

log = logging.getLogger("nblauncher.forkserver")

WARM_UP_ACCOUNT = "nblauncher"
_PID = struct.Struct("=i")
_GO = b"g"
_MOST_REPORTED = 20


def main(arguments: list[str]) -> int:
    """Look, load, say so, serve."""
    link = socket.socket(fileno=int(arguments[0]))
    link.set_inheritable(False)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if problems := trusted.objections():
        for problem in problems:
            log.error("refusing to import: %s", problem)
        answer(link, {"refused": problems[:_MOST_REPORTED]})
        return 4
    _load(Path(arguments[1]))
    answer(link, {"ready": len(sys.modules)})
    while _serve_one(link):
        pass
    return 0


def _load(found: Path) -> None:
    """What a server needs, as it was found by an earlier fork server of this environment, or by a warm-up now."""
    preload.postpone_grammar()
    preload.remember_entry_points()
    from nblauncher.forkserver import warm_up  # not before the interpreter was looked at: this imports all of Jupyter

    environment = preload.environment()
    names = preload.recall(found, environment)
    origin = ", as found before"
    if names is None:
        origin = ""
        names = preload.found_by(warm_up.serve_once, account) if (account := _unprivileged()) else ()
        if names:
            preload.note(found, environment, names)
    preload.load(names)
    preload.freeze()
    log.info("%d modules are loaded%s; threads: %d", len(sys.modules), origin, preload.threads())


def _unprivileged() -> Account | None:
    try:
        entry = pwd.getpwnam(WARM_UP_ACCOUNT)
    except KeyError:
        log.warning("there is no account %s to warm up as", WARM_UP_ACCOUNT)
        return None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, children.NOWHERE)


def _serve_one(link: socket.socket) -> bool:
    """Answer one request; False at the end. Nothing that is asked ends this process."""
    descriptors: list[int] = []
    number = None
    try:
        packet = receive(link)
        if packet is None:
            return False
        message, descriptors = packet
        number = message.get("id")
        request = Request.parse(message)
        if len(descriptors) < request.least:
            raise RequestError("descriptors are missing")
        _fork(link, request, descriptors)
    except (WireError, RequestError) as error:
        log.warning("refused a request: %s", error)
        answer(link, {"id": number, "problem": str(error)})
    except OSError as error:
        log.error("cannot fork: %s", error)
        answer(link, {"id": number, "problem": f"cannot fork: {error.strerror}"})
    finally:
        close_all(descriptors)
    return True


def _fork(link: socket.socket, request: Request, descriptors: list[int]) -> None:
    """Fork twice, so that the server is an orphan and the supervisor's. It waits until the supervisor was told."""
    told, tell = os.pipe()
    wait, go = os.pipe()
    try:
        middle = os.fork()
        if middle == 0:
            _be_the_middle(request, descriptors, tell, wait, go)
        os.close(tell)
        tell = -1
        os.waitpid(middle, 0)
        pid = os.read(told, _PID.size)
        if len(pid) != _PID.size:
            raise OSError(11, os.strerror(11))
        answer(link, {"id": request.number, "pid": _PID.unpack(pid)[0]})
        os.write(go, _GO)
    finally:
        close_all([one for one in (told, tell, wait, go) if one >= 0])


def _be_the_middle(request: Request, descriptors: list[int], tell: int, wait: int, go: int) -> NoReturn:
    try:
        pid = os.fork()
        if pid == 0:
            os.close(go)
            _be_a_server(request, descriptors, wait)
        os.write(tell, _PID.pack(pid))
    finally:
        os._exit(0)


def _be_a_server(request: Request, descriptors: list[int], wait: int) -> NoReturn:
    """The server's life. Without the word to go it ends: then nobody knows of it."""
    status = 1
    try:
        if os.read(wait, 1) != _GO:
            os._exit(0)
        output, *keep = descriptors
        child = Child(request.account, (), {}, tuple(keep), request.account.home, request.group)
        children.settle(child, output)
        renewal.renew(request.environment, "nblauncher.server")
        privileges.set_name("notebook-server")
        # As after an exec: the student's own tools may look at it. Nothing in here is somebody else's.
        privileges.set_dumpable(True)
        status = _serve(request, keep)
    except SystemExit as end:
        status = _status_of(end)
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


def _serve(request: Request, keep: list[int]) -> int:
    from nblauncher import server  # loaded long ago

    config, *rest = keep
    certificate, key = (rest.pop(0), rest.pop(0)) if request.has_tls else (None, None)
    news = rest.pop(0)
    return server.serve(server.Descriptors(tuple(rest), config, certificate, key, news))


def _end(status: int) -> NoReturn:
    """As an interpreter ends, but for the parent's share: what was registered for the end runs, then it is over."""
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
