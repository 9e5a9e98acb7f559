"""The student's side of a delivery: a child that is the student puts the material into the home.

A file that nobody touched since we wrote it changes places with its new version; everything else that stands there is
the student's and stays. A file appears under its name whole or not at all.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nblauncher import drafts, files, leases, standing, swaps
from nblauncher.errors import HostError
from nblauncher.model import HandedOut
from nblauncher.packing import Item
from nblauncher.standing import InTheWay, Missing, Raced, Standing
from nblauncher.streams import Voice

NEW = "new"
UPDATED = "updated"
BESIDE = "put beside"
KEPT = "kept"
DELETED = "deleted by the student"
UNCHANGED = "unchanged"
BLOCKED = "blocked"

_ATTEMPTS = 8
_MOST_BESIDE = 99
_ROWS = 200
_RACED = "it kept changing while it was delivered"


@dataclass(frozen=True, slots=True)
class Order:
    """What to put where. `handed_out` is everything this student was ever given below the target."""

    home: Path
    target: str
    items: tuple[Item, ...]
    offsets: Mapping[str, int]
    spool: int
    handed_out: Mapping[str, HandedOut]
    day: str
    restores_deleted: bool = False
    """Whether a file that was given and is gone is given once more."""


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of one item: `detail` is the new file's path for BESIDE and KEPT, the reason for BLOCKED."""

    outcome: str
    path: str
    detail: str = ""
    records: Mapping[str, HandedOut] = field(default_factory=dict)


def place(output: int, order: Order) -> None:
    """Deliver and report: frames `rows`, then `finish` with what stopped it. Runs as the student.

    What is reported as written is on the disk. HostError when the home is not the student's own folder.
    """
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # how the kernel tells that somebody waits for our lease
    voice = Voice(output)
    placing = _Placing(order, _open_home(order.home), voice)
    placed: list[Placed] = []
    failure = ""
    try:
        placing.open_target()
        for item in sorted(order.items, key=lambda item: item.path.rpartition("/")[::2]):
            voice.tick()
            placed.append(placing.place(item))
    except (InTheWay, Raced) as error:
        placed = [Placed(BLOCKED, item.path, str(error) or _RACED) for item in order.items]
    except OSError as error:
        failure = standing.words_of(error)
    placed += placing.finish()
    for start in range(0, len(placed), _ROWS):
        voice.send({"kind": "rows", "rows": list(map(_row, placed[start : start + _ROWS]))})
    voice.send({"kind": "finish", "failure": failure})


def _row(placed: Placed) -> list[object]:
    records = [
        [path, one.sha256, one.size, one.mtime_ns, one.inode, one.ctime_ns] for path, one in placed.records.items()
    ]
    return [placed.path, placed.outcome, placed.detail, records]


def _open_home(home: Path) -> int:
    try:
        root = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"the home {home} cannot be opened: {os.strerror(error.errno or 0).lower()}") from error
    if os.fstat(root).st_uid != os.geteuid():
        raise HostError(f"the home {home} belongs to uid {os.fstat(root).st_uid}, not to the student")
    return root


