"""`nblauncher launch --on-demand` of a large class: how long it takes, what it costs asleep, how a server wakes.

    sudo python benchmarks/on_demand.py [--students 500] [--visits 20] [--rush 100]

Wall-clock and CPU seconds count from `launch --on-demand --background` until it returns; CPU is user + system of the
command, the supervisor and everything below it. Memory is the Pss of all processes of the class together while every
server sleeps. A visit is a new TLS connection to a sleeping server, and a request: the time until the first byte of the
answer (the first visit, and of the others the median and the longest). The visitor then signs in, as students do: a
wake-up that brings nobody is held against the next ones. In a rush, others sign in at the front page, all at the same
time, and each follows its pages like a browser until the own notebooks are there; the browsers' CPU is part of what the
machine does then. Accounts are called nbtg000..., and go again with it all.
"""

from __future__ import annotations

import argparse
import re
import socket
import ssl
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from _shared import forget, measured, memory, nblauncher, notebook_passwords, processor_seconds, supervisor, tree

from nblauncher.paths import CoursePaths

COURSE = "nbtg"
FIRST_UID, LAST_UID = 27000, 58999
PORT = 21600
AUTHORITY = CoursePaths(COURSE).tls / "ca.pem"
CONFIG = """
course: {course}
accounts: {{uid_range: {first}-{last}}}
web: {{port: {port}}}
notebook: {{preload_when: {preload_when}}}
"""


def write_class(folder: Path, names: list[str], preload_when: str) -> None:
    (folder / "material").mkdir(exist_ok=True)
    (folder / "material" / "lab.txt").write_text("measure\n")
    (folder / "students.csv").write_text("username\n" + "\n".join(names) + "\n")
    text = CONFIG.format(course=COURSE, first=FIRST_UID, last=LAST_UID, port=PORT, preload_when=preload_when)
    (folder / "notebooks.cfg").write_text(text)


def first_byte(name: str, port: int) -> float:
    """Seconds from connecting to a sleeping server until it begins to answer."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    begun = time.perf_counter()
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(f"GET /user/{name}/login HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode("ascii"))
        if not connection.recv(1):
            sys.exit(f"{name}'s server said nothing")
    return time.perf_counter() - begun


def sign_in(name: str, port: int, password: str) -> None:
    """Through the server's own form."""
    context = ssl.create_default_context(cafile=str(AUTHORITY))
    with httpx.Client(base_url=f"https://localhost:{port}/user/{name}/", verify=context, timeout=60) as http:
        http.get("login")
        answer = http.post("login", data={"_xsrf": http.cookies["_xsrf"], "password": password})
        if answer.status_code != httpx.codes.FOUND:
            sys.exit(f"{name} could not sign in: {answer.status_code}")
        http.get("api/status").raise_for_status()


def arrive(name: str, password: str) -> float:
    """Seconds from the front page's form until the page of the own server, like a browser (which waits 2.5 s on the
    page that says that the server starts).
    """
    front = f"https://localhost:{PORT}/"
    begun = time.perf_counter()
    context = ssl.create_default_context(cafile=str(AUTHORITY))
    with httpx.Client(verify=context, timeout=120, follow_redirects=True) as http:
        page = http.post(front, data={"username": name, "password": password})
        while waiting := re.search(r'name="waiting" value="([^"]+)"', page.text):
            time.sleep(2.5)
            page = http.post(front, data={"waiting": waiting[1]})
        target = re.search(r'<form method="post" action="([^"]+)"', page.text)
        ticket = re.search(r'name="ticket" value="([^"]+)"', page.text)
        if not target or not ticket:
            sys.exit(f"{name} did not get through the front page: {page.status_code}")
        http.post(target[1], data={"ticket": ticket[1]}).raise_for_status()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=500)
    parser.add_argument("--visits", type=int, default=20, help="sleeping servers that are visited, one after the other")
    parser.add_argument("--rush", type=int, default=100, help="students who sign in at the same time")
    options = parser.parse_args()
    names = [f"nbtg{number:03}" for number in range(options.students)]
    rows = []
    with tempfile.TemporaryDirectory(prefix="nbtg-", dir="/opt") as made:
        folder = Path(made)
        folder.chmod(0o755)
        try:
            for preload_when in ("launch", "first-use"):
                write_class(folder, names, preload_when)
                nblauncher(folder, "setup")
                wall, processor = measured(lambda: nblauncher(folder, "launch", "--on-demand", "--background"))
                root = supervisor(COURSE)
                processor += processor_seconds(root)
                time.sleep(10)
                asleep = sum(memory(process.pid)[1] for process in tree(root))
                # The first one may wait for the fork server, the others do not.
                passwords = notebook_passwords(folder)
                visits = []
                for number, name in enumerate(names[: options.visits]):
                    visits.append(first_byte(name, PORT + 1 + number))
                    sign_in(name, PORT + 1 + number, passwords[name])
                with ThreadPoolExecutor(options.rush) as pool:
                    rushing = names[options.visits :][: options.rush]
                    rush = list(pool.map(arrive, rushing, [passwords[name] for name in rushing]))
                rows.append((preload_when, wall, processor, asleep, visits, rush))
                nblauncher(folder, "shutdown", "--yes")
        finally:
            forget(folder, COURSE, names)
    print(f"{options.students} students\n")
    print("| preload_when | wall s | CPU s | MB Pss asleep | first byte s: first, median, longest other ", end="")
    print(f"| rush of {options.rush}, s: median, last |\n|---|---|---|---|---|---|")
    for preload_when, wall, processor, asleep, (first, *others), rush in rows:
        visit = f"{first:.2f}, {statistics.median(others):.2f}, {max(others):.2f}"
        arrival = f"{statistics.median(rush):.1f}, {max(rush):.1f}"
        print(f"| {preload_when} | {wall:.1f} | {processor:.1f} | {asleep:.0f} | {visit} | {arrival} |")


if __name__ == "__main__":
    main()
