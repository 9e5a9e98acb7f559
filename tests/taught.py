"""A class that belongs to a teacher who is not root; commands run as by `sudo` of that teacher."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import launched
from tests.classroom import Classroom
from tests.running import remove_account

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
"""Each worker of pytest-xdist has such a class of its own."""

ADA, BOB = NAMES = [f"nbtm{WORKER}ada", f"nbtm{WORKER}bob"]
TEACHER = f"nbtm{WORKER}prof"
FIRST_UID = 34000 + 50 * WORKER


class Taught(Classroom):
    """Its files are the teacher's."""

    def __init__(self) -> None:
        subprocess.run(["useradd", "-m", "-u", str(FIRST_UID + 45), "-K", "HOME_MODE=0700", TEACHER], check=True)
        super().__init__(f"nbtm4-{WORKER}", NAMES, port=27200 + 10 * WORKER, first_uid=FIRST_UID)

    @property
    def uid(self) -> int:
        return pwd.getpwnam(TEACHER).pw_uid

    @property
    def store(self) -> Path:
        return self.folder / "retrieved"

    @property
    def latest(self) -> Path:
        return self.store / "latest"

    def write(self, names: list[str] | None = None, **more: Any) -> None:
        super().write(names, **more)
        self.hand_over()

    def hand_over(self) -> None:
        subprocess.run(["chown", "-R", f"{TEACHER}:{TEACHER}", str(self.folder)], check=True)

    def teach(self, path: str, text: str) -> Path:
        """A file of the material."""
        file = self.folder / "material" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        self.hand_over()
        return file

    def sudo(self, *arguments: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run `nblauncher ARGUMENTS` and check its exit code."""
        teacher = {"SUDO_USER": TEACHER, "SUDO_UID": str(self.uid), "SUDO_GID": str(self.uid)}
        return self.run(*arguments, expect=expect, env={**os.environ, **teacher})

    def sudo_json(self, *arguments: str, expect: int | None = 0) -> dict[str, dict[str, Any]]:
        """The students of its `--json` by name."""
        return launched.students(json.loads(self.sudo(*arguments, "--json", expect=expect).stdout))

    def tutorial(self, name: str) -> Path:
        """Where the material is in a student's home."""
        return self.home(name) / "tutorial"

    def close(self) -> None:
        subprocess.run(["chown", "-R", "root:root", str(self.folder)], check=True)
        super().close()
        remove_account(TEACHER)


@contextmanager
def taught_class() -> Iterator[Taught]:
    room = Taught()
    try:
        room.sudo("setup")
        yield room
    finally:
        room.close()
