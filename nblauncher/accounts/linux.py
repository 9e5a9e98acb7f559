"""Accounts of a Linux host, made and changed by the host's shadow tools. Everything here runs as root."""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nblauncher.accounts import SYSTEM_ACCOUNTS, home_folders, nonce_in, passwd, refuse_unless, schedules, sweep
from nblauncher.accounts.passwd import shadow_tool
from nblauncher.errors import HostError, RefusedError
from nblauncher.model import Account, AccountState, Secret
from nblauncher.printable import printable
from nblauncher.system import leftovers, workers

log = logging.getLogger(__name__)

_FRONT_PAGE, _SWEEPER, _BUILDER = SYSTEM_ACCOUNTS
_MAIL = Path("/var/mail")
_OPEN = tuple(
    map(Path, ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock", "/run/screen", "/var/crash"))  # noqa: S108
)
"""Folders that every account may write to."""

_LOOKING = 60.0
_DISABLED = Secret("*")
_EXPIRED = "1"  # the second day of 1970: keys, cron and at are refused as well (pam_unix, account)


class LinuxAccounts:
    """See `Accounts` for what each method promises."""

    # Looking.

    def lookup(self, username: str) -> Account | None:
        found = passwd.find_user(username)
        return None if found is None else _account(found)

    def name_of(self, uid: int) -> str | None:
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return None

    def uid_is_free(self, uid: int) -> bool:
        return self.name_of(uid) is None and passwd.group_of_gid(uid) is None and not passwd.is_subordinate(uid)

    def objection(self, account: Account) -> str | None:
        lowest = passwd.system_number("UID_MIN", 1000)
        if account.uid == 0:
            return "it is root"
        if account.uid < lowest:
            return f"its uid {account.uid} is below {lowest}, so it is the system's"
        if account.uid in passwd.NOBODY:
            return "it is the system's nobody"
        for group, reason in passwd.privileged_groups_of(account):
            return f'it is in group "{group}", which {reason}'
        return None

    def members_of(self, group: str) -> frozenset[str]:
        found = passwd.find_group(group)
        return frozenset() if found is None else frozenset(found.gr_mem)

    def gid_of(self, group: str) -> int | None:
        found = passwd.find_group(group)
        return None if found is None else found.gr_gid

    def is_locked(self, account: Account) -> bool:
        fields = passwd.shadow_fields(account.username)
        return fields is not None and fields[1].startswith("!") and fields[7] == _EXPIRED

    # Making.

    def create(self, account: Account, *, locks: Collection[int] = ()) -> Account:
        self._refuse_to_create(account)
        shadow_tool(*useradd_words(account), locks=locks)
        return self._verified(account)

    def repair(self, account: Account, *, locks: Collection[int] = ()) -> Account:
        found = self.lookup(account.username)
        if found is not None:
            refuse_unless(AccountState.COMPLETE, account, found)
            if self._is_whole(found):
                return found
        self.discard(account, locks=locks)
        return self.create(account, locks=locks)

    def discard(self, account: Account, *, locks: Collection[int] = ()) -> None:
        passwd.refuse_odd_words(account)
        found = self.lookup(account.username)
        if found is not None:
            refuse_unless(AccountState.COMPLETE, account, found)
            self._refuse_while_running(account)
        passwd.clear_stale_locks()
        passwd.clear_crumbs()
        home_folders.refuse_unsafe_root(account.home.parent)
        home_folders.remove_unused(account)
        self._remove_entries(account, locks)

    def ensure_system_accounts(self, *, locks: Collection[int] = ()) -> None:
        for username in SYSTEM_ACCOUNTS:
            if self.lookup(username) is None:
                shadow_tool(*_useradd_system(username), locks=locks)
            self._refuse_unless_unprivileged(username)

    def objections_to_system_accounts(self) -> tuple[str, ...]:
        found = []
        for username in SYSTEM_ACCOUNTS:
            if self.lookup(username) is None:
                if passwd.find_group(username) is not None:
                    found.append(f"there is a group {username}, and nblauncher needs that name for an account")
                continue
            try:
                self._refuse_unless_unprivileged(username)
            except RefusedError as error:
                found.append(error.problem)
        return tuple(found)

    def idle_builder(self) -> Account:
        self._refuse_unless_unprivileged(_BUILDER)
        self._refuse_unless_unprivileged(_SWEEPER)
        builder = self._builder()
        sweep.kill_all_of(builder.uid, self._sweeper())
        if found := self.leftovers_of_builder():
            log.warning("removing what %s has on this host: %s", _BUILDER, ", ".join(found))
            schedules.remove_schedules(builder)
            _remove_mail(builder)
            workers.run_as(builder, _delete_belongings, timeout=_LOOKING * (len(_OPEN) + 1))
            sweep.kill_all_of(builder.uid, self._sweeper())
            if left := self.leftovers_of_builder():
                raise HostError(f"{_BUILDER} has something on this host: {', '.join(left)}", "Delete it.")
        return builder

    def leftovers_of_builder(self) -> tuple[str, ...]:
        builder = self.lookup(_BUILDER)
        if builder is None:
            return ()
        running = (f"process {process.pid} ({printable(process.name)})" for process in sweep.processes_of(builder.uid))
        kept = schedules.schedules_of(builder)
        files = (printable(path) for path in leftovers.files_of(builder.uid, (*_OPEN, _MAIL)))
        return (*running, *kept, *leftovers.ipc_of(builder.uid), *files)

    # Changing.

    def reclaim(self, account: Account, *, locks: Collection[int] = ()) -> None:
        passwd.refuse_odd_words(account)
        refuse_unless(AccountState.CHANGED, account, self.lookup(account.username))
        shadow_tool("usermod", "-c", account.nonce, "--", account.username, locks=locks)

    def set_passwords(self, passwords: Mapping[str, Secret], *, locks: Collection[int] = ()) -> dict[str, str]:
        failures = {name: why for name, secret in passwords.items() if (why := self._password_objection(name, secret))}
        return failures | _chpasswd_each({name: one for name, one in passwords.items() if name not in failures}, locks)

    def disable_passwords(self, usernames: Collection[str], *, locks: Collection[int] = ()) -> dict[str, str]:
        failures = {name: why for name in usernames if (why := self._password_objection(name, _DISABLED))}
        # shadow(5): no password has the hash `*`. Without a hash, usermod would refuse to unlock the account.
        fields = {name: passwd.shadow_fields(name) for name in usernames if name not in failures}
        locked = {name for name, one in fields.items() if one and one[1].startswith("!") and one[7] == _EXPIRED}
        hashes = {name: Secret("!*") if name in locked else _DISABLED for name in fields}
        return failures | _chpasswd_each(hashes, locks, "-e")

    def lock(self, account: Account, *, locks: Collection[int] = ()) -> None:
        self._refuse_unless_ours(account)
        shadow_tool("usermod", "-L", "-e", _EXPIRED, "--", account.username, locks=locks)
        if not self.is_locked(account):
            raise HostError(f"{account.username} could not be locked")

    def unlock(self, account: Account, *, locks: Collection[int] = ()) -> None:
        self._refuse_unless_ours(account)
        shadow_tool("usermod", "-U", "-e", "", "--", account.username, locks=locks)

    # Groups.

    def ensure_group(self, group: str, *, locks: Collection[int] = ()) -> None:
        passwd.refuse_odd_group(group)
        found = passwd.find_group(group)
        if found is None:
            shadow_tool("groupadd", "--", group, locks=locks)
        elif found.gr_gid < passwd.system_number("GID_MIN", 1000):
            raise RefusedError(f"group {group} exists with gid {found.gr_gid}, which is the system's")

    def add_to_group(self, accounts: Sequence[Account], group: str, *, locks: Collection[int] = ()) -> None:
        for account in accounts:
            found = self.lookup(account.username)
            if found is None or found.uid != account.uid:
                raise RefusedError(f"{account.username} is no longer the account with uid {account.uid}")
        self._set_members(group, self.members_of(group) | {account.username for account in accounts}, locks)

    def remove_from_group(self, accounts: Sequence[Account], group: str, *, locks: Collection[int] = ()) -> None:
        self._set_members(group, self.members_of(group) - {account.username for account in accounts}, locks)

    def remove_group(self, group: str, *, locks: Collection[int] = ()) -> None:
        passwd.refuse_odd_group(group)
        if passwd.find_group(group) is not None:
            shadow_tool("groupdel", "--", group, locks=locks)

    # Ending.

    def mounts_in_home(self, account: Account) -> list[str]:
        return home_folders.mounts_within(account.home)

    def remove_schedules(self, account: Account) -> tuple[str, ...]:
        self._refuse_unless_ours(account)
        return schedules.remove_schedules(account)

    def kill_everything(self, account: Account) -> None:
        self._refuse_unless_ours(account)
        self._refuse_unless_unprivileged(_SWEEPER)
        sweep.kill_all_of(account.uid, self._sweeper())

    def delete_home(self, account: Account) -> None:
        self._refuse_unless_ours(account)
        self._refuse_while_running(account)
        home_folders.remove(account)

    def delete(self, account: Account, *, locks: Collection[int] = ()) -> None:
        passwd.refuse_odd_words(account)
        if self.lookup(account.username) is None and not os.path.lexists(account.home):
            self._remove_entries(account, locks)
            return
        self._refuse_unless_ours(account)
        self._refuse_while_running(account)
        self.kill_everything(account)  # a process that we cannot see may run, and would write to the home again
        home_folders.remove(account)
        _remove_mail(account)
        schedules.remove_schedules(account)
        self._remove_entries(account, locks)

    # Helpers.

    def _refuse_to_create(self, account: Account) -> None:
        passwd.refuse_odd_words(account)
        name = account.username
        if self.lookup(name) is not None or passwd.find_group(name) is not None:
            raise RefusedError(f"an account or group {name} exists already", "It was left alone.")
        if not self.uid_is_free(account.uid):
            raise RefusedError(f"uid {account.uid} for {name} was taken by another account in the meantime")
        if not os.access(account.shell, os.X_OK):
            raise RefusedError(f"accounts.shell {account.shell} is not a program")
        home_folders.refuse_unsafe_root(account.home.parent)
        home_folders.refuse_existing(account)

    def _verified(self, account: Account) -> Account:
        found = self.lookup(account.username)
        refuse_unless(AccountState.COMPLETE, account, found)
        made = replace(account, gid=found.gid if found else account.gid)
        if passwd.group_of_gid(made.gid) != made.username:
            raise HostError(f"useradd gave {made.username} the group {made.gid}, which is not their own")
        home_folders.make_private(made)
        return made

    def _is_whole(self, found: Account) -> bool:
        return (
            passwd.group_of_gid(found.gid) == found.username
            and passwd.shadow_fields(found.username) is not None
            and home_folders.is_complete(found)
        )

    def _remove_entries(self, account: Account, locks: Collection[int]) -> None:
        """Remove the account's lines from passwd, shadow and group, as far as they exist."""
        name = account.username
        if self.lookup(name) is not None:
            sweep.wait_for_reaping(account.uid)
            shadow_tool("userdel", "--", name, locks=locks)
        if self.lookup(name) is not None:
            raise HostError(f"the account {name} could not be deleted")
        # userdel keeps the group if USERGROUPS_ENAB is off, and does not know it if useradd died halfway.
        group = passwd.find_group(name)
        if group is not None and group.gr_gid in (account.uid, account.gid) and not group.gr_mem:
            shadow_tool("groupdel", "--", name, locks=locks)

    def _refuse_unless_ours(self, account: Account) -> None:
        passwd.refuse_odd_words(account)
        refuse_unless(AccountState.COMPLETE, account, self.lookup(account.username))

    def _refuse_while_running(self, account: Account) -> None:
        if running := sweep.processes_of(account.uid):
            raise RefusedError(f"processes of {account.username} still run: {running[0].pid} ({running[0].name})")

    def _password_objection(self, username: str, password: Secret) -> str | None:
        found = self.lookup(username)
        if found is None:
            return "the account does not exist"
        if not found.nonce or self.objection(found):
            return "the account is not one we made"
        if not password.reveal().isprintable() or not password.reveal():
            return "the password has characters that cannot be set"
        return None

    def _set_members(self, group: str, members: frozenset[str], locks: Collection[int]) -> None:
        """One gpasswd for the whole class: one for each student would take as long as useradd."""
        passwd.refuse_odd_group(group)
        if passwd.find_group(group) is None:
            raise HostError(f"there is no group {group}")
        if members != self.members_of(group):
            shadow_tool("gpasswd", "-M", ",".join(sorted(members)), group, locks=locks)

    def _builder(self) -> Account:
        builder = self.lookup(_BUILDER)
        if builder is None:
            raise HostError(f"the system account {_BUILDER} is missing", "Run `nblauncher setup`, which makes it.")
        return builder

    def _sweeper(self) -> Account:
        sweeper = self.lookup(_SWEEPER)
        if sweeper is None:
            raise HostError(f"the system account {_SWEEPER} is missing", "Run `nblauncher setup`, which makes it.")
        return sweeper

    def _refuse_unless_unprivileged(self, username: str) -> None:
        found = self.lookup(username)
        if found is None:
            raise HostError(f"the system account {username} is missing", "Run `nblauncher setup`, which makes it.")
        groups = set(os.getgrouplist(username, found.gid))
        twins = [entry.pw_name for entry in pwd.getpwall() if entry.pw_uid == found.uid and entry.pw_name != username]
        if not 0 < found.uid < passwd.system_number("UID_MIN", 1000):
            reason = f"its uid {found.uid} is not a system account's"
        elif passwd.group_of_gid(found.gid) != username or groups != {found.gid}:
            reason = "it is in other groups than its own"
        elif os.path.basename(found.shell) not in ("nologin", "false"):
            reason = f"its shell is {found.shell}"
        elif twins:
            reason = f"{twins[0]} has the same uid"
        else:
            return
        raise RefusedError(f"the account {username} cannot serve as nblauncher's: {reason}")


def _delete_belongings() -> list[str]:
    """Runs as the account that builds packages."""
    return leftovers.delete_ipc() + leftovers.delete_files(_OPEN, patience=_LOOKING)


def _account(found: pwd.struct_passwd) -> Account:
    home = Path(found.pw_dir)
    return Account(found.pw_name, found.pw_uid, found.pw_gid, home, found.pw_shell, nonce_in(found.pw_gecos))


def useradd_words(account: Account) -> tuple[str, ...]:
    """The command line that makes an account. It holds no secret: `ps` shows it to every account."""
    keys: tuple[str, ...] = ("-K", "HOME_MODE=0700", "-K", "SUB_UID_COUNT=0", "-K", "SUB_GID_COUNT=0")
    if account.uid > min(passwd.system_number("UID_MAX", 60000), passwd.system_number("GID_MAX", 60000)):
        # Outside of the range of ordinary accounts, useradd would give the group another number than the account.
        number = str(account.uid)
        keys += ("-K", f"UID_MAX={number}", "-K", f"GID_MIN={number}", "-K", f"GID_MAX={number}")
    identity = ("-u", str(account.uid), "-d", str(account.home), "-s", account.shell, "-c", account.nonce)
    return ("useradd", "-m", "-U", *keys, *identity, "--", account.username)


def _useradd_system(username: str) -> tuple[str, ...]:
    shell = next(filter(os.path.exists, ("/usr/sbin/nologin", "/sbin/nologin")), "/bin/false")
    return ("useradd", "--system", "-M", "-U", "-d", "/nonexistent", "-s", shell, "-c", "nblauncher", "--", username)


def _chpasswd_each(passwords: Mapping[str, Secret], locks: Collection[int], *options: str) -> dict[str, str]:
    """All at once; where that fails one by one. username → why, for the ones that failed."""
    failures: dict[str, str] = {}
    if not passwords:
        return failures
    try:
        _chpasswd(passwords, locks, *options)
    except HostError as error:
        log.warning("chpasswd failed for the whole batch (%s); trying one by one", error)
        for name, secret in passwords.items():
            try:
                _chpasswd({name: secret}, locks, *options)
            except HostError as failure:
                failures[name] = str(failure)
    return failures


def _chpasswd(passwords: Mapping[str, Secret], locks: Collection[int], *options: str) -> None:
    lines = "".join(f"{name}:{secret.reveal()}\n" for name, secret in passwords.items())
    shadow_tool("chpasswd", *options, input=Secret(lines), timeout=60.0 + len(passwords), locks=locks)


def _remove_mail(account: Account) -> None:
    """The spool folder belongs to root. This removes only a name in it, whatever other links the file has."""
    spool = _MAIL / account.username
    with contextlib.suppress(FileNotFoundError):
        status = spool.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_uid == account.uid:
            spool.unlink()
