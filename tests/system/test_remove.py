"""remove with the real command: whole homes come home, then they go; whatever is not ours is left alone."""

from __future__ import annotations

import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from nblauncher.ledger import HostLedger
from nblauncher.paths import STATE_ROOT
from tests import launched
from tests.classroom import COMMAND, Classroom
from tests.homework import as_student, become, brought_home, exists, is_locked, shadow_line, write
from tests.running import remove_account

pytestmark = pytest.mark.system

ADA, BOB = NAMES = ["nbtmada", "nbtmbob"]


@pytest.fixture
def room() -> Iterator[Classroom]:
    classroom = Classroom("nbtm1", NAMES, port=18300, first_uid=31000)
    try:
        classroom.run("setup")
        yield classroom
    finally:
        classroom.close()


def test_a_whole_home_comes_home_and_then_nothing_is_left(room):
    write(ADA, "tutorial/lab1.txt", "9.81")
    write(ADA, "thesis/chapter.txt", "outside the material")
    write(ADA, ".cache/junk", "not work")
    temporary = [f"/tmp/{ADA}-leftover", f"/var/tmp/{ADA}-leftover", f"/dev/shm/{ADA}-leftover"]
    as_student(ADA, "touch", *temporary)
    room.home(ADA).chmod(0)  # as by `chmod 0 ~`
    said = room.json("remove", "--yes")
    assert said["status"] == "ok"
    assert brought_home(room, ADA, "work/lab1.txt") == ["9.81"]
    assert brought_home(room, ADA, "home/thesis/chapter.txt") == ["outside the material"]
    assert brought_home(room, ADA, "home/.cache/junk") == []
    ada = launched.students(said)[ADA]
    assert {"path": "home/.cache", "reason": "a cache", "incomplete": False} in ada["exceptions"]
    assert ada["deleted"] == [f"/home/{ADA}", *temporary]
    for path in (*temporary, *(f"/home/{name}" for name in NAMES)):
        assert not Path(path).exists()
    assert not any(map(exists, NAMES))
    assert "nbl-nbtm1" not in Path("/etc/group").read_text()
    assert not room.paths.state.exists() and not room.paths.run.exists()
    assert room.paths.logs.exists()
    assert HostLedger(STATE_ROOT / "host.db").courses() == ()
    assert set(room.credentials) == set()
    assert room.run("remove", "--yes").stdout == "remove: nothing to do.\n"


def test_whatever_is_refused_changes_nothing(room):
    store = room.folder / "retrieved"
    no_terminal = room.run("remove", expect=4)
    assert f"delete the home of {ADA}" in no_terminal.stderr
    prompt = pexpect.spawn(COMMAND[0], [*COMMAND[1:], "remove"], cwd=str(room.folder), timeout=60)
    prompt.expect(f"This deletes {len(NAMES)} accounts and their homes.*, which is final.*Proceed")
    prompt.sendline("n")
    prompt.expect(pexpect.EOF)
    prompt.close()
    assert prompt.exitstatus == 4
    assert f"delete the home of {ADA}" in room.run("remove", "--dry-run").stdout
    typo = room.run("remove", "--yes", "--despite-incomplete", "nbtmadda", expect=3)
    assert '--despite-incomplete: there is no student "nbtmadda"' in typo.stderr
    store.mkdir()
    store.chmod(0o777)
    room.run("remove", "--yes", expect=4)
    assert list(store.iterdir()) == []
    assert not any(map(is_locked, NAMES))
    assert {claim.stage for claim in HostLedger(STATE_ROOT / "host.db").claims().values()} == {"made"}
    assert room.run("setup").stdout == "setup: nothing to do.\n"


def test_an_incomplete_home_stays_locked_until_the_teacher_decides_or_sets_up_again(room):
    file = write(ADA, "secret.txt", "work that we may not read")
    as_student(ADA, "chmod", "000", str(file))
    answer = room.run("remove", "--yes", "--only", ADA, expect=5)
    assert f"--despite-incomplete {ADA}" in answer.stderr
    assert exists(ADA) and is_locked(ADA) and file.exists()
    assert f"{ADA} gets nothing" in room.run("send").stderr
    room.run("remove", "--yes", "--only", BOB)
    assert not exists(BOB)
    room.write([ADA])
    assert f"unlock account {ADA}" in room.run("setup").stderr
    assert not is_locked(ADA)
    room.run("remove", "--yes", "--despite-incomplete", ADA)
    assert not exists(ADA) and not file.exists()


