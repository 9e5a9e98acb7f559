"""The course's own packages, really built and installed: by whom, what is kept, and what a hostile package gains."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nblauncher.accounts.linux import LinuxAccounts
from nblauncher.environments import course_packages
from nblauncher.errors import HostError
from nblauncher.model import Account
from nblauncher.system import trusted
from tests.classroom import Classroom
from tests.packages import alone, archived, build, source_distribution
from tests.running import eventually

pytestmark = [pytest.mark.system, pytest.mark.group("builder"), pytest.mark.slow]  # builds environments
# Tests that build a whole environment, with ipykernel and all it needs, are slow: each takes twenty seconds.


@pytest.fixture(scope="module")
def builder() -> Iterator[Account]:
    with alone():
        accounts = LinuxAccounts()
        accounts.ensure_system_accounts()
        yield accounts.idle_builder()


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Where packages come from, and where a course's environments are."""
    with pytest.MonkeyPatch.context() as monkeypatch, tempfile.TemporaryDirectory(prefix="nbt-", dir="/opt") as made:
        folder = Path(made)
        folder.chmod(0o755)
        (folder / "index").mkdir(mode=0o755)
        monkeypatch.setenv("PIP_FIND_LINKS", f"{folder}/index {os.environ.get('PIP_FIND_LINKS', '')}".strip())
        yield folder


def running_as(account: Account) -> list[psutil.Process]:
    found = [one for one in psutil.process_iter(["uids", "status"]) if account.uid in (one.info["uids"] or ())]
    return [one for one in found if one.info["status"] != psutil.STATUS_ZOMBIE]


def said(environment: Path, code: str) -> str:
    command = [str(course_packages.python_in(environment)), "-I", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def first(place: Path, builder: Account) -> Path:
    source_distribution(place, "1.0")
    return build(place, "nbtbuilt==1.0")


def test_packages_are_built_by_an_account_that_owns_nothing_and_installed_as_roots(place, builder, first):
    made = first
    uid, gid, groups, home = json.loads(said(made, "import nbtbuilt, json; print(json.dumps(nbtbuilt.builder))"))
    assert (uid, gid) == (builder.uid, builder.gid) and set(groups) <= {builder.gid}
    assert home.startswith(str(place / "courses/nbt/.build/")) and not Path(home).exists()
    everything = [path for path in made.rglob("*") if not path.is_symlink()]
    assert len(everything) > 1000
    assert not [path for path in everything if path.stat().st_uid != 0 or path.stat().st_mode & 0o022]
    assert not [path for path in everything if not path.stat().st_mode & 0o004]
    assert not list(trusted.objections_to(course_packages.python_in(made)))
    hashes = json.loads((made / course_packages.HASHES).read_text())
    assert all(len(digest) == 64 for digest in hashes.values())
    assert {"nbtbuilt-1.0-py3-none-any.whl"} < set(hashes)
    said(made, "import ipykernel.kernelapp")
    assert "pip" in said(made, "import pip; print(pip.__name__)")
    assert not running_as(builder)


def test_what_was_there_stays_until_the_new_one_works_and_one_more_is_kept(place, first):
    source_distribution(place, "2.0")
    (place / "index" / "nbtbuilt-2.0.tar.gz").chmod(0o600)  # it cannot be read
    with pytest.raises(HostError, match="cannot be built"):
        build(place, "nbtbuilt==2.0")
    assert course_packages.current(place / "courses/nbt") == first and len(list((place / "courses/nbt").iterdir())) == 2
    (place / "index" / "nbtbuilt-2.0.tar.gz").chmod(0o644)
    second = build(place, "nbtbuilt==2.0")
    assert second != first and first.is_dir()
    assert said(second, "import importlib.metadata as m; print(m.version('nbtbuilt'))") == "2.0"
    assert build(place, "nbtbuilt==1.0") == first, "what is still there is not built again"


def test_an_environment_that_cannot_be_imported_is_not_used(place, builder):
    source_distribution(place, "3.0", 'pathlib.Path("nbtbuilt.py").write_text("raise RuntimeError(7)")')
    with pytest.raises(HostError, match="RuntimeError: 7"):
        build(place, "nbtbuilt==3.0", modules=("no_such_module", "nbtbuilt"), course="other")
    assert course_packages.current(place / "courses/other") is None
    assert [entry.name for entry in (place / "courses/other").iterdir()] == []


LEFT_BEHIND = """
if os.fork() == 0:
    os.setsid()
    for number in range(3):
        os.dup2(os.open("/dev/null", os.O_RDWR), number)
    os.closerange(3, 1000)
    while True:
        for name in os.listdir(os.environ["HOME"] + "/wheels"):
            open(os.environ["HOME"] + "/wheels/" + name, "ab").write(b"x")
"""
SMUGGLED = 'os.symlink("/etc/shadow", os.environ["HOME"] + "/wheels/nbtsmuggled-1-py3-none-any.whl")'
NO_WHEEL = 'pathlib.Path(os.environ["HOME"] + "/wheels/evil.sh").write_text("id")'
MOVED = """
import shutil
shutil.rmtree(os.environ["HOME"] + "/wheels"); os.symlink("/root", os.environ["HOME"] + "/wheels")
"""


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(SMUGGLED, id="a link"),
        pytest.param(NO_WHEEL, id="no wheel"),
        pytest.param(MOVED, id="the folder"),
    ],
)
def test_what_a_package_puts_beside_the_wheels_is_refused_and_what_it_leaves_running_is_ended(place, builder, extra):
    source_distribution(place, "4.0", LEFT_BEHIND + extra)
    with pytest.raises(HostError):
        build(place, "nbtbuilt==4.0", course="other")
    assert course_packages.current(place / "courses/other") is None
    assert not running_as(builder)


