"""The real front page process as an unprivileged account, with a stand-in for the supervisor and a student's server."""

from __future__ import annotations

import fcntl
import http.server
import json
import os
import pwd
import queue
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from nblauncher.auth import passwords, tickets
from nblauncher.auth.appearance import Appearance
from nblauncher.frontends import class_ca
from nblauncher.model import Account, Secret, TlsFiles
from nblauncher.system import workers
from nblauncher.system.tls_context import server_context
from tests.system_accounts import delete_account

FRONT_ACCOUNT = "nbtwfront"
PASSWORD = "abcd-efgh-jkmn-pqrs"
HOSTS = ("localhost", "127.0.0.1", "::1")


def look(appearance: Appearance | None = None) -> dict[str, Any]:
    """The part of the front page's config about how it looks."""
    made = appearance or Appearance("Physics 101")
    return {"appearance": asdict(made), "greeting": "", "contact": "", "time_zone": ""}


def make_account(name: str, uid: int) -> Account:
    subprocess.run(["useradd", "-m", "-K", "HOME_MODE=0700", "-u", str(uid), "--", name], check=True)
    entry = pwd.getpwnam(name)
    return Account(name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))


def remove_account(name: str) -> None:
    assert name.startswith("nbtw"), name
    delete_account(name, "-r")


def listen(port: int) -> list[socket.socket]:
    """The port on the v4 and v6 wildcard, as the supervisor binds it."""
    bound = []
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        one = socket.socket(family, socket.SOCK_STREAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((address, port))
        one.listen(512)
        bound.append(one)
    return bound


def sealed(content: bytes) -> int:
    """A memfd that nobody can change any more."""
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(descriptor, content)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, 0xF)
    return descriptor


class FrontPageProcess:
    """`python -I -m nblauncher.web` with everything it inherits. `states` is what the supervisor answers."""

    def __init__(
        self,
        port: int,
        students: Mapping[str, tuple[Account, int]],
        *,
        has_tls: bool = True,
        nofile: int | None = None,
        appearance: Appearance | None = None,
    ) -> None:
        self.port = port
        self.states: dict[str, str] = dict.fromkeys(students, "ready")
        self.asked: list[str] = []
        self.own: dict[str, list[tuple[str, int]]] = {}
        """A student's own deadlines: folder and Unix seconds."""
        self.folder = Path(tempfile.mkdtemp(prefix="nbtw-"))
        self.folder.chmod(0o711)
        self.tickets_path = self.folder / "tickets.sock"
        self.ca = class_ca.ensure_class_ca(self.folder / "tls", ["localhost"], ["127.0.0.1", "::1"], "physics101")
        self._ready: queue.Queue[bool] = queue.Queue()
        hashed = passwords.jupyter_hash(Secret(PASSWORD))
        config = {
            "course": "physics101",
            "interface": "notebook",
            "front_port": port,
            "hosts": HOSTS,
            "tls": has_tls,
            "ca_pem": self.ca.certificate.decode() if has_tls else None,
            "ca_fingerprint": self.ca.fingerprint if has_tls else None,
            "routing": "",
            "host": "localhost",
            **look(appearance),
            "students": {
                name: {"uid": account.uid, "port": student_port, "hash": hashed}
                for name, (account, student_port) in students.items()
            },
        }
        self._start(json.dumps(config).encode(), self.leaf() if has_tls else None, nofile)

    def leaf(self) -> TlsFiles:
        return class_ca.issue_leaf(self.ca, ["localhost"], ["127.0.0.1", "::1"])

    def _start(self, config: bytes, leaf: TlsFiles | None, nofile: int | None) -> None:
        front = pwd.getpwnam(FRONT_ACCOUNT)
        listening = listen(self.port)
        books = socket.socket(socket.AF_UNIX)
        books.bind(str(self.tickets_path))
        self.tickets_path.chmod(0o666)
        books.listen(64)
        self.supervisor, theirs = socket.socketpair()
        descriptors = [sealed(config), *((sealed(leaf.certificate), sealed(leaf.key)) if leaf else ())]
        sockets = [*listening, books, theirs]
        command = [sys.executable, "-I", "-m", "nblauncher.web"]
        command += ["--listen", ",".join(str(one.fileno()) for one in listening), "--config", str(descriptors[0])]
        if leaf:
            command += ["--tls-certificate", str(descriptors[1]), "--tls-key", str(descriptors[2])]
        command += ["--supervisor", str(theirs.fileno()), "--tickets", str(books.fileno())]
        if nofile is not None:
            command = ["prlimit", f"--nofile={nofile}:{nofile}", *command]
        self.log = self.folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                pass_fds=[*descriptors, *(one.fileno() for one in sockets)],
                user=front.pw_uid,
                group=front.pw_gid,
                extra_groups=[],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
            )
        for one in sockets:
            one.close()
        for descriptor in descriptors:
            os.close(descriptor)
        threading.Thread(target=self._supervise, daemon=True).start()
        try:
            assert self._ready.get(timeout=60)
        except (queue.Empty, AssertionError):
            raise AssertionError(f"the front page did not start:\n{self.log.read_text()}") from None

    def _supervise(self) -> None:
        with self.supervisor.makefile("rwb", buffering=0) as line:
            try:
                for text in line:
                    said = json.loads(text)
                    if said.get("ready"):
                        self._ready.put(True)
                        continue
                    self.asked.append(said["username"])
                    state = self.states[said["username"]]
                    answer = {"id": said["id"], "state": state, "own": self.own.get(said["username"], [])}
                    line.write(json.dumps(answer).encode() + b"\n")
            except OSError:
                pass
        self._ready.put(False)

    def tell_deadlines(self, *deadlines: tuple[str, int]) -> None:
        """Folder and Unix seconds of the class's deadlines."""
        self.supervisor.sendall(json.dumps({"deadlines": deadlines}).encode() + b"\n")

    def hang_up(self) -> int:
        """The supervisor dies; returns the front page's exit status."""
        self.supervisor.shutdown(socket.SHUT_RDWR)
        return self.process.wait(30)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.supervisor.close()
        subprocess.run(["rm", "-rf", "--", str(self.folder)], check=True)


