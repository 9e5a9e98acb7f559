"""Becoming a real account is complete and final."""

from __future__ import annotations

import contextlib
import ctypes
import grp
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nblauncher.errors import HostError
from nblauncher.model import Account
from nblauncher.system import privileges
from nblauncher.system.processes import identify, is_running
from nblauncher.system.workers import run_as, start

pytestmark = pytest.mark.system

TIMEOUT = 20.0
PR_GET_DUMPABLE = 3
SUID_DUMPABLE = Path("/proc/sys/fs/suid_dumpable")


@contextlib.contextmanager
def made(username: str, uid: int, *more: str) -> Iterator[Account]:
    subprocess.run(["useradd", "-m", "-K", "HOME_MODE=0700", "-u", str(uid), *more, "--", username], check=True)
    entry = pwd.getpwnam(username)
    try:
        yield Account(username, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))
    finally:
        subprocess.run(["userdel", "-r", "--", username], check=True, capture_output=True)


@pytest.fixture(scope="module")
def course_group() -> Iterator[grp.struct_group]:
    subprocess.run(["groupadd", "-g", "24089", "nbtap-course"], check=True)
    yield grp.getgrnam("nbtap-course")
    subprocess.run(["groupdel", "nbtap-course"], check=True)


@pytest.fixture(scope="module")
def ada(course_group: grp.struct_group) -> Iterator[Account]:
    with made("nbtap1", 24090, "-G", course_group.gr_name) as account:
        yield account


@pytest.fixture(scope="module")
def eve() -> Iterator[Account]:
    with made("nbtap2", 24091) as account:
        yield account


def in_child(function: Callable[[], Any]) -> Any:
    """Run it in a forked child that is still root and return its answer."""
    return run_as(Account("root", 0, 0, Path("/root")), function, timeout=TIMEOUT)


def test_every_id_becomes_the_accounts(ada, course_group):
    def ids() -> list[Any]:
        status = Path("/proc/self/status").read_text().splitlines()
        return [line.split() for line in status if line.startswith(("Uid", "Gid", "Groups", "Cap"))]

    found = {words[0]: words[1:] for words in run_as(ada, ids)}
    assert found["Uid:"] == [str(ada.uid)] * 4
    assert found["Gid:"] == [str(ada.gid)] * 4
    assert set(map(int, found["Groups:"])) == {ada.gid, course_group.gr_gid}
    for capabilities in ("CapInh:", "CapPrm:", "CapEff:", "CapAmb:"):
        assert int(found[capabilities][0], 16) == 0, capabilities


def test_capabilities_that_a_container_gave_root_to_inherit_do_not_come_along(eve):
    def inherited() -> list[int]:
        status = Path("/proc/self/status").read_text().splitlines()
        return [int(line.split()[1], 16) for line in status if line.startswith("CapInh")]

    def sets() -> list[list[int]]:
        (effective,) = (
            line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "CapEff" in line
        )
        low, high = int(effective, 16) & 0xFFFFFFFF, int(effective, 16) >> 32
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        every = (ctypes.c_uint32 * 6)(low, low, low, high, high, high)
        assert ctypes.CDLL(None).capset(header, every) == 0
        before = inherited()
        privileges.drop_to(eve)
        return [before, inherited()]

    before, after = in_child(sets)
    assert before != [0] and after == [0]


def test_groups_of_root_do_not_come_along(eve):
    def groups() -> list[int]:
        os.setgroups([0, 4, 42])
        privileges.drop_to(eve)
        return os.getgroups()

    assert in_child(groups) == [eve.gid]


def test_root_cannot_be_taken_back(ada):
    def attempts() -> list[str]:
        succeeded = []
        for call in (os.setuid, os.seteuid, os.setgid, os.setegid):
            with contextlib.suppress(PermissionError):
                call(0)
                succeeded.append(call.__name__)
        with contextlib.suppress(PermissionError):
            os.setgroups([0])
            succeeded.append("setgroups")
        with contextlib.suppress(PermissionError):
            Path("/etc/shadow").read_bytes()
            succeeded.append("read")
        return succeeded

    assert run_as(ada, attempts) == []


def test_dropping_to_root_is_refused():
    with pytest.raises(HostError, match="uid 0"):
        in_child(lambda: privileges.drop_to(Account("nbtap0", 0, 24090, Path("/root"))))


def keep_capabilities_over_a_change_of_uid() -> None:
    no_setuid_fixup = 1 << 2
    assert ctypes.CDLL(None).prctl(28, ctypes.c_ulong(no_setuid_fixup), 0, 0, 0) == 0  # PR_SET_SECUREBITS


def test_capabilities_do_not_outlive_the_change_whatever_the_kernel_was_told(ada):
    def drop() -> list[str]:
        keep_capabilities_over_a_change_of_uid()
        privileges.drop_to(ada)
        status = Path("/proc/self/status").read_text().splitlines()
        return [line.split()[1] for line in status if line.startswith(("CapInh", "CapPrm", "CapEff", "CapAmb"))]

    assert in_child(drop) == ["0" * 16] * 4


