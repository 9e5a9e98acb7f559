"""remove with the real command: whole homes come home, then they go; whatever was not verified stays."""

from __future__ import annotations

import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from nblauncher.course import STATE_ROOT
from nblauncher.ledger import HostLedger
from tests.classroom import COMMAND, Classroom, remove_account

pytestmark = pytest.mark.system

ADA, BOB = NAMES = ["nbtmada", "nbtmbob"]


@pytest.fixture
def room() -> Iterator[Classroom]:
    classroom = Classroom("nbtm1", NAMES, port=18300, first_uid=31000)
    classroom.run("setup")
    yield classroom
    classroom.close()


def write(name: str, path: str, text: str) -> Path:
    """A file in a student's home, made by the student."""
    entry = pwd.getpwnam(name)
    file = Path(entry.pw_dir) / path
    script = f'mkdir -p "$(dirname "{file}")" && printf %s "{text}" > "{file}"'
    as_student(name, "sh", "-c", script)
    return file


def as_student(name: str, *argv: str) -> None:
    entry = pwd.getpwnam(name)
    ids = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups"]
    subprocess.run(["setpriv", *ids, *argv], check=True, cwd=entry.pw_dir)


def exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def brought_home(room: Classroom, name: str, path: str) -> list[str]:
    """The content of a file in every retrieval that has it."""
    return [file.read_text() for file in sorted((room.folder / "retrieved").glob(f"2*/{name}/{path}"))]


def shadow_line(name: str) -> str:
    return next(line for line in Path("/etc/shadow").read_text().splitlines() if line.startswith(f"{name}:"))


def is_locked(name: str) -> bool:
    line = shadow_line(name)
    return line.split(":")[1].startswith("!") and line.split(":")[7] == "1"


def test_a_whole_home_comes_home_and_then_nothing_is_left(room):
    write(ADA, "tutorial/lab1.txt", "9.81")
    write(ADA, "thesis/chapter.txt", "outside the material")
    write(ADA, ".cache/junk", "not work")
    temporary = Path(f"/tmp/{ADA}-leftover")
    as_student(ADA, "touch", str(temporary))
    said = room.json("remove", "--yes")
    assert said["status"] == "ok"
    assert brought_home(room, ADA, "work/lab1.txt") == ["9.81"]
    assert brought_home(room, ADA, "home/thesis/chapter.txt") == ["outside the material"]
    assert brought_home(room, ADA, "home/.cache/junk") == []
    ada = next(student for student in said["students"] if student["username"] == ADA)
    assert str(temporary) in ada["deleted"]
    assert not temporary.exists()
    for name in NAMES:
        assert not exists(name)
        assert not Path(f"/home/{name}").exists()
    assert "nbl-nbtm1" not in Path("/etc/group").read_text()
    assert not room.paths.state.exists() and not room.paths.run.exists()
    assert room.paths.logs.exists()
    assert HostLedger(STATE_ROOT / "host.db").courses() == ()
    assert set(room.credentials) == set()
    assert room.run("remove", "--yes").stdout == "remove: nothing to do.\n"


def test_without_a_terminal_and_without_yes_nothing_happens(room):
    answer = room.run("remove", expect=4)
    assert f"delete home and account of {ADA}" in answer.stderr
    assert exists(ADA) and not is_locked(ADA)


def test_no_at_the_prompt_changes_nothing(room):
    prompt = pexpect.spawn(COMMAND[0], [*COMMAND[1:], "remove"], cwd=str(room.folder), timeout=60)
    prompt.expect("Go on")
    prompt.sendline("n")
    prompt.expect(pexpect.EOF)
    prompt.close()
    assert prompt.exitstatus == 4
    assert exists(ADA) and not is_locked(ADA)


def test_a_dry_run_shows_the_plan_and_changes_nothing(room):
    assert f"delete home and account of {ADA}" in room.run("remove", "--dry-run").stdout
    assert exists(ADA) and not is_locked(ADA)


def test_an_incomplete_home_stays_locked_until_the_teacher_decides_or_sets_up_again(room):
    file = write(ADA, "secret.txt", "work that we may not read")
    as_student(ADA, "chmod", "000", str(file))
    answer = room.run("remove", "--yes", expect=5)
    assert f"--despite-incomplete {ADA}" in answer.stderr
    assert exists(ADA) and is_locked(ADA) and file.exists()
    assert not exists(BOB)
    room.write([ADA])
    assert f"unlock account {ADA}" in room.run("setup").stderr
    assert not is_locked(ADA)
    room.run("remove", "--yes", "--despite-incomplete", ADA)
    assert not exists(ADA) and not file.exists()


