"""Reading config and roster: only files that root and the teacher alone could have written.

Root itself opens neither. A worker reads the file as its owner (a file that root owns: as the owner of the folder that
it is in). It walks every component by descriptor, links included, and checks what it holds open. So a teacher cannot
have a file read that the teacher could not read, and a rename between check and open changes nothing.

Root and `allowed_uids` may own the file, the links to it and every folder above. No other user may have write access:
never the world; a group only when it is the owner's private one (the owner's primary group, of the same name and
without another member; an access control list is refused). One kind of world-writable folder is accepted above: root's
sticky ones such as /tmp, if the next component is a folder (not the file, not a link). There no user can replace
another's folder (unlink(2), EPERM), and a folder cannot be planted as a hard link can.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Iterable
from pathlib import Path

from nblauncher.errors import InputError, NblauncherError, RefusedError
from nblauncher.model import Account
from nblauncher.printable import printable
from nblauncher.system import files, workers

MAX_BYTES = 8_000_000

_MOST_LINKS = 40
_HOW = os.O_NOFOLLOW | os.O_CLOEXEC


def read_trusted(
    path: Path, *, allowed_uids: frozenset[int], max_bytes: int = MAX_BYTES, is_secret: bool = False
) -> bytes:
    """The content of a regular file that only root and `allowed_uids` could have written. A file that `is_secret` is
    refused as well if any account but its owner may read it.

    For root, a worker reads it as the file's owner; any other user reads it directly. InputError when the file is
    missing, unreadable, not a regular file or larger than `max_bytes`; RefusedError when another user owns or can write
    it or a folder above it. Both say what to do.
    """
    path = Path(os.path.abspath(path))
    allowed = allowed_uids | {0}
    if os.geteuid() != 0:
        return read_checked(path, allowed, max_bytes, is_secret)
    problem: NblauncherError | None = None
    for uid in _readers(path, allowed):
        try:
            return _read_as(_account(uid, path), path, allowed, max_bytes, is_secret)
        except (InputError, RefusedError) as error:
            problem = error
    raise problem or InputError(f"{shown(path)}: no account may read it")


def read_checked(path: Path, allowed: frozenset[int], max_bytes: int, is_secret: bool = False) -> bytes:
    """Walk to `path`, check every component and read it, as the account of this process.

    Root reads only what is in root's folders: anywhere else a link could lead it to a secret.
    """
    walk = _Walk(path, allowed)
    try:
        name = walk.to_parent()
        if os.geteuid() == 0 and walk.owners != {0}:
            raise _refused(path, path, "it was replaced while it was checked", "Run the command again.")
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | _HOW, dir_fd=walk.here)
        except OSError as error:
            raise _unreadable(path, error) from None
    finally:
        walk.close()
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{shown(path)} is not a regular file")
        _judge(path, path, descriptor, status, allowed & walk.owners)
        if is_secret and status.st_mode & 0o077:  # with an access control list these are its mask
            raise _refused(path, path, "other accounts may read it", f"Run `chmod 600 {shown(path)}`.")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise InputError(f"{shown(path)} is larger than {max_bytes} bytes", "Is it the right file?")
    return content


def read_as(account: Account, path: Path, *, most: int) -> bytes:
    """A file that any user may have written, read by a child that is the account; at most so many bytes.

    InputError when it is not a file, is too large, or the account may not read it.
    """
    memory = os.memfd_create("file", os.MFD_CLOEXEC)
    try:
        workers.run_as(account, _copy_into, memory, path, most, keep={memory})
        os.lseek(memory, 0, os.SEEK_SET)
        return b"".join(files.chunks(memory, most))
    finally:
        os.close(memory)


def _copy_into(memory: int, path: Path, most: int) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            raise InputError(f"{shown(path)} is not a file, or has more than {most} bytes")
        for data in files.chunks(descriptor, status.st_size):
            os.write(memory, data)
    except OSError as error:
        raise InputError(f"{shown(path)} cannot be read: {os.strerror(error.errno or 0).lower()}") from error


def is_private_group(gid: int, owner_uid: int) -> bool:
    """Whether the group's only possible member is that user.

    Name services that do not list all users (LDAP through sssd) hide other members with this primary group, so it must
    also be the owner's primary group and have the owner's name, as private groups do.
    """
    try:
        owner, group = pwd.getpwuid(owner_uid), grp.getgrgid(gid)
    except KeyError:
        return False
    return (
        owner.pw_gid == gid
        and group.gr_name == owner.pw_name
        and not set(group.gr_mem) - {owner.pw_name}
        and not any(entry.pw_gid == gid and entry.pw_uid != owner_uid for entry in pwd.getpwall())
    )


def shown(path: Path) -> str:
    return printable(str(path))


# The reader.


def _readers(path: Path, allowed: frozenset[int]) -> Iterable[int]:
    """The uids to try: the file's owner, or for root's file the owner of the folder that it is in. Opens nothing.

    A race makes this choice wrong, never harmful: the reader checks again what it has open.
    """
    try:
        real = Path(os.path.realpath(path))
        owners = [os.lstat(step).st_uid for step in (real, path, *real.parents, *path.parents)]
    except PermissionError:
        # A network home that shuts root out: its owner must be one of these.
        return sorted(allowed - {0})
    except OSError as error:
        raise _unreadable(path, error) from None
    stranger = next((uid for uid in owners if uid not in allowed), None)
    if stranger is not None:
        return [0]  # the walk refuses it; nothing runs as the stranger
    return [next((uid for uid in owners if uid != 0), 0)]


def _account(uid: int, path: Path) -> Account:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise RefusedError(f"{shown(path)} belongs to uid {uid}, which has no account on this host") from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))


def _read_as(reader: Account, path: Path, allowed: frozenset[int], max_bytes: int, is_secret: bool) -> bytes:
    """Through a memfd: an answer is a small JSON text. The worker's copy dies with the worker."""
    memory = os.memfd_create("nblauncher-input", os.MFD_CLOEXEC)
    with os.fdopen(memory, "rb") as file:
        workers.run_as(reader, _read_into, memory, path, allowed, max_bytes, is_secret, keep=(memory,))
        return file.read(max_bytes)


