"""A sweep ends everything of one uid, however it hides, and nothing of anybody else's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nblauncher.accounts import SYSTEM_ACCOUNTS
from nblauncher.accounts.linux import LinuxAccounts
from nblauncher.accounts.sweep import RUN_ROOT, kill_all_of, processes_of
from nblauncher.errors import HostError
from nblauncher.model import Account
from tests.system_accounts import kept_as_found

pytestmark = [pytest.mark.system, pytest.mark.group("accounts")]

TIMEOUT = 20.0
ADA = Account("nbta-swa", 24040, 24040, Path("/home/nbta-swa"), "/bin/bash", "nbl-0000000000000040")
EVE = Account("nbta-swe", 24041, 24041, Path("/home/nbta-swe"), "/bin/bash", "nbl-0000000000000041")


@pytest.fixture(scope="module")
def accounts() -> Iterator[LinuxAccounts]:
    with kept_as_found():
        found = LinuxAccounts()
        found.ensure_system_accounts()
        for account in (ADA, EVE):
            found.create(account)
        yield found
        for account in (ADA, EVE):
            found.delete(account)


@pytest.fixture
def sweeper(accounts: LinuxAccounts) -> Account:
    found = accounts.lookup(SYSTEM_ACCOUNTS[1])
    assert found is not None
    return found


@contextlib.contextmanager
def forked(become: Callable[[], None], act: Callable[[], None]) -> Iterator[int]:
    """A child that has changed its ids and acts; its pid, once it did the first."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.setgroups([])
            become()
            os.close(reader)
            os.write(writer, b"x")
            os.close(writer)
            act()
        finally:
            os._exit(0)
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def as_uids(real: int, effective: int, saved: int) -> Callable[[], None]:
    return lambda: os.setresuid(real, effective, saved)


@contextlib.contextmanager
def lifeline() -> Iterator[Callable[[], bool]]:
    """A pipe that every process forked from here on holds. Says whether all of them have ended.

    A scan of /proc cannot tell: a pid that is listed is gone before it can be looked at.
    """
    reader, writer = os.pipe()

    def all_ended() -> bool:
        os.close(writer)
        poller = select.poll()
        poller.register(reader, select.POLLIN)
        return bool(poller.poll(TIMEOUT * 1000)) and os.read(reader, 1) == b""

    try:
        yield all_ended
    finally:
        os.close(reader)
        with contextlib.suppress(OSError):
            os.close(writer)


def wait_until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None


def hop() -> None:
    """Fork and let the parent end, for ever: no pid lives long enough to be killed by number."""
    while True:
        if os.fork() != 0:
            os._exit(0)


def multiply() -> None:
    for _ in range(4):
        os.fork()
    hop()


@pytest.mark.parametrize("hiding", [hop, multiply])
def test_processes_that_fork_faster_than_they_can_be_counted_end(accounts, hiding):
    with (
        lifeline() as all_ended,
        forked(as_uids(ADA.uid, ADA.uid, ADA.uid), hiding) as first,
        forked(as_uids(*[EVE.uid] * 3), signal.pause) as other,
    ):
        wait_until(lambda: not is_alive(first))
        accounts.kill_everything(ADA)
        os.kill(other, signal.SIGKILL)  # it holds the line as well
        assert all_ended()


@pytest.mark.parametrize("ids", [(0, 1, 1), (1, 0, 0), (1, 1, 0), (1, 0, 1)], ids=str)
def test_a_process_that_is_the_students_in_part_ends(accounts, ids):
    """Real or saved uid is enough: a setuid program that they run, or theirs that somebody else runs."""
    uids = [ADA.uid if one else EVE.uid for one in ids]
    with forked(as_uids(*uids), signal.pause) as pid:
        accounts.kill_everything(ADA)
        assert not is_alive(pid)


def test_stopped_and_deaf_processes_end(accounts):
    def deaf() -> None:
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGSTOP)

    with forked(as_uids(*[ADA.uid] * 3), deaf) as pid:
        accounts.kill_everything(ADA)
        assert not is_alive(pid)


