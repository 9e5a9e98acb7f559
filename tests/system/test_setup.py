"""setup on the real host: accounts, passwords, crashes, two at once."""

from __future__ import annotations

import json
import os
import pwd
import signal
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from nblauncher.auth import passwords
from nblauncher.paths import host_database
from tests import commands
from tests.classroom import COMMAND, Classroom, system_lines
from tests.running import remove_account

pytestmark = pytest.mark.system

NAMES = ["nbtxada", "nbtxbob", "nbtxeve"]


@pytest.fixture
def room() -> Iterator[Classroom]:
    classroom = Classroom("nbtx1", NAMES, port=18010, first_uid=28000)
    yield classroom
    classroom.close()


def assert_whole(room: Classroom) -> None:
    """Every student has a complete account and passwords that agree everywhere, and a second run does nothing."""
    hashes = json.loads(room.paths.hashes.read_text())
    assert set(room.credentials) == set(room.names)
    for name in room.names:
        entry = pwd.getpwnam(name)
        home = Path(entry.pw_dir).stat()
        assert (home.st_uid, stat.S_IMODE(home.st_mode)) == (entry.pw_uid, 0o700)
        assert entry.pw_gecos.startswith("nbl-")
        assert passwords.is_right(room.credentials[name]["notebook_password"], hashes[name])
    assert room.run("setup").stdout == "setup: nothing to do.\n"


def test_the_credentials_file_follows_the_roster_and_keeps_the_passwords(room):
    room.run("setup")
    before = room.credentials
    rows = "".join(f"{name},Prof. {name},{name}@uni.example\n" for name in room.names)
    (room.folder / "students.csv").write_text(f"username,name,email\n{rows}")
    assert room.run("setup").stdout == "No student is new.\n"
    for name, row in room.credentials.items():
        assert row == {**before[name], "name": f"Prof. {name}", "email": f"{name}@uni.example"}
    assert_whole(room)


def can_log_in(name: str, password: str) -> bool:
    """A real login through PAM, from a process that is not root (root would not be asked)."""
    login = pexpect.spawn(
        "setpriv", ["--reuid=65534", "--regid=65534", "--clear-groups", "su", "-", name, "-c", "id -un"], timeout=30
    )
    login.expect("[Pp]assword:")
    login.sendline(password)
    output = login.read().decode()
    login.close()
    return login.exitstatus == 0 and name in output


def test_setup_makes_accounts_whose_passwords_open_them(room):
    room.run("setup")
    assert_whole(room)
    row = room.credentials["nbtxada"]
    assert row["notebook_password"] != row["system_password"]
    assert can_log_in("nbtxada", row["system_password"])
    assert not can_log_in("nbtxada", row["notebook_password"])


def test_the_credentials_are_the_teachers_alone_and_no_secret_is_anywhere_else(room):
    out = room.run("-vv", "setup")
    file = room.folder / "credentials.csv"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secrets = [row[column] for row in room.credentials.values() for column in ("notebook_password", "system_password")]
    log = (room.paths.logs / "nblauncher.log").read_text()
    ledgers = host_database().read_bytes() + room.paths.ledger.read_bytes()
    for secret in secrets:
        assert secret not in out.stdout + out.stderr + log
        assert secret.encode() not in ledgers


def test_a_new_row_is_added_and_nobody_else_is_touched(room):
    room.run("setup")
    before = {name: room.credentials[name] for name in NAMES}
    shadow = system_lines("shadow", "nbtx")
    room.write([*NAMES, "nbtxzoe"])
    room.run("setup")
    assert_whole(room)
    assert {name: room.credentials[name] for name in NAMES} == before
    assert set(shadow) <= set(system_lines("shadow", "nbtx"))


def test_a_row_that_vanished_is_reported_and_stays(room):
    room.run("setup")
    room.write(NAMES[:2])
    answer = room.run("setup")
    assert "nbtxeve is no longer in the roster" in answer.stderr
    assert pwd.getpwnam("nbtxeve")
    room.write(NAMES)


def test_a_bad_line_anywhere_changes_nothing(room):
    room.write([*NAMES, "root", "a b", "daemon"])
    passwd = system_lines("passwd", "nbtx")
    answer = room.run("setup", expect=3)
    assert '"a b"' in answer.stderr
    room.write([*NAMES, "root", "daemon"])
    answer = room.run("setup", expect=3)
    assert "root" in answer.stderr and "daemon" in answer.stderr
    assert system_lines("passwd", "nbtx") == passwd
    assert not host_database().exists()
    room.write(NAMES)


