"""A running class without the commands around it: real accounts, the real supervisor, real servers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from nblauncher.auth import passwords
from nblauncher.commands.running.readiness import Outcome, start_servers
from nblauncher.errors import HostError
from nblauncher.frontends import class_ca
from nblauncher.isolation import cgroups, limits
from nblauncher.model import NO_LIMITS, Account, Handle, Secret, ServerState, TlsFiles
from nblauncher.paths import RUN_ROOT, CoursePaths
from nblauncher.server import class_files
from nblauncher.server.config import ServerConfig
from nblauncher.supervisor import client
from nblauncher.supervisor.client import Client, ServerOrder
from nblauncher.supervisor.requests import PortWanted
from nblauncher.supervisor.specs import ServerReport, ServerSpec
from tests import preloading
from tests.jupyter_client import JupyterClient
from tests.system_accounts import delete_account

PASSWORD = "abcd-efgh-jkmn-pqrs"
TARGET = "tutorial"
GRACE = 10.0


@contextlib.contextmanager
def made_account(name: str, uid: int) -> Iterator[Account]:
    """A student's account with a material folder; gone afterwards with whatever it runs."""
    assert name.startswith("nbtv") and 25000 <= uid < 25100
    with _alone(uid):
        yield from _account(name, uid)


def _account(name: str, uid: int) -> Iterator[Account]:
    remove_account(name)
    subprocess.run(["useradd", "-m", "-K", "HOME_MODE=0700", "-s", "/bin/bash", "-u", str(uid), "--", name], check=True)
    entry = pwd.getpwnam(name)
    account = Account(name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir), "/bin/bash")
    try:
        (account.home / TARGET).mkdir(mode=0o700)
        os.chown(account.home / TARGET, account.uid, account.gid)
        yield account
    finally:
        remove_account(name)


_locks = -1


@contextlib.contextmanager
def _alone(uid: int) -> Iterator[None]:
    """Names are the same in every test run of the host: while this process has the account, no other makes it.

    A lock on one byte of a file for each of them; the kernel takes them back when the process ends.
    """
    global _locks
    if _locks == -1:
        file = "/run/lock/nblauncher-tests-running"
        _locks = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    fcntl.lockf(_locks, fcntl.LOCK_EX, 1, uid)
    try:
        yield
    finally:
        fcntl.lockf(_locks, fcntl.LOCK_UN, 1, uid)


def remove_account(name: str) -> None:
    """End the account's processes by pid and delete it with its home."""
    assert name.startswith("nbt"), name
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return

    def end_their_processes() -> None:
        eventually(lambda: not end_all(_processes_of(entry.pw_uid)))

    def delete_home() -> bool:
        end_their_processes()  # one that was just being forked still writes
        return subprocess.run(["rm", "-rf", "--one-file-system", "--", entry.pw_dir], check=False).returncode == 0

    # Before userdel, which would delete a large home while it locks the accounts of the host.
    eventually(delete_home)
    delete_account(name, "-r", before=end_their_processes)
    # Kernels that a test starts outside of a class have the host's /tmp.
    of_theirs = ["find", "/tmp", "-xdev", "-ignore_readdir_race", "-uid", str(entry.pw_uid), "-delete"]
    eventually(
        lambda: subprocess.run(of_theirs, check=False, stderr=subprocess.DEVNULL).returncode == 0
    )  # others come and go


def _processes_of(uid: int) -> list[int]:
    return [one.pid for one in psutil.process_iter(["uids"]) if _has_uid(one, uid)]


def end_all(pids: list[int]) -> list[int]:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pids


def _has_uid(process: psutil.Process, uid: int) -> bool:
    uids = process.info["uids"]
    return bool(uids) and uid in uids and process.status() != psutil.STATUS_ZOMBIE


def eventually(is_so: Callable[[], Any], patience: float = 60.0) -> Any:
    """Wait until it is so; what it then was."""
    deadline = time.monotonic() + patience
    while True:
        with contextlib.suppress(psutil.NoSuchProcess):
            if result := is_so():
                return result
        assert time.monotonic() < deadline, "it did not become so in time"
        time.sleep(0.05)


