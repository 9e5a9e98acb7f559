"""Homes made to trick whoever reads or deletes them: nothing outside comes along, nothing of others goes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from nblauncher.errors import HostError
from nblauncher.exchange import homes
from nblauncher.exchange.retrieve.scope import CHANGED, HOME, Scope
from tests.students import TARGET, as_student, become, exclusions, made_account, made_desk, made_folder, write

pytestmark = pytest.mark.system

SECRET = b"only root may read this"
WHOLE = Scope(HOME, TARGET)


@pytest.fixture(scope="module")
def teacher():
    with made_account("nbtrhteach", 22010) as account:
        yield account


@pytest.fixture
def eve():
    with made_account("nbtreve", 22011) as account:
        yield account


@pytest.fixture
def desk(teacher):
    with made_folder() as folder, made_desk(folder, teacher) as made:
        yield made


@pytest.fixture
def secret(eve):
    """A root-only file on the same file system as the home, so that it can be hard-linked by an administrator."""
    file = eve.home.parent / "nbtr-root-secret"
    file.write_bytes(SECRET)
    file.chmod(0o600)
    yield file
    file.unlink()


def everything(desk, name, student):
    return b"\n".join(desk.stored(name, student).values())


def test_links_are_listed_and_only_those_to_work_left_behind_make_it_incomplete(eve, desk, secret):
    inside = eve.home / TARGET
    write(eve, "answer", b"answer")
    write(eve, "notes.txt", b"outside of the material", below="")
    write(eve, "data/table", b"outside too", below="")
    links = {
        "to-answer": "answer", "to-notes": "../notes.txt", "to-data": "../data", "to-secret": secret,
        "to-passwd": "/etc/passwd", "to-etc": "/etc", "dangling": "nowhere", "to-itself": "to-itself",
        "to-above": "..", "to-fifo": "/proc/self/fd/0", "to-home": eve.home,
    }  # fmt: skip
    for name, target in links.items():
        as_student(eve, os.symlink, target, inside / name)
    collected, name = desk.collect(eve)
    assert desk.stored(name, eve) == {"work/answer": b"answer"}
    found = {path.removeprefix("work/"): incomplete for path, (_, incomplete) in exclusions(collected).items()}
    assert found == {link: link in ("to-notes", "to-data") for link in links}
    collected, name = desk.collect(eve, WHOLE)
    assert not collected.work.is_incomplete
    assert SECRET not in everything(desk, name, eve)


def test_a_link_to_what_a_retrieval_left_out_is_incomplete(eve, desk):
    write(eve, ".cache/hidden", b"work?", below="")
    as_student(eve, os.symlink, "../.cache/hidden", "link")
    collected, _ = desk.collect(eve, WHOLE)
    assert exclusions(collected)["work/link"][1]


def test_a_hard_link_to_a_root_only_file_is_unreadable_and_incomplete(eve, desk, secret):
    os.link(secret, eve.home / TARGET / "mine")
    collected, name = desk.collect(eve)
    assert exclusions(collected) == {"work/mine": ("permission denied", True)}
    assert everything(desk, name, eve) == b""


def test_fifos_sockets_and_devices_are_listed_and_never_opened(eve, desk):
    inside = eve.home / TARGET
    as_student(eve, os.mkfifo, inside / "fifo")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(inside / "socket"))
        os.mknod(inside / "null", 0o20666, os.makedev(1, 3))
        os.mknod(inside / "disk", 0o60666, os.makedev(254, 0))
        collected, name = desk.collect(eve)
    expected = {"fifo": "a FIFO", "socket": "a socket", "null": "a device", "disk": "a device"}
    assert exclusions(collected) == {f"work/{path}": (reason, False) for path, reason in expected.items()}
    assert desk.stored(name, eve) == {}


@pytest.mark.parametrize("scope", [Scope(CHANGED, TARGET), WHOLE], ids=["material", "home"])
def test_a_sparse_terabyte_is_not_read(eve, desk, scope):
    file = write(eve, "huge", b"x")
    os.truncate(file, 1 << 40)
    collected, name = desk.collect(eve, scope)
    assert "max_file" in exclusions(collected)["work/huge"][0]
    assert collected.work.is_incomplete
    assert "work/huge" not in desk.stored(name, eve)


def dig(depth):
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    Path("treasure").write_bytes(b"deep work")


def test_three_thousand_levels_are_too_deep_to_retrieve_but_not_to_empty(eve, desk):
    as_student(eve, dig, 3000)
    collected, _ = desk.collect(eve)
    ((_, (reason, incomplete)),) = exclusions(collected).items()
    assert reason == "more than 64 levels deep" and incomplete
    collected, _ = desk.collect(eve, max_depth=4000)
    assert "a path of more than 4000 bytes" in str(exclusions(collected)) and collected.work.is_incomplete
    assert homes.empty(eve) == ()
    assert list(eve.home.iterdir()) == []


def scatter(count):
    for index in range(count):
        with open(f"f{index}", "wb"):
            pass


@pytest.mark.slow
def test_twenty_thousand_files_come_home_and_one_more_is_incomplete(eve, desk):
    as_student(eve, scatter, 20_000)
    collected, name = desk.collect(eve)
    assert (collected.work.files, collected.work.is_incomplete) == (20_000, False)
    write(eve, "one-more", b"x")
    collected, _ = desk.collect(eve, previous=name)
    assert collected.work.is_incomplete
    assert "more than 20000 entries" in exclusions(collected)["work"][0]
    assert homes.empty(eve) == ()


ODD = [
    b"new\nline",
    b"\xff\xfe",
    b" ",
    b"-rf",
    b"*",
    b"a\\b",
    b"\x1b[31m",
    b"x" * 255,
    "ünï".encode(),
    b".manifest",
    b"'\"",
]


def scatter_odd_names():
    for name in ODD:
        os.mkdir(b"in-" + name[:200])
        for path in (name, b"in-" + name[:200] + b"/" + name):
            with open(path, "wb") as file:
                file.write(name)


def test_odd_bytes_in_names_come_home_as_they_are(eve, desk):
    as_student(eve, scatter_odd_names)
    collected, name = desk.collect(eve)
    stored = {os.fsencode(path): content for path, content in desk.stored(name, eve).items()}
    expected = {b"work/" + odd: odd for odd in ODD} | {b"work/in-" + odd[:200] + b"/" + odd: odd for odd in ODD}
    assert stored == expected and not collected.work.is_incomplete
    again, after = desk.collect(eve, previous=name)
    assert again.digest == collected.digest
    assert os.path.samefile(desk.folder(name, eve) / "work/-rf", desk.folder(after, eve) / "work/-rf")


@contextlib.contextmanager
def attacking(student, function, *arguments):
    """The student's own process, in a loop until the block ends; it must still be at it then."""
    pid = os.fork()
    if pid == 0:
        try:
            become(student)
            while True:
                function(*arguments)
        finally:
            os._exit(1)
    try:
        yield
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    finally:
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def swap(outside):
    """Swap a folder for a link to a folder outside, and a file for a link to a file outside."""
    os.rename("race/folder", "race/aside")
    os.symlink(outside, "race/folder")
    os.unlink("race/folder")
    os.rename("race/aside", "race/folder")
    os.rename("race/folder/file", "race/folder/aside")
    os.symlink(f"{outside}/file", "race/folder/file")
    os.unlink("race/folder/file")
    os.rename("race/folder/aside", "race/folder/file")


