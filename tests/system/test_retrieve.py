"""retrieve with the real command, for a teacher who is not root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from nblauncher.config import times
from tests.homework import as_student, become
from tests.taught import ADA, BOB, NAMES, Taught, taught_class

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def taught() -> Iterator[Taught]:
    with taught_class() as room:
        yield room


def edit(name: str, script: str) -> None:
    """A shell script of the student's, in the home."""
    as_student(name, "sh", "-c", script)


def published(room: Taught) -> list[str]:
    """The folders of the store."""
    return sorted(path.name for path in room.store.iterdir() if path.is_dir() and not path.is_symlink())


def test_everything_that_is_the_teachers_belongs_to_the_teacher(taught):
    edit(ADA, "echo 9.81 > tutorial/lab1.txt; chmod 4755 tutorial/lab1.txt")
    taught.sudo("retrieve")
    assert os.readlink(taught.latest) == published(taught)[-1]
    found = [taught.folder / "credentials.csv", *taught.latest.resolve().rglob("*")]
    assert {path.stat().st_uid for path in found} == {taught.uid}
    assert {path.stat().st_mode & 0o7777 for path in found if path.is_file()} == {0o600}
    assert (taught.latest / ADA / "work" / "lab1.txt").read_text() == "9.81\n"
    assert not (taught.latest / BOB / "work" / "lab1.txt").exists()
    assert (taught.latest / BOB / "manifest.json").exists()


def test_when_nobody_changed_anything_the_last_folder_is_named_and_none_is_made(taught):
    taught.sudo("retrieve")
    before = published(taught)
    answer = taught.sudo("retrieve")
    assert f"No work has changed since {taught.store / before[-1]}; nothing to do." in answer.stdout
    assert {one["status"] for one in taught.sudo_json("retrieve").values()} == {"unchanged"}
    assert sorted(path.name for path in taught.store.iterdir()) == [*before, "latest"]
    shutil.rmtree(taught.store / before[-1])
    assert "The work is in" in taught.sudo("retrieve").stdout
    assert (taught.latest / ADA / "manifest.json").exists()


def test_who_changed_nothing_is_hard_linked_into_the_next_retrieval(taught):
    taught.sudo("retrieve")
    before = (taught.latest / ADA / "work" / "lab1.txt").stat().st_ino
    edit(BOB, "echo new > tutorial/new.txt")
    taught.sudo("retrieve")
    assert (taught.latest / BOB / "work" / "new.txt").exists()
    assert (taught.latest / ADA / "work" / "lab1.txt").stat().st_ino == before


def test_opening_a_notebook_is_no_change_but_checkpoints_come_with_all(taught):
    edit(BOB, "mkdir -p tutorial/.ipynb_checkpoints && echo x > tutorial/.ipynb_checkpoints/lab1-checkpoint.txt")
    taught.sudo("retrieve")
    assert not list((taught.latest / BOB).rglob("*checkpoint*"))
    taught.sudo("retrieve", "--all")
    assert list((taught.latest / BOB).rglob("lab1-checkpoint.txt"))
    assert (taught.latest / BOB / "work" / "lab1.txt").exists()


def test_only_takes_the_named_students(taught):
    edit(BOB, "echo new >> tutorial/bob.txt")
    taught.sudo("retrieve", "--only", BOB)
    assert {path.name for path in (taught.store / published(taught)[-1]).iterdir()} == {BOB}
    assert 'no student "nbtmeve"' in taught.sudo("retrieve", "--only", "nbtmeve", expect=3).stderr


