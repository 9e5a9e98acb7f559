"""After a deadline: publish the captured work to the teacher's store, give signed receipts, and verify receipts."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from nblauncher.commands.deadlines import copies
from nblauncher.commands.deadlines.copies import Round
from nblauncher.commands.deadlines.pending import pending
from nblauncher.commands.retrieve import work_details
from nblauncher.config import times, trusted_files
from nblauncher.config.deadlines import Moment
from nblauncher.errors import HostError
from nblauncher.exchange.history import replay
from nblauncher.exchange.objects import ObjectStore
from nblauncher.exchange.retrieve import receipts, store, teacher_side
from nblauncher.exchange.retrieve.scope import ALL, Scope
from nblauncher.exchange.rows import exclusion_from
from nblauncher.exchange.send import delivery, material
from nblauncher.ledger import Capture
from nblauncher.model import Account, Deadline, Exclusion
from nblauncher.planning import survey
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Details, SomeFailed
from nblauncher.printable import printable
from nblauncher.system import files, workers

log = logging.getLogger(__name__)

RECEIPTS = "receipts"
"""Below the home."""
_MOST_LEFT_OUT = 200
_LONGEST_PATH = 80


@dataclass(frozen=True)
class PublishCapture:
    """Publish to the teacher's store, as a retrieval of its own."""

    round: Round
    deadline: Deadline
    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"put {copies.what(self.deadline)} of {len(self.usernames)} students into the store"

    def apply(self, host: Host) -> Mapping[str, Details]:
        captured = self._captured(host)
        if not captured:
            return {}
        at = min(copies.time_of(copy) for copy in captured.values()).astimezone()
        staging = store.open_staging(host.owner, host.settings.retrieve.target, at)
        answers: dict[Moment, Mapping[str, Any]] = {}
        failures: dict[str, str] = {}
        for moment, copy in captured.items():
            try:
                answers[moment] = self._publish(host, staging, moment, copy)
            except HostError as error:
                store.discard_student(host.owner, staging.target, staging.name, moment.username)
                failures[moment.username] = error.problem
        if not answers:
            store.discard(host.owner, staging)
            raise SomeFailed(failures)
        part = self._part(host, [moment.username for moment in answers])
        folder = self.round.folders[self.deadline.name] = store.publish(host.owner, staging, part)
        self._record(host, folder, captured, answers)
        if failures:
            raise SomeFailed(failures)
        return {moment.username: _details(moment, captured[moment], answer) for moment, answer in answers.items()}

    def _captured(self, host: Host) -> dict[Moment, copies.Copy]:
        """What was captured and is not in the store yet."""
        done = copies.stored(host)
        wanted = [
            moment
            for moment in self.round.moments
            if moment.deadline == self.deadline
            and moment.username in self.usernames
            and copies.moment_id(moment) not in done
        ]
        return {moment: copy for moment in wanted if (copy := copies.load(host, moment)) and copy.captured}

    def _record(
        self,
        host: Host,
        folder: str,
        captured: Mapping[Moment, copies.Copy],
        answers: Mapping[Moment, Mapping[str, Any]],
    ) -> None:
        uids = host.course_ledger.uids()
        host.course_ledger.record_remarks(
            {
                copies.moment_id(moment): (words, is_complete(captured[moment]))
                for moment in answers
                if (words := remark(captured[moment]))
            }
        )
        host.course_ledger.record_captures(
            Capture(
                moment.deadline.name,
                moment.username,
                uids[moment.username],
                moment.at,
                copies.time_of(captured[moment]),
                folder,
                str(answer["manifest"]),
                _remark(captured[moment]),
            )
            for moment, answer in answers.items()
            if moment.username in uids
        )

    def _part(self, host: Host, usernames: Collection[str]) -> str:
        folder = self.deadline.folder
        students = store.students_part(usernames, host.ledger.members(host.settings.course))
        return "-".join(filter(None, ("deadline", folder and store.folder_part(folder), students)))

    def _publish(self, host: Host, staging: store.Staging, moment: Moment, known: copies.Copy) -> Mapping[str, Any]:
        handed_out = host.course_ledger.handed_out(moment.username, "material")
        order = teacher_side.Order(
            staging.target,
            staging.name,
            moment.username,
            Scope(ALL, host.settings.material.target, handed_out),
            host.settings.retrieve,
            copies.time_of(known).astimezone().isoformat(timespec="seconds"),
            {"deadline": copies.about(moment, known)},
        )
        folder = moment.deadline.folder
        kept = {f"{folder}/{path}" if folder else path: file for path, file in known.files.items()}
        left_out = [
            Exclusion(files.join(folder, exclusion.path).rstrip("/"), exclusion.reason, exclusion.incomplete)
            for exclusion in known.exclusions
        ]
        return replay.publish(host.owner, order, kept, left_out, ObjectStore(copies.objects(host)))


