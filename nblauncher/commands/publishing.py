"""After a deadline: the captured work into the teacher's store, a signed receipt into each home, and what it proves."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from nblauncher import delivery, files, material, moments, receipts, receiving, replaying, store, survey, workers
from nblauncher.commands import copies
from nblauncher.commands.copies import Round
from nblauncher.commands.pending import pending
from nblauncher.commands.retrieve import work_details
from nblauncher.deadlines import Moment
from nblauncher.errors import HostError
from nblauncher.host import Host
from nblauncher.ledger import Capture
from nblauncher.model import Deadline, Exclusion
from nblauncher.objects import ObjectStore
from nblauncher.plan import Details, SomeFailed
from nblauncher.printable import printable
from nblauncher.scope import ALL, Scope

log = logging.getLogger(__name__)

RECEIPTS = "receipts"
"""Below the home."""
_MOST_LEFT_OUT = 200
_LONGEST_PATH = 80


@dataclass(frozen=True)
class PublishCapture:
    """Into the teacher's store, as a retrieval of its own."""

    round: Round
    deadline: Deadline
    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"put {copies.what(self.deadline)} of {len(self.usernames)} students into the store"

    def apply(self, host: Host) -> Mapping[str, Details]:
        wanted = [one for one in self.round.moments if one.deadline == self.deadline and one.username in self.usernames]
        done = copies.stored(host)
        wanted = [one for one in wanted if copies.moment_id(one) not in done]
        captured = {one.username: known for one in wanted if (known := copies.load(host, one)) and known.captured}
        if not captured:
            return {}
        at = min(known.captured for known in captured.values() if known.captured).astimezone()
        staging = store.open_staging(host.owner, host.settings.retrieve.target, at)
        answers: dict[str, Mapping[str, Any]] = {}
        failures: dict[str, str] = {}
        for moment in wanted:
            if (known := captured.get(moment.username)) is None:
                continue
            try:
                answers[moment.username] = self._publish(host, staging, moment, known)
            except HostError as error:
                store.discard_student(host.owner, staging.target, staging.name, moment.username)
                failures[moment.username] = error.problem
        if not answers:
            store.discard(host.owner, staging)
            raise SomeFailed(failures)
        uids = host.course_ledger.uids()
        folder = self.round.folders[self.deadline.name] = store.publish(host.owner, staging, self._part(host, answers))
        host.course_ledger.record_remarks(
            {
                copies.moment_id(moment): (words, is_complete(captured[moment.username]))
                for moment in wanted
                if moment.username in answers and (words := remark(captured[moment.username]))
            }
        )
        host.course_ledger.record_captures(
            Capture(
                moment.deadline.name,
                moment.username,
                uids[moment.username],
                moment.at,
                copies.time_of(captured[moment.username]),
                folder,
                str(answers[moment.username]["manifest"]),
                _remark(captured[moment.username]),
            )
            for moment in wanted
            if moment.username in answers and moment.username in uids
        )
        if failures:
            raise SomeFailed(failures)
        about = {one.username: copies.about(one, captured[one.username]) for one in wanted if one.username in captured}
        return {
            name: work_details(one["files"], one["bytes"], [Exclusion(*row) for row in one["exclusions"]])
            | {key: about[name][key] for key in ("deadline", "captured", "late")}
            for name, one in answers.items()
        }

    def _part(self, host: Host, usernames: Collection[str]) -> str:
        folder = self.deadline.folder
        students = store.students_part(usernames, host.ledger.members(host.settings.course))
        return "-".join(filter(None, ("deadline", folder and store.folder_part(folder), students)))

    def _publish(self, host: Host, staging: store.Staging, moment: Moment, known: copies.Copy) -> Mapping[str, Any]:
        handed_out = host.course_ledger.handed_out(moment.username, "material")
        order = receiving.Order(
            staging.target,
            staging.name,
            moment.username,
            Scope(ALL, host.settings.material.target, handed_out),
            host.settings.retrieve,
            copies.time_of(known).astimezone().isoformat(timespec="seconds"),
            {"deadline": copies.about(moment, known)},
        )
        folder = moment.deadline.folder
        kept = {f"{folder}/{path}" if folder else path: one for path, one in known.files.items()}
        left_out = [
            Exclusion(files.join(folder, one.path).rstrip("/"), one.reason, one.incomplete) for one in known.exclusions
        ]
        return replaying.publish(host.owner, order, kept, left_out, ObjectStore(copies.objects(host)))