LEAVING = """
import ctypes, glob, json, socket, time
SEEN = {}
def tried(name, deed):
    try:
        SEEN[name] = str(deed())
    except Exception as error:
        SEEN[name] = "failed: %s" % type(error).__name__
def put(path):
    pathlib.Path(path).write_text("left")
    return "wrote"
def command(*words):
    return subprocess.run(words, input=b"* * * * * touch /tmp/nbt-cron\\n", check=True, capture_output=True).returncode
def connect():
    socket.create_connection(("127.0.0.1", PORT), 5).close()
    return "connected"
tried("crontab", lambda: command("crontab", "-"))
tried("at", lambda: command("at", "now + 1 minute"))
for folder in ("/tmp", "/var/tmp", "/dev/shm", "/run/lock", "/var/lock", OPEN):
    tried("file in " + folder, lambda: put(folder + "/nbt-left"))
libc = ctypes.CDLL(None, use_errno=True)
tried("shared memory", lambda: libc.shmget(0x6e6274, 4096, 0o1666))
tried("message queue", lambda: libc.mq_open(b"/nbt-left", os.O_CREAT | os.O_RDWR, 0o666, None))
tried("processes of others", lambda: len(glob.glob("/proc/[0-9]*")) > 12)
tried("builds", lambda: glob.glob(COURSES + "/*/.build/*"))
tried("setuid", lambda: open("/proc/self/status").read().partition("NoNewPrivs:")[2].split()[0])
tried("services", lambda: sorted(os.listdir("/run")))
tried("network", connect)
for folder in ("wheels", "../fetch/wheels", "../../.build/fetch/wheels"):
    for other in glob.glob(os.environ["HOME"] + "/" + folder + "/nbtsibling*"):
        open(other, "ab").write(b"x")
pathlib.Path("nbtbuilt.py").write_text("seen = %r" % json.dumps({"argv": sys.argv[1:], **SEEN}))
if os.fork() == 0:
    os.setsid()
    time.sleep(10000)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Where everybody may write, as on a file server; not one of the places that are looked at."""
    made = Path(tempfile.mkdtemp(prefix="nbt-", dir="/srv"))
    made.chmod(0o1777)
    yield made
    shutil.rmtree(made)