def test_an_account_changed_by_hand_is_retrieved_and_stays_until_it_is_claimed(room):
    write(ADA, "note.txt", "mine")
    subprocess.run(["usermod", "-c", "Ada Lovelace", ADA], check=True)
    answer = room.run("remove", "--yes", "--only", ADA, expect=5)
    assert f"--claim {ADA}" in answer.stderr
    assert exists(ADA) and not is_locked(ADA) and (room.home(ADA) / "note.txt").exists()
    assert brought_home(room, ADA, "home/note.txt") == ["mine"]
    nonce = shadow_nonce(BOB)
    subprocess.run(["usermod", "-c", f"{nonce},12,,", BOB], check=True)  # a room number, as by `chfn -r`
    room.run("remove", "--yes", "--claim", ADA)
    assert not any(map(exists, NAMES))


def shadow_nonce(name: str) -> str:
    return pwd.getpwnam(name).pw_gecos.split(",")[0]


def test_an_account_with_another_uid_is_only_forgotten(room):
    remove_account(ADA)
    subprocess.run(["useradd", "-m", "-u", "31048", "-K", "HOME_MODE=0700", ADA], check=True)
    file = write(ADA, "theirs.txt", "another person's")
    sleeper = subprocess.Popen([*become(ADA), "sleep", "300"])
    try:
        room.run("remove", "--yes", "--claim", ADA, "--despite-incomplete", ADA)
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
    as_student(ADA, "setsid", "--fork", "sleep", "300")
    as_student(ADA, "setsid", "--fork", sys.executable, "-I", "-c", hop)
    assert launched.processes_of(entry.pw_uid)
    as_student(ADA, "crontab", "-", input="* * * * * true\n")
    if shutil.which("at"):
        as_student(ADA, "at", "now + 1 day", input="true\n", capture_output=True)
        assert _jobs_of(entry.pw_uid)
    room.run("remove", "--yes", "--only", ADA)
    assert not exists(ADA)
    assert not Path(f"/var/spool/cron/crontabs/{ADA}").exists()
    assert not _jobs_of(entry.pw_uid)
    assert not launched.processes_of(entry.pw_uid)


def test_nothing_is_left_in_memory_and_it_is_said_where_nobody_looked(room, tmp_path: Path):
    uid = pwd.getpwnam(ADA).pw_uid
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "assert min(libc.shmget(0, 4096, 0o1600), libc.semget(0, 1, 0o1600), libc.msgget(0, 0o1600)) >= 0\n"
        "open('/run/lock/nbtm-left', 'w').close()"
    )
    as_student(ADA, sys.executable, "-I", "-c", code)
    as_student(ADA, "crontab", "-", input="* * * * * true\n")
    assert [_ipc_of(uid, table) for table in ("shm", "sem", "msg")] == [1, 1, 1]
    disk, folder = tmp_path / "disk", tmp_path / "elsewhere"
    folder.mkdir()
    with disk.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", str(disk), str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"NO OTHER DISK: no loop device can be mounted here: {mounted.stderr.strip()}")
    try:
        said = room.run("remove", "--yes", "--only", ADA).stdout
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert [_ipc_of(uid, table) for table in ("shm", "sem", "msg")] == [0, 0, 0]
    assert not Path("/run/lock/nbtm-left").exists()
    for words in ("shared memory", "semaphores", "message queue", "/run/lock/nbtm-left", "crontab"):
        assert f"{ADA}: {words}" in said
    assert f"\n  {folder}\n" in f"{said}\n"


