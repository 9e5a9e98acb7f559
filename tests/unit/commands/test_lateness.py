"""What of a capture was there at the moment."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from nblauncher.commands.deadlines.copies import Copy
from nblauncher.commands.deadlines.lateness import Evidence, Late, judged, nanoseconds, reason
from nblauncher.exchange.retrieve.student_side import HALF_SAVED
from nblauncher.model import Exclusion, Stored

AT = datetime(2026, 11, 27, 16, tzinfo=timezone.utc)
BEFORE, AFTER = AT - timedelta(seconds=20), AT + timedelta(seconds=5)


def file(sha256: str, *, changed: datetime = BEFORE, mtime: datetime | None = None) -> Stored:
    return Stored((1, nanoseconds(mtime or changed), nanoseconds(changed), 7), sha256)


def early(seen: datetime = BEFORE, **files: Stored) -> Evidence:
    return Copy(files, (), None, seen).evidence(AT)


def test_what_was_not_touched_since_the_moment_is_in_time():
    found = {"a": file("1", changed=AT)}
    assert judged(AT, found, Evidence({})) == (found, {}, [])


def test_a_later_ctime_is_late_whatever_mtime_the_student_gave_it():
    found = {"a": file("1", changed=AFTER, mtime=BEFORE)}
    kept, late, _said = judged(AT, found, Evidence({}))
    assert kept == found and late == {"a": Late(nanoseconds(AFTER), None)}
    assert reason(late["a"]).startswith("LATE: changed at ")


def test_a_later_mtime_is_late_unless_the_content_was_seen():
    found = {"a": file("1", changed=BEFORE, mtime=AFTER)}
    assert set(judged(AT, found, Evidence({}))[1]) == {"a"}
    assert judged(AT, found, early(b=file("1")))[1] == {}


def test_the_version_that_was_seen_before_the_moment_is_kept():
    before = file("1")
    kept, late, _said = judged(AT, {"a": file("2", changed=AFTER)}, early(a=before))
    assert kept == {"a": before} and late == {"a": Late(nanoseconds(AFTER), BEFORE)}
    assert "the later version is not" in reason(late["a"])


def test_what_was_renamed_or_touched_after_the_moment_is_in_time():
    found = {"new": file("1", changed=AFTER)}
    assert judged(AT, found, early(old=file("1"))) == (found, {}, [])


def test_a_copy_that_was_made_after_the_moment_proves_only_what_was_not_late_in_it():
    late = {"new": Late(nanoseconds(AFTER), None), "edited": Late(nanoseconds(AFTER), BEFORE)}
    files = {"old": file("1"), "new": file("2", changed=AFTER), "edited": file("4")}
    seen = Copy(files, (), None, AFTER, late).evidence(AT)
    kept, late, _said = judged(AT, {name: file("5", changed=AFTER) for name in files}, seen)
    assert (kept["old"], kept["edited"]) == (file("1"), file("4")) and late["edited"].seen == BEFORE
    assert late["new"].seen is None and late["old"].seen == AT


def test_a_second_look_takes_the_save_that_was_under_way_and_nothing_else_that_is_later():
    said = (Exclusion("saved", HALF_SAVED, True), Exclusion("opened late", HALF_SAVED, True))
    files = {"saved": file("half"), "other": file("1"), "opened late": file("2", changed=AFTER)}
    late = {"opened late": Late(nanoseconds(AFTER), None)}
    first = Copy(files, said, AFTER, AFTER, late).evidence(AT)
    again = {name: file("new", changed=AFTER + timedelta(seconds=1)) for name in files}
    kept, late, told = judged(AT, again, first)
    assert kept == {**again, "other": file("1")}
    assert set(late) == {"other", "opened late"} and late["opened late"].seen is None
    assert [one.path for one in told] == ["saved"] and not told[0].incomplete


def test_times_that_no_calendar_has_are_late():
    found = {"a": Stored((1, 2**62, 2**62, 7), "1"), "b": Stored((1, 2**90, 0, 7), "1")}
    late = judged(AT, found, Evidence({}))[1]
    assert set(late) == {"a", "b"} and all(map(reason, late.values()))
