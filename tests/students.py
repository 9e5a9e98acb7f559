"""Real accounts and a teacher's store for the tests of retrieving: `with made_account("nbtr...", uid)`."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from nblauncher.config.settings import RetrieveSettings
from nblauncher.exchange.retrieve import collection, store
from nblauncher.exchange.retrieve.scope import CHANGED, Scope
from nblauncher.model import Account
from tests.system_accounts import delete_account

TARGET = "tutorial"


@contextlib.contextmanager
def made_account(username: str, uid: int) -> Iterator[Account]:
    """An account with a private home, gone afterwards with everything that it ran and owned."""
    subprocess.run(["useradd", "-m", "-K", "HOME_MODE=0700", "-u", str(uid), "--", username], check=True)
    entry = pwd.getpwnam(username)
    account = Account(username, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))
    try:
        (account.home / TARGET).mkdir(mode=0o755)
        os.chown(account.home / TARGET, account.uid, account.gid)
        yield account
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", "--", str(account.home)], check=True)
        delete_account(username)


def as_student(account: Account, function: Callable[..., object], *arguments: object) -> None:
    """Do something as the student would: in a process with that uid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            become(account)
            function(*arguments)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def become(account: Account) -> None:
    """Turn this (forked) process into the student's, in the material folder."""
    os.setgroups([])
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    os.chdir(account.home / TARGET)


def write(account: Account, path: str, content: bytes | str = b"work", *, below: str = TARGET) -> Path:
    """A file of the student's, with its folders."""
    file = account.home / below / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    for one in (file, *file.parents):
        if one == account.home:
            break
        os.chown(one, account.uid, account.gid)
    return file


@dataclass
class Desk:
    """The teacher's side: an owner, a store, and retrievals into it."""

    owner: Account
    target: Path
    limits: RetrieveSettings = field(init=False)

    def __post_init__(self) -> None:
        self.limits = RetrieveSettings(self.target)

    def open(self) -> store.Staging:
        return store.open_staging(self.owner, self.target, datetime.now().astimezone())

    def collect(
        self, account: Account, scope: Scope | None = None, *, previous: str = "", stall: float = 20.0, **limits: int
    ) -> tuple[collection.Collected, str]:
        """Collect one student and publish; what it amounted to and the folder's name."""
        staging = self.open()
        try:
            collected = collection.collect(
                account,
                self.owner,
                staging,
                scope or Scope(CHANGED, TARGET),
                replace(self.limits, **limits),
                previous=previous,
                stall=stall,
                longest=300.0,
            )
        except BaseException:
            store.discard(self.owner, staging)
            raise
        return collected, store.publish(self.owner, staging)

    def folder(self, name: str, account: Account) -> Path:
        return self.target / name / account.username

    def manifest(self, name: str, account: Account) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder(name, account) / "manifest.json").read_text())
        return loaded

    def stored(self, name: str, account: Account) -> dict[str, bytes]:
        """Every file of the student's folder but the manifest; fails on what is neither file nor folder."""
        root = os.fsencode(self.folder(name, account))
        result = {}
        for folder, _folders, files in os.walk(root):
            for file in files:
                path = os.path.join(folder, file)
                assert not os.path.islink(path) and os.path.isfile(path)
                with open(path, "rb") as opened:
                    result[os.fsdecode(os.path.relpath(path, root))] = opened.read()
        del result["manifest.json"]
        return result


@contextlib.contextmanager
def made_folder() -> Iterator[Path]:
    """A folder that every account may pass through. Not pytest's: each new pytest run closes that to others again."""
    with tempfile.TemporaryDirectory(prefix="nbtr-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@contextlib.contextmanager
def made_desk(folder: Path, owner: Account) -> Iterator[Desk]:
    target = folder / "retrieved"
    target.mkdir(mode=0o700)
    os.chown(target, owner.uid, owner.gid)
    yield Desk(owner, target)


def exclusions(collected: collection.Collected) -> dict[str, tuple[str, bool]]:
    return {one.path: (one.reason, one.incomplete) for one in collected.work.exclusions}
