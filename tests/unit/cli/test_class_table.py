"""The table of `status`: what stands where, in how many columns."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from nblauncher.cli import class_table
from nblauncher.cli.watch import _shares, _Watching
from nblauncher.commands.running.status import View
from nblauncher.commands.running.usage import Meter

NOW = datetime(2026, 11, 30, 12, tzinfo=timezone.utc)


def entry(name: str, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "username": name,
        "server": "ready",
        "reason": "",
        "last_activity": (NOW - timedelta(minutes=2)).isoformat(),
        "last_save": (NOW - timedelta(hours=3)).isoformat(),
        "last_sign_in": (NOW - timedelta(days=5)).isoformat(),
        "never_signed_in": False,
        "kernels": 2,
        "busy_kernels": 1,
        "memory_bytes": 123_400_000,
        "cpu_seconds": 17.4,
        "disk_bytes": 2_300_000_000,
        "port": 8001,
        "deadlines": [],
    }
    return {**given, **more}


NEW = {
    **dict.fromkeys(("last_activity", "last_save", "last_sign_in", "disk_bytes", "memory_bytes", "cpu_seconds")),
    "kernels": 0,
    "busy_kernels": 0,
    "server": "asleep",
    "never_signed_in": True,
}


def test_a_wide_table_says_everything():
    title, ada, bob = class_table.table([entry("ada"), entry("bob", **NEW)], 120, NOW)
    assert title.split() == [
        "student",
        "server",
        "active",
        "kernels",
        "memory",
        "cpu",
        "s",
        "saved",
        "disk",
        "signed",
        "in",
        "port",
    ]
    assert ada == "ada      ready   2 min ago        2, 1 busy  123.4 MB     17  3 h ago  2.3 GB  5 days ago  8001"
    assert bob.split() == ["bob", "asleep", "never", "signed", "in", "0", "-", "-", "-", "-", "never", "8001"]


@pytest.mark.parametrize("width", range(40, 140))
def test_no_line_is_wider_than_the_terminal_and_the_important_columns_stay(width):
    entries = [entry("ada"), entry("bob", **NEW), entry("eve", reason="killed by SIGKILL; it was started again " * 3)]
    lines = class_table.table(entries, width, NOW)
    assert max(map(len, lines)) <= width
    assert lines[0].split()[:3] == ["student", "server", "active"]
    assert "killed by SIGKILL; it was started again killed" in " ".join(" ".join(lines[3:]).split())
    assert width < 60 or "memory" in lines[0]


def test_a_short_remark_stands_beside_its_student_and_a_long_one_below():
    entries = [entry("ada", reason="it was shut down"), entry("bob", reason="x " * 30)]
    lines = class_table.table(entries, 80, NOW)
    assert lines[1].endswith("  it was shut down") or lines[2].strip() == "it was shut down"
    narrow = class_table.table(entries, 60, NOW)
    assert narrow[2].startswith("    ") or narrow[3].startswith("    ")


def test_what_a_student_wrote_cannot_move_the_cursor():
    lines = class_table.table([entry("ada", reason="\x1b[2J\x1b]0;x\x07\n\r‮ boo")], 100, NOW)
    assert "\x1b" not in "".join(lines) and all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-30, "just now"),
        (0, "just now"),
        (59, "just now"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (3600, "1 h ago"),
        (47 * 3600, "47 h ago"),
        (49 * 3600, "2 days ago"),
    ],
)
def test_how_long_ago_something_was(seconds, words):
    assert class_table.ago(NOW - timedelta(seconds=seconds), NOW) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (5, "in less than a minute"),
        (125, "in 2 min"),
        (7500, "in 2 h 5 min"),
        (7200, "in 2 h"),
        (5 * 86400, "in 5 days"),
    ],
)
def test_how_long_it_is_until_a_deadline(seconds, words):
    assert class_table.until(NOW + timedelta(seconds=seconds), NOW) == words


def test_above_the_table_stand_the_next_deadline_and_failed_captures():
    view = View(
        [entry("ada", deadlines=[{"state": "not captured"}]), entry("bob")],
        "ready",
        "",
        {"deadline": "ps1", "at": (NOW + timedelta(minutes=65)).isoformat()},
    )
    deadline, captures = class_table.head(view, NOW)
    assert deadline.startswith("Next deadline: ps1, 2026-11-30 ") and deadline.endswith("(in 1 h 5 min)")
    assert captures.startswith("Captures failed, late or incomplete: ada;")


@pytest.mark.parametrize(
    ("key", "names"),
    [("name", "ada bob eve"), ("memory", "eve ada bob"), ("cpu", "bob ada eve"), ("idle", "eve bob ada")],
)
def test_students_are_sorted(key, names):
    entries = [
        entry("eve", memory_bytes=3, cpu_seconds=None, last_activity=None),
        entry("ada", memory_bytes=2, cpu_seconds=90.0),
        entry("bob", memory_bytes=None, cpu_seconds=1.0, last_activity=(NOW - timedelta(hours=1)).isoformat()),
    ]
    found = class_table.order(entries, key, {"bob": 50.0, "ada": 5.0})
    assert [one["username"] for one in found] == names.split()


def watching(count: int) -> _Watching:
    host = SimpleNamespace(settings=SimpleNamespace(course="lab"))
    made = _Watching(host, (), "name", Meter())  # type: ignore[arg-type]
    made.view = View([entry(f"s{number:03}") for number in range(count)], "ready", "", None)
    return made


def test_the_live_table_fits_the_screen_and_can_be_paged():
    made = watching(200)
    lines = made.lines(80, 24)
    assert len(lines) == 24 and lines[-1].endswith("q quit") and "200 ready" in lines[-2]
    assert lines[2].startswith("s000")
    assert made.press([" "]) and made.lines(80, 24)[2].startswith("s018")
    assert made.press(["\x1b[A"]) and made.lines(80, 24)[2].startswith("s017")
    assert made.press(["b", "b", "b"]) and made.lines(80, 24)[2].startswith("s000")
    assert made.press([" "] * 100) and made.lines(80, 24)[2].startswith("s199")


def test_keys_sort_and_end_the_live_table():
    made = watching(2)
    for key, sort in (("m", "memory"), ("c", "cpu"), ("i", "idle"), ("n", "name"), ("x", "name")):
        assert made.press([key]) and made.sort == sort
    assert not made.press(["q"])
    assert not made.press([]), "the terminal is gone"


def test_cpu_is_shown_as_a_share_of_a_processor():
    before, after = watching(1).view, watching(1).view
    assert before and after
    after.entries[0]["cpu_seconds"] = 18.4
    after.entries.append(entry("new", cpu_seconds=None))
    assert _shares(before, after, 2.0) == {"s000": pytest.approx(50.0)}
    after.entries[0]["cpu_seconds"] = 0.1
    assert _shares(before, after, 2.0)["s000"] == 0.0, "another server by now"
