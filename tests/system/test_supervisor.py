"""What the supervisor promises: whose processes end, whose ports are whose, and what it survives."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from nblauncher.commands.running.readiness import start_servers
from nblauncher.errors import HostError
from nblauncher.isolation.cgroups import Kind
from nblauncher.model import Account, Limits, ServerState, TlsFiles
from nblauncher.supervisor import capped_log, client
from nblauncher.supervisor.requests import PortWanted
from nblauncher.system import workers
from nblauncher.system.descriptors import sealed
from nblauncher.system.wire import send
from tests.jupyter_client import JupyterClient
from tests.running import PASSWORD, RunningClass, eventually, limited_by, made_account, running_class

pytestmark = pytest.mark.system

FRONT = 18520
ADA, BOB, TAKEN = 18521, 18522, 18528


@pytest.fixture(scope="module")
def ada() -> Iterator[Account]:
    with made_account("nbtvsada", 25010) as account:
        yield account


@pytest.fixture(scope="module")
def bob() -> Iterator[Account]:
    with made_account("nbtvsbob", 25011) as account:
        yield account


@pytest.fixture
def course(tmp_path: Path) -> Iterator[RunningClass]:
    with running_class(tmp_path, "nbtv-super", FRONT) as running:
        yield running


@contextmanager
def signed_in(course: RunningClass, account: Account, port: int, folder: Path) -> Iterator[JupyterClient]:
    ca = folder / "ca.pem"
    ca.write_bytes(course.ca.certificate)
    with JupyterClient(account.username, port, ca) as one:
        assert one.sign_in(PASSWORD).status_code == 302
        yield one


def processes_of(account: Account) -> set[int]:
    return {
        one.pid
        for one in psutil.process_iter(["uids", "status"])
        if one.info["uids"] and one.info["uids"].real == account.uid and one.info["status"] != psutil.STATUS_ZOMBIE
    }


@contextmanager
def ssh_session(account: Account) -> Iterator[subprocess.Popen[bytes]]:
    """What sshd would have started: a shell of the student's that does not come from the server."""
    session = subprocess.Popen(
        ["sleep", "600"], user=account.uid, group=account.gid, extra_groups=[], start_new_session=True
    )
    try:
        yield session
    finally:
        session.kill()
        session.wait()


ESCAPE = """
import os, time
for way in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            if way == 2:
                os.closerange(0, 256)
            while True:
                time.sleep(0.01)
                if way == 1 and os.fork() > 0:
                    os._exit(0)
        os._exit(0)
"""


def test_a_stop_ends_all_that_came_from_the_server_and_no_ssh_session(course, ada, bob, tmp_path):
    course.ready((ada, ADA), (bob, BOB))
    with ssh_session(ada) as session, signed_in(course, ada, ADA, tmp_path) as browser:
        browser.run(ESCAPE)
        browser.terminal("(setsid sleep 600 &) ; echo gone-$((1+1))", until="gone-2")
        eventually(lambda: len(processes_of(ada)) >= 7)
        course.supervisor.stop_servers([ada.username])
        assert processes_of(ada) == {session.pid}
    report = course.report(ada)
    assert (report.state, report.handle, report.unproven) == (ServerState.STOPPED, None, ())
    assert course.report(bob).state is ServerState.READY
    assert course.handle(bob).pid in processes_of(bob)


def test_a_server_that_does_not_listen_to_sigterm_is_ended(course, ada):
    course.ready((ada, ADA))
    os.kill(course.handle(ada).pid, signal.SIGSTOP)
    course.supervisor.stop_servers([ada.username], grace=0.2)
    assert not processes_of(ada)


