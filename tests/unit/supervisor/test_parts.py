"""The supervisor's parts by themselves: messages, the loop, capped logs, its memory, specs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nblauncher.isolation import owners
from nblauncher.model import Account, Handle, ServerState
from nblauncher.server.plain_http import redirect_target
from nblauncher.supervisor import capped_log, ports, registry
from nblauncher.supervisor.capped_log import CappedLog
from nblauncher.supervisor.loop import Loop
from nblauncher.supervisor.registry import Remembered
from nblauncher.supervisor.restarts import Restarts
from nblauncher.supervisor.spawners import server_environment
from nblauncher.supervisor.specs import FrontPageSpec, ServerReport, ServerSpec, SpecError
from nblauncher.system import processes
from nblauncher.system.descriptors import Listener
from nblauncher.system.wire import Reader, WireError, close_all, pack, send

TWO = {"ask": "two"}
SPEC = ServerSpec("ada", 25000, 25000, "/home/ada", 8001, "/bin/bash", {"A": "b"})


def test_messages_arrive_whole_with_their_descriptors():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        memory = os.memfd_create("x")
        reader = Reader()
        got = []
        with ThreadPoolExecutor(1) as pool:
            # More than fits the socket's buffer.
            sent = pool.submit(lambda: [send(ours, {"ask": "one", "text": "é" * 100_000}, [memory]), send(ours, TWO)])
            while len(got) < 2:
                reader.feed(theirs)
                while (message := reader.next()) is not None:
                    got.append(message)
            sent.result()
        assert [message["ask"] for message, _descriptors in got] == ["one", "two"]
        assert [len(descriptors) for _message, descriptors in got] == [1, 0]
        assert os.fstat(got[0][1][0]).st_ino == os.fstat(memory).st_ino
        assert not os.get_inheritable(got[0][1][0])
        close_all([memory, *got[0][1]])


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader_otherwise_than_by_a_wire_error(content):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(content + b"x")
        reader = Reader()
        reader.feed(theirs)
        try:
            while reader.next() is not None:
                pass
        except WireError:
            pass
        reader.close()


@pytest.mark.parametrize("content", [struct.pack("!I", 1 << 30), pack({})[:4] + b"[]", struct.pack("!I", 4) + b"nope"])
def test_what_is_not_a_message_is_refused(content):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(content)
        reader = Reader()
        reader.feed(theirs)
        with pytest.raises(WireError):
            reader.next()


def test_unannounced_descriptors_do_not_pile_up():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader = Reader()
        before = len(os.listdir("/proc/self/fd"))
        socket.send_fds(ours, [b"x"], [0, 0, 0])
        reader.feed(theirs)
        assert len(os.listdir("/proc/self/fd")) == before + 3
        reader.close()
        assert len(os.listdir("/proc/self/fd")) == before


def test_the_loop_calls_timers_in_order_and_survives_what_is_forgotten():
    loop = Loop()
    said: list[str] = []
    cancelled = loop.later(0.0, lambda: said.append("never"))
    cancelled.cancel()
    loop.later(0.02, lambda: (said.append("second"), loop.stop())[0])
    loop.later(0.0, lambda: said.append("first"))
    a, b = socket.socketpair(), socket.socketpair()
    for ours, theirs in (a, b):
        theirs.send(b"x")
        # Both are ready in one round; whichever comes first takes the other away.
        loop.watch(
            ours.fileno(), lambda: (said.append("readable"), [loop.forget(one.fileno()) for one in (a[0], b[0])])[0]
        )
    loop.run(lambda: None)
    loop.close()
    assert sorted(said) == ["first", "readable", "second"] and said.index("first") < said.index("second")
    for one in (*a, *b):
        one.close()


def test_signals_arrive_in_the_loop():
    loop = Loop()
    before = signal.getsignal(signal.SIGUSR1)
    try:
        loop.on_signal(signal.SIGUSR1, loop.stop)
        loop.later(0.0, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        loop.run(lambda: None)
    finally:
        loop.close()
        signal.signal(signal.SIGUSR1, before)


def drained(tmp_path, content: bytes) -> tuple[CappedLog, Loop]:
    loop = Loop()
    reading, writing = os.pipe()
    log = CappedLog(loop, reading, tmp_path / "ada.log")
    done = loop.later(30, loop.stop)
    rest = memoryview(content)
    os.set_blocking(writing, False)

    def feed() -> None:
        nonlocal rest
        with contextlib.suppress(BlockingIOError):
            rest = rest[os.write(writing, rest[: 1 << 16]) :]
        if rest:
            loop.later(0.005, feed)
        else:
            os.close(writing)
            loop.later(0.0, lambda: (log.close(), done.cancel(), loop.stop())[0])

    feed()
    loop.run(lambda: None)
    loop.close()
    return log, loop


def test_a_log_keeps_lines_and_escapes_what_moves_a_cursor(tmp_path):
    log, _loop = drained(tmp_path, "héllo\r\n\x1b[31mred\u202e\nno end".encode() + b"\xff")
    assert (tmp_path / "ada.log").read_text() == "héllo\n\\x1b[31mred\\u202e\nno end\\xff\n"
    assert log.last_lines() == ("héllo", "\\x1b[31mred\\u202e", "no end\\xff")


@pytest.mark.parametrize("line", [b"x" * 99 + b"\n", b"\n", b"x"])
def test_a_log_never_outgrows_its_cap(tmp_path, line):
    drained(tmp_path, (line * (3_000_000 // len(line) + 1))[:3_000_000])
    files = list(tmp_path.iterdir())
    assert sum(file.stat().st_size for file in files) <= 2 * capped_log.CAP
    assert "were left out here" in (tmp_path / "ada.log").read_text()


def test_a_log_is_rotated_once(tmp_path):
    (tmp_path / "ada.log").write_bytes(b"x" * (capped_log.CAP - 10))
    drained(tmp_path, b"the first line of the new one\n")
    assert (tmp_path / "ada.log").read_text() == "the first line of the new one\n"
    assert (tmp_path / "ada.log.1").stat().st_size == capped_log.CAP - 10


def test_a_planted_link_is_not_followed(tmp_path):
    (tmp_path / "target").write_text("")
    (tmp_path / "ada.log").symlink_to(tmp_path / "target")
    drained(tmp_path, b"hello\n")
    assert (tmp_path / "target").read_text() == ""


REMEMBERED = Remembered("ada", 25000, 8001, (Listener(8001, 2, 77),), "ready", "", Handle(5, 6), 88, 1.5)


@pytest.mark.skipif(os.geteuid() != 0, reason="the file must be root's")
def test_the_supervisor_remembers_what_it_saved_since_the_host_started(tmp_path):
    file = tmp_path / registry.FILE
    kept = registry.Registry(file)
    kept.save({"ada": REMEMBERED, "bob": replace(REMEMBERED, username="bob")})
    kept.save({"bob": replace(REMEMBERED, username="bob", state="stopped"), "eve": None})
    assert registry.load(file) == (REMEMBERED, replace(REMEMBERED, username="bob", state="stopped"))
    kept.save({"bob": None})
    assert registry.load(file) == (REMEMBERED,)
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text(file.read_text().replace(registry._boot_id(), "another boot"))
    assert registry.load(file) == ()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"version": 1, "boot_id": 3, "students": 7}', "\x00\xff"])
def test_a_damaged_memory_is_none(tmp_path, content):
    file = tmp_path / registry.FILE
    file.write_text(content)
    file.chmod(0o600)
    assert registry.load(file) == ()
    assert registry.load(tmp_path / "missing") == ()


def test_specs_and_reports_travel_as_json():
    assert ServerSpec.from_json(SPEC.to_json()) == SPEC
    front = FrontPageSpec(Account("nblauncher", 999, 995, Path("/")), 8000, ("/bin/true", "x"))
    assert FrontPageSpec.from_json(front.to_json()) == front
    report = ServerReport("ada", 1, 2, ServerState.FAILED, Handle(3, 4), "why", "/g", 5.0, ("a",), (6,))
    assert ServerReport.from_json(report.to_json()) == report
    of_today = replace(report, kernels=2, busy_kernels=1, saved_at=3.0, used_at=4.0, signed_in_at=5.0)
    assert ServerReport.from_json(of_today.to_json()) == of_today
    new = {"kernels", "busy_kernels", "saved_at", "used_at", "signed_in_at"}
    of_an_older_class = {key: value for key, value in report.to_json().items() if key not in new}
    assert ServerReport.from_json(of_an_older_class) == report


@pytest.mark.parametrize(
    "changed",
    [
        {"username": "../x"},
        {"username": "root\n"},
        {"uid": 0},
        {"uid": True},
        {"uid": -1},
        {"gid": 0},
        {"port": 0},
        {"port": 65536},
        {"home": "relative"},
        {"home": "/a\0b"},
        {"shell": None},
        {"environment": []},
        {"environment": {"A": 1}},
        {"environment": {"A=B": "x"}},
        {"environment": {"": "x"}},
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(changed):
    with pytest.raises(SpecError):
        ServerSpec.from_json({**SPEC.to_json(), **changed})


def test_the_environment_cannot_be_made_that_of_another_account():
    built = server_environment(
        SPEC.account,
        language="C.UTF-8",
        time_zone="",
        jupyter={"JUPYTER_RUNTIME_DIR": Path("/run/x")},
        wanted={"HOME": "/root", "USER": "root", "JUPYTER_RUNTIME_DIR": "/tmp", "LANG": "de_DE.UTF-8", "COURSE": "x"},
    )
    assert built == {
        "HOME": "/home/ada",
        "USER": "ada",
        "LOGNAME": "ada",
        "SHELL": "/bin/bash",
        "LANG": "de_DE.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "JUPYTER_RUNTIME_DIR": "/run/x",
        "COURSE": "x",
    }


def test_a_server_is_started_again_later_and_later_and_five_times_a_minute_at_most():
    restarts = Restarts()
    assert [restarts.pause(float(now)) for now in range(6)] == [0.0, 1.0, 2.0, 4.0, 8.0, None]
    assert restarts.pause(59.0) is None
    assert restarts.pause(200.0) == 0.0


def test_how_a_process_ended_is_reported_in_words():
    assert processes.exit_words(9) == "killed by SIGKILL"
    assert processes.exit_words(256 * 3) == "exit status 3"
    assert processes.exit_words(63) == "killed by signal 63"


@pytest.mark.parametrize(
    "host, target, location",
    [
        ("lab:8000", "/user/ada/tree?x=1", "https://lab:8000/user/ada/tree?x=1"),
        ("[::1]:8001", "/", "https://[::1]:8001/"),
        ("lab.example", "/", "https://lab.example/"),
        ("", "/", None),
        ("evil/../x", "/", None),
        ("a b", "/", None),
        ("lab", "//evil.example/", None),
        ("lab", "https://evil.example/", None),
        ("lab", "/a\r\nSet-Cookie: x", None),
        ("user@lab", "/", None),
    ],
)
def test_plain_http_is_redirected_to_the_same_place_or_nowhere(host, target, location):
    assert redirect_target(host, target) == location


def test_a_name_with_a_carriage_return_forges_no_uid():
    """A student's server may call itself so; a supervisor that failed on it could not adopt any server."""
    renamed = "import ctypes; ctypes.CDLL(None).prctl(15, b'\\rUid: x', 0, 0, 0); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", renamed], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        status = Path(f"/proc/{process.pid}/status").read_bytes()
        assert b"Name:\t\rUid: x\n" in status
        assert owners.uids_in(status) == (os.getuid(), os.geteuid(), os.geteuid(), os.geteuid())
        assert process.pid in owners.of_user(os.getuid())
        process.communicate(b"\n")


def test_a_listener_that_a_student_shut_down_listens_again():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen(1)
        with held.dup() as inherited:
            inherited.shutdown(socket.SHUT_RDWR)
        ports.listen_again([held])
        with socket.create_connection(held.getsockname(), timeout=5):
            held.settimeout(5)
            held.accept()[0].close()
