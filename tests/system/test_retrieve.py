"""send and retrieve with the real command, for a teacher who is not root."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.classroom import COMMAND, Classroom, remove_account

pytestmark = pytest.mark.system

ADA, BOB = NAMES = ["nbtmada", "nbtmbob"]
TEACHER = "nbtmprof"


@pytest.fixture(scope="module")
def taught() -> Iterator[Classroom]:
    """A class that belongs to a teacher; commands run as by `sudo` of that teacher."""
    subprocess.run(["useradd", "-m", "-u", "31045", "-K", "HOME_MODE=0700", TEACHER], check=True)
    room = Classroom("nbtm4", NAMES, port=18320, first_uid=31000)
    subprocess.run(["chown", "-R", f"{TEACHER}:{TEACHER}", str(room.folder)], check=True)
    assert sudo(room, "setup").returncode == 0
    yield room
    subprocess.run(["chown", "-R", "root:root", str(room.folder)], check=True)
    room.close()
    remove_account(TEACHER)


def sudo(room: Classroom, *arguments: str) -> subprocess.CompletedProcess[str]:
    teacher = pwd.getpwnam(TEACHER)
    environment = {**os.environ, "SUDO_USER": TEACHER, "SUDO_UID": str(teacher.pw_uid), "SUDO_GID": str(teacher.pw_gid)}
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=room.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )


def teach(room: Classroom, path: str, text: str) -> None:
    file = room.folder / "material" / path
    file.write_text(text)
    os.chown(file, pwd.getpwnam(TEACHER).pw_uid, pwd.getpwnam(TEACHER).pw_gid)


def as_student(name: str, script: str) -> None:
    entry = pwd.getpwnam(name)
    ids = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups"]
    subprocess.run(["setpriv", *ids, "sh", "-c", script], check=True, cwd=entry.pw_dir)


def test_everything_that_is_the_teachers_belongs_to_the_teacher(taught):
    as_student(ADA, "echo 9.81 > tutorial/lab1.txt")
    assert sudo(taught, "retrieve").returncode == 0
    uid = pwd.getpwnam(TEACHER).pw_uid
    latest = taught.folder / "retrieved" / "latest"
    assert not os.readlink(latest).startswith("/")
    found = [taught.folder / "credentials.csv", *latest.resolve().rglob("*")]
    assert {path.stat().st_uid for path in found} == {uid}
    assert {path.stat().st_mode & 0o777 for path in found if path.is_file()} == {0o600}
    assert (latest / ADA / "work" / "lab1.txt").read_text() == "9.81\n"
    assert not (latest / BOB / "work" / "lab1.txt").exists()
    assert (latest / BOB / "manifest.json").exists()


def test_when_nobody_changed_anything_the_last_folder_is_named_and_none_is_made(taught):
    sudo(taught, "retrieve")
    before = sorted((taught.folder / "retrieved").iterdir())
    answer = sudo(taught, "retrieve")
    assert answer.returncode == 0
    assert "Nobody changed anything since" in answer.stdout
    assert sorted((taught.folder / "retrieved").iterdir()) == before


def test_opening_a_notebook_is_no_change_but_checkpoints_come_with_all(taught):
    as_student(BOB, "mkdir -p tutorial/.ipynb_checkpoints && echo x > tutorial/.ipynb_checkpoints/lab1-checkpoint.txt")
    sudo(taught, "retrieve")
    assert not list((taught.folder / "retrieved" / "latest" / BOB).rglob("*checkpoint*"))
    sudo(taught, "retrieve", "--all")
    assert list((taught.folder / "retrieved" / "latest" / BOB).rglob("lab1-checkpoint.txt"))


def test_all_takes_the_whole_material_folder(taught):
    assert sudo(taught, "retrieve", "--all").returncode == 0
    assert (taught.folder / "retrieved" / "latest" / BOB / "work" / "lab1.txt").exists()


def test_only_takes_the_named_students(taught):
    as_student(BOB, "echo new >> tutorial/bob.txt")
    assert sudo(taught, "retrieve", "--only", BOB).returncode == 0
    assert {path.name for path in (taught.folder / "retrieved" / "latest").iterdir()} == {BOB}


def test_one_students_failure_is_one_students(taught):
    home = Path(pwd.getpwnam(ADA).pw_dir)
    as_student(BOB, "date +%N >> tutorial/bob.txt")
    moved = home.with_name("nbtm-elsewhere")
    home.rename(moved)
    try:
        answer = sudo(taught, "retrieve")
        assert answer.returncode == 5
        assert ADA in answer.stderr
        assert {path.name for path in (taught.folder / "retrieved" / "latest").iterdir()} == {BOB}
    finally:
        moved.rename(home)


def test_a_student_who_breaks_the_worker_of_their_uid_fails_alone(taught):
    as_student(BOB, "date +%N >> tutorial/bob.txt")
    uid = pwd.getpwnam(ADA).pw_uid
    breaker = (
        "import os, resource\n"
        f"while os.getppid() == {os.getpid()}:\n"
        "    for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "        try:\n"
        "            if int(pid) != os.getpid():\n"
        "                resource.prlimit(int(pid), resource.RLIMIT_AS, (1, 1))\n"
        "        except (OSError, ValueError):\n"
        "            continue\n"
    )
    ids = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    attack = subprocess.Popen(["setpriv", *ids, sys.executable, "-I", "-c", breaker])
    try:
        answer = sudo(taught, "retrieve")
        assert answer.returncode in (0, 5), answer.stderr
        assert (taught.folder / "retrieved" / "latest" / BOB).is_dir()
    finally:
        attack.kill()
        attack.wait()


def test_a_store_that_others_may_write_to_is_refused(taught):
    store = taught.folder / "retrieved"
    store.chmod(0o777)
    try:
        assert sudo(taught, "retrieve").returncode == 4
    finally:
        store.chmod(0o700)


def test_a_full_store_publishes_nothing_and_says_so(taught):
    store = taught.folder / "retrieved"
    teacher = pwd.getpwnam(TEACHER)
    options = f"size=2m,uid={teacher.pw_uid},gid={teacher.pw_gid},mode=700"
    as_student(ADA, "head -c 4000000 /dev/urandom > tutorial/large.bin")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(store)], check=True)
    try:
        answer = sudo(taught, "retrieve", "--only", ADA)
        assert answer.returncode in (1, 5)
        assert "full" in answer.stderr or "free" in answer.stderr
        assert not any(path.is_dir() and not path.name.startswith(".") for path in store.iterdir())
    finally:
        subprocess.run(["umount", str(store)], check=True)
        as_student(ADA, "rm tutorial/large.bin")


def test_send_updates_the_untouched_keeps_the_edited_and_leaves_the_deleted(taught):
    teach(taught, "sheet.txt", "one")
    teach(taught, "gone.txt", "one")
    assert sudo(taught, "send").returncode == 0
    as_student(ADA, "echo mine > tutorial/sheet.txt; rm tutorial/gone.txt")
    teach(taught, "sheet.txt", "two")
    teach(taught, "gone.txt", "two")
    said = _json(sudo(taught, "send", "--json"))
    ada, bob = (Path(pwd.getpwnam(name).pw_dir) / "tutorial" for name in NAMES)
    assert (bob / "sheet.txt").read_text() == "two"
    assert (ada / "sheet.txt").read_text() == "mine\n"
    assert [file.read_text() for file in ada.glob("sheet (update *).txt")] == ["two"]
    assert not (ada / "gone.txt").exists()
    reasons = {one["path"]: one["reason"] for one in _student(said, ADA)["exceptions"]}
    assert "kept" in reasons["sheet.txt"] and "deleted by the student" in reasons["gone.txt"]
    again = _json(sudo(taught, "send", "--json"))
    assert _student(again, ADA) == {
        "username": ADA,
        "status": "unchanged",
        "error": None,
        "files": 0,
        "bytes": 0,
        "exceptions": [],
    }


def test_what_a_student_put_in_the_way_is_partial_and_tried_again(taught):
    as_student(ADA, "rm -rf tutorial/way; ln -s /etc tutorial/way")
    (taught.folder / "material" / "way").mkdir()
    teach(taught, "way/lab.txt", "new")
    assert sudo(taught, "send").returncode == 5
    assert not Path("/etc/lab.txt").exists()
    as_student(ADA, "rm tutorial/way")
    assert sudo(taught, "send").returncode == 0
    assert (Path(pwd.getpwnam(ADA).pw_dir) / "tutorial/way/lab.txt").read_text() == "new"


def test_links_in_the_material_are_told_and_never_followed(taught):
    (taught.folder / "material" / "shadow").symlink_to("/etc/shadow")
    try:
        answer = sudo(taught, "send")
        assert "shadow" in answer.stderr
        assert not (Path(pwd.getpwnam(ADA).pw_dir) / "tutorial/shadow").exists()
    finally:
        (taught.folder / "material" / "shadow").unlink()


def test_a_profile_reaches_the_students_and_one_with_a_secret_is_refused(taught):
    teacher = pwd.getpwnam(TEACHER)
    startup = Path(teacher.pw_dir) / ".ipython" / "profile_lab" / "startup"
    script = f'mkdir -p "{startup}" && echo "answer = 42" > "{startup}/00-lab.py"'
    as_student(TEACHER, script)
    taught.config["profile"] = "lab"
    taught.write()
    try:
        assert sudo(taught, "send").returncode == 0
        delivered = Path(pwd.getpwnam(BOB).pw_dir) / ".ipython/profile_lab/startup/00-lab.py"
        assert delivered.read_text() == "answer = 42\n"
        assert delivered.stat().st_uid == pwd.getpwnam(BOB).pw_uid
        as_student(TEACHER, f'echo \'c.ServerApp.password = "hunter2"\' > "{startup}/01-oops.py"')
        answer = sudo(taught, "send")
        assert answer.returncode == 3
        assert "01-oops.py" in answer.stderr and "hunter2" not in answer.stderr
        assert not delivered.with_name("01-oops.py").exists()
    finally:
        del taught.config["profile"]
        taught.write()


def test_a_roster_or_config_of_somebody_else_is_refused(taught):
    os.chown(taught.folder / "students.csv", 31040, 31040)
    try:
        answer = sudo(taught, "setup")
        assert answer.returncode in (3, 4)
        assert "students.csv" in answer.stderr
    finally:
        os.chown(taught.folder / "students.csv", pwd.getpwnam(TEACHER).pw_uid, pwd.getpwnam(TEACHER).pw_gid)


def _json(answer: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(answer.stdout)
    return said


def _student(said: dict[str, Any], name: str) -> dict[str, Any]:
    return next(student for student in said["students"] if student["username"] == name)
