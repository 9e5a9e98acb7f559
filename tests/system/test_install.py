"""install.sh and quickstart.sh, on a machine made of copies.

Most tests install a small stand-in for the package, because what they ask is what install.sh does with a release,
whatever is in it. One installs the real one.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nblauncher.ledger import CourseRecord, HostLedger
from tests.system.machine import PREFIX, Machine, real_checkout, stand_in_checkout

pytestmark = pytest.mark.system

BLOCKING_SETUP = """
import pathlib, sys, time
pathlib.Path("/opt/nblauncher/reached").touch()
sys.stdin.read()
time.sleep(600)
"""
MAN_PAGE = Path("/usr/local/share/man/man1/nblauncher.1")
PHYSICS = CourseRecord("physics101", "root", 0, "/root/notebooks.cfg", 8000, group_made=True)


@pytest.fixture(scope="module")
def installed_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Machine, Path]:
    folder = tmp_path_factory.mktemp("install")
    machine = Machine.made(folder / "machine")
    checkout = stand_in_checkout(folder / "checkout")
    machine.run(checkout / "install.sh")
    return machine, checkout


@pytest.fixture
def checkout(installed_once: tuple[Machine, Path], tmp_path: Path) -> Path:
    subprocess.run(["cp", "-a", installed_once[1], tmp_path / "checkout"], check=True)
    return tmp_path / "checkout"


@pytest.fixture
def machine(installed_once: tuple[Machine, Path], tmp_path: Path) -> Machine:
    """The stand-in is installed from `checkout`."""
    return installed_once[0].copied(tmp_path / "machine")


@pytest.fixture
def fresh_machine(tmp_path: Path) -> Machine:
    return Machine.made(tmp_path / "machine")


def change(checkout: Path) -> None:
    with (checkout / "nblauncher" / "standin.py").open("a") as file:
        file.write("# changed\n")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_closed_checkout_under_umask_077_becomes_a_release_that_students_can_run(fresh_machine, tmp_path):
    checkout = real_checkout(tmp_path / "checkout")
    before = files_of(checkout)
    fresh_machine.run(checkout / "install.sh")
    release = PREFIX / fresh_machine.current
    assert "nblauncher" in fresh_machine.run("/usr/local/bin/nblauncher", "--version")
    hostile = fresh_machine.seen("/root/hostile")
    hostile.mkdir()
    (hostile / "sitecustomize.py").write_text("open('/root/took', 'w')")
    fresh_machine.run("/usr/local/bin/nblauncher", "--version", PYTHONPATH="/root/hostile")
    assert not fresh_machine.seen("/root/took").exists()
    as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    assert ".ipython" in fresh_machine.run(*as_nobody, "/usr/local/bin/ipython_dir", HOME="/nonexistent")
    fresh_machine.run(*as_nobody, release / "bin/python", "-I", "-c", "import nblauncher.cli.main, notebook, ipykernel")
    assert fresh_machine.run(*as_nobody, "cat", MAN_PAGE).startswith(".TH NBLAUNCHER 1 ")
    for shell in ("bash", "zsh", "fish"):
        script = fresh_machine.run(*as_nobody, "cat", release / f"share/nblauncher/completion.{shell}")
        assert f"_NBLAUNCHER_COMPLETE={shell}_complete" in script
    for path in fresh_machine.seen(release).rglob("*"):
        mode, uid = path.lstat().st_mode, path.lstat().st_uid
        if not stat.S_ISLNK(mode):
            assert (uid, mode & 0o022, mode & 0o044) == (0, 0, 0o044), path
    assert list(fresh_machine.seen(release).rglob("site-packages/nblauncher/__pycache__/errors.*.pyc"))
    assert fresh_machine.accounts >= {"nblauncher", "nblauncher-kill"}
    assert files_of(checkout) == before


def test_an_unchanged_checkout_is_installed_already(machine, checkout):
    before = machine.contents()
    machine.run(checkout / "install.sh")
    assert machine.contents() == before


def test_a_changed_checkout_is_a_new_release_and_the_previous_one_stays(machine, checkout):
    first = machine.current
    change(checkout)
    machine.run(checkout / "install.sh")
    assert machine.releases == {first, machine.current} and first != machine.current


@pytest.mark.slow
def test_a_running_class_keeps_the_release_that_it_started_with(machine, checkout):
    first = machine.current
    running = machine.start("/usr/local/bin/nblauncher", "serve")
    assert running.stdout is not None and running.stdout.readline().startswith("serve")
    for _ in range(2):
        change(checkout)
        output = machine.run(checkout / "install.sh")
    assert f"Kept {PREFIX / first}: a running class uses it." in output
    assert "still runs" in machine.run(checkout / "install.sh", "--uninstall", status=4)
    assert first in machine.releases
    running.communicate(timeout=60)
    machine.run(checkout / "install.sh")
    assert first not in machine.releases


def test_a_build_that_fails_leaves_the_installed_release(machine, checkout):
    before, current = machine.contents(), machine.current
    (checkout / "setup.py").write_text("raise SystemExit('no')\n")
    assert "could not be built" in machine.run(checkout / "install.sh", status=1).splitlines()[-1]
    assert machine.contents() - before == {"opt/nblauncher/install.log"}
    assert machine.current == current


@pytest.mark.slow
def test_a_release_that_cannot_be_imported_is_not_switched_to(machine, checkout):
    before, current = machine.contents(), machine.current
    (checkout / "nblauncher" / "__init__.py").write_text('__version__ = "2"\nimport missing\n')
    machine.run(checkout / "install.sh", status=1)
    assert machine.contents() - before <= {"opt/nblauncher/install.log"}
    assert machine.current == current


@pytest.mark.parametrize(
    "number",
    [*(pytest.param(one, marks=pytest.mark.slow) for one in (signal.SIGINT, signal.SIGTERM)), signal.SIGKILL],
)
def test_an_interrupted_install_leaves_the_installed_release_and_the_next_one_finishes(machine, checkout, number):
    before, current, good = machine.contents(), machine.current, (checkout / "setup.py").read_text()
    (checkout / "setup.py").write_text(BLOCKING_SETUP)
    install = machine.start(checkout / "install.sh")
    wait_for(machine.seen(PREFIX / "reached"), install)
    os.killpg(install.pid, number)
    install.communicate(timeout=60)
    assert install.returncode == (-number if number == signal.SIGKILL else 130)
    assert machine.current == current
    machine.run("/usr/local/bin/nblauncher")
    if number == signal.SIGKILL:
        assert machine.releases > {current}
        (checkout / "setup.py").write_text(good)
        machine.run(checkout / "install.sh")
    assert machine.contents() - before == {"opt/nblauncher/reached"}
    assert machine.current == current


@pytest.mark.slow
def test_a_damaged_release_is_replaced_by_another_one(machine, checkout):
    damaged = machine.current
    for file in machine.seen(PREFIX / damaged).rglob("nblauncher/__init__.py"):
        file.unlink()
        file.with_name("errors.py").unlink()
    for folder in machine.seen(PREFIX / damaged).rglob("site-packages/nblauncher"):
        folder.rename(folder.with_name("gone"))
    machine.run(checkout / "install.sh")
    assert machine.current == f"{damaged}.2"
    machine.run("/usr/local/bin/nblauncher")


@pytest.mark.slow
def test_without_pypi_the_message_says_so(fresh_machine, checkout):
    output = fresh_machine.run(
        checkout / "install.sh",
        status=1,
        PIP_INDEX_URL="https://127.0.0.1:9/simple",
        PIP_CONFIG_FILE="/dev/null",
        PIP_EXTRA_INDEX_URL="",
    )
    assert "PyPI" in output.splitlines()[-1] and "PIP_INDEX_URL" in output.splitlines()[-1]
    assert fresh_machine.releases == set()
    assert "nblauncher" not in fresh_machine.accounts


def test_two_installs_at_once_are_refused(machine, checkout):
    with machine.seen(PREFIX / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another install.sh" in machine.run(checkout / "install.sh", status=6)
        assert "another install.sh" in machine.run(checkout / "install.sh", "--uninstall", status=6)


def a_persons_account(machine: Machine, checkout: Path) -> None:
    with machine.seen("/etc/passwd").open("a") as file:
        file.write("nblauncher:x:1500:1500:Nora Blauncher,,,:/home/nblauncher:/bin/bash\n")


def a_command_of_somebody_else(machine: Machine, checkout: Path) -> None:
    machine.seen("/usr/local/bin/nblauncher").write_text("#!/bin/sh\n")


def an_opt_that_others_can_write_to(machine: Machine, checkout: Path) -> None:
    machine.seen("/opt").chmod(0o777)


def a_folder_of_somebody_else(machine: Machine, checkout: Path) -> None:
    machine.seen(PREFIX).mkdir()
    os.chown(machine.seen(PREFIX), 65534, 65534)


def half_a_checkout(machine: Machine, checkout: Path) -> None:
    (checkout / "constraints.txt").unlink()


@pytest.mark.parametrize(
    "obstacle, status",
    [
        (a_persons_account, 4),
        (a_command_of_somebody_else, 4),
        (an_opt_that_others_can_write_to, 4),
        (a_folder_of_somebody_else, 4),
        (half_a_checkout, 1),
    ],
)
def test_an_obstacle_is_named_and_nothing_is_changed(fresh_machine, checkout, obstacle, status):
    obstacle(fresh_machine, checkout)
    before, accounts = fresh_machine.contents(), fresh_machine.accounts
    output = fresh_machine.run(checkout / "install.sh", status=status)
    assert output.startswith("Error: ") and output.endswith("nothing was changed\n") and output.count("\n") == 1
    assert (fresh_machine.contents(), fresh_machine.accounts) == (before, accounts)


def test_a_checkout_in_our_own_folder_is_refused(fresh_machine, checkout):
    checkout.rename(fresh_machine.seen("/opt/nblauncher"))
    before = fresh_machine.contents()
    fresh_machine.run(PREFIX / "install.sh", status=4)
    assert fresh_machine.contents() == before


@pytest.mark.parametrize(
    "arguments, status", [(["--help"], 0), (["-x"], 2), (["--purge"], 2), (["--uninstall", "now"], 2)]
)
def test_wrong_arguments_change_nothing(fresh_machine, checkout, arguments, status):
    before = fresh_machine.contents()
    fresh_machine.run(checkout / "install.sh", *arguments, status=status)
    assert fresh_machine.contents() == before


@pytest.mark.parametrize("script", ["install.sh", "quickstart.sh"])
def test_only_root_can_install(fresh_machine, checkout, script):
    checkout.rename(fresh_machine.seen("/opt/checkout"))
    fresh_machine.seen("/opt/checkout").chmod(0o755)
    command = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "bash", f"/opt/checkout/{script}")
    assert "must be run as root" in fresh_machine.run(*command, status=4)


def test_the_man_page_of_another_program_is_left_alone(machine, checkout):
    assert machine.seen(MAN_PAGE).is_symlink()
    machine.seen(MAN_PAGE).unlink()
    machine.seen(MAN_PAGE).write_text("mine")
    assert f"{MAN_PAGE} is not ours and was left alone" in machine.run(checkout / "install.sh")
    machine.run(checkout / "install.sh", "--uninstall")
    assert machine.seen(MAN_PAGE).read_text() == "mine"


def test_uninstall_removes_the_program_and_its_accounts_and_leaves_state_and_logs(machine, checkout):
    assert machine.seen(MAN_PAGE).is_symlink()
    HostLedger(machine.seen("/var/lib/nblauncher/host.db")).record_course(PHYSICS)
    HostLedger(machine.seen("/var/lib/nblauncher/host.db")).forget_course(PHYSICS.course)
    machine.seen("/var/log/nblauncher/nblauncher.log").touch()
    machine.run(checkout / "install.sh", "--uninstall")
    for name in ("passwd", "group", "shadow", "gshadow"):
        known = {line.partition(":")[0] for line in machine.seen(f"/etc/{name}").read_text().splitlines()}
        assert "root" in known and not known & {"nblauncher", "nblauncher-kill"}
    files = {path for path in machine.contents() if machine.seen(path).is_file() or machine.seen(path).is_symlink()}
    assert files == {"var/lib/nblauncher/host.db", "var/log/nblauncher/nblauncher.log"}
    assert "is uninstalled" in machine.run(checkout / "install.sh", "--uninstall")


def test_uninstall_refuses_while_a_class_exists(machine, checkout):
    ledger = HostLedger(machine.seen("/var/lib/nblauncher/host.db"))
    ledger.record_course(PHYSICS)
    before = machine.contents()
    for arguments in (["--uninstall"], ["--uninstall", "--purge"]):
        assert "physics101" in machine.run(checkout / "install.sh", *arguments, status=4)
    assert machine.contents() == before
    ledger.forget_course("physics101")
    machine.run(checkout / "install.sh", "--uninstall", "--purge")
    assert not [path for path in machine.contents() if machine.seen(path).is_file()]


def test_uninstall_refuses_when_it_cannot_tell_whether_a_class_exists(machine, checkout):
    machine.seen("/var/lib/nblauncher/host.db").write_bytes(b"not a database" * 100)
    before = machine.contents()
    machine.run(checkout / "install.sh", "--uninstall", "--purge", status=4)
    assert machine.contents() == before


def test_uninstall_leaves_alone_what_is_not_ours(machine, checkout):
    machine.seen("/usr/local/bin/nblauncher").unlink()
    machine.seen("/usr/local/bin/nblauncher").write_text("mine")
    passwd = machine.seen("/etc/passwd")
    passwd.write_text(passwd.read_text().replace("nblauncher:/nonexistent", "Nora:/nonexistent"))
    machine.run(checkout / "install.sh", "--uninstall")
    assert machine.seen("/usr/local/bin/nblauncher").read_text() == "mine"
    assert machine.accounts >= {"nblauncher", "nblauncher-kill"}


@pytest.fixture
def teacher(machine: Machine) -> Iterator[str]:
    """A name of the machine only; nothing ever logs in to it."""
    with machine.seen("/etc/passwd").open("a") as file:
        file.write("nbtteacher:x:64990:64990::/opt/nbtteacher:/bin/sh\n")
    with machine.seen("/etc/group").open("a") as file:
        file.write("nbtteacher:x:64990:\n")
    machine.seen("/opt/nbtteacher").mkdir()
    os.chown(machine.seen("/opt/nbtteacher"), 64990, 64990)
    yield "nbtteacher"


def test_quickstart_gives_the_sample_class_to_whoever_ran_sudo_and_keeps_what_they_edit(machine, checkout, teacher):
    folder = Path("/opt/nbtteacher/nblauncher-quickstart")
    output = machine.run(checkout / "quickstart.sh", SUDO_USER=teacher)
    assert output.endswith(f"launch in {folder}\n") and f"setup --yes in {folder}\n" in output
    for path in (machine.seen(folder), *machine.seen(folder).rglob("*")):
        assert (path.lstat().st_uid, path.lstat().st_mode & 0o077) == (64990, 0), path
    machine.seen(folder / "students.csv").write_text("username\nnbtada\n")
    machine.run(checkout / "quickstart.sh", SUDO_USER=teacher)
    assert machine.seen(folder / "students.csv").read_text() == "username\nnbtada\n"


def test_quickstart_works_for_root(machine, checkout):
    output = machine.run(checkout / "quickstart.sh")
    assert output.endswith("launch in /root/nblauncher-quickstart\n")
