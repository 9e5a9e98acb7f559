"""The teacher's folder on its way out: an index of what it holds, and a spool of what students still lack.

A child that is the owner reads both. Below the source folder nothing follows a link, so nothing outside of it is read.
The content goes through a pipe into root's unlinked file, which every student's child reads (pread(2)).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from nblauncher.errors import HostError
from nblauncher.exchange import rows
from nblauncher.exchange.objects import ObjectStore
from nblauncher.exchange.send import teacher_side
from nblauncher.exchange.send.teacher_side import Item
from nblauncher.model import Account, Exclusion, Material
from nblauncher.system import files, root_files
from nblauncher.system.streams import frames_of

_KEPT = ("path", "size", "sha256", "mode", "stamp")
"""What `remember` writes of each item, in this order."""


@dataclass(frozen=True, slots=True)
class Index:
    """Everything that is handed out, by path, and what is left out and why."""

    items: tuple[Item, ...] = ()
    exclusions: tuple[Exclusion, ...] = ()

    @property
    def digest(self) -> str:
        """The version of the material: sha256 over paths, contents and modes."""
        rows = [[item.path, item.size, item.sha256, item.mode] for item in self.items]
        return hashlib.sha256(json.dumps(rows).encode("ascii")).hexdigest()

    @property
    def bytes(self) -> int:
        return sum(item.size for item in self.items)


@dataclass(frozen=True, slots=True)
class Bundle:
    """The content of some items in one unlinked file, open for reading only. Close it, or use it in a `with`."""

    descriptor: int
    items: Mapping[str, Item] = field(default_factory=dict)
    """As spooled: a file that the teacher saved after the index was made is here in its new version."""
    offsets: Mapping[str, int] = field(default_factory=dict)
    exclusions: tuple[Exclusion, ...] = ()
    bases: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Earlier versions, for merging: offset and size by sha256."""

    def close(self) -> None:
        os.close(self.descriptor)

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def index(
    material: Material, owner: Account, *, previous: Index | None = None, stall: float = 60.0, longest: float = 3600.0
) -> Index:
    """What the source folder holds now, by its path below the target; files that are unchanged since `previous` are
    not read again.

    `stall` and `longest` are seconds without a sign of life and in all. InputError when the folder is missing, far too
    large, or the owner cannot read it; HostError when the owner's child failed. Changes nothing.
    """
    known = {below_source(material, item.path): item for item in previous.items} if previous else {}
    items: list[Item] = []
    exclusions: list[Exclusion] = []
    for frame in frames_of(owner, teacher_side.scan, material.source, known, stall=stall, longest=longest):
        items += map(Item.from_row, rows.objects(frame.header.get("items")))
        exclusions += map(rows.exclusion_from, rows.objects(frame.header.get("exclusions")))
    items = [replace(item, path=files.join(material.folder, item.path)) for item in items]
    exclusions = [replace(one, path=files.join(material.folder, one.path)) for one in exclusions]
    return Index(tuple(sorted(items, key=lambda item: item.path)), tuple(exclusions))


def below_source(material: Material, path: str) -> str:
    """A path below the target as it is below the source."""
    return path.removeprefix(f"{material.folder}/") if material.folder else path


def spool(
    material: Material,
    owner: Account,
    paths: Iterable[str],
    folder: Path,
    *,
    versions: ObjectStore | None = None,
    bases: Iterable[str] = (),
    stall: float = 60.0,
    longest: float = 3600.0,
) -> Bundle:
    """Copy the content of `paths` into an unlinked file below root's `folder`.

    A file that cannot be read or keeps changing is left out and named in `exclusions`. With `versions`, each content is
    kept there too, and those of `bases` that it has are added. InputError and HostError as for `index`; HostError also
    when the disk is full.
    """
    wanted = sorted({below_source(material, path) for path in paths})
    with _spool_file(folder) as target:
        spooling = _Spooling(target, material.folder)
        for frame in frames_of(owner, teacher_side.send, material.source, wanted, stall=stall, longest=longest):
            spooling.take(frame.header, frame.payload)
        return spooling.bundle(versions, bases)


