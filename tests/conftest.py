"""Shared fixtures. As root the tests run in a mount namespace of their own and end by proving the host is unchanged.

With pytest-xdist each worker has its own namespace and compares what runs in it; the controller compares what the
whole host has, once, when the workers are done.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.footprint import HostFootprint, NamespaceFootprint

CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
PRIVATE_FOLDERS = {
    Path("/var/lib/nblauncher"): "0700",
    Path("/run/nblauncher"): "0755",
    Path("/var/log/nblauncher"): "0755",
}
LOCK = Path("/run/lock/nblauncher-tests")
SETTLING = 15.0
"""Seconds that processes which were told to end may take to be gone."""

TESTS = Path(__file__).parent
CLASSES = (
    *("launch", "adoption", "server", "supervisor", "web", "front_page", "warnings", "class", "demand", "kernels"),
    *("packages", "widgets"),
)
"""Words in the names of the test files that start servers, or build packages: the host has one account for that, and
each worker locks in a folder of its own.
"""

# A shell's background job ignores Ctrl-C, and what nohup(1) starts ignores a closed terminal; so would every process
# that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def group_of(nodeid: str) -> str:
    """Tests of a group use the same accounts, ports and tools: they never run beside each other."""
    folder, *_, name = nodeid.partition("::")[0].removeprefix("tests/").split("/")
    if folder == "unit":
        return name
    return "classes" if any(word in name.removeprefix("test_") for word in CLASSES) else "accounts"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For `-n 2`: a group is run by one worker."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A worker's groups come in this order: the long ones begin, the short ones fill what is left."""
    if hasattr(config, "workerinput"):
        long = ["classes", "accounts"]
        items.sort(key=lambda item: long.index(group) if (group := group_of(item.nodeid)) in long else len(long))


class OtherRuns:
    """Knows whether another test run is active on this host: every run holds a shared lock on the file."""

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def are_there(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        return False

    def close(self) -> None:
        os.close(self._descriptor)


class WholeHost:
    """The host before and after the run: no account, home, cgroup or file without an owner more or less.

    These are everybody's, so they are compared only when no other test run was there at the beginning or at the end.
    """

    def __init__(self) -> None:
        self._runs = OtherRuns(LOCK)
        self._was_alone = not self._runs.are_there()
        for folder in PRIVATE_FOLDERS:
            folder.mkdir(exist_ok=True)
        self._before = HostFootprint.taken()

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """The workers are gone by now. A difference is an error of the run like any test's."""
        is_alone = not self._runs.are_there()
        if not (self._was_alone and is_alone):
            warnings.warn("another test run was active: accounts, homes and cgroups were not compared", stacklevel=1)
        elif differences := _settled(self._before):
            _report_error(session, "tests changed the host", "\n".join(differences))
        for folder in PRIVATE_FOLDERS:
            # Removing a folder that another run has mounted something on would take it away from that run.
            if is_alone and not any(folder.iterdir()):
                folder.rmdir()
        self._runs.close()


def pytest_sessionstart(session: pytest.Session) -> None:
    if os.geteuid() == 0 and not hasattr(session.config, "workerinput"):
        session.config.pluginmanager.register(WholeHost(), "whole-host")


@pytest.fixture(scope="session", autouse=True)
def private_folders() -> Iterator[bool]:
    """State, runtime and log folders of the host are covered by empty ones that nobody else sees.

    False without root, and for a root without CAP_SYS_ADMIN (a container): no test marked `system` can run then.
    """
    if os.geteuid() != 0 or not _unshare_mounts():
        yield False
        return
    for folder, mode in PRIVATE_FOLDERS.items():
        _mount("tmpfs", folder, "tmpfs", 0, f"mode={mode}")
    yield True
    for folder in PRIVATE_FOLDERS:
        _libc_call("umount2", os.fsencode(folder), 2)


@pytest.fixture(scope="session", autouse=True)
def namespace_unchanged(request: pytest.FixtureRequest, private_folders: bool) -> Iterator[None]:
    """After the last system test: no process, port or mount more or less in our mount namespace."""
    if not any(item.get_closest_marker(mark) for item in request.session.items for mark in ("system", "browser")):
        yield
        return
    if not private_folders:
        pytest.exit("the system tests need root with CAP_SYS_ADMIN; see ./run-tests.sh --help", returncode=4)
    before = NamespaceFootprint.taken()
    yield
    differences = _settled(before)
    assert not differences, "the tests changed the host:\n" + "\n".join(differences)


def _settled(before: HostFootprint | NamespaceFootprint) -> list[str]:
    """What differs when everything that is just ending has ended."""
    deadline = time.monotonic() + SETTLING
    while (differences := before.differences(type(before).taken())) and time.monotonic() < deadline:
        time.sleep(0.2)
    return differences


def _report_error(session: pytest.Session, what: str, words: str) -> None:
    location = (str(TESTS / "conftest.py"), 0, what)
    facts: dict[str, Any] = {"keywords": {}, "outcome": "failed", "when": "teardown"}
    report = pytest.TestReport(f"tests/conftest.py::{what}", location, longrepr=words, **facts)
    session.config.hook.pytest_runtest_logreport(report=report)
    session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _unshare_mounts() -> bool:
    try:
        _libc_call("unshare", CLONE_NEWNS)
    except PermissionError:
        return False
    _mount("none", Path("/"), None, MS_REC | MS_PRIVATE, None)
    return True


def _mount(source: str, target: Path, kind: str | None, flags: int, options: str | None) -> None:
    _libc_call(
        "mount",
        source.encode(),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() if options else None,
    )


def _libc_call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
