"""An export is written whole or not at all, and what somebody made of it on the way is refused."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nblauncher.errors import HostError, InputError, NblauncherError, RefusedError
from nblauncher.exchange.moving import manifest, teacher_side, unpacking

ODD = os.fsdecode(b"<img src=x>\x1b[31m\n=1+1 \xff")
HEAD = manifest.head("waves", "nblauncher 1", "2026-11-30T17:00:00+01:00", "")
CONTENTS = {
    "notebooks.cfg": b"course: waves\n",
    "students.csv": b"username\nada\n",
    "records.json": b"{}",
    "hashes.json": b"{}",
}


@pytest.fixture
def nowhere() -> Iterator[int]:
    descriptor = os.open(os.devnull, os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A teacher's folder with a retrieval whose names a student chose, and links that lead out."""
    work = tmp_path / "course/retrieved/2026-11-20T091500+0100/ada/work"
    again = tmp_path / "course/retrieved/2026-11-27T091500+0100/ada/work"
    for folder in (work, again, tmp_path / "course/material/empty", tmp_path / "course/grading"):
        folder.mkdir(parents=True)
    (work / ODD).write_bytes(b"mine\n")
    os.link(work / ODD, again / ODD)
    (tmp_path / "course/retrieved/latest").symlink_to("2026-11-27T091500+0100")
    (tmp_path / "course/retrieved/.2026.partial").mkdir()
    (tmp_path / "course/material/run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "course/material/run.sh").chmod(0o755)
    (tmp_path / "course/material/passwd").symlink_to("/etc/passwd")
    (tmp_path / "course/material/.git").mkdir()
    os.mkfifo(tmp_path / "course/material/pipe")
    with sqlite3.connect(tmp_path / "course/grading/gradebook.db") as book:
        book.execute("CREATE TABLE grade (score REAL)")
        book.execute("INSERT INTO grade VALUES (7.5)")
    book.close()
    (tmp_path / "course/grading/gradebook.db-journal").write_bytes(b"")
    return tmp_path / "course"


def order(course: Path, folder: Path) -> teacher_side.Order:
    return teacher_side.Order(folder, HEAD, {name: course / name for name in manifest.FOLDERS})


@pytest.fixture
def export(course: Path, nowhere: int) -> Path:
    folder = course.parent / "export"
    teacher_side.write(nowhere, order(course, folder), CONTENTS)
    return folder


def changed(export: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = export / "manifest.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def row(path: str, data: bytes = b"", **more: Any) -> dict[str, Any]:
    sha256 = hashlib.sha256(data).hexdigest()
    return {"path": path, "size": len(data), "sha256": sha256, "mtime_ns": 0, "executable": False, **more}


def placed(export: Path, into: Path, nowhere: int) -> Path:
    sha256 = hashlib.sha256((export / "manifest.json").read_bytes()).hexdigest()
    unpacking.place(nowhere, unpacking.Order(export, into, sha256, b"course: waves\n"))
    return into


def test_an_export_has_everything_but_links_and_comes_out_the_same(export: Path, course: Path, nowhere: int) -> None:
    unpacking.check(nowhere, export)
    about = json.loads((export / "manifest.json").read_text())
    assert about["nblauncher_export"] == 1 and about["latest"] == "2026-11-27T091500+0100"
    assert {one["path"] for one in about["left_out"]} == {"material/passwd", "material/pipe"}
    assert about["empty_folders"] == ["material/empty"]
    for one in about["files"]:
        assert hashlib.sha256((export / one["path"]).read_bytes()).hexdigest() == one["sha256"]
    assert not any(path.is_symlink() for path in export.rglob("*"))
    assert all(not path.stat().st_mode & 0o077 for path in (export, *export.rglob("*")))

    into = placed(export, course.parent / "new", nowhere)
    first, other = sorted((into / "retrieved").glob("2*/ada/work/*"))
    assert first.read_bytes() == b"mine\n" and first.name == ODD and first.samefile(other)
    old = course / "retrieved/2026-11-20T091500+0100/ada/work" / ODD
    assert first.stat().st_mtime_ns == old.stat().st_mtime_ns
    assert os.readlink(into / "retrieved/latest") == "2026-11-27T091500+0100"
    assert (into / "material/empty").is_dir() and os.access(into / "material/run.sh", os.X_OK)
    assert {path.name for path in into.iterdir()} == {"notebooks.cfg", "students.csv", *manifest.FOLDERS}
    with sqlite3.connect(into / "grading/gradebook.db") as book:
        assert book.execute("SELECT score FROM grade").fetchall() == [(7.5,)]
    book.close()


def test_an_export_that_fails_leaves_nothing_and_a_killed_ones_rest_goes_with_the_next(
    course: Path, nowhere: int
) -> None:
    folder = course.parent / "export"
    with pytest.raises(HostError, match="materia1"):
        teacher_side.write(nowhere, teacher_side.Order(folder, HEAD, {"material": course / "materia1"}), CONTENTS)
    assert [path.name for path in course.parent.iterdir()] == ["course"]
    (course.parent / ".export.partial-0123456789abcdef/retrieved").mkdir(parents=True)
    (course.parent / ".export.partial-mine").mkdir()
    teacher_side.write(nowhere, order(course, folder), CONTENTS)
    assert sorted(path.name for path in course.parent.iterdir()) == [".export.partial-mine", "course", "export"]
    with pytest.raises(RefusedError, match="is there now"):
        teacher_side.write(nowhere, order(course, folder), CONTENTS)


@pytest.mark.parametrize("place", ["material/export", "retrieved/export", "grading/export", "material"])
def test_an_export_does_not_go_into_the_course_itself_or_in_the_place_of_something(course: Path, place: str) -> None:
    assert teacher_side.objection(course / place, order(course, course).sources)
    assert not teacher_side.objection(course.parent / "export", order(course, course).sources)


@pytest.mark.parametrize(
    "change, error, words",
    [
        (lambda it: it["files"].append(row("material/../../etc/x")), RefusedError, "leads out of it"),
        (lambda it: it["files"].append(row("/etc/passwd")), RefusedError, "leads out of it"),
        (lambda it: it["files"].append(row("material//x")), RefusedError, "leads out of it"),
        (lambda it: it["files"].append(row("material/" + "a/" * 300 + "x")), RefusedError, "leads out of it"),
        (lambda it: it["files"].append(row("material/\0")), RefusedError, "leads out of it"),
        (lambda it: it["files"].append(row(".ssh/authorized_keys")), RefusedError, "no export has"),
        (lambda it: it["files"].append(row("credentials.csv/x")), RefusedError, "no export has"),
        (lambda it: it["files"].append(row("material")), RefusedError, "no export has"),
        (lambda it: it.update(nblauncher_export=2), RefusedError, "version 2, and this nblauncher reads version 1"),
        (lambda it: it.update(nblauncher_export=True), InputError, "version is not a number"),
        (lambda it: it.update(nblauncher_export="1"), InputError, "version is not a number"),
        (lambda it: it.pop("nblauncher_export"), InputError, "not the manifest"),
        (lambda it: it.update(course=["waves"]), InputError, "names no course"),
        (lambda it: it.update(time="2026-11-30T17:00:00"), InputError, "not a time"),
        (lambda it: it.update(time="0001-01-01T00:00:00+23:59"), InputError, "not a time"),
        (lambda it: it.update(latest="../.."), InputError, "latest"),
        (lambda it: it.update(latest="2026-11-28T091500+0100"), InputError, "latest"),
        (lambda it: it.update(files={}), InputError, "not a list"),
        (lambda it: it.update(files=[[]]), InputError, "not an object"),
        (lambda it: it["files"].append(it["files"][0]), InputError, "twice"),
        (lambda it: it["files"].append(row("material/run.sh/x")), InputError, "both a file and a folder"),
        (lambda it: it.update(empty_folders=["material/run.sh"]), InputError, "both a file and a folder"),
        (lambda it: it.update(empty_folders=["../x"]), RefusedError, "leads out of it"),
        (lambda it: it.update(empty_folders=["etc/x"]), InputError, "no export has"),
        (lambda it: it["files"][0].update(size=-1), InputError, "size"),
        (lambda it: it["files"][0].update(size=1 << 70), InputError, "size"),
        (lambda it: it["files"][0].update(size=True), InputError, "size"),
        (lambda it: it["files"][0].update(mtime_ns=1 << 70), InputError, "mtime_ns"),
        (lambda it: it["files"][0].update(sha256="f" * 63), InputError, "sha256"),
        (lambda it: it["files"][0].update(executable=1), InputError, "executable"),
        (lambda it: it["files"][0].update(path="\ud800"), RefusedError, "leads out of it"),
        (lambda it: it["files"].pop(0), InputError, "missing"),
        (lambda it: it["files"].append(row("material/absent")), InputError, "missing"),
        (lambda it: it["files"].pop(), InputError, "does not list"),
        (lambda it: it["files"][-1].update(size=3), InputError, "checksum"),
        (lambda it: it["files"][-1].update(sha256="0" * 64), InputError, "checksum"),
    ],
)
def test_a_manifest_that_somebody_changed_is_refused(
    export: Path, nowhere: int, change: Any, error: type[NblauncherError], words: str
) -> None:
    changed(export, change)
    with pytest.raises(error, match=words):
        unpacking.check(nowhere, export)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"nblauncher_export": ' + "9" * 5000 + "}",
        '{"nblauncher_export": 1e999}',
        '{"nblauncher_export": NaN}',
        '{"nblauncher_export": 1, "nblauncher_export": 1}',
        "\ufeff{}",
    ],
)
def test_a_manifest_that_is_no_json_is_refused(export: Path, nowhere: int, text: str) -> None:
    (export / "manifest.json").write_text(text)
    with pytest.raises(InputError):
        unpacking.check(nowhere, export)


