"""send: the teacher's material (and profile) into every home that lacks it, as the student."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

from nblauncher import delivery, examining, material, merging, signing, survey
from nblauncher.commands.retrieve import notes, work_details
from nblauncher.errors import HostError
from nblauncher.host import Host
from nblauncher.material import Bundle, Index
from nblauncher.model import Account, HandedOut, Work
from nblauncher.packing import Item
from nblauncher.plan import Details, Phase, Plan
from nblauncher.profile import ProfileFiles, read_profile
from nblauncher.survey import Facts

log = logging.getLogger(__name__)

AT_ONCE = 2
"""Students whose homes are written at the same time."""

_NAMED = 5
"""Files that a note lists by name."""

AllHandedOut = Mapping[str, Mapping[str, Mapping[str, HandedOut]]]
"""kind → username → path."""

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

    def open(self, host: Host, needed: Needed) -> None:
        """What the host says no to (a full disk) is everybody's failure in sending, and in nothing else."""
        versions = host.versions
        try:
            if self.profile is not None:
                self.bundle = self.profile.spool(host.paths.state, versions=versions, bases=needed.bases)
            else:
                source = host.settings.material
                self.bundle = material.spool(
                    source, host.owner, needed.paths, host.paths.state, versions=versions, bases=needed.bases
                )
        except HostError as error:
            log.error("the %s was not read: %s", self.kind, error.problem)
            self.problem = error

    @property
    def opened(self) -> Bundle:
        if self.bundle is None:
            why = self.problem or HostError("it was not asked for")
            raise HostError(f"the {self.kind} was not read: {why.problem}", why.hint)
        return self.bundle


@dataclass
class Needed:
    """What has to be read of one kind: paths of the material, and earlier versions (sha256) for merging."""

    paths: set[str] = field(default_factory=set)
    bases: set[str] = field(default_factory=set)

    def add(self, items: Collection[Item], given: Mapping[str, HandedOut]) -> None:
        self.paths |= {item.path for item in items}
        known = ((item, given[item.path]) for item in items if item.path in given)
        self.bases |= {one.made_of for item, one in known if one.made_of and one.sha256 != item.sha256}


@dataclass(frozen=True)
class Outgoing:
    """Everything that a course hands out now."""

    parcels: tuple[Parcel, ...] = ()
    today: date = field(default_factory=date.today)
    restores_deleted: bool = False
    """Whether what a student deleted goes out once more."""
    only_new: bool = False
    """Whether only files go out of which a student never had a version."""
    trusts: bool = False
    """Whether notebooks of the teacher's are signed as the student."""

    def pending(self, parcel: Parcel, given: Mapping[str, HandedOut]) -> tuple[Item, ...]:
        return delivery.pending(parcel.index, given, restores_deleted=self.restores_deleted, only_new=self.only_new)

    def descriptors(self) -> tuple[int, ...]:
        return tuple(parcel.bundle.descriptor for parcel in self.parcels if parcel.bundle is not None)


def read(host: Host, *, restores_deleted: bool = False, only_new: bool = False) -> Outgoing:
    """Look at material and profile, as the owner. InputError when they cannot be handed out."""
    index = material.index(host.settings.material, host.owner, previous=material.recall(_remembered(host)))
    parcels = [Parcel(MATERIAL, host.settings.material.target, index)]
    if host.settings.profile:
        profile = read_profile(host.owner, host.settings.profile)
        parcels.insert(0, Parcel(PROFILE, profile.target, profile.index, profile))
    trusts = host.settings.material.trust
    return Outgoing(tuple(parcels), restores_deleted=restores_deleted, only_new=only_new, trusts=trusts)


def prepare(host: Host, usernames: Sequence[str], *, restores_deleted: bool = False, only_new: bool = False) -> Plan:
    """Survey and plan. With `restores_deleted` every home is looked at, for files of the material that are gone."""
    facts = survey.survey(host, usernames)
    served = [name for name in usernames if name in facts.members and name not in facts.locked]
    outgoing = read(host, restores_deleted=restores_deleted, only_new=only_new)
    handed_out = {parcel.kind: host.course_ledger.all_handed_out(parcel.kind) for parcel in outgoing.parcels}
    remarks = (*notes(usernames, facts), *_unserved(usernames, facts), *_left_out(outgoing))
    remarks += broken(host, served, facts, outgoing, handed_out)
    return Plan((*plan(served, facts, outgoing, handed_out), *first_time(served, facts)), remarks)


def plan(
    usernames: Sequence[str],
    facts: Facts,
    outgoing: Outgoing,
    handed_out: AllHandedOut,
) -> tuple[Phase, ...]:
    """Who still lacks what."""
    lacking: dict[str, None] = {}
    needed = {parcel.kind: Needed() for parcel in outgoing.parcels}
    for name in usernames:
        for parcel in outgoing.parcels:
            given = _given(name, parcel, facts, handed_out)
            items = outgoing.pending(parcel, given)
            if items:
                lacking[name] = None
                needed[parcel.kind].add(items, given)
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


