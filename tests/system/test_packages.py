"""The course's own packages, really built and installed: by whom, what is kept, and what a hostile package gains."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import psutil
import pytest

from nblauncher import environments
from nblauncher.accounts.linux import LinuxAccounts
from nblauncher.errors import HostError
from nblauncher.forkserver import trusted
from nblauncher.model import Account
from nblauncher.requirements import Requirements

pytestmark = pytest.mark.system

WHOAMI = """
import os, pathlib, subprocess, sys
from setuptools import setup
pathlib.Path("nbtbuilt.py").write_text("builder = %r" % [os.getuid(), os.getgid(), os.getgroups(), os.environ["HOME"]])
DATA = []
EXTRA
setup(name="nbtbuilt", version=VERSION, py_modules=["nbtbuilt"], data_files=DATA)
"""


@pytest.fixture(scope="module")
def builder() -> Account:
    accounts = LinuxAccounts()
    accounts.ensure_system_accounts()
    return accounts.idle_builder()


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Where packages come from, and where a course's environments are."""
    with pytest.MonkeyPatch.context() as monkeypatch, tempfile.TemporaryDirectory(prefix="nbt-", dir="/opt") as made:
        folder = Path(made)
        folder.chmod(0o755)
        (folder / "index").mkdir(mode=0o755)
        monkeypatch.setenv("PIP_FIND_LINKS", f"{folder}/index {os.environ.get('PIP_FIND_LINKS', '')}".strip())
        yield folder


def source_distribution(place: Path, version: str, extra: str = "") -> None:
    """A package that runs code when it is built."""
    text = WHOAMI.replace("VERSION", repr(version)).replace("EXTRA", extra)
    about = f"Metadata-Version: 2.1\nName: nbtbuilt\nVersion: {version}\n"
    with tarfile.open(place / "index" / f"nbtbuilt-{version}.tar.gz", "w:gz") as archive:
        for name, content in (("setup.py", text), ("PKG-INFO", about)):
            entry = tarfile.TarInfo(f"nbtbuilt-{version}/{name}")
            entry.size = len(content)
            archive.addfile(entry, BytesIO(content.encode()))
    (place / "index" / f"nbtbuilt-{version}.tar.gz").chmod(0o644)


def build(place: Path, *lines: str, modules: tuple[str, ...] = (), course: str = "nbt") -> Path:
    accounts, told, folder = LinuxAccounts(), list[str](), place / "courses" / course
    wanted = Requirements(lines)
    environments.build(folder, wanted, modules, accounts.idle_builder, told.append)
    assert environments.is_built(folder, wanted)
    found = environments.current(folder)
    assert found is not None
    return found


def running_as(account: Account) -> list[psutil.Process]:
    found = [one for one in psutil.process_iter(["uids", "status"]) if account.uid in (one.info["uids"] or ())]
    return [one for one in found if one.info["status"] != psutil.STATUS_ZOMBIE]


def said(environment: Path, code: str) -> str:
    command = [str(environments.python_in(environment)), "-I", "-c", code]
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
    assert not list(trusted.objections_to(environments.python_in(made)))
    hashes = json.loads((made / environments.HASHES).read_text())
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
    assert environments.current(place / "courses/nbt") == first and len(list((place / "courses/nbt").iterdir())) == 2
    (place / "index" / "nbtbuilt-2.0.tar.gz").chmod(0o644)
    second = build(place, "nbtbuilt==2.0")
    assert second != first and first.is_dir()
    assert said(second, "import importlib.metadata as m; print(m.version('nbtbuilt'))") == "2.0"
    assert build(place, "nbtbuilt==1.0") == first, "what is still there is not built again"


def test_an_environment_that_cannot_be_imported_is_not_used(place, builder):
    source_distribution(place, "3.0", 'pathlib.Path("nbtbuilt.py").write_text("raise RuntimeError(7)")')
    with pytest.raises(HostError, match="RuntimeError: 7"):
        build(place, "nbtbuilt==3.0", modules=("no_such_module", "nbtbuilt"), course="other")
    assert environments.current(place / "courses/other") is None
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


@pytest.mark.parametrize("extra", [SMUGGLED, NO_WHEEL, MOVED], ids=["a link", "no wheel", "the folder"])
def test_what_a_package_puts_beside_the_wheels_is_refused_and_what_it_leaves_running_is_ended(place, builder, extra):
    source_distribution(place, "4.0", LEFT_BEHIND + extra)
    with pytest.raises(HostError):
        build(place, "nbtbuilt==4.0", course="other")
    assert environments.current(place / "courses/other") is None
    assert not running_as(builder)


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
    ran = set(seen.read_text().split())
    assert ran == {str(builder.uid)}, "by whom it was tried"
    said(made, "print(1)")
    assert set(seen.read_text().split()) == {"0", str(builder.uid)}, "the file is read by a Python that starts"