def link_file(export: Path) -> None:
    (export / "students.csv").unlink()
    (export / "students.csv").symlink_to("/etc/passwd")


def link_folder(export: Path) -> None:
    os.rename(export / "material", export.parent / "elsewhere")
    (export / "material").symlink_to(export.parent / "elsewhere")


def link_more(export: Path) -> None:
    (export / "material/more").symlink_to("/etc")


def pipe(export: Path) -> None:
    (export / "material/run.sh").unlink()
    os.mkfifo(export / "material/run.sh")


def link_manifest(export: Path) -> None:
    os.rename(export / "manifest.json", export.parent / "manifest.json")
    (export / "manifest.json").symlink_to(export.parent / "manifest.json")


@pytest.mark.parametrize("change", [link_file, link_folder, link_more, pipe, link_manifest])
def test_a_link_or_a_special_file_in_an_export_is_refused(export: Path, nowhere: int, change: Any) -> None:
    change(export)
    with pytest.raises(RefusedError, match="is a link or a special file"):
        unpacking.check(nowhere, export)


def test_a_changed_file_and_one_too_many_are_refused(export: Path, nowhere: int) -> None:
    (export / "material/run.sh").write_text("#!/bin/sh\nrm\n")
    with pytest.raises(InputError, match="checksum"):
        unpacking.check(nowhere, export)
    (export / "material/run.sh").write_text("#!/bin/sh\n")
    unpacking.check(nowhere, export)
    (export / "material/more").mkdir()
    with pytest.raises(InputError, match="does not list"):
        unpacking.check(nowhere, export)