@contextmanager
def covered(folder: str, options: str) -> Iterator[None]:
    """A read-only tmpfs over a folder, seen by our mount namespace (and the supervisor's) only."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_without_cgroups_what_can_be_proven_is_ended_and_the_rest_is_listed(ada, tmp_path):
    with covered("/sys/fs/cgroup", "ro"), running_class(tmp_path, "nbtv-none", FRONT) as course:
        course.ready((ada, ADA))
        assert course.supervisor.hello().groups == Kind.NONE.value
        with ssh_session(ada) as session, signed_in(course, ada, ADA, tmp_path) as browser:
            browser.run(ESCAPE)
            report = course.supervisor.stop_servers([ada.username])[0]
            assert report.unproven == (session.pid,)
            assert processes_of(ada) == {session.pid}


@pytest.mark.skipif(not Path("/sys/fs/cgroup/unified").is_dir(), reason="needs a host with v1 and v2")
def test_a_v1_hierarchy_does_as_well(ada, tmp_path):
    with covered("/sys/fs/cgroup/unified", "ro"), running_class(tmp_path, "nbtv-vone", FRONT) as course:
        course.ready((ada, ADA))
        assert course.supervisor.hello().groups == Kind.V1.value
        with ssh_session(ada) as session, signed_in(course, ada, ADA, tmp_path) as browser:
            browser.run(ESCAPE)
            course.supervisor.stop_servers([ada.username])
            assert processes_of(ada) == {session.pid}


def test_no_groups_are_left_behind(ada, tmp_path):
    with running_class(tmp_path, "nbtv-super", FRONT) as course:
        course.ready((ada, ADA))
        group = Path(course.report(ada).group)
        assert str(course.handle(ada).pid) in (group / "cgroup.procs").read_text().split()
    assert not group.exists() and not group.parent.exists()


def squat(port: int) -> list[str]:
    """Every way to bind and listen that a student has; those that worked."""
    got = []
    for family, address in (
        (socket.AF_INET, "0.0.0.0"),
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET6, "::"),
        (socket.AF_INET6, "::1"),
    ):
        for option in (None, socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            with socket.socket(family, socket.SOCK_STREAM) as one:
                if option is not None:
                    one.setsockopt(socket.SOL_SOCKET, option, 1)
                try:
                    one.bind((address, port))
                    one.listen()
                except OSError:
                    continue
                got.append(f"{address} {option}")
    return got


def test_nobody_squats_on_a_port_whose_server_is_down(course, ada, bob):
    course.bind((ada, ADA))
    assert workers.run_as(bob, squat, ADA) == []
    course.ready((ada, ADA))
    course.supervisor.stop_servers([ada.username])
    assert course.report(ada).state is ServerState.STOPPED
    assert workers.run_as(bob, squat, ADA) == []
    assert workers.run_as(bob, squat, FRONT + 9) != [], "the test itself can squat"


def test_a_taken_port_is_told_with_its_holder_and_the_others_are_held(course, ada, bob):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", TAKEN))
        taken.listen()
        wanted = [PortWanted(TAKEN, "nbtvsada", ada.uid), PortWanted(BOB, "nbtvsbob", bob.uid)]
        errors, _notes = course.supervisor.bind(wanted)
    assert set(errors) == {"nbtvsada"}
    assert f"port {TAKEN} is already used by" in errors["nbtvsada"].problem
    assert f"(pid {os.getpid()}, root)" in errors["nbtvsada"].problem
    course.bind((ada, TAKEN))


def test_a_server_that_dies_while_it_starts_is_told_at_once_with_its_last_words(course, ada, bob):
    junk = TlsFiles(b"-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n", b"no key")
    course.bind((ada, ADA), (bob, BOB))
    orders = [course.order(ada, ADA, tls=junk), course.order(bob, BOB)]
    told: list[str] = []
    outcomes = start_servers(
        course.supervisor, orders, concurrency=2, deadline=120, on_event=lambda outcome: told.append(outcome.username)
    )
    found = {outcome.username: outcome for outcome in outcomes}
    assert found["nbtvsada"].state is ServerState.FAILED and "exit status 1" in found["nbtvsada"].reason
    assert any("ssl" in line.lower() for line in found["nbtvsada"].last_lines), found["nbtvsada"].last_lines
    assert found["nbtvsbob"].state is ServerState.READY
    assert sorted(told) == ["nbtvsada", "nbtvsbob"]


def kill(course: RunningClass, account: Account) -> int:
    """End the student's server, once it answers; its pid."""
    eventually(lambda: course.report(account).state is ServerState.READY)
    pid = course.handle(account).pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: course.report(account).state is not ServerState.READY)
    return pid


