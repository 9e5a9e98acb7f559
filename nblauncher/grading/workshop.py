"""Where submissions are graded: two fork servers, control groups, and for each submission two accounts in views.

Root runs it in the command `grade`, and everything in it ends with the command: a warden, a process of root's that only
waits for that, ends what a killed command left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nblauncher.errors import HostError, RefusedError
from nblauncher.forkserver import foreign, requests
from nblauncher.forkserver.bare_python import bare
from nblauncher.forkserver.requests import Place
from nblauncher.isolation import cgroups, controllers, limits, systemd_scope, views
from nblauncher.isolation.cgroups import Group, Groups, Kind
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.isolation.views import View
from nblauncher.model import Account, Limits
from nblauncher.paths import submission_locks
from nblauncher.system import interruption, libc, wire
from nblauncher.system.descriptors import unix_listener

SOCKETS, DOOR = Path("/sockets"), Path("/door")
"""Where a view shows the kernel's sockets, and the door of the kernels' fork server."""

KERNELS_SOCKET = "kernels.sock"
_JUDGES_SOCKET = "judges.sock"
_LOADING = 120.0
_ENDING = 10.0
_PAUSE = 0.005
_PATH = "/usr/bin:/bin"
_ENVIRONMENT = {"LANG": "C.UTF-8", "PATH": _PATH}
_SOCKETS_SIZE = "size=1m,nr_inodes=1000"


@dataclass(frozen=True, slots=True)
class Pythons:
    """`kernels` runs the course's kernels, with `modules` loaded; `grading` has nbgrader; both root's."""

    kernels: str
    modules: tuple[str, ...]
    grading: Path
    threadpoolctl: str


@dataclass(frozen=True, slots=True)
class Bench:
    """What one submission has: the place of its kernel and of its judge."""

    kernel: Place
    judge: Place


class Workshop:
    """Open while submissions are graded. `folder` is root's (0711); `readable` is what they see of the host besides the
    system's folders.
    """

    def __init__(self, groups: Groups, folder: Path, readable: tuple[Path, ...]) -> None:
        self._groups, self._folder, self._readable = groups, folder, readable
        self._kernels: socket.socket | None = None
        self.language_info: Mapping[str, Any] = {}
        """What a kernel would say of its language."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What forked steps keep."""
        return () if self._kernels is None else (self._kernels.fileno(),)

    def fork(self, role: str, place: Place, order: Mapping[str, Any], descriptors: Sequence[int]) -> socket.socket:
        """Fork a process of the grading environment; the connection lives as long as it does. HostError."""
        home = str(place.account.home)
        names = {"HOME": home, "USER": place.account.username, "LOGNAME": place.account.username}
        request = {"role": role, "place": place.to_json(), "order": dict(order)}
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.connect(str(self._folder / _JUDGES_SOCKET))
            wire.send(connection, {**request, "environment": {**_ENVIRONMENT, **names}}, descriptors)
        except OSError as error:
            connection.close()
            raise HostError(f"the grading environment does not answer: {error.strerror}") from error
        return connection

    def teacher(self, account: Account) -> Place:
        """Where the teacher's children run: nothing confines them but their account."""
        group = self._groups.group("teacher")
        group.create()
        return Place(account, Sandbox(group, score=limits.OURS))

    @contextlib.contextmanager
    def bench(self, uids: range, first: int, wanted: Limits, disk: int) -> Iterator[Bench]:
        """Two accounts that nobody has, confined; all of their processes are gone at the end. HostError."""
        if self._kernels is None:
            raise HostError("the course's kernels are not loaded")
        with contextlib.ExitStack() as stack:
            uid = stack.enter_context(_reserved(uids, first))
            kernel = Account(f"kernel-{uid}", uid, uid, views.HOME)
            judge = Account(f"judge-{uid + 1}", uid + 1, uid, views.HOME)
            sockets = (stack.enter_context(self._sockets(kernel)), SOCKETS)
            door = (self._folder / "door", DOOR)
            confined = ((kernel, (sockets,)), (judge, (sockets, door)))
            of_kernel, of_judge = stack.enter_context(self._confined(wanted, disk, *confined))
            bench = Bench(Place(kernel, of_kernel, 0o007), Place(judge, of_judge))
            self._kernels.send(requests.know(bench.kernel, judge.uid))
            yield bench

    @contextlib.contextmanager
    def seat(self, uids: range, first: int, wanted: Limits, disk: int) -> Iterator[Place]:
        """As `bench`, with one account: for a program that is given the submission, and judges it itself."""
        with _reserved(uids, first) as uid:
            account = Account(f"submission-{uid}", uid, uid, views.HOME)
            with self._confined(wanted, disk, (account, ())) as (sandbox,):
                yield Place(account, sandbox)

    @contextlib.contextmanager
    def _confined(
        self, wanted: Limits, disk: int, *whom: tuple[Account, tuple[tuple[Path, Path], ...]]
    ) -> Iterator[list[Sandbox]]:
        """Each account with the folders that its view shares."""
        with contextlib.ExitStack() as stack:
            groups = []
            for account, _shared in whom:
                groups.append(self._groups.group(account.username))
                stack.callback(_end, groups[-1])
                groups[-1].create()
                limits.apply(groups[-1], wanted)
            wished = [View(self._folder / "root", account, disk, self._readable, shared) for account, shared in whom]
            with views.held(*wished) as held:
                yield [
                    Sandbox(group, wanted, view.mounts, view.others, limits.KERNEL)
                    for group, view in zip(groups, held, strict=True)
                ]

    @contextlib.contextmanager
    def _sockets(self, kernel: Account) -> Iterator[Path]:
        """The folder of the kernel's sockets, which its judge may enter: a file system that ends with it."""
        folder = self._folder / f"sockets-{kernel.uid}"
        folder.mkdir(mode=0o700, exist_ok=True)
        options = f"{_SOCKETS_SIZE},mode=0770,uid={kernel.uid},gid={kernel.gid}"
        try:
            libc.mount("nblauncher", folder, "tmpfs", libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC, options)
        except OSError as error:
            raise HostError(f"cannot mount a file system on {folder}: {error.strerror}") from error
        try:
            yield folder
        finally:
            libc.umount2(folder, libc.MNT_DETACH | libc.UMOUNT_NOFOLLOW)
            folder.rmdir()

    def load(self, stack: contextlib.ExitStack, pythons: Pythons, notes: Path, log_file: Path) -> None:
        """Start both fork servers, which end with `stack`. `notes` is a file with what kernels load. HostError."""
        folder = self._folder
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, log)
        grading_bare = bare(str(pythons.grading), folder / "bare-grading")
        kernels_bare = bare(pythons.kernels, folder / "bare-kernels")
        kernels_command = (
            *("nblauncher.forkserver.kernels", "" if kernels_bare == pythons.kernels else pythons.kernels),
            *(str(notes), pythons.threadpoolctl, ",".join(pythons.modules)),
        )
        python = "" if grading_bare == str(pythons.grading) else str(pythons.grading)
        start = _Starter(stack, self._groups, folder / "home", log)
        door = unix_listener(folder / "door" / KERNELS_SOCKET, 0o666)
        kernels = start(kernels_bare, kernels_command, door, "kernels")
        listening = unix_listener(folder / _JUDGES_SOCKET, 0o600)
        judges = start(grading_bare, ("nblauncher.grading.fork_server", python), listening, "judges")
        self.language_info = _wait_until_ready(kernels, "course's packages", log_file).get("language_info", {})
        _wait_until_ready(judges, "packages of grading.requirements", log_file)
        self._kernels = kernels


