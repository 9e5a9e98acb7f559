"""Changing places: a new version takes the name of an old one, and nothing that is saved in that moment is lost. So
does a file that of a folder, and a folder that of a file.

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
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from nblauncher import drafts, files, given_folders
from nblauncher.leases import Hold, hold

_SWAP = drafts.PREFIX + "swap-"
_TOKEN = 8
_MOST_COPIES = 99
_LONGEST_SUFFIX = 32
_MOST_NAMES = 20_000
_MOST_RETIRED = 100
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_libc = ctypes.CDLL(None, use_errno=True)


def exchange(folder: int, swap: str, name: str) -> None:
    """Let the two names change places in one step. FileNotFoundError when one of them is gone."""
    if not _renamed(folder, swap, name, _RENAME_EXCHANGE):
        exchange_in_steps(folder, swap, name)


def exchange_in_steps(folder: int, swap: str, name: str) -> None:
    """`exchange` where the file system has none (NFS): the name is free for an instant; `mend` completes a crash.

    FileExistsError when somebody took the name in that instant: their file has it, and both others have swap names.
    """
    aside = swap_name(name)
    os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
    if _is_folder(swap, folder):
        rename_to_free(folder, swap, name)
    else:
        os.link(swap, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        os.unlink(swap, dir_fd=folder)
    os.rename(aside, swap, src_dir_fd=folder, dst_dir_fd=folder)


def rename_to_free(folder: int, old: str, new: str) -> None:
    """FileExistsError when the new name is taken. Where the file system cannot tell, an empty folder is no obstacle."""
    if not _renamed(folder, old, new, _RENAME_NOREPLACE):
        if not _is_folder(old, folder):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), old)
        try:
            os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from error
            raise


def _renamed(folder: int, old: str, new: str, flag: int) -> bool:
    """False where the file system does not know the flag."""
    if _libc.renameat2(folder, os.fsencode(old), folder, os.fsencode(new), ctypes.c_uint(flag)) == 0:
        return True
    number = ctypes.get_errno()
    if number not in _UNSUPPORTED:
        raise OSError(number, os.strerror(number), new)
    return False


def _is_folder(name: str, folder: int) -> bool:
    handle, status = drafts.open_any(name, folder)
    os.close(handle)
    return stat.S_ISDIR(status.st_mode)


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


@dataclass(frozen=True, slots=True)
class _Cleared:
    """A folder that was exchanged out, with nothing in it but what was handed out."""

    folder: int
    path: str
    swap: str
    name: str
    descriptor: int
    ours: Collection[given_folders.Content]


@dataclass
class Swaps:
    """The exchanges of one run in one home. `shown`: path and path of the copy of work that `clear` and `mend` kept."""

    day: str
    tick: Callable[[], None]
    shown: list[tuple[str, str]] = field(default_factory=list)
    _retired: list[_Retired] = field(default_factory=list)
    _cleared: list[_Cleared] = field(default_factory=list)

    def replace(self, draft: drafts.Draft, path: str, name: str, old: int, held: Hold, sha256: str) -> bool:
        """Let the draft take the name of the file `old`, which has this content, as was seen after `hold`.

        `path` is the folder's. False when something changed in that moment: the student's file has its name again,
        and the caller looks once more, `mend` first.
        """
        swap = swap_name(name)
        drafts.lock(draft.descriptor)
        draft.appear(swap)
        return self._exchange_file(draft.folder, path, swap, name, old, held, sha256)

    def make_folder(self, folder: int, path: str, name: str, old: int, held: Hold, sha256: str) -> bool:
        """As `replace`: a new folder takes the name of the file."""
        swap = swap_name(name)
        os.mkdir(swap, 0o700, dir_fd=folder)
        return self._exchange_file(folder, path, swap, name, old, held, sha256)

    def replace_folder(
        self, draft: drafts.Draft, path: str, name: str, given: Mapping[str, given_folders.Content]
    ) -> bool:
        """As `replace`: the draft takes the name of a folder in which nobody had touched what was given."""
        folder, swap = draft.folder, swap_name(name)
        old = drafts.open_folder(name, folder)
        try:
            drafts.lock(old)
            drafts.lock(draft.descriptor)
            draft.appear(swap)
            try:
                exchange(folder, swap, name)
            except FileNotFoundError:
                os.unlink(swap, dir_fd=folder)
                return False
            if _is_same_file(swap, folder, os.fstat(old)) and given_folders.is_untouched(old, given, self.tick):
                ours = frozenset(given.values())
                self._cleared.append(_Cleared(os.dup(folder), path, swap, name, os.dup(old), ours))
                return True
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                exchange(folder, swap, name)
            return False
        finally:
            os.close(old)

    def clear(self) -> None:
        """Delete what was exchanged out. What somebody opened for writing after all, or put into a folder of it, gets a
        name that can be seen.
        """
        while self._cleared:
            folder = self._cleared.pop()
            try:
                with contextlib.suppress(FileNotFoundError):
                    self._clear_folder(folder)
            finally:
                os.close(folder.descriptor)
                os.close(folder.folder)
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

    def _exchange_file(self, folder: int, path: str, swap: str, name: str, old: int, held: Hold, sha256: str) -> bool:
        status = os.fstat(old)
        drafts.lock(old)
        try:
            exchange(folder, swap, name)
        except FileNotFoundError:
            os.rmdir(swap, dir_fd=folder) if _is_folder(swap, folder) else os.unlink(swap, dir_fd=folder)
            return False
        retired = _Retired(folder, path, swap, name, old, held, (status.st_size, status.st_mtime_ns))
        if (
            _is_same_file(swap, folder, status)
            and _is_final(retired)
            and (held is Hold.HELD or drafts.has_content(old, sha256, status.st_size, self.tick))
        ):
            self._retire(retired)
            return True
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            exchange(folder, swap, name)
        return False

    def _clear_folder(self, one: _Cleared) -> None:
        given_folders.empty(one.descriptor, one.ours, self.tick)
        try:
            os.rmdir(one.swap, dir_fd=one.folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            self._show(one.path, one.swap, one.name, one.folder)

    def _retire(self, one: _Retired) -> None:
        """Not deleted at once: somebody may be on the way from the name to the file, before any lease can tell."""
        if len(self._retired) >= _MOST_RETIRED:
            self.clear()
        self._retired.append(replace(one, folder=os.dup(one.folder), descriptor=os.dup(one.descriptor)))

    def _mend_one(self, path: str, name: str, original: str, folder: int, ours: Collection[tuple[str, int]]) -> None:
        if original and _is_folder(name, folder):
            self._mend_folder(path, name, original, folder, ours)
            return
        with _opened(name, folder) as descriptor:
            if descriptor < 0 or not drafts.lock(descriptor):
                return
            if original and not self._was_put_back(name, original, folder) and not self._is_ours(descriptor, ours):
                self._show(path, name, original, folder)
            os.unlink(name, dir_fd=folder)

    def _mend_folder(self, path: str, name: str, original: str, folder: int, ours: Collection[tuple[str, int]]) -> None:
        """A folder that a killed run exchanged out, or made and did not come to exchange."""
        descriptor = drafts.open_folder(name, folder)
        try:
            if os.fstat(descriptor).st_uid != os.geteuid() or not drafts.lock(descriptor):
                return
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=folder)
                return
            with contextlib.suppress(FileExistsError):
                rename_to_free(folder, name, original)
                return
            self._clear_folder(_Cleared(folder, path, name, original, descriptor, ours))
        finally:
            os.close(descriptor)

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
                if _is_folder(swap, folder):
                    rename_to_free(folder, swap, kept)
                else:
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
