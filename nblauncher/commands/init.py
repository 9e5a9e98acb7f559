"""`init`: a commented notebooks.cfg, a sample roster and a first notebook, in a folder of the teacher's."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Mapping
from pathlib import Path

from nblauncher import settings, workers
from nblauncher.errors import HostError, InputError
from nblauncher.model import Account
from nblauncher.printable import printable

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_samples(folder: Path, person: Account | None = None) -> list[Path]:
    """Write notebooks.cfg, students.csv and material/ into `folder`, which is made when it is missing.

    `person` is who ran sudo: a worker that is them does the writing, so that the files are theirs and nothing is
    written where they could not. InputError when any of the three exists (nothing was written then), HostError when
    the folder cannot be written or the disk is full (what was written is gone again). Returns the files written.
    """
    folder = Path(os.path.abspath(folder))
    contents = sample_files()
    if person is None or person.uid == os.geteuid():
        return list(map(Path, _write(folder, contents)))
    return list(map(Path, workers.run_as(person, _write, folder, contents)))


def sample_files() -> dict[str, bytes]:
    """What is written, by path below the folder."""
    samples = importlib.resources.files("nblauncher").joinpath("samples")
    return {
        "notebooks.cfg": settings.sample().encode("utf-8"),
        "students.csv": samples.joinpath("students.csv").read_bytes(),
        "material/welcome.ipynb": samples.joinpath("material", "welcome.ipynb").read_bytes(),
    }


def _write(folder: Path, contents: Mapping[str, bytes]) -> list[str]:
    """Runs as whoever the files are to belong to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot(folder, error) from None
    written: list[str] = []
    try:
        _refuse_existing(folder, here, contents)
        for name, content in contents.items():
            _write_one(here, name, content, written)
    except OSError as error:
        _take_back(here, written)
        raise _cannot(folder, error) from None
    finally:
        os.close(here)
    return [str(folder / name) for name in contents]


def _refuse_existing(folder: Path, here: int, contents: Mapping[str, bytes]) -> None:
    tops = dict.fromkeys(name.partition("/")[0] for name in contents)
    present = set(os.listdir(here))
    existing = [name for name in tops if name in present]
    if existing:
        raise InputError(
            [f"{printable(str(folder / name))} exists already" for name in existing],
            "Nothing was written. Choose another folder: `nblauncher init DIR`.",
        )


def _write_one(here: int, name: str, content: bytes, written: list[str]) -> None:
    """One file by its descriptor; a folder on the way was checked to be absent, so we make it and never follow one."""
    folder, _, _ = name.rpartition("/")
    if folder:
        os.mkdir(folder, dir_fd=here)
        written.append(folder)
    descriptor = os.open(name, _NEW, 0o644, dir_fd=here)
    written.append(name)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _take_back(here: int, written: list[str]) -> None:
    for name in reversed(written):
        if name.endswith((".cfg", ".csv", ".ipynb")):
            os.unlink(name, dir_fd=here)
        else:
            os.rmdir(name, dir_fd=here)


def _cannot(folder: Path, error: OSError) -> HostError:
    return HostError(
        f"cannot write the samples into {printable(str(folder))}: {os.strerror(error.errno or 0)}",
        "Nothing was left there. Choose a folder of your own: `nblauncher init DIR`.",
    )
