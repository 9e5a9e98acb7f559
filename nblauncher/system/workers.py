"""Forked children that work as another account and answer over a framed pipe.

A worker forks without exec, so the student cannot ptrace it (ptrace(2): not dumpable). It keeps only the descriptors
that it is given, dies with its parent, and answers with JSON; nothing that it sends is unpickled. Why it is so:
docs/decisions/two-children-and-a-pipe.md.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import logging
import os
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from nblauncher.errors import HostError, InputError, NblauncherError, RefusedError
from nblauncher.model import Account
from nblauncher.system import interruption, privileges, processes

log = logging.getLogger(__name__)

MAX_PAYLOAD = 1 << 20
"""Bytes of file content in one frame."""

_LAST_MOMENTS = 10.0
_MAX_HEADER = 1 << 22
_FRAME = struct.Struct("!II")


@dataclass(frozen=True, slots=True)
class Frame:
    """One message: a JSON object and up to MAX_PAYLOAD bytes."""

    header: Mapping[str, Any]
    payload: bytes = b""


def write_frame(descriptor: int, header: Mapping[str, Any], payload: bytes | memoryview = b"") -> None:
    """Write one whole frame. Names that are not UTF-8 travel as surrogate escapes (os.fsdecode)."""
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    if len(text) > _MAX_HEADER or len(payload) > MAX_PAYLOAD:
        raise ValueError(f"frame too large: {len(text)} + {len(payload)} bytes")
    _write_all(descriptor, _FRAME.pack(len(text), len(payload)) + text)
    if payload:
        _write_all(descriptor, payload)


def read_frame(descriptor: int, stall: float | None = None) -> Frame | None:
    """The next frame, or None at the end. HostError when it is malformed, TimeoutError when nothing arrives for `stall`
    seconds, KeyboardInterrupt when a signal to the command comes first (nblauncher.system.interruption).
    """
    prefix = _read_exactly(descriptor, _FRAME.size, stall, may_end=True)
    if not prefix:
        return None
    header_size, payload_size = _FRAME.unpack(prefix)
    if header_size > _MAX_HEADER or payload_size > MAX_PAYLOAD:
        raise HostError(f"a file worker sent a frame of {header_size} + {payload_size} bytes")
    try:
        header = json.loads(_read_exactly(descriptor, header_size, stall))
    except (ValueError, RecursionError) as error:  # RecursionError: a million open brackets
        raise HostError(f"a file worker sent a frame that is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise HostError("a file worker sent a frame that is not an object")
    return Frame(header, _read_exactly(descriptor, payload_size, stall) if payload_size else b"")


@dataclass
class Worker:
    """A running child. `result` collects its answer; `stop` ends it. One of them must be called."""

    account: Account
    pid: int
    answer: int
    pidfd: int
    _frames: list[Frame] = field(default_factory=list)

    def result(self, timeout: float) -> Any:
        """What the function returned, as JSON made it.

        Raises the NblauncherError that the function raised, and HostError when the child died, was killed, or took
        longer than `timeout` seconds (it is killed then, and also when a signal interrupts us). Any other exception is
        logged and becomes a HostError; only if the child has our own uid is it a bug for certain: a RuntimeError with
        its traceback.
        """
        try:
            answer = self._receive(timeout)
        finally:
            status = self.stop()
        if answer is None:
            words = processes.exit_words(status)
            raise HostError(f"a file worker of {self.account.username} ended without an answer ({words})")
        return value_of(answer, self.account)

    def told(self, content: bytes) -> Any:
        """As `result`, for a caller that has read all that the child wrote."""
        size = _FRAME.size
        try:
            header, _payload = _FRAME.unpack(content[:size])
            answer = json.loads(content[size : size + header])
        except (ValueError, RecursionError, struct.error) as error:
            raise HostError(f"a worker of {self.account.username} ended without an answer") from error
        return value_of(answer, self.account)

    def leave(self) -> None:
        """The caller watches the child by its descriptors, closes them, and reaps all of its children anyway."""
        self.pid = 0

    def fileno(self) -> int:
        """Readable when the worker has answered or ended, so that a caller may wait for several workers."""
        return self.answer

    def stop(self) -> int:
        """Kill the child if it still runs, reap it and close our ends. Returns its wait status.

        HostError when not even SIGKILL ends it: the student's own file system (FUSE) may block it in the kernel, and
        must not block us.
        """
        if self.pid == 0:
            return 0
        pid, self.pid = self.pid, 0
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            if not processes.wait_for_end(self.pidfd, _LAST_MOMENTS):
                raise HostError(f"a file worker of {self.account.username} (pid {pid}) hangs in the kernel")
            return os.waitpid(pid, 0)[1]
        finally:
            os.close(self.answer)
            os.close(self.pidfd)

    def _receive(self, timeout: float) -> Mapping[str, Any] | None:
        try:
            frame = read_frame(self.answer, timeout)
        except TimeoutError as error:
            raise HostError(
                f"a file worker of {self.account.username} was still not done after {timeout:.0f} s and was ended"
            ) from error
        return None if frame is None else frame.header


def start(account: Account, function: Callable[..., Any], *arguments: object, keep: Collection[int] = ()) -> Worker:
    """Fork a child that becomes `account`, runs `function(*arguments)` and answers with its JSON-able return value.

    `keep` lists the descriptors that the child keeps; its standard streams are /dev/null. A worker for uid 0 (the
    teacher is root) stays root, and one for the caller stays the caller (a dry run without root); code that works below
    a student's home checks that the student is not root. `function` must not import from a folder that the account can
    write, and must not take a lock.

    HostError when the host has no process, memory or descriptor left.
    """
    parent_pid = os.getpid()
    try:
        answer, answer_end = os.pipe()
    except OSError as error:
        raise _cannot_start(account, error) from error
    try:
        pid = os.fork()
    except OSError as error:
        os.close(answer)
        raise _cannot_start(account, error) from error
    else:
        if pid == 0:
            _serve(account, function, arguments, parent_pid, answer_end, frozenset(keep))
    finally:
        os.close(answer_end)
    try:
        return Worker(account, pid, answer, os.pidfd_open(pid))
    except OSError as error:
        os.close(answer)
        os.kill(pid, signal.SIGKILL)  # our own child, not reaped yet: the pid is still its own
        os.waitpid(pid, 0)
        raise _cannot_start(account, error) from error


def value_of(answer: Mapping[str, Any], account: Account) -> Any:
    """What a worker of the account answered, or raises: as Worker.result."""
    if "result" in answer:
        return answer["result"]
    if "problem" in answer:
        problem, hint = str(answer["problem"]), str(answer.get("hint", ""))
        if answer.get("kind") == "InputError":
            raise InputError(problem.split("\n"), hint)
        raise (RefusedError if answer.get("kind") == "RefusedError" else HostError)(problem, hint)
    if account.uid != os.geteuid():
        # Any process with the worker's uid can break it, with prlimit(2) for example: that student fails, not we.
        log.error("a worker of %s failed:\n%s", account.username, answer.get("traceback"))
        raise HostError(f"a file worker of {account.username} failed", "The log has its last words.")
    raise RuntimeError(f"a worker of {account.username} failed:\n{answer.get('traceback')}")


def _cannot_start(account: Account, error: OSError) -> HostError:
    return HostError(
        f"a file worker of {account.username} cannot be started: {os.strerror(error.errno or 0).lower()}",
        "The host is short of processes, memory or open files: free some, and run the command again.",
    )


def run_as(
    account: Account,
    function: Callable[..., Any],
    *arguments: object,
    keep: Collection[int] = (),
    timeout: float = 60.0,
) -> Any:
    """`start` and `result` in one: run `function(*arguments)` as the account and return what it returned."""
    return start(account, function, *arguments, keep=keep).result(timeout)


def close_descriptors(keep: Collection[int]) -> None:
    """Close every descriptor of this process but `keep`."""
    previous = -1
    for descriptor in sorted(keep):
        # An empty range beginning at 0 makes CPython close every descriptor (close_range(0, -1)).
        if previous + 1 < descriptor:
            os.closerange(previous + 1, descriptor)
        previous = descriptor
    os.closerange(previous + 1, _descriptor_limit())


def _descriptor_limit() -> int:
    """One more than the highest open descriptor.

    Without it, a kernel before 5.9, which has no close_range(2), would have to close two thousand million numbers one
    by one. A process that changed its uid may not list its own; it then closes the whole range.
    """
    try:
        return max(map(int, os.listdir("/dev/fd"))) + 1
    except OSError:
        return os.sysconf("SC_OPEN_MAX") if sys.platform == "darwin" else (1 << 31) - 1


def _serve(
    account: Account,
    function: Callable[..., Any],
    arguments: tuple[object, ...],
    parent_pid: int,
    answer: int,
    keep: frozenset[int],
) -> None:
    """The child's whole life. Never returns into the parent's code."""
    status = 1
    try:
        gc.disable()
        _forget_signal_handlers()
        privileges.die_with_parent(parent_pid)
        # Keep clear of the standard streams: if the parent had none, a print would become an answer.
        answer = fcntl.fcntl(answer, fcntl.F_DUPFD_CLOEXEC, 3)
        _forget_logs(keep)
        close_descriptors({answer} | keep)
        _use_null_streams()
        write_frame(answer, _answer(account, parent_pid, function, arguments))
        status = 0
    finally:
        os._exit(status)


def _forget_signal_handlers() -> None:
    """The parent's handlers must not run here: the account's other processes may send us any signal."""
    interruption.forget()
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _forget_logs(keep: Collection[int]) -> None:
    """Drop the logs with a descriptor that is about to be closed: a student's file may get its number next."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, logging.FileHandler) and handler.stream and handler.stream.fileno() not in keep:
            root.removeHandler(handler)
    root.addHandler(logging.NullHandler())  # or Python's handler of last resort would write


