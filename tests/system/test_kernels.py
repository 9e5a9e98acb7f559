"""Kernels that are forked: nothing that a student can see differs, each is its student's, and strangers get none."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from nblauncher.accounts.linux import LinuxAccounts
from nblauncher.environments import course_packages
from nblauncher.isolation import cgroups
from nblauncher.model import Account
from nblauncher.server import class_files
from nblauncher.server.provisioner import ForkedKernel, NotForked, ask_for_kernel
from nblauncher.supervisor.spawners import Preload
from nblauncher.system import wire, workers
from tests.jupyter_client import JupyterClient
from tests.packages import alone, build, source_distribution
from tests.running import PASSWORD, RunningClass, eventually, made_account, running_class
from tests.slow_descriptor import slow_descriptor_sent

pytestmark = pytest.mark.system

FRONT = 18560
ADA, BOB = 18561, 18562
MODULES = ("numpy", "pandas", "matplotlib.pyplot")
FORKED = "nblauncher.forkserver.kernels"


@pytest.fixture(scope="module")
def ada() -> Iterator[Account]:
    with made_account("nbtvkada", 25020) as account:
        yield account


@pytest.fixture(scope="module")
def bob() -> Iterator[Account]:
    with made_account("nbtvkbob", 25021) as account:
        yield account


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningClass]:
    with running_class(tmp_path_factory.mktemp("kernels"), "nbtv-kernels", FRONT, spawner="forkserver") as running:
        running.kernels = class_files.Kernels(socket=running.paths.kernels_socket, preload=MODULES)
        running.supervisor.prepare("forkserver", kernels=Preload(sys.executable, MODULES))
        yield running


@pytest.fixture(scope="module")
def ready(course: RunningClass, ada: Account) -> RunningClass:
    """With ada's server, and a fork server that is loaded."""
    loaded(course)
    course.ready((ada, ADA))
    return course


@pytest.fixture
def client(ready: RunningClass, ada: Account) -> Iterator[JupyterClient]:
    with signed_in(ready, ada, ADA) as one:
        yield one
        for kernel in one.api("GET", "kernels").json():
            one.api("DELETE", f"kernels/{kernel['id']}")


def signed_in(course: RunningClass, account: Account, port: int) -> JupyterClient:
    ca = course.paths.run / "ca.pem"
    ca.write_bytes(course.ca.certificate)
    one = JupyterClient(account.username, port, ca)
    assert one.sign_in(PASSWORD).status_code == 302
    return one


def fork_server(course: RunningClass) -> psutil.Process | None:
    supervisor = psutil.Process(course.supervisor.hello().pid)
    found = [one for one in supervisor.children() if one.uids().real == 0 and FORKED in one.cmdline()]
    return found[0] if found else None


def is_loaded(course: RunningClass) -> bool:
    said = (course.paths.logs / "nblauncher.log").read_text().rpartition("started the kernels' fork server")[2]
    return "the kernels' fork server is ready" in said and fork_server(course) is not None


def loaded(course: RunningClass) -> psutil.Process:
    if fork_server(course) is None:
        course.supervisor.prepare("forkserver", kernels=Preload(sys.executable, MODULES))
    eventually(lambda: is_loaded(course))
    server = fork_server(course)
    assert server is not None
    return server


def is_forked(pid: int) -> bool:
    """What a process was started with stays to be seen: here it is what the fork server was."""
    return psutil.Process(pid).environ()["HOME"].startswith("/run/nblauncher/")


def write_kernels(course: RunningClass, *, are_forked: bool) -> None:
    socket = course.paths.kernels_socket if are_forked else None
    class_files.write(course.paths.run, replace(course.kernels, socket=socket))


PROBE = Path(__file__).with_name("kernel_probe.py").read_text()