def test_what_changed_after_the_check_is_not_placed_and_the_next_run_goes_on(
    export: Path, course: Path, nowhere: int
) -> None:
    into = course.parent / "new"
    good = (export / "material/run.sh").read_bytes()
    (export / "material/run.sh").write_bytes(b"#!/bin/no\n")
    with pytest.raises(InputError, match="checksum"):
        placed(export, into, nowhere)
    assert not (into / "material").exists() and not (into / "notebooks.cfg").exists()
    assert "not empty" in unpacking.objection(into, False)
    assert unpacking.objection(into, True) == ""
    (export / "material/run.sh").write_bytes(good)
    placed(export, into, nowhere)
    assert {path.name for path in into.iterdir()} == {"notebooks.cfg", "students.csv", *manifest.FOLDERS}
    with pytest.raises(HostError, match="changed since"):
        unpacking.place(nowhere, unpacking.Order(export, into, "0" * 64, b""))


def test_a_course_is_not_put_where_others_can_write_or_something_is(tmp_path: Path) -> None:
    assert unpacking.objection(tmp_path / "new", False) == ""
    assert "no folder" in unpacking.objection(tmp_path / "a/b", False)
    (tmp_path / "file").write_text("")
    assert "is not a folder" in unpacking.objection(tmp_path / "file", False)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert "every account can write" in unpacking.objection(tmp_path / "open", False)
