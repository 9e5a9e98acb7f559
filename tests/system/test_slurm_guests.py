"""A class of guests on a cluster (`accounts.create: false`), whose homes root cannot enter.

A file system that squashes root (NFS) needs a kernel with NFS, and a FUSE file system run by its student would stand
still with the student at a deadline. So root is denied by other means: every command, and with it the supervisor, runs
without the capabilities that let root pass by the permissions of a file (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH,
CAP_FOWNER). That is more than root_squash denies: it holds for all files that are not root's.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import stat
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import launched, preloading, slurm_cluster
from tests.classroom import COMMAND, QUICK, Classroom
from tests.homework import write
from tests.slurm_cluster import Cluster
from tests.students import made_account

pytestmark = [pytest.mark.system, pytest.mark.slow]
cluster = slurm_cluster.cluster

ADA, BOB = NAMES = ["nbtjd7", "nbtjd8"]
PORT = 29050
_LOST = "-dac_override,-dac_read_search,-fowner"
DENIED = ["setpriv", "--inh-caps", _LOST, "--bounding-set", _LOST, "--"]
FILES = ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")


class Squashed(Classroom):
    """Its commands are run by a root that the students' homes are closed to."""

    def run(self, *arguments: str, expect: int | None = 0, timeout: float = 240, **_popen: Any) -> Any:
        if arguments[:1] == ("launch",):
            preloading.lend(self.paths)
        done = subprocess.run(
            [*DENIED, *COMMAND, *arguments],
            check=False,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        said = f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert expect is None or done.returncode == expect, said
        return done


@pytest.fixture(scope="module", autouse=True)
def writable_control_groups() -> Iterator[None]:
    """Without the capability, root needs the permission that the kernel leaves out of the top folder."""
    top = Path("/sys/fs/cgroup/unified")
    if not top.is_dir():
        yield
        return
    before = stat.S_IMODE(top.stat().st_mode)
    top.chmod(before | stat.S_IWUSR)
    try:
        yield
    finally:
        top.chmod(before)


@pytest.fixture(scope="module")
def guests() -> Iterator[list[str]]:
    with made_account(ADA, 34640), made_account(BOB, 34641):
        yield NAMES


@pytest.fixture
def room(guests: list[str], cluster: Cluster) -> Iterator[Squashed]:
    made = Squashed("nbtjg", guests, port=PORT, first_uid=34640)
    try:
        made.write(
            accounts={"create": False, "uid_range": "34640-34649"},
            notebook={**QUICK, "spawner": "slurm"},
            slurm={"config": str(cluster.config)},
            limits={"memory": "600 MB", "cpus": 1},
            web={"port": PORT, "bind": ["127.0.0.1"]},
        )
        yield made
        cluster.clear()
    finally:
        made.names = []  # what remains of the accounts is the other fixture's
        made.close()


def accounts() -> dict[str, list[str]]:
    """What the host says of accounts and groups with our students' names or uids; other tests run beside this one."""
    found = {}
    for file in FILES:
        lines = Path("/etc", file).read_text().splitlines()
        found[file] = [line for line in lines if "nbtjd" in line or ":3464" in line]
    return found


def members_of_the_course() -> list[list[str]]:
    return [entry.gr_mem for entry in grp.getgrall() if entry.gr_name == "nbl-nbtjg"]


def home_itself(name: str) -> tuple[int, int, int]:
    facts = os.stat(pwd.getpwnam(name).pw_dir)
    return facts.st_uid, facts.st_gid, stat.S_IMODE(facts.st_mode)


def strangers_files(name: str) -> list[str]:
    """What is below the home and not the student's."""
    home = Path(pwd.getpwnam(name).pw_dir)
    return [str(one) for one in home.rglob("*") if one.lstat().st_uid != home.stat().st_uid]


def capture(room: Classroom) -> Path:
    at = (datetime.now().astimezone() + timedelta(seconds=4)).replace(microsecond=0)
    room.write(deadlines={"ps1": f"{at:%Y-%m-%d %H:%M:%S}"})
    room.run("setup")
    room.run("retrieve", "--unattended", room.course)
    return sorted((room.folder / "retrieved").glob("2*-deadline-ps1"))[-1]


def test_guests_are_served_and_nothing_of_theirs_is_made_altered_or_deleted(room, cluster):
    before, homes = accounts(), {name: home_itself(name) for name in NAMES}
    for name in NAMES:
        closed = subprocess.run([*DENIED, "ls", str(room.home(name))], check=False, capture_output=True, text=True)
        assert "Permission denied" in closed.stderr
    room.run("setup")
    assert accounts() == before and members_of_the_course() == [[]]
    for name in NAMES:
        assert (room.home(name) / "tutorial/lab1.txt").read_text() == "measure the pendulum\n"
    found = launched.students(room.json("launch", "--background"))
    assert {found[name]["server"] for name in NAMES} == {"ready"}
    for name in NAMES:
        with launched.visitor(room, name) as student:
            ran = student.run("import os; open('tutorial/mine.txt', 'w').write('42'); print(os.getuid(), os.getcwd())")
        assert ran == f"{pwd.getpwnam(name).pw_uid} {room.home(name)}\n"
    (room.folder / "material/lab2.txt").write_text("fresh\n")
    room.run("send")
    assert all((room.home(name) / "tutorial/lab2.txt").read_text() == "fresh\n" for name in NAMES)
    room.run("retrieve")
    latest = room.folder / "retrieved/latest"
    assert all((latest / name / "work/mine.txt").read_text() == "42" for name in NAMES)
    for name in NAMES:
        write(name, "tutorial/ps1/answer.txt", "43")
    folder = capture(room)
    assert (folder / ADA / "work/ps1/answer.txt").read_text() == "43"
    assert not json.loads((folder / ADA / "manifest.json").read_text())["exclusions"]
    for refused in (("lock", "--only", ADA), ("passwd", ADA, "--system")):
        assert room.run(*refused, expect=None).returncode, refused
    room.run("remove", "--yes")
    assert cluster.run("squeue", "-h", "-t", "PENDING,RUNNING,SUSPENDED,COMPLETING", "-o", "%i") == ""
    assert not room.paths.state.exists() and members_of_the_course() == []
    assert accounts() == before and {name: home_itself(name) for name in NAMES} == homes
    assert all((room.home(name) / "tutorial/mine.txt").read_text() == "42" for name in NAMES)
    assert not any(strangers_files(name) for name in NAMES)
    assert not [left for name in NAMES for left in room.home(name).glob(".local/share/nblauncher/jobs/*.json")]
