"""send --last-retrieved: each student's work of the last retrieval, back into the home: for homes that are new.

The way of all material: the teacher's child reads, the student's child writes, and nothing of the student's is
overwritten. What the file is based on stays remembered, so that later versions of the material are merged with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

from nblauncher.commands import send
from nblauncher.commands.retrieve import notes, work_details
from nblauncher.errors import HostError
from nblauncher.exchange import rows
from nblauncher.exchange.retrieve.scope import ALL, CHANGED, HOME
from nblauncher.exchange.send import delivery, material, stored_work
from nblauncher.exchange.send.teacher_side import MAX_DEPTH
from nblauncher.ledger import Retrieval
from nblauncher.model import UNRELATED, Exclusion, HandedOut, Material
from nblauncher.planning import survey
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Details, ForOne, Phase, Plan
from nblauncher.planning.survey import Facts
from nblauncher.system.streams import frames_of

RETURNED = "returned"
"""The kind of what the ledger remembers: the retrievals that were brought back, by their folder."""

_TIME = len("2026-11-20T091500+0100")
_STALL, _LONGEST = 60.0, 3600.0
_THERE = (delivery.NEW, delivery.UPDATED)


def prepare(host: Host, usernames: Sequence[str]) -> Plan:
    """Survey and plan: only what was not brought back yet."""
    facts = survey.survey(host, usernames)
    done = host.course_ledger.all_handed_out(RETURNED, usernames)
    those = [name for name in send.served(usernames, facts) if name in facts.with_records]
    last = last_retrievals(host, facts)
    steps = tuple(
        ReturnWork(name, last[name].folder)
        for name in those
        if name in last and last[name].folder not in done.get(name, {})
    )
    remarks = [*notes(usernames, facts), *send.unserved(usernames, facts)]
    if without := [name for name in those if name not in last]:
        many = f"{len(without)} students" if len(without) > 1 else without[0]
        remarks.append(f"nothing was ever retrieved from {many}")
    return Plan((Phase("bring work back", steps, parallel=send.AT_ONCE),) if steps else (), tuple(remarks))


def last_retrievals(host: Host, facts: Facts) -> dict[str, Retrieval]:
    """The newest retrieval of each member, of whatever scope."""
    found: dict[str, Retrieval] = {}
    for scope in (CHANGED, ALL, HOME):
        for name, one in host.course_ledger.last_retrievals(scope).items():
            if name in facts.members and (name not in found or _time(one) > _time(found[name])):
                found[name] = one
    return found


def _time(retrieval: Retrieval) -> datetime:
    return datetime.strptime(retrieval.folder[:_TIME], "%Y-%m-%dT%H%M%S%z")


@dataclass(frozen=True)
class ReturnWork(ForOne):
    folder: str

    def describe(self) -> str:
        return f"bring the work of {self.username} back from {self.folder}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        account = survey.student_account(host, self.username)
        sent, unusable = self._listed(host)
        given = host.course_ledger.handed_out(self.username, send.MATERIAL)
        work = host.settings.retrieve.target / self.folder / self.username / "work"
        source = Material(work, host.settings.material.target)
        if not sent:
            delivered = delivery.Delivery()
        else:
            with material.spool(source, host.owner, sent, host.paths.state) as bundle:
                shipment = delivery.Shipment(
                    source.target, tuple(bundle.items.values()), bundle, _untouched(given, sent), date.today()
                )
                delivered = delivery.deliver(account, shipment)
        based = _based(delivered, given, sent)
        host.course_ledger.record_handed_out(self.username, send.MATERIAL, based)
        if delivered.failure:
            raise HostError(delivered.failure, "What was brought back stays; run the command again.")
        if not any(one.outcome == delivery.BLOCKED for one in delivered.outcomes):
            done = {self.folder: HandedOut("", 0, 0, 0, 0, UNRELATED)}
            host.course_ledger.record_handed_out(self.username, RETURNED, done)
        send.tell_changed(host, self.username, delivered.changes)
        brought = delivered.work
        details = work_details(brought.files, brought.bytes, (*brought.exclusions, *unusable))
        changes = [{"path": one.path, "change": one.change, "detail": one.detail} for one in delivered.changes]
        return {self.username: {**details, "changes": changes}}

    def _listed(self, host: Host) -> tuple[dict[str, str], list[Exclusion]]:
        """What was handed out at each path ('' for nothing), and names that cannot go back."""
        sent: dict[str, str] = {}
        unusable: list[Exclusion] = []
        order = (host.settings.retrieve.target, self.folder, self.username)
        for frame in frames_of(host.owner, stored_work.list_work, *order, stall=_STALL, longest=_LONGEST):
            for row in rows.objects(frame.header.get("rows")):
                path = rows.path(row, "path")
                try:
                    rows.utf8_path(row, "path", max_depth=MAX_DEPTH)
                except HostError as error:
                    unusable.append(Exclusion(path, f"not brought back: {error.problem}", incomplete=True))
                    continue
                if path != delivery.NEWS:
                    sent[path] = rows.sha256_or_empty(row, "sent")
        return sent, unusable


def _untouched(given: Mapping[str, HandedOut], sent: Mapping[str, str]) -> dict[str, HandedOut]:
    """What may be replaced: a file that is still as it was handed out, of the version that the work began with."""
    return {
        path: replace(known, base=UNRELATED)
        for path, known in given.items()
        if path not in sent or known.sha256 == sent[path]
    }


def _based(
    delivered: delivery.Delivery, given: Mapping[str, HandedOut], sent: Mapping[str, str]
) -> dict[str, HandedOut]:
    """The student has edited these: at their names is not what was handed out, but it is based on it."""
    return {
        one.path: HandedOut(sent[one.path], given[one.path].size if one.path in given else 0, 0, 0, 0)
        for one in delivered.outcomes
        if one.outcome in _THERE and sent.get(one.path)
    }