def test_keeping_capabilities_over_the_change_is_noticed(ada, monkeypatch):
    monkeypatch.setattr(privileges, "_give_up_capabilities", lambda: None)

    def drop() -> None:
        keep_capabilities_over_a_change_of_uid()
        privileges.drop_to(ada)

    with pytest.raises(HostError, match="root could be taken back"):
        in_child(drop)


def test_new_files_are_private_and_the_accounts(ada):
    def make() -> list[int]:
        with open(ada.home / "made", "w") as stream:
            status = os.fstat(stream.fileno())
        return [status.st_uid, status.st_gid, status.st_mode & 0o777]

    before = os.umask(0)
    try:
        assert run_as(ada, make) == [ada.uid, ada.gid, 0o600]
    finally:
        os.umask(before)


@pytest.mark.parametrize("suid_dumpable", ["0", "1"])
def test_the_account_cannot_look_into_its_worker(ada, suid_dumpable):
    """Also on a host whose administrator allows dumps of setuid programs."""
    before = SUID_DUMPABLE.read_text()
    try:
        SUID_DUMPABLE.write_text(suid_dumpable)
    except OSError as error:
        if before.strip() != suid_dumpable:
            pytest.skip(f"{SUID_DUMPABLE} is not to be changed here: {error.strerror}")
    try:
        worker = start(ada, lambda: [ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), signal.pause()])
        try:
            wait_until_dropped(worker.pid, ada)
            peek = subprocess.run(
                ["ls", f"/proc/{worker.pid}/fd/"], user=ada.uid, group=ada.gid, extra_groups=[], capture_output=True
            )
        finally:
            worker.stop()
        assert run_as(ada, lambda: ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)) == 0
    finally:
        if before.strip() != suid_dumpable:
            SUID_DUMPABLE.write_text(before)
    assert peek.returncode != 0 and b"Permission denied" in peek.stderr


def wait_until_dropped(pid: int, account: Account) -> None:
    deadline = time.monotonic() + TIMEOUT
    while f"\nUid:\t{account.uid}\t" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_that_dropped_still_dies_with_its_parent(ada):
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        os.write(writer, f"{start(ada, signal.pause).pid}\n".encode())
        signal.pause()
    handle = identify(int(os.read(reader, 32)))
    assert handle is not None
    wait_until_dropped(handle.pid, ada)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    os.close(reader)
    os.close(writer)
    deadline = time.monotonic() + TIMEOUT
    while is_running(handle):
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.01)


def test_dying_with_a_parent_that_is_gone_already_ends_at_once():
    child = os.fork()
    if child == 0:
        privileges.die_with_parent(1 << 22)
        os._exit(77)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_without_new_privileges_setuid_programs_give_nothing(ada, tmp_path):
    program = Path("/usr/local/bin/nbtap-id")
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o4755)

    def effective_uid(is_forbidden: bool) -> str:
        if is_forbidden:
            privileges.forbid_new_privileges()
        return subprocess.run([program, "-u"], capture_output=True, text=True, check=True).stdout.strip()

    try:
        assert run_as(ada, effective_uid, False) == "0"
        assert run_as(ada, effective_uid, True) == str(ada.uid)
    finally:
        program.unlink()


def test_a_subreaper_inherits_orphans():
    def adopt() -> bool:
        privileges.adopt_orphans()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            grandchild = os.fork()
            if grandchild == 0:
                os.read(reader, 1)
                os._exit(42)
            os._exit(0)
        os.waitpid(child, 0)
        os.write(writer, b"x")
        _, status = os.waitpid(-1, 0)
        return os.waitstatus_to_exitcode(status) == 42

    assert in_child(adopt)


def test_a_sweeper_keeps_no_right_but_to_signal_the_student(ada, eve):
    """`eve` stands in for the sweeper's own account."""

    def sweeper() -> list[Any]:
        privileges.become_sweeper(ada.uid, eve)
        can_signal_root = True
        try:
            os.kill(os.getppid(), 0)
        except PermissionError:
            can_signal_root = False
        return [*os.getresuid(), *os.getresgid(), os.getgroups(), can_signal_root]

    assert in_child(sweeper) == [eve.uid, ada.uid, eve.uid, *[eve.gid] * 3, [], False]


def test_a_sweep_of_root_or_of_the_sweeper_is_refused(ada):
    for uid, sweeper in ((0, ada), (ada.uid, ada), (ada.uid, Account("nbtap0", 0, 0, Path("/")))):
        with pytest.raises(HostError, match="refusing to sweep"):
            in_child(lambda uid=uid, sweeper=sweeper: privileges.become_sweeper(uid, sweeper))


def test_a_sweeper_that_kept_its_capabilities_does_not_start(ada, eve, monkeypatch):
    monkeypatch.setattr(privileges, "_give_up_capabilities", lambda: None)

    def sweep() -> None:
        keep_capabilities_over_a_change_of_uid()
        privileges.become_sweeper(ada.uid, eve)

    with pytest.raises(HostError, match="could not give up root"):
        in_child(sweep)