class StudentServer:
    """A stand-in for a notebook server: runs as the student on an inherited port and redeems tickets."""

    def __init__(self, account: Account, port: int, tickets_path: Path, leaf: TlsFiles | None) -> None:
        listening = listen(port)
        context = server_context(leaf) if leaf else None
        keep = [one.fileno() for one in listening]
        self._worker = workers.start(account, _serve, listening, context, account.username, tickets_path, keep=keep)
        for one in listening:
            one.close()

    def close(self) -> None:
        self._worker.stop()


class _Server(http.server.ThreadingHTTPServer):
    context: ssl.SSLContext | None
    username: str
    tickets_path: Path

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.context is not None:
            request = self.context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Browsers open connections that they do not use."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        ticket = parse_qs(body).get("ticket", [""])[0]
        name = self.server.username
        is_right = self.path == f"/user/{name}/nblauncher/ticket" and tickets.redeem(self.server.tickets_path, ticket)
        if not is_right:
            self._answer(403, "this ticket is not good")
            return
        self.send_response(303)
        self.send_header("Location", f"/user/{name}/tree")
        self.send_header("Set-Cookie", f"seen-{name}={self.headers['Origin']}; Path=/user/{name}/; HttpOnly")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        is_signed_in = f"seen-{self.server.username}=" in (self.headers["Cookie"] or "")
        self._answer(200, f"uid {os.getuid()} " + ("signed in" if is_signed_in else "stranger"))

    def _answer(self, status: int, text: str) -> None:
        content = f"<!doctype html><title>notebook</title><p id=who>{text}</p>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Standard error leads nowhere here."""


def _serve(listening: list[socket.socket], context: ssl.SSLContext | None, username: str, tickets_path: Path) -> None:
    threads = []
    for one in listening:
        server = _Server(("", 0), _Handler, bind_and_activate=False)
        server.socket.close()
        server.socket = one
        server.context, server.username, server.tickets_path = context, username, tickets_path
        threads.append(threading.Thread(target=server.serve_forever))
        threads[-1].start()
    for thread in threads:
        thread.join()


@contextmanager
def accounts(first_uid: int) -> Iterator[dict[str, Account]]:
    """The front page's account and two students."""
    names = (FRONT_ACCOUNT, "nbtwada", "nbtwbob")
    made = {}
    try:
        for number, name in enumerate(names):
            made[name] = make_account(name, first_uid + number)
        yield made
    finally:
        for name in made:
            remove_account(name)
