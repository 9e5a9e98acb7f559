"""Hostile clients at the front page and at every server, while an ordinary student signs in and works.

    sudo python benchmarks/under_load.py [--frontend direct|nginx] [--visits 60]

All at the same time: 200 connections that say nothing, 100 that finish the TLS handshake and say nothing, 50 that send
a header slowly, clients that send oversized and malformed requests one after the other, and four that guess passwords
without pause; a third of each at the front page, the rest at the students' own addresses. Meanwhile a student comes
twice a second: seconds from the front page's form to the own page (`sign in`), and of a request to the own server on a
new connection (`api`). Accounts are called nbtg000...
"""

from __future__ import annotations

import argparse
import contextlib
import re
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from _shared import forget, nblauncher, notebook_passwords

from nblauncher.paths import CoursePaths

COURSE = "nbtg"
FIRST_UID = 27000
PORT = 21600
AUTHORITY = CoursePaths(COURSE).tls / "ca.pem"
JUNK = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n" + b"z" * 100_000,
    b"\x00\x01\x02\xff" * 1000,
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: localhost\r\n\r\nfffffff\r\n",
)


def write_class(folder: Path, names: list[str], frontend: str) -> None:
    (folder / "material").mkdir(exist_ok=True)
    (folder / "material" / "lab.txt").write_text("measure\n")
    (folder / "students.csv").write_text("username\n" + "\n".join(names) + "\n")
    config = f"course: {COURSE}\naccounts: {{uid_range: {FIRST_UID}-58999}}\n"
    (folder / "notebooks.cfg").write_text(config + f"web: {{port: {PORT}, frontend: {frontend}}}\n")


def secure(port: int) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    return context.wrap_socket(plain, server_hostname="localhost")


class Attack:
    """Every kind of client, in threads, until `stop`."""

    def __init__(self, names: list[str]) -> None:
        self.is_over = threading.Event()
        self.ports = [PORT, *(PORT + 1 + number for number in range(len(names)))]
        self.done = dict.fromkeys(("silent", "silent over TLS", "slow", "junk", "guesses"), 0)
        self.threads = [threading.Thread(target=self._silent, args=(200, False))]
        self.threads += [threading.Thread(target=self._silent, args=(100, True))]
        self.threads += [threading.Thread(target=self._again, args=(self._slow, n)) for n in range(50)]
        self.threads += [threading.Thread(target=self._again, args=(self._junk, n)) for n in range(8)]
        self.threads += [threading.Thread(target=self._again, args=(self._guess, n)) for n in range(4)]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.is_over.set()
        for thread in self.threads:
            thread.join()

    def _port(self, number: int) -> int:
        return self.ports[0] if number % 3 == 0 else self.ports[1 + number % (len(self.ports) - 1)]

    def _silent(self, count: int, has_tls: bool) -> None:
        """Whoever is thrown out comes again."""
        held: list[socket.socket] = []
        while not self.is_over.wait(0.2):
            held = [one for one in held if not _is_closed(one)]
            while len(held) < count and not self.is_over.is_set():
                port = self._port(len(held))
                with contextlib.suppress(OSError):
                    held.append(secure(port) if has_tls else socket.create_connection(("127.0.0.1", port), 10))
                    self.done["silent over TLS" if has_tls else "silent"] += 1
        for one in held:
            one.close()

    def _again(self, act: Callable[[int], None], number: int) -> None:
        while not self.is_over.is_set():
            with contextlib.suppress(OSError, httpx.HTTPError):
                act(number)

    def _slow(self, number: int) -> None:
        with secure(self._port(number)) as connection:
            self.done["slow"] += 1
            for byte in b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"s" * 100:
                if self.is_over.wait(0.5):
                    return
                connection.send(bytes([byte]))

    def _junk(self, number: int) -> None:
        with secure(self._port(self.done["junk"])) as connection:
            self.done["junk"] += 1
            connection.sendall(JUNK[self.done["junk"] % len(JUNK)])
            connection.recv(100)

    def _guess(self, number: int) -> None:
        with httpx.Client(verify=False, timeout=30) as http:
            self.done["guesses"] += 1
            typed = {"username": f"nbtg{number:03}", "password": "aaaa-bbbb-cccc"}
            http.post(f"https://127.0.0.1:{PORT}/", data=typed, headers={"Host": f"localhost:{PORT}"})


def _is_closed(one: socket.socket) -> bool:
    one.setblocking(False)
    try:
        return one.recv(1) == b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True


def visit(name: str, port: int, password: str) -> tuple[float, float]:
    context = ssl.create_default_context(cafile=str(AUTHORITY))
    begun = time.perf_counter()
    with httpx.Client(verify=context, timeout=60, follow_redirects=True) as http:
        page = http.post(f"https://localhost:{PORT}/", data={"username": name, "password": password})
        target = re.search(r'<form method="post" action="([^"]+)"', page.text)
        ticket = re.search(r'name="ticket" value="([^"]+)"', page.text)
        if not target or not ticket:
            sys.exit(f"{name} did not get through the front page: {page.status_code}")
        http.post(target[1], data={"ticket": ticket[1]}).raise_for_status()
    arrived = time.perf_counter()
    with httpx.Client(verify=context, timeout=60) as http:
        http.get(f"https://localhost:{port}/user/{name}/api").raise_for_status()
    return arrived - begun, time.perf_counter() - arrived


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frontend", choices=["direct", "nginx"], default="direct")
    parser.add_argument("--visits", type=int, default=60)
    options = parser.parse_args()
    names = [f"nbtg{number:03}" for number in range(6)]
    rows = []
    with tempfile.TemporaryDirectory(prefix="nbtg-", dir="/opt") as made:
        folder = Path(made)
        folder.chmod(0o755)
        try:
            write_class(folder, names, options.frontend)
            nblauncher(folder, "setup")
            nblauncher(folder, "launch", "--background")
            passwords = notebook_passwords(folder)
            attack = Attack(names)
            for words in ("nobody", "all of them"):
                if words != "nobody":
                    attack.start()
                    time.sleep(5)
                begun, found = time.monotonic(), []
                for number in range(options.visits):
                    time.sleep(0.5)
                    which = number % len(names)
                    found.append(visit(names[which], PORT + 1 + which, passwords[names[which]]))
                rows.append((words, found, time.monotonic() - begun))
            attack.stop()
        finally:
            forget(folder, COURSE, names)
    print(f"{options.frontend}; during it: {', '.join(f'{count} {name}' for name, count in attack.done.items())}\n")
    print("| hostile clients | sign in, s: median, longest | api, s: median, longest |\n|---|---|---|")
    for words, found, _seconds in rows:
        cells = [f"{statistics.median(one):.2f}, {max(one):.2f}" for one in zip(*found, strict=True)]
        print(f"| {words} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