class _Placing:
    """One student's delivery under way."""

    def __init__(self, order: Order, home: int, voice: Voice) -> None:
        self._order = order
        self._home = home
        self._voice = voice
        self._target = -1
        self._folder_path: str | None = None
        self._folder = -1
        self._buffer = memoryview(bytearray(files.CHUNK))
        self._swaps = swaps.Swaps(order.day, voice.tick)
        self._ours = {(one.sha256, one.size) for one in order.handed_out.values()}
        self._ours |= {(item.sha256, item.size) for item in order.items}

    def open_target(self) -> None:
        """The material folder, made when it is missing; InTheWay when something else has its name."""
        self._target = standing.enter(self._home, self._order.target, can_make=True)

    def finish(self) -> list[Placed]:
        """Clear away and sync; answers with the student's work that it came upon. OSError when a write was lost."""
        self._swaps.clear()
        drafts.sync(self._home)
        return [Placed(KEPT, path, copy) for path, copy in self._swaps.shown]

    def place(self, item: Item) -> Placed:
        """What a student has done to stop us blocks this item only. OSError when the host said no."""
        try:
            for _ in range(_ATTEMPTS):
                try:
                    return self._try(item)
                except (Raced, FileNotFoundError, FileExistsError):
                    self._folder_path = None
            return Placed(BLOCKED, item.path, _RACED)
        except InTheWay as error:
            return Placed(BLOCKED, item.path, str(error))
        except OSError as error:
            if error.errno in standing.HOST_SAYS_NO:
                raise
            return Placed(BLOCKED, item.path, standing.words_of(error))

    def _try(self, item: Item) -> Placed:
        known = self._order.handed_out.get(item.path)
        may_appear = known is None or self._order.restores_deleted
        above, _, name = item.path.rpartition("/")
        try:
            folder = self._folder_of(above, can_make=may_appear)
        except Missing:
            return _deleted(item)
        with standing.look(name, folder) as found:
            if found is None:
                return self._write_new(item, name, folder) if may_appear else _deleted(item)
            if known and known.sha256 == item.sha256:
                return Placed(UNCHANGED, item.path)  # the student has had it, and made of it what stands there
            if self._has(found, item.sha256, item.size):
                return Placed(UNCHANGED, item.path, records={item.path: _record(item, found.status)})
            if known and (held := self._untouched(found, known)):
                with self._draft(item, folder) as draft:
                    if not self._swaps.replace(draft, above, name, found.descriptor, held, known.sha256):
                        raise Raced
                    return Placed(UPDATED, item.path, records={item.path: _record(item, os.fstat(draft.descriptor))})
        return self._put_beside(item, name, folder)

    def _folder_of(self, path: str, *, can_make: bool) -> int:
        """The open folder of the items in hand; the last one is kept, and mended when it is entered."""
        if self._folder_path != path:
            if self._folder >= 0:
                os.close(self._folder)
            self._folder, self._folder_path = -1, None
            self._folder = standing.enter(self._target, path, can_make=can_make)
            self._swaps.mend(path, self._folder, self._ours)
            self._folder_path = path
        return self._folder

    def _has(self, found: Standing, sha256: str, size: int) -> bool:
        if found.descriptor < 0 or found.status.st_size != size:
            return False
        return drafts.has_content(found.descriptor, sha256, size, self._voice.tick)

    def _untouched(self, found: Standing, known: HandedOut) -> leases.Hold | None:
        """How the file is held when it is as we wrote it and nobody has it open for writing; None otherwise.

        Only the content counts: times could not tell an edit saved within a clock tick of our own writing.
        """
        if found.descriptor < 0 or found.status.st_uid != os.geteuid() or found.status.st_size != known.size:
            return None
        held = leases.hold(found.descriptor)
        if held is leases.Hold.REFUSED or not self._has(found, known.sha256, known.size):
            return None
        return held

    def _draft(self, item: Item, folder: int) -> drafts.Draft:
        draft = drafts.new_draft(folder, item.mode)
        try:
            self._fill(draft.descriptor, item)
        except BaseException:
            draft.close()
            raise
        return draft

    def _fill(self, descriptor: int, item: Item) -> None:
        offset = self._order.offsets[item.path]
        missing = item.size
        while missing:
            self._voice.tick()
            size = os.preadv(self._order.spool, [self._buffer[: min(missing, len(self._buffer))]], offset)
            if size == 0:
                raise HostError(f"the copy of {item.path} ends too early")
            data = self._buffer[:size]
            while data:
                data = data[os.write(descriptor, data) :]
            offset += size
            missing -= size

    def _write_new(self, item: Item, name: str, folder: int) -> Placed:
        with self._draft(item, folder) as draft:
            draft.appear(name)
            return Placed(NEW, item.path, records={item.path: _record(item, os.fstat(draft.descriptor))})

    def _put_beside(self, item: Item, name: str, folder: int) -> Placed:
        with self._draft(item, folder) as draft:
            beside, status = self._appear_beside(draft, item, name, folder)
        path = files.join(item.path.rpartition("/")[0], beside)
        return Placed(BESIDE, item.path, path, {item.path: _given(item), path: _record(item, status)})

    def _appear_beside(self, draft: drafts.Draft, item: Item, name: str, folder: int) -> tuple[str, os.stat_result]:
        """The first free name for a new version; one that holds it already (from a run that crashed) will do."""
        for number in range(1, _MOST_BESIDE + 1):
            beside = swaps.beside_name(name, "update", self._order.day, number)
            try:
                draft.appear(beside)
            except FileExistsError:
                if (status := self._status_if_same(beside, item, folder)) is not None:
                    return beside, status
            else:
                return beside, os.fstat(draft.descriptor)
        raise InTheWay(f"there are {_MOST_BESIDE} newer versions beside it")

    def _status_if_same(self, name: str, item: Item, folder: int) -> os.stat_result | None:
        try:
            with standing.look(name, folder) as found:
                return found.status if found and self._has(found, item.sha256, item.size) else None
        except InTheWay:
            return None


def _deleted(item: Item) -> Placed:
    """The student does not want it. The version counts as given, so that this is said once."""
    return Placed(DELETED, item.path, records={item.path: _given(item)})


def _given(item: Item) -> HandedOut:
    """A version that is not under its own name; zero times match no file."""
    return HandedOut(item.sha256, item.size, 0, 0, 0)


def _record(item: Item, status: os.stat_result) -> HandedOut:
    return HandedOut(item.sha256, item.size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)
