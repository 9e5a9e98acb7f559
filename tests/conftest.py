"""Shared fixtures. As root the tests run in a mount namespace of their own and end by proving the host is unchanged."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.footprint import Footprint

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

# A shell's background job ignores Ctrl-C, and so would every process that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="session", autouse=True)
def other_runs() -> Iterator[OtherRuns | None]:
    """Only as root."""
    if os.geteuid() != 0:
        yield None
        return
    runs = OtherRuns(LOCK)
    yield runs
    runs.close()


@pytest.fixture(scope="session", autouse=True)
def private_folders(other_runs: OtherRuns | None) -> Iterator[bool]:
    """State, runtime and log folders of the host are covered by empty ones that nobody else sees.

    False without root, and for a root without CAP_SYS_ADMIN (a container): no test marked `system` can run then.
    """
    if other_runs is None or not _unshare_mounts():
        yield False
        return
    for folder, mode in PRIVATE_FOLDERS.items():
        folder.mkdir(exist_ok=True)
        _mount("tmpfs", folder, "tmpfs", 0, f"mode={mode}")
    yield True
    for folder in PRIVATE_FOLDERS:
        _libc_call("umount2", os.fsencode(folder), 2)
        # Removing a folder that another run has mounted something on would take it away from that run.
        if not other_runs.are_there() and not any(folder.iterdir()):
            folder.rmdir()


@pytest.fixture(scope="session", autouse=True)
def host_unchanged(
    request: pytest.FixtureRequest, other_runs: OtherRuns | None, private_folders: bool
) -> Iterator[None]:
    """After the last system test: no account, home, process, port, mount, cgroup or spool file more or less.

    Accounts, homes, cgroups and files are the whole host's, so they are compared only when no other test run was
    there at the beginning or at the end; what runs in our mount namespace is always ours.
    """
    if not any(item.get_closest_marker(mark) for item in request.session.items for mark in ("system", "browser")):
        yield
        return
    if other_runs is None or not private_folders:
        pytest.exit("the system tests need root with CAP_SYS_ADMIN; see ./run-tests.sh --help", returncode=4)
    was_alone = not other_runs.are_there()
    before = Footprint.taken()
    yield
    _assert_unchanged(before, whole_host=was_alone and not other_runs.are_there())


def _assert_unchanged(before: Footprint, *, whole_host: bool) -> None:
    if not whole_host:
        warnings.warn("another test run was active: accounts, homes and cgroups were not compared", stacklevel=1)
    deadline = time.monotonic() + SETTLING
    differences = before.differences(Footprint.taken(), whole_host=whole_host)
    while differences and time.monotonic() < deadline:
        time.sleep(0.2)
        differences = before.differences(Footprint.taken(), whole_host=whole_host)
    assert not differences, "the tests changed the host:\n" + "\n".join(differences)


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
