"""What students.csv and the class disagree about, for `status`. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nblauncher.commands import accepted
from nblauncher.commands import session as sessions
from nblauncher.commands.session import Session
from nblauncher.config import roster_diff
from nblauncher.errors import InputError, NblauncherError
from nblauncher.model import Roster
from nblauncher.printable import printable

_MOST = 10
"""Names in a line; `--json` has them all."""


@dataclass(frozen=True)
class Differences:
    """`changed`: username → the columns that are others than at the last setup. `problem`: why there is no roster."""

    not_set_up: Sequence[str] = ()
    not_in_roster: Sequence[str] = ()
    changed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    problem: str = ""

    def entry(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "not_set_up": list(self.not_set_up),
            "not_in_roster": list(self.not_in_roster),
            "changed": {name: list(columns) for name, columns in self.changed.items()},
            "problem": self.problem,
        }

    def lines(self, update: str) -> list[str]:
        """Two at most. `update` is the command that takes a roster over: setup or reload."""
        if self.problem:
            return [f"Roster: {printable(self.problem)}"]
        parts = []
        if self.not_set_up:
            parts.append(f"{_names(self.not_set_up)} not set up: `nblauncher {update}`")
        if self.not_in_roster:
            leaving = ",".join(self.not_in_roster) if len(self.not_in_roster) <= _MOST else "NAME,..."
            parts.append(f"{_names(self.not_in_roster)} not in the roster: `nblauncher remove --only {leaving}`")
        lines = [f"Roster: {'; '.join(parts)}"] if parts else []
        if self.changed:
            words = [f"{name} ({', '.join(map(printable, columns))})" for name, columns in self.changed.items()]
            lines.append(f"Roster: changed since the last `{update}`: {_listed(words)}")
        return lines


def differences(session: Session) -> Differences:
    """The roster of the command line or of the config, against the class as it was set up. A roster that cannot be
    read is one of the differences.
    """
    try:
        now = sessions.current_roster(session)
    except InputError as error:
        more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
        return Differences(problem=f"{error.problems[0]}{more}")
    except NblauncherError as error:
        return Differences(problem=error.problem)
    host = session.host
    members, ready = host.ledger.members(host.settings.course), host.course_ledger.with_passwords()
    known = Roster(tuple(accepted.students_by_name(host).values()))
    changed: dict[str, list[str]] = {}
    for change in roster_diff.diff(known, now).changed:
        if change.username in members:
            changed.setdefault(change.username, []).append(change.column)
    return Differences(
        not_set_up=[name for name in now.usernames if name not in members or name not in ready],
        not_in_roster=[name for name in members if name not in frozenset(now.usernames)],
        changed=changed,
    )


def _names(names: Sequence[str]) -> str:
    return f"{_listed(names)} {'is' if len(names) == 1 else 'are'}"


def _listed(words: Sequence[str]) -> str:
    more = len(words) - _MOST
    return ", ".join(words[:_MOST]) + (f" and {more} more" if more > 0 else "")
