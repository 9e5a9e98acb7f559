"""Material into real homes: owned by the student, seen by nobody else, whatever happens on the way."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from nblauncher.errors import HostError, InputError
from nblauncher.exchange.send import delivery, material, profile
from nblauncher.exchange.send.delivery import BESIDE, BLOCKED, DELETED, KEPT, MERGED, NEW, UPDATED
from nblauncher.system import drafts
from tests.notebooks import cell, named, notebook, sources
from tests.running import eventually
from tests.sending import DAY, TARGET, Teacher, content_of, told
from tests.students import become, made_account

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def owner():
    with made_account("nbtsteach", 23000) as account:
        yield account


@pytest.fixture
def ada():
    with made_account("nbtsada", 23001) as account:
        (account.home / TARGET).rmdir()
        yield account


@pytest.fixture
def bob():
    with made_account("nbtsbob", 23002) as account:
        yield account


@pytest.fixture
def teacher(owner, tmp_path):
    source = owner.home / "material"
    source.mkdir()
    yield Teacher(owner, source, tmp_path)
    subprocess.run(["rm", "-rf", "--", str(source)], check=True)


def as_teacher(teacher):
    subprocess.run(["chown", "-R", teacher.owner.username, str(teacher.source)], check=True)


def test_everything_arrives_as_the_students_own(teacher, ada):
    teacher.write("lab1.ipynb", "{}")
    teacher.write("week1/run.sh", "#!/bin/sh\n").chmod(0o4755)
    as_teacher(teacher)
    teacher.source.joinpath("week1/run.sh").chmod(0o4755)
    sent = teacher.send(ada)
    assert told(sent) == {"lab1.ipynb": NEW, "week1/run.sh": NEW}
    assert sent.bytes == 12
    for path, mode in (("", 0o700), ("lab1.ipynb", 0o600), ("week1", 0o700), ("week1/run.sh", 0o700)):
        status = (ada.home / TARGET / path).stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (ada.uid, ada.gid, mode)
    assert teacher.send(ada).outcomes == ()


def test_edits_stay_deletions_stay_and_the_rest_is_updated(teacher, ada):
    for name in ("edited", "deleted", "untouched"):
        teacher.write(name, "one")
    as_teacher(teacher)
    teacher.send(ada)
    (ada.home / TARGET / "edited").write_text("work")
    (ada.home / TARGET / "deleted").unlink()
    for name in ("edited", "deleted", "untouched"):
        teacher.write(name, "two")
    assert told(teacher.send(ada)) == {"edited": BESIDE, "deleted": DELETED, "untouched": UPDATED}
    assert content_of(ada.home / TARGET) == {
        "edited": b"work",
        "edited (update 2026-11-20)": b"two",
        "untouched": b"two",
    }


def test_several_students_read_one_spool_at_the_same_time(teacher, ada, bob):
    content = {f"file{number}": os.urandom(300_000) for number in range(20)}
    for path, data in content.items():
        teacher.write(path, data)
    as_teacher(teacher)
    index = material.index(teacher.material, teacher.owner)
    with material.spool(teacher.material, teacher.owner, content, teacher.spool) as bundle:
        sent = {}

        def deliver(account):
            sent[account.username] = delivery.deliver(account, delivery.Shipment(TARGET, index.items, bundle, {}, DAY))

        children = []
        for account in (ada, bob):
            if (pid := os.fork()) == 0:
                status = 1
                try:
                    deliver(account)
                    status = 0
                finally:
                    os._exit(status)
            children.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
    assert content_of(ada.home / TARGET) == content_of(bob.home / TARGET) == content


def test_a_file_that_the_owner_may_not_read_is_left_out_and_said(teacher, ada):
    teacher.write("lab1", "one")
    as_teacher(teacher)
    teacher.write("roots", "secret").chmod(0o600)
    index = material.index(teacher.material, teacher.owner)
    assert [item.path for item in index.items] == ["lab1"]
    assert [(one.path, one.reason, one.incomplete) for one in index.exclusions] == [
        ("roots", "permission denied", True)
    ]
    assert told(teacher.send(ada)) == {"lab1": NEW}


def test_a_file_that_vanished_between_index_and_spool_is_said_and_not_recorded(teacher, ada):
    teacher.write("lab1", "one")
    teacher.write("lab2", "one")
    as_teacher(teacher)
    index = material.index(teacher.material, teacher.owner)
    (teacher.source / "lab2").unlink()
    with material.spool(teacher.material, teacher.owner, ["lab1", "lab2"], teacher.spool) as bundle:
        sent = delivery.deliver(ada, delivery.Shipment(TARGET, index.items, bundle, {}, DAY))
    assert told(sent) == {"lab1": NEW, "lab2": BLOCKED}
    assert set(sent.handed_out) == {"lab1"}
    assert sent.work.is_incomplete


def test_a_source_that_the_owner_may_not_read_is_an_input_error(teacher):
    teacher.source.chmod(0o700)
    with pytest.raises(InputError, match="may not be read"):
        material.index(teacher.material, teacher.owner)


def test_devices_in_the_material_are_refused(teacher):
    as_teacher(teacher)
    os.mknod(teacher.source / "disk", 0o666 | stat.S_IFBLK, os.makedev(7, 200))
    os.mknod(teacher.source / "zero", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    index = material.index(teacher.material, teacher.owner)
    assert index.items == ()
    assert {one.reason for one in index.exclusions} == {"a device is not handed out"}


def test_a_mount_in_the_material_is_not_entered(teacher):
    (teacher.source / "mounted").mkdir()
    as_teacher(teacher)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(teacher.source / "mounted")], check=True)
    try:
        (teacher.source / "mounted" / "inside").write_text("x")
        index = material.index(teacher.material, teacher.owner)
    finally:
        subprocess.run(["umount", str(teacher.source / "mounted")], check=True)
    assert index.items == ()
    assert "mounted" in {one.path for one in index.exclusions}


def test_root_as_owner_hands_out_no_hard_links(teacher, tmp_path):
    secret = tmp_path / "root-only"
    secret.write_text("secret")
    secret.chmod(0o600)
    teacher.write("lab1", "one")
    linked = teacher.source / "planted"
    try:
        os.link(secret, linked)
    except OSError:
        secret = teacher.write("../root-only", "secret")
        os.link(secret, linked)
    index = material.index(teacher.material, replace(teacher.owner, username="root", uid=0, gid=0))
    assert [item.path for item in index.items] == ["lab1"]
    secret.unlink()


def test_a_full_home_fails_that_student_and_leaves_no_half_file(teacher, ada):
    teacher.write("a-small", "fits")
    teacher.write("b-big", os.urandom(3_000_000))
    as_teacher(teacher)
    options = f"size=1m,uid={ada.uid},gid={ada.gid},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(ada.home)], check=True)
    try:
        sent = teacher.send(ada)
        with pytest.raises(HostError, match="disk full"):
            sent.check()
        assert told(sent) == {"a-small": NEW}
        assert content_of(ada.home) == {f"{TARGET}/a-small": b"fits"}
        subprocess.run(["mount", "-o", "remount,size=8m", str(ada.home)], check=True)
        assert told(teacher.send(ada)) == {"b-big": NEW}
    finally:
        subprocess.run(["umount", str(ada.home)], check=True)


def test_a_full_disk_of_roots_says_which(teacher):
    teacher.write("big", os.urandom(3_000_000))
    as_teacher(teacher)
    small = teacher.spool / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=True)
    try:
        with pytest.raises(HostError, match="is full"):
            material.spool(teacher.material, teacher.owner, ["big"], small)
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def workers_of(account):
    return [one.pid for one in psutil.process_iter(["uids"]) if one.info["uids"].real == account.uid]


def start_sabotage(account, number):
    """The student signals every process that they may, all the time."""
    pid = os.fork()
    if pid == 0:
        try:
            os.nice(-15)  # its turn comes before the delivery is over, also on a busy host
            become(account)
            while True:
                os.kill(-1, number)
        finally:
            os._exit(1)
    return pid


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_student_who_ends_or_stops_the_worker_only_fails_alone(teacher, ada, number):
    for one in range(20):
        teacher.write(f"file{one}", os.urandom(100_000))
    as_teacher(teacher)
    (ada.home / TARGET).mkdir()
    os.chown(ada.home / TARGET, ada.uid, ada.gid)
    attacker = start_sabotage(ada, number)
    try:
        with pytest.raises(HostError, match="ended"):
            teacher.send(ada, stall=2.0)
    finally:
        os.kill(attacker, signal.SIGKILL)
        os.waitpid(attacker, 0)
    assert not workers_of(ada)
    sent = teacher.send(ada)
    assert len(sent.outcomes) == 20
    assert content_of(ada.home / TARGET) == content_of(teacher.source)


def test_whenever_a_delivery_is_killed_the_next_one_finishes_it_without_litter(teacher, ada):
    """Killed after 0, 1, 2, ... files have their new content, in the middle of updates and additions."""
    names = [f"old{number}" for number in range(6)]
    for name in names:
        teacher.write(name, "one")
    as_teacher(teacher)
    teacher.send(ada)
    for step in range(8):
        for name in names:
            teacher.write(name, f"version {step}" * 5000)
        teacher.write(f"new{step}", f"new {step}")
        as_teacher(teacher)
        killed = start_sending(teacher, ada)
        while killed.is_running() and killed.status() != psutil.STATUS_ZOMBIE:
            if sum(f"version {step}" in text for text in read_all(ada, names)) >= step:
                killed.kill()
                break
            time.sleep(0.001)
        os.waitpid(killed.pid, 0)
        eventually(lambda: not workers_of(ada))
        teacher.send(ada)
        assert content_of(ada.home / TARGET) == content_of(teacher.source)
        assert not [name for name in os.listdir(ada.home / TARGET) if name.startswith(drafts.PREFIX)]


def test_whenever_a_merge_is_killed_the_next_run_finishes_it_and_the_work_is_there(teacher, ada):
    """Killed after 0, 1, 2, ... files are merged. An edit may be there once more as `(kept ...)`, never less."""
    names = [f"lab{number}.ipynb" for number in range(6)]
    for name in names:
        teacher.write(name, notebook(*named("a=question b=answer")))
    as_teacher(teacher)
    teacher.send(ada)
    for step in range(8):
        for name in names:
            as_student_saves(ada, name, notebook(*named(f"a=question{step} b=mine{step}-{name}")))
            teacher.write(name, notebook(*named(f"a=question{step} b=answer"), cell(f"new {step}", f"n{step}")))
        as_teacher(teacher)
        killed = start_sending(teacher, ada)
        while killed.is_running() and killed.status() != psutil.STATUS_ZOMBIE:
            if sum(b"new %d" % step in (ada.home / TARGET / name).read_bytes() for name in names) >= step:
                killed.kill()
                break
            time.sleep(0.001)
        os.waitpid(killed.pid, 0)
        eventually(lambda: not workers_of(ada))
        teacher.send(ada)
        for name in names:
            merged = (ada.home / TARGET / name).read_bytes()
            assert sources(merged) == [f"question{step}", f"mine{step}-{name}", f"new {step}"]
        assert not [name for name in os.listdir(ada.home / TARGET) if name.startswith(drafts.PREFIX)]


def as_student_saves(account, path, content):
    """As Jupyter saves: another file takes the name."""
    file = account.home / TARGET / "saving"
    file.write_bytes(content)
    os.chown(file, account.uid, account.gid)
    file.rename(account.home / TARGET / path)


def start_sending(teacher, account):
    """A process that sends and does not record, like a run that is killed."""
    if (pid := os.fork()) == 0:
        try:
            teacher.send(account)
        finally:
            os._exit(0)
    return psutil.Process(pid)


def read_all(account, names):
    return [(account.home / TARGET / name).read_text()[:20] for name in names]


def save_in_place(path, text):
    path.write_text(text)


def save_by_renaming(path, text):
    path.with_name("editor").write_text(text)
    os.replace("editor", path)


def save_slowly(path, text):
    with path.open("w") as stream:
        for letter in text:
            stream.write(letter)
            stream.flush()


SAVES = [save_in_place, save_by_renaming, pytest.param(save_slowly, marks=pytest.mark.slow)]


@pytest.mark.parametrize("save", SAVES)
def test_nothing_that_a_student_saves_while_files_are_merged_is_ever_lost(teacher, ada, save):
    """Each file was edited before, so that it is merged, and is saved with other work at some time meanwhile."""
    names = [f"lab{number:02}.py" for number in range(60)]
    outcomes = set()
    for seed in range(40):  # on a busy host the student may come first every time
        if seed >= 6 and MERGED in outcomes:
            break
        for name in names:
            teacher.write(name, "one\ntwo\nthree\n")
        as_teacher(teacher)
        teacher.ledgers.clear()
        teacher.send(ada)
        for name in names:
            as_student_saves(ada, name, b"ONE\ntwo\nthree\n")
            teacher.write(name, "one\ntwo\nTHREE\n")
        index, ledger = material.index(teacher.material, teacher.owner), teacher.ledgers[ada.username]
        options = {"versions": teacher.versions, "bases": {one.made_of for one in ledger.values()}}
        with material.spool(teacher.material, teacher.owner, names, teacher.spool, **options) as bundle:
            saver = start_saving(ada, names, save, seed)
            sent = delivery.deliver(ada, delivery.Shipment(TARGET, index.items, bundle, ledger, DAY))
        assert os.waitpid(saver, 0)[1] == 0
        outcomes |= {one.outcome for one in sent.outcomes}
        found = {data.decode() for data in content_of(ada.home / TARGET).values()}
        assert all(any(f"work on {name}" in text for text in found) for name in names)
        assert not [name for name in os.listdir(ada.home / TARGET) if name.startswith(drafts.PREFIX)]
        for file in (ada.home / TARGET).iterdir():
            file.unlink()
    assert outcomes <= {MERGED, BESIDE, KEPT, BLOCKED}
    assert MERGED in outcomes


@pytest.mark.parametrize("save", SAVES)
def test_nothing_that_a_student_saves_while_files_are_updated_is_ever_lost(teacher, ada, save):
    """The student saves every file once, at some time during the delivery; each save is found afterwards."""
    names = [f"lab{number:02}" for number in range(60)]
    outcomes = set()
    for seed in range(8):
        for name in names:
            teacher.write(name, "one".ljust(20_000))
        as_teacher(teacher)
        teacher.ledgers.clear()
        teacher.send(ada)
        for name in names:
            teacher.write(name, "two".ljust(20_000))
        index = material.index(teacher.material, teacher.owner)
        with material.spool(teacher.material, teacher.owner, names, teacher.spool) as bundle:
            saver = start_saving(ada, names, save, seed)
            ledger = teacher.ledgers[ada.username]
            sent = delivery.deliver(ada, delivery.Shipment(TARGET, index.items, bundle, ledger, DAY))
        assert os.waitpid(saver, 0)[1] == 0
        outcomes |= {one.outcome for one in sent.outcomes}
        found = {data.decode().rstrip() for data in content_of(ada.home / TARGET).values()}
        assert {f"work on {name}" for name in names} <= found
        assert not [name for name in os.listdir(ada.home / TARGET) if name.startswith(drafts.PREFIX)]
        for file in (ada.home / TARGET).iterdir():
            file.unlink()
    assert outcomes <= {UPDATED, BESIDE, KEPT, BLOCKED}


def start_saving(account, names, save, seed):
    """A process of the student's that saves each file once, in any order, a little apart."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            become(account)
            chance = random.Random(seed)
            for name in chance.sample(names, len(names)):
                save(Path(name), f"work on {name}")
                for _ in range(chance.randrange(20_000)):
                    pass
            status = 0
        finally:
            os._exit(status)
    return pid