@pytest.fixture
def outside(eve):
    """A folder beside the home that everybody may read: following a link there would succeed."""
    folder = eve.home.parent / "nbtr-outside"
    folder.mkdir(mode=0o755)
    for name in ("file", "inner"):
        (folder / name).write_bytes(SECRET)
    yield folder
    subprocess.run(["rm", "-rf", "--", str(folder)], check=True)


def test_a_folder_swapped_for_a_link_in_a_loop_leads_nowhere(eve, desk, outside):
    for name in ("file", "inner"):
        write(eve, f"race/folder/{name}", b"mine")
    with attacking(eve, swap, outside):
        for _ in range(25):
            _, name = desk.collect(eve)
            assert set(desk.stored(name, eve).values()) <= {b"mine"}


def tempt(outside):
    """Offer the deleter a folder that becomes a link to a folder outside, again and again."""
    with contextlib.suppress(OSError):
        os.makedirs("race/folder")
        Path("race/folder/file").write_bytes(b"mine")
        os.rename("race/folder", "race/aside")
    with contextlib.suppress(OSError):
        os.symlink(outside, "race/folder")


def test_deleting_is_not_led_outside_by_swapped_folders(eve, outside):
    for path in (outside, *outside.iterdir()):
        os.chown(path, eve.uid, eve.gid)
    with attacking(eve, tempt, outside):
        for _ in range(25):
            homes.delete_temporary(eve, (eve.home / TARGET,), Path("/nowhere"))
    assert {file.name for file in outside.iterdir()} == {"file", "inner"}


def flip(file):
    """Replace the content in place: all a, then all b."""
    for letter in b"ab":
        with open(file, "r+b", buffering=0) as opened:
            opened.write(bytes([letter]) * 3_000_000)