@contextlib.contextmanager
def opened(course: str, folder: Path, pythons: Sequence[Path]) -> Iterator[Workshop]:
    """Make the place, for a process with one thread, as root; `pythons` are those that submissions run. HostError;
    RefusedError where nothing can be confined.
    """
    groups = cgroups.choose(f"{course}.grading")
    if groups.kind is Kind.NONE:
        raise RefusedError(
            "this host has no control groups, and submissions are graded only where they can be confined"
        )
    for place, mode in ((folder, 0o711), (folder / "root", 0o700), (folder / "door", 0o755), (folder / "home", 0o700)):
        place.mkdir(mode=mode, parents=True, exist_ok=True)
        place.chmod(mode)
    with _warden(groups, folder) as groups:
        controllers.hand_down(groups)
        yield Workshop(groups, folder, _readable(pythons))


def _readable(pythons: Sequence[Path]) -> tuple[Path, ...]:
    """Folders of the interpreters, their packages, and ours."""
    found = [Path(foreign.__file__).parents[1]]
    for python in pythons:
        found += [python.parents[1], Path(os.path.realpath(python)).parents[1]]
        found += [Path(line) for line in _path_lines(python.parents[1])]
    return tuple(dict.fromkeys(found))


def _path_lines(environment: Path) -> Iterator[str]:
    """Folders that a virtual environment adds by its .pth files."""
    for file in environment.glob("lib/python*/site-packages/*.pth"):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("/") and Path(line).is_dir():
                yield line


