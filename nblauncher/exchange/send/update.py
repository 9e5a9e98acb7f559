"""What happens to the file that a new version is for: replaced, merged, or kept with the new version beside it.

Runs as the student, called by `student_side`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace

from nblauncher.exchange import merge
from nblauncher.exchange.names import copy_folder, copy_name
from nblauncher.exchange.send import existing, outcomes
from nblauncher.exchange.send.existing import Blocked, Changed, Existing
from nblauncher.exchange.send.outcomes import AS_IS, BESIDE, BOTH, MERGED, UNCHANGED, UPDATED, Placed, given, record
from nblauncher.exchange.send.spool import Content, Spool, write
from nblauncher.exchange.send.teacher_side import Item
from nblauncher.model import UNRELATED, HandedOut
from nblauncher.system import bounds, drafts, files, known_folders, leases, replacement

_MOST_BESIDE = 99
_MERGE_SECONDS = 15.0
"""CPU time for one file; a student's bytes decide how long it takes."""
_MERGE_MEMORY = 1 << 30


@dataclass(frozen=True, slots=True)
class Place:
    """An item, what the student was given there before, the folder's path and the name."""

    item: Item
    content: Content
    known: HandedOut | None
    above: str
    name: str


@dataclass(frozen=True, slots=True)
class Updates:
    """The updates of one delivery."""

    spool: Spool
    replacements: replacement.Replacements
    day: str

    def update(self, place: Place, found: Existing, folder: int) -> Placed:
        """Bring the new version to the file that has its name. Changed when that changed meanwhile."""
        item, known = place.item, place.known
        if known and known.sha256 == item.sha256:
            return Placed(UNCHANGED, item.path)  # the student had this version and has edited it
        if found.has(item.sha256, item.size, self.spool.tick):
            return outcomes.in_place(UNCHANGED, item, found.status)
        if known and (held := self._untouched(found, known)):
            with place.content.draft(folder, item.mode) as draft:
                self._replace(draft, place, found, held, known.sha256)
                return outcomes.in_place(UPDATED, item, os.fstat(draft.descriptor))
        try:
            return self._merge(place, found, folder)
        except merge.UnmergeableError as error:
            return self._put_beside(place, folder, str(error))

    def make_folder(self, path: str, known: HandedOut, found: Existing, folder: int) -> bool:
        """Replace an unchanged file by a folder. False when the student changed it; Changed as in `update`."""
        held = self._untouched(found, known)
        if held is None:
            return False
        above, _, name = path.rpartition("/")
        if not self.replacements.make_folder(folder, above, name, found.descriptor, held, known.sha256):
            raise Changed
        return True

    def replace_folder(self, place: Place, given: Mapping[str, tuple[str, int]], folder: int) -> Placed:
        """Replace a folder that holds only what was `given`, unchanged; else put the file beside it."""
        item, known = place.item, place.known
        if known and known.sha256 == item.sha256:
            return Placed(UNCHANGED, item.path)
        if not self._is_untouched_folder(place.name, folder, given):
            return self._put_beside(place, folder, "the student has made something of the folder of that name")
        with place.content.draft(folder, item.mode) as draft:
            if not self.replacements.replace_folder(draft, place.above, place.name, given):
                raise Changed
            return replace(outcomes.in_place(UPDATED, item, os.fstat(draft.descriptor)), detail="it was a folder")

    def _is_untouched_folder(self, name: str, folder: int, given: Mapping[str, tuple[str, int]]) -> bool:
        below = drafts.open_folder(name, folder)
        try:
            return known_folders.is_untouched(below, given, self.spool.tick)
        except PermissionError:
            return False  # the student removed a permission below it
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return False
        finally:
            os.close(below)

    def put_into_folder_beside(self, place: Place, file: str, target: int) -> Placed:
        """Where the student's `file` has the name of one of the item's folders."""
        item = place.item
        reason = f"the student's {file} has the name of its folder"
        for number in range(1, _MOST_BESIDE + 1):
            above = copy_folder(f"update {self.day}", item.path, file, number)
            name = item.path.rpartition("/")[2]
            folder = existing.enter(target, above, can_make=True)
            try:
                with place.content.draft(folder, item.mode) as draft:
                    status = self._status_once_there(draft, name, item, folder)
            finally:
                os.close(folder)
            if status is not None:
                path = files.join(above, name)
                records = {item.path: given(item, UNRELATED), path: record(item, status)}
                return Placed(BESIDE, item.path, path, reason, outcomes.notebook_sha256(item), records)
        raise Blocked(f"there are {_MOST_BESIDE} newer versions beside it")

    def _status_once_there(self, draft: drafts.Draft, name: str, item: Item, folder: int) -> os.stat_result | None:
        """Of the item's file under that name, new or from an earlier run; None when another file has the name."""
        try:
            draft.appear(name)
        except FileExistsError:
            return self._status_if_same(name, item, folder)
        return os.fstat(draft.descriptor)

    def _untouched(self, found: Existing, known: HandedOut) -> leases.Hold | None:
        """The lease on a file that is as we wrote it and not open for writing; None otherwise.

        Only the content counts: times do not show an edit within a clock tick of our own write.
        """
        if found.descriptor < 0 or found.status.st_uid != os.geteuid() or found.status.st_size != known.size:
            return None
        held = leases.hold(found.descriptor)
        if held is leases.Hold.REFUSED or not found.has(known.sha256, known.size, self.spool.tick):
            return None
        return held

    def _merge(self, place: Place, found: Existing, folder: int) -> Placed:
        """Replace the file by the merge of both versions. UnmergeableError when they cannot be merged."""
        item, base = place.item, self._base_of(place, found)
        is_back = place.known is not None and place.known.was_gone
        held = leases.hold(found.descriptor)
        if held is leases.Hold.REFUSED:
            raise merge.UnmergeableError("it is open for writing")
        student = found.read()
        teacher = self.spool.of(item).read()
        self.spool.tick()
        try:
            with bounds.bounded(seconds=_MERGE_SECONDS, memory=_MERGE_MEMORY):
                merged = merge.merge(place.name, base, student, teacher, is_back=is_back)
        except bounds.TooLongError:
            raise merge.UnmergeableError("it takes too long") from None
        records = {item.path: given(item)}
        if merged.content == student:
            return Placed(AS_IS, item.path, records=records)
        with drafts.new_draft(folder, stat.S_IMODE(found.status.st_mode) & 0o777) as draft:
            write(draft.descriptor, merged.content)
            self._replace(draft, place, found, held, hashlib.sha256(student).hexdigest())
        trusted = hashlib.sha256(merged.content).hexdigest() if merged.has_only_our_outputs else ""
        if merged.conflicts:
            return Placed(BOTH, item.path, str(merged.conflicts), trusted=trusted, records=records)
        return Placed(MERGED, item.path, trusted=trusted, records=records)

    def _base_of(self, place: Place, found: Existing) -> bytes:
        where = self.spool.version(place.known.made_of) if place.known else None
        if found.descriptor < 0 or found.status.st_uid != os.geteuid():
            raise merge.UnmergeableError("it may not be read")
        if place.known is None or not place.known.made_of:
            raise merge.UnmergeableError("it is the student's own file")
        if max(found.status.st_size, place.item.size, where.size if where else 0) > merge.LARGEST:
            raise merge.UnmergeableError(merge.TOO_LARGE)
        if where is None:
            raise merge.UnmergeableError("the version that it was made of is not known any more")
        return where.read()

    def _replace(self, draft: drafts.Draft, place: Place, found: Existing, held: leases.Hold, sha256: str) -> None:
        if not self.replacements.replace(draft, place.above, place.name, found.descriptor, held, sha256):
            raise Changed

    def _put_beside(self, place: Place, folder: int, reason: str) -> Placed:
        item = place.item
        with place.content.draft(folder, item.mode) as draft:
            beside, status = self._appear_beside(draft, item, place.name, folder)
        path = files.join(place.above, beside)
        known = place.known
        base = "" if known is None else known.base if known.was_gone else known.made_of
        records = {item.path: given(item, base or UNRELATED), path: record(item, status)}
        return Placed(BESIDE, item.path, path, reason, outcomes.notebook_sha256(item), records)

    def _appear_beside(self, draft: drafts.Draft, item: Item, name: str, folder: int) -> tuple[str, os.stat_result]:
        """Take the first free name beside it, or one that already has this content, from a run that crashed."""
        for number in range(1, _MOST_BESIDE + 1):
            beside = copy_name(f"update {self.day}", name, number)
            if (status := self._status_once_there(draft, beside, item, folder)) is not None:
                return beside, status
        raise Blocked(f"there are {_MOST_BESIDE} newer versions beside it")

    def _status_if_same(self, name: str, item: Item, folder: int) -> os.stat_result | None:
        try:
            with existing.look(name, folder) as found:
                return found.status if found and found.has(item.sha256, item.size, self.spool.tick) else None
        except Blocked:
            return None
