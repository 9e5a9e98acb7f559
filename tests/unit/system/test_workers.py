"""Workers: frames that a hostile child cannot misuse, a child that holds nothing of ours, and an end in every case.

These workers keep our own uid; what becoming somebody else means is tested on real
accounts in tests/system/test_privileges.py.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nblauncher.errors import HostError, InputError, RefusedError
from nblauncher.model import Account
from nblauncher.system.processes import identify, is_running
from nblauncher.system.workers import MAX_PAYLOAD, read_frame, run_as, start, write_frame

ME = Account("me", os.geteuid(), os.getegid(), Path("/"))
TIMEOUT = 20.0


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    open_ends = set(ends)
    try:
        yield ends
    finally:
        for end in open_ends:
            with contextlib.suppress(OSError):
                os.close(end)


def received(data: bytes, stall: float | None = 5.0):
    """What `read_frame` makes of a peer that sends these bytes and closes."""
    with pipe() as (reader, writer):
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(OSError):
                os.close(reader)
                with os.fdopen(writer, "wb") as stream:
                    stream.write(data)
            os._exit(0)
        os.close(writer)
        try:
            return read_frame(reader, stall)
        finally:
            os.close(reader)
            os.waitpid(pid, 0)


def frame(header: bytes, payload: bytes = b"") -> bytes:
    return struct.pack("!II", len(header), len(payload)) + header + payload


names = st.text() | st.binary().map(os.fsdecode)


@given(st.dictionaries(names, names | st.integers() | st.none(), max_size=5), st.binary(max_size=2000))
def test_a_frame_arrives_as_it_was_sent(header, payload):
    with pipe() as (reader, writer):
        write_frame(writer, header, payload)
        arrived = read_frame(reader)
    assert arrived is not None and (arrived.header, arrived.payload) == (header, payload)


def test_the_end_of_the_stream_is_not_an_error_between_frames():
    assert received(b"") is None


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0",
        struct.pack("!II", 10, 0) + b'{"a"',
        frame(b"{}")[:-1],
        struct.pack("!II", 2, 5) + b"{}abc",
        frame(b"[1]"),
        frame(b'"text"'),
        frame(b""),
        frame(b"{'a': 1}"),
        frame(b"\xff\xfe"),
        frame(b"{" + b'"a":[' * 200_000),
        frame(b"[" * 1_000_000),
        frame(b'{"a":' + b"9" * 100_000 + b"}"),
        struct.pack("!II", 0xFFFFFFFF, 0),
        struct.pack("!II", 2, 0xFFFFFFFF) + b"{}",
        struct.pack("!II", 2, MAX_PAYLOAD + 1) + b"{}",
    ],
    ids=lambda data: repr(data[:24]),
)
def test_a_malformed_frame_is_an_error_of_the_host_never_a_bug(data):
    with pytest.raises(HostError):
        received(data)


def test_a_sender_who_falls_silent_does_not_hold_us_up():
    with pipe() as (reader, writer):
        os.write(writer, struct.pack("!II", 10, 0) + b"{")
        with pytest.raises(TimeoutError):
            read_frame(reader, 0.05)


def test_our_own_frames_are_never_too_large():
    with pipe() as (_, writer), pytest.raises(ValueError, match="too large"):
        write_frame(writer, {}, bytes(MAX_PAYLOAD + 1))


def test_the_answer_is_what_the_function_returned():
    assert run_as(ME, lambda *words: {"words": list(words), "odd": os.fsdecode(b"\xff")}, "a", 1) == {
        "words": ["a", 1],
        "odd": os.fsdecode(b"\xff"),
    }


def test_every_problem_of_an_input_comes_back_as_one():
    def refuse():
        raise InputError(["one", "another"], "what to do")

    with pytest.raises(InputError) as raised:
        run_as(ME, refuse)
    assert raised.value.problems == ("one", "another")


@pytest.mark.parametrize("kind", [HostError, InputError, RefusedError])
def test_an_error_for_the_person_comes_back_as_itself(kind):
    def function() -> None:
        raise kind("what happened", "what to do")

    with pytest.raises(kind) as raised:
        run_as(ME, function)
    assert (raised.value.problem, raised.value.hint) == ("what happened", "what to do")


def test_a_bug_comes_back_with_its_traceback():
    def function_with_a_bug() -> None:
        raise KeyError("no such thing")

    with pytest.raises(RuntimeError, match="function_with_a_bug"):
        run_as(ME, function_with_a_bug)


def test_a_full_disk_is_said_in_words():
    def function() -> None:
        with open("/dev/full", "w") as stream:
            stream.write("x")

    with pytest.raises(HostError, match="disk full"):
        run_as(ME, function)


def test_a_worker_that_dies_of_a_signal_without_a_name_is_an_error_and_no_bug():
    with pytest.raises(HostError, match="killed by signal 40"):
        run_as(ME, lambda: os.kill(os.getpid(), 40))


def test_a_worker_that_dies_is_an_error():
    def function() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(HostError, match="killed by SIGKILL"):
        run_as(ME, function)


def test_a_worker_that_takes_too_long_or_is_stopped_is_killed():
    for function in (signal.pause, lambda: os.kill(os.getpid(), signal.SIGSTOP)):
        worker = start(ME, function)
        handle = identify(worker.pid)
        with pytest.raises(HostError, match="still not done"):
            worker.result(timeout=0.2)
        assert handle is not None and not is_running(handle)


def test_stopping_twice_touches_nobody():
    worker = start(ME, signal.pause)
    assert os.WTERMSIG(worker.stop()) == signal.SIGKILL
    assert worker.stop() == 0


def held() -> list[str]:
    links = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{number}"))
    return links


def test_a_worker_holds_no_descriptor_but_the_ones_it_is_given(tmp_path):
    with (tmp_path / "given").open("w") as given_file, (tmp_path / "secret").open("w") as secret:
        high = os.dup2(secret.fileno(), 900)
        try:
            links = run_as(ME, held, keep=[given_file.fileno()])
        finally:
            os.close(high)
    assert str(tmp_path / "given") in links
    assert str(tmp_path / "secret") not in links


def write_and_log(file: Path) -> None:
    for _ in range(10):  # one of them gets the number that the log's descriptor had
        os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    logging.getLogger("library").error("a line of the log")


def test_what_a_worker_logs_never_lands_in_a_file_that_it_opened(tmp_path):
    log = logging.FileHandler(tmp_path / "log")
    logging.getLogger().addHandler(log)
    try:
        run_as(ME, write_and_log, tmp_path / "work")
        assert (tmp_path / "work").read_text() == ""
        run_as(ME, write_and_log, tmp_path / "work", keep={log.stream.fileno()})
        assert (tmp_path / "log").read_text() == "a line of the log\n"
    finally:
        logging.getLogger().removeHandler(log)
        log.close()


def test_a_workers_standard_streams_lead_nowhere():
    def streams() -> list[str]:
        return [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]

    assert run_as(ME, streams) == ["/dev/null"] * 3


def test_a_print_is_not_an_answer_even_when_we_have_no_standard_streams():
    code = """
