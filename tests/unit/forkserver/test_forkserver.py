"""Parts of the fork server: what it trusts, which requests it takes, what it loads, what a forked process renews."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nblauncher.forkserver import preload, requests
from nblauncher.forkserver.preload import Found
from nblauncher.forkserver.requests import Place, Request, RequestError
from nblauncher.isolation.cgroups import Group, Kind
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.model import Account, Limits
from nblauncher.preflight import machine
from nblauncher.system import trusted, wire

SANDBOX = Sandbox(
    Group(Kind.V2, Path("/sys/fs/cgroup/x"), (("memory", Path("/sys/fs/cgroup/memory/x")),)),
    Limits(memory=10**9, cpus=0.5),
    Path("/run/nblauncher/x/namespaces/20001"),
    (Path("/proc/1/fd/9"),),
)
ADA = Account("ada", 20001, 20001, Path("/home/ada"))
GOOD = {
    "id": 1,
    "username": "ada",
    "uid": 20001,
    "gid": 20001,
    "home": "/home/ada",
    "environment": {"HOME": "/home/ada"},
    "umask": 0o077,
    "sandbox": Sandbox(Group(Kind.NONE, Path())).to_json(),
    "tls": False,
}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs files of several owners")


@pytest.fixture
def link():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_a_request_arrives_as_it_was_sent_with_its_descriptors(link):
    request = Request(7, Place(ADA, SANDBOX), {"LANG": "C.UTF-8"}, has_tls=True)
    reader, writer = os.pipe()
    socket.send_fds(link[0], [request.pack(1)], [writer])
    os.close(writer)
    message, (received,) = requests.receive(link[1])
    assert Request.parse(message) == request
    os.write(received, b"x")
    os.close(received)
    assert os.read(reader, 2) == b"x"
    os.close(reader)


@pytest.mark.parametrize(
    "change",
    [
        {"uid": 0},
        {"gid": 0},
        {"uid": "20001"},
        {"uid": True},
        {"umask": None},
        {"umask": 0o1000},
        {"id": None},
        {"username": "../ada"},
        {"username": "ada\n"},
        {"home": "home/ada"},
        {"home": "/home/\0"},
        {"environment": {"A": 1}},
        {"environment": ["A=1"]},
        {"environment": {"A": "\0"}},
        {"sandbox": "none"},
        {"sandbox": {**SANDBOX.to_json(), "kind": "no such kind"}},
        {"sandbox": {**SANDBOX.to_json(), "path": None}},
        {"sandbox": {**SANDBOX.to_json(), "beside": {"memory": "x"}}},
        {"sandbox": {**SANDBOX.to_json(), "namespace": "ns"}},
        {"sandbox": {**SANDBOX.to_json(), "apart": None}},
        {"sandbox": {**SANDBOX.to_json(), "apart": ["net"]}},
        {"sandbox": {**SANDBOX.to_json(), "limits": {"memory": 1}}},
        {"sandbox": {**SANDBOX.to_json(), "limits": {"memory": -1, "cpus": None, "processes": None, "disk": None}}},
    ],
    ids=str,
)
def test_a_request_that_makes_no_sense_is_refused(change):
    assert Request.parse(GOOD).place.account == ADA
    with pytest.raises(RequestError):
        Request.parse({**GOOD, **change})


@pytest.mark.parametrize(
    "packet", [b"", b"x", wire.pack({})[:-1], b"\xff\xff\xff\xff", b"\0\0\0\x02[]", b"\0\0\0\x03{}x", b"\0\0\0\x01{"]
)
def test_a_packet_of_garbage_costs_only_itself(link, packet):
    link[0].send(packet)
    link[0].send(wire.pack(GOOD))
    if packet:
        with pytest.raises(wire.WireError):
            requests.receive(link[1])
    else:
        assert requests.receive(link[1]) is None
    message, descriptors = requests.receive(link[1])
    assert (message["username"], descriptors) == ("ada", [])


def test_a_request_too_long_for_a_packet_is_not_sent(link):
    request = Request(1, Place(ADA, Sandbox(Group(Kind.NONE, Path()))), {"A": "x" * requests.MAX_PACKET}, has_tls=False)
    with pytest.raises(ValueError, match="a request of"):
        request.pack(0)


@needs_root
@pytest.mark.parametrize("what", ["folder", "above", "link", "owner", "group"])
def test_what_another_account_could_change_is_objected_to(tmp_path, what):
    place = tmp_path / "above" / "folder"
    place.mkdir(parents=True)
    before = list(trusted.objections_to(place))
    if what == "folder":
        place.chmod(0o757)
    elif what == "above":
        place.parent.chmod(0o777)
    elif what == "owner":
        os.chown(place.parent, 65534, -1)
    elif what == "group":
        place.chmod(0o775)
    else:
        (tmp_path / "theirs").mkdir()
        os.chown(tmp_path / "theirs", 65534, -1)
        place.rmdir()
        place.symlink_to("../theirs")
    assert len(set(trusted.objections_to(place)) - set(before)) == 1


@needs_root
def test_a_student_s_pth_file_in_a_folder_of_roots_is_objected_to(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    before = trusted.objections()
    (tmp_path / "evil.pth").write_text("import os\n")
    os.chown(tmp_path / "evil.pth", 65534, -1)
    assert len(trusted.objections()) == len(before) + 1


def test_what_cannot_be_preloaded_is_left_to_later_imports():
    preload.load(["nblauncher.no_such_module", "colorsys"])
    assert "colorsys" in sys.modules


GRAMMAR = """
import sys
import nblauncher.system.late_grammar
import jsonschema
before = "rfc3987_syntax.syntax_helpers" in sys.modules
check = jsonschema.Draft202012Validator.FORMAT_CHECKER.conforms
print(before, check("https://ex\u00e4mple.org/", "iri"), check("no iri", "iri"), check("//a b", "iri-reference"))
print("rfc3987_syntax.syntax_helpers" in sys.modules)
"""


def test_the_grammar_of_iris_is_made_when_one_is_checked():
    said = subprocess.run([sys.executable, "-I", "-c", GRAMMAR], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False", "True", "False", "False", "True"]


ENTRY_POINTS = """
import builtins, importlib.metadata, io, sys
from nblauncher.forkserver import preload
asked = [{}, {"group": "console_scripts"}, {"group": "none"}, {"group": "console_scripts", "name": "jupyter-server"}]
before = [importlib.metadata.entry_points(**one) for one in asked]
preload.remember_entry_points()
opened = []
sys.addaudithook(lambda event, arguments: opened.append(arguments) if event == "open" else None)
from importlib.metadata import entry_points
print([list(entry_points(**one)) for one in asked] == [list(one) for one in before], len(before[3]), len(opened))
"""


def test_what_packages_offer_is_read_once_and_answered_as_ever():
    said = subprocess.run([sys.executable, "-I", "-c", ENTRY_POINTS], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["True", "1", "0"]


def test_names_of_modules_are_checked_before_they_are_imported():
    assert preload.names_in(["colorsys", "os.path", "../x", "a b", 7, "os;x", "x."]) == ("colorsys", "os.path")
    assert preload.names_in({"colorsys": 1}) == ()


@needs_root
def test_a_finding_is_kept_for_the_environment_that_it_was_made_in(tmp_path, monkeypatch):
    file, packages = tmp_path / "preloaded.json", tmp_path / "packages"
    packages.mkdir()
    monkeypatch.setattr(sys, "path", [str(packages), str(tmp_path / "none.zip")])
    before = preload.environment()
    assert preload.recall(file, before) is None
    found = Found(("os.path", "colorsys"), {"pandas": "imports x, which starts a thread when it is imported"})
    preload.note(file, before, found)
    assert preload.recall(file, preload.environment()) == found
    assert file.stat().st_mode & 0o777 == 0o600
    os.utime(packages, ns=(0, 1))  # as when a package is installed
    assert preload.recall(file, preload.environment()) is None


@needs_root
@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.chmod(0o620),
        lambda file: os.chown(file, 65534, -1),
        lambda file: file.write_text("{"),
        lambda file: file.write_text("[]"),
        lambda file: file.write_text(json.dumps({"environment": preload.environment(), "modules": ["colorsys"]})),
        lambda file: (file.unlink(), file.symlink_to("/etc/hostname")),
        lambda file: (file.unlink(), os.mkfifo(file, 0o600)),
    ],
    ids=["writable", "another's", "cut off", "another shape", "half of it", "a link", "a pipe"],
)
def test_a_finding_that_is_not_roots_or_is_damaged_is_not_used(tmp_path, spoil):
    file = tmp_path / "preloaded.json"
    preload.note(file, preload.environment(), Found(("colorsys",)))
    spoil(file)
    assert preload.recall(file, preload.environment()) is None


def test_a_finding_that_cannot_be_kept_costs_nothing(tmp_path):
    preload.note(tmp_path / "none" / "preloaded.json", [], Found(("colorsys",)))


@needs_root
def test_a_note_of_an_older_format_is_not_used(tmp_path):
    """Its names were sorted, and `_asyncio` came before `asyncio`."""
    file = tmp_path / "preloaded.json"
    _format, *environment = preload.environment()
    file.write_text(json.dumps({"environment": environment, "modules": ["colorsys"]}))
    file.chmod(0o600)
    assert preload.recall(file, preload.environment()) is None


ORDER = """
import json, sys
from nblauncher.forkserver import preload
def warm_up(home):
    import nbtz
