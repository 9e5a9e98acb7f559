"""Config, roster and samples among several people: a teacher, a student, and root in between."""

from __future__ import annotations

import contextlib
import grp
import os
import shutil
import signal
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nblauncher.commands.init import write_samples
from nblauncher.config.settings import TlsSettings
from nblauncher.config.trusted_files import is_private_group, read_trusted
from nblauncher.errors import HostError, InputError, RefusedError
from nblauncher.frontends.class_ca import ensure_class_ca, issue_leaf
from nblauncher.model import Account
from nblauncher.preflight import web
from tests.students import as_student, become, made_account, write

pytestmark = pytest.mark.system

SECRET = b"root:the secret of the host:0:0"


@pytest.fixture(scope="module")
def teacher() -> Iterator[Account]:
    with made_account("nbti1", 21001) as account:
        yield account


@pytest.fixture(scope="module")
def student() -> Iterator[Account]:
    with made_account("nbti2", 21002) as account:
        yield account


@pytest.fixture
def config(teacher: Account) -> Iterator[Path]:
    """The teacher's own config in a folder of the teacher's."""
    yield write(teacher, "notebooks.cfg", b"course: a\n", below="class")
    shutil.rmtree(teacher.home / "class")


@pytest.fixture
def secret() -> Iterator[Path]:
    """A file that only root may read."""
    with tempfile.TemporaryDirectory(prefix="nbti-", dir="/opt") as folder:
        file = Path(folder) / "secret"
        file.write_bytes(SECRET)
        file.chmod(0o600)
        Path(folder).chmod(0o755)
        yield file


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder of root's that everybody can enter."""
    with tempfile.TemporaryDirectory(prefix="nbti-", dir="/opt") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def read(path: Path, *trusted: Account) -> bytes:
    return read_trusted(path, allowed_uids=frozenset(account.uid for account in trusted))


def give(path: Path, account: Account) -> None:
    os.chown(path, account.uid, account.gid, follow_symlinks=False)


def test_root_reads_the_teachers_private_config_as_the_teacher(teacher: Account, config: Path) -> None:
    config.chmod(0o600)
    assert read(config, teacher) == b"course: a\n"


def test_the_teacher_reads_it_without_root(teacher: Account, config: Path) -> None:
    def look() -> None:
        assert read(config, teacher) == b"course: a\n"

    as_student(teacher, look)


def test_a_config_in_the_home_of_somebody_else_is_refused(teacher: Account, student: Account, config: Path) -> None:
    with pytest.raises(RefusedError, match="belongs to nbti1, not to root or nbti2"):
        read(config, student)


def test_a_file_of_a_students_is_refused_in_the_teachers_folder(
    teacher: Account, student: Account, config: Path
) -> None:
    give(config, student)
    with pytest.raises(RefusedError, match="belongs to nbti2, not to root or nbti1") as caught:
        read(config, teacher)
    assert "chown nbti1" in caught.value.hint


def test_a_students_folder_above_is_refused(teacher: Account, student: Account, shared: Path) -> None:
    (shared / "theirs").mkdir()
    file = shared / "theirs" / "notebooks.cfg"
    file.write_text("course: a\n")
    give(file, teacher)
    give(shared / "theirs", student)
    with pytest.raises(RefusedError, match=f"because of {shared}/theirs: it belongs to nbti2"):
        read(file, teacher)


def test_a_students_link_on_the_way_is_refused(teacher: Account, student: Account, shared: Path) -> None:
    (shared / "real").mkdir()
    (shared / "real" / "notebooks.cfg").write_text("course: a\n")
    (shared / "way").symlink_to("real")
    give(shared / "way", student)
    with pytest.raises(RefusedError, match=f"because of {shared}/way: it belongs to nbti2"):
        read(shared / "way" / "notebooks.cfg", teacher)


def test_a_link_of_the_teachers_gives_nothing_of_roots_away(teacher: Account, config: Path, secret: Path) -> None:
    config.unlink()
    config.symlink_to(secret)
    give(config, teacher)
    with pytest.raises(InputError, match="cannot be read by nbti1") as caught:
        read(config, teacher)
    assert "secret of the host" not in str(caught.value)


def test_a_hard_link_in_the_teachers_folder_gives_nothing_of_roots_away(
    teacher: Account, config: Path, secret: Path
) -> None:
    config.unlink()
    os.link(secret, config)
    with pytest.raises(InputError, match="cannot be read by nbti1"):
        read(config, teacher)


def test_a_readable_file_of_roots_in_the_teachers_folder_is_read_as_the_teacher(teacher: Account, config: Path) -> None:
    os.chown(config, 0, 0)
    assert read(config, teacher) == b"course: a\n"


def test_a_link_of_roots_to_the_teachers_file_is_followed(teacher: Account, config: Path, shared: Path) -> None:
    config.chmod(0o600)
    (shared / "notebooks.cfg").symlink_to(config)
    assert read(shared / "notebooks.cfg", teacher) == b"course: a\n"


def test_a_private_file_of_roots_in_roots_folder_is_read_by_root(secret: Path) -> None:
    assert read(secret) == SECRET


def test_a_file_that_is_swapped_for_a_link_all_the_time_never_gives_roots_secret(
    teacher: Account, config: Path, secret: Path
) -> None:
    with swapping(teacher, config, secret):
        seen = set()
        for _ in range(150):
            try:
                seen.add(read(config, teacher))
            except (InputError, RefusedError) as error:
                assert "secret of the host" not in str(error)
    assert seen <= {b"course: a\n"}