def test_a_server_that_dies_is_started_again_without_its_old_kernels(course, ada, tmp_path):
    course.ready((ada, ADA))
    with signed_in(course, ada, ADA, tmp_path) as browser:
        browser.run("1", browser.start_kernel())
        old = processes_of(ada)
        assert len(old) > 1
        kill(course, ada)
        eventually(lambda: course.report(ada).state is ServerState.READY)
        assert not processes_of(ada) & old
        assert course.report(ada).reason == "killed by SIGKILL; it was started again"
        assert browser.api("GET", "kernels").json() == []


MEMORY = Path("/sys/fs/cgroup/memory")


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """The process list of a control group with 40 MB."""
    unified = not MEMORY.is_dir()
    group = (MEMORY.parent if unified else MEMORY) / "nbtv-small"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"{group} cannot be made here: {error.strerror}")
    try:
        limit = group / ("memory.max" if unified else "memory.limit_in_bytes")
        if not limit.exists():
            pytest.skip("control groups here do not limit memory")
        limit.write_text("40000000")
        yield group / "cgroup.procs"
    finally:
        eventually(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_that_memory_ran_out_is_said(course, ada, tmp_path):
    if not limited_by(course.paths.course, "memory"):
        pytest.skip("control groups here do not limit memory")
    course.ready((ada, ADA), limits=Limits(memory=200_000_000))
    before = course.handle(ada)
    with signed_in(course, ada, ADA, tmp_path) as browser, contextlib.suppress(httpx.TransportError):
        browser.api("PUT", "contents/x.txt", json={"type": "file", "format": "text", "content": "x" * 150_000_000})
    eventually(lambda: course.is_up_again(ada, before))
    reason = course.report(ada).reason
    assert reason == "killed by SIGKILL, because memory ran out; it was started again"


def test_memory_that_ran_out_elsewhere_is_not_said(course, ada, small_memory):
    if not limited_by(course.paths.course, "memory"):
        pytest.skip("groups here do not count whose memory ran out")
    course.ready((ada, ADA))
    before = course.handle(ada)
    eater = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('0'); b'x' * 60_000_000"
    eaten = subprocess.run([sys.executable, "-c", eater, str(small_memory)], check=False)
    assert eaten.returncode == -signal.SIGKILL, "the OOM killer ended it"
    psutil.Process(before.pid).kill()
    eventually(lambda: course.is_up_again(ada, before))
    assert course.report(ada).reason == "killed by SIGKILL; it was started again"


@pytest.mark.slow
def test_a_server_that_keeps_dying_stays_down_and_keeps_its_port(course, ada, bob):
    course.ready((ada, ADA))
    for _ in range(5):
        kill(course, ada)
    kill(course, ada)
    report = course.report(ada)
    assert report.state is ServerState.FAILED and "killed by SIGKILL; it was started again 5 times" in report.reason
    assert workers.run_as(bob, squat, ADA) == [] and not processes_of(ada)
    course.ready((ada, ADA))


def test_a_server_that_is_stopped_before_it_is_started_again_stays_down(course, ada):
    course.ready((ada, ADA))
    kill(course, ada)
    kill(course, ada)  # now there is a pause of a second
    course.supervisor.stop_servers([ada.username])
    assert course.report(ada).state is ServerState.STOPPED and course.report(ada).reason == "it was shut down"
    with pytest.raises(AssertionError, match="did not become so in time"):
        eventually(lambda: course.report(ada).state is not ServerState.STOPPED or processes_of(ada), patience=3)


def test_a_server_that_never_answered_is_not_started_again(course, ada):
    course.bind((ada, ADA))
    course.supervisor.start_server(course.order(ada, ADA))
    os.kill(course.handle(ada).pid, signal.SIGKILL)
    eventually(lambda: course.report(ada).state is ServerState.FAILED)
    assert course.report(ada).reason == "killed by SIGKILL"


def test_a_server_that_does_not_answer_in_time_is_ended(course, ada):
    assert course.up((ada, ADA), deadline=0.0, spawner="process")[0].reason == "it did not answer in time"
    assert not processes_of(ada)
    assert course.report(ada).state is ServerState.FAILED
    course.ready((ada, ADA))


def test_starting_again_starts_nobody_twice(course, ada):
    course.ready((ada, ADA))
    before = course.handle(ada)
    outcomes = course.up((ada, ADA))
    assert outcomes[0].was_running and course.handle(ada) == before


FLOOD = """
import os, threading

def flood():
    while True:
        os.write(2, b"\\x1b[2J" + b"x" * 4091 + b"\\n")

threading.Thread(target=flood, daemon=True).start()
"""


def test_a_flood_of_output_is_capped_and_keeps_nobody_waiting(course, ada, bob, tmp_path):
    """A config of the student's that floods the server's own standard error; its pipe can be opened by nobody else."""

    def plant() -> None:
        (ada.home / ".jupyter").mkdir(exist_ok=True)
        (ada.home / ".jupyter" / "jupyter_server_config.py").write_text(FLOOD)

    workers.run_as(ada, plant)
    try:
        course.ready((ada, ADA), (bob, BOB))
    finally:
        subprocess.run(["rm", "-rf", str(ada.home / ".jupyter")], check=True)
    log = client.log_file(course.paths, ada.username)
    eventually(lambda: "were left out here" in log.read_text())
    with signed_in(course, bob, BOB, tmp_path) as browser:
        assert browser.run("6 * 7") == "42"
    course.supervisor.stop_servers([ada.username])
    sizes = [file.stat().st_size for file in course.paths.logs.glob("nbtvsada.log*")]
    assert len(sizes) <= 2 and max(sizes) <= capped_log.CAP
    assert b"\x1b" not in log.read_bytes()
    assert log.stat().st_mode & 0o777 == 0o600 and log.stat().st_uid == 0


def garbage(path: Path, content: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(30)
        one.connect(str(path))
        one.sendall(content)
        one.shutdown(socket.SHUT_WR)
        return one.recv(65536)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("!I", 0xFFFFFFFF),
        struct.pack("!I", 4) + b"{}",
        struct.pack("!I", 4) + b"nope",
        struct.pack("!I", 2) + b"[]",
        struct.pack("!I", 2) + b"{}",
        *(
            struct.pack("!I", len(text)) + text
            for text in (
                b'{"ask": "hello", "descriptors": 3}',
                b'{"ask": ["hello"]}',
                b'{"ask": "bind", "ports": [{"port": "22", "username": "x"}]}',
                b'{"ask": "bind", "ports": [{"port": 70000}]}',
                b'{"ask": "bind", "ports": [{"port": 18529, "username": "../x", "uid": 1}]}',
                b'{"ask": "bind", "ports": [{"port": 18529, "username": "x", "uid": 0}]}',
                b'{"ask": "bind", "ports": [{"port": 18529, "username": "x", "uid": true}], "addresses": ["nowhere"]}',
                b'{"ask": "start_server", "server": {"username": "root", "uid": 0}}',
                b'{"ask": "stop_servers", "usernames": 7, "grace": 1}',
                b'{"ask": "stop_servers", "usernames": [], "grace": -1}',
                b'{"ask": "start_front_page", "front": {}}',
                b"[" * 100_000,
            )
        ),
    ],
)
def test_nonsense_is_refused_and_survived(course, content):
    pid = course.supervisor.hello().pid
    answer = garbage(course.paths.supervisor_socket, content)
    assert not answer or b"problem" in answer
    assert course.supervisor.hello().pid == pid