@pytest.mark.parametrize("how", ["a folder of modules", "a link to it", "a link that others may swap"])
def test_no_home_is_made_where_the_system_takes_a_name_for_a_part_of_it(room, how):
    """A student called `nbtx...` is harmless there; one called `usercustomize` is root at root's next `python3`."""
    homes = Path("/usr/local/lib/nbtx-modules")
    homes.mkdir(mode=0o755)
    open_to_all = room.folder / "open"
    open_to_all.mkdir()
    try:
        if how == "a link to it":
            homes = room.folder / "homes"
            homes.symlink_to("/usr/local/lib/nbtx-modules")
        elif how == "a link that others may swap":
            (room.folder / "innocent").mkdir()
            homes = open_to_all / "homes"
            homes.symlink_to(room.folder / "innocent")
            open_to_all.chmod(0o777)
        room.write(accounts={**room.config["accounts"], "home": str(homes)})
        failed = room.run("setup", expect=4 if "swap" in how else 3).stderr
        assert "only root can write to" in failed if "swap" in how else "is the system's" in failed
        for name in room.names:
            with pytest.raises(KeyError):
                pwd.getpwnam(name)
        assert not [*Path("/usr/local/lib/nbtx-modules").iterdir(), *homes.iterdir()]
    finally:
        open_to_all.chmod(0o700)
        Path("/usr/local/lib/nbtx-modules").rmdir()


def test_an_account_that_we_did_not_make_is_never_taken_over(room):
    subprocess.run(["useradd", "-m", "-u", "28041", "-K", "HOME_MODE=0700", "nbtxhuman"], check=True)
    try:
        before = system_lines("shadow", "nbtx")
        room.write([*NAMES, "nbtxhuman"])
        answer = room.run("setup", expect=3)
        assert "nbtxhuman" in answer.stderr and "not ours" in answer.stderr
        assert system_lines("shadow", "nbtx") == before
    finally:
        room.write(NAMES)
        remove_account("nbtxhuman")


@pytest.mark.parametrize("line", range(8))
def test_after_sigkill_at_any_point_the_same_command_finishes_the_job(room, line):
    process = room.start("setup")
    assert process.stderr is not None
    for _ in range(line):
        process.stderr.readline()
    process.kill()
    process.communicate()
    room.run("setup")
    assert_whole(room)
    assert can_log_in("nbtxbob", room.credentials["nbtxbob"]["system_password"])


def test_an_account_deleted_by_hand_is_made_anew_with_a_new_uid_and_new_passwords(room):
    room.run("setup")
    old, uid, port = room.credentials["nbtxada"], pwd.getpwnam("nbtxada").pw_uid, _port(room, "nbtxada")
    remove_account("nbtxada")
    answer = room.run("setup")
    assert "nbtxada: the account was deleted by hand" in answer.stderr
    assert_whole(room)
    assert pwd.getpwnam("nbtxada").pw_uid != uid
    assert room.credentials["nbtxada"]["notebook_password"] != old["notebook_password"]
    assert _port(room, "nbtxada") == port


def shadow(name: str) -> str:
    (line,) = (line for line in Path("/etc/shadow").read_text().splitlines() if line.startswith(f"{name}:"))
    return line.split(":")[1]


def test_without_system_passwords_no_password_opens_an_account_and_setup_switches_both_ways(room):
    room.write(accounts={**room.config["accounts"], "system_password": "none"})
    room.run("setup")
    assert_whole(room)
    assert {room.credentials[name]["system_password"] for name in NAMES} == {"(none)"}
    assert {shadow(name) for name in NAMES} == {"*"}
    before = room.credentials
    assert not can_log_in("nbtxada", before["nbtxada"]["notebook_password"])
    assert not can_log_in("nbtxada", "")

    room.write(accounts={**room.config["accounts"], "system_password": "generated"})
    told = [one["message"] for one in room.json("check", expect=None)["findings"] if one["subject"] == "passwords"]
    assert told == ["3 accounts have no system password yet"]
    assert room.json("setup", "--dry-run", "--only", "nbtxada")["plan"][0] == "generate system passwords for 1 students"
    room.run("setup")
    assert_whole(room)
    given = room.credentials
    assert can_log_in("nbtxada", given["nbtxada"]["system_password"])
    assert [row["notebook_password"] for row in given.values()] == [row["notebook_password"] for row in before.values()]

    room.write(accounts={**room.config["accounts"], "system_password": "none"})
    answer = room.run("setup")
    assert_whole(room)
    assert not can_log_in("nbtxada", given["nbtxada"]["system_password"])
    assert {row["system_password"] for row in room.credentials.values()} == {"(none)"}
    log = (room.paths.logs / "nblauncher.log").read_text()
    for row in given.values():
        assert row["system_password"] not in answer.stdout + answer.stderr + log