def first_time(usernames: Sequence[str], facts: Facts) -> tuple[Phase, ...]:
    """From then on new material reaches these students by `send` alone, and no longer by `setup` or `reload`."""
    newcomers = tuple(name for name in usernames if name not in facts.with_material)
    return (Phase("remember", (RememberMaterial(newcomers),)),) if newcomers else ()


def unsent(
    usernames: Sequence[str],
    outgoing: Outgoing,
    handed_out: AllHandedOut,
) -> tuple[str, ...]:
    """In words, what these students were not given yet."""
    lacking: dict[str, int] = {}
    students = 0
    for name in usernames:
        items = [
            item
            for parcel in outgoing.parcels
            for item in outgoing.pending(parcel, handed_out.get(parcel.kind, {}).get(name, {}))
        ]
        students += bool(items)
        for item in items:
            lacking[item.path] = lacking.get(item.path, 0) + 1
    if not lacking:
        return ()
    named = sorted(lacking)
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    who = "1 student who is" if students == 1 else f"{students} students who are"
    return (f"not sent to {who} here already: {', '.join(named[:_NAMED])}{more}; `nblauncher send` does that",)


@dataclass(frozen=True)
class RememberMaterial:
    """Students who have everything that there was to hand out."""

    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"remember that {len(self.usernames)} students have the material"

    def apply(self, host: Host) -> None:
        host.course_ledger.set_material_done(self.usernames)


@dataclass(frozen=True)
class ReadParcels:
    """The owner's child reads, root spools; students' children get it from the spool."""

    outgoing: Outgoing
    needed: Mapping[str, Needed]
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        count = sum(len(needed.paths) for needed in self.needed.values())
        return f"read {count} files that go out"

    def apply(self, host: Host) -> None:
        """What no student was given last, nor has made something of, makes room first."""
        host.versions.prune(host.course_ledger.versions())
        if any(needed.bases for needed in self.needed.values()):
            merging.load()  # once, and not in every student's child
        if self.outgoing.trusts:
            signing.load()
        for parcel in self.outgoing.parcels:
            parcel.open(host, self.needed[parcel.kind])
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
        changes: list[delivery.Change] = []
        for parcel in self.outgoing.parcels:
            given = host.course_ledger.handed_out(self.username, parcel.kind)
            items = self.outgoing.pending(parcel, given)
            if not items:
                continue
            delivered = delivery.deliver(
                account,
                parcel.target,
                items,
                parcel.opened,
                given,
                self.outgoing.today,
                restores_deleted=self.outgoing.restores_deleted,
                news_time=_news_time(parcel, given),
            )
            host.course_ledger.record_handed_out(self.username, parcel.kind, delivered.handed_out)
            delivered.check()
            works.append(delivered.work)
            changes += delivered.changes
            if self.outgoing.trusts and parcel.kind == MATERIAL:
                changes += _signed(account, parcel, delivered.trusted)
        exclusions = [exclusion for work in works for exclusion in work.exclusions]
        details = work_details(sum(work.files for work in works), sum(work.bytes for work in works), exclusions)
        rows = [{"path": one.path, "change": one.change, "detail": one.detail} for one in changes]
        return {self.username: {**details, "changes": rows}}


def _signed(account: Account, parcel: Parcel, trusted: Mapping[str, str]) -> tuple[delivery.Change, ...]:
    """What is delivered stays so where the student's key cannot be used: the teacher is only told."""
    if trusted:
        bundle = parcel.opened
        try:
            signing.sign(account, parcel.target, trusted, bundle.descriptor, bundle.bases)
        except HostError as error:
            return (delivery.Change(parcel.target, "not trusted", error.problem),)
    return ()


def _news_time(parcel: Parcel, given: Mapping[str, HandedOut]) -> str:
    """When, for the student's news; '' where everything is new to the student, or the teacher has a file there."""
    is_told = parcel.kind == MATERIAL and given and not any(item.path == delivery.NEWS for item in parcel.index.items)
    return datetime.now().astimezone().strftime("%A %-d %B %Y, %H:%M") if is_told else ""


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


def _given(username: str, parcel: Parcel, facts: Facts, handed_out: AllHandedOut) -> Mapping[str, HandedOut]:
    """What was given to another account of the name is void."""
    return handed_out.get(parcel.kind, {}).get(username, {}) if username in facts.with_records else {}


def broken(
    host: Host, usernames: Sequence[str], facts: Facts, outgoing: Outgoing, handed_out: AllHandedOut
) -> tuple[str, ...]:
    """Notebooks that go out to these students and that nobody can open. They are the teacher's to mend."""
    paths = {
        item.path
        for parcel in outgoing.parcels
        if parcel.kind == MATERIAL
        for name in usernames
        for item in outgoing.pending(parcel, _given(name, parcel, facts, handed_out))
    }
    try:
        found = examining.faults(host.owner, host.settings.material.source, paths)
    except HostError as error:
        return (f"{MATERIAL}: the notebooks were not looked at: {error.problem}",)
    return tuple(f"{MATERIAL}: {path}: not a valid notebook: {words}" for path, words in found.items())


def _remembered(host: Host) -> Path:
    """What the material was like last time, so that unchanged files are not read again."""
    return host.paths.state / "material.json"
