"""send: the teacher's material (and profile) into every home that lacks it, as the student."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

from nblauncher.commands.retrieve import notes, work_details
from nblauncher.errors import HostError
from nblauncher.exchange import merge
from nblauncher.exchange.send import delivery, material, notebook_check, signing
from nblauncher.exchange.send.material import Bundle, Index
from nblauncher.exchange.send.profile import ProfileFiles, read_profile
from nblauncher.exchange.send.teacher_side import Item
from nblauncher.model import Account, HandedOut, Material, Work
from nblauncher.planning import survey
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Details, ForOne, Phase, Plan
from nblauncher.planning.survey import Facts
from nblauncher.supervisor import client

log = logging.getLogger(__name__)

AT_ONCE = 2
"""Homes written at the same time."""

_NAMED = 5
"""Files that a note lists by name."""

AllHandedOut = Mapping[str, Mapping[str, Mapping[str, HandedOut]]]
"""kind → username → path."""

CHANGED = "new version"
"""In a preview: updated, or merged if the student changed the file too."""

MATERIAL = "material"
PROFILE = "profile"

_SEEN = frozenset({"updated", "merged", "conflict"})
"""Changes of files that a student may have open."""


@dataclass
class Parcel:
    """What is sent of one kind: its place below a home, and its content once the first step has read it."""

    kind: str
    target: str
    index: Index
    source: Material | None = None
    """What it is read from; None for the profile."""
    profile: ProfileFiles | None = None
    remembered: Path | None = None
    """The file that keeps the index for the next run."""
    tells_news: bool = False
    """Whether a note in the home says what was changed; the teacher's own file of that name is never touched."""
    bundle: Bundle | None = None
    problem: HostError | None = None
    """Why it was not read."""

    def open(self, host: Host, needed: Needed) -> None:
        """A HostError (such as a full disk) fails the sending for every student, and nothing else."""
        versions = host.versions
        try:
            if self.profile is not None:
                self.bundle = self.profile.spool(host.paths.state, versions=versions, bases=needed.bases)
            if self.source is not None:
                self.bundle = material.spool(
                    self.source, host.owner, needed.paths, host.paths.state, versions=versions, bases=needed.bases
                )
        except HostError as error:
            log.error("the %s was not read: %s", self.kind, error.problem)
            self.problem = error

    @property
    def opened(self) -> Bundle:
        if self.bundle is None:
            why = self.problem or HostError("it was not requested")
            raise HostError(f"the {self.kind} was not read: {why.problem}", why.hint)
        return self.bundle


@dataclass
class Needed:
    """What must be read of one kind: paths of the material, and earlier versions (sha256) for merging."""

    paths: set[str] = field(default_factory=set)
    bases: set[str] = field(default_factory=set)

    def add(self, items: Collection[Item], given: Mapping[str, HandedOut]) -> None:
        self.paths |= {item.path for item in items}
        known = ((item, given[item.path]) for item in items if item.path in given)
        self.bases |= {earlier.made_of for item, earlier in known if earlier.made_of and earlier.sha256 != item.sha256}


@dataclass(frozen=True)
class Outgoing:
    """Everything that the course hands out now."""

    parcels: tuple[Parcel, ...] = ()
    today: date = field(default_factory=date.today)
    restores_deleted: bool = False
    """Whether deleted files are sent again."""
    only_new: bool = False
    """Whether only files are sent that the student never had in any version."""
    trusts: bool = False
    """Whether the teacher's notebooks are signed as the student."""

    def pending(self, parcel: Parcel, given: Mapping[str, HandedOut]) -> tuple[Item, ...]:
        return delivery.pending(parcel.index, given, restores_deleted=self.restores_deleted, only_new=self.only_new)

    def descriptors(self) -> tuple[int, ...]:
        return tuple(parcel.bundle.descriptor for parcel in self.parcels if parcel.bundle is not None)


