"""Put the files of a submission into the folder in which its kernel works, as the account of the kernel.

Run by: a child that root has put into the kernel's view (isolation.views) and that has become its account.
"""

from __future__ import annotations

import os

from nblauncher.errors import HostError
from nblauncher.grading import parcels
from nblauncher.isolation import views
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.model import Account
from nblauncher.system import files, privileges

RUNTIME = ".runtime"
"""JUPYTER_RUNTIME_DIR, below the home."""

_DEEPEST = 40


def fill(account: Account, sandbox: Sandbox, folder: str, source: int, most: int) -> int:
    """Enter the sandbox, become the account, and write what comes from `source`; how many files there were."""
    sandbox.enter()
    privileges.drop_to(account)
    os.chdir(views.HOME)
    os.mkdir(RUNTIME, 0o700)
    os.mkdir(folder, 0o700)
    os.chdir(folder)
    opened: dict[str, int] = {}
    count = 0
    for parcel in parcels.take(source, most=most):
        if parcel.name not in opened:
            opened[parcel.name] = _create(parcel.name)
        _write(opened[parcel.name], parcel.data)
        if parcel.kind == "file":
            os.close(opened.pop(parcel.name))
            count += 1
    return count


def _create(path: str) -> int:
    """Nobody else is in this folder yet, so a path leads where it says."""
    parts = files.parts_of(path, max_depth=_DEEPEST)
    if len(parts) > 1:
        os.makedirs(os.path.join(*parts[:-1]), mode=0o700, exist_ok=True)
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise HostError(f"{path} is there twice") from None


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
