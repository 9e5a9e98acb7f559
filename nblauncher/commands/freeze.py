"""freeze and thaw: every process of some students stands still until the teacher says otherwise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nblauncher import cgroups, freezing, hashes, survey
from nblauncher.commands.retrieve import notes
from nblauncher.errors import HostError
from nblauncher.host import Host
from nblauncher.plan import Details, Phase, Plan


def plan_freeze(host: Host, usernames: Sequence[str]) -> Plan:
    """Everybody who is not frozen yet."""
    facts = survey.survey(host, usernames)
    frozen = remembered(host)
    wanted = [name for name in usernames if name in facts.members and name not in frozen]
    return Plan((Phase("freeze", tuple(Freeze(name) for name in wanted)),), notes(usernames, facts))


def plan_thaw(host: Host, usernames: Sequence[str]) -> Plan:
    """Everybody, whether we remember the freezing or not: to let go twice does no harm."""
    facts = survey.survey(host, usernames)
    frozen = remembered(host)
    wanted = [name for name in usernames if name in facts.members and name in frozen]
    return Plan((Phase("thaw", tuple(Thaw(name) for name in wanted)),), notes(usernames, facts))


@dataclass(frozen=True)
class Freeze:
    username: str

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)

    def describe(self) -> str:
        return f"freeze {self.username}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        student = _student(host, self.username)
        resting = sorted(freezing.stopped([student]))
        _remember(host, {**remembered(host), self.username: resting})  # first: a crash must leave it to be thawed
        try:
            freezing.freeze(cgroups.choose(host.settings.course), [student])
        except HostError:
            _let_go(host, student)
            raise
        return {self.username: {}}


@dataclass(frozen=True)
class Thaw:
    username: str

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)

    def describe(self) -> str:
        return f"thaw {self.username}"

    def apply(self, host: Host) -> None:
        _let_go(host, _student(host, self.username))


def _let_go(host: Host, student: freezing.Student) -> None:
    known = remembered(host)
    freezing.thaw(cgroups.choose(host.settings.course), [student], known.get(student.username, ()))
    _remember(host, {name: resting for name, resting in known.items() if name != student.username})


def _student(host: Host, username: str) -> freezing.Student:
    return freezing.Student(username, survey.student_account(host, username).uid)


def remembered(host: Host) -> dict[str, list[int]]:
    """Who stands still by `freeze`, and which of their processes did before. Gone after a reboot, as they are."""
    try:
        found: dict[str, list[int]] = json.loads((host.paths.run / "frozen.json").read_text("ascii"))
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _remember(host: Host, frozen: Mapping[str, Sequence[int]]) -> None:
    hashes.write_private(host.paths.run / "frozen.json", json.dumps(dict(frozen)).encode("ascii"))
