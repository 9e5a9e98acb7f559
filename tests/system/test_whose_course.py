"""A course in a teacher's own folder: root without sudo, and a teacher's account that was made anew."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator

import pytest

from tests.classroom import Classroom
from tests.running import remove_account

pytestmark = pytest.mark.system

ADA, TEACHER = "nbtfiada", "nbtfiprof"
FIRST_UID, NEW_UID = 27200, 27201


def make_teacher(uid: int) -> None:
    subprocess.run(["useradd", "-m", "-u", str(uid), "-K", "HOME_MODE=0700", TEACHER], check=True)


def give_to_teacher(room: Classroom) -> None:
    subprocess.run(["chown", "-R", f"{TEACHER}:{TEACHER}", str(room.folder)], check=True)


def sudo(room: Classroom, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """As the teacher with sudo."""
    uid = str(pwd.getpwnam(TEACHER).pw_uid)
    return room.run(*arguments, expect=expect, env={**os.environ, "SUDO_UID": uid, "SUDO_GID": uid})


@pytest.fixture
def room() -> Iterator[Classroom]:
    """In a folder of the teacher's."""
    make_teacher(FIRST_UID)
    made = Classroom("nbtfi1", [ADA], port=18800, first_uid=27210)
    give_to_teacher(made)
    yield made
    subprocess.run(["chown", "-R", "root:root", str(made.folder)], check=True)
    made.close()
    remove_account(TEACHER)


def test_root_without_sudo_is_told_to_use_it_and_never_to_take_the_teachers_folder(room):
    for command, code in (("setup", 3), ("status", 4)):
        told = room.run(command, expect=code).stderr
        assert f"it belongs to {TEACHER}, not to root" in told
        assert f"`su - {TEACHER}`, then `sudo nblauncher" in told and "chown" not in told
    sudo(room, "setup")
    assert room.run("setup").stdout == "setup: nothing to do.\n"  # from now on root knows whose it is


def test_a_folder_of_somebody_elses_is_never_to_be_given_to_the_teacher(room):
    os.chown(room.folder, FIRST_UID + 5, 0)
    told = sudo(room, "status", expect=4).stderr
    assert f"it belongs to uid {FIRST_UID + 5}, not to root or {TEACHER}" in told
    assert f"Copy the course into a folder that belongs to {TEACHER}" in told and "chown" not in told


def test_a_teachers_account_that_was_made_anew_is_told_and_can_take_over(room):
    sudo(room, "setup")
    subprocess.run(["userdel", "-r", TEACHER], check=True, capture_output=True)
    make_teacher(NEW_UID)
    give_to_teacher(room)
    told = sudo(room, "retrieve", expect=4).stderr
    assert f"was set up for {TEACHER} when that account had uid {FIRST_UID}; now it has uid {NEW_UID}" in told
    assert f"usermod -u {FIRST_UID} {TEACHER}" in told and "setup --take-over" in told
    sudo(room, "setup", expect=4)
    sudo(room, "setup", "--take-over")
    assert "The work is in" in sudo(room, "retrieve").stdout
    assert (room.folder / "retrieved").stat().st_uid == NEW_UID


def test_an_account_that_gets_its_uid_back_goes_on(room):
    sudo(room, "setup")
    subprocess.run(["usermod", "-u", str(NEW_UID), TEACHER], check=True)
    sudo(room, "retrieve", expect=4)
    subprocess.run(["usermod", "-u", str(FIRST_UID), TEACHER], check=True)
    assert "The work is in" in sudo(room, "retrieve").stdout
