"""Servers that are forked: what they are, what they share, and what happens when the fork server is not there."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from nblauncher.auth import passwords
from nblauncher.isolation.spawn import NOWHERE
from nblauncher.model import Account, Secret, ServerState
from nblauncher.supervisor import client
from nblauncher.system import wire
from nblauncher.system.libc import pidfd_getfd
from tests.jupyter_client import JupyterClient
from tests.running import PASSWORD, RunningClass, eventually, made_account, running_class

pytestmark = pytest.mark.system

FRONT = 18540
ADA, BOB, EVE = 18541, 18542, 18543
EXECED, FORKED = "nblauncher.server", "nblauncher.forkserver.servers"


@pytest.fixture(scope="module")
def ada() -> Iterator[Account]:
    with made_account("nbtvfada", 25012) as account:
        yield account


@pytest.fixture(scope="module")
def bob() -> Iterator[Account]:
    with made_account("nbtvfbob", 25013) as account:
        yield account


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningClass]:
    with running_class(tmp_path_factory.mktemp("fork"), "nbtv-fork", FRONT, spawner="forkserver") as running:
        running.supervisor.prepare("forkserver")
        yield running


@pytest.fixture(autouse=True)
def nobody_runs(course: RunningClass) -> Iterator[None]:
    yield
    course.supervisor.stop_servers(grace=5)


def is_forked(pid: int) -> bool:
    """Only a forked server calls itself something; a program is called as what runs it."""
    return Path(f"/proc/{pid}/comm").read_text() == "notebook-server\n"


def fork_server(course: RunningClass) -> psutil.Process | None:
    supervisor = psutil.Process(course.supervisor.hello().pid)
    found = [one for one in supervisor.children() if one.uids().real == 0 and FORKED in one.cmdline()]
    return found[0] if found else None


def is_loaded(course: RunningClass) -> bool:
    said = (course.paths.logs / "nblauncher.log").read_text().rpartition("started the fork server")[2]
    return "the fork server is ready" in said and fork_server(course) is not None


def loaded(course: RunningClass) -> psutil.Process:
    """A fork server that is ready; after an earlier test's violence without the pause that it would wait for."""
    if fork_server(course) is None:
        course.supervisor.prepare("forkserver")
    eventually(lambda: is_loaded(course))
    server = fork_server(course)
    assert server is not None
    return server


def status(pid: int, field: str) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{field}:")).split()[1:]


def facts(pid: int) -> dict[str, object]:
    """What a server is to the kernel."""
    return {
        "uids": status(pid, "Uid"),
        "gids": status(pid, "Gid"),
        "groups": status(pid, "Groups"),
        "capabilities": status(pid, "CapEff") + status(pid, "CapPrm"),
        "no new privileges": status(pid, "NoNewPrivs"),
        "umask": status(pid, "Umask"),
        "signals": [status(pid, name) for name in ("SigBlk", "SigIgn", "SigCgt")],
        "leads its session": os.getsid(pid) == pid,
        "folder": os.readlink(f"/proc/{pid}/cwd"),
        "owner of /proc/PID": Path(f"/proc/{pid}/stat").stat().st_uid,
        "parent": psutil.Process(pid).ppid(),
        "limits": Path(f"/proc/{pid}/limits").read_text(),
        "out of memory": Path(f"/proc/{pid}/oom_score_adj").read_text(),
        "cgroup": Path(f"/proc/{pid}/cgroup").read_text(),
    }


def is_talking(pid: int) -> bool:
    """Whether somebody is connected to it, or only just was."""
    return any(
        one.status not in (psutil.CONN_LISTEN, psutil.CONN_NONE) for one in psutil.Process(pid).net_connections()
    )


def kinds_of_descriptors(pid: int) -> list[str]:
    """What it has open while nobody talks to it, by kind: numbers of inodes left out."""
    eventually(lambda: not is_talking(pid))
    links = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
    return sorted(link.partition(":[")[0] for link in links)


def seen_in_a_cell(course: RunningClass, account: Account, port: int, code: str) -> str:
    ca = course.paths.run / "ca.pem"
    ca.write_bytes(course.ca.certificate)
    with JupyterClient(account.username, port, ca) as one:
        assert one.sign_in(PASSWORD).status_code == 302
        return one.run(code)


def test_a_forked_server_is_to_the_kernel_what_a_started_one_is(course, ada):
    seen = {}
    for spawner in ("process", "forkserver"):
        course.ready((ada, ADA), spawner=spawner)
        pid = course.handle(ada).pid
        assert is_forked(pid) == (spawner == "forkserver")
        seen[spawner] = (facts(pid), kinds_of_descriptors(pid))
        course.supervisor.stop_servers(grace=5)
    assert seen["forkserver"] == seen["process"]
    assert seen["forkserver"][0]["capabilities"] == ["0" * 16] * 2