def _read_into(memory: int, path: Path, allowed: frozenset[int], max_bytes: int, is_secret: bool) -> None:
    content = memoryview(read_checked(path, allowed, max_bytes, is_secret))
    written = 0
    while written < len(content):
        written += os.pwrite(memory, content[written:], written)


# The walk.


class _Walk:
    """The walk to a file: `here` is a descriptor of the folder reached, `owners` the uids of all passed components."""

    def __init__(self, path: Path, allowed: frozenset[int]) -> None:
        self.path = path
        self.allowed = allowed
        self.owners = {0}
        self.reached = Path("/")
        self.here = _root_folder()
        self._is_sticky = _judge(path, self.reached, self.here, os.fstat(self.here), allowed)

    def close(self) -> None:
        os.close(self.here)

    def to_parent(self) -> str:
        """Go to the folder that holds the file; the file's name there. Checks every component on the way."""
        todo = list(reversed(self.path.parts[1:]))
        links = 0
        while todo:
            name = todo.pop()
            step = self._open(name)
            status = os.fstat(step)
            self.owners.add(status.st_uid)
            if stat.S_ISDIR(status.st_mode):
                self._enter(name, step, status)
                continue
            try:
                if self._is_sticky:
                    raise _refused(self.path, self.reached, "every user can write there", "Move it to your own folder.")
                if not stat.S_ISLNK(status.st_mode):
                    if todo:
                        raise InputError(f"{shown(self.reached / name)} is not a folder")
                    if status.st_uid not in self.allowed:
                        raise _refused_owner(self.path, self.path, status.st_uid, self.allowed)
                    return name
                links += 1
                if links > _MOST_LINKS:
                    raise InputError(f"{shown(self.path)}: too many symbolic links")
                todo += self._follow(name, step, status)
            finally:
                os.close(step)
        raise InputError(f"{shown(self.path)} is a folder, not a file")

    def _open(self, name: str) -> int:
        try:
            return os.open(name, os.O_PATH | _HOW, dir_fd=self.here)
        except OSError as error:
            raise _unreadable(self.path, error) from None

    def _enter(self, name: str, folder: int, status: os.stat_result) -> None:
        os.close(self.here)
        self.here = folder
        self.reached = self.reached.parent if name == ".." else self.reached / name
        self._is_sticky = _judge(self.path, self.reached, folder, status, self.allowed)

    def _follow(self, name: str, link: int, status: os.stat_result) -> list[str]:
        """The components of a link's target, last first."""
        if status.st_uid not in self.allowed:
            raise _refused_owner(self.path, self.reached / name, status.st_uid, self.allowed)
        target = os.readlink("", dir_fd=link)
        if target.startswith("/"):
            os.close(self.here)
            self.here, self.reached = _root_folder(), Path("/")
        return [part for part in reversed(target.split("/")) if part not in ("", ".")]


