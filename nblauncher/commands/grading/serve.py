"""grade serve: nbgrader's formgrader for the teacher alone, as long as the command runs.

It listens where only the teacher's account arrives (a unix socket, by ssh), or, with grading.name, at a host name that
no student's server shares (docs/decisions/grading-by-hand.md). Root binds; the server runs as the teacher.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from nblauncher.auth import passwords
from nblauncher.commands.grading import locks
from nblauncher.errors import BusyError, HostError
from nblauncher.grading import formgrader, teacher_tool
from nblauncher.ledger import locked
from nblauncher.model import Secret, TlsFiles
from nblauncher.paths import make_folders
from nblauncher.planning.host import Host
from nblauncher.planning.locks import holding
from nblauncher.printable import printable
from nblauncher.supervisor import ports
from nblauncher.system import interruption, workers
from nblauncher.system.descriptors import open_private_folder, unix_listener
from nblauncher.system.processes import wait_for_end
from nblauncher.system.workers import Worker

log = logging.getLogger(__name__)

_STARTING = 60.0
_ENDING = 8.0
_KEPT_LINES = 20


@dataclass(frozen=True, slots=True)
class Address:
    """How the teacher reaches the formgrader."""

    url: str
    tunnel: str = ""
    """The command for the teacher's own computer; empty where the address works by itself."""
    cookie_name: str = ""
    host: str = "localhost"


@dataclass
class Formgrader:
    """A running one."""

    address: Address
    password: Secret
    worker: Worker
    link: socket.socket
    output: int
    lines: list[str] = field(default_factory=list)
    """The last of what it wrote."""

    def watch(self) -> NoReturn:
        """Log what it writes. HostError when it ends; KeyboardInterrupt when a signal comes."""
        while self._read(None):
            pass
        self._ended()

    def wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + _STARTING
        while (left := deadline - time.monotonic()) > 0:
            ready = interruption.wait([self.link.fileno(), self.output], left)
            if self.link.fileno() in ready:
                if self.link.recv(64):
                    return
                self._read(1.0)
                self._ended()
            if ready and not self._read(0.0):
                self._ended()
        raise HostError(f"the formgrader did not start within {_STARTING:.0f} s", self._last_words())

    def _read(self, timeout: float | None) -> bool:
        """False at the end of its output."""
        if not interruption.wait([self.output], timeout):
            return True
        text = os.read(self.output, 65536).decode(errors="replace")
        for line in text.splitlines():
            if line.strip():
                log.info("formgrader: %s", printable(line)[:1000])
                self.lines = [*self.lines, printable(line)[:300]][-_KEPT_LINES:]
        return bool(text)

    def _ended(self) -> NoReturn:
        raise HostError("the formgrader ended", self._last_words())

    def _last_words(self) -> str:
        return f"Its last words: {self.lines[-1]}. The log has the others." if self.lines else "It said nothing."

    def stop(self) -> None:
        """Its kernels first, then itself; after 8 seconds by SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.worker.pidfd, signal.SIGTERM)
        self.link.close()
        wait_for_end(self.worker.pidfd, _ENDING)
        self.worker.stop()
        os.close(self.output)


@contextlib.contextmanager
def opened(host: Host) -> Iterator[Formgrader]:
    """A formgrader that answers. It ends with the block, or with this process."""
    python = _require(host)
    make_folders(host.paths)
    host.paths.grading.mkdir(mode=0o711, exist_ok=True)
    host.paths.grading.chmod(0o711)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_alone(host))
        address = address_of(host)
        certificate = _certificate(host)
        listening = [stack.enter_context(one) for one in _listen(host)]
        password = passwords.generate()
        started = _start(host, python, address, password, listening, certificate)
        stack.callback(started.stop)
        started.wait_until_it_listens()
        yield started


def address_of(host: Host) -> Address:
    """Pure. The cookie carries the course's name: browsers keep cookies by host, whatever the port."""
    course, port, name = host.settings.course, host.settings.grading_port, host.settings.grading.name
    if name is not None:
        return Address(f"https://{name}:{port}/", cookie_name=f"__Host-nblauncher-grading-{course}", host=name)
    there = f"{host.owner.username}@{host.frontend.host}"
    tunnel = shlex.join(["ssh", "-N", "-L", f"{port}:{_socket(host)}", there])
    return Address(f"http://localhost:{port}/", tunnel, f"nblauncher-grading-{course}")


