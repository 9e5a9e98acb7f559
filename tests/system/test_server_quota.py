"""Homes on a file system with quotas: what a student may have there is held by the kernel."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nblauncher.isolation import quotas
from nblauncher.model import Account
from nblauncher.system import workers
from tests.classroom import Classroom

pytestmark = pytest.mark.system

ADA, BOB = NAMES = ["nbteqada", "nbteqbob"]
PORT = 18615
FIRST_UID = 29100
LIMIT = 20_000_000


@pytest.fixture
def quota_disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 with quotas on a loop device."""
    image, folder = tmp_path / "disk", tmp_path / "mounted"
    image.write_bytes(b"")
    os.truncate(image, 128 * 2**20)
    folder.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-O", "quota", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop,usrquota", str(image), str(folder)], capture_output=True).returncode:
        pytest.skip("NO QUOTA TEST: this kernel has no quotas for ext4 (CONFIG_QFMT_V2), or no loop devices")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def room(quota_disk: Path) -> Iterator[Classroom]:
    """A class whose homes are there. Nobody is served before the first launch."""
    made = Classroom("nbte-quota", NAMES, port=PORT, first_uid=FIRST_UID)
    homes = made.folder / "homes"
    homes.mkdir()
    subprocess.run(["mount", "--bind", str(quota_disk), str(homes)], check=True)
    try:
        made.write(
            accounts={**made.config["accounts"], "home": str(homes)},
            limits={"disk": "20 MB"},
            notebook={"spawner": "process", "start_deadline": 600},
        )
        made.run("setup")
        yield made
    finally:
        try:
            made.run("shutdown", "--yes", expect=None)
        finally:
            subprocess.run(["umount", str(homes)], check=True)
            made.close()


def fill(name: str, megabytes: int) -> subprocess.CompletedProcess[str]:
    entry = pwd.getpwnam(name)
    who = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    what = ["dd", "if=/dev/zero", f"of={entry.pw_dir}/big", "bs=1M", f"count={megabytes}"]
    return subprocess.run([*who, *what], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})


def own_quota(home: str) -> list[int | None]:
    """As a student's server asks for it."""
    quota = quotas.read(Path(home), os.getuid())
    return [] if quota is None else [quota.used, quota.limit]


def test_a_quota_is_set_holds_is_told_and_goes_with_the_account(room, quota_disk: Path):
    uid = pwd.getpwnam(ADA).pw_uid
    said = {one["subject"]: one for one in room.json("check", expect=None)["findings"]}
    assert "held by the file system" in said["disk quota"]["message"]
    assert said["disk quota"]["level"] == "ok"

    room.run("launch", "--background", "--on-demand", timeout=600)
    quota = quotas.read(quota_disk, uid)
    assert quota is not None and quota.limit is not None and LIMIT - 1024 < quota.limit <= LIMIT
    assert "Disk quota exceeded" in fill(ADA, 40).stderr
    assert fill(BOB, 5).returncode == 0
    quota = quotas.read(quota_disk, uid)
    assert quota is not None and 0.9 * LIMIT < quota.used <= LIMIT
    entry = pwd.getpwnam(ADA)
    ada = Account(ADA, uid, entry.pw_gid, Path(entry.pw_dir))
    assert workers.run_as(ada, own_quota, entry.pw_dir) == [quota.used, quota.limit], "her server warns her"
    rows = {one["username"]: one for one in room.json("status")["students"]}
    assert "files take 20 MB of 20 MB" in rows[ADA]["reason"]
    assert "files take" not in rows[BOB]["reason"]

    # A full home does not keep a server from starting.
    room.run("shutdown", "--yes")
    room.run("launch", "--background", "--only", ADA, timeout=600)
    rows = {one["username"]: one for one in room.json("status")["students"]}
    assert rows[ADA]["server"] == "ready" and "files take 20 MB of 20 MB" in rows[ADA]["reason"]

    # Another limit comes with the next launch; what an account has goes with it, whatever the config says by then.
    room.run("shutdown", "--yes")
    room.write(limits={"disk": "30 MB"})
    room.run("launch", "--background", "--on-demand", timeout=600)
    quota = quotas.read(quota_disk, uid)
    assert quota is not None and quota.limit is not None and 30_000_000 - 1024 < quota.limit <= 30_000_000
    room.run("shutdown", "--yes")
    room.write(limits={"disk": "none"})
    room.run("remove", "--yes", "--only", ADA)
    gone = quotas.read(quota_disk, uid)
    assert gone is None or (gone.limit, gone.used) == (None, 0)
