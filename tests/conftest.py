"""Shared fixtures. As root the tests run in a mount namespace of their own and end by proving the host is unchanged."""

from __future__ import annotations

import ctypes
import fcntl
import os
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
OTHER_RUNS = Path("/run/lock/nblauncher-tests")
SETTLING = 15.0
"""Seconds that processes which were told to end may take to be gone."""


@pytest.fixture(scope="session", autouse=True)
def private_folders() -> Iterator[None]:
    """State, runtime and log folders of the host are covered by empty ones that nobody else sees.

    Only as root. A root without CAP_SYS_ADMIN (a container) can run the unit tests, but no test marked `system`.
    """
    if os.geteuid() != 0:
        yield
        return
    try:
        _unshare_mounts()
    except PermissionError:
        yield
        return
    made = [folder for folder in PRIVATE_FOLDERS if not folder.exists()]
    for folder, mode in PRIVATE_FOLDERS.items():
        folder.mkdir(exist_ok=True)
        _mount("tmpfs", folder, "tmpfs", 0, f"mode={mode}")
    yield
    for folder in PRIVATE_FOLDERS:
        _libc_call("umount2", os.fsencode(folder), 2)
    for folder in made:
        folder.rmdir()


@pytest.fixture(scope="session", autouse=True)
def host_unchanged(request: pytest.FixtureRequest, private_folders: None) -> Iterator[None]:
    """After the last system test: no account, home, process, port, mount, cgroup or spool file more or less.

    Accounts, homes, cgroups and files are the whole host's, so they are compared only when no other test run was
    there at the beginning or at the end; what runs in our mount namespace is always ours.
    """
    if not any(
        item.get_closest_marker("system") or item.get_closest_marker("browser") for item in request.session.items
    ):
        yield
        return
    if os.geteuid() != 0 or os.readlink("/proc/self/ns/mnt") == os.readlink("/proc/1/ns/mnt"):
        pytest.exit("the system tests need root with CAP_SYS_ADMIN; see ./run-tests.sh --help", returncode=4)
    lock = os.open(OTHER_RUNS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        was_alone = _is_alone(lock)
        before = Footprint.taken()
        yield
        _assert_unchanged(before, whole_host=was_alone and _is_alone(lock))
    finally:
        os.close(lock)


def _assert_unchanged(before: Footprint, *, whole_host: bool) -> None:
    if not whole_host:
        warnings.warn("another test run was active: accounts, homes and cgroups were not compared", stacklevel=1)
    deadline = time.monotonic() + SETTLING
    differences = before.differences(Footprint.taken(), whole_host=whole_host)
    while differences and time.monotonic() < deadline:
        time.sleep(0.2)
        differences = before.differences(Footprint.taken(), whole_host=whole_host)
    assert not differences, "the tests changed the host:\n" + "\n".join(differences)


def _is_alone(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(lock, fcntl.LOCK_SH)
        return False
    fcntl.flock(lock, fcntl.LOCK_SH)
    return True


def _unshare_mounts() -> None:
    _libc_call("unshare", CLONE_NEWNS)
    _mount("none", Path("/"), None, MS_REC | MS_PRIVATE, None)


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