@contextlib.contextmanager
def swapping(account: Account, file: Path, target: Path) -> Iterator[None]:
    """A process of the account's puts the file and a link to `target` in each other's place, without a pause."""
    pid = os.fork()
    if pid == 0:
        try:
            become(account)
            os.chdir(file.parent)
            number = 0
            while True:
                number += 1
                if number % 2:
                    os.symlink(target, "next")
                else:
                    Path("next").write_bytes(b"course: a\n")
                os.rename("next", file.name)
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_group_of_the_owners_own_may_write(teacher: Account, config: Path) -> None:
    assert is_private_group(teacher.gid, teacher.uid)
    config.chmod(0o664)
    config.parent.chmod(0o775)
    assert read(config, teacher) == b"course: a\n"


def test_another_group_may_not_write_file_or_folder(teacher: Account, student: Account, config: Path) -> None:
    os.chown(config, teacher.uid, student.gid)
    config.chmod(0o664)
    with pytest.raises(RefusedError, match="the group nbti2 can write it"):
        read(config, teacher)
    config.chmod(0o644)
    os.chown(config.parent, teacher.uid, student.gid)
    config.parent.chmod(0o775)
    with pytest.raises(RefusedError, match=f"because of {config.parent}: the group nbti2 can write it"):
        read(config, teacher)


def test_a_private_group_with_a_second_member_is_none(teacher: Account, student: Account) -> None:
    subprocess.run(["usermod", "-a", "-G", teacher.username, student.username], check=True)
    try:
        assert student.username in grp.getgrgid(teacher.gid).gr_mem
        assert not is_private_group(teacher.gid, teacher.uid)
    finally:
        subprocess.run(["gpasswd", "-d", student.username, teacher.username], check=True, stdout=subprocess.DEVNULL)


def test_an_access_control_list_that_lets_a_student_write_is_refused(
    teacher: Account, student: Account, config: Path
) -> None:
    anybody = 0xFFFFFFFF
    entries = [(0x01, 6, anybody), (0x02, 6, student.uid), (0x04, 4, anybody), (0x10, 6, anybody), (0x20, 4, anybody)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(config, "system.posix_acl_access", acl)
    except OSError:
        pytest.skip("this file system has no access control lists")
    assert config.stat().st_mode & 0o777 == 0o664
    with pytest.raises(RefusedError, match="access control list"):
        read(config, teacher)


def test_a_fifo_of_the_teachers_does_not_stop_root(teacher: Account, config: Path) -> None:
    config.unlink()
    os.mkfifo(config, 0o644)
    give(config, teacher)
    with pytest.raises(InputError, match="is not a regular file"):
        read(config, teacher)


def test_a_file_that_the_teacher_may_not_read_says_so(teacher: Account, config: Path) -> None:
    config.chmod(0o000)
    with pytest.raises(InputError, match="cannot be read by nbti1: Permission denied"):
        read(config, teacher)


def test_a_large_file_comes_whole(teacher: Account, config: Path) -> None:
    config.write_bytes(b"x" * 7_999_999)
    assert read(config, teacher) == b"x" * 7_999_999
    config.write_bytes(b"x" * 8_000_001)
    with pytest.raises(InputError, match="larger than 8000000 bytes"):
        read(config, teacher)


def test_a_file_without_an_account_behind_it_is_refused(shared: Path) -> None:
    file = shared / "notebooks.cfg"
    file.write_text("course: a\n")
    os.chown(file, 21099, 21099)
    with pytest.raises(RefusedError, match="belongs to uid 21099"):
        read(file)


# init


def test_the_samples_belong_to_the_person_who_ran_sudo(teacher: Account) -> None:
    files = write_samples(teacher.home / "new", teacher)
    for path in (*files, files[-1].parent, teacher.home / "new"):
        assert (path.stat().st_uid, path.stat().st_mode & 0o022) == (teacher.uid, 0)
    assert read(files[0], teacher)
    shutil.rmtree(teacher.home / "new")


def test_the_samples_are_not_written_where_the_person_could_not(teacher: Account, shared: Path) -> None:
    with pytest.raises(HostError, match="cannot write the samples"):
        write_samples(shared, teacher)
    assert list(shared.iterdir()) == []


def test_a_link_of_the_teachers_leads_the_samples_nowhere(teacher: Account, secret: Path) -> None:
    folder = teacher.home / "trap"
    folder.mkdir()
    give(folder, teacher)
    (folder / "students.csv").symlink_to(secret)
    with pytest.raises(InputError, match="exists already"):
        write_samples(folder, teacher)
    assert secret.read_bytes() == SECRET and [path.name for path in folder.iterdir()] == ["students.csv"]
    shutil.rmtree(folder)


def test_a_full_disk_leaves_no_half_samples(shared: Path, teacher: Account) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k,mode=0777", "nbti", str(shared)], check=True)
    try:
        with pytest.raises(HostError, match="No space left on device"):
            write_samples(shared, teacher)
        assert list(shared.iterdir()) == []
    finally:
        subprocess.run(["umount", str(shared)], check=True)


# check


def test_the_teachers_key_is_judged_as_the_teacher(teacher: Account, config: Path, tmp_path: Path) -> None:
    ca = ensure_class_ca(tmp_path / "ca", ["lab.example.org"], [], "nbti")
    leaf = issue_leaf(ca, ["lab.example.org"], [])
    certificate = write(teacher, "cert.pem", leaf.certificate, below="class")
    key = write(teacher, "key.pem", leaf.key, below="class")
    key.chmod(0o600)
    tls = TlsSettings("files", certificate, key, True)
    good = list(web.certificate(tls, ["lab.example.org"]))
    assert [finding.level for finding in good] == ["ok", "warning"]
    (bad,) = web.certificate(tls, ["other.example.org"])
    assert (bad.level, "does not cover other.example.org" in bad.message) == ("problem", True)