@dataclass(frozen=True)
class GiveReceipt:
    """Put a signed receipt into the home, as the student."""

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
                {"path": path, "size": stored.size, "sha256": stored.sha256, **_lateness(known, path)}
                for path, stored in sorted(known.files.items())
            ],
            "complete": is_complete(known),
            "left_out": [[exclusion.path, exclusion.reason] for exclusion in known.exclusions[:_MOST_LEFT_OUT]],
            "manifest_sha256": done.manifest,
        }
        name = f"{_name_of(moment.deadline)} {moment.at.astimezone():%Y-%m-%d %H.%M.%S}.json"
        content = {name: receipts.signed(about, receipts.key(host.paths.receipt_key))}
        account = survey.student_account(host, moment.username)
        with material.bundle_of(content, host.paths.state) as bundle:
            shipment = delivery.Shipment(RECEIPTS, tuple(bundle.items.values()), bundle, {}, date.today())
            given = delivery.deliver(account, shipment)
        given.check()
        if blocked := [file.detail for file in given.outcomes if file.outcome == delivery.BLOCKED]:
            log.warning("%s did not get a receipt: %s", moment.username, blocked[0])


@dataclass(frozen=True)
class DeleteStored:
    """Delete root's copies of what is in the teacher's store."""

    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "delete the copies of what is in the store"

    def apply(self, host: Host) -> None:
        done = {copies.key_of(name, at) + username for name, username, at in copies.stored(host)}
        to_come = {copies.key_of(moment.deadline.name, moment.at) + moment.username for moment in pending(host)[0]}
        wanted: set[str] = set()
        for file in host.paths.captures.glob("*/*.json"):
            key, known = file.parent.name + file.stem, copies.read(file)
            is_moved = key not in to_come and (known is None or known.captured is None)
            if key in done or is_moved:  # an early copy for a moment that was postponed is useless
                file.unlink()
            else:
                wanted |= {stored.sha256 for stored in known.files.values()} if known else set()
        for folder in host.paths.captures.glob("*"):
            with contextlib.suppress(OSError):
                folder.rmdir()
        ObjectStore(copies.objects(host)).prune(wanted)


def _details(moment: Moment, copy: copies.Copy, answer: Mapping[str, Any]) -> Details:
    exclusions = [exclusion_from(row) for row in answer["exclusions"]]
    about = copies.about(moment, copy)
    return {
        **work_details(answer["files"], answer["bytes"], exclusions),
        **{key: about[key] for key in ("deadline", "captured", "late")},
    }


def is_complete(known: copies.Copy) -> bool:
    return not any(exclusion.incomplete for exclusion in known.exclusions)


def remark(known: copies.Copy) -> str:
    """Why this capture is incomplete, or where else its folder was found; '' otherwise."""
    listed = [exclusion for exclusion in known.exclusions if exclusion.incomplete or not exclusion.path]
    listed.sort(key=lambda exclusion: (exclusion.path != "", not exclusion.incomplete))
    if not listed:
        return ""
    more = f" and {len(listed) - 1} more" if len(listed) > 1 else ""
    return f"{listed[0].path[-_LONGEST_PATH:] + ': ' if listed[0].path else ''}{listed[0].reason}{more}"


def read_receipt(reader: Account, file: Path) -> bytes:
    """A receipt from anywhere, read as `reader`."""
    return trusted_files.read_as(reader, file, most=receipts.LARGEST)


def verify(host: Host, data: bytes) -> tuple[str, dict[str, Any]]:
    """What a genuine receipt proves, in words, and its content. InputError when it is not genuine."""
    about = receipts.verified(data, receipts.key(host.paths.receipt_key))
    name, size = str(about["username"]), sum(int(file["size"]) for file in about["files"])
    kept = [
        capture
        for capture in host.course_ledger.captures()
        if capture.username == name and capture.manifest == about["manifest_sha256"] and capture.retrieved
    ]
    if not kept:
        where = "This course no longer has a record of it; the receipt alone proves it."
    elif workers.run_as(
        host.owner, _has_manifest, host.settings.retrieve.target, kept[-1].retrieved, name, kept[-1].manifest
    ):
        where = f"The work is in {host.settings.retrieve.target / kept[-1].retrieved / name}, with this manifest."
    else:
        where = f"{kept[-1].retrieved} is no longer in the store as it was written."
    later = [
        capture
        for capture in host.course_ledger.captures()
        if (capture.username, capture.name) == (name, about["deadline"])
        and capture.manifest != about["manifest_sha256"]
        and capture.at > datetime.fromisoformat(about["at"])
    ]
    if later:
        where += (
            f"\nIt is superseded: the deadline was extended, and the work was captured again at "
            f"{times.short(later[-1].captured)}; that is in {later[-1].retrieved}."
        )
    late = ", LATE" if about["late"] else ""
    what = f"{len(about['files'])} files, {size} bytes"
    if after := [file for file in about["files"] if file.get("late")]:
        what = f"{what}; {len(after)} of the files LATE, changed after the moment"
    if about.get("complete") is False:
        what += ", INCOMPLETE"
    if left_out := [f"{path + ': ' if path else ''}{reason}" for path, reason in about.get("left_out", ())]:
        what += f" ({printable('; '.join(left_out[:3]))})"
    return f"Genuine: {name}, {about['deadline']}, captured at {about['captured']}{late}; {what}.\n{where}", about


def _lateness(known: copies.Copy, path: str) -> dict[str, Any]:
    """A file that changed after the moment is late, unless an earlier version was kept."""
    late = known.late.get(path)
    return {"late": True} if late is not None and late.seen is None else {}


def _remark(known: copies.Copy) -> str:
    left_out = [exclusion for exclusion in known.exclusions if exclusion.incomplete]
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
