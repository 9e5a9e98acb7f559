"""Bringing work home: what is in the store afterwards, and what is not."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path

import pytest

from nblauncher.errors import HostError, RefusedError
from nblauncher.exchange import homes
from nblauncher.exchange.retrieve import collection, store
from nblauncher.exchange.retrieve.scope import ALL, CHANGED, HOME, Scope
from nblauncher.model import Account, HandedOut
from tests.students import TARGET, exclusions, made_account, made_desk, made_folder, write

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def teacher():
    with made_account("nbtrteach", 22000) as account:
        yield account


@pytest.fixture
def ada():
    with made_account("nbtrada", 22001) as account:
        yield account


@pytest.fixture
def folder():
    with made_folder() as made:
        yield made


@pytest.fixture(params=["teacher", "root"])
def desk(request, teacher, folder):
    owner = teacher if request.param == "teacher" else Account("root", 0, 0, Path("/root"))
    with made_desk(folder, owner) as made:
        yield made


def handed_out(file: Path) -> HandedOut:
    status = file.stat()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return HandedOut(digest, status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)


def test_the_work_arrives_as_the_teachers_private_regular_files(ada, desk):
    write(ada, "lab1.ipynb", b"my answer")
    os.chmod(write(ada, "deep/er/run.sh", b"#!/bin/sh\n"), 0o6755)
    collected, name = desk.collect(ada)
    assert desk.stored(name, ada) == {"work/lab1.ipynb": b"my answer", "work/deep/er/run.sh": b"#!/bin/sh\n"}
    for path in desk.folder(name, ada).rglob("*"):
        status = path.lstat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (desk.owner.uid, 0o700 if path.is_dir() else 0o600)
    assert (collected.work.files, collected.work.bytes, collected.work.exclusions) == (2, 19, ())


def test_the_manifest_says_what_is_there_and_what_we_had_sent(ada, desk):
    file = write(ada, "lab1.ipynb", b"question")
    sent = handed_out(file)
    file.write_bytes(b"answered")
    _, name = desk.collect(ada, Scope(CHANGED, TARGET, {"lab1.ipynb": sent}))
    manifest = desk.manifest(name, ada)
    assert (manifest["username"], manifest["scope"], manifest["complete"]) == ("nbtrada", "changed", True)
    (entry,) = manifest["files"]
    assert (entry["path"], entry["size"], entry["sent"]) == ("work/lab1.ipynb", 8, sent.sha256)
    assert entry["sha256"] == hashlib.sha256(b"answered").hexdigest()
    assert entry["mtime"].startswith("20")


def test_by_default_only_what_the_student_made_or_changed_comes_home(ada, desk):
    untouched, touched, edited = (write(ada, name, b"question") for name in ("untouched", "touched", "edited"))
    sent = {file.name: handed_out(file) for file in (untouched, touched, edited)}
    os.utime(touched, (1, 1))
    edited.write_bytes(b"answered")
    write(ada, "new", b"mine")
    collected, name = desk.collect(ada, Scope(CHANGED, TARGET, sent))
    assert desk.stored(name, ada) == {"work/edited": b"answered", "work/new": b"mine"}
    assert not collected.work.is_incomplete
    _, name = desk.collect(ada, Scope(ALL, TARGET, sent))
    assert set(desk.stored(name, ada)) == {"work/edited", "work/new", "work/touched", "work/untouched"}


def test_a_student_without_work_has_a_folder_too(ada, desk):
    collected, name = desk.collect(ada)
    assert desk.manifest(name, ada)["files"] == []
    assert collected.work.files == 0


def test_a_missing_material_folder_is_listed_and_holds_no_work(ada, desk):
    (ada.home / TARGET).rmdir()
    collected, _ = desk.collect(ada)
    assert exclusions(collected) == {"work": ("the material folder is not there", False)}


def test_unchanged_files_are_linked_within_the_store_and_changed_ones_leave_the_old_retrieval_alone(ada, desk):
    write(ada, "same", b"same")
    changed = write(ada, "changed", b"before")
    rewritten = write(ada, "rewritten", b"as ever")
    first, before = desk.collect(ada)
    changed.write_bytes(b"after!")
    rewritten.write_bytes(b"as ever")
    second, after = desk.collect(ada, previous=before)
    third, last = desk.collect(ada, previous=after)
    assert desk.stored(before, ada)["work/changed"] == b"before"
    assert desk.stored(after, ada) == {"work/same": b"same", "work/changed": b"after!", "work/rewritten": b"as ever"}
    for path in ("work/same", "work/rewritten"):
        assert os.path.samefile(desk.folder(before, ada) / path, desk.folder(last, ada) / path)
    assert os.path.samefile(desk.folder(after, ada) / "work/changed", desk.folder(last, ada) / "work/changed")
    assert first.digest != second.digest == third.digest


def test_a_stored_file_that_the_teacher_edited_or_deleted_is_not_taken_for_the_students(ada, desk):
    write(ada, "edited", b"the student's")
    write(ada, "deleted", b"the student's")
    _, before = desk.collect(ada)
    (desk.folder(before, ada) / "work/edited").write_bytes(b"the teacher's")
    (desk.folder(before, ada) / "work/deleted").unlink()
    assert store.standing(desk.owner, desk.target, before, [ada.username]) == frozenset()
    _, after = desk.collect(ada, previous=before)
    assert desk.stored(after, ada) == {"work/edited": b"the student's", "work/deleted": b"the student's"}
    assert store.standing(desk.owner, desk.target, after, [ada.username, "nobody"]) == {ada.username}


def test_a_damaged_manifest_costs_a_copy_and_nothing_else(ada, desk):
    write(ada, "lab1.ipynb", b"work")
    _, before = desk.collect(ada)
    (desk.folder(before, ada) / "manifest.json").write_bytes(b'{"files": [1, {"path": "../../x", "size": 1}')
    _, after = desk.collect(ada, previous=before)
    assert desk.stored(after, ada) == {"work/lab1.ipynb": b"work"}


def test_the_whole_home_comes_home_without_the_caches(ada, desk):
    write(ada, "lab1.ipynb", b"a")
    write(ada, "elsewhere/notes.txt", b"b", below="")
    write(ada, ".local/share/jupyter/keep", b"c", below="")
    for cache in homes_caches():
        write(ada, f"{cache}/thing", b"cache", below="")
    (ada.home / ".npmrc").write_bytes(b"d")
    collected, name = desk.collect(ada, Scope(HOME, TARGET))
    stored = desk.stored(name, ada)
    assert {"work/lab1.ipynb", "home/elsewhere/notes.txt", "home/.local/share/jupyter/keep"} <= set(stored)
    assert not [path for path in stored if path.endswith("/thing")]
    assert not collected.work.is_incomplete
    assert {f"home/{cache}" for cache in homes_caches()} == set(exclusions(collected))


def homes_caches():
    return Scope(HOME, TARGET).left_out


def test_before_a_deletion_only_sparse_files_have_limits(ada, desk):
    write(ada, "big", b"x" * 3_000_000)
    with write(ada, "holes", b"x").open("r+b") as file:
        file.truncate(2_000_000)
    collected, name = desk.collect(ada, Scope(HOME, TARGET), max_file=1_000_000, max_student=1_000_000)
    assert desk.stored(name, ada)["work/big"] == b"x" * 3_000_000
    reason, incomplete = exclusions(collected)["work/holes"]
    assert incomplete and "sparse" in reason


def test_over_a_limit_the_rest_still_comes_and_the_answer_is_incomplete(ada, desk):
    write(ada, "a-large", b"x" * 2000)
    write(ada, "b-small", b"x" * 600)
    write(ada, "c-too-much", b"x" * 600)
    write(ada, "d-fits", b"x" * 300)
    collected, name = desk.collect(ada, max_file=1000, max_student=1000)
    assert set(desk.stored(name, ada)) == {"work/b-small", "work/d-fits"}
    found = exclusions(collected)
    assert "max_file" in found["work/a-large"][0] and "max_student" in found["work/c-too-much"][0]
    assert collected.work.is_incomplete and not desk.manifest(name, ada)["complete"]


def test_the_listing_is_equal_until_something_in_the_home_changes(ada, desk):
    file = write(ada, "lab1.ipynb", b"work")
    scope = Scope(HOME, TARGET)
    collected, _ = desk.collect(ada, scope)
    assert collection.listing(ada, scope, desk.limits) == collected.listing
    status = file.stat()
    file.write_bytes(b"WORK")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert collection.listing(ada, scope, desk.limits) != collected.listing


def test_before_a_deletion_only_bytes_that_were_read_again_are_linked(ada, desk):
    for path in ("kept", "tampered"):
        write(ada, path, b"the work")
    _, before = desk.collect(ada)
    tampered = desk.folder(before, ada) / "work/tampered"
    times = tampered.stat()
    tampered.write_bytes(b"the hack")
    os.utime(tampered, ns=(times.st_atime_ns, times.st_mtime_ns))
    _, after = desk.collect(ada, Scope(HOME, TARGET), previous=before)
    stored = desk.stored(after, ada)
    assert (stored["work/kept"], stored["work/tampered"]) == (b"the work", b"the work")
    assert os.path.samefile(desk.folder(before, ada) / "work/kept", desk.folder(after, ada) / "work/kept")


def test_a_full_store_fails_that_student_and_leaves_nothing_behind(ada, teacher, small_disk):
    write(ada, "big", os.urandom(8_000_000))
    with made_desk(small_disk, teacher) as desk:
        with pytest.raises(HostError, match="nbtrada was not retrieved: disk full"):
            desk.collect(ada)
        assert list(desk.target.iterdir()) == []


@pytest.fixture
def small_disk(folder):
    disk = folder / "disk"
    disk.mkdir(mode=0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=755", "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_root_never_handles_a_home_as_root(desk):
    with pytest.raises(RefusedError):
        collection.listing(Account("root", 0, 0, Path("/root")), Scope(HOME, TARGET), desk.limits)


def test_a_home_that_is_not_the_students_own_is_not_read(ada, teacher, desk):
    stranger = Account(ada.username, ada.uid, ada.gid, Path("/var/tmp"))
    with pytest.raises(HostError, match="belongs to uid 0"):
        desk.collect(stranger)
    with pytest.raises(HostError, match="not the student's folder"):
        homes.empty(stranger)


def test_emptying_leaves_an_empty_home(ada, desk):
    write(ada, "a/b/c/lab1.ipynb", b"work")
    os.chmod(ada.home / TARGET / "a" / "b", 0)
    os.chmod(ada.home, 0)
    assert homes.empty(ada) == ()
    assert list(ada.home.iterdir()) == []


def test_what_a_student_left_in_shared_folders_is_deleted_and_listed_and_nothing_of_others(ada, teacher, folder):
    shared = folder / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    for owner, path in (
        (ada, "mine"), (ada, "folder/deep/file"), (teacher, "theirs"), (teacher, "open/keep"), (ada, "open/left"),
        (ada, "mixed/mine"), (teacher, "mixed/theirs"),
    ):  # fmt: skip
        file = shared / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
        os.chown(file, owner.uid, owner.gid)
    for path, owner in (("folder", ada), ("folder/deep", ada), ("open", teacher), ("mixed", ada)):
        os.chown(shared / path, owner.uid, owner.gid)
    (shared / "open").chmod(0o1777)
    (shared / "link").symlink_to(shared / "theirs")
    os.chown(shared / "link", ada.uid, ada.gid, follow_symlinks=False)
    mail = folder / "mail"
    mail.mkdir(mode=0o755)
    (mail / ada.username).write_bytes(b"From root")
    os.chown(mail / ada.username, ada.uid, ada.gid)
    lines = homes.delete_temporary(ada, (shared,), mail)
    assert set(lines) == {
        f"{shared}/mine", f"{shared}/folder", f"{shared}/open/left", f"{shared}/link", f"{mail}/{ada.username}",
        f"not deleted: {shared}/mixed: directory not empty",
    }  # fmt: skip
    assert {path.name for path in shared.rglob("*")} == {"theirs", "open", "keep", "mixed"}
    assert (mail / ada.username).read_bytes() == b""
