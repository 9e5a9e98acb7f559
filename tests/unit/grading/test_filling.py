"""A submission takes its place whole or not at all, keeps its time while it is the same, and has the right names."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from nblauncher.grading import filling, submission_folder
from nblauncher.grading.filling import Order, Student
from nblauncher.system import libc
from tests.notebooks import cell, notebook

NOON = datetime(2026, 11, 27, 12, tzinfo=timezone.utc)
PROBLEM = notebook(cell("?", "c1", nbgrader={"grade_id": "q1"}), cell("?", "c2", nbgrader={"grade_id": "q2"}))


def answered(text: str) -> bytes:
    return PROBLEM.replace(b"?", text.encode())


class Course:
    def __init__(self, folder: Path) -> None:
        self.root, self.store = folder / "grading", folder / "retrieved"
        (self.root / "release/ps1").mkdir(parents=True)
        (self.root / "release/ps1/problem1.ipynb").write_bytes(PROBLEM)
        self.store.mkdir()

    def retrieved(self, at: datetime, **students: dict[str, bytes]) -> Path:
        """As `arrange` leaves it in the plain layout."""
        published = self.store / f"{at:%Y-%m-%dT%H%M%S}-ps1"
        for name, files in students.items():
            rows = []
            for number, (path, data) in enumerate(files.items(), 1):
                file = published / name / "work/ps1" / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
                sent = sha256(PROBLEM).hexdigest() if path == "problem1.ipynb" else None
                row = {"path": f"work/ps1/{path}", "size": len(data), "sha256": sha256(data).hexdigest(), "sent": sent}
                rows.append({**row, "stamp": [number, number, number, number]})
            stamp = f"{at:%Y-%m-%d %H:%M:%S.%f} UTC"
            (published / name).mkdir(parents=True, exist_ok=True)
            (published / name / "manifest.json").write_text(json.dumps({"files": rows, "timestamp": stamp}))
        return published

    def fill(self, at: datetime = NOON, **students: dict[str, bytes]) -> dict[str, dict[str, Any]]:
        return filling.fill(self.order(at, **students))

    def order(self, at: datetime = NOON, **students: dict[str, bytes]) -> Order:
        published = self.retrieved(at, **students)
        return Order(self.root, "ps1", published, tuple(Student(name, {}, NOON, NOON) for name in students))

    def place(self, name: str = "ada") -> Path:
        return self.root / "submitted" / name / "ps1"

    def content(self, name: str = "ada") -> dict[str, str]:
        place = self.place(name)
        return {str(one.relative_to(place)): one.read_text() for one in place.rglob("*") if one.is_file()}

    def record(self, name: str = "ada") -> dict[str, Any]:
        return json.loads((self.root / ".nblauncher/ps1" / f"{name}.submission.json").read_text())


@pytest.fixture
def course() -> Iterator[Course]:
    """In memory: every run of `fill` writes the whole file system to its disk."""
    with tempfile.TemporaryDirectory(prefix="nbt-", dir="/dev/shm") as folder:
        yield Course(Path(folder))


def killed_at(point: int, function: Callable[[], object]) -> bool:
    """Run it in a child that kills itself at the nth change of a folder; whether it came so far."""
    pid = os.fork()
    if pid == 0:
        try:
            _count_down(point)
            function()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def _count_down(point: int) -> None:
    left = [point]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return real(*arguments, **keywords)

        return call

    for name in ("mkdir", "rename", "replace", "unlink", "rmdir", "write", "fsync"):
        setattr(os, name, counted(getattr(os, name)))
    libc.renameat2 = counted(libc.renameat2)


def test_a_kill_at_any_point_leaves_the_old_or_the_new_one(course):
    old = {"problem1.ipynb": answered("1"), "a.txt": b"old"}
    new = {"problem1.ipynb": answered("2"), "b/c.txt": b"new"}
    course.fill(NOON, ada=old)
    before = course.content()
    order = course.order(NOON + timedelta(hours=1), ada=new)
    whole = {
        "problem1.ipynb": answered("2").decode(),
        "b/c.txt": "new",
        "timestamp.txt": "2026-11-27 13:00:00.000000 UTC\n",
    }
    point, seen = 0, set()
    while killed_at(point, lambda: filling.fill(order)):
        found = course.content()
        assert found in (before, whole), point
        seen.add(found == whole)
        (answer,) = filling.fill(order).values()
        assert answer["state"] in ("replaced", "unchanged") and answer["kept"] is None
        assert course.content() == whole
        assert course.record()["timestamp"] == "2026-11-27T13:00:00+00:00"
        assert [one.name for one in course.place().parent.iterdir()] == ["ps1"]
        filling.fill(course.order(NOON, ada=old))
        assert course.content() == before
        point += 1
    assert seen == {False, True} and point > 10


def test_a_kill_loses_nothing_that_the_teacher_edited(course):
    order = course.order(NOON + timedelta(hours=1), ada={"problem1.ipynb": answered("2")})
    point = 0
    while True:
        course.fill(NOON, ada={"problem1.ipynb": answered("1")})
        (course.place() / "problem1.ipynb").write_text("edited")
        is_killed = killed_at(point, lambda: filling.fill(order))
        filling.fill(order)
        kept = [one for one in course.place().parent.glob("*/problem1.ipynb") if one.read_text() == "edited"]
        assert kept, point
        assert course.content()["problem1.ipynb"] == answered("2").decode()
        for one in kept:
            one.unlink()
        for one in course.place().parent.glob("ps1.edited-*"):
            for file in one.iterdir():
                file.unlink()
            one.rmdir()
        if not is_killed:
            break
        point += 1


def test_the_earliest_time_of_the_same_work_counts(course):
    work = {"problem1.ipynb": answered("1")}
    course.fill(NOON + timedelta(hours=2), ada=work)
    assert course.record()["late_seconds"] == 7200
    assert course.fill(NOON + timedelta(hours=3), ada=work)["ada"]["state"] == "unchanged"
    assert course.record()["late_seconds"] == 7200
    course.fill(NOON - timedelta(hours=1), ada=work)
    assert course.content()["timestamp.txt"] == "2026-11-27 11:00:00.000000 UTC\n"
    assert course.record()["late_seconds"] == 0


def test_what_nbgrader_collected_before_is_taken_over_or_kept(course):
    course.place().mkdir(parents=True)
    (course.place() / "problem1.ipynb").write_bytes(answered("1"))
    assert course.fill(ada={"problem1.ipynb": answered("1")})["ada"]["state"] == "unchanged"
    course.place("bob").mkdir(parents=True)
    (course.place("bob") / "problem1.ipynb").write_bytes(answered("by mail"))
    answer = course.fill(NOON + timedelta(hours=1), bob={"problem1.ipynb": answered("1")})["bob"]
    assert answer["state"] == "replaced"
    assert (course.root / answer["kept"] / "problem1.ipynb").read_bytes() == answered("by mail")


def test_a_file_that_is_not_as_it_was_retrieved_costs_one_student(course):
    order = course.order(ada={"problem1.ipynb": answered("1"), "full": b"x"}, bob={"problem1.ipynb": answered("1")})
    (order.retrieval / "ada/work/ps1/full").write_text("another")
    answers = filling.fill(order)
    assert answers["ada"]["state"] == "failed" and "is not what was retrieved" in answers["ada"]["problem"]
    assert answers["bob"]["state"] == "new"
    assert list(course.place().parent.iterdir()) == []


def test_two_thousand_strange_names_do_not_fill_the_answer(course):
    names = {f"{'x' * 200}{number}.ipynb": answered(str(number)) for number in range(2000)}
    answer = course.fill(ada=names)["ada"]
    assert len(json.dumps(answer)) < 20_000
    assert answer["renamed"]["problem1.ipynb"].startswith("xxx")
    assert len(course.content()) == 2001


def test_digests_tell_names_and_contents():
    digests = {submission_folder.digest(one) for one in ({}, {"a": "1"}, {"a": "2"}, {"b": "1"}, {"\udc80": "1"})}
    assert len(digests) == 5


def test_a_folder_with_the_name_of_a_notebook_makes_room_for_it():
    paths = {path: path for path in ("x.ipynb", "a.ipynb/b.txt", "a (the student's).ipynb")}
    places = filling.names_of(paths, {"a.ipynb": "x.ipynb"})
    assert places["x.ipynb"] == "a.ipynb"
    assert places["a.ipynb/b.txt"] == "a (the student's 2).ipynb/b.txt"
