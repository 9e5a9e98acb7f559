"""Students' servers, kernels and terminals have temporary folders and a /proc of their own."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from nblauncher.errors import HostError
from nblauncher.isolation import namespaces
from nblauncher.isolation.namespaces import Namespaces
from nblauncher.model import Account, Limits
from nblauncher.server import class_files
from nblauncher.system import privileges
from tests import launched
from tests.running import RunningClass, eventually, made_account, running_class

pytestmark = pytest.mark.system

FRONT = 18530
ADA, BOB = 18531, 18532
FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
OPTIONS = {"is_isolated": True, "limits": Limits(memory=600_000_000)}
SECRET = Path("/tmp/nbtv-of-the-host")


@pytest.fixture(scope="module")
def ada() -> Iterator[Account]:
    with made_account("nbtviada", 25092) as account:
        yield account


@pytest.fixture(scope="module")
def bob() -> Iterator[Account]:
    with made_account("nbtvibob", 25093) as account:
        yield account


@pytest.fixture(scope="module", params=[pytest.param("process", marks=pytest.mark.slow), "forkserver"])
def course(request, tmp_path_factory: pytest.TempPathFactory, ada: Account, bob: Account) -> Iterator[RunningClass]:
    folder = tmp_path_factory.mktemp("isolation")
    with running_class(folder, "nbtv-apart", FRONT, spawner=request.param) as running:
        if request.param == "forkserver":
            running.kernels = class_files.Kernels(socket=running.paths.kernels_socket)
            running.supervisor.prepare("forkserver")
        running.ready((ada, ADA), (bob, BOB), **OPTIONS)
        yield running


def namespace_of(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/mnt")


def test_server_kernel_and_terminal_share_folders_that_nobody_else_sees(course, ada, bob):
    SECRET.write_text("of the host")
    try:
        with course.visitor(ada, ADA) as client, course.visitor(bob, BOB) as other:
            kernel = client.start_kernel()
            for folder in FOLDERS:
                mine = f"{folder}/nbtv-mine"
                assert client.run(f"print(open('{mine}', 'w').write('x'))", kernel) == "1\n"
                assert client.run(f"import os; print(oct(os.stat('{folder}').st_mode))", kernel) == "0o41777\n"
                assert "one here" in client.terminal(f"ls {mine} && echo one '' here | tr -s ' '", "one here")
                assert other.run(f"import os; print(os.path.exists('{mine}'))") == "False\n"
                assert not Path(mine).exists()
            assert client.run(f"import os; print(os.path.exists('{SECRET}'))", kernel) == "False\n"
    finally:
        SECRET.unlink()


def test_a_temporary_folder_has_a_size(course, ada):
    with course.visitor(ada, ADA) as client:
        size = client.run("import os; one = os.statvfs('/tmp'); print(one.f_blocks * one.f_frsize)")
    assert 300_000_000 <= int(size) < 300_100_000


def test_nobody_elses_processes_are_seen(course, ada, bob):
    code = "import os; print({os.stat(f'/proc/{pid}').st_uid for pid in os.listdir('/proc') if pid.isdigit()})"
    with course.visitor(ada, ADA) as client:
        assert client.run(code) == f"{{{ada.uid}}}\n"
        assert client.run(f"import os; print(os.path.exists('/proc/{course.handle(bob).pid}'))") == "False\n"
        assert "1234" not in client.terminal("ps -e -o uid= | sort -u | tr '\\n' ' '; echo do''ne", "done")


def test_everything_of_a_student_is_in_one_namespace(course, ada, bob):
    with course.visitor(ada, ADA) as client:
        kernel = client.start_kernel()
        server = course.handle(ada).pid
        assert client.run("import os; print(os.readlink('/proc/self/ns/mnt'))", kernel) == f"{namespace_of(server)}\n"
        assert namespace_of(server) not in (namespace_of(os.getpid()), namespace_of(course.handle(bob).pid))
        client.terminal("sleep 77 & echo begun''", "begun")
        assert {namespace_of(one.pid) for one in processes_of(ada)} == {namespace_of(server)}


def processes_of(account: Account) -> list[psutil.Process]:
    return launched.processes_of(account.uid)


@pytest.mark.adoption
def test_an_adopted_servers_new_kernels_are_in_its_namespace(course, ada, bob):
    before = namespace_of(course.handle(ada).pid)
    course.kill_supervisor()
    course.reconnect()
    course.supervisor.prepare(course.spawner)
    course.ready((ada, ADA), (bob, BOB), **OPTIONS)
    with course.visitor(ada, ADA) as client:
        kernel = client.start_kernel()
        assert client.run("import os; print(os.readlink('/proc/self/ns/mnt'))", kernel) == f"{before}\n"


def test_a_restarted_server_has_new_folders_and_a_stopped_one_leaves_none(course, ada, bob):
    before = course.handle(ada)
    with course.visitor(ada, ADA) as client:
        client.run("open('/tmp/nbtv-left', 'w').close()")
    psutil.Process(before.pid).kill()
    eventually(lambda: course.report(ada).handle not in (None, before))
    course.ready((ada, ADA), **OPTIONS)
    with course.visitor(ada, ADA) as client:
        assert client.run("import os; print(os.path.exists('/tmp/nbtv-left'))") == "False\n"
    held = held_by(course)
    course.supervisor.stop_servers([ada.username], grace=5)
    assert held_by(course) == held - 1


def held_by(course) -> int:
    """How many mount namespaces the supervisor has open."""
    folder = Path(f"/proc/{course.supervisor.hello().pid}/fd")
    return sum(os.readlink(one).startswith("mnt:") for one in folder.iterdir())


def test_a_home_that_is_full_lets_server_and_kernel_start(course, ada):
    course.supervisor.stop_servers([ada.username], grace=5)
    options = f"size=200k,mode=0700,uid={ada.uid},gid={ada.gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "nbtv", str(ada.home)], check=True)
    try:
        filler = ada.home / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        os.chown(filler, ada.uid, ada.gid)
        assert os.statvfs(ada.home).f_bavail == 0
        course.ready((ada, ADA), **OPTIONS)
        with course.visitor(ada, ADA) as client:
            assert client.run("6 * 7") == "42"
        course.supervisor.stop_servers([ada.username], grace=5)
    finally:
        subprocess.run(["umount", "-l", str(ada.home)], check=True)


def test_other_students_runtime_folders_are_not_there(course, ada, bob):
    course.ready((ada, ADA), **OPTIONS)
    lines = Path(f"/proc/{course.handle(ada).pid}/mountinfo").read_text()
    assert f"/student/{ada.uid} " in lines
    assert f"/student/{bob.uid} " not in lines


def test_this_host_can_have_them():
    assert namespaces.objection() == ""


def test_making_one_leaves_root_where_it_was_and_a_students_own_is_never_entered(tmp_path: Path, ada: Account):
    """In a process of its own: this one has threads."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, "\n".join(map(str, _tried(tmp_path, ada))).encode())
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as answer:
        assert answer.read().splitlines() == [
            "True",
            "the host's namespace is not held",
            "the one that root made is held",
            "a student's own is not held",
            "is not a namespace that root made",
        ]
    os.waitpid(pid, 0)