def test_a_forked_kernel_is_to_the_student_what_a_started_one_is(ready, client):
    seen = {}
    for are_forked in (False, True):
        write_kernels(ready, are_forked=are_forked)
        said = json.loads(client.run(PROBE).splitlines()[0])
        assert is_forked(said.pop("pid")) == are_forked
        seen[are_forked] = said
    # An ordinary kernel has a thread more, which looks whether its parent, the server, is there.
    seen[False]["threads"].remove("Thread-")
    found = list(differences("", seen[False], seen[True]))
    assert not found, "\n".join(found)


BEHAVIOUR = Path(__file__).with_name("kernel_behaviour.py").read_text() + "\nprint(await behaviour())"


def test_modules_do_in_a_forked_kernel_what_they_do_in_a_started_one(ready, client):
    seen = {}
    for are_forked in (False, True):
        write_kernels(ready, are_forked=are_forked)
        kernel = client.start_kernel()
        assert is_forked(int(client.run("import os; print(os.getpid())", kernel))) == are_forked
        client.run("import numpy, pandas, matplotlib.pyplot", kernel)
        seen[are_forked] = json.loads(client.run(BEHAVIOUR, kernel).splitlines()[0])
    started_with = set(seen[False].pop("modules"))
    assert started_with - set(seen[True].pop("modules")) == set()
    pairs = seen[True].pop("identities"), seen[False].pop("identities")
    pairs[1]["posix os"].remove("putenv")  # nblauncher.forkserver.variables has another in its place
    forked, started_ones = ({key: value for key, value in one.items() if key in pairs[1]} for one in pairs)
    assert len(forked) > 500
    found = list(differences("", {**seen[False], "same": started_ones}, {**seen[True], "same": forked}))
    assert not found, "\n".join(found)
    assert seen[True]["tasks"][0] is True and "timeout" in seen[True]["thread"][0]