def test_a_student_of_another_course_keeps_the_system_password_that_is_needed_there(room):
    room.run("setup")
    other = Classroom("nbtx2", ["nbtxada"], port=18060, first_uid=28050)
    try:
        other.write(accounts={**other.config["accounts"], "system_password": "none"})
        other.run("setup")
        assert other.credentials["nbtxada"]["system_password"] == "(as before)"
        room.write(accounts={**room.config["accounts"], "system_password": "none"})
        answer = room.run("setup")
        assert "in another course too, so the system password stays: nbtxada" in answer.stderr
        assert can_log_in("nbtxada", room.credentials["nbtxada"]["system_password"])
        assert shadow("nbtxbob") == "*"
        assert room.run("setup").stdout == "setup: nothing to do.\n"
    finally:
        other.names = []
        other.close()


def test_switching_system_passwords_never_opens_an_account_that_is_locked(room):
    room.write(accounts={**room.config["accounts"], "system_password": "none"})
    room.run("setup")
    assert "accounts.system_password is none" in room.run("passwd", "--system", "nbtxada", expect=3).stderr
    room.run("lock", "nbtxada")
    assert shadow("nbtxada") == "!*"
    room.write(accounts={**room.config["accounts"], "system_password": "generated"})
    room.run("setup")
    assert shadow("nbtxada").startswith("!") and not shadow("nbtxbob").startswith("!")
    assert not can_log_in("nbtxada", room.credentials["nbtxada"]["system_password"])
    room.write(accounts={**room.config["accounts"], "system_password": "none"})
    room.run("setup")
    assert shadow("nbtxada") == "!*"
    room.run("unlock", "nbtxada")
    assert shadow("nbtxada") == "*"
    assert room.run("setup").stdout == "setup: nothing to do.\n"


def test_an_account_without_system_password_is_removed_and_comes_back(room):
    room.write(accounts={**room.config["accounts"], "system_password": "none"})
    room.run("setup")
    room.run("remove", "--only", "nbtxbob", "--yes")
    with pytest.raises(KeyError):
        pwd.getpwnam("nbtxbob")
    room.run("setup")
    assert_whole(room)
    assert shadow("nbtxbob") == "*"


def test_accounts_above_uid_max_have_groups_of_their_own_number_and_useradd_takes_none_of_them(room):
    room.write(accounts={"uid_range": "70600-70649"})
    room.run("setup")
    assert_whole(room)
    made = [pwd.getpwnam(name) for name in NAMES]
    assert {entry.pw_uid for entry in made} == {70600, 70601, 70602}
    assert all(entry.pw_gid == entry.pw_uid for entry in made)
    subprocess.run(["useradd", "-M", "nbtxordinary"], check=True)
    try:
        ordinary = pwd.getpwnam("nbtxordinary")
        assert ordinary.pw_uid < 60001 and ordinary.pw_gid < 60001
    finally:
        remove_account("nbtxordinary")
    room.run("remove", "--yes")


def test_two_setups_at_once_end_in_one_whole_class(room):
    first, second = room.start("setup"), room.start("setup")
    codes = [process.wait(timeout=120) for process in (first, second)]
    for process in (first, second):
        process.communicate()
    assert all(code in (0, 6) for code in codes)
    assert 0 in codes
    assert_whole(room)


def test_a_student_of_two_courses_keeps_one_account(room):
    room.run("setup")
    other = Classroom("nbtx2", ["nbtxada"], port=18060, first_uid=28050)
    try:
        other.run("setup")
        assert other.credentials["nbtxada"]["system_password"] == "(as before)"
        assert can_log_in("nbtxada", room.credentials["nbtxada"]["system_password"])
        assert_whole(room)
        groups = subprocess.run(["id", "-nG", "nbtxada"], capture_output=True, text=True, check=True).stdout.split()
        assert {"nbl-nbtx1", "nbl-nbtx2"} <= set(groups)
    finally:
        other.names = []
        other.close()