def bundle_of(
    contents: Mapping[str, bytes], folder: Path, *, versions: ObjectStore | None = None, bases: Iterable[str] = ()
) -> Bundle:
    """A bundle of files that are in memory."""
    with _spool_file(folder) as target:
        spooling = _Spooling(target)
        for path, data in contents.items():
            spooling.take({"kind": "file", "path": path})
            spooling.take({"kind": "data"}, data)
            item = Item(path, len(data), hashlib.sha256(data).hexdigest())
            spooling.take({"kind": "end", "item": item.to_row()})
        return spooling.bundle(versions, bases)


def names(material: Material, owner: Account, *, longest: float = 120.0) -> Index:
    """As `index`, but no file is read: the items have no sha256."""
    items: list[Item] = []
    exclusions: list[Exclusion] = []
    for frame in frames_of(owner, teacher_side.scan, material.source, {}, True, stall=longest, longest=longest):
        items += map(Item.from_row, rows.objects(frame.header.get("items")))
        exclusions += map(rows.exclusion_from, rows.objects(frame.header.get("exclusions")))
    return Index(tuple(items), tuple(exclusions))


def recall(file: Path) -> Index | None:
    """The index that `remember` wrote; None when it is missing or unreadable: it only saves time."""
    try:
        listed = json.loads(file.read_text("ascii"))
        return Index(tuple(Item.from_row(dict(zip(_KEPT, values, strict=True))) for values in listed))
    except (OSError, ValueError, KeyError, TypeError, HostError):
        return None


def remember(index: Index, file: Path) -> None:
    """Keep an index in root's file for the next run. OSError."""
    root_files.replace(file, json.dumps([[item.to_row()[key] for key in _KEPT] for item in index.items]))


@contextlib.contextmanager
def _spool_file(folder: Path) -> Iterator[IO[bytes]]:
    try:
        with tempfile.TemporaryFile(dir=folder) as target:
            yield target
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise HostError(f"the disk of {folder} is full: the material needs to fit there once") from error


class _Spooling:
    """Root's side of `teacher_side.send`: bytes are written as they come and never looked at."""

    def __init__(self, target: IO[bytes], folder: str = "") -> None:
        self._target = target
        self._folder = folder
        self._path = ""
        self._start = 0
        self._items: dict[str, Item] = {}
        self._offsets: dict[str, int] = {}
        self._exclusions: list[Exclusion] = []

    def take(self, header: Mapping[str, Any], payload: bytes = b"") -> None:
        kind = header["kind"]
        if kind == "file":
            self._path, self._start = str(header["path"]), self._target.tell()
        elif kind == "data":
            self._target.write(payload)
        elif kind == "void":
            self._target.seek(self._start)
        elif kind == "excluded":
            exclusion = rows.exclusion_from(header)
            self._exclusions.append(replace(exclusion, path=files.join(self._folder, exclusion.path)))
        else:
            item = Item.from_row(header["item"])
            if item.path != self._path or self._target.tell() != self._start + item.size:
                raise HostError(f"the material's worker sent {item.path!r} with a wrong name or size")
            item = replace(item, path=files.join(self._folder, item.path))
            self._items[item.path], self._offsets[item.path] = item, self._start

    def bundle(self, versions: ObjectStore | None, bases: Iterable[str]) -> Bundle:
        self._target.truncate()
        known = {item.sha256: (self._offsets[path], item.size) for path, item in self._items.items()}
        if versions is not None:
            self._target.flush()
            for sha256, (offset, size) in known.items():
                versions.put(sha256, _parts(self._target.fileno(), offset, size))
            versions.sync()
            known |= self._earlier(versions, frozenset(bases) - frozenset(known))
        self._target.flush()
        # Students' workers inherit it: none of them may write what the next one reads.
        descriptor = os.open(f"/proc/self/fd/{self._target.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
        return Bundle(descriptor, self._items, self._offsets, tuple(self._exclusions), known)

    def _earlier(self, versions: ObjectStore, bases: Iterable[str]) -> Mapping[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for sha256 in bases:
            offset = self._target.seek(0, os.SEEK_END)
            size = versions.read(sha256, self._target.write)
            if size is not None:
                found[sha256] = (offset, size)
        return found


def _parts(descriptor: int, offset: int, size: int) -> Iterator[bytes]:
    end = offset + size
    while offset < end and (data := os.pread(descriptor, min(files.CHUNK, end - offset), offset)):
        offset += len(data)
        yield data
