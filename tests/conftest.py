"""Shared fixtures. As root the tests run in a mount namespace of their own and end by proving the host is unchanged.

With pytest-xdist each worker has its own namespace and compares what runs in it; the controller compares what the
whole host has, once, when the workers are done. A run without tests marked `system` or `browser` touches nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import gc
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nblauncher.system import late_grammar  # noqa: F401 — before jsonschema

# isort: split

from nblauncher.accounts import sweep
from nblauncher.preflight import machine
from tests import commands, system_accounts
from tests.footprint import HostFootprint, NamespaceFootprint
from tests.slurm_cluster import cluster  # noqa: F401 (a fixture)

sys.pycache_prefix = os.environ.get("NBT_BYTECODE") or None  # run-tests.sh compiles the tests once, for all workers

CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
PRIVATE_FOLDERS = {
    Path("/var/lib/nblauncher"): "0700",
    Path("/run/nblauncher"): "0755",
    Path("/var/log/nblauncher"): "0755",
}
LOCK = Path("/run/lock/nblauncher-tests")
SETTLING = 15.0
"""Seconds that processes which were told to end may take to be gone."""

SWEEPS = Path("/run/lock/nblauncher-tests-sweeps")
"""Sweeps of all workers go one after the other: they share the real uid of one account of the host."""

TESTS = Path(__file__).parent
ON_THE_HOST = ("system", "browser")
"""Tests with one of these markers make accounts, servers and files on the host."""

# A shell's background job ignores Ctrl-C, and what nohup(1) starts ignores a closed terminal; so would every process
# that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@functools.cache
def group_of(file: str) -> str:
    """Tests of a group use the same accounts and ports: they never run beside each other. It is those of a file, or of
    all files that say `pytest.mark.group(...)` with the same name. Each test that leaves the host alone is one.

    Read from the text, because xdist's controller, which asks, imports no tests.
    """
    text = (TESTS.parent / file).read_text()
    named = re.search(r'mark\.group\("([^"]+)"\)', text)
    return named[1] if named else file if any(f"mark.{name}" in text for name in ON_THE_HOST) else ""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For `-n`: a group is run by one worker, in the order of the tests."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid.partition("::")[0]) or nodeid

        def _assign_work_unit(self, node: Any) -> None:
            """The last worker begins at the other end, with the tests that need the processor only: the others' tests
            wait most of the time.
            """
            scope = next(reversed(self.workqueue))
            if node is self.nodes[-1] and scope in self.workqueue[scope]:
                self.workqueue.move_to_end(scope, last=False)
            super()._assign_work_unit(node)

    config.option.loadscopereorder = False
    return ByGroup(config, log)


class LostWorkers:
    """A worker that dies takes along tests that nobody runs then: such a run is no answer (exit code 3)."""

    def __init__(self) -> None:
        self._were_lost = False

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        self._were_lost |= error is not None

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._were_lost:
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """With several workers, a test that needs the processor only gives way to those that wait for a moment."""
    gives_way = hasattr(item.config, "workerinput") and os.geteuid() == 0 and not is_on_the_host(item)
    if gives_way:
        os.setpriority(os.PRIO_PROCESS, 0, 10)
    try:
        yield
    finally:
        if gives_way:
            os.setpriority(os.PRIO_PROCESS, 0, 0)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Workers begin with what takes longest: browsers, groups of several files, what waits. Unit tests are last."""
    if (found := machine.pidfds()).level != "ok":
        for item in items:
            if item.get_closest_marker("adoption"):
                item.add_marker(pytest.mark.skip(reason=f"NO ADOPTION TEST: {found.message}. {found.hint}"))

    def turn(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0]
        group = group_of(file)
        if not group:
            return 2
        return 1 if group == file and not any(map(item.get_closest_marker, ("browser", "early"))) else 0

    if hasattr(config, "workerinput"):
        items.sort(key=turn)


def pytest_collection_finish() -> None:
    sys.pycache_prefix = None
    gc.collect()
    gc.freeze()  # what was collected stays: no later collection writes to its pages, which processes forked here share


def is_on_the_host(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in ON_THE_HOST)


@contextlib.contextmanager
def said_to_others() -> Iterator[None]:
    """Every process that runs tests on the host holds a shared lock."""
    descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def others_are_there() -> bool:
    try:
        descriptor = os.open(LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class WholeHost:
    """The host before and after the run: no account, home, cgroup or file without an owner more or less.

    These are everybody's, so they are compared only when no other test run was there at the beginning or at the end.
    """

    def __init__(self) -> None:
        self._was_alone = not others_are_there()
        self._before = HostFootprint.taken()
        self._was_used = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._was_used |= any(name in report.keywords for name in ON_THE_HOST)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """The workers are gone by now. A difference is an error of the run like any test's."""
        if not self._was_used:
            return
        is_alone = not others_are_there()
        if is_alone:
            system_accounts.release_highest_group_id()
        if not (self._was_alone and is_alone):
            warnings.warn("another test run was active: accounts, homes and cgroups were not compared", stacklevel=1)
        elif differences := _settled(self._before):
            _report_error(session, "tests changed the host", "\n".join(differences))
        for folder in PRIVATE_FOLDERS:
            # Removing a folder that another run has mounted something on would take it away from that run.
            if is_alone and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def pytest_sessionstart(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return
    session.config.pluginmanager.register(LostWorkers(), "lost-workers")
    if os.geteuid() == 0:
        session.config.pluginmanager.register(WholeHost(), "whole-host")


@pytest.fixture(scope="session", autouse=True)
def private_folders(request: pytest.FixtureRequest) -> Iterator[bool]:
    """State, runtime and log folders of the host are covered by empty ones that nobody else sees.

    False without root, and for a root without CAP_SYS_ADMIN (a container): no test marked `system` can run then.
    """
    if not any(map(is_on_the_host, request.session.items)) or os.geteuid() != 0 or not _unshare_mounts():
        yield False
        return
    with said_to_others():
        for folder, mode in PRIVATE_FOLDERS.items():
            folder.mkdir(exist_ok=True)
            _mount("tmpfs", folder, "tmpfs", 0, f"mode={mode}")
        for file in (SWEEPS, sweep.RUN_ROOT / "sweep.lock"):
            file.touch(mode=0o600)
        system_accounts.reserve_highest_group_id()
        _mount(str(SWEEPS), sweep.RUN_ROOT / "sweep.lock", None, MS_BIND, None)
        yield True
        for folder in PRIVATE_FOLDERS:
            _libc_call("umount2", os.fsencode(folder), 2)


@pytest.fixture(scope="session", autouse=True)
def namespace_unchanged(request: pytest.FixtureRequest, private_folders: bool) -> Iterator[None]:
    """After the last system test: no process, port or mount more or less in our mount namespace."""
    if not any(map(is_on_the_host, request.session.items)):
        yield
        return
    if not private_folders:
        pytest.exit("the system tests need root with CAP_SYS_ADMIN; see ./run-tests.sh --help", returncode=4)
    before = NamespaceFootprint.taken()
    with commands.served():
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