def _socket(host: Host) -> Path:
    return host.paths.grading / "formgrader.sock"


def _require(host: Host) -> Path:
    """The Python that has nbgrader. An error when something is missing."""
    teacher_tool.refuse_root(host.owner)
    python = teacher_tool.python_of(host.paths.grading_environments)
    folder = host.settings.grading.course
    if not workers.run_as(host.owner, _is_usable, folder):
        raise HostError(
            f"{printable(str(folder))} is not a folder that {host.owner.username} can write to",
            "Run `nblauncher grade init` first, or set grading.course.",
        )
    return python


def _is_usable(folder: Path) -> bool:
    """As the teacher."""
    return folder.is_dir() and os.access(folder, os.R_OK | os.W_OK | os.X_OK)


@contextlib.contextmanager
def _alone(host: Host) -> Iterator[None]:
    course = host.settings.course
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(locks.serve_lock(host), "the formgrader", patience=1.0))
        except BusyError as error:
            raise BusyError(
                f"the formgrader of course {course} is open already", "Use it, or end it with Ctrl-C where it runs."
            ) from error
        yield


def _certificate(host: Host) -> TlsFiles | None:
    """For grading.name alone; no student's server has it. None behind ssh, which encrypts."""
    from nblauncher.frontends import admin_certificate, class_ca

    name, settings = host.settings.grading.name, host.settings.tls
    if name is None:
        return None
    if settings.mode == "files" and settings.certificate is not None and settings.key is not None:
        return admin_certificate.load_files(settings.certificate, settings.key, [name])
    try:
        with holding(host):
            names, addresses = host.frontend.names, host.frontend.addresses
            authority = class_ca.ensure_class_ca(host.paths.tls, names, addresses, host.settings.course)
            return class_ca.ensure_leaf(authority, host.paths.tls / "grading", "grading", (name,), ())
    except OSError as error:
        raise HostError(f"the certificate cannot be written: {error.strerror}", "Free some space.") from error


def _listen(host: Host) -> list[socket.socket]:
    """Root's sockets, so that no other account has the port first."""
    if host.settings.grading.name is not None:
        port = host.settings.grading_port
        members = host.ledger.members(host.settings.course)
        if students := [name for name, member in members.items() if member.port == port]:
            raise HostError(f"port {port} is {students[0]}'s", "Choose another grading.port, below web.port.")
        try:
            return ports.open_port(port, host.settings.web.bind)[0]
        except HostError as error:
            raise HostError(error.problem, "End that program, or choose another grading.port.") from error
    before = os.umask(0o177)
    try:
        listening = unix_listener(_socket(host), 0o600)
    finally:
        os.umask(before)
    os.chown(_socket(host), host.owner.uid, host.owner.gid)
    listening.setblocking(False)
    return [listening]


def _start(
    host: Host,
    python: Path,
    address: Address,
    password: Secret,
    listening: list[socket.socket],
    certificate: TlsFiles | None,
) -> Formgrader:
    order = {
        "hashed_password": passwords.jupyter_hash(password),
        "folder": str(host.settings.grading.course),
        "host": address.host,
        "cookie_name": address.cookie_name,
    }
    runtime = _runtime_folder(host)
    worker, link, output = formgrader.start(host.owner, python, order, listening, certificate, runtime)
    return Formgrader(address, password, worker, link, output)


def _runtime_folder(host: Host) -> Path:
    """The teacher's, with a short name: kernels' sockets are in it."""
    parent = os.open(host.paths.grading, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(open_private_folder(parent, "t", host.owner))
    finally:
        os.close(parent)
    return host.paths.grading / "t"