def differences(where: str, one: object, other: object) -> Iterator[str]:
    """Leaf by leaf."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from differences(f"{where}/{key}", one.get(key), other.get(key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(f"{where}/{number}", *pair)
    elif one != other:
        yield f"{where}: started {one!r}, forked {other!r}"


def started(client: JupyterClient) -> tuple[str, int]:
    """A forked kernel, and its pid."""
    kernel = client.start_kernel()
    pid = int(client.run("import os; print(os.getpid())", kernel))
    assert is_forked(pid)
    return kernel, pid


def test_ps_shows_a_kernel_and_not_the_fork_server(client):
    kernel, pid = started(client)
    shown = " ".join(psutil.Process(pid).cmdline())
    assert "-m ipykernel_launcher -f" in shown and FORKED not in shown
    assert kernel in shown or len(shown) > 100, shown


WATCHING = """
where = "lib/python%d.%d/site-packages" % sys.version_info[:2]
pathlib.Path("nbt.pth").write_text("import os; os.path.exists(FILE) and open(FILE, 'a').write(str(os.geteuid()) + ' ')")
DATA = [(where, ["nbt.pth"])]
"""


@pytest.mark.slow
def test_what_a_package_has_executed_at_every_start_is_executed_by_each_kernel_and_not_by_root(ready, client, ada):
    accounts = LinuxAccounts()
    accounts.ensure_system_accounts()
    with alone(), contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nbt-", dir="/opt")))
        stack.callback(ready.supervisor.prepare, "forkserver", kernels=Preload(sys.executable, MODULES))
        stack.callback(write_kernels, ready, are_forked=True)
        place.chmod(0o755)
        (place / "index").mkdir(mode=0o755)
        seen = place / "ran-as"
        seen.touch()
        seen.chmod(0o666)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PIP_FIND_LINKS", f"{place}/index {os.environ.get('PIP_FIND_LINKS', '')}".strip())
        source_distribution(place, "1.0", WATCHING.replace("FILE", repr(str(seen))))
        python = course_packages.python_in(build(place, "nbtbuilt==1.0"))
        mine = Preload(str(python), ())
        ready.supervisor.prepare("forkserver", kernels=mine)
        eventually(lambda: is_loaded(ready))
        assert "0" not in seen.read_text().split(), "by the fork server"
        class_files.write(ready.paths.run, class_files.Kernels(socket=ready.paths.kernels_socket, python=str(python)))
        _kernel, pid = started(client)
        assert psutil.Process(pid).uids().real == ada.uid
        assert set(seen.read_text().split()) == {str(ada.uid)}, "by the kernel, whose Python it is"


RANDOM = """
import json, multiprocessing, random, secrets, tempfile, uuid
import numpy
print(json.dumps([
    random.random(), float(numpy.random.random()), float(numpy.random.default_rng().random()), str(uuid.uuid4()),
    secrets.token_hex(), next(tempfile._get_candidate_names()), bytes(multiprocessing.current_process().authkey).hex(),
]))
"""


def test_no_two_kernels_have_the_same_random_numbers_names_or_keys(client):
    one, another = json.loads(client.run(RANDOM)), json.loads(client.run(RANDOM))
    assert not [pair for pair in zip(one, another, strict=True) if pair[0] == pair[1]]


def test_what_is_preloaded_still_has_to_be_imported(client):
    kernel, _pid = started(client)
    assert "NameError" in client.run("pandas", kernel)
    assert client.run("import pandas as pd; print(pd.DataFrame({'a': [1]}).sum().a)", kernel) == "1\n"


def test_a_plot_is_shown_in_the_notebook(client):
    kernel, _pid = started(client)
    assert "[image/png]" in client.run("import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()", kernel)


def test_a_kernel_is_the_students_in_the_group_of_the_students_server(ready, client, ada):
    _kernel, pid = started(client)
    process = psutil.Process(pid)
    assert set(process.uids()) == {ada.uid} and process.terminal() is None
    server = ready.handle(ada).pid
    assert Path(f"/proc/{pid}/cgroup").read_text() == Path(f"/proc/{server}/cgroup").read_text()
    assert pid in cgroups.choose(ready.paths.course).of_student(ada.uid).pids()


def test_what_a_kernel_says_before_it_has_a_notebook_is_in_the_servers_log(ready, client, ada):
    kernel, _pid = started(client)
    client.run("import os; os.write(__import__('sys').__stderr__.fileno(), b'to the log')", kernel)
    client.run(
        "import ipykernel.iostream, sys; open(sys.stderr._original_stdstream_copy, 'w').write('deep\\n')", kernel
    )
    eventually(lambda: "deep" in (ready.paths.logs / f"{ada.username}.log").read_text())


def test_an_interrupt_reaches_the_kernel_and_what_it_started(client):
    kernel, pid = started(client)
    with client.notebook(kernel) as notebook:
        cell = notebook.begin("import subprocess; subprocess.run(['sleep', '300'])")
        eventually(lambda: [child.name() for child in psutil.Process(pid).children()] == ["sleep"])
        client.api("POST", f"kernels/{kernel}/interrupt")
        assert "KeyboardInterrupt" in notebook.finish(cell)
        cell = notebook.begin("print('begun', flush=True)\nimport time; time.sleep(300)")
        notebook.receive(lambda one: one["msg_type"] == "stream")
        client.api("POST", f"kernels/{kernel}/interrupt")
        assert "KeyboardInterrupt" in notebook.finish(cell)
        eventually(lambda: not psutil.Process(pid).children())
        assert notebook.run("1 + 1") == "2"


def test_a_restart_brings_a_new_kernel_and_ends_the_old_one(client):
    kernel, pid = started(client)
    client.run("x = 1", kernel)
    client.api("POST", f"kernels/{kernel}/restart")
    eventually(lambda: not psutil.pid_exists(pid))
    assert "NameError" in client.run("x", kernel)
    assert is_forked(int(client.run("import os; print(os.getpid())", kernel)))


def test_a_shutdown_ends_the_kernel_and_what_it_registered_runs(client, ada):
    kernel, pid = started(client)
    client.run("import atexit, pathlib; atexit.register(pathlib.Path('ended').write_text, 'yes')", kernel)
    client.api("DELETE", f"kernels/{kernel}")
    eventually(lambda: not psutil.pid_exists(pid))
    assert (ada.home / "ended").read_text() == "yes"


def test_a_kernel_that_dies_in_a_cell_is_there_for_a_tab_that_comes_at_once(client):
    kernel, pid = started(client)
    with client.notebook(kernel) as tab:
        tab.begin("print('begun', flush=True)\nimport time; time.sleep(300)")
        tab.receive(lambda one: one["msg_type"] == "stream")
        psutil.Process(pid).kill()
        tab.receive(lambda one: one["content"].get("execution_state") == "restarting")
        assert client.api("GET", f"kernels/{kernel}").json()["execution_state"] != "busy"
        assert client.run("6 * 7", kernel) == "42"


def test_a_kernel_that_is_killed_is_replaced(client):
    kernel, pid = started(client)
    psutil.Process(pid).kill()
    eventually(lambda: not psutil.pid_exists(pid))
    eventually(lambda: client.api("GET", f"kernels/{kernel}").json()["execution_state"] in ("idle", "starting"))
    eventually(lambda: is_forked(int(client.run("import os; print(os.getpid())", kernel))))


def test_a_cell_may_ask_for_input(client):
    kernel, _pid = started(client)
    assert client.run("print('hello', input('who? '))", kernel, answer="ada") == "hello ada\n"


PARALLEL = """
import concurrent.futures, multiprocessing, os, subprocess, threading, warnings