def test_guests_are_served_and_never_changed(room):
    subprocess.run(["useradd", "-m", "-u", "28040", "-K", "HOME_MODE=0700", "nbtxguest"], check=True)
    try:
        room.write(["nbtxguest"], accounts={"create": False, "uid_range": "28000-28049"})
        before = system_lines("shadow", "nbtx"), system_lines("passwd", "nbtx")
        room.run("setup")
        assert (system_lines("shadow", "nbtx"), system_lines("passwd", "nbtx")) == before
        assert room.credentials["nbtxguest"]["system_password"] == "(as before)"
        assert room.run("setup").stdout == "setup: nothing to do.\n"
    finally:
        room.close()
        remove_account("nbtxguest")


def test_a_dry_run_prints_the_plan_and_changes_nothing(room):
    answer = room.run("setup", "--dry-run")
    assert "create account nbtxada" in answer.stdout
    assert not host_database().exists()
    with pytest.raises(KeyError):
        pwd.getpwnam("nbtxada")


def test_who_is_not_root_is_refused(room):
    answer = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "PATH=/usr/bin:/bin", *COMMAND, "setup"],
        cwd=room.folder,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 4, answer
    assert "root" in answer.stderr


NOT_ROOT = f"""
import json, os, sys
{commands.IMPORTED}
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
for words in json.loads(sys.argv[1]):
    print(words[0], flush=True)
    if (pid := os.fork()) == 0:
        os.dup2(1, 2)
        sys.argv[1:] = words
        life.live(main)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
COMMANDS = (
    *(
        "setup",
        "send",
        "launch",
        "reload",
        "status",
        "freeze",
        "thaw",
        "snapshot",
        "deadlines",
        "retrieve",
        "feedback ps1",
    ),
    *("shutdown", "remove", "service install", "history ada", "restore --at 2026-11-27 ada x", "extend ada 15m"),
    *("verify-receipt x", "grade init", "grade ps1", "grade serve", "check --security", "send --section Monday"),
    *("setup --dry-run", "launch --dry-run", "remove --dry-run"),
)


def test_every_command_that_needs_root_says_to_run_it_with_sudo(room):
    room.run("setup")
    lines = [line.split() for line in COMMANDS]
    answer = subprocess.run(
        [COMMAND[0], "-I", "-c", NOT_ROOT, json.dumps(lines)],
        cwd=room.folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.stdout.count("un it with sudo") == len(COMMANDS), answer.stdout + answer.stderr
    assert answer.stdout.splitlines().count("4") == len(COMMANDS), answer.stdout
    assert "host.db" not in answer.stdout and "ledger" not in answer.stdout


def test_a_damaged_ledger_stops_the_program_before_anything_happens(room):
    room.run("setup")
    good = host_database().read_bytes()
    host_database().write_bytes(os.urandom(len(good)))
    room.write([*NAMES, "nbtxzoe"])
    answer = room.run("setup", expect=1)
    assert "ledger" in answer.stderr
    with pytest.raises(KeyError):
        pwd.getpwnam("nbtxzoe")
    host_database().write_bytes(good)


def test_an_interruption_is_reported_and_the_next_run_goes_on(room):
    process = room.start("setup", start_new_session=True)
    assert process.stderr is not None
    for _ in range(3):
        process.stderr.readline()
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted" in out
    room.run("setup")
    assert_whole(room)


def _port(room: Classroom, name: str) -> int:
    with sqlite3.connect(f"file:{host_database()}?mode=ro", uri=True) as connection:
        query = "SELECT port FROM ports WHERE course = ? AND username = ?"
        return int(connection.execute(query, (room.course, name)).fetchone()[0])


def test_a_state_disk_without_room_for_the_material_costs_no_account_and_no_password(room):
    room.paths.state.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(room.paths.state)], check=True)
    try:
        (room.folder / "material" / "large.bin").write_bytes(os.urandom(3_000_000))
        answer = room.json("setup", expect=1)
        assert all("the material was not read" in one["error"] and "full" in one["error"] for one in answer["students"])
        passwords = room.credentials
        assert set(passwords) == set(room.names)
        subprocess.run(["mount", "-o", "remount,size=50m", str(room.paths.state)], check=True)
        room.run("setup")
        assert room.credentials == passwords
        assert all((room.home(name) / "tutorial" / "large.bin").stat().st_size == 3_000_000 for name in room.names)
    finally:
        subprocess.run(["umount", str(room.paths.state)], check=True)
