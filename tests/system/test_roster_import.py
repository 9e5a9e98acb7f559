"""`roster import` under sudo and as root: who reads, who writes, and who can read what was written."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nblauncher.commands.init import write_samples
from nblauncher.model import Account
from tests import commands, envelope
from tests.students import made_account, write
from tests.unit.config.class_list.test_exports import MOODLE
from tests.workbooks import sheet, workbook

pytestmark = pytest.mark.system

SECRET = "First name,Last name\nThe,Secret\n"


@pytest.fixture(scope="module")
def teacher() -> Iterator[Account]:
    with made_account("nbtrk1", 27001) as account:
        yield account


@pytest.fixture(scope="module")
def student() -> Iterator[Account]:
    with made_account("nbtrk2", 27002) as account:
        yield account


@pytest.fixture
def folder(teacher: Account) -> Iterator[Path]:
    """The course's folder, with an export in it."""
    yield write(teacher, "export.csv", MOODLE, below="class").parent
    shutil.rmtree(teacher.home / "class")


def run(folder: Path, *arguments: str, sudo: Account | None = None) -> subprocess.CompletedProcess[str]:
    """As root, who may have been asked through sudo."""
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    if sudo is not None:
        environment |= {"SUDO_UID": str(sudo.uid), "SUDO_GID": str(sudo.gid), "SUDO_USER": sudo.username}
    if commands.is_served():
        return commands.run(("roster", "import", *arguments), folder, environment, 60)
    return subprocess.run(
        [sys.executable, "-I", "-m", "nblauncher", "roster", "import", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def test_under_sudo_the_roster_is_the_teachers_alone(teacher: Account, folder: Path) -> None:
    answer = run(folder, "export.csv", "--yes", "--json", sudo=teacher)
    said = envelope.checked(answer.stdout, answer.returncode, "roster import")
    assert [one["username"] for one in said["students"]] == ["ada", "j-mueller"]
    status = (folder / "students.csv").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (teacher.uid, teacher.gid, 0o600)
    assert "Kim Lee: Non-editing teacher" in answer.stderr and "Ada Lovelace" in answer.stderr
    before = (folder / "students.csv").read_bytes()
    again = run(folder, "export.csv", "--json", sudo=teacher)
    assert {one["change"] for one in envelope.checked(again.stdout, 0, "roster import")["students"]} == {"kept"}
    assert (folder / "students.csv").read_bytes() == before


def test_nothing_is_written_without_a_yes_and_in_a_dry_run(teacher: Account, folder: Path) -> None:
    assert run(folder, "export.csv", sudo=teacher).returncode == 4
    answer = run(folder, "export.csv", "--dry-run", "--json", sudo=teacher)
    said = envelope.checked(answer.stdout, answer.returncode, "roster import", is_dry_run=True)
    assert said["plan"] == ["+ ada (Ada Lovelace)", "+ j-mueller (Jürgen Müller)"]
    assert [file.name for file in folder.iterdir()] == ["export.csv"]


def test_the_config_names_the_roster_and_the_sample_is_replaced(teacher: Account, folder: Path) -> None:
    write_samples(folder / "course", teacher)
    (folder / "export.csv").rename(folder / "course" / "export.csv")
    config = folder / "course" / "notebooks.cfg"
    config.write_text(config.read_text().replace("students: students.csv", "students: class.csv"))
    (folder / "course" / "students.csv").rename(folder / "course" / "class.csv")
    answer = run(folder / "course", "export.csv", "--yes", sudo=teacher)
    assert answer.returncode == 0, answer.stderr
    assert "class.csv is the sample that `init` wrote" in answer.stderr
    assert (folder / "course" / "class.csv").read_text().splitlines()[1].startswith("ada,Ada Lovelace,ada@uni.example")
    assert "emmy" not in (folder / "course" / "class.csv").read_text()


def test_the_teacher_reads_the_list_and_not_root(teacher: Account, folder: Path) -> None:
    secret = Path("/root/nbt-roster-secret.csv")
    secret.write_text(SECRET)
    secret.chmod(0o600)
    try:
        (folder / "link.csv").symlink_to(secret)
        for file in (str(secret), "link.csv"):
            answer = run(folder, file, "--yes", sudo=teacher)
            assert answer.returncode == 3 and "permission denied" in answer.stderr
        (folder / "students.csv").symlink_to(secret)
        answer = run(folder, "export.csv", "--yes", sudo=teacher)
        assert answer.returncode in (3, 4) and "Secret" not in answer.stderr + answer.stdout
        assert secret.read_text() == SECRET
    finally:
        secret.unlink()


def test_root_alone_reads_nothing_of_another_accounts(teacher: Account, folder: Path) -> None:
    answer = run(folder, "export.csv", "--yes")
    assert answer.returncode == 4 and "sudo" in answer.stderr
    assert [file.name for file in folder.iterdir()] == ["export.csv"]


def test_root_alone_writes_only_among_roots_files(teacher: Account, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(MOODLE)
    (tmp_path / "link").symlink_to(folder)
    for there in (folder / "students.csv", tmp_path / "link" / "students.csv", Path("/tmp/nbt-students.csv")):
        answer = run(tmp_path, "list.csv", "--yes", "--into", str(there))
        assert answer.returncode == 4 and "is not written" in answer.stderr, answer.stderr
        assert not there.exists()
    assert run(tmp_path, "list.csv", "--yes").returncode == 0
    assert stat.S_IMODE((tmp_path / "students.csv").stat().st_mode) == 0o600


def test_a_students_file_or_link_in_the_place_of_the_roster_is_refused(
    teacher: Account, student: Account, folder: Path
) -> None:
    planted = folder / "students.csv"
    planted.write_text("username\nmallory\n")
    os.chown(planted, student.uid, student.gid)
    answer = run(folder, "export.csv", "--yes", sudo=teacher)
    assert answer.returncode == 4 and student.username in answer.stderr
    assert planted.read_text() == "username\nmallory\n"
    planted.unlink()
    planted.symlink_to(teacher.home / "target")
    answer = run(folder, "export.csv", "--yes", sudo=teacher)
    assert answer.returncode == 3 and planted.is_symlink() and not (teacher.home / "target").exists()


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "huge"])
def test_what_is_not_a_list_neither_hangs_nor_hurts(teacher: Account, folder: Path, kind: str) -> None:
    file = folder / "odd"
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "device":
        file.symlink_to("/dev/zero")
    else:
        file.touch()
        os.truncate(file, 1 << 40)
    answer = run(folder, "odd", "--yes", sudo=teacher)
    assert answer.returncode == 3 and "Nothing was changed" in answer.stderr, answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.slow
def test_a_workbook_made_to_be_expensive_is_given_up(teacher: Account, folder: Path) -> None:
    """A small file with sixty million bytes of cells."""
    (folder / "bomb.xlsx").write_bytes(workbook([], sheet=sheet("<row>" + "<c/>" * 15_000_000 + "</row>")))
    assert (folder / "bomb.xlsx").stat().st_size < 1_000_000
    answer = run(folder, "bomb.xlsx", "--yes", sudo=teacher)
    assert answer.returncode == 3 and "Nothing was changed" in answer.stderr, answer.stderr


def test_a_full_disk_leaves_the_roster_as_it_was(teacher: Account, folder: Path) -> None:
    small = folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=755", "tmpfs", str(small)], check=True)
    try:
        os.chown(small, teacher.uid, teacher.gid)
        roster = small / "students.csv"
        roster.write_text("username\neve\n")
        os.chown(roster, teacher.uid, teacher.gid)
        rows = "".join(f"Name{n},Surname{n},n{n}@uni.example,Student,,\n" for n in range(900))
        (folder / "export.csv").write_text(MOODLE + rows)
        answer = run(folder, "export.csv", "--yes", "--json", "--into", str(roster), sudo=teacher)
        assert answer.returncode == 1 and "disk full" in answer.stderr
        assert json.loads(answer.stdout)["status"] == "failed"
        assert roster.read_text() == "username\neve\n" and os.listdir(small) == ["students.csv"]
    finally:
        subprocess.run(["umount", str(small)], check=True)
