"""Changing places: a new version takes the name of an old one, and nothing that is saved in that moment is lost.

The old file is exchanged out in one step and stays beside, under a name of ours, until it is certain that nobody is
writing to it: a read lease is granted only while nobody has the file open for writing (mmap(2) included), and who wants
to open it so then waits for us and is noticed. A killed run leaves such names behind; `mend` clears them away.
Sources: rename(2) RENAME_EXCHANGE, fcntl(2) "Leases". File systems without leases (NFS) leave size, mtime and content.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

from nblauncher import drafts, files
from nblauncher.leases import Hold, hold

_SWAP = drafts.PREFIX + "swap-"
_TOKEN = 8
_MOST_COPIES = 99
_LONGEST_SUFFIX = 32
_MOST_NAMES = 20_000
_MOST_RETIRED = 100
_RENAME_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


def exchange(folder: int, swap: str, name: str) -> None:
    """Let the two names change places in one step. FileNotFoundError when one of them is gone."""
    if _libc.renameat2(folder, os.fsencode(swap), folder, os.fsencode(name), ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        raise OSError(number, os.strerror(number), name)
    exchange_in_steps(folder, swap, name)


def exchange_in_steps(folder: int, swap: str, name: str) -> None:
    """`exchange` where the file system has none (NFS): the name is free for an instant; `mend` completes a crash.

    FileExistsError when somebody took the name in that instant: their file has it, and both others have swap names.
    """
    aside = swap_name(name)
    os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
    os.link(swap, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    os.unlink(swap, dir_fd=folder)
    os.rename(aside, swap, src_dir_fd=folder, dst_dir_fd=folder)


def swap_name(name: str) -> str:
    """A name for what changes places with `name`; `original_name` leads back."""
    return os.fsdecode(os.fsencode(f"{_SWAP}{secrets.token_hex(_TOKEN // 2)}-{name}")[:255])


def original_name(swap: str) -> str:
    """What a swap name was made for, '' when it is none."""
    original = swap[len(_SWAP) + _TOKEN + 1 :] if swap.startswith(_SWAP) else ""
    return "" if original in (".", "..") else original


def beside_name(name: str, word: str, day: str, number: int) -> str:
    """`lab1 (update 2026-11-20).ipynb`, then `lab1 (update 2026-11-20 2).ipynb`; a long name is shortened to fit."""
    stem, suffix = os.path.splitext(name)
    if len(suffix) > _LONGEST_SUFFIX:
        stem, suffix = name, ""
    tail = os.fsencode(f" ({word} {day}{f' {number}' if number > 1 else ''}){suffix}")
    whole = os.fsencode(stem)
    short = whole[: 255 - len(tail)]
    # Cut between letters; bytes that are no letters stay.
    return (os.fsdecode(short) if short == whole else short.decode("utf-8", "ignore")) + os.fsdecode(tail)


@dataclass(frozen=True, slots=True)
class _Retired:
    folder: int
    path: str
    swap: str
    name: str
    descriptor: int
    hold: Hold
    stamp: tuple[int, int]


@dataclass
class Swaps:
    """The exchanges of one run in one home. `shown`: path and path of the copy of work that `clear` and `mend` kept."""

    day: str
    tick: Callable[[], None]
    shown: list[tuple[str, str]] = field(default_factory=list)
    _retired: list[_Retired] = field(default_factory=list)

    def replace(self, draft: drafts.Draft, path: str, name: str, old: int, held: Hold, sha256: str) -> bool:
        """Let the draft take the name of the file `old`, which has this content, as was seen after `hold`.

        `path` is the folder's. False when something changed in that moment: the student's file has its name again,
        and the caller looks once more, `mend` first.
        """
        swap = swap_name(name)
        status = os.fstat(old)
        drafts.lock(old)
        drafts.lock(draft.descriptor)
        draft.appear(swap)
        try:
            exchange(draft.folder, swap, name)
        except FileNotFoundError:
            os.unlink(swap, dir_fd=draft.folder)
            return False
        retired = _Retired(draft.folder, path, swap, name, old, held, (status.st_size, status.st_mtime_ns))
        if (
            _is_same_file(swap, draft.folder, status)
            and _is_final(retired)
            and (held is Hold.HELD or drafts.has_content(old, sha256, status.st_size, self.tick))
        ):
            self._retire(retired)
            return True
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            exchange(draft.folder, swap, name)
        return False

    def clear(self) -> None:
        """Delete the exchanged files. One that somebody opened for writing after all gets a name that can be seen."""
        while self._retired:
            one = self._retired.pop()
            try:
                if not _is_final(one):
                    self._show(one.path, one.swap, one.name, one.folder)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(one.swap, dir_fd=one.folder)
            finally:
                os.close(one.descriptor)
                os.close(one.folder)

    def mend(self, path: str, folder: int, ours: Collection[tuple[str, int]]) -> None:
        """Clear away what a killed run left in a folder. `ours` are contents (sha256, size) that we ever handed out.

        A name that a crash left free gets its file back. What might be the student's work gets a name that can be seen.
        """
        for name in files.names_of(folder, _MOST_NAMES):
            original = original_name(name)
            if original or name.startswith(drafts.WRITING):
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    self._mend_one(path, name, original, folder, ours)

    def _retire(self, one: _Retired) -> None:
        """Not deleted at once: somebody may be on the way from the name to the file, before any lease can tell."""
        if len(self._retired) >= _MOST_RETIRED:
            self.clear()
        self._retired.append(replace(one, folder=os.dup(one.folder), descriptor=os.dup(one.descriptor)))

    def _mend_one(self, path: str, name: str, original: str, folder: int, ours: Collection[tuple[str, int]]) -> None:
        with _opened(name, folder) as descriptor:
            if descriptor < 0 or not drafts.lock(descriptor):
                return
            if original and not self._was_put_back(name, original, folder) and not self._is_ours(descriptor, ours):
                self._show(path, name, original, folder)
            os.unlink(name, dir_fd=folder)

    def _was_put_back(self, name: str, original: str, folder: int) -> bool:
        try:
            os.link(name, original, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            return False
        return True

    def _is_ours(self, descriptor: int, ours: Collection[tuple[str, int]]) -> bool:
        size = os.fstat(descriptor).st_size
        if hold(descriptor) is Hold.REFUSED or size not in {known for _, known in ours}:
            return False
        return (files.sha256_of(descriptor, size, self.tick), size) in ours

    def _show(self, path: str, swap: str, name: str, folder: int) -> None:
        for number in range(1, _MOST_COPIES + 1):
            kept = beside_name(name, "kept", self.day, number)
            try:
                os.link(swap, kept, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                continue
            self.shown.append((files.join(path, name), files.join(path, kept)))
            return
        raise FileNotFoundError(errno.ENOENT, f"no free name beside {name!r}")


@contextlib.contextmanager
def _opened(name: str, folder: int) -> Iterator[int]:
    """A temporary file of the student's uid, open for reading; -1 when the name stands for anything else."""
    handle, status = drafts.open_any(name, folder)
    try:
        is_plain = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
        descriptor = drafts.read_handle(handle) if is_plain else -1
    finally:
        os.close(handle)
    try:
        yield descriptor
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _is_same_file(name: str, folder: int, status: os.stat_result) -> bool:
    handle, found = drafts.open_any(name, folder)
    os.close(handle)
    return (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino)


def _is_final(one: _Retired) -> bool:
    """Whether nobody wrote to the file nor waits to: F_GETLEASE says what a lease is being broken to."""
    if one.hold is Hold.HELD and fcntl.fcntl(one.descriptor, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
        return False
    status = os.fstat(one.descriptor)
    return (status.st_size, status.st_mtime_ns) == one.stamp
