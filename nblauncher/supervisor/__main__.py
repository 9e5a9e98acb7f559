"""The supervisor's process: `python -I -m nblauncher.supervisor COURSE`, started by `client.start`, as root."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import resource
import signal
import sys

from nblauncher.errors import BusyError, NblauncherError, RefusedError
from nblauncher.isolation import cgroups, limits, systemd_scope
from nblauncher.paths import LOG_ROOT, RUN_ROOT, CoursePaths
from nblauncher.supervisor.control_socket import ControlSocket
from nblauncher.supervisor.course import Course, Locale
from nblauncher.supervisor.handlers import Handlers
from nblauncher.supervisor.loop import Loop, reap
from nblauncher.supervisor.specs import DEFAULT_GRACE
from nblauncher.system import logs, privileges
from nblauncher.system.descriptors import unix_listener

log = logging.getLogger("nblauncher.supervisor")

_COURSE = re.compile(r"[a-z][a-z0-9-]{0,19}")


def main(arguments: list[str]) -> int:
    """Detach, adopt what runs, serve until the class is ended. One line of JSON on stdout says how the start went."""
    if len(arguments) != 1 or not _COURSE.fullmatch(arguments[0]):
        print("usage: python -m nblauncher.supervisor COURSE", file=sys.stderr)
        return 2
    starter = os.dup(1)
    os.set_inheritable(starter, False)
    if os.fork() > 0:
        # The command that started us waits for this process; the supervisor is a child of init, in its own session.
        os._exit(0)
    _detach()
    try:
        _supervise(CoursePaths(arguments[0]), starter)
    except NblauncherError as error:
        _tell(starter, {"problem": error.problem, "hint": error.hint, "kind": type(error).__name__})
        return error.exit_code
    except BaseException:
        # There is no caller left: the traceback must reach the log.
        log.exception("the supervisor failed")
        raise
    return 0


def _supervise(paths: CoursePaths, starter: int) -> None:
    """`starter` is the pipe to the command that started us."""
    if not privileges.is_root():
        raise RefusedError("the supervisor must be root", "Use sudo.")
    _make_folders(paths)
    logs.start(paths.logs, 0)
    lock = _only_one(paths)
    privileges.adopt_orphans()
    limits.protect()
    _use_own_limits()
    groups = systemd_scope.enter(cgroups.choose(paths.course), os.getpid())
    loop = Loop()
    tickets = unix_listener(paths.tickets_socket, 0o666)
    locale = Locale(os.environ.get("LANG", "C.UTF-8"), os.environ.get("TZ", ""))
    course = Course(loop, paths, groups, tickets, locale)
    log.info("supervisor of %s, pid %d, groups: %s", paths.course, os.getpid(), groups.kind.value)
    _handle_signals(loop, course)
    course.recover()
    control = _serve(loop, course, starter)
    for file in (paths.supervisor_socket, paths.tickets_socket, paths.kernels_socket, course.registry.file):
        file.unlink(missing_ok=True)
    course.close()
    if control is not None:
        control.flush()
        control.close()
    tickets.close()
    loop.close()
    os.close(lock)


def _handle_signals(loop: Loop, course: Course) -> None:
    def children_ended() -> None:
        for pid, status in reap():
            course.child_ended(pid, status)

    loop.on_signal(signal.SIGCHLD, children_ended)
    # A host that is switched off sends SIGTERM. A logout or Ctrl-C elsewhere must not end a class.
    loop.on_signal(signal.SIGTERM, lambda: course.end(DEFAULT_GRACE, is_forced=True))
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _serve(loop: Loop, course: Course, starter: int) -> ControlSocket | None:
    """Run until the class is over. Requests are accepted once everything that was left and not adopted is gone."""
    control: ControlSocket | None = None

    def each_round() -> None:
        nonlocal control
        course.remember()
        if control is None:
            if not course.settle():
                loop.later(0.05, lambda: None)
                return
            listening = unix_listener(course.paths.supervisor_socket, 0o600)
            control = ControlSocket(loop, listening, Handlers(course).by_name)
            _tell(starter, {"ready": True})

    loop.later(0.0, lambda: None)
    loop.run(each_round)
    return control


def _detach() -> None:
    """Take a session of our own, without a terminal: closing the window does not end the class."""
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    if nothing > 2:
        os.close(nothing)


def _make_folders(paths: CoursePaths) -> None:
    for folder, mode in (
        (RUN_ROOT, 0o711),
        (paths.run, 0o711),
        (paths.students_run, 0o711),
        (LOG_ROOT, 0o755),
        (paths.logs, 0o700),
    ):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=mode, parents=True)
        facts = folder.lstat()
        if not folder.is_dir() or folder.is_symlink() or facts.st_uid != 0 or facts.st_mode & 0o022:
            raise RefusedError(f"{folder} is not a folder that only root can write to", "Look at it, and remove it.")
        folder.chmod(mode)


def _only_one(paths: CoursePaths) -> int:
    lock = os.open(paths.run / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BusyError(f"{paths.course} already has a supervisor", "Try again in a moment.") from None
    return lock


def _use_own_limits() -> None:
    """Replace the limits of the shell that started the class. A student takes seven descriptors: sockets, memory files
    and two pipes. Children get a limit of their own.
    """
    if kept := limits.lift():
        log.warning("this host's limits stay as they are: %s", ", ".join(kept))
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536, hard))


def _tell(starter: int, message: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        os.write(starter, json.dumps(message).encode("ascii") + b"\n")
    os.close(starter)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