@dataclass(frozen=True)
class _Starter:
    stack: contextlib.ExitStack
    groups: Groups
    home: Path
    log: int

    def __call__(self, python: str, command: Sequence[str], door: socket.socket, name: str) -> socket.socket:
        """Start a fork server in its own group; the socket to it. It ends when that is closed."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        group = self.groups.group(f"{name}-fork-server")
        group.create()
        argv = [python, foreign.__file__, *command, str(door.fileno()), str(theirs.fileno())]
        environment = {**_ENVIRONMENT, "HOME": str(self.home)}
        keep = (door.fileno(), theirs.fileno())
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=self.log,
                pass_fds=keep,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise HostError(f"cannot start {python}: {error.strerror}") from error
        finally:
            theirs.close()
            door.close()
        self.stack.callback(_end_process, process, ours)
        group.enter(process.pid)
        return ours


def _wait_until_ready(link: socket.socket, name: str, log_file: Path) -> Mapping[str, Any]:
    """What it says of itself. HostError."""
    deadline = time.monotonic() + _LOADING
    if not interruption.wait([link.fileno()], max(0.0, deadline - time.monotonic())):
        raise HostError(f"the {name} were not loaded within {_LOADING:.0f} s", f"See {log_file}.")
    packet = requests.receive(link)
    if packet is None or "ready" not in packet[0]:
        why = "; ".join(map(str, packet[0].get("refused", ())))[:500] if packet else "the process ended"
        raise HostError(f"the {name} cannot be loaded: {why}", f"See {log_file}.")
    return packet[0]


def _end_process(process: subprocess.Popen[bytes], link: socket.socket) -> None:
    link.close()
    try:
        process.wait(_ENDING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _warden(groups: Groups, folder: Path) -> Iterator[Groups]:
    """A process that outlives a killed command for as long as it takes to end all groups. With systemd the scope is
    made around it.
    """
    wait, hold = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(hold)
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            os.read(wait, 1)
            _end_all([groups.group(name) for name in groups.names() if name != "supervisor"])
            _unmount(folder)
            groups.remove()
        finally:
            os._exit(0)
    os.close(wait)
    try:
        entered = systemd_scope.enter(groups, pid)
        if entered.kind is Kind.NONE:
            raise RefusedError("systemd gives no control group: submissions are graded only where they can be confined")
        _end_all([groups.group(name) for name in groups.names() if name != "supervisor"])  # of a killed warden
        _unmount(folder)
        yield entered
    finally:
        os.close(hold)
        os.waitpid(pid, 0)
        groups.remove()


def _unmount(folder: Path) -> None:
    """What killed steps have mounted for their kernels' sockets."""
    for left in folder.glob("sockets-*"):
        with contextlib.suppress(OSError):
            while True:  # until it is not a mount point
                libc.umount2(left, libc.MNT_DETACH | libc.UMOUNT_NOFOLLOW)
        with contextlib.suppress(OSError):
            left.rmdir()


@contextlib.contextmanager
def _reserved(uids: range, first: int) -> Iterator[int]:
    """The first of two uids that no other submission on this host has now; `first` counts submissions."""
    folder = submission_locks()
    folder.mkdir(mode=0o700, exist_ok=True)
    pairs = len(uids) // 2
    while True:
        for number in range(pairs):
            uid = uids[2 * ((first + number) % pairs)]
            lock = os.open(folder / str(uid), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            try:
                yield uid
            finally:
                os.close(lock)
            return
        interruption.sleep(1.0)


def _end_all(groups: Sequence[Group]) -> None:
    for group in groups:
        _end(group)


def _end(group: Group) -> None:
    """End all of its processes and remove it. HostError when a process does not end."""
    deadline = time.monotonic() + _ENDING
    while not group.is_empty():
        group.kill()
        if time.monotonic() > deadline:
            raise HostError(f"processes in {group.path} do not end")
        time.sleep(_PAUSE)
    group.remove()
