"""The student's side of a delivery: a child that is the student puts the material into the home.

A file that nobody touched since we wrote it changes places with its new version. One that the student edited changes
places with what both versions are merged to, or stays, with the new version beside it. Everything else that stands
there is the student's and stays. A file appears under its name whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nblauncher import drafts, files, news, outcomes, standing, swaps
from nblauncher.model import HandedOut
from nblauncher.outcomes import BLOCKED, KEPT, NEW, REPLACED, Placed
from nblauncher.packing import Item
from nblauncher.spool import Content, Spool
from nblauncher.standing import FileInTheWay, FolderInTheWay, InTheWay, Missing, Raced
from nblauncher.streams import Voice
from nblauncher.updating import Place, Updates

_STANDS = frozenset({NEW, outcomes.UPDATED, outcomes.MERGED, outcomes.BOTH, outcomes.AS_IS, outcomes.UNCHANGED})
"""A file has the item's name."""

_ATTEMPTS = 8
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
    bases: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Where earlier versions are in the spool: offset and size by sha256."""
    news_time: str = ""
    """What stands above the lines about this delivery in the student's news; '': there is no news."""


def place(output: int, order: Order) -> None:
    """Deliver and report: frames `rows`, then `finish` with what stopped it. Runs as the student.

    What is reported as written is on the disk. HostError when the home is not the student's own folder.
    """
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # how the kernel tells that somebody waits for our lease
    voice = Voice(output)
    placing = _Placing(order, standing.open_home(order.home), voice)
    placed: list[Placed] = []
    failure = ""
    try:
        placing.open_target()
        for item in sorted(order.items, key=lambda item: item.path.rpartition("/")[::2]):
            voice.tick()
            placed.append(placing.place(item))
        lines = [line for one in (*placing.replaced, *placed) if (line := one.news)] if order.news_time else []
        if lines:
            placed.append(placing.tell(lines))
    except (InTheWay, Raced) as error:
        placed = [Placed(BLOCKED, item.path, str(error) or _RACED) for item in order.items]
    except OSError as error:
        failure = standing.words_of(error)
    placed += placing.finish()
    for start in range(0, len(placed), _ROWS):
        voice.send({"kind": "rows", "rows": [one.as_row() for one in placed[start : start + _ROWS]]})
    voice.send({"kind": "finish", "failure": failure})


class _Placing:
    """One student's delivery under way."""

    def __init__(self, order: Order, home: int, voice: Voice) -> None:
        self._order = order
        self._home = home
        self._target = -1
        self._folder_path: str | None = None
        self._folder = -1
        self._spool = Spool(order.spool, order.offsets, order.bases, voice.tick)
        self._swaps = swaps.Swaps(order.day, voice.tick)
        self._updates = Updates(self._spool, self._swaps, order.day)
        self._ours = {(one.sha256, one.size) for one in order.handed_out.values()}
        self._ours |= {(item.sha256, item.size) for item in order.items}
        self.replaced: list[Placed] = []
        self._below: dict[str, list[str]] = {}
        """What was given, by each folder above it."""
        for path in order.handed_out:
            for folder in files.folders_above(path):
                self._below.setdefault(folder, []).append(path)

    def open_target(self) -> None:
        """The material folder, made when it is missing; InTheWay when something else has its name."""
        self._target = standing.enter(self._home, self._order.target, can_make=True)

    def finish(self) -> list[Placed]:
        """Clear away and sync; answers with the student's work that it came upon. OSError when a write was lost."""
        self._swaps.clear()
        drafts.sync(self._home)
        return [*self.replaced, *(Placed(KEPT, path, copy) for path, copy in self._swaps.shown)]

    def place(self, item: Item) -> Placed:
        """What a student has done to stop us blocks this item only. OSError when the host said no."""
        placed = self._persistently(item.path, lambda: self._try(item, self._spool.of(item)))
        if placed.outcome not in _STANDS or not placed.records:
            return placed
        files_above = [folder for folder in files.folders_above(item.path) if folder in self._order.handed_out]
        return placed.forgetting([*files_above, *self._below.get(item.path, ())])

    def tell(self, lines: Sequence[str]) -> Placed:
        """Put lines on top of the student's news. Where the student wrote in there, the newer news are beside."""
        return self._persistently(news.NAME, lambda: self._try_to_tell(lines))

    def _persistently(self, path: str, attempt: Callable[[], Placed]) -> Placed:
        try:
            for _ in range(_ATTEMPTS):
                try:
                    return attempt()
                except (Raced, FileNotFoundError, FileExistsError):
                    self._folder_path = None
            return Placed(BLOCKED, path, _RACED)
        except InTheWay as error:
            return Placed(BLOCKED, path, str(error))
        except OSError as error:
            if error.errno in standing.HOST_SAYS_NO:
                raise
            return Placed(BLOCKED, path, standing.words_of(error))

    def _try(self, item: Item, content: Content) -> Placed:
        known = self._order.handed_out.get(item.path)
        may_appear = known is None or self._order.restores_deleted or item.path == news.NAME
        above, _, name = item.path.rpartition("/")
        try:
            folder = self._folder_of(above, can_make=may_appear)
        except Missing:
            return outcomes.deleted(item, known)
        except FileInTheWay as error:
            return self._past_file(error, item, content, known)
        place = Place(item, content, known, above, name)
        try:
            with standing.look(name, folder) as found:
                if found is not None:
                    return self._updates.update(place, found, folder)
        except FolderInTheWay:
            if item.path not in self._below:
                raise
            return self._updates.replace_folder(place, self._given_below(item.path), folder)
        if not may_appear:
            return outcomes.deleted(item, known)
        with content.draft(folder, item.mode) as draft:
            draft.appear(name)
            return outcomes.stands(NEW, item, os.fstat(draft.descriptor))

    def _past_file(self, error: FileInTheWay, item: Item, content: Content, known: HandedOut | None) -> Placed:
        """The material has a folder now where it had a file. One that nobody touched goes; any other stays, and what
        belongs into the folder is put into one beside.
        """
        if (given := self._order.handed_out.get(error.path)) is None:
            raise error
        above, _, name = error.path.rpartition("/")
        folder = self._folder_of(above, can_make=False)
        with standing.look(name, folder) as found:
            if found is None:
                raise Raced
            if self._updates.make_folder(files.join(above, name), given, found, folder):
                self.replaced.append(Placed(REPLACED, error.path))
                raise Raced  # once more, and the way is free
        if known is not None and known.sha256 == item.sha256:
            return Placed(outcomes.UNCHANGED, item.path)
        return self._updates.put_into_folder_beside(Place(item, content, known, "", ""), error.path, self._target)

    def _given_below(self, path: str) -> Mapping[str, tuple[str, int]]:
        known = self._order.handed_out
        return {below[len(path) + 1 :]: (known[below].sha256, known[below].size) for below in self._below[path]}

    def _try_to_tell(self, lines: Sequence[str]) -> Placed:
        earlier = ""
        known = self._order.handed_out.get(news.NAME)
        with standing.look(news.NAME, self._folder_of("", can_make=True)) as found:
            if found and known and found.has(known.sha256, known.size):
                earlier = found.read().decode("utf-8", "replace")
        data = news.text(self._order.news_time, lines, earlier).encode("utf-8", "replace")
        item = Item(news.NAME, len(data), hashlib.sha256(data).hexdigest())
        return self._try(item, Content(len(data), data))

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