warnings.simplefilter("ignore")  # of newer Pythons, about forks in a process with threads

print(subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip())
pid = os.fork()
if pid == 0:
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    print(sum(pool.map(len, ["a", "bc"])))
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(abs, [-1, -2]))
with multiprocessing.get_context("spawn").Pool(1) as pool:
    print(pool.map(abs, [-3]))
with multiprocessing.Manager() as manager:
    print(list(manager.list([4])))
"""


def test_subprocesses_forks_threads_and_multiprocessing_work(client, ada):
    kernel, _pid = started(client)
    assert client.run(PARALLEL, kernel).splitlines() == [
        ada.username,
        "7",
        "3",
        "[1, 2]",
        "[-3]".replace("-", ""),
        "[4]",
    ]


def test_numeric_libraries_use_the_students_cpus(client):
    kernel, _pid = started(client)
    code = "import numpy, os, threadpoolctl; print([one['num_threads'] for one in threadpoolctl.threadpool_info()])"
    assert json.loads(client.run(code, kernel)) == [len(os.sched_getaffinity(0))]
    multiply = "import numpy; a = numpy.random.rand(400, 400); print(numpy.allclose((a @ a) @ a, a @ (a @ a)))"
    assert client.run(multiply, kernel) == "True\n"


def asked_as(account: Account, address: Path, command: list[str]) -> str:
    """What a program of this account's hears when it asks for a kernel."""

    def ask() -> str:
        try:
            return str(ask_for_kernel(str(address), command, {"HOME": str(account.home)}, "/").pid)
        except NotForked as reason:
            return str(reason)

    return str(workers.run_as(account, ask, timeout=30))


def test_strangers_and_root_get_no_kernel(ready, bob):
    with pytest.raises(NotForked, match="no server for you"):
        ask_for_kernel(str(ready.paths.kernels_socket), ["true"], {}, "/")
    assert "no server for you" in asked_as(bob, ready.paths.kernels_socket, ["true"])