class RunningClass:
    """A course with its supervisor. `up` starts servers; `close` ends everything, also after a failed test."""

    def __init__(
        self, folder: Path, course: str, front_port: int, *, interface: str = "notebook", spawner: str = "forkserver"
    ) -> None:
        self.paths = CoursePaths(course)
        self.front_port, self.interface, self.spawner = front_port, interface, spawner
        self.ca = class_ca.ensure_class_ca(folder / "tls", ["localhost"], ["127.0.0.1", "::1"], course)
        self.hashed = passwords.jupyter_hash(Secret(PASSWORD))
        self._supervisor: Client | None = None
        self.kernels = class_files.Kernels()

    @property
    def supervisor(self) -> Client:
        if self._supervisor is None:
            preloading.lend(self.paths)
            self._supervisor = client.start(self.paths)
            class_files.write(self.paths.run, self.kernels)
            self._supervisor.prepare(self.spawner, at_first_use=True)
        return self._supervisor

    def reconnect(self) -> Client:
        if self._supervisor is not None:
            self._supervisor.close()
            self._supervisor = None
        return self.supervisor

    def kill_supervisor(self) -> None:
        pid = self.supervisor.hello().pid
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)

    def visitor(self, account: Account, port: int) -> JupyterClient:
        """The student, signed in at the own server."""
        ca = self.paths.run / "ca.pem"
        ca.write_bytes(self.ca.certificate)
        one = JupyterClient(account.username, port, ca)
        one.sign_in(PASSWORD)
        return one

    def leaf(self) -> TlsFiles:
        return class_ca.issue_leaf(self.ca, ["localhost"], ["127.0.0.1", "::1"])

    def order(self, account: Account, port: int, **changed: Any) -> ServerOrder:
        config = ServerConfig(
            username=account.username,
            hashed_password=self.hashed,
            port=port,
            front_port=self.front_port,
            tickets_socket=str(self.paths.tickets_socket),
            home=str(account.home),
            target=TARGET,
            settings_folder=str(class_files.settings_folder(self.paths.run)),
            interface=self.interface,
            idle_stop=changed.pop("idle_stop", 0.0),
        )
        spec = ServerSpec(
            username=account.username,
            uid=account.uid,
            gid=account.gid,
            home=str(account.home),
            port=port,
            shell=account.shell,
            environment=changed.pop("environment", {}),
            spawner=changed.pop("spawner", self.spawner),
            limits=changed.pop("limits", NO_LIMITS),
            is_isolated=changed.pop("is_isolated", False),
        )
        return ServerOrder(spec, **{"config": config.to_bytes(), "tls": self.leaf(), **changed})

    def bind(self, *seats: tuple[Account, int]) -> None:
        errors, _notes = self.supervisor.bind(
            [PortWanted(port, account.username, account.uid) for account, port in seats]
        )
        assert not errors, {name: error.problem for name, error in errors.items()}

    def up(self, *seats: tuple[Account, int], deadline: float = 120, **changed: Any) -> list[Outcome]:
        """Bind and start; every outcome."""
        self.bind(*seats)
        orders = [self.order(account, port, **changed) for account, port in seats]
        return start_servers(self.supervisor, orders, concurrency=2, deadline=deadline, on_event=lambda outcome: None)

    def ready(self, *seats: tuple[Account, int], **changed: Any) -> None:
        """Bind, start, and be sure that all of them answer."""
        outcomes = self.up(*seats, **changed)
        assert [outcome.state for outcome in outcomes] == [ServerState.READY] * len(seats), (outcomes, self.logs())

    def report(self, account: Account) -> ServerReport:
        return next(one for one in self.supervisor.servers() if one.username == account.username)

    def handle(self, account: Account) -> Handle:
        handle = self.report(account).handle
        assert handle is not None
        return handle

    def is_up_again(self, account: Account, before: Handle) -> bool:
        """Whether another process than `before` is the account's server."""
        report = self.report(account)
        return report.state is ServerState.READY and report.handle not in (None, before)

    def logs(self) -> str:
        return "\n".join(f"--- {file.name}\n{file.read_text()[-4000:]}" for file in self.paths.logs.glob("*.log"))

    def close(self) -> None:
        preloading.keep(self.paths)
        if self._supervisor is not None:
            try:
                self.reconnect().end(grace=2)
            except HostError as error:
                raise AssertionError(f"the class did not end: {error.problem}\n{self.logs()}") from error
            self._supervisor.close()
        subprocess.run(["rm", "-rf", "--", str(self.paths.run), str(self.paths.logs)], check=True)
        with contextlib.suppress(OSError):
            RUN_ROOT.rmdir()


def limited_by(course: str, what: str) -> str:
    """The control group that limits a student's `memory`, `cpus` or `processes` on this host; "" without one."""
    found = limits.mechanism(cgroups.choose(course))[what]
    return "" if found.startswith("RLIMIT") else found


@contextlib.contextmanager
def running_class(folder: Path, course: str, front_port: int, **options: Any) -> Iterator[RunningClass]:
    one = RunningClass(folder, course, front_port, **options)
    try:
        yield one
    finally:
        one.close()
