"""send: the teacher's material (and profile) into every home that lacks it, as the student."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from nblauncher import delivery, material, survey
from nblauncher.commands.retrieve import notes, work_details
from nblauncher.errors import HostError
from nblauncher.host import Host
from nblauncher.material import Bundle, Index
from nblauncher.model import HandedOut, Work
from nblauncher.packing import Item
from nblauncher.plan import Details, Phase, Plan
from nblauncher.profile import ProfileFiles, read_profile
from nblauncher.survey import Facts

log = logging.getLogger(__name__)

AT_ONCE = 2
"""Students whose homes are written at the same time."""

MATERIAL = "material"
PROFILE = "profile"


@dataclass
class Parcel:
    """What goes out of one kind: where it lands below a home, and its content once the first step has read it."""

    kind: str
    target: str
    index: Index
    profile: ProfileFiles | None = None
    bundle: Bundle | None = None
    problem: HostError | None = None
    """Why it was not read."""

    def open(self, host: Host, paths: Collection[str]) -> None:
        """What the host says no to (a full disk) is everybody's failure in sending, and in nothing else."""
        try:
            if self.profile is not None:
                self.bundle = self.profile.spool(host.paths.state)
            else:
                self.bundle = material.spool(host.settings.material, host.owner, paths, host.paths.state)
        except HostError as error:
            log.error("the %s was not read: %s", self.kind, error.problem)
            self.problem = error

    @property
    def opened(self) -> Bundle:
        if self.bundle is None:
            why = self.problem or HostError("it was not asked for")
            raise HostError(f"the {self.kind} was not read: {why.problem}", why.hint)
        return self.bundle


@dataclass(frozen=True)
class Outgoing:
    """Everything that a course hands out now."""

    parcels: tuple[Parcel, ...] = ()
    today: date = field(default_factory=date.today)
    restores_deleted: bool = False
    """Whether what a student deleted goes out once more."""

    def descriptors(self) -> tuple[int, ...]:
        return tuple(parcel.bundle.descriptor for parcel in self.parcels if parcel.bundle is not None)


def read(host: Host, *, restores_deleted: bool = False) -> Outgoing:
    """Look at material and profile, as the owner. InputError when they cannot be handed out."""
    index = material.index(host.settings.material, host.owner, previous=material.recall(_remembered(host)))
    parcels = [Parcel(MATERIAL, host.settings.material.target, index)]
    if host.settings.profile:
        profile = read_profile(host.owner, host.settings.profile)
        parcels.insert(0, Parcel(PROFILE, profile.target, profile.index, profile))
    return Outgoing(tuple(parcels), restores_deleted=restores_deleted)


def prepare(host: Host, usernames: Sequence[str], *, restores_deleted: bool = False) -> Plan:
    """Survey and plan. With `restores_deleted` every home is looked at, for files of the material that are gone."""
    facts = survey.survey(host, usernames)
    served = [name for name in usernames if name in facts.members and name not in facts.locked]
    outgoing = read(host, restores_deleted=restores_deleted)
    handed_out = {parcel.kind: host.course_ledger.all_handed_out(parcel.kind) for parcel in outgoing.parcels}
    remarks = (*notes(usernames, facts), *_unserved(usernames, facts), *_left_out(outgoing))
    return Plan(plan(served, facts, outgoing, handed_out), remarks)


def plan(
    usernames: Sequence[str],
    facts: Facts,
    outgoing: Outgoing,
    handed_out: Mapping[str, Mapping[str, Mapping[str, HandedOut]]],
) -> tuple[Phase, ...]:
    """Who still lacks what. `handed_out` is kind → username → path; that of another account of the name is void."""
    lacking: dict[str, dict[str, Item]] = {}
    needed: dict[str, set[str]] = {parcel.kind: set() for parcel in outgoing.parcels}
    for name in usernames:
        for parcel in outgoing.parcels:
            given = handed_out.get(parcel.kind, {}).get(name, {}) if name in facts.with_records else {}
            items = delivery.pending(parcel.index, given, restores_deleted=outgoing.restores_deleted)
            if items:
                lacking.setdefault(name, {}).update({item.path: item for item in items})
                needed[parcel.kind] |= {item.path for item in items}
    if not lacking:
        return ()
    return (
        Phase("read what goes out", (ReadParcels(outgoing, needed),)),
        Phase(
            "send",
            tuple(SendTo(name, outgoing) for name in lacking),
            parallel=AT_ONCE,
            descriptors=outgoing.descriptors,
        ),
    )


@dataclass(frozen=True)
class ReadParcels:
    """The owner's child reads, root spools; students' children get it from the spool."""

    outgoing: Outgoing
    paths: Mapping[str, Collection[str]]
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        count = sum(len(paths) for paths in self.paths.values())
        return f"read {count} files that go out"

    def apply(self, host: Host) -> None:
        for parcel in self.outgoing.parcels:
            parcel.open(host, self.paths[parcel.kind])
            if parcel.kind == MATERIAL and parcel.problem is None:
                material.remember(parcel.index, _remembered(host))


@dataclass(frozen=True)
class SendTo:
    username: str
    outgoing: Outgoing

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)

    def describe(self) -> str:
        return f"send to {self.username}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        account = survey.student_account(host, self.username)
        works: list[Work] = []
        for parcel in self.outgoing.parcels:
            given = host.course_ledger.handed_out(self.username, parcel.kind)
            restores = self.outgoing.restores_deleted
            items = delivery.pending(parcel.index, given, restores_deleted=restores)
            if not items:
                continue
            delivered = delivery.deliver(
                account, parcel.target, items, parcel.opened, given, self.outgoing.today, restores_deleted=restores
            )
            host.course_ledger.record_handed_out(self.username, parcel.kind, delivered.handed_out)
            delivered.check()
            works.append(delivered.work)
        exclusions = [exclusion for work in works for exclusion in work.exclusions]
        return {
            self.username: work_details(
                sum(work.files for work in works), sum(work.bytes for work in works), exclusions
            )
        }


def _unserved(usernames: Sequence[str], facts: Facts) -> tuple[str, ...]:
    return tuple(
        f"{name} gets nothing: the removal began and did not finish; `nblauncher setup` takes it back"
        for name in usernames
        if name in facts.members and name in facts.locked
    )


def _left_out(outgoing: Outgoing) -> tuple[str, ...]:
    return tuple(
        f"{parcel.kind}: {one.path}: {one.reason}" for parcel in outgoing.parcels for one in parcel.index.exclusions
    )


def _remembered(host: Host) -> Path:
    """What the material was like last time, so that unchanged files are not read again."""
    return host.paths.state / "material.json"