def test_whose_kernel_it_is_the_peer_decides_whatever_the_request_says(ready, ada, bob):
    """There is nothing in a request that names anybody; what runs is the peer's."""
    out = ada.home / "whose"
    pid = int(asked_as(ada, ready.paths.kernels_socket, ["/bin/sh", "-c", f"id -u > {out}; sleep 60"]))
    eventually(lambda: out.exists() and out.read_text() == f"{ada.uid}\n")
    assert set(psutil.Process(pid).uids()) == {ada.uid}
    assert pid in cgroups.choose(ready.paths.course).of_student(ada.uid).pids()
    psutil.Process(pid).kill()


GARBAGE = [
    b"",
    b"garbage",
    b"\xff\xff\xff\xff",
    wire.pack({"descriptors": 0}),
    wire.pack({"command": "sh", "environment": {}, "folder": "/", "descriptors": 2}),
    wire.pack({"command": ["sh"], "environment": {"A": 1}, "folder": "/", "descriptors": 2}),
    wire.pack({"command": ["sh"], "environment": {}, "folder": "/\0", "descriptors": 2}),
    wire.pack({"command": ["sh"], "environment": {}, "folder": "/", "descriptors": 30}),
    wire.pack({"know": {"uid": 0}}),
]


def throw(address: str, packets: list[bytes]) -> list[bytes]:
    """What comes back; a connection for each, and the descriptors 1 and 2 with it."""
    heard = []
    for packet in packets:
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(20)
            one.connect(address)
            if packet:
                socket.send_fds(one, [packet], [1, 2])
            one.shutdown(socket.SHUT_WR)
            try:
                heard.append(one.recv(1000))
            except OSError:
                heard.append(b"")
    return heard


def test_garbage_is_answered_by_a_process_of_the_students_own_and_costs_nobody_else(ready, client, ada):
    server = loaded(ready)
    address = str(ready.paths.kernels_socket)
    heard = workers.run_as(ada, lambda: [str(one) for one in throw(address, GARBAGE)], timeout=60)
    assert all("problem" in answer for answer in heard), heard
    assert fork_server(ready) == server
    time.sleep(len(GARBAGE) / 2)  # until the student may ask again
    started(client)


@pytest.mark.slow
def test_ten_thousand_requests_of_one_student_keep_no_kernel_from_another(ready, client, ada, bob):
    ready.ready((bob, BOB))
    server = loaded(ready)
    address = str(ready.paths.kernels_socket)

    def flood() -> int:
        refused = 0
        for _ in range(10_000):
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(0.2)
                one.connect(address)
                with contextlib.suppress(TimeoutError):  # one of the few that are waited for
                    refused += b"too many requests" in one.recv(1000)
        return refused

    worker = workers.start(ada, flood)
    try:
        with signed_in(ready, bob, BOB) as theirs:
            started(theirs)
    finally:
        refused = worker.result(timeout=120)
    assert refused > 9_000
    time.sleep(2)  # until ada may ask again
    assert fork_server(ready) == server
    ready.supervisor.stop_servers([bob.username], grace=5)


def test_a_descriptor_that_takes_minutes_to_close_delays_no_kernel(ready, client, bob):
    """Nobody reads the message that it came with; closing the connection closes it."""
    server = loaded(ready)
    with slow_descriptor_sent(bob, str(ready.paths.kernels_socket), server):
        started(client)
    assert fork_server(ready) == server


def test_kernels_end_with_their_server_and_nobody_gets_one_after_it(ready, ada):
    with signed_in(ready, ada, ADA) as one:
        _kernel, pid = started(one)
    ready.supervisor.stop_servers([ada.username], grace=5)
    assert not psutil.pid_exists(pid)
    assert "no server for you" in asked_as(ada, ready.paths.kernels_socket, ["true"])
    ready.ready((ada, ADA))


def log_of(course: RunningClass, account: Account) -> str:
    return (course.paths.logs / f"{account.username}.log").read_text()