print(json.dumps(preload._report(warm_up)))
"""


def run_beside(folder: Path, code: str) -> str:
    """What this code prints where it finds the modules in `folder`."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"
    return subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout


def test_what_a_warm_up_loads_is_kept_in_its_order(tmp_path):
    (tmp_path / "nbtz.py").write_text("import nbty, nbta")
    (tmp_path / "nbty.py").write_text("import nbtx")
    for name in ("nbta", "nbtx"):
        (tmp_path / f"{name}.py").touch()
    names = json.loads(run_beside(tmp_path, ORDER))
    assert [name for name in names if name.startswith("nbt")] == ["nbtz", "nbty", "nbtx", "nbta"]


THREAD = """
import threading
waits = threading.Event()
threading.Thread(target=waits.wait, daemon=True).start()
"""
BRIEFLY = "import threading, time\nthreading.Thread(target=time.sleep, args=(0.2,)).start()"
IMPORTS = "try:\n    import {}\n    HAS = True\nexcept ImportError:\n    HAS = False\n"
ASKS = "from IPython import get_ipython\nSHELL = get_ipython()"
TRY = """
import json
from nblauncher import model
from nblauncher.forkserver import rehearsal
class Here:
    HostError = Exception
    def run_as(account, function, *arguments, timeout):
        import os
        reader, writer = os.pipe()
        if not os.fork():
            os.write(writer, json.dumps(function(*arguments)).encode())
            os._exit(0)
        os.close(writer)
        return json.loads(open(reader).read())
rehearsal.workers = Here
names = ["IPython.core.interactiveshell", "nbtfine", "nbtbig", "nbtbig.part"]
found = rehearsal.rehearsed(names, ["nbtbig", "nbttop", "nbtasks", "nbtfine", "nbtnone"], None)
print(json.dumps([found.names, found.left_out]))
"""