def test_a_hostile_home_neither_leads_us_out_nor_keeps_us_from_the_rest(room, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("root's")
    home = room.home(ADA)
    as_student(ADA, "ln", "-s", str(precious), str(home / "link"))
    as_student(ADA, "ln", "-s", "/etc", str(home / "tutorial" / "etc"))
    as_student(ADA, "mkfifo", str(home / "fifo"))
    as_student(ADA, "truncate", "-s", "1T", str(home / "sparse"))
    as_student(ADA, "sh", "-c", "i=0; while [ $i -lt 300 ]; do mkdir d && cd d; i=$((i+1)); done; echo deep > f")
    said = room.json("remove", "--yes", expect=5)
    ada = next(student for student in said["students"] if student["username"] == ADA)
    reasons = {one["path"]: one["incomplete"] for one in ada["exceptions"]}
    assert reasons["home/sparse"] is True
    assert reasons["home/fifo"] is False
    assert exists(ADA) and is_locked(ADA)
    room.run("remove", "--yes", "--despite-incomplete", ADA)
    assert not exists(ADA) and not home.exists()
    assert precious.read_text() == "root's"
    assert Path("/etc/passwd").exists()


def test_what_is_mounted_in_a_home_is_never_emptied(room, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "others.txt").write_text("somebody else's")
    shared.chmod(0o777)
    point = room.home(ADA) / "shared"
    as_student(ADA, "mkdir", str(point))
    subprocess.run(["mount", "--bind", str(shared), str(point)], check=True)
    try:
        answer = room.run("remove", "--yes", expect=5)
        assert "mounted in the home" in answer.stderr
        assert exists(ADA) and not exists(BOB)
        assert (shared / "others.txt").read_text() == "somebody else's"
    finally:
        subprocess.run(["umount", str(point)], check=True)
    room.run("remove", "--yes")
    assert not exists(ADA)
    assert (shared / "others.txt").exists()


def test_a_home_that_is_merely_not_there_keeps_its_account(room):
    write(ADA, "thesis.txt", "years of work")
    home = room.home(ADA)
    away = home.with_name("nbtm-away")
    home.rename(away)
    try:
        room.run("remove", "--yes", expect=5)
        assert exists(ADA) and is_locked(ADA)
    finally:
        away.rename(home)
    room.run("remove", "--yes")
    assert not exists(ADA)
    assert brought_home(room, ADA, "home/thesis.txt") == ["years of work"]


def test_an_account_changed_by_hand_is_retrieved_and_stays_until_it_is_claimed(room):
    write(ADA, "note.txt", "mine")
    subprocess.run(["usermod", "-c", "Ada Lovelace", ADA], check=True)
    answer = room.run("remove", "--yes", expect=5)
    assert f"--claim {ADA}" in answer.stderr
    assert exists(ADA) and not is_locked(ADA) and (room.home(ADA) / "note.txt").exists()
    assert brought_home(room, ADA, "home/note.txt") == ["mine"]
    room.run("remove", "--yes", "--claim", ADA)
    assert not exists(ADA)


def test_a_room_number_in_gecos_changes_nothing(room):
    nonce = pwd.getpwnam(ADA).pw_gecos.split(",")[0]
    subprocess.run(["usermod", "-c", f"{nonce},12,,", ADA], check=True)
    room.run("remove", "--yes")
    assert not exists(ADA)


def test_an_account_with_another_uid_is_only_forgotten(room):
    remove_account(ADA)
    subprocess.run(["useradd", "-m", "-u", "31048", "-K", "HOME_MODE=0700", ADA], check=True)
    file = write(ADA, "theirs.txt", "another person's")
    sleeper = subprocess.Popen(["setpriv", "--reuid=31048", "--regid=31048", "--clear-groups", "sleep", "300"])
    try:
        room.run("remove", "--yes")
        assert sleeper.poll() is None
        assert file.read_text() == "another person's"
        assert brought_home(room, ADA, "home/theirs.txt") == []
        assert not is_locked(ADA)
        assert not exists(BOB)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_processes_and_schedules_of_the_student_end(room):
    entry = pwd.getpwnam(ADA)
    hop = "import os\nwhile True:\n    if os.fork(): os._exit(0)"
    ids = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups"]
    sleeper = subprocess.Popen(["setpriv", *ids, "setsid", "sleep", "300"])
    subprocess.run(["setpriv", *ids, "setsid", "--fork", "/usr/bin/python3", "-c", hop], check=True)
    subprocess.run(["setpriv", *ids, "crontab", "-"], input="* * * * * true\n", text=True, check=True)
    room.run("remove", "--yes", "--only", ADA)
    assert sleeper.wait(timeout=5) != 0
    assert not exists(ADA)
    assert not Path(f"/var/spool/cron/crontabs/{ADA}").exists()
    real_uids = {line.split()[1] for status in Path("/proc").glob("[0-9]*/status") for line in _lines(status)}
    assert str(entry.pw_uid) not in real_uids


@pytest.mark.parametrize("line", [1, 3, 5, 6, 8, 10, 12, 13])
def test_after_sigkill_at_any_point_the_same_command_finishes_and_nothing_is_lost(room, line):
    write(ADA, "tutorial/result.txt", "42")
    write(BOB, "diary.txt", "dear diary")
    process = room.start("remove", "--yes")
    assert process.stderr is not None
    seen = 0
    for text in process.stderr:
        seen += text.startswith("[")
        if seen == line:
            break
    process.kill()
    process.communicate()
    room.run("remove", "--yes")
    assert brought_home(room, ADA, "work/result.txt")[0] == "42"
    assert brought_home(room, BOB, "home/diary.txt")[0] == "dear diary"
    for name in NAMES:
        assert not exists(name) and not Path(f"/home/{name}").exists()
    assert not room.paths.state.exists()
    ledger = HostLedger(STATE_ROOT / "host.db")
    assert (ledger.claims(), ledger.courses()) == ({}, ())


def test_a_student_of_two_courses_loses_only_the_course(room):
    other = Classroom("nbtm2", [ADA], port=18350, first_uid=31050)
    try:
        other.run("setup")
        write(ADA, "tutorial/lab1.txt", "edited")
        room.run("remove", "--yes")
        assert exists(ADA) and not is_locked(ADA) and not exists(BOB)
        groups = subprocess.run(["id", "-nG", ADA], capture_output=True, text=True, check=True).stdout.split()
        assert "nbl-nbtm2" in groups and "nbl-nbtm1" not in groups
        assert brought_home(room, ADA, "work/lab1.txt") == ["edited"]
        other.run("remove", "--yes")
        assert not exists(ADA)
    finally:
        other.names = []
        other.close()


def test_an_account_deleted_by_hand_is_forgotten(room):
    remove_account(ADA)
    room.run("remove", "--yes")
    assert not exists(BOB)
    assert not room.paths.state.exists()


def test_guests_are_forgotten_and_keep_everything():
    subprocess.run(["useradd", "-m", "-u", "31040", "-K", "HOME_MODE=0700", "nbtmguest"], check=True)
    classroom = Classroom("nbtm3", ["nbtmguest"], port=18380, first_uid=31000)
    try:
        classroom.write(accounts={"create": False, "uid_range": "31000-31049"})
        classroom.run("setup")
        file = write("nbtmguest", "mine.txt", "mine")
        before = shadow_line("nbtmguest")
        classroom.run("remove", "--yes")
        assert file.read_text() == "mine"
        assert shadow_line("nbtmguest") == before
        assert not classroom.paths.state.exists()
    finally:
        classroom.close()
        remove_account("nbtmguest")


def test_a_credentials_file_that_became_something_else_does_not_stop_the_removal(room):
    (room.folder / "credentials.csv").write_text("my,own,sheet\n")
    said = room.json("remove", "--yes")
    assert any("still there" in one["reason"] for student in said["students"] for one in student["exceptions"])
    assert not exists(ADA)
    assert (room.folder / "credentials.csv").read_text() == "my,own,sheet\n"
    (room.folder / "credentials.csv").unlink()


def test_who_is_removed_while_the_class_runs_leaves_the_others_running(room):
    room.run("launch", "--background")
    before = {one["username"]: one["pid"] for one in room.json("status")["students"]}
    room.run("remove", "--yes", "--only", ADA)
    after = {one["username"]: one for one in room.json("status")["students"]}
    assert set(after) == {BOB}
    assert (after[BOB]["server"], after[BOB]["pid"]) == ("ready", before[BOB])
    assert not (room.paths.students_run / "31000").exists() or not any((room.paths.students_run / "31000").iterdir())
    listening = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
    assert ":18301" not in listening and ":18302" in listening


def _lines(status: Path) -> list[str]:
    try:
        return [line for line in status.read_text().splitlines() if line.startswith("Uid:")]
    except (FileNotFoundError, ProcessLookupError):
        return []
