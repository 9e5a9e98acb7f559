"""Atomic replacement: a new version takes the name of an old one, and nothing saved in that moment is lost. A file can
also replace a folder, and a folder a file.

The two names are exchanged in one step. The old file stays under a temporary name until it certainly has no writer: a
read lease is granted only while no process has the file open for writing (mmap(2) included), and a process that opens
it for writing then waits for the lease and is noticed. `recover` clears away the temporary names of a killed run.
Sources: rename(2) RENAME_EXCHANGE, fcntl(2) "Leases". File systems without leases (NFS) leave size, mtime and content.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from nblauncher.system import drafts, files, known_folders, libc
from nblauncher.system.leases import Hold, hold

_SWAP = drafts.PREFIX + "swap-"
_TOKEN = 8
_MOST_COPIES = 99
_MOST_NAMES = 20_000
_MOST_RETIRED = 100
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def exchange(folder: int, swap: str, name: str) -> None:
    """Exchange the two names in one step. FileNotFoundError when one of them is gone."""
    if not _renamed(folder, swap, name, libc.RENAME_EXCHANGE):
        exchange_in_steps(folder, swap, name)


def exchange_in_steps(folder: int, swap: str, name: str) -> None:
    """`exchange` where the file system cannot (NFS): the name is free for an instant. `recover` completes a crash.

    FileExistsError when the name was taken in that instant: that file keeps it, and both others have swap names.
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
    """FileExistsError when the new name is taken. Where the file system cannot tell, an empty folder is replaced."""
    if not _renamed(folder, old, new, libc.RENAME_NOREPLACE):
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
    try:
        libc.renameat2(folder, old, new, flag)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    return True


def _is_folder(name: str, folder: int) -> bool:
    return drafts.kind_of(name, folder) == stat.S_IFDIR


def swap_name(name: str) -> str:
    """A temporary name for the exchange with `name`; `original_name` reverses it."""
    return os.fsdecode(os.fsencode(f"{_SWAP}{secrets.token_hex(_TOKEN // 2)}-{name}")[:255])


def original_name(swap: str) -> str:
    """The name that a swap name was made for; '' when it is not a swap name."""
    original = swap[len(_SWAP) + _TOKEN + 1 :] if swap.startswith(_SWAP) else ""
    return "" if original in (".", "..") else original


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
    """A folder that was replaced, with nothing in it but known contents."""

    folder: int
    path: str
    swap: str
    name: str
    descriptor: int
    ours: Collection[known_folders.Content]