def test_a_build_leaves_nothing_on_the_host_and_sees_nothing_of_it(place, builder, open_folder):
    source_distribution(place, "1.0", name="nbtsibling")
    stale = place / "courses/third/.build/home"
    stale.mkdir(parents=True)
    os.chown(stale, builder.uid, builder.gid)
    (stale / "secret").touch()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        words = {"PORT": str(listener.getsockname()[1]), "OPEN": repr(str(open_folder))}
        text = LEAVING.replace("COURSES", repr(str(place / "courses")))
        for name, value in words.items():
            text = text.replace(name, value)
        source_distribution(place, "6.0", text)
        made = build(place, "nbtsibling==1.0", "nbtbuilt==6.0", course="other")
    seen = json.loads(said(made, "import nbtbuilt; print(nbtbuilt.seen)"))
    assert "bdist_wheel" in seen.pop("argv"), "this is of the build itself"
    assert seen.pop("crontab").startswith("failed") and seen.pop("at").startswith("failed")
    assert seen.pop("network").startswith("failed") and seen.pop(f"file in {open_folder}").startswith("failed")
    assert seen["setuid"] == "1" and seen["processes of others"] == "False"
    assert seen["builds"] == str([f"{place}/courses/other/.build/build-1"]) and not stale.exists()
    assert set(json.loads(seen["services"].replace("'", '"'))) <= {"lock", "systemd"}
    assert not running_as(builder) and not LinuxAccounts().leftovers_of_builder()
    assert not any(Path(folder, "nbt-left").exists() for folder in ("/tmp", "/var/tmp", "/dev/shm", "/run/lock"))
    assert not list(open_folder.iterdir())
    assert "builder" in said(made, "import nbtsibling; print(dir(nbtsibling))")


def test_what_the_account_has_on_the_host_from_before_goes_before_anything_is_built(place, builder):
    subprocess.run(["crontab", "-u", builder.username, "-"], input=b"@yearly true\n", check=True)
    shared = subprocess.run(
        [sys.executable, "-c", "import ctypes; print(ctypes.CDLL(None).shmget(0x6e6275, 4096, 0o1666))"],
        check=True, capture_output=True, user=builder.uid, group=builder.gid, extra_groups=[],
    )  # fmt: skip
    left = Path(tempfile.mkdtemp(prefix="nbt-", dir="/var/tmp"))
    (left / "poison.whl").touch()
    for path in (left, left / "poison.whl"):
        os.chown(path, builder.uid, builder.gid)
    found = LinuxAccounts().leftovers_of_builder()
    assert set(found) == {"crontab", f"shared memory {int(shared.stdout)}", str(left)}
    assert LinuxAccounts().idle_builder() == builder
    assert not LinuxAccounts().leftovers_of_builder() and not left.exists()


HOLDING = """
if os.fork() == 0:
    os.setsid()
    import time
    time.sleep(10000)
"""


def test_a_process_that_keeps_pips_pipe_open_is_ended_and_the_build_goes_on(place, builder):
    source_distribution(place, "7.0", HOLDING)
    made = build(place, "nbtbuilt==7.0", course="other")
    assert said(made, "import importlib.metadata as m; print(m.version('nbtbuilt'))") == "7.0"
    assert not running_as(builder)


FORGING = """
import glob, threading
def forge():
    while True:
        for name in glob.glob("/proc/[0-9]*/cwd/**/*.whl", recursive=True):
            try:
                open(name, "ab").write(b"x")
            except OSError:
                pass
if os.fork() == 0:
    os.setsid()
    forge()
"""


def test_one_packages_build_changes_no_other_packages_wheel(place, builder, first):
    """`first` has ipykernel as the index has it."""
    source_distribution(place, "8.0", FORGING)
    made = build(place, "nbtbuilt==8.0", course="other")
    hashes = [json.loads((one / course_packages.HASHES).read_text()) for one in (first, made)]
    for one in hashes:
        assert one.pop(next(name for name in one if name.startswith("nbtbuilt")))
    assert hashes[0] == hashes[1]


NEEDS = """
import setuptools.build_meta
from setuptools.build_meta import *
def get_requires_for_build_wheel(config_settings=None):
    return ["nbtneeded==1.0"]
def build_wheel(*arguments, **named):
    import nbtneeded
    return setuptools.build_meta.build_wheel(*arguments, **named)
"""


