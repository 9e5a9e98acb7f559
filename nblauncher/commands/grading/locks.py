"""What is held while a course is graded, and what must not be pulled away from beneath it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from nblauncher.errors import BusyError
from nblauncher.ledger.locks import locked
from nblauncher.planning.host import Host


def grading_lock(host: Host) -> Path:
    """Its own lock: grading takes long, and must not block `send`."""
    return host.paths.state / "grading.lock"


def serve_lock(host: Host) -> Path:
    """Held while the formgrader is open."""
    return host.paths.grading / "serve.lock"


def refuse_in_use(course: str, serving: Path, grading: Path) -> None:
    """BusyError while one of these locks is held: the course cannot end then."""
    found = (
        (serving, f"the formgrader of course {course} is open", "End it with Ctrl-C where it runs."),
        (grading, f"course {course} is being graded", "Wait until that is done."),
    )
    for file, problem, hint in found:
        with contextlib.suppress(PermissionError):  # a dry run without root
            if not file.exists():
                continue
            try:
                with locked(file, course, patience=0.0, makes_folder=False):
                    pass
            except BusyError as error:
                raise BusyError(problem, f"{hint} Nothing was removed.") from error