def test_without_the_fork_server_kernels_run_on_and_new_ones_are_ordinary(ready, client, ada):
    kernel, _pid = started(client)
    client.run("x = 5", kernel)
    first = loaded(ready)
    first.suspend()  # its successor must not be there at once
    first.kill()
    eventually(lambda: fork_server(ready) != first)
    pid = int(client.run("import os; print(os.getpid())"))
    assert not is_forked(pid) or fork_server(ready) is not None
    assert client.run("x", kernel) == "5"
    eventually(lambda: is_loaded(ready) and fork_server(ready) not in (None, first))
    started(client)


def test_a_fork_server_that_cannot_be_asked_means_an_ordinary_kernel_and_the_log_says_why(ready, client, ada):
    hidden = ready.paths.run / "hidden.sock"
    ready.paths.kernels_socket.rename(hidden)
    try:
        assert not is_forked(int(client.run("import os; print(os.getpid())")))
    finally:
        hidden.rename(ready.paths.kernels_socket)
    assert "An ordinary kernel is started: the fork server cannot be asked" in log_of(ready, ada)


@pytest.mark.parametrize(
    "own, why",
    [
        (".local/share/nblauncher/python/lib/python{}.{}/site-packages/pandas.py", "pandas in"),
        (".local/share/nblauncher/python/lib/python{}.{}/site-packages/sitecustomize.py", "sitecustomize in"),
        (".config/matplotlib/matplotlibrc", "matplotlib finds"),
        (".fonts/own.ttf", "matplotlib finds"),
    ],
)
def test_what_the_student_has_of_the_own_means_an_ordinary_kernel(ready, client, ada, own, why):
    started(client)
    file = ada.home / own.format(*sys.version_info)

    def put() -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")

    workers.run_as(ada, put)
    try:
        assert not is_forked(int(client.run("import os; print(os.getpid())")))
    finally:
        file.unlink()
        if "matplotlib" in why:
            file.parent.rmdir()
    assert f"an ordinary kernel is started: {why}" in log_of(ready, ada)
    started(client)


def test_a_new_package_of_the_students_own_is_there_in_a_forked_kernel(ready, client, ada):
    folder = ada.home / ".local/share/nblauncher/python/lib/python{}.{}/site-packages".format(*sys.version_info)
    kernel, _pid = started(client)
    assert client.run("%pip --version", kernel).startswith("pip ")

    def put() -> None:
        (folder / "ownmodule.py").write_text("answer = 42")

    workers.run_as(ada, put)
    assert client.run("import ownmodule; print(ownmodule.answer)", kernel) == "42\n"
    other = client.start_kernel()
    assert client.run("import ownmodule; print(ownmodule.answer)", other) == "42\n"
    (folder / "ownmodule.py").unlink()


@pytest.mark.parametrize("name, value", [("PYTHONOPTIMIZE", "1"), ("OPENBLAS_THREAD_TIMEOUT", "26")])
def test_variables_that_an_interpreter_or_a_library_reads_mean_an_ordinary_kernel(ready, bob, name, value):
    ready.ready((bob, BOB), environment={name: value})
    with signed_in(ready, bob, BOB) as one:
        code = f"import os, sys; print(os.getpid(), sys.flags.optimize, os.environ[{name!r}])"
        pid, optimize, own = one.run(code).split()
        assert not is_forked(int(pid)) and optimize == ("1" if name == "PYTHONOPTIMIZE" else "0") and own == value
    assert f"the environment has {name}" in log_of(ready, bob)
    ready.supervisor.stop_servers([bob.username], grace=5)


def test_the_teachers_number_of_threads_holds_in_a_forked_kernel(ready, bob):
    ready.ready((bob, BOB), environment={"OMP_NUM_THREADS": "3", "MPLBACKEND": "agg"})
    with signed_in(ready, bob, BOB) as one:
        kernel, _pid = started(one)
        code = "import numpy, threadpoolctl; print([one['num_threads'] for one in threadpoolctl.threadpool_info()])"
        assert one.run(code, kernel) == "[3]\n"
        assert one.run("import matplotlib.pyplot as plt; print(plt.get_backend())", kernel) == "agg\n"
    ready.supervisor.stop_servers([bob.username], grace=5)