def _use_null_streams() -> None:
    """Standard streams lead nowhere: a student must not reach root's terminal."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _answer(
    account: Account, parent_pid: int, function: Callable[..., Any], arguments: tuple[object, ...]
) -> Mapping[str, Any]:
    """What the function returned or raised, or why this process could not become the account."""

    def act() -> Any:
        if account.uid != os.geteuid():
            privileges.drop_to(account)
            privileges.die_with_parent(parent_pid)
        return function(*arguments)

    return answer_of(act)


def answer_of(act: Callable[[], Any]) -> dict[str, Any]:
    """What it returned or raised, as JSON-able data for value_of."""
    try:
        return {"result": act()}
    except NblauncherError as error:
        return {"kind": type(error).__name__, "problem": error.problem, "hint": error.hint}
    except OSError as error:
        return {"problem": _os_words(error)}
    except BaseException:
        # The worker's boundary: a bug must reach the parent's log, not the student's terminal.
        return {"traceback": traceback.format_exc()}


def _os_words(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "disk full"
    if error.errno == errno.EDQUOT:
        return "disk quota exceeded"
    return os.strerror(error.errno).lower() if error.errno else str(error)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _read_exactly(descriptor: int, size: int, stall: float | None, *, may_end: bool = False) -> bytes:
    parts: list[bytes] = []
    missing = size
    while missing:
        if stall is not None and not interruption.wait([descriptor], stall):
            raise TimeoutError(f"nothing arrived for {stall:.0f} s")
        part = os.read(descriptor, missing)
        if not part:
            if may_end and missing == size:
                return b""
            raise HostError("a file worker ended in the middle of a frame")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
