"""What retrieve noted of a submission is taken over; anything else is as if nothing was noted."""

from __future__ import annotations

import json

import pytest

from nblauncher.grading.teacher_side.handed_in import HandedIn, noted

NOTE = {
    "version": 1,
    "due": "2026-11-27T18:00:00+01:00",
    "due_class": "2026-11-27T17:00:00+01:00",
    "late_seconds": 60.5,
    "renamed": {"problem1.ipynb": "sub/mine.ipynb"},
}


def read(folder, content):
    (folder / "ada.submission.json").write_text(content)
    return noted(folder, "ada")


def test_a_students_own_moment_is_an_extension(tmp_path):
    found = read(tmp_path, json.dumps(NOTE))
    assert found == HandedIn(3600.0, 60.5, ("problem1.ipynb was handed in as sub/mine.ipynb",))


def test_without_a_deadline_there_is_no_extension(tmp_path):
    assert read(tmp_path, json.dumps({**NOTE, "due": None, "due_class": None})).extension is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"version": 2}', "[" * 100_000])
def test_a_note_that_cannot_be_used_is_none(tmp_path, content):
    assert read(tmp_path, content) == HandedIn()


def test_who_came_another_way_has_no_note(tmp_path):
    assert noted(tmp_path, "bob") == HandedIn()
