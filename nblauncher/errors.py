"""The errors that a user can fix. Any other exception is a bug and keeps its traceback.

Only `cli` catches these; it maps `exit_code` to the process's exit status (docs/reference.md lists them).
"""

from __future__ import annotations

from collections.abc import Sequence


class NblauncherError(Exception):
    """What happened (`problem`) and what to do about it (`hint`), in words for the user at the terminal."""

    exit_code = 1

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint

    @property
    def problems(self) -> tuple[str, ...]:
        """Every problem, for `--json`: one, unless the error collects several."""
        return (self.problem,)


class HostError(NblauncherError):
    """The host failed: a command failed, a disk is full, a port is taken."""

    exit_code = 1


class InputError(NblauncherError):
    """Roster or config is wrong. Has all problems, so that one run shows them all; nothing was changed."""

    exit_code = 3

    def __init__(self, problems: str | Sequence[str], hint: str = "") -> None:
        self._problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self._problems), hint)

    @property
    def problems(self) -> tuple[str, ...]:
        return self._problems


class RefusedError(NblauncherError):
    """It would not be safe, or root is needed; nothing was changed."""

    exit_code = 4


class BusyError(NblauncherError):
    """Another nblauncher is still changing this course or the host's accounts."""

    exit_code = 6