def test_what_stays_where_others_may_write_is_named(room):
    """On the file system of / itself, in folders within folders, and never by a way through somebody's home."""
    shared = room.folder / "shared"
    deep = shared / "closed to writers" / "group work"
    deep.mkdir(parents=True)
    (room.folder / "drop box").mkdir()
    shared.chmod(0o1777)
    deep.chmod(0o777)
    (room.folder / "drop box").chmod(0o1733)
    as_student(ADA, "sh", "-c", f"cd {shared}; mkdir mine; chmod 777 mine; echo x > mine/lab")
    as_student(ADA, "bash", "-c", f"cd '{deep}'; echo x > $'a\\e[2J'")
    as_student(BOB, "sh", "-c", f"echo x > {shared}/bobs; echo x > {shared}/mine/bobs; ln -s / {shared}/link")
    as_student(BOB, "sh", "-c", f"chmod 711 .; mkdir open; chmod 777 open; : > '{room.folder}/drop box/x'")
    as_student(ADA, "sh", "-c", f"echo x > {room.home(BOB)}/open/adas")
    removed = room.run("remove", "--yes", "--only", ADA)
    assert f"{ADA}: {shared}/mine\n" in removed.stdout
    assert f"{ADA}: {deep}/a\\x1b[2J\n" in removed.stdout
    assert f"\n  {room.folder}/drop box" in removed.stdout
    assert "bobs" not in removed.stdout and "adas" not in removed.stdout and "\x1b" not in removed.stdout
    assert (shared / "mine/lab").exists()
    (bob,) = room.json("remove", "--yes", "--only", BOB)["students"]
    assert set(bob["left"]) >= {f"{shared}/bobs", f"{shared}/mine/bobs", f"{shared}/link"}
    assert f"{room.folder}/drop box" in bob["not_searched"]


def _ipc_of(uid: int, table: str) -> int:
    head, *lines = Path("/proc/sysvipc", table).read_text().splitlines()
    column = head.split().index("uid")
    return sum(int(line.split()[column]) == uid for line in lines)


def _jobs_of(uid: int) -> list[Path]:
    folders = (Path("/var/spool/cron/atjobs"), Path("/var/spool/at"))
    return [file for folder in folders if folder.is_dir() for file in folder.iterdir() if file.stat().st_uid == uid]


def test_a_student_of_two_courses_loses_only_the_course(room):
    other = Classroom("nbtm2", [ADA], port=18350, first_uid=31050)
    try:
        other.run("setup")
        write(ADA, "tutorial/lab1.txt", "edited")
        subprocess.run(["gpasswd", "-M", "", "nbl-nbtm1"], check=True, capture_output=True)
        subprocess.run(["groupdel", "nbl-nbtm1"], check=True)  # by hand: nobody must be kept in the course for it
        room.run("remove", "--yes")
        assert exists(ADA) and not is_locked(ADA) and not exists(BOB)
        groups = as_student(ADA, "id", "-nG", capture_output=True).stdout.split()
        assert "nbl-nbtm2" in groups and "nbl-nbtm1" not in groups
        assert brought_home(room, ADA, "work/lab1.txt") == ["edited"]
        assert (room.home(ADA) / "tutorial" / "lab1.txt").read_text() == "edited"
        other.run("remove", "--yes")
        assert not exists(ADA)
    finally:
        other.names = []
        other.close()


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


def test_a_removal_while_classes_run_leaves_everybody_else_running(room):
    other = Classroom("nbtm2", ["nbtmeve"], port=18350, first_uid=31050)
    try:
        other.run("setup")
        for one in (room, other):
            one.run("launch", "--background")
        before = launched.handles(room), launched.handles(other)
        password = room.credentials[ADA]["notebook_password"]
        room.run("remove", "--yes", "--only", ADA)
        assert launched.handles(room) == {BOB: before[0][BOB]}
        assert launched.said_states(room) == {"": "ready", BOB: "ready"}
        assert ":18301" not in _listening() and ":18302" in _listening()
        room.names = [BOB]  # whose port stays the second
        with launched.own_server(room, BOB) as browser:
            front = f"https://localhost:{room.port}/"
            answer = browser.http.post(front, data={"username": ADA, "password": password})
            assert 'name="ticket"' not in answer.text
        room.run("remove", "--yes")
        assert not exists(BOB) and not room.paths.run.exists()
        assert ":1830" not in _listening()
        assert launched.handles(other) == before[1]
        assert launched.is_ready(other)
    finally:
        other.close()


def _listening() -> str:
    return subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