def test_without_descriptors_nothing_starts_and_everything_goes_on(course, ada, bob):
    course.ready((ada, ADA))
    course.bind((bob, BOB))
    before, supervisor = course.handle(ada), psutil.Process(course.supervisor.hello().pid)
    limits = supervisor.rlimit(psutil.RLIMIT_NOFILE)
    supervisor.rlimit(psutil.RLIMIT_NOFILE, (3, limits[1]))  # what is open stays open
    try:
        with pytest.raises(HostError):
            course.ready((bob, BOB))
        spent = supervisor.cpu_times()
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(str(course.paths.supervisor_socket))
            time.sleep(1)
        assert sum(supervisor.cpu_times()[:2]) - sum(spent[:2]) < 0.5, "it turns in circles"
    finally:
        supervisor.rlimit(psutil.RLIMIT_NOFILE, limits)
    course.reconnect()
    course.ready((bob, BOB))
    assert course.handle(ada) == before and supervisor.is_running()


def test_only_sealed_memory_files_are_taken(course, ada):
    course.bind((ada, ADA))
    writable = os.memfd_create("writable")
    for descriptors in ([], [writable], [sealed(b"{}", ada), writable, writable]):
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(str(course.paths.supervisor_socket))
            spec = course.order(ada, ADA).spec
            send(one, {"ask": "start_server", "id": 1, "server": spec.to_json()}, descriptors)
            assert b"sealed memory files" in one.recv(65536)
    assert not processes_of(ada)


