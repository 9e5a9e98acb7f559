"""`init`: a commented notebooks.cfg, a sample roster and a first notebook, in a folder of the teacher's."""

from __future__ import annotations

import importlib.resources
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from nblauncher.commands import inputs
from nblauncher.config import settings
from nblauncher.config.settings import AccountSettings
from nblauncher.errors import HostError, InputError
from nblauncher.model import Account
from nblauncher.preflight import identities
from nblauncher.printable import printable
from nblauncher.system import workers

_PACKAGES = "[numpy, pandas, matplotlib]"
"""What the first notebook plots with."""
_ROSTER = "students.csv"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_samples(folder: Path, person: Account | None = None) -> list[Path]:
    """Write notebooks.cfg, students.csv and material/ into `folder`, which is created if it is missing. The course is
    named after the folder where that is a valid name, so that two folders are two courses.

    `person` is the user behind sudo: a worker with that account writes, so that the files belong to it and nothing is
    written where it could not. A students.csv that is there is kept. InputError when another of the three exists
    (nothing was written then), HostError when the folder cannot be written or the disk is full (what was written is
    deleted again). Returns the files written.
    """
    folder = Path(os.path.abspath(folder))
    contents = sample_files(folder.name)
    if person is None or person.uid == os.geteuid():
        return list(map(Path, _write(folder, contents)))
    return list(map(Path, workers.run_as(person, _write, folder, contents)))


def sample_files(name: str = "") -> dict[str, bytes]:
    """What is written, by path below the folder of that name."""
    values = {"notebook.requirements": _PACKAGES}
    if course := settings.course_name(name):
        values["course"] = course
    usual = AccountSettings().uid_range
    if (free := identities.range_for(inputs.login_defs(), usual)) != usual:
        values["accounts.uid_range"] = f"{free.start}-{free.stop - 1}"
    samples = importlib.resources.files("nblauncher").joinpath("commands/samples")
    return {
        "notebooks.cfg": settings.sample(values).encode("utf-8"),
        _ROSTER: samples.joinpath("students.csv").read_bytes(),
        "material/welcome.ipynb": samples.joinpath("material/welcome.ipynb").read_bytes(),
    }


def _write(folder: Path, contents: Mapping[str, bytes]) -> list[str]:
    """Runs as the future owner of the files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot(folder, error) from None
    written: list[Path] = []
    try:
        contents = _without_roster(here, contents)
        _refuse_existing(folder, here, contents)
        for name, content in contents.items():
            _write_one(here, name, content, written)
    except OSError as error:
        _take_back(here, written)
        raise _cannot(folder, error) from None
    finally:
        os.close(here)
    return [str(folder / name) for name in contents]


def _without_roster(here: int, contents: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """Without the sample roster where `roster import`, or the teacher, has made one already."""
    try:
        is_there = stat.S_ISREG(os.stat(_ROSTER, dir_fd=here, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        is_there = False
    return {name: content for name, content in contents.items() if not (is_there and name == _ROSTER)}


def _refuse_existing(folder: Path, here: int, contents: Mapping[str, bytes]) -> None:
    tops = dict.fromkeys(name.partition("/")[0] for name in contents)
    present = set(os.listdir(here))
    existing = [name for name in tops if name in present]
    if existing:
        raise InputError(
            [f"{printable(str(folder / name))} exists already" for name in existing],
            "Nothing was written. Choose another folder: `nblauncher init DIR`.",
        )


def _write_one(here: int, name: str, content: bytes, written: list[Path]) -> None:
    """One file by descriptor. A folder on the way was checked to be absent: we make it and never follow a link."""
    path = Path(name)
    if path.parent == Path():
        folder = os.dup(here)
    else:
        os.mkdir(path.parent, dir_fd=here)
        written.append(path.parent)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
    try:
        descriptor = os.open(path.name, _NEW, 0o644, dir_fd=folder)
    finally:
        os.close(folder)
    written.append(path)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _take_back(here: int, written: list[Path]) -> None:
    for path in reversed(written):
        if path.suffix:
            os.unlink(path, dir_fd=here)
        else:
            os.rmdir(path, dir_fd=here)


def _cannot(folder: Path, error: OSError) -> HostError:
    return HostError(
        f"cannot write the samples into {printable(str(folder))}: {os.strerror(error.errno or 0)}",
        "Nothing was left there. Choose a folder of your own: `nblauncher init DIR`.",
    )