def test_the_profile_goes_the_same_way_and_is_never_overwritten(teacher, owner, ada, tmp_path):
    source = owner.home / ".ipython" / "profile_physics"
    (source / "startup").mkdir(parents=True)
    (source / "ipython_config.py").write_text("c = get_config()\n")
    (source / "startup" / "00.py").write_text("import math\n")
    subprocess.run(["chown", "-R", owner.username, str(owner.home / ".ipython")], check=True)
    try:
        found = profile.read_profile(owner, "physics")
    finally:
        subprocess.run(["rm", "-rf", "--", str(owner.home / ".ipython")], check=True)
    with found.spool(tmp_path) as bundle:
        sent = delivery.deliver(ada, delivery.Shipment(found.target, found.index.items, bundle, {}, DAY))
        assert set(told(sent).values()) == {NEW}
        config = ada.home / ".ipython" / "profile_physics" / "ipython_config.py"
        assert config.stat().st_uid == ada.uid
        config.write_text("mine")
        assert set(
            told(delivery.deliver(ada, delivery.Shipment(found.target, found.index.items, bundle, {}, DAY))).values()
        ) == {
            BESIDE,
            "unchanged",
        }
        assert config.read_text() == "mine"


def test_the_memory_of_a_sender_does_not_grow_with_the_files(teacher, ada):
    with (teacher.source / "large").open("wb") as stream:
        for _ in range(150):
            stream.write(os.urandom(1 << 20))
    as_teacher(teacher)
    sending = start_measuring(teacher, ada)
    with os.fdopen(sending[1]) as stream:
        grown = int(stream.read())
    assert os.waitpid(sending[0], 0)[1] == 0
    assert (ada.home / TARGET / "large").stat().st_size == 150 << 20
    assert grown < 40 << 20


def start_measuring(teacher, account):
    """A process that sends and then says by how many bytes its resident memory grew."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            before = peak()
            teacher.send(account)
            os.write(writer, str(peak() - before).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    return pid, reader


def peak():
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) * 1024 for line in stream if line.startswith("VmHWM"))