def test_a_client_that_does_not_read_keeps_nobody_waiting(course, ada):
    course.bind((ada, ADA))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(course.paths.supervisor_socket))
        silent.settimeout(5)
        request = b'{"ask": "servers"}'
        with pytest.raises(TimeoutError):
            while True:
                silent.sendall(struct.pack("!I", len(request)) + request)
        assert course.supervisor.hello().pid


def test_status_is_answered_while_servers_start_and_stop(course, ada, bob):
    course.bind((ada, ADA), (bob, BOB))
    order = course.order(ada, ADA)
    report = course.supervisor.start_server(order)
    assert report.state is ServerState.STARTING
    assert course.report(bob).state is ServerState.STOPPED
    course.ready((ada, ADA))
    os.kill(course.handle(ada).pid, signal.SIGSTOP)
    stopping = client.connect(course.paths)
    assert stopping is not None
    with stopping, socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(course.paths.supervisor_socket))
        send(asking, {"ask": "stop_servers", "usernames": ["nbtvsada"], "grace": 60, "id": 1})
        eventually(lambda: course.report(ada).reason == "is being stopped")
        with pytest.raises(HostError, match="still being stopped"):
            stopping.start_server(order)
        os.kill(course.handle(ada).pid, signal.SIGKILL)
        asking.settimeout(60)
        assert b'"state":"stopped"' in asking.recv(65536)


def test_the_supervisor_outlives_the_terminal_that_started_it(tmp_path):
    code = "from nblauncher.supervisor import client\nfrom nblauncher.paths import CoursePaths\n"
    code += "print(client.start(CoursePaths('nbtv-term')).hello().pid)"
    course = RunningClass(tmp_path, "nbtv-term", FRONT)
    try:
        # `script` gives it a terminal, whose end hangs up whatever is in its session.
        command = f'{sys.executable} -c "{code}"'
        seen = subprocess.run(["script", "-qec", command, "/dev/null"], capture_output=True, text=True, check=True)
        pid = int(re.findall(r"\d+", seen.stdout)[-1])
        assert course.supervisor.hello().pid == pid
        assert os.getsid(pid) != os.getsid(0) and psutil.Process(pid).terminal() is None
        os.kill(pid, signal.SIGHUP)
        os.kill(pid, signal.SIGINT)
        assert course.supervisor.hello().pid == pid
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert {entry.split(b"=")[0] for entry in environment.split(b"\0") if entry} <= {b"PATH", b"LANG", b"TZ"}
    finally:
        course.close()


