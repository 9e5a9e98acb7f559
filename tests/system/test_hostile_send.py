"""Homes made to trick whoever writes into them: nothing outside is touched, nothing of the student's is lost."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from nblauncher.errors import HostError, RefusedError
from nblauncher.exchange.send.delivery import BESIDE, BLOCKED, DELETED, KEPT, MERGED, NEW, REPLACED, UNCHANGED, UPDATED
from tests.sending import TARGET, Teacher, content_of, told
from tests.students import as_student, become, made_account

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def owner():
    with made_account("nbtshteach", 23010) as account:
        yield account


@pytest.fixture
def eve():
    with made_account("nbtseve", 23011) as account:
        yield account


@pytest.fixture
def victim():
    with made_account("nbtsvictim", 23012) as account:
        yield account


@pytest.fixture
def teacher(owner, tmp_path):
    source = owner.home / "material"
    source.mkdir()
    made = Teacher(owner, source, tmp_path)
    made.write("lab1", "one")
    made.write("week1/data", "one")
    yield made
    subprocess.run(["rm", "-rf", "--", str(source)], check=True)


@pytest.fixture
def trap(eve):
    """A folder outside of the home that everybody may write to: whatever is led astray shows up here."""
    folder = eve.home.parent / "nbts-trap"
    folder.mkdir()
    folder.chmod(0o777)
    yield folder
    subprocess.run(["rm", "-rf", "--", str(folder)], check=True)


def snapshot(folder):
    return sorted((str(path), path.lstat().st_mtime_ns, path.lstat().st_ino) for path in folder.rglob("*"))


def test_a_target_that_leads_to_a_neighbour_or_to_the_system_gets_nothing(teacher, eve, victim, trap):
    before = snapshot(victim.home)
    for place in (victim.home, "/etc", trap, ".."):
        os.rmdir(eve.home / TARGET) if not (eve.home / TARGET).is_symlink() else os.unlink(eve.home / TARGET)
        os.symlink(place, eve.home / TARGET)
        sent = teacher.send(eve)
        assert set(told(sent).values()) == {BLOCKED}
        assert sent.work.is_incomplete
        assert teacher.ledgers[eve.username] == {}
    assert list(trap.iterdir()) == []
    assert snapshot(victim.home) == before
    os.unlink(eve.home / TARGET)
    assert set(told(teacher.send(eve)).values()) == {NEW}


def put_link(path, trap):
    path.symlink_to(trap / "out")


def put_fifo(path, _trap):
    os.mkfifo(path)


def put_device(path, _trap):
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))


def put_folder(path, _trap):
    path.mkdir()


@pytest.mark.parametrize("put", [put_link, put_fifo, put_device, put_folder])
def test_what_takes_the_place_of_a_file_blocks_it_and_is_left_alone(teacher, eve, trap, put):
    teacher.send(eve)
    lab = eve.home / TARGET / "lab1"
    lab.unlink()
    put(lab, trap)
    before = lab.lstat()
    teacher.write("lab1", "two")
    teacher.write("week1/data", "two")
    sent = teacher.send(eve)
    assert told(sent) == {"lab1": BLOCKED, "week1/data": UPDATED}
    assert sent.work.is_incomplete
    assert (lab.lstat().st_ino, lab.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert list(trap.iterdir()) == []


@pytest.mark.parametrize("was_given", [False, True])
def test_a_hard_link_to_a_file_of_roots_is_never_written_through(teacher, eve, was_given):
    secret = eve.home.parent / "nbts-root-file"
    secret.write_text("one")
    secret.chmod(0o644)
    try:
        if was_given:
            teacher.send(eve)
            (eve.home / TARGET / "lab1").unlink()
        os.link(secret, eve.home / TARGET / "lab1")
        teacher.write("lab1", "two")
        assert told(teacher.send(eve))["lab1"] == BESIDE
        assert (secret.read_text(), secret.stat().st_uid, secret.stat().st_nlink) == ("one", 0, 2)
    finally:
        secret.unlink()


def test_a_folder_that_may_not_be_written_blocks_and_works_again_later(teacher, eve):
    as_student(eve, os.chmod, ".", 0o500)
    sent = teacher.send(eve)
    assert set(told(sent).values()) == {BLOCKED}
    assert {one.reason for one in sent.work.exclusions} == {"permission denied", "permission denied (week1)"}
    as_student(eve, os.chmod, ".", 0o700)
    assert set(told(teacher.send(eve)).values()) == {NEW}


def test_a_file_that_nobody_may_read_is_taken_for_an_edit(teacher, eve):
    teacher.send(eve)
    (eve.home / TARGET / "lab1").chmod(0)
    teacher.write("lab1", "two")
    assert told(teacher.send(eve))["lab1"] == BESIDE


def test_a_mount_in_the_way_is_not_entered(teacher, eve):
    (eve.home / TARGET / "week1").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0777", "tmpfs", str(eve.home / TARGET / "week1")], check=True)
    try:
        assert told(teacher.send(eve)) == {"lab1": NEW, "week1/data": BLOCKED}
        assert list((eve.home / TARGET / "week1").iterdir()) == []
    finally:
        subprocess.run(["umount", str(eve.home / TARGET / "week1")], check=True)


def test_a_home_of_somebody_else_or_behind_a_link_is_refused(teacher, eve, victim):
    with pytest.raises(HostError, match=r"cannot be opened|belongs to"):
        teacher.send(replace(eve, home=victim.home))
    link = eve.home.parent / "nbts-link"
    link.symlink_to(eve.home)
    try:
        with pytest.raises(HostError, match="cannot be opened"):
            teacher.send(replace(eve, home=link))
    finally:
        link.unlink()
    with pytest.raises(HostError, match="belongs to uid 0"):
        teacher.send(replace(eve, home=teacher.spool.parent.parent.parent))
    assert content_of(victim.home / TARGET) == {}


def test_an_account_with_uid_0_gets_nothing(teacher, eve):
    with pytest.raises(RefusedError, match="uid 0"):
        teacher.send(replace(eve, uid=0))
    assert content_of(eve.home / TARGET) == {}


def swap_for_ever(trap):
    """Runs as the student: the folder is now a folder, now a link to the trap."""
    while True:
        for old, new in (("week1", "real"), ("link", "week1"), ("week1", "link"), ("real", "week1")):
            try:
                os.rename(old, new)
            except OSError:
                continue


def start_swapping(eve, trap):
    """A process of the student's that swaps the folder for ever."""
    attacker = os.fork()
    if attacker == 0:
        try:
            become(eve)
            swap_for_ever(trap)
        finally:
            os._exit(1)
    return attacker