def test_a_forked_server_and_its_kernels_have_the_environment_of_a_started_one(course, ada):
    code = "import os, json; print(json.dumps(dict(os.environ)))"
    seen = {}
    for spawner in ("process", "forkserver"):
        course.ready((ada, ADA), spawner=spawner, environment={"COURSE": "x"})
        seen[spawner] = json.loads(seen_in_a_cell(course, ada, ADA, code))
        course.supervisor.stop_servers(grace=5)
    changing = {"JPY_PARENT_PID", "JPY_SESSION_NAME"}
    assert {k: v for k, v in seen["forkserver"].items() if k not in changing} == {
        k: v for k, v in seen["process"].items() if k not in changing
    }
    assert seen["forkserver"]["COURSE"] == "x"


def test_what_a_student_chooses_in_lab_is_kept_in_the_home(course, ada):
    course.ready((ada, ADA))
    with course.visitor(ada, ADA) as browser:
        theme = {"raw": '{"theme": "JupyterLab Dark"}'}
        settings = browser.api("PUT", "../lab/api/settings/@jupyterlab/apputils-extension:themes", json=theme)
        workspace = {"data": {}, "metadata": {"id": "nbt"}}
        workspaces = browser.api("PUT", "../lab/api/workspaces/nbt", json=workspace)
    assert (settings.status_code, workspaces.status_code) == (204, 204)
    assert sorted(path.name for path in (ada.home / ".jupyter/lab").iterdir()) == ["user-settings", "workspaces"]


def test_a_later_student_has_nothing_of_an_earlier_ones_secrets(course, ada, bob, monkeypatch):
    server, leaf, adas = loaded(course), course.leaf(), course.hashed
    course.ready((ada, ADA), tls=leaf)
    monkeypatch.setattr(course, "hashed", passwords.jupyter_hash(Secret("another")))
    course.ready((bob, BOB))
    assert is_in_memory(course.handle(ada).pid, adas.encode())
    assert is_in_memory(course.handle(bob).pid, course.hashed.encode())
    middle_of_key = leaf.key.splitlines()[1]
    for pid in (server.pid, course.handle(bob).pid):
        assert not is_in_memory(pid, adas.encode()) and not is_in_memory(pid, middle_of_key)
    held = kinds_of_descriptors(server.pid)
    assert not [link for link in held if "memfd" in link] and len(held) <= 5


def is_in_memory(pid: int, what: bytes) -> bool:
    """Looks at every readable page of the process's own."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            area, mode = line.split()[:2]
            if not mode.startswith("r") or "[v" in line:
                continue
            start, end = (int(part, 16) for part in area.split("-"))
            try:
                memory.seek(start)
                content = memory.read(end - start)
            except OSError:
                continue
            if what in content:
                return True
    return False


def test_what_the_fork_server_imports_finds_no_program_to_run_as_root(course):
    environment = loaded(course).environ()
    assert {environment["PATH"], environment["HOME"]} == {str(NOWHERE)}


def test_the_fork_server_has_one_thread_and_no_event_loop(course, ada):
    server = loaded(course)
    course.ready((ada, ADA))
    assert server.num_threads() == 1
    assert not [link for link in kinds_of_descriptors(server.pid) if "eventpoll" in link]


def test_ps_shows_a_server_and_not_the_fork_server(course, ada):
    loaded(course)
    course.ready((ada, ADA))
    pid = course.handle(ada).pid
    assert is_forked(pid) and psutil.Process(pid).cmdline()[1:] == ["-I", "-m", EXECED]


def test_how_a_forked_server_ended_is_known_and_it_is_forked_again(course, ada):
    loaded(course)
    course.ready((ada, ADA))
    before = course.handle(ada)
    os.kill(before.pid, signal.SIGKILL)
    eventually(lambda: course.is_up_again(ada, before))
    assert course.report(ada).reason == "killed by SIGKILL; it was started again"
    assert is_forked(course.handle(ada).pid)


def test_a_killed_fork_server_costs_nobody_anything_and_is_replaced(course, ada, bob):
    first = loaded(course)
    course.ready((ada, ADA))
    handle = course.handle(ada)
    assert is_forked(handle.pid)
    first.kill()
    eventually(lambda: fork_server(course) not in (None, first) and is_loaded(course))
    course.ready((bob, BOB))
    assert is_forked(course.handle(bob).pid)
    assert course.handle(ada) == handle and course.report(ada).state is ServerState.READY


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_a_fork_server_that_is_lost_in_the_middle_of_a_start_delays_the_server_only(course, ada, how):
    server = loaded(course)
    course.bind((ada, ADA))
    server.send_signal(signal.SIGSTOP)
    if how == signal.SIGKILL:
        eventually(lambda: server.status() == psutil.STATUS_STOPPED)
        os.kill(server.pid, signal.SIGKILL)
    course.ready((ada, ADA))
    assert len([one for one in psutil.process_iter(["uids"]) if is_a_server_of(one, ada)]) == 1


def is_a_server_of(one: psutil.Process, account: Account) -> bool:
    uids = one.info["uids"]
    return bool(uids) and uids.real == account.uid and {EXECED, FORKED} & set(one.cmdline()) != set()


@pytest.mark.adoption
@pytest.mark.parametrize(
    "packet", [b"garbage", b"\xff" * 50_000, wire.pack({"id": 5, "uid": 0})], ids=["text", "large", "root"]
)
def test_nonsense_is_refused_and_the_fork_server_goes_on(course, ada, packet):
    server = loaded(course)
    supervisor = course.supervisor.hello().pid
    with link_of(supervisor, server.pid) as link:
        link.send(packet)
    course.ready((ada, ADA))
    assert fork_server(course) == server and is_forked(course.handle(ada).pid)
    assert "refused a request" in (course.paths.logs / "_fork-server.log").read_text()


def link_of(supervisor: int, server: int) -> socket.socket:
    """A duplicate of the supervisor's end of their socket: the one whose peer the fork server has."""
    number = psutil.Process(server).cmdline()[-1]
    pidfd = os.pidfd_open(server)
    theirs = socket.socket(fileno=pidfd_getfd(pidfd, int(number)))
    os.close(pidfd)
    pidfd = os.pidfd_open(supervisor)
    try:
        for name in os.listdir(f"/proc/{supervisor}/fd"):
            if os.readlink(f"/proc/{supervisor}/fd/{name}").startswith("socket:"):
                one = socket.socket(fileno=pidfd_getfd(pidfd, int(name)))
                if one.family == socket.AF_UNIX and one.type == socket.SOCK_SEQPACKET:
                    return one
                one.close()
    finally:
        os.close(pidfd)
        theirs.close()
    raise AssertionError("the supervisor has no such socket")