def _root_folder() -> int:
    return os.open("/", os.O_PATH | os.O_DIRECTORY | _HOW)


def _judge(path: Path, where: Path, descriptor: int, status: os.stat_result, allowed: frozenset[int]) -> bool:
    """RefusedError unless only root and `allowed` can write this. Returns whether it is root's sticky folder."""
    if status.st_uid not in allowed:
        raise _refused_owner(path, where, status.st_uid, allowed)
    if status.st_mode & stat.S_IWOTH:
        if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX and status.st_uid == 0:
            return True
        raise _refused(path, where, "every user can write it", f"Run `chmod o-w {shown(where)}`.")
    if status.st_mode & stat.S_IWGRP:
        if not is_private_group(status.st_gid, status.st_uid):
            why = f"the group {_group_name(status.st_gid)} can write it"
            raise _refused(path, where, why, f"Run `chmod g-w {shown(where)}`.")
        if _may_have_acl(descriptor, status):
            raise _refused(path, where, "its access control list lets others write it", "Look at `getfacl`.")
    return False


def _may_have_acl(descriptor: int, status: os.stat_result) -> bool:
    """With a list the group bits are its mask, not the group's (acl(5)). What cannot be opened counts as having one."""
    if not stat.S_ISDIR(status.st_mode):
        return _has_acl(descriptor)
    try:
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | _HOW, dir_fd=descriptor)
    except OSError:
        return True
    try:
        return _has_acl(folder)
    finally:
        os.close(folder)


def _has_acl(descriptor: int) -> bool:
    try:
        os.getxattr(descriptor, "system.posix_acl_access")
    except OSError as error:
        return error.errno not in (errno.ENODATA, errno.EOPNOTSUPP)
    return True


# Messages.


def _unreadable(path: Path, error: OSError) -> InputError:
    if error.errno == errno.ENOENT:
        return InputError(f"{shown(path)} does not exist", "Nothing was changed.")
    if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
        return InputError(f"{shown(path)}: {os.strerror(error.errno)}", "Nothing was changed.")
    reader = _user_name(os.geteuid())
    return InputError(
        f"{shown(path)} cannot be read by {reader}: {os.strerror(error.errno or 0)}",
        f"Give {reader} the right to read it. Nothing was changed.",
    )


def _refused_owner(path: Path, where: Path, uid: int, allowed: frozenset[int]) -> RefusedError:
    trusted = " or ".join(_user_name(trusted_uid) for trusted_uid in sorted(allowed))
    return _refused(
        path, where, f"it belongs to {_user_name(uid)}, not to {trusted}", _ways_out(where == path, uid, allowed)
    )


def _ways_out(is_file: bool, uid: int, allowed: frozenset[int]) -> str:
    """The hint. It never suggests another owner for a folder, which may be a home."""
    teachers = [teacher for teacher in sorted(allowed - {0}) if _has_account(teacher)]
    me, owner = _user_name(teachers[-1] if teachers else 0), _user_name(uid)
    way = f"check its content, then `chown {me}` it, or use" if is_file else "copy the course into"
    if teachers or not _has_account(uid):
        return f"{way[0].upper()}{way[1:]} a folder that belongs to {me}."
    return (
        f"If {owner} is the teacher, run it with sudo as {owner} (`su - {owner}`, then `sudo nblauncher ...`), so that "
        f"root knows the course's owner. Else {way} a folder that belongs to root."
    )


def _refused(path: Path, where: Path, why: str, hint: str) -> RefusedError:
    subject = f"{shown(path)} is not used" if where == path else f"{shown(path)} is not used because of {shown(where)}"
    return RefusedError(f"{subject}: {why}", f"{hint} Nothing was changed.")


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _has_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return f"gid {gid}"