def test_latest_is_everybodys_work_and_every_other_folder_says_what_it_is(taught):
    edit(ADA, "mkdir -p 'tutorial/Übung 1' && date +%N > 'tutorial/Übung 1/a.py'; date +%N > tutorial/lab1.txt")
    taught.sudo("retrieve")
    everybodys = os.readlink(taught.latest)
    edit(BOB, "date +%N > tutorial/bob.txt")
    taught.sudo("retrieve", "--only", BOB)
    taught.sudo("retrieve", "--assignment", "Übung 1", expect=5)  # bob has no such folder
    taught.sudo("retrieve", "--assignment", "Übung 1", "--only", ADA)
    stamp = r"\d{4}-\d\d-\d\dT\d{6}[+-]\d{4}"
    ends = {re.sub(stamp, "", name) for name in published(taught) if name > everybodys and re.match(f"{stamp}-", name)}
    assert {f"-only-{BOB}", "-Ubung-1", f"-Ubung-1-only-{ADA}"} <= ends
    assert os.readlink(taught.latest) == everybodys
    # No work has changed since the partial ones; that does not make them the class's work.
    assert "The work is in" in taught.sudo("retrieve").stdout
    assert os.readlink(taught.latest) > everybodys
    assert {path.name for path in taught.latest.iterdir()} == set(NAMES)
    newest = os.readlink(taught.latest)
    taught.latest.unlink()
    assert "No work has changed since" in taught.sudo("retrieve").stdout
    assert os.readlink(taught.latest) == newest


def test_a_table_says_who_changed_what_since_when_and_what_was_left_out(taught):
    edit(ADA, "date +%N > tutorial/one.py; date +%N > tutorial/two.py; ln -sf /etc/passwd tutorial/link")
    taught.sudo("retrieve")
    before = os.readlink(taught.latest)
    edit(ADA, "date +%N > tutorial/one.py; rm tutorial/two.py")
    answer = taught.sudo("retrieve")
    lines = [line.split() for line in answer.stdout.splitlines()]
    since = times.short(times.parsed(before)).split()
    files = str(len(list((taught.latest / ADA / "work").rglob("*.*"))))
    (of_ada,) = [line for line in lines if line[:1] == [ADA]]
    assert of_ada == [ADA, "1", "file,", "1", "gone", *since, files, "1"]
    (of_bob,) = [line for line in lines if line[:1] == [BOB]]
    assert of_bob[1] == "nothing"
    assert f"{ADA}: work/link: " in answer.stdout and "INCOMPLETE" not in answer.stdout
    edit(BOB, "date +%N > tutorial/bob.txt")
    students = taught.sudo_json("retrieve")
    said = {name: (one["changed"], one["gone"], one["since"]) for name, one in students.items()}
    last = published(taught)[-2]
    assert said == {ADA: (0, 0, last), BOB: (1, 0, last)}
    shutil.rmtree(taught.store)
    bobs = len(list(taught.tutorial(BOB).glob("*.txt"))) - 1  # lab1.txt is as it was handed out
    assert taught.sudo_json("retrieve")[BOB]["changed"] == bobs
    assert taught.sudo_json("retrieve", "--all", "--only", BOB)[BOB]["since"] is None


def test_one_students_failure_is_one_students(taught):
    edit(BOB, "date +%N >> tutorial/bob.txt")
    home = taught.home(ADA)
    moved = home.with_name("nbtm-elsewhere")
    home.rename(moved)
    try:
        students = taught.sudo_json("retrieve", expect=5)
        assert {name: one["status"] for name, one in students.items()} == {ADA: "failed", BOB: "done"}
        assert {path.name for path in taught.latest.iterdir()} == {BOB}
        assert "No other work has changed since" in taught.sudo("retrieve", expect=5).stdout
        taught.sudo("retrieve", "--only", ADA, expect=1)
    finally:
        moved.rename(home)


def test_what_is_over_a_limit_is_incomplete_and_never_called_unchanged(taught):
    taught.write(retrieve={"target": "retrieved", "max_file": "1 MB"})
    edit(ADA, "head -c 2000000 /dev/urandom > tutorial/large.bin")
    try:
        for _ in range(2):
            ada = taught.sudo_json("retrieve", expect=5)[ADA]
            assert ada["status"] == "done"
            assert [one["path"] for one in ada["exceptions"] if one["incomplete"]] == ["work/large.bin"]
            assert "no work has changed" not in taught.sudo("retrieve", expect=5).stdout.lower()
    finally:
        edit(ADA, "rm tutorial/large.bin")
        taught.write(retrieve={"target": "retrieved"})


