"""The config and roster that were accepted last: a copy for unattended starts, which shows what changed since."""

from __future__ import annotations

from dataclasses import dataclass

from nblauncher.config import roster, roster_diff
from nblauncher.config.settings.changes import changes
from nblauncher.model import Roster, Student
from nblauncher.planning.host import Host
from nblauncher.system import root_files


@dataclass(frozen=True)
class AcceptInputs:
    """Keep a copy of the config and roster for unattended starts."""

    files: tuple[tuple[str, bytes], ...]
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "remember the accepted config and roster"

    def is_done(self, host: Host) -> bool:
        try:
            return all((host.paths.accepted / name).read_bytes() == content for name, content in self.files)
        except (FileNotFoundError, PermissionError):
            return False

    def apply(self, host: Host) -> None:
        host.paths.accepted.mkdir(mode=0o700, exist_ok=True)
        for name, content in self.files:
            root_files.replace(host.paths.accepted / name, content, durable=True)


def config_changes(host: Host, content: bytes) -> tuple[str, ...]:
    """The keys that differ from the config that was accepted last; empty the first time."""
    try:
        before = (host.paths.accepted / "notebooks.cfg").read_bytes()
    except (FileNotFoundError, PermissionError):
        return ()
    return changes(before, content) if before != content else ()


def students_by_name(host: Host) -> dict[str, Student]:
    """The rows of the roster that was accepted last."""
    return {student.username: student for student in _accepted_roster(host) or ()}


def name_of(host: Host, username: str) -> str:
    """The student's name in the roster that was accepted last; empty if there is none."""
    return next((one.name for one in _accepted_roster(host) or () if one.username == username), "")


def roster_changes(host: Host, students: Roster | None) -> tuple[str, ...]:
    """The differences from the roster that was accepted last; empty the first time."""
    before = _accepted_roster(host)
    if before is None:
        return ()
    difference = roster_diff.diff(before, students or Roster())
    return tuple(f"roster: {line}" for line in difference.summary())


def _accepted_roster(host: Host) -> Roster | None:
    try:
        content = (host.paths.accepted / "students.csv").read_bytes()
    except (FileNotFoundError, PermissionError):
        return None
    return roster.parse(content, "students.csv", judges_extra_time=False)