def test_what_a_package_is_built_with_is_fetched_before_it_is_built(place, builder):
    source_distribution(place, "1.0", name="nbtneeded")
    files = {
        "pyproject.toml": '[build-system]\nrequires = ["setuptools", "wheel"]\nbuild-backend = "own"\n'
        'backend-path = ["backend"]\n[project]\nname = "nbtbackend"\nversion = "1.0"\n',
        "backend/own.py": NEEDS,
        "nbtbackend.py": "",
        "PKG-INFO": "Metadata-Version: 2.1\nName: nbtbackend\nVersion: 1.0\n",
    }
    archived(place / "index" / "nbtbackend-1.0.tar.gz", "nbtbackend-1.0", files)
    made = build(place, "nbtbackend", course="other")
    assert said(made, "import importlib.metadata as m; print(m.version('nbtbackend'))") == "1.0"
    assert said(made, "import importlib.util as u; print(u.find_spec('nbtneeded'))") == "None"


AT_START = """
where = "lib/python%d.%d/site-packages" % sys.version_info[:2]
pathlib.Path("nbt.pth").write_text("import os; open(FILE, 'a').write(str(os.geteuid()) + chr(10))")
DATA = [(where, ["nbt.pth"])]
"""


def test_nothing_of_a_package_runs_as_root_while_it_is_installed(place, builder):
    seen = place / "ran-as"
    seen.touch()
    seen.chmod(0o666)
    source_distribution(place, "5.0", AT_START.replace("FILE", repr(str(seen))))
    made = build(place, "nbtbuilt==5.0", course="other")
    assert not seen.read_text(), "who tried it can write there no more than who built it"
    said(made, "print(1)")
    assert set(seen.read_text().split()) == {"0"}, "the file is read by a Python that starts"


@pytest.fixture
def rooms(place: Path, builder: Account) -> Iterator[tuple[Classroom, Classroom]]:
    """Two courses, whose packages go with them."""
    found = [
        Classroom(f"nbtp-{name}", [f"nbtp{name}"], port=port, first_uid=uid)
        for name, port, uid in (("one", 22100, 29200), ("two", 22200, 29250))
    ]
    yield found[0], found[1]
    for room in found:
        room.close()
        shutil.rmtree(room.paths.environments, ignore_errors=True)


HANGING = """
import time
while not os.path.exists(GO):
    time.sleep(0.1)
"""


@pytest.fixture
def hanging(place: Path, rooms: tuple[Classroom, Classroom]) -> Iterator[subprocess.Popen[str]]:
    """The first course's setup, whose build does not end before `go` is there."""
    go = place / "go"
    source_distribution(place, "9.0", HANGING.replace("GO", repr(str(go))))
    one, _two = rooms
    one.write(notebook={"requirements": ["nbtbuilt==9.0"]})
    process = one.start("setup")
    eventually(lambda: (one.paths.environments / ".build" / "choose").is_dir())
    yield process
    go.touch()
    process.communicate(timeout=120)
    go.unlink()


def test_while_one_courses_packages_are_built_other_courses_are_set_up_and_removed(place, rooms, hanging):
    one, two = rooms
    two.run("setup")
    two.run("remove", "--yes")
    two.write(notebook={"requirements": ["nbtbuilt==9.0"]})
    assert "still building packages on this host" in two.run("setup", expect=6).stderr
    assert hanging.poll() is None and not one.paths.ledger.exists()
    (place / "go").touch()
    _out, err = hanging.communicate(timeout=120)
    assert hanging.returncode == 0, err
    assert course_packages.current(one.paths.environments) is not None
    assert one.run("setup").stdout.startswith("setup: nothing to do")
    one.run("remove", "--yes")
    assert not one.paths.environments.exists()


def test_a_course_that_is_removed_while_its_packages_are_built_stays_removed(place, rooms, hanging):
    one, _two = rooms
    (place / "go").touch()
    hanging.communicate(timeout=120)
    (place / "go").unlink()
    one.write(notebook={"requirements": ["nbtbuilt==9.0", "ipykernel"]})
    again = one.start("setup")
    eventually(lambda: (one.paths.environments / ".build" / "choose").is_dir())
    one.run("remove", "--yes")
    _out, err = again.communicate(timeout=120)
    assert "was removed or changed while its packages were built" in err and again.returncode == 4
    assert not one.paths.environments.exists() and not one.paths.ledger.exists()
    assert not running_as(LinuxAccounts().idle_builder())
