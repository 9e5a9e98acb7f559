"""The student's side of a delivery: a child that is the student puts the material into the home.

A file that is unchanged since we wrote it is replaced by its new version. One that the student edited is replaced by
the merge of both versions, or stays, with the new version beside it. Everything else is the student's and stays. A file
appears whole under its name, or not at all.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from nblauncher.exchange.names import copy_name, folders_above
from nblauncher.exchange.send import existing, news, outcomes
from nblauncher.exchange.send.existing import Blocked, BlockedByFile, BlockedByFolder, Changed, Missing
from nblauncher.exchange.send.outcomes import BLOCKED, KEPT, NEW, REPLACED, Placed
from nblauncher.exchange.send.spool import Content, Spool
from nblauncher.exchange.send.teacher_side import Item
from nblauncher.exchange.send.update import Place, Updates
from nblauncher.model import HandedOut
from nblauncher.system import files, libc, replacement
from nblauncher.system.streams import Voice

_IN_PLACE = frozenset({NEW, outcomes.UPDATED, outcomes.MERGED, outcomes.BOTH, outcomes.AS_IS, outcomes.UNCHANGED})
"""Outcomes after which a file has the item's name."""

_ATTEMPTS = 8
_ROWS = 200
_KEPT_CHANGING = "it kept changing while it was delivered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to put where. `handed_out` is everything that this student was ever given below the target."""

    home: Path
    target: str
    items: tuple[Item, ...]
    offsets: Mapping[str, int]
    spool: int
    handed_out: Mapping[str, HandedOut]
    day: str
    restores_deleted: bool = False
    """Whether a file that was given and is gone is given again."""
    bases: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Where earlier versions are in the spool: offset and size by sha256."""
    news_time: str = ""
    """The heading of this delivery in the student's news; '' for no news."""
    lines: tuple[str, ...] = ()
    """News besides that of the items."""