@dataclass
class Replacements:
    """The replacements of one run in one home. `kept`: the path of each file saved meanwhile, and of its copy."""

    copy_name: Callable[[str, int], str]
    """The nth name for a copy beside a file or folder of that name."""
    tick: Callable[[], None]
    kept: list[tuple[str, str]] = field(default_factory=list)
    _retired: list[_Retired] = field(default_factory=list)
    _cleared: list[_Cleared] = field(default_factory=list)

    def replace(self, draft: drafts.Draft, path: str, name: str, old: int, held: Hold, sha256: str) -> bool:
        """Give the draft the name of the file `old`, which had this content after `hold`.

        `path` is the folder's. False when something changed in that moment: the student's file has its name back, and
        the caller calls `recover` and looks again.
        """
        swap = swap_name(name)
        drafts.lock(draft.descriptor)
        draft.appear(swap)
        return self._exchange_file(draft.folder, path, swap, name, old, held, sha256)

    def make_folder(self, folder: int, path: str, name: str, old: int, held: Hold, sha256: str) -> bool:
        """As `replace`, with a new folder in place of the file."""
        swap = swap_name(name)
        os.mkdir(swap, 0o700, dir_fd=folder)
        return self._exchange_file(folder, path, swap, name, old, held, sha256)

    def replace_folder(
        self, draft: drafts.Draft, path: str, name: str, given: Mapping[str, known_folders.Content]
    ) -> bool:
        """As `replace`, in place of a folder in which every file is as it was given."""
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
            if _is_same_file(swap, folder, os.fstat(old)) and known_folders.is_untouched(old, given, self.tick):
                ours = frozenset(given.values())
                self._cleared.append(_Cleared(os.dup(folder), path, swap, name, os.dup(old), ours))
                return True
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                exchange(folder, swap, name)
            return False
        finally:
            os.close(old)

    def clear(self) -> None:
        """Delete what was replaced. A file opened for writing after all, or added to a folder, gets a visible name."""
        while self._cleared:
            folder = self._cleared.pop()
            try:
                with contextlib.suppress(FileNotFoundError):
                    self._clear_folder(folder)
            finally:
                os.close(folder.descriptor)
                os.close(folder.folder)
        while self._retired:
            retired = self._retired.pop()
            try:
                if not _is_final(retired):
                    self._keep_copy(retired.path, retired.swap, retired.name, retired.folder)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(retired.swap, dir_fd=retired.folder)
            finally:
                os.close(retired.descriptor)
                os.close(retired.folder)

    def recover(self, path: str, folder: int, ours: Collection[tuple[str, int]]) -> None:
        """Clear away what a killed run left in a folder. `ours`: the contents (sha256, size) that were ever handed out.

        A name that a crash left free gets its file back. What might be the student's work gets a visible name.
        """
        for name in files.names_of(folder, _MOST_NAMES):
            original = original_name(name)
            if original or name.startswith(drafts.WRITING):
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    self._recover_one(path, name, original, folder, ours)

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

    def _clear_folder(self, cleared: _Cleared) -> None:
        known_folders.empty(cleared.descriptor, cleared.ours, self.tick)
        try:
            os.rmdir(cleared.swap, dir_fd=cleared.folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            self._keep_copy(cleared.path, cleared.swap, cleared.name, cleared.folder)

    def _retire(self, retired: _Retired) -> None:
        """Delete it later: a process may have looked up the name and not opened the file yet, which no lease shows."""
        if len(self._retired) >= _MOST_RETIRED:
            self.clear()
        self._retired.append(replace(retired, folder=os.dup(retired.folder), descriptor=os.dup(retired.descriptor)))

    def _recover_one(self, path: str, name: str, original: str, folder: int, ours: Collection[tuple[str, int]]) -> None:
        if original and _is_folder(name, folder):
            self._recover_folder(path, name, original, folder, ours)
            return
        with _opened(name, folder) as descriptor:
            if descriptor < 0 or not drafts.lock(descriptor):
                return
            if original and not self._was_put_back(name, original, folder) and not self._is_ours(descriptor, ours):
                self._keep_copy(path, name, original, folder)
            os.unlink(name, dir_fd=folder)

    def _recover_folder(
        self, path: str, name: str, original: str, folder: int, ours: Collection[tuple[str, int]]
    ) -> None:
        """A folder that a killed run replaced, or made and did not use."""
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

    def _keep_copy(self, path: str, swap: str, name: str, folder: int) -> None:
        for number in range(1, _MOST_COPIES + 1):
            copy = self.copy_name(name, number)
            try:
                if _is_folder(swap, folder):
                    rename_to_free(folder, swap, copy)
                else:
                    os.link(swap, copy, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                continue
            self.kept.append((files.join(path, name), files.join(path, copy)))
            return
        raise FileNotFoundError(errno.ENOENT, f"no free name beside {name!r}")


@contextlib.contextmanager
def _opened(name: str, folder: int) -> Iterator[int]:
    """A temporary file of the student's uid, open for reading; -1 when anything else has the name."""
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


def _is_final(retired: _Retired) -> bool:
    """Whether the file has no writer, nor one that waits: F_GETLEASE says what a lease is being broken to."""
    if retired.hold is Hold.HELD and fcntl.fcntl(retired.descriptor, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
        return False
    status = os.fstat(retired.descriptor)
    return (status.st_size, status.st_mtime_ns) == retired.stamp
