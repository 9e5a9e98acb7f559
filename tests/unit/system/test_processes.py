"""Tools are run without a shell, a terminal or our secrets; a process is never mistaken for another."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nblauncher.errors import HostError
from nblauncher.model import Handle, Secret
from nblauncher.system.processes import identify, is_running, open_handle, run, terminate

TIMEOUT = 20.0


@contextlib.contextmanager
def started(*argv: str, **popen: object) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, **popen)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-c", code)


def wait_until(fact, *arguments) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not fact(*arguments):
        assert time.monotonic() < deadline, f"{fact.__name__} did not come true"
        time.sleep(0.01)


def test_a_tool_gets_its_input_and_gives_its_output():
    assert run(["cat"], input="a line\n") == "a line\n"
    assert run(["cat"], input=Secret("ünï")) == "ünï"
    assert run(["cat"]) == ""


def test_no_shell_reads_the_arguments(tmp_path):
    nasty = f"$(touch {tmp_path}/made); `touch {tmp_path}/made` | > {tmp_path}/made 'a\"b"
    assert run(["printf", "%s", nasty]) == nasty
    assert not (tmp_path / "made").exists()


def test_a_tool_sees_nothing_of_our_environment_folder_or_umask(monkeypatch, tmp_path):
    monkeypatch.setenv("LD_PRELOAD_OF_MINE", "x")
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o077)
    try:
        lines = run(["sh", "-c", "env; pwd; umask"]).splitlines()
    finally:
        os.umask(before)
    assert lines[-2:] == ["/", "0022"]
    assert {line.split("=")[0] for line in lines[:-2]} <= {"PATH", "LC_ALL", "PWD", "OLDPWD", "SHLVL", "_"}


def test_a_tool_holds_only_the_descriptors_it_inherits(tmp_path):
    with (tmp_path / "secret").open("w") as secret, (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(secret.fileno(), True)
        held = run(["sh", "-c", "ls -l /proc/$$/fd"], inherit=[lock.fileno()])
    assert str(tmp_path / "lock") in held
    assert str(tmp_path / "secret") not in held


def test_a_failure_ends_with_the_tools_last_words():
    with pytest.raises(HostError, match=r"^sh: no space left$"):
        run(["sh", "-c", "echo fine; echo first >&2; echo; echo no space left >&2; echo >&2; exit 3"])
    with pytest.raises(HostError, match=r"^false: exit status 1$"):
        run(["false"])


def test_a_missing_tool_is_named():
    with pytest.raises(HostError, match="nbta-no-such-tool is not installed"):
        run(["nbta-no-such-tool"])


def test_a_tool_that_takes_too_long_is_ended_with_what_it_started(tmp_path):
    pid_file = tmp_path / "pid"
    with pytest.raises(HostError, match="still not done after 1 s"):
        run(["sh", "-c", f"sleep 1000 & echo $! > {pid_file}; wait"], timeout=1.0)
    child = identify(int(pid_file.read_text()))
    if child is not None:
        wait_until(lambda: not is_running(child))


def test_a_daemon_that_keeps_stdout_does_not_make_us_wait(tmp_path):
    pid_file = tmp_path / "pid"
    assert run(["sh", "-c", f"sleep 1000 & echo $! > {pid_file}; echo done"], timeout=TIMEOUT) == "done\n"
    child = identify(int(pid_file.read_text()))
    assert child is not None
    terminate(child, grace=0)


def test_secrets_reach_neither_log_nor_error(caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(HostError) as failure:
        run(["sh", "-c", "cat > /dev/null; echo failed >&2; exit 1"], input=Secret("hunter2-hunter2"))
    assert "hunter2" not in caplog.text + str(failure.value)
    assert "failed" in caplog.text


def test_control_c_waits_until_the_tool_is_done(tmp_path):
    code = f"""
