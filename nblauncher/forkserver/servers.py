"""The fork server of notebook servers: `python -I -m nblauncher.forkserver.servers FOUND LINK`, as root.

LINK is the number of its socket to the supervisor, FOUND a file, owned by root, with what a warm-up found. It sends
`{"ready": ...}` or `{"refused": [...]}`, then answers a request with the pid of the forked server or a problem. The
supervisor, not this process, becomes the servers' parent. It ends when the supervisor hangs up.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
from pathlib import Path
from typing import NoReturn

from nblauncher.forkserver import life, preload, renewal
from nblauncher.forkserver.requests import Request, RequestError, answer, receive
from nblauncher.isolation import spawn
from nblauncher.isolation.spawn import Child
from nblauncher.system import privileges
from nblauncher.system.wire import WireError, close_all

log = logging.getLogger("nblauncher.forkserver")

_PID = struct.Struct("=i")
_GO = b"g"


def main(arguments: list[str]) -> int:
    """Check the folders, load the modules, report that, serve."""
    found, number = arguments
    link = life.open_link(number)
    if life.refuses_to_import(link):
        return 4
    _load(Path(found))
    answer(link, {"ready": len(sys.modules)})
    while _serve_request(link):
        pass
    return 0


def _load(found: Path) -> None:
    """Load what a server needs, as noted by an earlier fork server of this environment or found by a warm-up now."""
    preload.remember_entry_points()
    from nblauncher.forkserver import warm_up  # not before the interpreter was looked at: this imports all of Jupyter

    environment = preload.environment()
    known = preload.recall(found, environment)
    origin = ", as found before"
    if known is None:
        origin = ""
        names = preload.found_by(warm_up.serve_once, account) if (account := life.unprivileged()) else ()
        known = preload.Found(names)
        if names:
            preload.note(found, environment, known)
    preload.load(known.names)
    preload.freeze()
    log.info("%d modules are loaded%s; threads: %d", len(sys.modules), origin, preload.threads())


def _serve_request(link: socket.socket) -> bool:
    """Answer one request; False at the end. No request can end this process."""
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
    """Fork twice, so that the orphaned server is adopted by the supervisor. It waits until the supervisor knows it."""
    pids, tell = os.pipe()
    wait, go = os.pipe()
    try:
        middle = os.fork()
        if middle == 0:
            _be_the_middle(request, descriptors, tell, wait, go)
        os.close(tell)
        tell = -1
        os.waitpid(middle, 0)
        pid = os.read(pids, _PID.size)
        if len(pid) != _PID.size:
            raise OSError(11, os.strerror(11))
        answer(link, {"id": request.number, "pid": _PID.unpack(pid)[0]})
        os.write(go, _GO)
    finally:
        close_all([end for end in (pids, tell, wait, go) if end >= 0])


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
    """Run the server. Without the signal to go on it ends, as the supervisor then does not know it."""
    if os.read(wait, 1) != _GO:
        os._exit(0)
    life.live(lambda: _live(request, *descriptors))


def _live(request: Request, output: int, *keep: int) -> int:
    account = request.place.account
    command_line = privileges.command_line()
    spawn.settle(Child(account, (), {}, keep, account.home, request.place.sandbox), output)
    renewal.use_pythons_signals()
    renewal.renew(request.environment)
    sys.argv[:] = ["nblauncher.server"]
    privileges.set_name("notebook-server")
    privileges.set_command_line(command_line, (sys.executable, "-I", "-m", "nblauncher.server"))
    # As after an exec: the student's own tools may inspect it. It holds nothing of other accounts.
    privileges.set_dumpable(True)
    return _serve(request, list(keep))


def _serve(request: Request, keep: list[int]) -> int:
    from nblauncher.server import app  # already loaded

    config, *rest = keep
    certificate, key = (rest.pop(0), rest.pop(0)) if request.has_tls else (None, None)
    news = rest.pop(0)
    return app.serve(app.Descriptors(tuple(rest), config, certificate, key, news))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
