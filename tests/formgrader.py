"""`grade serve` for tests: the running command, what it printed, and a stand-in for the teacher's ssh."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests import envelope
from tests.classroom import COMMAND
from tests.graded import Graded
from tests.homework import become
from tests.notebooks import cell
from tests.taught import TEACHER

# As ssh -L does it on the host: the account that logged in connects to the socket.
_FORWARD = """
import asyncio, sys

async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()

async def serve(reader, writer):
    back, forth = await asyncio.open_unix_connection(sys.argv[2])
    await asyncio.gather(copy(reader, forth), copy(back, writer))

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    print("listens", flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


@dataclass
class Served:
    process: subprocess.Popen[str]
    said: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.said["url"])

    @property
    def password(self) -> str:
        return str(self.said["password"])

    @property
    def socket(self) -> str:
        return str(self.said["tunnel"].split(":")[1].split(" ")[0])

    def servers(self) -> list[int]:
        """The pids of what it started."""
        listed = subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], check=False, capture_output=True, text=True
        ).stdout
        return [int(pid) for pid in listed.split()]


@contextlib.contextmanager
def served(course: Graded) -> Iterator[Served]:
    """Until the block ends it, as Ctrl-C would."""
    room = course.room
    teacher = {"SUDO_USER": TEACHER, "SUDO_UID": str(room.uid), "SUDO_GID": str(room.uid)}
    process = subprocess.Popen(
        [*COMMAND, "grade", "serve", "--json"],
        cwd=room.folder,
        env={**os.environ, **teacher},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise AssertionError(process.communicate(timeout=30)[1])
        text = line
        while not _is_whole(text):
            text += process.stdout.readline()
        yield Served(process, envelope.checked(text, 0, "grade serve"))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def _is_whole(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def tunnel(one: Served, port: int) -> Iterator[None]:
    process = subprocess.Popen(
        [*become(TEACHER), sys.executable, "-I", "-c", _FORWARD, str(port), one.socket],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "listens\n"
        yield
    finally:
        process.kill()
        process.communicate()


def can_connect(name: str, path: str) -> bool:
    """Whether this account reaches the socket."""
    code = f"import socket; socket.socket(socket.AF_UNIX).connect({path!r})"
    done = subprocess.run(
        [*become(name), sys.executable, "-I", "-c", code], check=False, capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0 or "PermissionError" in done.stderr, done.stderr
    return done.returncode == 0


def hostile_cells() -> list[dict[str, Any]]:
    """What a student may write so that it runs in the teacher's browser."""
    run = "window.ran = (window.ran || 0) + 1"
    image = f'<img src="x" onerror="{run}">'
    html = {
        "text/html": f"<script>{run}</script>{image}<p id='seen'>an honest table</p>"
        f"<a href='javascript:{run}'>a link</a><svg onload='{run}'></svg>"
        "<iframe srcdoc='<script>parent.ran=1</script>'>",
    }
    script = {"application/javascript": run, "text/plain": "x"}
    svg = {"image/svg+xml": f"<svg xmlns='http://www.w3.org/2000/svg'><script>{run}</script></svg>"}
    markdown = f"# Mine\n<script>{run}</script>\n{image}\n<details ontoggle='{run}' open>x</details>\n$x^2$"
    config = '<script type="text/x-mathjax-config">window.ran = 1</script>'
    outputs = [{"output_type": "display_data", "data": data, "metadata": {}} for data in (html, script, svg)]
    return [
        cell(markdown, "hostile-markdown", "markdown"),
        cell(config + "<script src='/files/autograded/evil.js'></script>", "hostile-config", "markdown"),
        cell("# hostile", "hostile-outputs") | {"outputs": outputs},
        cell("# counted", "hostile-count") | {"execution_count": image},
        cell("x", "hostile-raw", "raw", raw_mimetype="text/html") | {"source": f"<script>{run}</script>"},
    ]


def submit(course: Graded, student: str, assignment: str) -> None:
    """What was released, handed in as it is."""
    there = course.course / "submitted" / student / assignment
    shutil.copytree(course.course / "release" / assignment, there)
    course.room.hand_over()


def plant(course: Graded, student: str, assignment: str, cells: list[dict[str, Any]]) -> None:
    """After autograding: these cells are in the graded notebooks as a student's code would have left them."""
    for file in (course.course / "autograded" / student / assignment).glob("*.ipynb"):
        made = json.loads(file.read_bytes())
        made["cells"] += cells
        mode = file.stat().st_mode
        file.chmod(0o600)
        file.write_text(json.dumps(made))
        file.chmod(mode)
