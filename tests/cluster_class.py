"""A class whose servers are jobs: the work that its students do, and what becomes of it at a moment."""

from __future__ import annotations

import json
import pwd
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from tests import launched
from tests.classroom import Classroom
from tests.running import eventually
from tests.slurm_cluster import Cluster

WRITER = (
    "import os\\ni = 0\\nwhile True:\\n i += 1\\n open('.next', 'w').write(f'{i:09}')\\n os.replace('.next', 'count')"
)
"""Replaces a file as fast as it can."""


def uid(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def soon(seconds: float) -> datetime:
    return (datetime.now().astimezone() + timedelta(seconds=seconds)).replace(microsecond=0)


def captured(room: Classroom, at: datetime) -> Path | None:
    """The folder of the retrieval for this moment."""
    for folder in sorted((room.folder / "retrieved").glob("2*")):
        for file in folder.glob("*/manifest.json"):
            about = json.loads(file.read_text()).get("deadline")
            if about and datetime.fromisoformat(about["at"]) == at:
                return folder
    return None


def remarks(folder: Path, name: str) -> list[str]:
    """What is wrong with the student's capture as a whole."""
    exclusions = json.loads((folder / name / "manifest.json").read_text())["exclusions"]
    return [one["reason"] for one in exclusions if one["path"] == "work/ps1"]


def writes_all_the_time(room: Classroom, name: str) -> None:
    """From a cell, as a process of its own."""
    with launched.visitor(room, name) as student:
        student.run(
            "import os, subprocess, sys\nos.makedirs('tutorial/ps1', exist_ok=True); os.chdir('tutorial/ps1')\n"
            f"subprocess.Popen([sys.executable, '-I', '-c', \"{WRITER}\"], start_new_session=True)"
        )
    eventually(lambda: (room.home(name) / "tutorial/ps1/count").exists())


def is_moving(room: Classroom, name: str) -> bool:
    file = room.home(name) / "tutorial/ps1/count"
    before = file.stat().st_mtime_ns
    time.sleep(0.3)
    return file.stat().st_mtime_ns != before


def nothing_is_left(cluster: Cluster, room: Classroom, names: Iterable[str]) -> None:
    assert cluster.run("squeue", "-h", "-t", "PENDING,RUNNING,SUSPENDED,COMPLETING", "-o", "%i") == ""
    assert not [one for name in names for one in launched.processes_of(uid(name))]
    assert not [left for name in names for left in room.home(name).glob(".local/share/nblauncher/jobs/*.json")]
    assert launched.states(room) == {}
    assert not list(room.paths.state.glob("jobs*.json"))