SETS = """
import os
os.environ.update(OPENBLAS_NUM_THREADS="1", MPLBACKEND="svg")
import numpy, threadpoolctl, matplotlib.pyplot as plt
print([one["num_threads"] for one in threadpoolctl.threadpool_info()], plt.get_backend())
plt.plot([1])
os.environ["MPLBACKEND"] = "agg"
print(plt.get_backend(), os.environ["MPLBACKEND"], os.popen("echo $OPENBLAS_NUM_THREADS").read())
"""


def test_variables_that_a_cell_sets_before_its_first_import_count(ready, client):
    seen = []
    for are_forked in (False, True):
        write_kernels(ready, are_forked=are_forked)
        kernel = client.start_kernel()
        assert is_forked(int(client.run("import os; print(os.getpid())", kernel))) == are_forked
        seen.append(client.run(SETS, kernel).splitlines()[:2])
    assert seen == [["[1] svg", "svg agg 1"]] * 2


def test_kernelspecs_of_others_are_left_alone(ready, client, ada):
    folder = ada.home / ".local/share/jupyter/kernels/own"
    spec = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "own"}

    def put() -> None:
        folder.mkdir(parents=True)
        (folder / "kernel.json").write_text(json.dumps(spec | {"language": "python"}))

    workers.run_as(ada, put)
    kernel = client.api("POST", "kernels", json={"name": "own"}).json()["id"]
    assert not is_forked(int(client.run("import os; print(os.getpid())", kernel)))
    shutil.rmtree(folder)


def test_a_student_who_is_out_of_kernels_gets_ordinary_ones(ready, client, ada):
    """A forked one is a process that the fork server counts; here they are programs that the student started."""
    address, command = ready.paths.kernels_socket, ["/bin/sleep", "60"]

    def begin() -> list[int]:
        pids: list[int] = []
        deadline = time.monotonic() + 60
        while len(pids) < 40 and time.monotonic() < deadline:
            try:
                pids.append(ask_for_kernel(str(address), command, {}, "/").pid)
            except NotForked as reason:
                if "32 run already" in str(reason):
                    break
                time.sleep(0.5)
        return pids

    pids = workers.run_as(ada, begin, timeout=90)
    assert len(pids) == 32
    time.sleep(2)  # not for too many requests
    assert not is_forked(int(client.run("import os; print(os.getpid())")))
    assert "32 run already" in log_of(ready, ada)
    for pid in pids:
        psutil.Process(pid).kill()
    eventually(lambda: not any(map(psutil.pid_exists, pids)))
    started(client)


@pytest.mark.adoption
def test_kernels_are_forked_again_after_the_supervisor_was_killed(ready, ada):
    with signed_in(ready, ada, ADA) as one:
        kernel, pid = started(one)
        one.run("x = 6", kernel)
        ready.kill_supervisor()
        ready.reconnect()
        assert one.run("x", kernel) == "6" and psutil.pid_exists(pid)
        assert not is_forked(int(one.run("import os; print(os.getpid())")))
        loaded(ready)
        ready.supervisor.start_server(ready.order(ada, ADA))  # as a launch does
        started(one)
        for running in one.api("GET", "kernels").json():
            one.api("DELETE", f"kernels/{running['id']}")


def test_a_kernels_end_is_seen_without_being_its_parent():
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    kernel = ForkedKernel(pid, os.pidfd_open(pid))
    assert kernel.poll() is None
    with pytest.raises(TimeoutError):
        kernel.wait(0.1)
    os.setpgid(pid, pid)
    kernel.kill()
    assert kernel.wait(10) == kernel.poll() == -1
    kernel.kill()  # nothing happens
    os.waitpid(pid, 0)