def read(host: Host, *, restores_deleted: bool = False, only_new: bool = False) -> Outgoing:
    """Look at material and profile, as the owner. InputError when they cannot be handed out."""
    source, remembered = host.settings.material, remembered_index(host)
    index = material.index(source, host.owner, previous=material.recall(remembered))
    is_told = all(item.path != delivery.NEWS for item in index.items)
    parcels = [Parcel(MATERIAL, source.target, index, source, remembered=remembered, tells_news=is_told)]
    if host.settings.profile:
        profile = read_profile(host.owner, host.settings.profile)
        parcels.insert(0, Parcel(PROFILE, profile.target, profile.index, profile=profile))
    return Outgoing(tuple(parcels), restores_deleted=restores_deleted, only_new=only_new, trusts=source.trust)


def prepare(host: Host, usernames: Sequence[str], *, restores_deleted: bool = False, only_new: bool = False) -> Plan:
    """Survey and plan. With `restores_deleted` every home is searched for deleted files of the material."""
    facts = survey.survey(host, usernames)
    outgoing = read(host, restores_deleted=restores_deleted, only_new=only_new)
    planned = plan_for(host, usernames, facts, outgoing)
    return Plan((*planned.phases, *first_time(served(usernames, facts), facts)), planned.notes)


def plan_for(host: Host, usernames: Sequence[str], facts: Facts, outgoing: Outgoing) -> Plan:
    """Send this to each of these students who lacks it, and say what cannot be sent."""
    those = served(usernames, facts)
    handed_out = {parcel.kind: host.course_ledger.all_handed_out(parcel.kind) for parcel in outgoing.parcels}
    remarks = (*notes(usernames, facts), *unserved(usernames, facts), *_left_out(outgoing))
    remarks += broken(host, those, facts, outgoing, handed_out)
    return Plan(plan(those, facts, outgoing, handed_out), remarks)


def served(usernames: Sequence[str], facts: Facts) -> list[str]:
    return [name for name in usernames if name in facts.members and name not in facts.locked]


def plan(
    usernames: Sequence[str],
    facts: Facts,
    outgoing: Outgoing,
    handed_out: AllHandedOut,
) -> tuple[Phase, ...]:
    """Send to each student what is still missing."""
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


def preview(host: Host, plan: Plan) -> dict[str, list[dict[str, str]]]:
    """username → path and change of each file that a plan sends, as the ledger knows the homes; none is opened."""
    wanted = [(name, step.outgoing) for step in plan.steps if isinstance(step, SendTo) for name in step.usernames]
    facts = survey.survey(host, [name for name, _ in wanted])
    kinds = {parcel.kind for _, outgoing in wanted for parcel in outgoing.parcels}
    handed_out = {kind: host.course_ledger.all_handed_out(kind) for kind in kinds}
    found: dict[str, list[dict[str, str]]] = {}
    for name, outgoing in wanted:
        for parcel in outgoing.parcels:
            given = _given(name, parcel, facts, handed_out)
            found.setdefault(name, []).extend(
                {"path": item.path, "change": delivery.NEW if item.path not in given else CHANGED, "detail": ""}
                for item in outgoing.pending(parcel, given)
            )
    return found


def first_time(usernames: Sequence[str], facts: Facts) -> tuple[Phase, ...]:
    """From then on only `send` delivers new material to these students, no longer `setup` or `reload`."""
    newcomers = tuple(name for name in usernames if name not in facts.with_material)
    return (Phase("remember", (RememberMaterial(newcomers),)),) if newcomers else ()


def unsent(
    usernames: Sequence[str],
    outgoing: Outgoing,
    handed_out: AllHandedOut,
) -> tuple[str, ...]:
    """In words, what was not sent to these students yet."""
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
    group = "1 student" if students == 1 else f"{students} students"
    return (f"not sent to {group} set up earlier: {', '.join(named[:_NAMED])}{more}; `nblauncher send` does that",)


@dataclass(frozen=True)
class RememberMaterial:
    """From now on these students have all of the material."""

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
        """First delete the versions that no student has and no student's file is based on."""
        host.versions.prune(host.course_ledger.versions())
        if any(needed.bases for needed in self.needed.values()):
            merge.load()  # once, and not in every student's child
        if self.outgoing.trusts:
            signing.load()
        for parcel in self.outgoing.parcels:
            parcel.open(host, self.needed[parcel.kind])
            if parcel.remembered is not None and parcel.problem is None:
                material.remember(parcel.index, parcel.remembered)


