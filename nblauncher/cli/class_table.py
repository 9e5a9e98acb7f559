"""The table of `status`, in as many columns as the terminal is wide. Returns lines and prints nothing."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from nblauncher.cli import render
from nblauncher.printable import printable

if TYPE_CHECKING:
    from nblauncher.commands.running.status import View

SORTS = ("name", "memory", "cpu", "idle")

NARROWEST = 40
_GAP = "  "
_LEAST_NOTE = 32
"""Columns that a longer remark needs to be wrapped beside its student; otherwise it stands below."""

_MINUTE, _HOUR, _DAY = 60, 3600, 86400

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """`rank`: the column with the highest one is dropped first; 0 is never dropped."""

    title: str
    rank: int
    cell: Callable[[Entry, datetime], str]
    is_number: bool = False


def cpu_column(shares: Mapping[str, float]) -> Column:
    """CPU use since the last look, in percent of one processor, in place of CPU-seconds."""
    return Column("cpu %", 2, lambda entry, _now: _share(shares.get(entry["username"])), is_number=True)


def table(entries: Sequence[Entry], width: int, now: datetime, *, cpu: Column | None = None) -> list[str]:
    """A title line, then a line for each student; remarks that do not fit stand below their student."""
    width = max(width, NARROWEST)
    columns = [cpu if cpu and column.title == "cpu s" else column for column in _COLUMNS]
    cells = {column.title: [printable(column.cell(entry, now)) for entry in entries] for column in columns}
    # A column in which nothing stands tells nothing.
    columns = [column for column in columns if not column.rank or any(text != "-" for text in cells[column.title])]
    widths = {column.title: max(map(len, [column.title, *cells[column.title]])) for column in columns}
    while sum(widths[one.title] + len(_GAP) for one in columns) - len(_GAP) > width and any(
        one.rank for one in columns
    ):
        columns.remove(max(columns, key=lambda column: column.rank))
    lines = [_line([_fit(column, column.title, widths) for column in columns])]
    for number, entry in enumerate(entries):
        row = _GAP.join(_fit(column, cells[column.title][number], widths) for column in columns)
        lines += _with_note(row, printable(entry["reason"]), width)
    return lines


def head(view: View, now: datetime) -> list[str]:
    """What is important for the class, above its table."""
    from nblauncher.config import times

    lines = []
    if view.next_deadline is not None:
        at = datetime.fromisoformat(view.next_deadline["at"])
        lines.append(f"Next deadline: {view.next_deadline['deadline']}, {times.short(at)} ({until(at, now)})")
    troubled = [entry["username"] for entry in view.entries if entry["deadlines"]]
    if troubled:
        lines.append(f"Captures failed, late or incomplete: {render.names_words(troubled)}; see `nblauncher deadlines`")
    return [printable(line) for line in lines]


def order(entries: Sequence[Entry], key: str, shares: Mapping[str, float]) -> list[Entry]:
    """Sorted by `name`, `memory` or `cpu` (most first), or `idle` (longest first)."""
    if key == "memory":
        return sorted(entries, key=lambda entry: -(entry["memory_bytes"] or 0))
    if key == "cpu":
        return sorted(entries, key=lambda entry: (-shares.get(entry["username"], 0.0), -(entry["cpu_seconds"] or 0)))
    if key == "idle":
        return sorted(entries, key=lambda entry: entry["last_activity"] or "")
    return sorted(entries, key=lambda entry: str(entry["username"]))


def ago(time: datetime, now: datetime) -> str:
    """`just now`, `2 min ago`, `3 h ago`, `5 days ago`. A time ahead, after the clock was set back, is just now."""
    seconds = int((now - time) / timedelta(seconds=1))
    return "just now" if seconds < _MINUTE else f"{_length(seconds)} ago"


def until(time: datetime, now: datetime) -> str:
    """`in 2 h 5 min`."""
    seconds = int((time - now) / timedelta(seconds=1))
    if seconds < _MINUTE:
        return "in less than a minute"
    minutes = seconds % _HOUR // _MINUTE
    more = f" {minutes} min" if _HOUR <= seconds < _DAY and minutes else ""
    return f"in {_length(seconds)}{more}"


def _length(seconds: int) -> str:
    if seconds < _HOUR:
        return f"{seconds // _MINUTE} min"
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR} h"
    return f"{seconds // _DAY} days"


def _when(key: str) -> Callable[[Entry, datetime], str]:
    def cell(entry: Entry, now: datetime) -> str:
        return ago(datetime.fromisoformat(entry[key]), now) if entry[key] else "-"

    return cell


def _active(entry: Entry, now: datetime) -> str:
    """The column that always stands says as well that a student never came."""
    if entry["last_activity"]:
        return ago(datetime.fromisoformat(entry["last_activity"]), now)
    return "never signed in" if entry["never_signed_in"] else "-"


def _kernels(entry: Entry, _now: datetime) -> str:
    if not entry["kernels"]:
        return "-" if entry["kernels"] is None else "0"
    return f"{entry['kernels']}, {entry['busy_kernels']} busy" if entry["busy_kernels"] else str(entry["kernels"])


def _signed_in(entry: Entry, now: datetime) -> str:
    if entry["last_sign_in"]:
        return ago(datetime.fromisoformat(entry["last_sign_in"]), now)
    return "never" if entry["never_signed_in"] else "-"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0f}"


_COLUMNS = (
    Column("student", 0, lambda entry, _now: str(entry["username"])),
    Column("server", 0, lambda entry, _now: str(entry["server"])),
    Column("active", 0, _active),
    Column("kernels", 1, _kernels),
    Column("memory", 3, lambda entry, _now: render.bytes_text(entry["memory_bytes"]), is_number=True),
    Column(
        "cpu s",
        5,
        lambda entry, _now: "-" if entry["cpu_seconds"] is None else f"{entry['cpu_seconds']:.0f}",
        is_number=True,
    ),
    Column("saved", 4, _when("last_save")),
    Column("disk", 6, lambda entry, _now: render.bytes_text(entry["disk_bytes"]), is_number=True),
    Column("signed in", 7, _signed_in),
    Column("port", 8, lambda entry, _now: str(entry["port"]), is_number=True),
)


def _fit(column: Column, text: str, widths: Mapping[str, int]) -> str:
    width = widths[column.title]
    return text.rjust(width) if column.is_number else text.ljust(width)


def _line(cells: Sequence[str]) -> str:
    return _GAP.join(cells).rstrip()


def _with_note(row: str, note: str, width: int) -> list[str]:
    """Beside the row if it fits or can be wrapped there, else below."""
    room = width - len(row) - len(_GAP)
    if not note:
        return [row.rstrip()]
    if len(note) <= room:
        return [f"{row}{_GAP}{note}"]
    if room >= _LEAST_NOTE:
        first, *others = textwrap.wrap(note, room)
        return [f"{row}{_GAP}{first}", *(f"{'':{len(row)}}{_GAP}{more}" for more in others)]
    indent = " " * 4
    return [row.rstrip(), *textwrap.wrap(note, width, initial_indent=indent, subsequent_indent=indent)]