def place(output: int, order: Order) -> None:
    """Deliver and report: frames `rows`, then `finish` with what stopped it. Runs as the student.

    What is reported as written is on the disk. HostError when the home is not the student's own folder.
    """
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # sent when another process waits for our lease
    voice = Voice(output)
    placing = _Placing(order, existing.open_home(order.home), voice)
    placed: list[Placed] = []
    failure = ""
    try:
        placing.open_target()
        for item in sorted(order.items, key=lambda item: item.path.rpartition("/")[::2]):
            voice.tick()
            placed.append(placing.place(item))
        lines = [*(line for outcome in (*placing.replaced, *placed) if (line := outcome.news)), *order.lines]
        if lines and order.news_time:
            placed.append(placing.add_news(lines))
    except (Blocked, Changed) as error:
        placed = [Placed(BLOCKED, item.path, str(error) or _KEPT_CHANGING) for item in order.items]
    except OSError as error:
        failure = existing.words_of(error)
    placed += placing.finish()
    for start in range(0, len(placed), _ROWS):
        voice.send({"kind": "rows", "rows": [outcome.to_row() for outcome in placed[start : start + _ROWS]]})
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
        self._replacements = replacement.Replacements(partial(copy_name, f"kept {order.day}"), voice.tick)
        self._updates = Updates(self._spool, self._replacements, order.day)
        self._ours = {(known.sha256, known.size) for known in order.handed_out.values()}
        self._ours |= {(item.sha256, item.size) for item in order.items}
        self.replaced: list[Placed] = []
        self._below: dict[str, list[str]] = {}
        """The given paths, by each folder above them."""
        for path in order.handed_out:
            for folder in folders_above(path):
                self._below.setdefault(folder, []).append(path)

    def open_target(self) -> None:
        """Open the material folder, or make it; Blocked when something else has its name."""
        self._target = existing.enter(self._home, self._order.target, can_make=True)

    def finish(self) -> list[Placed]:
        """Clean up and sync; returns the student's work that was kept meanwhile. OSError when a write was lost."""
        self._replacements.clear()
        libc.syncfs(self._home)
        return [*self.replaced, *(Placed(KEPT, path, copy) for path, copy in self._replacements.kept)]

    def place(self, item: Item) -> Placed:
        """Whatever the student has put in the way blocks this item only. OSError when the host fails."""
        placed = self._repeatedly(item.path, lambda: self._try(item, self._spool.of(item)))
        if placed.outcome not in _IN_PLACE or not placed.records:
            return placed
        files_above = [folder for folder in folders_above(item.path) if folder in self._order.handed_out]
        return placed.forgetting([*files_above, *self._below.get(item.path, ())])

    def add_news(self, lines: Sequence[str]) -> Placed:
        """Add the lines on top of the student's news; beside it when the student has edited it."""
        return self._repeatedly(news.NAME, lambda: self._try_to_add_news(lines))

    def _repeatedly(self, path: str, attempt: Callable[[], Placed]) -> Placed:
        try:
            for _ in range(_ATTEMPTS):
                try:
                    return attempt()
                except (Changed, FileNotFoundError, FileExistsError):
                    self._folder_path = None
            return Placed(BLOCKED, path, _KEPT_CHANGING)
        except Blocked as error:
            return Placed(BLOCKED, path, str(error))
        except OSError as error:
            if error.errno in existing.HOST_SAYS_NO:
                raise
            return Placed(BLOCKED, path, existing.words_of(error))

    def _try(self, item: Item, content: Content) -> Placed:
        known = self._order.handed_out.get(item.path)
        may_appear = known is None or self._order.restores_deleted or item.path == news.NAME
        above, _, name = item.path.rpartition("/")
        try:
            folder = self._folder_of(above, can_make=may_appear)
        except Missing:
            return outcomes.deleted(item, known)
        except BlockedByFile as error:
            return self._past_file(error, item, content, known)
        place = Place(item, content, known, above, name)
        try:
            with existing.look(name, folder) as found:
                if found is not None:
                    return self._updates.update(place, found, folder)
        except BlockedByFolder:
            if item.path not in self._below:
                raise
            return self._updates.replace_folder(place, self._given_below(item.path), folder)
        if not may_appear:
            return outcomes.deleted(item, known)
        with content.draft(folder, item.mode) as draft:
            draft.appear(name)
            return outcomes.in_place(NEW, item, os.fstat(draft.descriptor))

    def _past_file(self, error: BlockedByFile, item: Item, content: Content, known: HandedOut | None) -> Placed:
        """The material now has a folder where it had a file. An unchanged file is replaced; any other stays, and the
        item goes into a folder beside it.
        """
        if (given := self._order.handed_out.get(error.path)) is None:
            raise error
        above, _, name = error.path.rpartition("/")
        folder = self._folder_of(above, can_make=False)
        with existing.look(name, folder) as found:
            if found is None:
                raise Changed
            if self._updates.make_folder(files.join(above, name), given, found, folder):
                self.replaced.append(Placed(REPLACED, error.path))
                raise Changed  # the next attempt finds the folder
        if known is not None and known.sha256 == item.sha256:
            return Placed(outcomes.UNCHANGED, item.path)
        return self._updates.put_into_folder_beside(Place(item, content, known, "", ""), error.path, self._target)

    def _given_below(self, path: str) -> Mapping[str, tuple[str, int]]:
        known = self._order.handed_out
        return {below[len(path) + 1 :]: (known[below].sha256, known[below].size) for below in self._below[path]}

    def _try_to_add_news(self, lines: Sequence[str]) -> Placed:
        earlier = ""
        known = self._order.handed_out.get(news.NAME)
        with existing.look(news.NAME, self._folder_of("", can_make=True)) as found:
            if found and known and found.has(known.sha256, known.size):
                earlier = found.read().decode("utf-8", "replace")
        data = news.text(self._order.news_time, lines, earlier).encode("utf-8", "replace")
        item = Item(news.NAME, len(data), hashlib.sha256(data).hexdigest())
        return self._try(item, Content(len(data), data))

    def _folder_of(self, path: str, *, can_make: bool) -> int:
        """The open folder of the present item; the last one stays open. Entering it recovers from a killed run."""
        if self._folder_path != path:
            if self._folder >= 0:
                os.close(self._folder)
            self._folder, self._folder_path = -1, None
            self._folder = existing.enter(self._target, path, can_make=can_make)
            self._replacements.recover(path, self._folder, self._ours)
            self._folder_path = path
        return self._folder