@dataclass(frozen=True)
class SendTo(ForOne):
    outgoing: Outgoing

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
            shipment = delivery.Shipment(
                parcel.target,
                items,
                parcel.opened,
                given,
                self.outgoing.today,
                restores_deleted=self.outgoing.restores_deleted,
                news_time=_news_time(parcel, given),
            )
            delivered = delivery.deliver(account, shipment)
            host.course_ledger.record_handed_out(self.username, parcel.kind, delivered.handed_out)
            delivered.check()
            works.append(delivered.work)
            changes += delivered.changes
            if self.outgoing.trusts and parcel.kind == MATERIAL:
                changes += _signed(account, parcel, delivered.trusted)
        exclusions = [exclusion for work in works for exclusion in work.exclusions]
        details = work_details(sum(work.files for work in works), sum(work.bytes for work in works), exclusions)
        tell_changed(host, self.username, changes)
        rows = [{"path": change.path, "change": change.change, "detail": change.detail} for change in changes]
        return {self.username: {**details, "changes": rows}}


def tell_changed(host: Host, username: str, changes: Sequence[delivery.Change]) -> None:
    """Pages in which the student has one of these files open load the new version, or ask. Without effect if the class
    does not run, or runs with an older release.
    """
    target = host.settings.material.target
    paths = [f"{target}/{change.path}" for change in changes if change.change in _SEEN]
    if not paths:
        return
    try:
        supervisor = client.connect(host.paths)
        if supervisor is not None:
            with supervisor:
                supervisor.tell_changed(username, paths)
    except HostError as error:
        log.info("%s's open pages are not told what was sent: %s", username, error.problem)


def _signed(account: Account, parcel: Parcel, trusted: Mapping[str, str]) -> tuple[delivery.Change, ...]:
    """If the student's key cannot be used, the delivery stands and the teacher is told."""
    if trusted:
        bundle = parcel.opened
        try:
            signing.sign(account, parcel.target, trusted, bundle.descriptor, bundle.bases)
        except HostError as error:
            return (delivery.Change(parcel.target, "not trusted", error.problem),)
    return ()


def _news_time(parcel: Parcel, given: Mapping[str, HandedOut]) -> str:
    """The time for the student's news; '' if everything is new to the student, or the teacher has a file there."""
    return news_time() if parcel.tells_news and given else ""


def news_time() -> str:
    """The heading of news that are told now."""
    return datetime.now().astimezone().strftime("%A %-d %B %Y, %H:%M")


def unserved(usernames: Sequence[str], facts: Facts) -> tuple[str, ...]:
    return tuple(
        f"{name} gets nothing: the removal began and did not finish; `nblauncher setup` reverts it"
        for name in usernames
        if name in facts.members and name in facts.locked
    )


def _left_out(outgoing: Outgoing) -> tuple[str, ...]:
    return tuple(
        f"{parcel.kind}: {exclusion.path}: {exclusion.reason}"
        for parcel in outgoing.parcels
        for exclusion in parcel.index.exclusions
    )


def _given(username: str, parcel: Parcel, facts: Facts, handed_out: AllHandedOut) -> Mapping[str, HandedOut]:
    """What was handed out to an earlier account of that name does not count."""
    return handed_out.get(parcel.kind, {}).get(username, {}) if username in facts.with_records else {}


def broken(
    host: Host, usernames: Sequence[str], facts: Facts, outgoing: Outgoing, handed_out: AllHandedOut
) -> tuple[str, ...]:
    """Invalid notebooks that are sent to these students. The teacher has to repair them."""
    words: list[str] = []
    for parcel in outgoing.parcels:
        source = parcel.source
        if source is None:
            continue
        paths = {
            material.below_source(source, item.path): item.path
            for name in usernames
            for item in outgoing.pending(parcel, _given(name, parcel, facts, handed_out))
        }
        try:
            found = notebook_check.faults(host.owner, source.source, paths)
        except HostError as error:
            words.append(f"{MATERIAL}: the notebooks were not checked: {error.problem}")
        else:
            words += [f"{MATERIAL}: {paths[path]}: not a valid notebook: {why}" for path, why in found.items()]
    return tuple(words)


def remembered_index(host: Host) -> Path:
    """The last index of the material, so that unchanged files are not read again."""
    return host.paths.state / "material.json"
