"""Students whose homes are about to go: what they put there, and what became of it."""

from __future__ import annotations

import pwd
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.classroom import Classroom


def as_student(name: str, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program as the student, in the home."""
    home = pwd.getpwnam(name).pw_dir
    return subprocess.run([*become(name), *argv], check=True, cwd=home, text=True, **options)


def become(name: str) -> list[str]:
    """The words before a program that make it the student's."""
    entry = pwd.getpwnam(name)
    return ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups"]


def write(name: str, path: str, text: str) -> Path:
    """A file in a student's home, made by the student."""
    file = Path(pwd.getpwnam(name).pw_dir) / path
    as_student(name, "mkdir", "-p", str(file.parent))
    as_student(name, "tee", str(file), input=text, stdout=subprocess.DEVNULL)
    return file


def exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def brought_home(room: Classroom, name: str, path: str) -> list[str]:
    """The content of a file in every retrieval that has it."""
    return [file.read_text() for file in sorted((room.folder / "retrieved").glob(f"2*/{name}/{path}"))]


def shadow_line(name: str) -> str:
    return next(line for line in Path("/etc/shadow").read_text().splitlines() if line.startswith(f"{name}:"))


def is_locked(name: str) -> bool:
    """Neither by password nor by key: an exclamation mark before the hash, and a date of expiry long past."""
    fields = shadow_line(name).split(":")
    return fields[1].startswith("!") and fields[7] == "1"


def signal_at(room: Classroom, line: int, number: signal.Signals, *arguments: str) -> tuple[int, str]:
    """Run a command and send it a signal when its progress line `[LINE/...]` appears: exit code and stdout."""
    process = room.start(*arguments)
    assert process.stderr is not None
    for text in process.stderr:
        if text.startswith(f"[{line}/"):
            break
    process.send_signal(number)
    stdout, _ = process.communicate(timeout=120)
    return process.returncode, stdout
