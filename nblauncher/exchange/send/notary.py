"""The student's side of trust on arrival: a child that is the student signs notebooks with the student's key."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from nblauncher.system import late_grammar  # noqa: F401 — before jsonschema

# isort: split
import nbformat
from nbformat.sign import NotebookNotary

from nblauncher.errors import HostError
from nblauncher.exchange.send import existing
from nblauncher.system import bounds, files

DATA = ".local/share/jupyter"
"""Jupyter's data folder below the home, where key and signatures are."""

_LARGEST = 16 << 20
_MEMORY = 1 << 30


def sign(
    home: Path, target: str, wanted: Mapping[str, str], spool: int, given: Mapping[str, tuple[int, int]], seconds: float
) -> int:
    """As `signing.sign`, in `seconds` of CPU time. Runs as the student."""
    os.environ["HOME"] = str(home)  # where nbformat looks for anything else
    data_folder = home / DATA
    data_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        notary = NotebookNotary(data_dir=str(data_folder))  # type: ignore[no-untyped-call]
        with bounds.bounded(seconds=seconds, memory=_MEMORY), notary:
            if notary.store.db_file == ":memory:":
                raise HostError("the database of signatures cannot be used")
            # Else each notebook's commit waits for the disk. nbformat recreates a database broken by a power cut.
            notary.store.db.execute("PRAGMA synchronous = OFF")
            return sum(_sign_one(notary, content) for content in _contents(home / target, wanted, spool, given))
    except (sqlite3.Error, bounds.TooLongError, MemoryError) as error:
        raise HostError(str(error) or "it takes too much time or memory") from error


def _sign_one(notary: NotebookNotary, content: bytes) -> bool:
    try:
        notebook = nbformat.reads(content.decode(), as_version=4)  # type: ignore[no-untyped-call]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError, nbformat.ValidationError):
        return False  # not a notebook
    notary.sign(notebook)  # type: ignore[no-untyped-call]
    return True


def _contents(
    folder: Path, wanted: Mapping[str, str], spool: int, given: Mapping[str, tuple[int, int]]
) -> Iterator[bytes]:
    for path, sha256 in wanted.items():
        if (where := given.get(sha256)) is not None:
            offset, size = where
            content = os.pread(spool, size, offset) if size <= _LARGEST else b""
        else:
            content = _read(folder, path)
        if hashlib.sha256(content).hexdigest() == sha256:
            yield content


def _read(folder: Path, path: str) -> bytes:
    """The file as it is now, b'' when it is missing: the student may have changed it since it was merged."""
    above, _, name = path.rpartition("/")
    try:
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with existing.look(name, files.open_below(root, above)) as found:
            is_readable = found is not None and found.descriptor >= 0 and found.status.st_size <= _LARGEST
            return found.read() if found and is_readable else b""
    except (OSError, existing.Blocked):
        return b""