@pytest.mark.parametrize("size", [700_000, 3_000_000], ids=["small", "large"])
def test_a_file_that_changes_while_it_is_read_is_whole_or_left_out(eve, desk, size):
    file = write(eve, "lab1.ipynb", b"a" * size)
    with attacking(eve, flip, file):
        for _ in range(5):
            collected, name = desk.collect(eve)
            stored = desk.stored(name, eve)
            if stored:
                assert len(set(stored["work/lab1.ipynb"])) == 1
            else:
                assert exclusions(collected) == {"work/lab1.ipynb": ("changed while it was read", True)}


def test_a_file_that_somebody_keeps_open_for_writing_comes_along_and_is_read_again(eve, desk):
    file = write(eve, "training.log", b"epoch 1")
    with open(file, "r+b"):
        time.sleep(1)
        for _ in range(2):
            collected, name = desk.collect(eve)
            assert desk.stored(name, eve) == {"work/training.log": b"epoch 1"} and not collected.work.is_incomplete
            assert desk.manifest(name, eve)["files"][0]["stamp"][2] == 0
    _, name = desk.collect(eve)
    assert desk.manifest(name, eve)["files"][0]["stamp"][1] == file.stat().st_ctime_ns


def signal_all(number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, number)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_student_who_stops_or_kills_the_copy_fails_alone(eve, desk, number):
    write(eve, "lab1.ipynb", b"work")
    with (
        attacking(eve, signal_all, number),
        pytest.raises(HostError, match=r"nbtreve was not retrieved: .*(stalled or was stopped|killed by SIGKILL)"),
    ):
        desk.collect(eve, stall=1.0)
    assert list(desk.target.iterdir()) == []
    collected, _ = desk.collect(eve)
    assert collected.work.files == 1


def test_what_the_student_may_not_read_is_incomplete(eve, desk):
    write(eve, "closed", b"work").chmod(0)
    write(eve, "folder/lab1.ipynb", b"work").parent.chmod(0)
    write(eve, "listed/lab1.ipynb", b"work").parent.chmod(0o400)
    write(eve, "roots", b"work")
    os.chown(eve.home / TARGET / "roots", 0, 0)
    (eve.home / TARGET / "roots").chmod(0o600)
    collected, _ = desk.collect(eve)
    paths = ("work/closed", "work/folder", "work/listed/lab1.ipynb", "work/roots")
    assert exclusions(collected) == dict.fromkeys(paths, ("permission denied", True))


@pytest.mark.parametrize("inside", [b"work", None], ids=["file", "link"])
def test_a_material_folder_that_was_replaced_is_incomplete(eve, desk, inside, outside):
    (eve.home / TARGET).rmdir()
    if inside is None:
        (eve.home / TARGET).symlink_to(outside)
    else:
        (eve.home / TARGET).write_bytes(inside)
        os.chown(eve.home / TARGET, eve.uid, eve.gid)
    collected, name = desk.collect(eve)
    assert exclusions(collected) == {"work": ("a link or file is in its place", True)}
    assert desk.stored(name, eve) == {}


def test_a_mount_is_neither_read_nor_emptied(eve, desk):
    mount = write(eve, "mount/x").parent
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=1m,uid={eve.uid},mode=755", "tmpfs", str(mount)], check=True)
    try:
        (mount / "elsewhere").write_bytes(b"on another file system")
        collected, name = desk.collect(eve)
        assert exclusions(collected) == {"work/mount": ("is on another file system", True)}
        assert desk.stored(name, eve) == {}
        assert homes.empty(eve) == (f"{TARGET}/mount: is on another file system",)
        assert (mount / "elsewhere").exists()
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_what_the_student_cannot_delete_is_named_and_everything_else_goes(eve):
    fixed = write(eve, "a/fixed", b"immutable")
    write(eve, "a/other", b"x")
    roots = write(eve, "b/roots/file", b"root's")
    os.chown(roots.parent, 0, 0)
    roots.parent.chmod(0o700)
    subprocess.run(["chattr", "+i", str(fixed)], check=True)
    try:
        assert set(homes.empty(eve)) == {
            f"{TARGET}/a/fixed: operation not permitted",
            f"{TARGET}/b/roots: permission denied",
        }
        assert not (eve.home / TARGET / "a" / "other").exists()
    finally:
        subprocess.run(["chattr", "-i", str(fixed)], check=True)


def test_emptying_a_home_follows_no_link(eve, outside):
    as_student(eve, os.symlink, outside, "link")
    as_student(eve, os.symlink, outside / "file", "file")
    assert homes.empty(eve) == ()
    assert {file.name for file in outside.iterdir()} == {"file", "inner"}