@pytest.mark.adoption
def test_a_forked_server_is_adopted_after_the_supervisor_was_killed(course, ada):
    server = loaded(course)
    course.ready((ada, ADA))
    handle = course.handle(ada)
    course.kill_supervisor()
    course.reconnect()
    assert course.handle(ada) == handle and course.report(ada).state is ServerState.READY
    eventually(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
    course.supervisor.prepare("forkserver")


def test_a_fresh_fork_server_for_each_launch_leaves_running_servers_alone(course, ada):
    first = loaded(course)
    course.ready((ada, ADA))
    handle = course.handle(ada)
    course.supervisor.prepare("forkserver")
    eventually(lambda: fork_server(course) not in (None, first) and is_loaded(course))
    assert course.handle(ada) == handle and course.report(ada).state is ServerState.READY


def modules_of_the_last_fork_server(course: RunningClass) -> tuple[int, bool]:
    """How many it loaded, and whether without a warm-up."""
    said = (course.paths.logs / "_fork-server.log").read_text().splitlines()
    line = next(line for line in reversed(said) if "modules are loaded" in line)
    return int(line.split()[3]), "as found before" in line


def test_what_the_warm_up_found_is_kept_for_the_next_fork_server(course):
    course.paths.preloaded.unlink(missing_ok=True)
    seen = []
    for _ in range(2):
        course.supervisor.prepare("forkserver")
        eventually(lambda: is_loaded(course))
        seen.append(modules_of_the_last_fork_server(course))
    (loaded, is_recalled), (loaded_again, is_recalled_again) = seen
    assert (is_recalled, is_recalled_again) == (False, True)
    # Reading the file that lists them loads a codec (encodings.ascii) that writing it does not need.
    assert loaded > 1000 and loaded_again - loaded in (0, 1)


def test_a_student_who_is_stopped_while_the_fork_server_loads_stays_stopped(course, ada):
    course.supervisor.prepare("forkserver")
    course.bind((ada, ADA))
    another = client.connect(course.paths)
    assert another is not None
    with another, ThreadPoolExecutor(1) as pool:
        start = pool.submit(another.start_server, course.order(ada, ADA))
        eventually(lambda: course.report(ada).state is ServerState.STARTING)
        course.supervisor.stop_servers([ada.username])
        assert start.result().state is ServerState.STOPPED
    eventually(lambda: is_loaded(course))
    assert course.report(ada).state is ServerState.STOPPED
    eventually(lambda: not [one for one in psutil.process_iter(["uids"]) if is_a_server_of(one, ada)])
