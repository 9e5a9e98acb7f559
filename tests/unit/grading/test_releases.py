"""When the release of an assignment is generated again."""

from __future__ import annotations

import os
from pathlib import Path

from nblauncher.grading import releases
from nblauncher.grading.course_folder import CourseFolder
from nblauncher.grading.releases import Remembered

OLD, NEW = 1_700_000_000, 1_800_000_000


def write(file: Path, text: str, time: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    os.utime(file, (time, time))


def is_stale(root: Path) -> bool:
    return bool(releases.look(str(root), "ps1")["is_stale"])


def generated(root: Path) -> None:
    course = CourseFolder(root)
    (root / ".nblauncher").mkdir(exist_ok=True)
    made = Remembered(releases.digest(course.source("ps1")), releases.digest(course.release("ps1")))
    releases.remember(course, "ps1", made)


def test_a_release_that_is_missing_or_older_than_its_source_is_stale(tmp_path):
    assert releases.look(str(tmp_path), "ps1") == {
        "has_source": False,
        "has_release": False,
        "is_stale": False,
        "due": "",
        "others": [],
    }
    write(tmp_path / "source/ps1/a.ipynb", "one", OLD)
    assert is_stale(tmp_path)
    write(tmp_path / "release/ps1/a.ipynb", "one", NEW)
    assert not is_stale(tmp_path)
    write(tmp_path / "source/ps1/a.ipynb", "two", NEW + 1)
    assert is_stale(tmp_path)


def test_of_a_release_that_nblauncher_generated_the_contents_of_its_source_count_and_no_times(tmp_path):
    write(tmp_path / "source/ps1/a.ipynb", "one", OLD)
    write(tmp_path / "release/ps1/a.ipynb", "one", NEW)
    generated(tmp_path)
    write(tmp_path / "source/ps1/a.ipynb", "one", NEW + 1)
    write(tmp_path / "source/ps1/.ipynb_checkpoints/a.ipynb", "copy", NEW + 1)
    assert not is_stale(tmp_path)
    write(tmp_path / "source/ps1/a.ipynb", "from a backup, with its old time", OLD - 5)
    assert is_stale(tmp_path)


def test_what_the_teacher_changed_in_a_release_stays_until_the_source_is_newer(tmp_path):
    write(tmp_path / "source/ps1/a.ipynb", "one", OLD)
    write(tmp_path / "release/ps1/a.ipynb", "one", OLD + 1)
    generated(tmp_path)
    write(tmp_path / "release/ps1/a.ipynb", "by hand", NEW)
    assert not is_stale(tmp_path)
    write(tmp_path / "source/ps1/a.ipynb", "two", NEW + 1)
    assert is_stale(tmp_path)


def test_a_release_without_a_source_is_used_as_it_is(tmp_path):
    write(tmp_path / "release/ps1/a.ipynb", "from a colleague", OLD)
    assert not is_stale(tmp_path) and releases.look(str(tmp_path), "ps1")["others"] == ["ps1"]