import os
from nblauncher.system.workers import run_as
from tests.unit.system.test_workers import ME
log = os.dup(2)
for number in (0, 1, 2):
    os.close(number)
answer = run_as(ME, lambda: [os.write(1, b"noise"), os.write(2, b"noise")])
os.write(log, repr(answer).encode())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.stderr == "[5, 5]"


def test_a_worker_dies_with_its_parent(tmp_path):
    pid_file = tmp_path / "pid"
    parent = os.fork()
    if parent == 0:
        worker = start(ME, signal.pause)
        pid_file.write_text(f"{worker.pid}\n")
        signal.pause()
    deadline = time.monotonic() + TIMEOUT
    while not (pid_file.exists() and pid_file.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    handle = identify(int(pid_file.read_text()))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    while handle is not None and is_running(handle):
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.01)


def test_a_worker_forgets_its_parents_signal_handlers():
    def handlers() -> dict[str, str]:
        return {
            number.name: signal.getsignal(number).name
            for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGCHLD, signal.SIGINT, signal.SIGHUP)
        }

    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGCHLD)}
    try:
        for number in before:
            signal.signal(number, lambda *_: None)
        found = run_as(ME, handlers)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert found == {
        **dict.fromkeys(("SIGUSR1", "SIGTERM", "SIGCHLD"), "SIG_DFL"),
        **dict.fromkeys(("SIGINT", "SIGHUP"), "SIG_IGN"),
    }


def test_several_workers_can_be_waited_for_at_once():
    started = [start(ME, os.getpid) for _ in range(3)]
    pids = {worker.pid for worker in started}
    poller = select.poll()
    for worker in started:
        poller.register(worker)
    assert poller.poll(TIMEOUT * 1000)
    assert {worker.result(TIMEOUT) for worker in started} == pids


@pytest.mark.skipif(os.geteuid() == 0, reason="root may become anybody: tests/system/test_privileges.py")
def test_without_root_a_worker_for_another_account_says_so():
    with pytest.raises(HostError, match="only root can act as kim") as caught:
        run_as(Account("kim", os.geteuid() + 1, os.getegid(), Path("/")), os.getpid)
    assert "sudo" in caught.value.hint


SHORTAGES = {
    "processes": "resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))",
    "descriptors": "resource.setrlimit(resource.RLIMIT_NOFILE, (before - 1, 4096))",  # listing took one
}


def short_of(what: str, code: str) -> str:
    """What a process prints that is not root and may have no more of something."""
    setup = """
import os, resource
from pathlib import Path
from nblauncher.errors import HostError
from nblauncher.model import Account
from nblauncher.planning.plan import Phase, Plan, Report, apply
from nblauncher.system.workers import run_as
from tests.unit.planning.test_plan import Do
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
me = Account("me", os.geteuid(), os.getegid(), Path("/"))
before = len(os.listdir("/proc/self/fd"))
"""
    text = f"{setup}\n{SHORTAGES[what]}\n{code}"
    environment = {"PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONSAFEPATH": "1"}
    argv = [sys.executable, "-c", text]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout or done.stderr  # the log of last resort also writes to stderr


@pytest.mark.parametrize("what", SHORTAGES)
def test_a_host_without_room_for_a_worker_says_no_and_nothing_is_left_open(what):
    said = short_of(
        what,
        """
for _ in range(5):
    try:
        run_as(me, os.getpid)
    except HostError as error:
        print(error.problem)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 4096))
print(len(os.listdir("/proc/self/fd")) - before)
""",
    ).splitlines()
    assert len(said) == 6 and said[-1] == "0", said
    assert all(line.startswith("a file worker of me cannot be started: ") for line in said[:5])


@pytest.mark.parametrize("what", SHORTAGES)
@pytest.mark.parametrize("parallel", [1, 2])
def test_a_step_that_finds_no_room_for_a_worker_is_one_students_failure(what, parallel):
    """In turn or in parallel, the report is there."""
    said = short_of(
        what,
        f"""
steps = tuple(Do((name,), lambda names: run_as(me, os.getpid) and None) for name in ("ada", "bob", "eve"))
report = apply(Plan((Phase("p", steps, parallel={parallel}),)), None, Report.of(("ada", "bob", "eve")))
print([(one.status, "cannot be started" in one.error) for one in report.students.values()])
""",
    )
    assert said == f"{[('failed', True)] * 3}\n"