def test_there_is_never_a_second_supervisor(course):
    pid = course.supervisor.hello().pid
    second = subprocess.run(
        [sys.executable, "-I", "-m", "nblauncher.supervisor", course.paths.course],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(second.stdout)["kind"] == "BusyError"
    assert course.reconnect().hello().pid == pid


def asked_to_end(course: RunningClass) -> None:
    course.supervisor.end()


def host_switched_off(course: RunningClass) -> None:
    os.kill(course.supervisor.hello().pid, signal.SIGTERM)


@pytest.mark.parametrize("how", [asked_to_end, host_switched_off])
def test_the_end_ends_servers_front_page_and_supervisor_and_frees_the_ports(ada, tmp_path, how):
    with running_class(tmp_path, "nbtv-super", FRONT) as course:
        course.ready((ada, ADA))
        supervisor = course.supervisor.hello().pid
        how(course)
        eventually(lambda: not psutil.pid_exists(supervisor))
        assert not processes_of(ada)
        assert not course.paths.supervisor_socket.exists() and client.connect(course.paths) is None
        assert f"0.0.0.0 {int(socket.SO_REUSEADDR)}" in squat(ADA)
        course._supervisor = None


def test_a_folder_that_is_not_roots_is_refused(tmp_path, ada):
    course = RunningClass(tmp_path, "nbtv-super", FRONT)
    course.paths.run.mkdir(parents=True)
    os.chown(course.paths.run, ada.uid, ada.gid)
    try:
        with pytest.raises(Exception, match="is not a folder that only root can write to"):
            client.start(course.paths)
    finally:
        course.close()


def test_a_planted_runtime_folder_is_refused(course, ada, bob):
    course.bind((ada, ADA))
    folder = course.paths.students_run / str(ada.uid)
    target = bob.home / "target"
    for plant in (lambda: folder.symlink_to(target), lambda: folder.write_text(""), lambda: _mkdir(folder, bob)):
        plant()
        with pytest.raises(HostError, match="runtime folder"):
            course.supervisor.start_server(course.order(ada, ADA))
        folder.rmdir() if folder.is_dir() and not folder.is_symlink() else folder.unlink()
    assert not target.exists() and not processes_of(ada)


def fill(folder: Path) -> int:
    """Write until the file system says no; how many bytes there was room for."""
    written = 0
    with (folder / "filler").open("wb", buffering=0) as stream:
        try:
            while written < 1 << 28:
                written += stream.write(bytes(1 << 20))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return written


@pytest.mark.adoption
def test_a_student_who_fills_the_runtime_folder_fills_nobody_elses(course, ada, bob):
    course.ready((ada, ADA))
    folder = course.paths.students_run / str(ada.uid)
    free = shutil.disk_usage(course.paths.run).free
    written = workers.run_as(ada, fill, folder)
    assert 1 << 20 < written < 1 << 25
    assert shutil.disk_usage(course.paths.run).free > free - (1 << 20)
    course.ready((bob, BOB))
    course.kill_supervisor()
    assert course.reconnect() and os.path.ismount(folder)
    course.supervisor.stop_servers([ada.username])
    assert not os.path.ismount(folder) and os.path.ismount(folder.parent / str(bob.uid))
    course.ready((ada, ADA))
    assert not list(folder.glob("filler"))


def _mkdir(folder: Path, owner: Account) -> None:
    folder.mkdir()
    os.chown(folder, owner.uid, owner.gid)


def test_a_log_that_cannot_be_written_keeps_no_server_from_starting(course, ada):
    course.bind((ada, ADA))
    away = course.paths.logs.with_name("nbtv-away")
    course.paths.logs.rename(away)
    try:
        course.ready((ada, ADA))
    finally:
        away.rename(course.paths.logs)
