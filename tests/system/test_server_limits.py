"""What a student may take, tried by students who want more: the kernel goes, the server stays, it is said why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nblauncher.commands.running.usage import Meter
from nblauncher.isolation import cgroups, limits
from nblauncher.model import Account, Limits, ServerState
from nblauncher.server import class_files
from nblauncher.server.channels import WORDS
from tests.jupyter_client import JupyterClient
from tests.running import RunningClass, eventually, limited_by, made_account, running_class

pytestmark = pytest.mark.system

FRONT = 18580
ADA, BOB = 18581, 18582
LIMITS = Limits(memory=300_000_000, cpus=0.5, processes=64)
HOG = "print('begun', flush=True)\nx = []\nwhile True: x.append(bytearray(10_000_000))"
MANY = """
import subprocess
held = []
try:
    for _ in range(300): held.append(subprocess.Popen(['sleep', '60']))
except OSError as error: print('refused after', len(held), error.strerror)
finally:
    for one in held: one.kill(); one.wait()
"""
FLOOD = """
import fcntl, os, stat
for out in map(int, os.listdir('/proc/self/fd')):
    try: facts = os.fstat(out)
    except OSError: continue
    # The pipe of the server's output was made by root.
    if stat.S_ISFIFO(facts.st_mode) and facts.st_uid == 0 and fcntl.fcntl(out, fcntl.F_GETFL) & os.O_WRONLY:
        for _ in range(60): os.write(out, b'x' * 60_000)
        print('written')
        break
"""


@pytest.fixture(scope="module")
def ada() -> Iterator[Account]:
    with made_account("nbtvlada", 25090) as account:
        yield account


@pytest.fixture(scope="module")
def bob() -> Iterator[Account]:
    with made_account("nbtvlbob", 25091) as account:
        yield account


@pytest.fixture(scope="module", params=[pytest.param("process", marks=pytest.mark.slow), "forkserver"])
def course(request, tmp_path_factory: pytest.TempPathFactory, ada: Account, bob: Account) -> Iterator[RunningClass]:
    folder = tmp_path_factory.mktemp("limits")
    with running_class(folder, "nbtv-limits", FRONT, spawner=request.param) as running:
        if request.param == "forkserver":
            running.kernels = class_files.Kernels(socket=running.paths.kernels_socket)
            running.supervisor.prepare("forkserver")
        running.ready((ada, ADA), (bob, BOB), limits=LIMITS)
        yield running


@pytest.fixture
def client(course: RunningClass, ada: Account) -> Iterator[JupyterClient]:
    with course.visitor(ada, ADA) as one:
        yield one


@pytest.fixture
def kernel(client: JupyterClient) -> Iterator[str]:
    one = client.start_kernel()
    yield one
    client.api("DELETE", f"kernels/{one}")


def group(course: RunningClass, account: Account) -> cgroups.Group:
    return cgroups.choose(course.paths.course).of_student(account.uid)


def skip_unless_limited(course: RunningClass, what: str) -> None:
    if not limited_by(course.paths.course, what):
        pytest.skip(f"no control group here limits a student's {what} (tests/system/test_limits.py has what does)")


def test_a_kernel_that_wants_too_much_memory_ends_and_its_cell_says_so(course, client, kernel, ada, bob):
    skip_unless_limited(course, "memory")
    server = course.handle(ada)
    with client.notebook(kernel) as notebook:
        cell = notebook.begin(HOG)
        said = notebook.receive(lambda one: WORDS in one["content"].get("text", ""))
        assert said["parent_header"]["msg_id"] == cell
    assert client.run("6 * 7", kernel) == "42"
    assert course.handle(ada) == server and course.report(ada).state is ServerState.READY
    assert any(words.startswith("memory of 300 MB ran out") for words in course.report(ada).pressure)
    assert course.report(bob).pressure == () or not any("memory" in words for words in course.report(bob).pressure)


def test_status_shows_the_memory_that_counts_for_the_limit(course, client, kernel, ada, bob):
    """What a student's processes hold and what lies in /tmp, but not the files that the kernel keeps in its cache."""
    skip_unless_limited(course, "memory")
    charged, walked = Meter(cgroups.choose(course.paths.course)), Meter()

    def memory(meter: Meter, account: Account) -> int:
        return meter.usage([course.report(ada), course.report(bob)])[account.username][0]

    before, of_bob = memory(charged, ada), memory(charged, bob)
    assert abs(before - memory(walked, ada)) < 30_000_000
    client.run("held = bytearray(b'x' * 1_000_000) * 60", kernel)
    client.run("open('/tmp/part', 'wb').write(bytes(20_000_000))", kernel)
    client.run("open('large', 'wb').write(bytes(90_000_000)); len(open('large', 'rb').read(1))", kernel)
    assert before + 78_000_000 < memory(charged, ada) < before + 110_000_000
    assert memory(charged, bob) < of_bob + 5_000_000
    assert charged.usage([course.report(ada)])[ada.username][1] > 0


def test_a_terminal_is_held_as_a_kernel_is(course, client, ada):
    skip_unless_limited(course, "memory")
    before = limits.pressure(group(course, ada)).memory_kills
    client.terminal("head -c 600000000 /dev/zero | tail -n 1; echo it is o''ver", "it is over")
    eventually(lambda: limits.pressure(group(course, ada)).memory_kills > before)
    assert course.report(ada).state is ServerState.READY


def test_no_more_processes_than_allowed(course, client, kernel, ada):
    assert "refused after" in client.run(MANY, kernel)
    skip_unless_limited(course, "processes")  # RLIMIT_NPROC refuses as well, and counts nothing
    assert any(words.startswith("wanted more than 64 processes") for words in course.report(ada).pressure)


def test_a_student_gets_no_more_of_the_cpus_than_their_part(course, client, kernel, ada):
    skip_unless_limited(course, "cpus")
    code = "import time\nbegun, used = time.monotonic(), time.process_time()\n"
    code += "while time.monotonic() - begun < 4: pass\nprint((time.process_time() - used) / 4)"
    assert float(client.run(code, kernel)) < 0.75
    assert limits.pressure(group(course, ada)).throttled_seconds > 0


def test_who_goes_first_when_memory_is_used_up(course, client, kernel, ada):
    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    assert score(course.supervisor.hello().pid) <= limits.OURS < score(course.handle(ada).pid) == limits.SERVER
    assert client.run("print(open('/proc/self/oom_score_adj').read().strip())", kernel) == f"{limits.KERNEL}\n"


def test_a_flood_of_output_is_named_and_stops_nobody(course, client, kernel, ada, bob):
    assert client.run(FLOOD, kernel) == "written\n"
    eventually(lambda: "floods the log" in course.report(ada).pressure)
    with course.visitor(bob, BOB) as other:
        assert other.run("6 * 7") == "42"
    assert "floods the log" not in course.report(bob).pressure


def test_the_groups_are_gone_with_the_server(course, ada):
    one = group(course, ada)
    assert any(path.exists() for path in (one.path, *dict(one.beside).values()))
    course.supervisor.stop_servers([ada.username], grace=5)
    assert not any(path.exists() for path in (one.path, *dict(one.beside).values()))
