"""What becomes of a file that has the name of a new version: exchanged, merged, or kept with the new one beside it.

Runs as the student, in the child of `placing`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace

from nblauncher import bounds, drafts, files, given_folders, leases, merging, outcomes, standing, swaps
from nblauncher.model import UNRELATED, HandedOut
from nblauncher.outcomes import AS_IS, BESIDE, BOTH, MERGED, UNCHANGED, UPDATED, Placed, given, record
from nblauncher.packing import Item
from nblauncher.spool import Content, Spool, write
from nblauncher.standing import InTheWay, Raced, Standing

_MOST_BESIDE = 99
_MERGE_SECONDS = 15.0
"""CPU time for one file; a student's bytes decide how long it takes."""
_MERGE_MEMORY = 1 << 30


@dataclass(frozen=True, slots=True)
class Place:
    """An item on its way to its name: what the student was given there before, the folder's path and the name."""

    item: Item
    content: Content
    known: HandedOut | None
    above: str
    name: str


@dataclass(frozen=True, slots=True)
class Updates:
    """The updates of one delivery."""

    spool: Spool
    swaps: swaps.Swaps
    day: str

    def update(self, place: Place, found: Standing, folder: int) -> Placed:
        """Bring the new version to the file that stands there. Raced when it changed in that moment."""
        item, known = place.item, place.known
        if known and known.sha256 == item.sha256:
            return Placed(UNCHANGED, item.path)  # the student has had it, and made of it what stands there
        if found.has(item.sha256, item.size, self.spool.tick):
            return outcomes.stands(UNCHANGED, item, found.status)
        if known and (held := self._untouched(found, known)):
            with place.content.draft(folder, item.mode) as draft:
                self._replace(draft, place, found, held, known.sha256)
                return outcomes.stands(UPDATED, item, os.fstat(draft.descriptor))
        try:
            return self._merge(place, found, folder)
        except merging.UnmergeableError as error:
            return self._put_beside(place, folder, str(error))

    def make_folder(self, path: str, known: HandedOut, found: Standing, folder: int) -> bool:
        """Let a folder have the name of a file that nobody touched. False when somebody did; Raced as in `update`."""
        held = self._untouched(found, known)
        if held is None:
            return False
        above, _, name = path.rpartition("/")
        if not self.swaps.make_folder(folder, above, name, found.descriptor, held, known.sha256):
            raise Raced
        return True

    def replace_folder(self, place: Place, given: Mapping[str, tuple[str, int]], folder: int) -> Placed:
        """Let the file have the name of a folder in which nobody touched what was `given`, or put it beside."""
        item, known = place.item, place.known
        if known and known.sha256 == item.sha256:
            return Placed(UNCHANGED, item.path)
        if not self._is_untouched_folder(place.name, folder, given):
            return self._put_beside(place, folder, "the student has made something of the folder of that name")
        with place.content.draft(folder, item.mode) as draft:
            if not self.swaps.replace_folder(draft, place.above, place.name, given):
                raise Raced
            return replace(outcomes.stands(UPDATED, item, os.fstat(draft.descriptor)), detail="it was a folder")

    def _is_untouched_folder(self, name: str, folder: int, given: Mapping[str, tuple[str, int]]) -> bool:
        below = drafts.open_folder(name, folder)
        try:
            return given_folders.is_untouched(below, given, self.spool.tick)
        except PermissionError:
            return False  # the student has shut a part of it
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return False
        finally:
            os.close(below)

    def put_into_folder_beside(self, place: Place, file: str, target: int) -> Placed:
        """The student's file, at this path below the target, has the name of a folder on the way to the item."""
        item = place.item
        reason = f"the student's {file} has the name of its folder"
        for number in range(1, _MOST_BESIDE + 1):
            above = folder_beside(item.path, file, "update", self.day, number)
            name = item.path.rpartition("/")[2]
            folder = standing.enter(target, above, can_make=True)
            try:
                with place.content.draft(folder, item.mode) as draft:
                    status = self._status_once_there(draft, name, item, folder)
            finally:
                os.close(folder)
            if status is not None:
                path = files.join(above, name)
                records = {item.path: given(item, UNRELATED), path: record(item, status)}
                return Placed(BESIDE, item.path, path, reason, outcomes.notebook_sha256(item), records)
        raise InTheWay(f"there are {_MOST_BESIDE} newer versions beside it")

    def _status_once_there(self, draft: drafts.Draft, name: str, item: Item, folder: int) -> os.stat_result | None:
        """Of the file when it got the name or has it already; None when the name is another's."""
        try:
            draft.appear(name)
        except FileExistsError:
            return self._status_if_same(name, item, folder)
        return os.fstat(draft.descriptor)

    def _untouched(self, found: Standing, known: HandedOut) -> leases.Hold | None:
        """How the file is held when it is as we wrote it and nobody has it open for writing; None otherwise.

        Only the content counts: times could not tell an edit saved within a clock tick of our own writing.
        """
        if found.descriptor < 0 or found.status.st_uid != os.geteuid() or found.status.st_size != known.size:
            return None
        held = leases.hold(found.descriptor)
        if held is leases.Hold.REFUSED or not found.has(known.sha256, known.size, self.spool.tick):
            return None
        return held

    def _merge(self, place: Place, found: Standing, folder: int) -> Placed:
        """Let what both versions make have the name. UnmergeableError when they make nothing."""
        item, base = place.item, self._base_of(place, found)
        is_back = place.known is not None and place.known.was_gone
        held = leases.hold(found.descriptor)
        if held is leases.Hold.REFUSED:
            raise merging.UnmergeableError("it is open for writing")
        student = found.read()
        teacher = self.spool.of(item).read()
        self.spool.tick()
        try:
            with bounds.bounded(seconds=_MERGE_SECONDS, memory=_MERGE_MEMORY):
                merged = merging.merge(place.name, base, student, teacher, is_back=is_back)
        except bounds.TooLongError:
            raise merging.UnmergeableError("it takes too long") from None
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

    def _base_of(self, place: Place, found: Standing) -> bytes:
        where = self.spool.version(place.known.made_of) if place.known else None
        if found.descriptor < 0 or found.status.st_uid != os.geteuid():
            raise merging.UnmergeableError("it may not be read")
        if place.known is None or not place.known.made_of:
            raise merging.UnmergeableError("it is a file of the student's own")
        if max(found.status.st_size, place.item.size, where.size if where else 0) > merging.LARGEST:
            raise merging.UnmergeableError(merging.TOO_LARGE)
        if where is None:
            raise merging.UnmergeableError("the version that it was made of is not known any more")
        return where.read()

    def _replace(self, draft: drafts.Draft, place: Place, found: Standing, held: leases.Hold, sha256: str) -> None:
        if not self.swaps.replace(draft, place.above, place.name, found.descriptor, held, sha256):
            raise Raced

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
        """The first free name for a new version; one that holds it already (from a run that crashed) will do."""
        for number in range(1, _MOST_BESIDE + 1):
            beside = swaps.beside_name(name, "update", self.day, number)
            if (status := self._status_once_there(draft, beside, item, folder)) is not None:
                return beside, status
        raise InTheWay(f"there are {_MOST_BESIDE} newer versions beside it")

    def _status_if_same(self, name: str, item: Item, folder: int) -> os.stat_result | None:
        try:
            with standing.look(name, folder) as found:
                return found.status if found and found.has(item.sha256, item.size, self.spool.tick) else None
        except InTheWay:
            return None


def folder_beside(path: str, file: str, word: str, day: str, number: int) -> str:
    """The folder for what belongs to `path` where the file has the name of one of its folders: beside the file."""
    above, _, name = file.rpartition("/")
    beside = files.join(above, swaps.beside_name(name, word, day, number))
    return f"{beside}{path.rpartition('/')[0][len(file) :]}"