SYS_EXIT = {"x86_64": 60, "aarch64": 93}
HEADLESS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
print("ready", flush=True)
ctypes.CDLL(None).syscall({exit}, 0)
"""


@pytest.mark.skipif(os.uname().machine not in SYS_EXIT, reason="the number of exit(2) is not known here")
def test_a_process_that_looks_like_a_zombie_ends(accounts):
    code = HEADLESS.format(exit=SYS_EXIT[os.uname().machine])
    process = subprocess.Popen(
        ["/usr/bin/python3", "-c", code], user=ADA.uid, group=ADA.gid, extra_groups=[], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        wait_until(lambda: b") Z " in Path(f"/proc/{process.pid}/stat").read_bytes())
        assert [one.pid for one in processes_of(ADA.uid)] == [process.pid]
        accounts.kill_everything(ADA)
        assert process.poll() == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_student_cannot_end_their_sweeper(accounts, sweeper):
    """The sweeper's effective uid is the student's; its real and saved ones are not."""
    with forked(as_uids(sweeper.uid, ADA.uid, sweeper.uid), signal.pause) as pid:
        for number in (0, signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT):
            attack = subprocess.run(
                ["/bin/sh", "-c", f"kill -{int(number)} {pid}"],
                user=ADA.uid, group=ADA.gid, extra_groups=[], capture_output=True, start_new_session=True,
            )  # fmt: skip
            assert attack.returncode != 0
        everyone = subprocess.run(
            ["/bin/sh", "-c", "kill -9 -1; echo tried"],
            user=ADA.uid, group=ADA.gid, extra_groups=[], capture_output=True,
        )  # fmt: skip
        assert everyone.stdout == b"tried\n"
        assert is_alive(pid)


def test_a_process_of_roots_that_acts_as_the_student_is_named_and_left(accounts, sweeper):
    """A file server, say. It is not the student's to signal, and not ours to end."""
    with forked(as_uids(0, ADA.uid, 0), signal.pause) as pid:
        with pytest.raises(HostError, match=rf"do not end: {pid} \("):
            kill_all_of(ADA.uid, sweeper, timeout=0.0)
        assert is_alive(pid)


def test_nothing_is_killed_while_somebody_uses_the_sweepers_account(accounts, sweeper):
    with (
        forked(as_uids(*[sweeper.uid] * 3), signal.pause) as stranger,
        forked(as_uids(*[ADA.uid] * 3), signal.pause) as hers,
    ):
        with pytest.raises(HostError, match=rf"reserved for nblauncher: {stranger} \("):
            accounts.kill_everything(ADA)
        assert is_alive(stranger) and is_alive(hers)
        accounts.ensure_system_accounts()  # a class can be launched while another course's accounts are removed


def test_sweeps_of_the_host_go_one_after_the_other(accounts, sweeper):
    RUN_ROOT.mkdir(mode=0o711, exist_ok=True)
    with forked(as_uids(*[ADA.uid] * 3), signal.pause) as hers, (RUN_ROOT / "sweep.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sweep = started(kill_all_of, ADA.uid, sweeper)
        wait_until(lambda: f"{RUN_ROOT}/sweep.lock" in [os.readlink(link) for link in links(sweep)])
        assert is_alive(hers)
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert os.waitpid(sweep, 0)[1] == 0
        assert not is_alive(hers)


def links(pid: int) -> list[Path]:
    return [link for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]


def test_two_sweeps_at_once_end_both_students_and_neither_sweep(accounts):
    with (
        lifeline() as all_ended,
        forked(as_uids(*[ADA.uid] * 3), hop) as hers,
        forked(as_uids(*[EVE.uid] * 3), hop) as others,
    ):
        wait_until(lambda: not is_alive(hers) and not is_alive(others))
        sweeps = [started(accounts.kill_everything, account) for account in (ADA, EVE)]
        assert [os.waitpid(pid, 0)[1] for pid in sweeps] == [0, 0]
        assert all_ended()


def started(function: Callable[..., None], *arguments: object) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function(*arguments)
            status = 0
        finally:
            os._exit(status)
    return pid


def test_a_planted_link_as_lock_is_not_followed(accounts, tmp_path):
    sweeper_account = accounts.lookup(SYSTEM_ACCOUNTS[1])
    (tmp_path / "sweep.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        kill_all_of(ADA.uid, sweeper_account, run_root=tmp_path)
    assert not (tmp_path / "elsewhere").exists()
