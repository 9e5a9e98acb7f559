"""How much of the disk a student takes, counted as the student. With quotas: test_server_quota.py."""

from __future__ import annotations

import ctypes
import os
import pwd
import subprocess
from pathlib import Path

import pytest

from nblauncher.errors import HostError
from nblauncher.exchange import homes
from nblauncher.isolation import quotas
from nblauncher.model import Account
from tests.classroom import set_up_class

pytestmark = pytest.mark.system

STUDENT = "nbtedisk"
PORT = 18610
FIRST_UID = 26400


@pytest.fixture(scope="module")
def room():
    with set_up_class("nbte-disk", [STUDENT], port=PORT, first_uid=FIRST_UID) as one:
        one.write(limits={"disk": "20 MB"})
        yield one


def account_of(name: str) -> Account:
    entry = pwd.getpwnam(name)
    return Account(name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))


def fill(account: Account, name: str, size: int) -> None:
    who = ["setpriv", f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups"]
    what = ["dd", "if=/dev/zero", f"of={account.home}/{name}", "bs=1M", f"count={size}"]
    subprocess.run([*who, *what], check=True, stderr=subprocess.DEVNULL)


def test_what_a_home_takes_is_counted_once_and_told_by_status(room):
    account = account_of(STUDENT)
    before = homes.used(account, longest=30)
    fill(account, "big", 25)
    os.link(account.home / "big", account.home / "again")
    assert 25 * 2**20 <= homes.used(account, longest=30) - before < 26 * 2**20
    if quotas.read(account.home, account.uid) is None:
        room.run("watch-disks", "--unattended", room.course)
    said = room.json("status")["students"][0]["reason"]
    assert "files take 26 MB of 20 MB" in said or "files take 27 MB of 20 MB" in said


def test_a_home_that_cannot_be_looked_through_in_time_is_said(room):
    with pytest.raises(HostError, match="more than can be counted"):
        homes.used(account_of(STUDENT), longest=0)


def test_a_file_system_without_quotas_has_none(tmp_path: Path):
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"nbt", os.fsencode(tmp_path), b"tmpfs", 0, b"size=1m") == 0
    try:
        assert quotas.read(tmp_path, 26400) is None
        with pytest.raises(HostError, match="has no quotas"):
            quotas.limit(tmp_path, 26400, 1_000_000)
    finally:
        libc.umount2(os.fsencode(tmp_path), 2)