def test_a_folder_that_is_swapped_for_a_link_all_the_time_leads_nowhere(teacher, eve, trap):
    for number in range(30):
        teacher.write(f"week1/file{number}", "one")
    teacher.send(eve)
    as_student(eve, os.symlink, trap, "link")
    attacker = start_swapping(eve, trap)
    reached = set()
    try:
        for version in range(25):
            for number in range(30):
                teacher.write(f"week1/file{number}", f"version {version}")
            teacher.write(f"week1/new{version}", "new")
            reached |= set(told(teacher.send(eve)).values())
    finally:
        os.kill(attacker, signal.SIGKILL)
        os.waitpid(attacker, 0)
    assert list(trap.iterdir()) == []
    assert reached & {UPDATED, NEW, BLOCKED}


def test_a_folder_that_is_swapped_for_a_link_while_files_are_merged_leads_nowhere(teacher, eve, trap):
    for number in range(30):
        teacher.write(f"week1/file{number}", "one\ntwo\nthree\n")
    teacher.send(eve)
    for number in range(30):
        as_student(eve, Path.write_text, Path(f"week1/file{number}"), "ONE\ntwo\nthree\n")
    as_student(eve, os.symlink, trap, "link")
    for name in (trap / "file0", trap / "file1"):
        name.write_text("ONE\ntwo\nthree\n")
    attacker = start_swapping(eve, trap)
    reached = set()
    try:
        for version in range(12):
            for number in range(30):
                teacher.write(f"week1/file{number}", f"one\ntwo\nthree\nversion {version}\n")
            reached |= set(told(teacher.send(eve)).values())
    finally:
        os.kill(attacker, signal.SIGKILL)
        os.waitpid(attacker, 0)
    assert {file.read_text() for file in trap.iterdir()} == {"ONE\ntwo\nthree\n"}
    assert sorted(file.name for file in trap.iterdir()) == ["file0", "file1"]
    assert reached & {MERGED, BLOCKED}


