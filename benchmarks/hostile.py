"""One of twenty students misbehaves: how long the other nineteen wait for their servers meanwhile.

    sudo python benchmarks/hostile.py [--students 20] [--seconds 20] [--frontend direct|nginx]

The offender's kernel takes memory without end, forks without end, floods its output, writes files without end, or
computes on every processor; each for some seconds, one after the other, and once nobody does anything. All others'
servers are asked for `/api` all the time, over TLS, on connections that stay open, five times a second each; what is
told is the median, the 99th percentile and the longest answer, what `nblauncher status` says of the offender, and
whether the offender's server is still there. Accounts are called nbtg000..., and go again with it all.
"""

from __future__ import annotations

import argparse
import json
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import httpx
import websocket
from _shared import forget, nblauncher, notebook_passwords

from nblauncher.paths import CoursePaths

COURSE = "nbtg"
FIRST_UID = 27000
PORT = 21600
AUTHORITY = CoursePaths(COURSE).tls / "ca.pem"
CASES = {
    "nobody": "",
    "memory hog": "x = []\nwhile True: x.append(bytearray(10_000_000))",
    "fork bomb": "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
    "log flood": (
        "import fcntl, os, stat\n"
        "out = [n for n in map(int, os.listdir('/proc/self/fd')) if os.path.exists(f'/proc/self/fd/{n}')"
        " and stat.S_ISFIFO(os.fstat(n).st_mode) and os.fstat(n).st_uid == 0]\n"
        "while True:\n  for n in out:\n    try: os.write(n, b'x' * 65536)\n    except OSError: pass"
    ),
    "disk filler": (
        "import os\nn = 0\n"
        "while True:\n  n += 1\n"
        "  with open(os.path.expanduser(f'~/filler{n % 3}'), 'wb') as f:\n"
        "    for _ in range(200): f.write(b'x' * 1_000_000)\n    f.flush(); os.fsync(f.fileno())"
    ),
    "CPU burner": "import os\nfor _ in range(8): os.fork()\nwhile True: pass",
}


def write_class(folder: Path, names: list[str], frontend: str) -> None:
    (folder / "material").mkdir(exist_ok=True)
    (folder / "material" / "lab.txt").write_text("measure\n")
    (folder / "students.csv").write_text("username\n" + "\n".join(names) + "\n")
    config = f"course: {COURSE}\naccounts: {{uid_range: {FIRST_UID}-58999}}\n"
    config += f"web: {{port: {PORT}, frontend: {frontend}}}\nlimits: {{disk: 150 MB}}\n"
    (folder / "notebooks.cfg").write_text(config)


class Server:
    """A student's, from a browser that is signed in."""

    def __init__(self, name: str, port: int, password: str) -> None:
        self.base = f"https://localhost:{port}/user/{name}/"
        context = ssl.create_default_context(cafile=str(AUTHORITY))
        self.http = httpx.Client(base_url=self.base, verify=context, timeout=30)
        self.http.get("login")
        answer = self.http.post("login", data={"_xsrf": self.http.cookies["_xsrf"], "password": password})
        if answer.status_code != httpx.codes.FOUND:
            sys.exit(f"{name} could not sign in: {answer.status_code}")

    def begin(self, code: str) -> None:
        headers = {"X-XSRFToken": self.http.cookies["_xsrf"], "Referer": self.base}
        kernel = self.http.post("api/kernels", json={"name": "python3"}, headers=headers).json()["id"]
        cookies = "; ".join(f"{name}={value}" for name, value in self.http.cookies.items())
        session = uuid.uuid4().hex
        tab = websocket.create_connection(
            self.base.replace("https", "wss", 1) + f"api/kernels/{kernel}/channels?session_id={session}",
            cookie=cookies,
            sslopt={"ca_certs": str(AUTHORITY)},
            timeout=30,
        )
        header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "username": "", "session": session}
        header |= {"version": "5.3", "date": "2026-01-01T00:00:00Z"}
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
        rest = {"parent_header": {}, "metadata": {}, "channel": "shell", "buffers": []}
        tab.send(json.dumps({"header": header, "content": content, **rest}))

    def answers(self) -> float:
        """Seconds until it answered; for ever when it did not."""
        begun = time.perf_counter()
        try:
            self.http.get("api").raise_for_status()
        except httpx.HTTPError:
            return float("inf")
        return time.perf_counter() - begun


def watch(servers: list[Server], seconds: float) -> list[float]:
    """What all of them took, in a thread for each."""
    until = time.monotonic() + seconds
    found: list[float] = []

    def ask(server: Server) -> None:
        while time.monotonic() < until:
            found.append(server.answers())
            time.sleep(0.2)

    threads = [threading.Thread(target=ask, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def state_of(folder: Path, name: str) -> str:
    command = [sys.executable, "-I", "-m", "nblauncher", "status", "--json", "--only", name]
    (student,) = json.loads(subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout)["students"]
    return f"{student['server']}: {student['reason'] or 'nothing'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--frontend", choices=["direct", "nginx"], default="direct")
    options = parser.parse_args()
    names = [f"nbtg{number:03}" for number in range(options.students)]
    rows = []
    with tempfile.TemporaryDirectory(prefix="nbtg-", dir="/opt") as made:
        folder = Path(made)
        folder.chmod(0o755)
        try:
            write_class(folder, names, options.frontend)
            nblauncher(folder, "setup")
            nblauncher(folder, "launch", "--background")
            passwords = notebook_passwords(folder)
            servers = [Server(name, PORT + 1 + number, passwords[name]) for number, name in enumerate(names)]
            for case, code in CASES.items():
                if code:
                    servers[0].begin(code)
                    time.sleep(1)
                found = watch(servers[1:], options.seconds)
                if case == "disk filler":
                    nblauncher(folder, "watch-disks", "--unattended", COURSE)
                rows.append((case, found, state_of(folder, names[0])))
                if code:
                    nblauncher(folder, "shutdown", "--only", names[0])
                    nblauncher(folder, "launch", "--background")
                    servers[0] = Server(names[0], PORT + 1, passwords[names[0]])
        finally:
            forget(folder, COURSE, names)
    print(f"{options.students} students, {options.frontend}, {options.seconds:.0f} s each\n")
    print("| offender | answers | median ms | 99 % ms | longest ms | `status` of the offender |")
    print("|---|---|---|---|---|---|")
    for case, found, state in rows:
        late = sorted(found)
        figures = statistics.median(late), late[int(0.99 * len(late))], late[-1]
        print(f"| {case} | {len(late)} | " + " | ".join(f"{1000 * one:.0f}" for one in figures) + f" | {state} |")


if __name__ == "__main__":
    main()
