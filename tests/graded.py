"""A taught class with a graded course: nbgrader's environment, and nbgrader's own sample as the teacher's source."""

from __future__ import annotations

import json
import pwd
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nblauncher.environments import course_packages
from tests.taught import TEACHER, Taught, taught_class


class Graded:
    """`sudo nblauncher grade init` was not run yet."""

    def __init__(self, room: Taught) -> None:
        self.room = room
        self.course = room.folder / "grading"

    @property
    def python(self) -> Path:
        environment = course_packages.current(self.room.paths.grading_environments)
        assert environment is not None
        return course_packages.python_in(environment)

    def as_teacher(self, *command: str, folder: Path | None = None) -> str:
        """What it prints. The environment's programs come first in PATH."""
        own = f"PATH={self.python.parent}:/usr/bin:/bin", f"HOME={pwd.getpwnam(TEACHER).pw_dir}"
        line = ["runuser", "-u", TEACHER, "--", "env", *own, *command]
        done = subprocess.run(line, cwd=folder or self.course, check=True, capture_output=True, text=True)
        return done.stdout

    def quickstart(self) -> None:
        """nbgrader's sample assignment ps1, with its header."""
        home = Path(pwd.getpwnam(TEACHER).pw_dir)  # in the course it would bring its students into the gradebook
        self.as_teacher("nbgrader", "quickstart", "sample", folder=home)
        for name in ("header.ipynb", "ps1"):
            shutil.move(home / "sample" / "source" / name, self.course / "source" / name)
        shutil.rmtree(home / "sample")
        self.room.hand_over()  # a move between file systems copies, as root

    def autograde(self, assignment: str, *names: str) -> None:
        """What plain nbgrader makes of the release itself, handed in by these students."""
        for name in names:
            self.as_teacher("mkdir", "-p", f"submitted/{name}")
            self.as_teacher("cp", "-r", f"release/{assignment}", f"submitted/{name}/")
            self.as_teacher("nbgrader", "autograde", assignment, f"--student={name}")

    def gradebook(self, code: str) -> Any:
        """The value of an expression over `book`, nbgrader's gradebook."""
        text = f"""
            import json
            from nbgrader.api import Gradebook
            with Gradebook("sqlite:///gradebook.db", "{self.room.course}") as book:
                print(json.dumps({code}))
        """
        return json.loads(self.as_teacher(str(self.python), "-c", textwrap.dedent(text)))


@contextmanager
def graded_class() -> Iterator[Graded]:
    with taught_class() as room:
        try:
            yield Graded(room)
        finally:
            shutil.rmtree(room.paths.grading_environments, ignore_errors=True)