from nblauncher.system import interruption
from nblauncher.system.processes import run
interruption.listen()
try:
    run(["sh", "-c", "cd {tmp_path}; : > started; while ! test -e go; do sleep 0.05; done; : > done"])
    interruption.check()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    with started(*python(code), start_new_session=True) as process:
        wait_until((tmp_path / "started").exists)
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGINT)
        (tmp_path / "go").touch()
        assert process.stdout.read() == b"interrupted\n"
        assert (tmp_path / "done").exists()


def test_a_lock_stays_held_until_the_tool_ends_also_when_we_are_killed(tmp_path):
    lock, ready, go = tmp_path / "lock", tmp_path / "ready", tmp_path / "go"
    code = f"""
import fcntl
from nblauncher.system.processes import run
lock = open({str(lock)!r}, "w")
fcntl.flock(lock, fcntl.LOCK_EX)
run(["sh", "-c", ": > {ready}; while ! test -e {go}; do sleep 0.05; done"], inherit=[lock.fileno()])
"""
    with started(*python(code)) as process:
        wait_until(ready.exists)
        process.kill()
        process.wait()
    assert not can_lock(lock)
    go.touch()
    wait_until(can_lock, lock)


def can_lock(file: Path) -> bool:
    with file.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_a_process_is_found_again_by_pid_and_start_time():
    with started("sleep", "1000") as process:
        handle = identify(process.pid)
        assert handle is not None and is_running(handle)
        assert identify(os.getpid()) != handle
        impostor = Handle(handle.pid, handle.start_time + 1)
        assert not is_running(impostor)
        assert open_handle(impostor) is None
        terminate(impostor, grace=0)
        assert is_running(handle)


def test_a_name_with_brackets_does_not_confuse_us(tmp_path):
    program = tmp_path / "a) R 1 1 (x"
    program.symlink_to("/bin/sleep")
    with started("sleep", "1000") as plain, started(str(program), "1000") as odd:
        wait_until(lambda: b"a) R" in Path(f"/proc/{odd.pid}/stat").read_bytes())
        ordinary, named = identify(plain.pid), identify(odd.pid)
        assert ordinary is not None and named is not None
        assert 0 <= named.start_time - ordinary.start_time < 100 * TIMEOUT
        assert is_running(named)


def test_a_zombie_is_not_running():
    with started("sleep", "1000") as process:
        handle = identify(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert handle is not None and not is_running(handle)
        assert open_handle(handle) is None


THREAD_OUTLIVES = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
print("ready", flush=True)
ctypes.CDLL(None).syscall({exit}, 0)
"""
SYS_EXIT = {"x86_64": 60, "aarch64": 93}


@pytest.mark.skipif(os.uname().machine not in SYS_EXIT, reason="the number of exit(2) is not known here")
def test_a_process_whose_first_thread_ended_still_runs_and_is_terminated():
    with started(*python(THREAD_OUTLIVES.format(exit=SYS_EXIT[os.uname().machine]))) as process:
        assert process.stdout.readline() == b"ready\n"
        wait_until(lambda: b") Z " in Path(f"/proc/{process.pid}/stat").read_bytes())
        handle = identify(process.pid)
        assert handle is not None and is_running(handle)
        terminate(handle, grace=TIMEOUT)
        assert not is_running(handle)


def test_terminate_asks_first_and_kills_after_the_grace():
    polite = (
        "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(7))\nprint(1, flush=True)\ntime.sleep(999)"
    )
    deaf = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint(1, flush=True)\ntime.sleep(999)"
    for code, grace, status in ((polite, TIMEOUT, 7), (deaf, 0.1, -signal.SIGKILL)):
        with started(*python(code)) as process:
            process.stdout.readline()
            handle = identify(process.pid)
            assert handle is not None
            terminate(handle, grace=grace)
            assert process.wait() == status


def test_terminating_what_has_ended_is_nothing():
    with started("true") as process:
        handle = identify(process.pid)
        process.wait()
    assert handle is not None
    terminate(handle, grace=0)
    assert identify(handle.pid) != handle
