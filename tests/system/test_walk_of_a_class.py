"""A student walks the whole host while a class runs, as a login without any sandbox, and opens nothing secret."""

from __future__ import annotations

import json
import os
import pwd
import re
import secrets
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from nblauncher.model import Account
from nblauncher.system import privileges
from tests import launched
from tests.classroom import Classroom

pytestmark = pytest.mark.system

ADA, BOB = "nbtwkada", "nbtwkbob"
PORT = 18730
FIRST_UID = 26650
ESSAY = secrets.token_hex(16).encode()
NOT_WALKED = ("/sys", "/proc")
OPEN_TO_ALL = ("tickets.sock", "kernels.sock")
LARGEST = 64 << 20


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    made = Classroom("nbtwk-walk", [ADA, BOB], port=PORT, first_uid=FIRST_UID)
    try:
        made.write(notebook={})  # as it is by default
        made.run("setup")
        made.run("launch", "--background")
        yield made
    finally:
        made.close()


def secrets_of(room: Classroom, kernel: Path) -> dict[str, bytes]:
    """Everything that is the class's or Ada's alone, by what it is. Read as root."""
    found = {"Ada's essay": ESSAY, "the key of Ada's kernel": json.loads(kernel.read_text())["key"].encode()}
    for name, row in room.credentials.items():
        found |= {f"{name}'s {column}": row[column].encode() for column in ("notebook_password", "system_password")}
    found |= {f"{name}'s hash": value.encode() for name, value in json.loads(room.paths.hashes.read_text()).items()}
    shadow = next(line for line in Path("/etc/shadow").read_text().splitlines() if line.startswith(f"{ADA}:"))
    found["Ada's hash in /etc/shadow"] = shadow.split(":")[1].encode()
    for key in [*room.paths.state.rglob("*.key"), *room.paths.run.rglob("*.key")]:
        content = key.read_bytes()
        found[str(key)] = content.split(b"\n")[1] if content.startswith(b"-----") else content.strip()
    assert len(found) >= 9 and all(len(secret) >= 8 for secret in found.values())
    own = {f"{BOB}'s notebook_password", f"{BOB}'s system_password", f"{BOB}'s hash"}
    return {what: secret for what, secret in found.items() if what not in own}


def walked(account: Account, wanted: Mapping[str, bytes], since: float) -> list[str]:
    """What the account finds: where which secret can be read, and sockets that let it in."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            privileges.drop_to(account)
            os.write(writer, json.dumps(sorted(_walk(account, wanted, since))).encode()[:60_000])
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, encoding="utf-8") as answer:
        said = answer.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return list(json.loads(said))


def _walk(account: Account, wanted: Mapping[str, bytes], since: float) -> Iterator[str]:
    for number in filter(str.isdigit, os.listdir("/proc")):
        for file in ("cmdline", "environ", "maps"):
            yield from _searched(f"/proc/{number}/{file}", wanted)
    folders = ["/"]
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except OSError:
            continue
        for entry in entries:
            if entry.path in NOT_WALKED or entry.path == str(account.home):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(status.st_mode):
                folders.append(entry.path)
            elif stat.S_ISREG(status.st_mode) and status.st_ctime >= since:
                yield from _searched(entry.path, wanted)
            elif stat.S_ISSOCK(status.st_mode) and "nblauncher" in entry.path and entry.name not in OPEN_TO_ALL:
                yield from _entered(entry.path, status)


def _searched(path: str, wanted: Mapping[str, bytes]) -> Iterator[str]:
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST)
    except OSError:
        return
    yield from (f"{path}: {what}" for what, secret in wanted.items() if secret in content)


def _entered(path: str, status: os.stat_result) -> Iterator[str]:
    if status.st_uid == os.geteuid():
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(5)
            connection.connect(path)
    except OSError:
        return
    yield f"{path}: lets everybody in"


@pytest.fixture(scope="module")
def walk(room) -> Iterator[Callable[[], list[str]]]:
    """Bob's walk beside a class at work: Ada has a kernel and a file, material was sent, work retrieved."""
    since = os.stat(room.folder).st_ctime - 60
    ada, bob = (pwd.getpwnam(name) for name in (ADA, BOB))
    with launched.visitor(room, ADA) as browser, launched.visitor(room, BOB):
        kernel = browser.start_kernel()
        browser.run(f"open('essay.txt', 'wb').write({ESSAY!r})", kernel)
        room.run("retrieve")
        room.run("snapshot")
        connection = room.paths.students_run / str(ada.pw_uid) / f"kernel-{kernel}.json"
        wanted = secrets_of(room, connection)
        account = Account(BOB, bob.pw_uid, bob.pw_gid, Path(bob.pw_dir))
        yield lambda: walked(account, wanted, since)


def test_a_student_who_walks_the_whole_host_opens_no_secret(walk):
    assert walk() == []


def test_the_walk_finds_what_is_open(room, walk):
    """A check that cannot fail would promise nothing."""
    password = room.credentials[ADA]["notebook_password"]
    leak = room.folder / "leak.txt"
    leak.write_text(f"the password is {password}, by the way")
    leak.chmod(0o644)
    try:
        assert walk() == [f"{leak}: {ADA}'s notebook_password"]
    finally:
        leak.unlink()


def test_nothing_of_the_class_is_in_an_argument_or_an_environment_that_root_can_see(room, walk):
    """Other programs of root's read them, too: backups, monitoring."""
    words = [row["notebook_password"] for row in room.credentials.values()]
    for number in filter(str.isdigit, os.listdir("/proc")):
        for file in ("cmdline", "environ"):
            try:
                content = Path("/proc", number, file).read_text(errors="replace")
            except OSError:
                continue
            assert not any(word in content for word in words), (number, re.sub(r"\0", " ", content)[:200])
