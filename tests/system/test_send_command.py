"""send with the real command, for a teacher who is not root."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from datetime import datetime

import pytest

from tests.homework import as_student
from tests.taught import ADA, BOB, NAMES, TEACHER, Taught, taught_class

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def taught() -> Iterator[Taught]:
    with taught_class() as room:
        yield room


def edit(name: str, script: str) -> None:
    """A shell script of the student's, in the home."""
    as_student(name, "sh", "-c", script)


def test_new_material_arrives_once_and_only_for_whom_it_is_meant(taught):
    taught.teach("week2/lab2.txt", "two")
    taught.sudo("send", "--only", ADA)
    assert (taught.tutorial(ADA) / "week2" / "lab2.txt").read_text() == "two"
    assert not (taught.tutorial(BOB) / "week2").exists()
    students = taught.sudo_json("send")
    new = {"path": "week2/lab2.txt", "change": "new", "detail": ""}
    about = {"username": BOB, "status": "done", "error": None, "files": 1, "bytes": 3, "exceptions": []}
    assert students[BOB] == {**about, "changes": [new]}
    nothing = {"status": "unchanged", "files": 0, "bytes": 0, "changes": []}
    assert students[ADA] == {**about, **nothing, "username": ADA}
    assert taught.sudo("send").stdout == "send: nothing to do.\n"


def test_the_untouched_is_updated_the_edited_kept_and_the_deleted_left(taught):
    taught.teach("sheet.txt", "one")
    taught.teach("gone.txt", "one")
    taught.sudo("send")
    edit(ADA, "echo mine > tutorial/sheet.txt; rm tutorial/gone.txt")
    taught.teach("sheet.txt", "two")
    taught.teach("gone.txt", "two")
    students = taught.sudo_json("send")
    assert (taught.tutorial(BOB) / "sheet.txt").read_text() == "two"
    assert (taught.tutorial(ADA) / "sheet.txt").read_text() == "mine\n"
    assert [file.read_text() for file in taught.tutorial(ADA).glob("sheet (update *).txt")] == ["two"]
    assert not (taught.tutorial(ADA) / "gone.txt").exists()
    reasons = {one["path"]: one["reason"] for one in students[ADA]["exceptions"]}
    assert "the same lines" in reasons["sheet.txt"] and "deleted by the student" in reasons["gone.txt"]
    assert taught.sudo("send").stdout == "send: nothing to do.\n"


def test_a_file_that_became_a_folder_reaches_everybody_and_comes_back_from_history(taught):
    taught.teach("part", "one")
    taught.teach("sheets/a", "one")
    taught.sudo("send")
    edit(ADA, "echo mine > tutorial/part; echo mine > tutorial/sheets/a")
    taught.sudo("snapshot")
    before = datetime.now().astimezone().isoformat()
    for old in ("part", "sheets/a"):
        (taught.folder / "material" / old).unlink()
    (taught.folder / "material/sheets").rmdir()
    taught.teach("part/a", "two")
    taught.teach("sheets", "two")
    try:
        students = taught.sudo_json("send")
        changes = {(one["path"], one["change"]): one["detail"] for one in students[BOB]["changes"]}
        assert changes[("part", "updated")] == "it is a folder now"
        assert changes[("sheets", "updated")] == "it was a folder"
        assert (taught.tutorial(BOB) / "part/a").read_text() == (taught.tutorial(BOB) / "sheets").read_text() == "two"
        news = (taught.tutorial(BOB) / "News from your teacher.md").read_text()
        assert "`part`: a folder now" in news
        ada = taught.tutorial(ADA)
        assert (ada / "part").read_text() == (ada / "sheets/a").read_text() == "mine\n"
        assert {one["change"] for one in students[ADA]["changes"] if one["path"] in ("part/a", "sheets")} == {
            "conflict"
        }
        assert [file.read_text() for file in ada.glob("part (update *)/a")] == ["two"]
        assert [file.read_text() for file in ada.glob("sheets (update *)")] == ["two"]
        assert taught.sudo("send").stdout == "send: nothing to do.\n"
        taught.sudo("snapshot")
        assert "present" in taught.sudo("history", BOB, "part/a").stdout
        said = taught.sudo("restore", BOB, "sheets/a", "--at", before).stdout
        assert "sheets (version " in said
        assert [file.name.startswith("a (version ") for file in taught.tutorial(BOB).glob("sheets (version *)/*")] == [
            True
        ]
    finally:
        subprocess.run(["rm", "-r", taught.folder / "material/part", taught.folder / "material/sheets"], check=True)


