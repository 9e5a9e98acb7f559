"""Packages made for a test, and the environments that the product makes of them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tarfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path

from nblauncher.accounts.linux import LinuxAccounts
from nblauncher.config.requirements import Requirements
from nblauncher.environments import course_packages

WHOAMI = """
import os, pathlib, subprocess, sys
from setuptools import setup
pathlib.Path("nbtbuilt.py").write_text("builder = %r" % [os.getuid(), os.getgid(), os.getgroups(), os.environ["HOME"]])
DATA = []
EXTRA
setup(name="nbtbuilt", version=VERSION, py_modules=["nbtbuilt"], data_files=DATA)
"""


def source_distribution(place: Path, version: str, extra: str = "", *, name: str = "nbtbuilt") -> Path:
    """A package that runs code when it is built."""
    text = WHOAMI.replace("VERSION", repr(version)).replace("EXTRA", extra).replace("nbtbuilt", name)
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    made = place / "index" / f"{name}-{version}.tar.gz"
    archived(made, f"{name}-{version}", {"setup.py": text, "PKG-INFO": about})
    return made


def archived(made: Path, folder: str, files: Mapping[str, str]) -> None:
    with tarfile.open(made, "w:gz") as archive:
        for file, content in files.items():
            entry = tarfile.TarInfo(f"{folder}/{file}")
            entry.size = len(content)
            archive.addfile(entry, BytesIO(content.encode()))
    made.chmod(0o644)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """No other test run of this host builds now: its sweep of the builder's account would end our builds.

    The lock of the product is in a folder that each test run has for itself.
    """
    lock = os.open("/run/lock/nblauncher-tests-building", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def build(place: Path, *lines: str, modules: tuple[str, ...] = (), course: str = "nbt") -> Path:
    accounts, told, folder = LinuxAccounts(), list[str](), place / "courses" / course
    wanted = Requirements(lines)
    course_packages.build(folder, wanted, modules, accounts.idle_builder, told.append)
    assert course_packages.is_built(folder, wanted)
    found = course_packages.current(folder)
    assert found is not None
    return found
