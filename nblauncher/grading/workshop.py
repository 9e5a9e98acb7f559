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
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nblauncher.errors import HostError, RefusedError
from nblauncher.forkserver import foreign, requests
from nblauncher.forkserver.bare_python import bare
from nblauncher.forkserver.requests import Place
from nblauncher.grading import fork_servers
from nblauncher.grading.graders import Graders
from nblauncher.isolation import cgroups, controllers, limits, systemd_scope, views
from nblauncher.isolation.cgroups import Group, Groups, Kind
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.isolation.views import View
from nblauncher.model import Account, Limits
from nblauncher.paths import submission_locks
from nblauncher.system import interruption, libc, workers
from nblauncher.system.descriptors import unix_listener

SOCKETS, DOOR = Path("/sockets"), Path("/door")
"""Where a view shows the kernel's sockets, and the door of the kernels' fork server."""

KERNELS_SOCKET = "kernels.sock"
_ENDING = 10.0
_PAUSE = 0.005
_SOCKETS_SIZE = "size=1m,nr_inodes=1000"


@dataclass(frozen=True, slots=True)
class Pythons:
    """`kernels` runs the course's kernels, with `modules` loaded; `graders` have nbgrader; both root's."""

    kernels: str
    modules: tuple[str, ...]
    graders: Graders
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
        self._graders: Graders | None = None
        self._teacher: socket.socket | None = None
        self.language_info: Mapping[str, Any] = {}
        """What a kernel would say of its language."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What forked steps keep."""
        return () if self._kernels is None else (self._kernels.fileno(),)

    def judge(self, place: Place, descriptors: Sequence[int]) -> socket.socket:
        """Fork a judge; the connection lives as long as it does. HostError."""
        return self._loaded().fork("judge", place, {}, descriptors)

    @contextlib.contextmanager
    def teacher(self, account: Account, order: Mapping[str, Any]) -> Iterator[socket.socket]:
        """The connection to this process's child of the teacher, which takes one submission after the other. `order` is
        the same each time. After a failure the next submission gets another child.
        """
        child, self._teacher = self._teacher, None
        if child and interruption.wait([child.fileno()], 0):  # it sends nothing by itself: it was ended
            child.close()
            child = None
        child = child or self._new_teacher(account, order)
        try:
            yield child
        except BaseException:
            child.close()
            raise
        self._teacher = child

    def _new_teacher(self, account: Account, order: Mapping[str, Any]) -> socket.socket:
        """Nothing confines it but its account."""
        group = self._groups.group("teacher")
        group.create()
        child = self._loaded().fork("teacher", Place(account, Sandbox(group, score=limits.OURS)), order)
        try:
            frame = workers.read_frame(child.fileno(), fork_servers.LOADING)
        except TimeoutError:
            frame = None
        if frame is None or "ready" not in frame.header:
            child.close()
            raise HostError(str(frame.header.get("problem"))[:1000] if frame else "the teacher's child does not begin")
        return child

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
        """Start the fork server of kernels, and prepare that of judges; both end with `stack`, before this place does.
        `notes` is a file with what kernels load. HostError.
        """
        start = bare(pythons.kernels, self._folder / "bare-kernels")
        command = (
            *("nblauncher.forkserver.kernels", "" if start == pythons.kernels else pythons.kernels),
            *(str(notes), pythons.threadpoolctl, ",".join(pythons.modules)),
        )
        door = unix_listener(self._folder / "door" / KERNELS_SOCKET, 0o666)
        kernels = fork_servers.start(start, command, door, self._folder / "home", log_file)
        stack.callback(kernels.end)
        stack.callback(pythons.graders.end)
        kernels.enter(self._groups.group("kernels-fork-server"))
        pythons.graders.prepare(self._groups.group("judges-fork-server"))
        self.language_info = kernels.wait_until_ready("course's packages").get("language_info", {})
        self._kernels, self._graders = kernels.link, pythons.graders

    def _loaded(self) -> Graders:
        if self._graders is None:
            raise HostError("the packages that grade are not loaded")
        return self._graders


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