@dataclass(frozen=True)
class GiveReceipt:
    """Signed, into the home, as the student."""

    moment: Moment

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.moment.username,)

    def describe(self) -> str:
        return f"give {self.moment.username} a receipt"

    def apply(self, host: Host) -> None:
        moment = self.moment
        known = copies.load(host, moment)
        done = copies.stored(host).get(copies.moment_id(moment))
        if known is None or done is None:
            return
        about = {
            "nblauncher": 1,
            "course": host.settings.course,
            "username": moment.username,
            **copies.about(moment, known),
            "files": [
                {"path": path, "size": one.size, "sha256": one.sha256, **_lateness(known, path)}
                for path, one in sorted(known.files.items())
            ],
            "complete": is_complete(known),
            "left_out": [[one.path, one.reason] for one in known.exclusions[:_MOST_LEFT_OUT]],
            "manifest_sha256": done.manifest,
        }
        name = f"{_name_of(moment.deadline)} {moment.at.astimezone():%Y-%m-%d %H.%M.%S}.json"
        content = {name: receipts.signed(about, receipts.key(host.paths.receipt_key))}
        account = survey.student_account(host, moment.username)
        with material.bundle_of(content, host.paths.state) as bundle:
            given = delivery.deliver(account, RECEIPTS, bundle.items.values(), bundle, {}, date.today())
        given.check()
        if blocked := [one.detail for one in given.outcomes if one.outcome == delivery.BLOCKED]:
            log.warning("%s got no receipt: %s", moment.username, blocked[0])


@dataclass(frozen=True)
class ClearAway:
    """What is in the store need not be kept twice."""

    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "clear what is in the store"

    def apply(self, host: Host) -> None:
        done = {copies.key_of(name, at) + username for name, username, at in copies.stored(host)}
        to_come = {copies.key_of(one.deadline.name, one.at) + one.username for one in pending(host)[0]}
        wanted: set[str] = set()
        for file in host.paths.captures.glob("*/*.json"):
            key, known = file.parent.name + file.stem, copies.read(file)
            is_moved = key not in to_come and (known is None or known.captured is None)
            if key in done or is_moved:  # what was copied beforehand for a moment that was put off is of no use
                file.unlink()
            else:
                wanted |= {one.sha256 for one in known.files.values()} if known else set()
        for folder in host.paths.captures.glob("*"):
            with contextlib.suppress(OSError):
                folder.rmdir()
        ObjectStore(copies.objects(host)).prune(wanted)


def is_complete(known: copies.Copy) -> bool:
    return not any(one.incomplete for one in known.exclusions)


def remark(known: copies.Copy) -> str:
    """Why this capture is incomplete, or where else its folder was found; '' when there is nothing to say."""
    said = [one for one in known.exclusions if one.incomplete or not one.path]
    said.sort(key=lambda one: (one.path != "", not one.incomplete))
    if not said:
        return ""
    more = f" and {len(said) - 1} more" if len(said) > 1 else ""
    return f"{said[0].path[-_LONGEST_PATH:] + ': ' if said[0].path else ''}{said[0].reason}{more}"


def verify(host: Host, data: bytes) -> tuple[str, dict[str, Any]]:
    """What a genuine receipt says, in words and as it is. InputError when it is not genuine."""
    about = receipts.verified(data, receipts.key(host.paths.receipt_key))
    name, size = str(about["username"]), sum(int(one["size"]) for one in about["files"])
    kept = [
        one
        for one in host.course_ledger.captures()
        if one.username == name and one.manifest == about["manifest_sha256"] and one.retrieved
    ]
    if not kept:
        where = "This course has no record of it any more; its own word stands."
    elif workers.run_as(
        host.owner, _has_manifest, host.settings.retrieve.target, kept[-1].retrieved, name, kept[-1].manifest
    ):
        where = f"The work is in {host.settings.retrieve.target / kept[-1].retrieved / name}, with this manifest."
    else:
        where = f"{kept[-1].retrieved} is not in the store any more as it was written."
    later = [
        one
        for one in host.course_ledger.captures()
        if (one.username, one.name) == (name, about["deadline"])
        and one.manifest != about["manifest_sha256"]
        and one.at > datetime.fromisoformat(about["at"])
    ]
    if later:
        where += (
            f"\nIt is superseded: the moment was put off, and the work was captured once more at "
            f"{moments.short(later[-1].captured)}; that is in {later[-1].retrieved}."
        )
    late = ", LATE" if about["late"] else ""
    what = f"{len(about['files'])} files, {size} bytes"
    if after := [one for one in about["files"] if one.get("late")]:
        what = f"{what}; {len(after)} of the files LATE, changed after the moment"
    if about.get("complete") is False:
        what += ", INCOMPLETE"
    if told := [f"{path + ': ' if path else ''}{reason}" for path, reason in about.get("left_out", ())]:
        what += f" ({printable('; '.join(told[:3]))})"
    return f"Genuine: {name}, {about['deadline']}, captured at {about['captured']}{late}; {what}.\n{where}", about


def _lateness(known: copies.Copy, path: str) -> dict[str, Any]:
    """A file that changed after the moment is late, unless what is kept is an earlier version."""
    late = known.late.get(path)
    return {"late": True} if late is not None and late.seen is None else {}


def _remark(known: copies.Copy) -> str:
    left_out = [one for one in known.exclusions if one.incomplete]
    if not left_out:
        return ""
    return f"{left_out[0].path}: {left_out[0].reason}".removeprefix(": ") + (", and more" if left_out[1:] else "")


def _has_manifest(target: Path, folder: str, username: str, sha256: str) -> bool:
    """Runs as the teacher."""
    try:
        content = (target / folder / username / "manifest.json").read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content).hexdigest() == sha256


def _name_of(deadline: Deadline) -> str:
    return deadline.folder.replace("/", "-") or "everything"
