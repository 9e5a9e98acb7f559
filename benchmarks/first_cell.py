"""The beginning of a lesson: every student signs in, opens a notebook and runs a first cell with pandas, all at once.

    sudo python benchmarks/first_cell.py [--students 20] [--idle 30] [--runs 3]

Three contenders: servers and kernels that are forked from preloaded processes; forked servers whose kernels are
programs of their own (as for a Python that root must not import from); servers and kernels that are programs. Each in
two ways: the servers run already, or they sleep and start when their student comes. Wall-clock seconds count from the
first student's sign-in until the last cell's output, the median of the runs; CPU is user + system of the supervisor and
everything below it in that time, without the clients, which run on the same cores. Memory is Private_Clean +
Private_Dirty of smaps_rollup, the median of the kernels, `--idle` seconds after the cell. The Python that runs this
needs pandas and matplotlib; accounts are called nbtc000..., and go again with everything they had.
"""

from __future__ import annotations

import argparse
import json
import pwd
import re
import ssl
import statistics
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import websocket
from _shared import forget, memory, nblauncher, notebook_passwords, processor_seconds, supervisor, tree

COURSE = "nbtc"
FIRST_UID, LAST_UID = 26500, 58999
PORT = 21900
CELL = "import pandas as pd\npd.DataFrame({'a': [1, 2, 3]}).describe()"
CONFIG = """
course: {course}
accounts: {{uid_range: {first}-{last}}}
web: {{port: {port}}}
notebook: {{spawner: {spawner}, environment: {environment}}}
"""
CONTENDERS = {
    "all forked": ("forkserver", "{}"),
    "servers forked": ("forkserver", "{LC_TIME: C}"),  # a variable that is read at a start
    "programs": ("process", "{}"),
}


@dataclass(frozen=True)
class Row:
    contender: str
    start: str
    wall: float
    processor: float
    kernels: list[float]


def write_class(folder: Path, names: list[str], spawner: str, environment: str) -> None:
    (folder / "material").mkdir(exist_ok=True)
    (folder / "material" / "lab.txt").write_text("measure\n")
    (folder / "students.csv").write_text("username\n" + "\n".join(names) + "\n")
    text = CONFIG.format(
        course=COURSE, first=FIRST_UID, last=LAST_UID, port=PORT, spawner=spawner, environment=environment
    )
    (folder / "notebooks.cfg").write_text(text)


def first_lesson(name: str, port: int, password: str) -> None:
    """A browser's requests, without its pages."""
    base = f"https://localhost:{port}/user/{name}/"
    with httpx.Client(base_url=base, verify=False, timeout=300) as browser:
        token = re.search(r'name="_xsrf" value="([^"]+)"', browser.get("login").text)
        if token is None:
            sys.exit(f"{name}: there is no form to sign in with")
        browser.post("login", data={"_xsrf": token[1], "password": password})
        headers = {"X-XSRFToken": browser.cookies.get("_xsrf") or "", "Referer": base}
        what = {"path": "first.ipynb", "type": "notebook", "name": "", "kernel": {"name": "python3"}}
        answer = browser.post("api/sessions", json=what, headers=headers)
        answer.raise_for_status()
        kernel = answer.json()["kernel"]["id"]
        cookies = "; ".join(f"{key}={value}" for key, value in browser.cookies.items())
    run_cell(name, port, kernel, cookies)


def run_cell(name: str, port: int, kernel: str, cookies: str) -> None:
    session, message = uuid.uuid4().hex, uuid.uuid4().hex
    connection = websocket.create_connection(
        f"wss://localhost:{port}/user/{name}/api/kernels/{kernel}/channels?session_id={session}",
        timeout=300,
        cookie=cookies,
        origin=f"https://localhost:{port}",
        sslopt={"cert_reqs": ssl.CERT_NONE, "check_hostname": False},
    )
    header = {"msg_id": message, "msg_type": "execute_request", "username": "", "session": session, "version": "5.3"}
    content = {"code": CELL, "silent": False, "store_history": False, "allow_stdin": False}
    request = {"header": {**header, "date": "2026-01-01T00:00:00Z"}, "parent_header": {}, "metadata": {}}
    connection.send(json.dumps({**request, "content": content, "channel": "shell", "buffers": []}))
    while True:
        received = json.loads(connection.recv())
        if received["parent_header"].get("msg_id") == message and received["msg_type"] in ("execute_result", "error"):
            break
    connection.close()
    if received["msg_type"] == "error":
        sys.exit(f"{name}: {received['content']}")


def lesson(folder: Path, names: list[str], *, on_demand: bool, idle: float) -> tuple[float, float, list[float]]:
    """Wall and CPU seconds, and the private memory of each kernel."""
    nblauncher(folder, "launch", "--background", *(["--on-demand"] if on_demand else []))
    passwords = notebook_passwords(folder)
    root = supervisor(COURSE)
    time.sleep(5)  # the fork servers are ready long before a class is there
    before, begun = processor_seconds(root), time.perf_counter()
    with ThreadPoolExecutor(len(names)) as pool:
        for done in [pool.submit(first_lesson, name, PORT + 1 + i, passwords[name]) for i, name in enumerate(names)]:
            done.result()
    wall, processor = time.perf_counter() - begun, processor_seconds(root) - before
    time.sleep(idle)
    uids = {pwd.getpwnam(name).pw_uid for name in names}
    kernels = [memory(one.pid)[0] for one in tree(root) if one.uids().real in uids and is_a_kernel(one.pid)]
    nblauncher(folder, "shutdown", "--yes")
    return wall, processor, kernels


def is_a_kernel(pid: int) -> bool:
    is_forked = Path(f"/proc/{pid}/comm").read_text() == "kernel\n"
    return is_forked or b"ipykernel_launcher" in Path(f"/proc/{pid}/cmdline").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=20)
    parser.add_argument("--idle", type=float, default=30.0, help="seconds until memory is measured")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    names = [f"nbtc{number:03}" for number in range(options.students)]
    rows = []
    with tempfile.TemporaryDirectory(prefix="nbtc-", dir="/opt") as made:
        folder = Path(made)
        folder.chmod(0o755)
        try:
            for contender, (spawner, environment) in CONTENDERS.items():
                write_class(folder, names, spawner, environment)
                nblauncher(folder, "setup")
                for start in ("running", "asleep"):
                    runs = [
                        lesson(folder, names, on_demand=start == "asleep", idle=options.idle if last else 0.0)
                        for last in [False] * (options.runs - 1) + [True]
                    ]
                    walls, processors, kernels = zip(*runs, strict=True)
                    rows.append(
                        Row(contender, start, statistics.median(walls), statistics.median(processors), kernels[-1])
                    )
        finally:
            forget(folder, COURSE, names)
    print(f"{options.students} students\n")
    print("| contender | servers | wall s | CPU s | CPU s each | private MB of a kernel |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        each, private = row.processor / options.students, statistics.median(row.kernels)
        print(f"| {row.contender} | {row.start} | {row.wall:.1f} | {row.processor:.1f} | {each:.2f} | {private:.1f} |")


if __name__ == "__main__":
    main()
