"""Run system tools safely, and find processes again safely.

`run` is the only way in which we start a tool of the operating system: by argv, never through a shell. A process is
remembered as a Handle (pid + start time), because another process may have its pid by now.
Sources: proc_pid_stat(5), pidfd_open(2), pidfd_send_signal(2).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from nblauncher.errors import HostError
from nblauncher.model import Handle, Secret

log = logging.getLogger(__name__)

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
"""The whole environment of a system tool: a variable of the user who ran sudo must not change what it does."""

_KILL_DEADLINE = 10.0
_MAX_WORDS = 400


def run(
    argv: Sequence[str],
    *,
    input: Secret | str | None = None,
    timeout: float = 60.0,
    inherit: Collection[int] = (),
    environment: Mapping[str, str] = ENVIRONMENT,
) -> str:
    """Run a system tool as the caller (root) and return what it wrote to stdout.

    `input` is its whole stdin and is never logged; secrets travel there, because `ps` shows argv to all accounts.
    `timeout` in seconds. `inherit` lists descriptors that it keeps open: a lock passed to useradd stays held until
    useradd ends, even when we are killed. The tool runs in a session of its own, so that Ctrl-C does not stop it
    halfway: a half-run useradd is worse than waiting. nblauncher.system.interruption reports the signal afterwards.

    Raises HostError with the tool's last words when it is missing, fails, or is still not done after `timeout`.
    """
    stdin, stdout, stderr = (os.memfd_create(f"{argv[0]}-{end}") for end in ("stdin", "stdout", "stderr"))
    try:
        # A file instead of a pipe: a daemon that the tool leaves behind and that keeps its stdout cannot make us wait.
        os.pwrite(stdin, (input.reveal() if isinstance(input, Secret) else input or "").encode(), 0)
        status = _run(argv, (stdin, stdout, stderr), timeout, inherit, environment)
        output, complaints = _content(stdout), _content(stderr)
    finally:
        for descriptor in (stdin, stdout, stderr):
            os.close(descriptor)
    for line in [*output.splitlines(), *complaints.splitlines()]:
        log.debug("%s: %s", argv[0], line)
    if status != 0:
        words = last_words(complaints) or last_words(output) or f"exit status {status}"
        log.warning("%s failed with exit status %d: %s", " ".join(argv), status, words)
        raise HostError(words if words.startswith(argv[0]) else f"{argv[0]}: {words}")
    return output


def begin(argv: Sequence[str]) -> int:
    """Start one of our short-lived commands in a session of its own. Returns its pid. OSError.

    For a process that reaps all of its children, as the supervisor does: nothing waits for this one in particular.
    """
    process = subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )
    process.returncode = 0
    return process.pid


def last_words(text: str) -> str:
    """The last line that is not empty, shortened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_MAX_WORDS] if lines else ""


def identify(pid: int) -> Handle | None:
    """The handle of this process; None when there is no such process (any more)."""
    facts = _facts(pid)
    return None if facts is None else Handle(pid, facts.start_time)


def is_running(handle: Handle) -> bool:
    """Whether this process still runs. A zombie does not, unless it has threads that do."""
    facts = _facts(handle.pid)
    return facts is not None and facts.start_time == handle.start_time and facts.is_alive


def send_signal(handle: Handle, number: int) -> None:
    """Signal exactly this process. Does nothing when it has ended."""
    pidfd = open_handle(handle)
    if pidfd is None:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)


def open_handle(handle: Handle) -> int | None:
    """A pidfd of exactly this process, close-on-exec; None when it ended. The caller closes it."""
    try:
        descriptor = os.pidfd_open(handle.pid)
    except OSError as error:
        # Not ESRCH: the number lives on as that of a session or a group whose leader is gone (kernel/fork.c).
        if error.errno not in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
            raise
        return None
    # Compare after the pidfd is open: from then on the pid cannot be given to another process.
    if is_running(handle):
        return descriptor
    os.close(descriptor)
    return None


def catches(handle: Handle, number: int) -> bool:
    """Whether this process handles the signal by a function of its own; else many signals would end it (proc(5))."""
    try:
        with open(f"/proc/{handle.pid}/status", "rb") as stream:
            caught = re.search(rb"^SigCgt:\s*([0-9a-f]+)$", stream.read(), re.M)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1) and is_running(handle)


def terminate(handle: Handle, *, grace: float) -> None:
    """SIGTERM, then SIGKILL if it still runs after `grace` seconds. Signals no other process, even if the pid was
    reused.

    Raises HostError when even SIGKILL does not end it (a process stuck in the kernel). Does not reap our own children.
    """
    descriptor = open_handle(handle)
    if descriptor is None:
        return
    try:
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, _KILL_DEADLINE)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
            if wait_for_end(descriptor, patience):
                return
    finally:
        os.close(descriptor)
    raise HostError(f"process {handle.pid} does not end, not even by SIGKILL", "It may hang in the kernel (see `ps`).")


def exit_words(status: int) -> str:
    """How a process ended, from its wait status."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"killed by {signal.Signals(number).name}"
        except ValueError:
            # An account's other processes may send any signal, and a real-time one has no name.
            return f"killed by signal {number}"
    return f"exit status {os.waitstatus_to_exitcode(status)}"


def wait_for_end(descriptor: int, timeout: float) -> bool:
    """Whether the process of this pidfd ended within `timeout` seconds."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + timeout
    while True:
        remaining = deadline - time.monotonic()
        if poller.poll(max(remaining, 0.0) * 1000):
            return True
        if remaining <= 0:
            return False


def _run(
    argv: Sequence[str],
    streams: tuple[int, int, int],
    timeout: float,
    inherit: Collection[int],
    environment: Mapping[str, str],
) -> int:
    try:
        process = subprocess.Popen(
            argv,
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            cwd="/",
            env=environment,
            umask=0o022,
            start_new_session=True,
            pass_fds=tuple(inherit),
        )
    except FileNotFoundError as error:
        raise HostError(f"{argv[0]} is not installed", f"Looked in {environment['PATH']}.") from error
    log.debug("running %s", " ".join(argv))
    # Not process.wait(timeout), which sleeps between polls: two hundred useradds took four times as long.
    descriptor = os.pidfd_open(process.pid)
    try:
        has_ended = wait_for_end(descriptor, timeout)
    finally:
        os.close(descriptor)
    if not has_ended:
        _end_group(process)
        raise HostError(f"{argv[0]} was still not done after {timeout:.0f} s and was ended")
    return process.wait()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the tool's process group. The tool is not reaped yet, so the number is still its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _content(descriptor: int) -> str:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")


@dataclass(frozen=True, slots=True)
class _Facts:
    start_time: int
    is_alive: bool


def _facts(pid: int) -> _Facts | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            line = stream.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A process chooses its name, which is in brackets and may contain ") R 1": the last bracket ends it.
    fields = line[line.rindex(b")") + 2 :].split()
    state, threads, start_time = fields[0], int(fields[17]), int(fields[19])
    # If the first thread has ended, the process shows as a zombie even while other threads run.
    return _Facts(start_time, state not in (b"Z", b"X") or threads > 1)