def _tried(folder: Path, ada: Account) -> Iterator[object]:
    before = namespace_of(os.getpid())
    apart = Namespaces(folder)
    made = apart.provide(1, 1_000_000)
    yield namespace_of(os.getpid()) == before
    own = _child(lambda: None)
    apart.adopt(2, own.pid)
    yield "the host's namespace is not held" if apart.path(2) is None else "wrong"
    inside = _child(lambda: namespaces.enter(made))
    apart.adopt(3, inside.pid)
    yield "the one that root made is held" if apart.path(3) else "wrong"
    students = _child(lambda: _be(ada))
    apart.adopt(4, students.pid)
    yield "a student's own is not held" if apart.path(4) is None else "wrong"
    try:
        namespaces.enter(Path(f"/proc/{students.pid}/ns/mnt"))
    except HostError as error:
        yield error.problem.partition(" ")[2]
    apart.close()
    for one in (own, inside, students):
        one.kill()
        one.wait()


def _child(begin: Callable[[], object]) -> psutil.Process:
    """A forked process that did this and sleeps."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            begin()
            os.write(told, b"x")
            time.sleep(60)
        finally:
            os._exit(1)
    assert os.read(ready, 1) == b"x"
    return psutil.Process(pid)


def _be(account: Account) -> None:
    """As a student who makes a user namespace and a mount namespace in it."""
    privileges.drop_to(account)
    privileges.set_dumpable(True)
    assert ctypes.CDLL(None, use_errno=True).unshare(0x10000000 | 0x00020000) == 0, ctypes.get_errno()