def test_a_student_gets_back_what_was_deleted_by_mistake(taught):
    taught.teach("lost.txt", "find me")
    taught.sudo("send")
    edit(ADA, "rm tutorial/lost.txt; echo mine > tutorial/sheet.txt")
    students = taught.sudo_json("send", "--restore-deleted", "--only", ADA)
    assert (taught.tutorial(ADA) / "lost.txt").read_text() == "find me"
    assert (taught.tutorial(ADA) / "sheet.txt").read_text() == "mine\n"
    assert (students[ADA]["status"], students[ADA]["files"]) == ("done", 2)  # gone.txt as well, deleted long ago
    assert (taught.tutorial(ADA) / "gone.txt").read_text() == "two"
    assert set(students) == {ADA}


def test_a_dry_run_says_who_would_get_something_and_sends_nothing(taught):
    taught.teach("later.txt", "later")
    assert f"send to {ADA}" in taught.sudo("send", "--dry-run").stdout
    assert not (taught.tutorial(ADA) / "later.txt").exists()
    taught.sudo("send")


def test_what_a_student_put_in_the_way_is_partial_and_tried_again(taught, tmp_path):
    tmp_path.chmod(0o777)
    edit(ADA, f"ln -s {tmp_path} tutorial/way")
    taught.teach("way/lab.txt", "new")
    students = taught.sudo_json("send", expect=5)
    assert [one["path"] for one in students[ADA]["exceptions"] if one["incomplete"]] == ["way/lab.txt"]
    assert (taught.tutorial(BOB) / "way" / "lab.txt").exists()
    taught.sudo("send", expect=5)
    assert list(tmp_path.iterdir()) == []
    edit(ADA, "rm tutorial/way")
    taught.sudo("send")
    assert (taught.tutorial(ADA) / "way" / "lab.txt").read_text() == "new"


def test_a_full_home_fails_alone_and_is_served_when_there_is_room(taught):
    home = taught.home(ADA)
    owner = home.stat()
    options = f"size=1m,mode=700,uid={owner.st_uid},gid={owner.st_gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(home)], check=True)
    try:
        taught.teach("large.txt", "x" * 3_000_000)
        answer = taught.sudo("send", expect=5)
        assert "1 of 2 students" in answer.stderr and f"{ADA} (" in answer.stderr
        assert (taught.tutorial(BOB) / "large.txt").stat().st_size == 3_000_000
    finally:
        subprocess.run(["umount", str(home)], check=True)
    taught.sudo("send")
    assert (taught.tutorial(ADA) / "large.txt").stat().st_size == 3_000_000


def test_links_devices_and_setuid_bits_of_the_material_go_nowhere(taught):
    material = taught.folder / "material"
    (material / "shadow").symlink_to("/etc/shadow")
    os.mkfifo(material / "fifo")
    os.mknod(material / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 0))
    taught.teach("tool.sh", "#!/bin/sh\n").chmod(0o4755)
    try:
        answer = taught.sudo("send")
        for name in ("shadow", "fifo", "disk", "tool.sh"):
            assert f"material: {name}: " in answer.stderr
        for name in NAMES:
            assert {"shadow", "fifo", "disk"}.isdisjoint(os.listdir(taught.tutorial(name)))
            assert stat.S_IMODE((taught.tutorial(name) / "tool.sh").stat().st_mode) == 0o700
    finally:
        for name in ("shadow", "fifo", "disk"):
            (material / name).unlink()


def test_a_material_folder_that_is_gone_is_an_input_error(taught):
    material = taught.folder / "material"
    moved = material.rename(taught.folder / "elsewhere")
    try:
        assert str(material) in taught.sudo("send", expect=3).stderr
    finally:
        moved.rename(material)


def test_a_profile_reaches_the_students_and_one_with_a_secret_stops_everything(taught):
    startup = taught.home(TEACHER) / ".ipython/profile_lab/startup"
    as_student(TEACHER, "mkdir", "-p", str(startup), str(startup.parent / "security"))
    as_student(TEACHER, "sh", "-c", f'echo "answer = 42" > "{startup}/00-lab.py"; echo x > "{startup}/../security/key"')
    taught.write(profile="lab")
    try:
        taught.sudo("send")
        delivered = taught.home(BOB) / ".ipython/profile_lab/startup/00-lab.py"
        assert delivered.read_text() == "answer = 42\n"
        assert delivered.stat().st_uid == taught.home(BOB).stat().st_uid
        assert not list(taught.home(BOB).rglob("key"))
        as_student(TEACHER, "sh", "-c", f"echo 'c.ServerApp.password = \"hunter2\"' > '{startup}/01-oops.py'")
        taught.teach("not-yet.txt", "not yet")
        answer = taught.sudo("send", expect=3)
        assert "01-oops.py" in answer.stderr and "hunter2" not in answer.stderr
        assert not delivered.with_name("01-oops.py").exists()
        assert not (taught.tutorial(BOB) / "not-yet.txt").exists()
    finally:
        taught.config.pop("profile")
        taught.write()