def turn_for_ever(trap):
    """Runs as the student: `lab1` is a file, a folder with work in it, a link and nothing, in no order of ours."""
    for number in itertools.count():
        with contextlib.suppress(OSError):
            os.rename("lab1", f"was{number % 3}")
        with contextlib.suppress(OSError):
            if number % 3 == 0:
                os.mkdir("lab1")
                os.close(os.open(f"lab1/mine{number % 50}", os.O_CREAT | os.O_WRONLY, 0o600))
            elif number % 3 == 1:
                os.symlink(trap, "lab1")
            else:
                os.rename(f"was{(number + 1) % 3}", "lab1")


def test_a_student_who_turns_files_into_folders_while_the_material_does_gains_and_loses_nothing(teacher, eve, trap):
    teacher.send(eve)
    as_student(eve, Path.write_text, Path("work"), "mine")
    attacker = os.fork()
    if attacker == 0:
        try:
            become(eve)
            turn_for_ever(trap)
        finally:
            os._exit(1)
    reached = set()
    try:
        for version in range(20):
            lab = teacher.source / "lab1"
            if lab.is_dir():
                shutil.rmtree(lab)
                teacher.write("lab1", f"version {version}")
            else:
                lab.unlink()
                teacher.write("lab1/a", f"version {version}")
            reached |= set(told(teacher.send(eve)).values())
    finally:
        os.kill(attacker, signal.SIGKILL)
        os.waitpid(attacker, 0)
    assert list(trap.iterdir()) == []
    assert (eve.home / TARGET / "work").read_text() == "mine"
    assert reached & {UPDATED, NEW, BESIDE, BLOCKED}
    assert set(told(teacher.send(eve)).values()) <= {NEW, UPDATED, UNCHANGED, REPLACED, BESIDE, KEPT, BLOCKED, DELETED}


def test_planted_names_of_ours_gain_nothing(teacher, eve, trap):
    teacher.send(eve)
    folder = eve.home / TARGET
    (folder / ".nblauncher-swap-00000000-lab1").symlink_to("/etc/passwd")
    os.mkfifo(folder / ".nblauncher-writing-0000000000000000")
    (folder / ".nblauncher-swap-11111111-..").write_text("x")
    (folder / ".nblauncher-swap-22222222-").write_text("x")
    os.mkdir(folder / ".nblauncher-swap-33333333-lab2")
    with (folder / ".nblauncher-swap-44444444-huge").open("wb") as stream:
        stream.truncate(1 << 40)
    as_student(eve, os.chmod, ".", 0o700)
    teacher.write("lab1", "two")
    assert told(teacher.send(eve))["lab1"] == UPDATED
    assert (folder / "lab1").read_text() == "two"


@pytest.mark.slow
def test_a_folder_with_20000_files_is_no_obstacle(teacher, eve):
    teacher.send(eve)
    for number in range(20_000):
        os.close(os.open(eve.home / TARGET / f"mine{number}", os.O_CREAT | os.O_WRONLY, 0o600))
    teacher.write("lab1", "two")
    assert told(teacher.send(eve))["lab1"] == UPDATED