def test_a_student_who_breaks_the_worker_of_their_uid_fails_alone(taught):
    edit(BOB, "date +%N >> tutorial/bob.txt")
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
    attack = subprocess.Popen([*become(ADA), sys.executable, "-I", "-c", breaker])
    try:
        answer = taught.sudo("retrieve", expect=None)
        assert answer.returncode in (0, 5), answer.stderr
        assert (taught.latest / BOB).is_dir()
    finally:
        attack.kill()
        attack.wait()


def test_a_student_who_writes_all_the_time_does_not_keep_the_others_waiting(taught):
    edit(BOB, "date +%N >> tutorial/bob.txt")
    script = "while :; do for i in 1 2 3; do head -c 3000000 /dev/urandom > tutorial/busy$i; done; done"
    busy = subprocess.Popen([*become(ADA), "timeout", "60", "sh", "-c", script], cwd=taught.home(ADA))
    while not (taught.tutorial(ADA) / "busy3").exists():
        assert busy.poll() is None
    try:
        students = taught.sudo_json("retrieve", expect=None)
        assert students[BOB]["status"] == "done"
        stored = list((taught.latest / ADA / "work").glob("busy*"))
        left_out = [one for one in students[ADA]["exceptions"] if one["incomplete"]]
        assert len(stored) + len(left_out) >= 1
    finally:
        busy.terminate()
        busy.wait()
        edit(ADA, "rm -f tutorial/busy*")


@pytest.mark.parametrize("spoil", ["chmod 777", "chown 31040"])
def test_a_store_that_is_not_the_teachers_alone_is_refused(taught, spoil):
    taught.store.mkdir(exist_ok=True)
    subprocess.run([*spoil.split(), str(taught.store)], check=True)
    try:
        assert "retrieved" in taught.sudo("retrieve", expect=4).stderr
    finally:
        taught.hand_over()
        taught.store.chmod(0o700)


def test_a_full_store_publishes_nothing_and_says_so(taught):
    options = f"size=2m,uid={taught.uid},gid={taught.uid},mode=700"
    edit(ADA, "head -c 4000000 /dev/urandom > tutorial/large.bin")
    edit(BOB, "date +%N >> tutorial/bob.txt")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(taught.store)], check=True)
    try:
        answer = taught.sudo("retrieve", expect=5)
        assert f"{ADA} (the work of {ADA} was not retrieved: disk full at {taught.store}" in answer.stderr
        assert {path.name for path in taught.latest.iterdir()} == {BOB}
        taught.sudo("retrieve", "--only", ADA, expect=1)
        assert len(published(taught)) == 1 and not list(taught.store.glob(".*"))
    finally:
        subprocess.run(["umount", str(taught.store)], check=True)
        edit(ADA, "rm tutorial/large.bin")


def test_a_killed_retrieval_leaves_nothing_that_the_next_one_does_not_clear_away(taught):
    edit(BOB, "date +%N >> tutorial/bob.txt")
    process = taught.start("retrieve")
    assert process.stderr is not None
    process.stderr.readline()
    process.kill()
    process.communicate()
    taught.sudo("retrieve")
    assert not list(taught.store.glob(".*"))
    assert {path.name for path in taught.latest.iterdir()} == set(NAMES)


def test_a_roster_or_config_of_somebody_else_is_refused(taught):
    os.chown(taught.folder / "students.csv", 31040, 31040)
    try:
        answer = taught.sudo("setup", expect=None)
        assert answer.returncode in (3, 4)
        assert "students.csv" in answer.stderr
    finally:
        taught.hand_over()


def test_what_came_home_is_not_readable_for_students(taught):
    secret = taught.latest / ADA / "manifest.json"
    seen = subprocess.run([*become(BOB), "cat", str(secret)], capture_output=True, text=True)
    assert seen.returncode != 0 and "denied" in seen.stderr