def test_a_module_that_starts_a_thread_or_looks_for_the_kernel_is_left_out_with_those_that_import_it(tmp_path):
    (tmp_path / "nbtbig").mkdir()
    files = {
        "nbtfine.py": f"import json\n{BRIEFLY}",
        "nbtdeep.py": THREAD,
        "nbtbig/part.py": "",
        "nbtbig/__init__.py": "from nbtbig import part\n" + IMPORTS.format("nbtdeep"),
        "nbttop.py": "import nbtbig.part",
        "nbtasks.py": ASKS,
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    names, left_out = json.loads(run_beside(tmp_path, TRY))
    assert names == ["IPython.core.interactiveshell", "nbtfine"]
    thread = "imports nbtdeep, which starts a thread when it is imported"
    asks = "looks for the running kernel when it is imported"
    assert left_out == {"nbtbig": thread, "nbttop": thread, "nbtasks": asks}


def test_what_is_tried_before_a_fork_notices_nothing_of_it(tmp_path):
    (tmp_path / "nbtmod.py").write_text("LOADER = type(__loader__).__name__, type(__spec__.loader).__name__")
    code = "from nblauncher.forkserver import rehearsal; rehearsal._try(['nbtmod'], ()); import nbtmod"
    assert run_beside(tmp_path, f"{code}; print(nbtmod.LOADER)") == "('SourceFileLoader', 'SourceFileLoader')\n"


def test_check_says_why_nothing_is_preloaded():
    assert machine.preloading([]).level == "ok"
    found = machine.preloading(["/opt/x is writable by accounts other than root", "another"])
    assert found.level == "warning" and "/opt/x" in found.message and "1 more" in found.message


PROBE = """
import json, locale, os, random, signal, site, sys, tempfile, multiprocessing
from nblauncher.forkserver import renewal
random.seed(1); tempfile.tempdir = "/old"; site.USER_SITE = "/old"
key = multiprocessing.current_process().authkey
renewal.use_pythons_signals()
renewal.renew({"HOME": "/new", "LANG": "C.UTF-8", "TZ": "UTC-3"})
import time
print(json.dumps([
    dict(os.environ), tempfile.tempdir, site.USER_SITE,
    bytes(multiprocessing.current_process().authkey) != bytes(key),
    time.strftime("%z"), signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN,
    signal.getsignal(signal.SIGINT) == signal.default_int_handler,
]))
"""


def test_a_forked_process_has_its_own_environment_and_time():
    said = subprocess.run([sys.executable, "-I", "-c", PROBE], capture_output=True, text=True, check=True).stdout
    environment, temporary, user_site, has_new_key, zone, ignores_pipes, has_python_int = json.loads(said)
    assert {name: environment[name] for name in ("HOME", "LANG", "TZ")} == {
        "HOME": "/new",
        "LANG": "C.UTF-8",
        "TZ": "UTC-3",
    }
    assert set(environment) <= {"HOME", "LANG", "TZ", "LC_CTYPE"}
    assert (temporary, user_site, zone) == (None, None, "+0300")
    assert has_new_key and ignores_pipes and has_python_int


def test_random_numbers_are_not_the_parents():
    random.seed(1)
    expected = random.random()
    random.seed(1)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, str(random.random()).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    assert float(os.read(reader, 100)) != expected
    os.close(reader)
