"""A class that moves: exported, removed, and imported again as on another host; and exports that others made."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import envelope, launched
from tests.homework import as_student, write
from tests.running import eventually
from tests.taught import ADA, BOB, TEACHER, Taught, taught_class

pytestmark = pytest.mark.system

HOSTILE = "<b\x1b[31m\n=1+1; $(id) \udcff"


@pytest.fixture
def room() -> Iterator[Taught]:
    with taught_class() as made:
        yield made


def home() -> Path:
    return Path(pwd.getpwnam(TEACHER).pw_dir)


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.is_symlink()
    }


def assert_the_teachers_alone(folder: Path, uid: int) -> None:
    for one in (folder, *folder.rglob("*")):
        status = one.lstat()
        assert status.st_uid == uid, one
        assert stat.S_ISLNK(status.st_mode) or not status.st_mode & 0o077, one


def exported(room: Taught, *words: str, expect: int = 0) -> dict[str, Any]:
    answer = room.sudo("export", *words, "--json", expect=expect)
    return envelope.checked(answer.stdout, expect, "export", is_dry_run="--dry-run" in words)


def imported(room: Taught, *words: str, expect: int = 0) -> dict[str, Any]:
    answer = room.sudo("import", *words, "--json", expect=expect)
    return envelope.checked(answer.stdout, expect, "import", is_dry_run="--dry-run" in words)


def new_folder() -> Path:
    """The teacher's, where the new host has its courses."""
    folder = Path(tempfile.mkdtemp(prefix="nbtm4-", dir="/opt"))
    os.chown(folder, pwd.getpwnam(TEACHER).pw_uid, pwd.getpwnam(TEACHER).pw_gid)
    return folder


def move_to(room: Taught, folder: Path) -> None:
    """From now on the class is the one in that folder; the old one is gone."""
    shutil.rmtree(room.folder)
    room.folder = folder


def ports(answer: dict[str, Any]) -> dict[str, int]:
    return {one["username"]: one["port"] for one in answer["students"]}


def test_a_class_goes_on_on_another_host_with_the_same_passwords(room: Taught) -> None:
    """A deadline is past and captured, bob has extra time, ada's work was retrieved, and nothing of it is lost."""
    room.teach("ps1/lab.txt", "measure\n")
    (room.folder / "students.csv").write_text(
        f"username,name,email,section\n{ADA},<b>Ada</b>,ada@uni.example,Monday\n{BOB},Bob,,Monday\n"
    )
    room.config["owner"] = TEACHER
    (room.folder / "notebooks.cfg").write_text(json.dumps(room.config))
    room.hand_over()
    room.sudo("setup")
    room.sudo("send")
    write(ADA, "tutorial/ps1/lab.txt", "9.81\n")
    as_student(ADA, "cp", "tutorial/ps1/lab.txt", os.fsencode(f"tutorial/{HOSTILE}"))
    past = (datetime.now().astimezone() + timedelta(seconds=1)).replace(microsecond=0)
    room.config["deadlines"] = {"ps1": past.strftime("%Y-%m-%d %H:%M:%S")}
    (room.folder / "notebooks.cfg").write_text("# kim's own comment\n" + json.dumps(room.config))
    room.hand_over()
    room.sudo("setup")
    eventually(lambda: datetime.now().astimezone() > past)
    room.sudo("retrieve", "--unattended", room.course)
    room.sudo("extend", BOB, "30m", "--deadline", "ps1")
    room.sudo("retrieve")
    receipt = next((room.home(ADA) / "receipts").glob("*.json")).read_bytes()
    old = {name: row["notebook_password"] for name, row in room.credentials.items()}
    before, folder = {one: room.json(one) for one in ("status", "deadlines")}, room.folder
    state = files_below(room.paths.state)

    export = home() / "moved"
    answer = exported(room, str(export))
    assert answer["folder"] == str(export) and answer["left_out"] == []
    assert_the_teachers_alone(export, room.uid)
    assert {name: data for name, data in files_below(room.paths.state).items() if name != "export.lock"} == state
    assert (export / "notebooks.cfg").read_text().startswith("# kim's own comment\n")
    assert not (export / "credentials.csv").exists()
    everything = b"".join(files_below(export).values())
    assert not [word for word in old.values() if word.encode() in everything]
    for first, other in zip(
        sorted((folder / "retrieved").glob("2*")), sorted((export / "retrieved").glob("2*")), strict=True
    ):
        assert files_below(first) == files_below(other)

    room.sudo("remove", "--yes")
    move_to(room, new_folder())
    assert imported(room, str(export), "--dry-run")["plan"]
    assert not list(room.folder.iterdir()) and not room.paths.state.exists()
    answer = imported(room, str(export))
    assert {one["username"]: one["keeps_password"] for one in answer["students"]} == {ADA: True, BOB: True}
    assert_the_teachers_alone(room.folder, room.uid)
    assert imported(room, str(export))["students"][0]["status"] == "unchanged"
    assert not [word for word in old.values() if word.encode() in b"".join(files_below(room.paths.state).values())]

    room.sudo("setup")
    assert "nothing to do" in room.sudo("setup").stdout
    name = f"tutorial/{HOSTILE}"
    back = json.loads(room.sudo("send", "--last-retrieved", "--json", expect=5).stdout)["students"]
    assert (room.home(ADA) / "tutorial/ps1/lab.txt").read_text() == "9.81\n"
    assert (room.home(ADA) / "tutorial/ps1/lab.txt").stat().st_uid == pwd.getpwnam(ADA).pw_uid
    assert [one["incomplete"] for one in back[0]["exceptions"]] == [True] and not (room.home(ADA) / name).exists()
    assert "nothing to do" in room.sudo("send", "--last-retrieved").stdout
    assert "nothing to do" in room.sudo("send").stdout
    room.sudo("launch", "--background")
    for name in room.names:
        with launched.visitor(room, name, old[name]) as browser:
            assert browser.http.get("api/contents").status_code == 200
    assert room.credentials[ADA]["notebook_password"] == "(as before)"
    assert room.credentials[ADA]["system_password"] not in ("", "(as before)")
    assert ports(room.json("status")) == ports(before["status"])
    after = room.json("deadlines")
    assert (after["deadlines"], after["students"]) == (
        before["deadlines"]["deadlines"],
        before["deadlines"]["students"],
    )
    assert after["deadlines"][0]["captured"] == 1
    (room.folder / "receipt.json").write_bytes(receipt)
    assert "with this manifest" in room.sudo("verify-receipt", "receipt.json").stdout
    write(ADA, "tutorial/ps1/lab.txt", "9.82\n")
    assert str(room.folder / "retrieved") in room.sudo("retrieve").stdout
    assert (room.latest / ADA / "work/ps1/lab.txt").read_text() == "9.82\n"
    assert len(list((room.folder / "retrieved").glob("2*"))) == 3


@pytest.fixture(scope="module")
def export() -> Iterator[tuple[Taught, Path]]:
    """An export of a class that its host does not have any more."""
    with taught_class() as made:
        made.sudo("setup")
        write(ADA, "tutorial/lab1.txt", "9.81\n")
        made.sudo("retrieve")
        exported(made, str(home() / "good"))
        made.sudo("remove", "--yes")
        yield made, home() / "good"


@pytest.fixture
def arriving(export: tuple[Taught, Path], tmp_path: Path) -> Iterator[tuple[Taught, Path]]:
    """A copy of it, and a class in a new folder; afterwards nothing of either is left on the host."""
    room, good = export
    copy, old, into = home() / "copy", room.folder, new_folder()
    subprocess.run(["cp", "-a", str(good), str(copy)], check=True)
    room.folder = into
    yield room, copy
    room.sudo("remove", "--yes", expect=None)
    assert not room.paths.state.exists()
    room.folder = old
    for folder in (copy, into):
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=True)


def rewritten(export: Path, name: str, data: bytes) -> None:
    """Another content, with the checksum that fits."""
    (export / name).write_bytes(data)
    about = json.loads((export / "manifest.json").read_text())
    for row in about["files"]:
        if row["path"] == name:
            row.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    (export / "manifest.json").write_text(json.dumps(about))


def refused(room: Taught, export: Path, words: str, expect: int, *more: str) -> None:
    """The import says so and has changed nothing."""
    into = sorted(room.folder.iterdir())
    answer = room.sudo("import", str(export), *more, expect=expect)
    assert words in answer.stderr and "Traceback" not in answer.stderr, answer.stderr
    assert answer.stderr.isprintable() or "\x1b" not in answer.stderr
    assert not room.paths.state.exists() and sorted(room.folder.iterdir()) == into


def with_config(export: Path, old: str, new: str) -> None:
    text = (export / "notebooks.cfg").read_text()
    assert old in text
    rewritten(export, "notebooks.cfg", text.replace(old, new).encode())


HOSTILE_EXPORTS: dict[str, tuple[Any, str, int]] = {
    "a link": (lambda it: ((it / "students.csv").unlink(), (it / "students.csv").symlink_to("/etc/passwd")), "link", 4),
    "a stranger's": (lambda it: (it.chmod(0o755), os.chown(it, 65534, 65534)), "belongs to uid 65534", 4),
    "a checksum": (lambda it: (it / "material/lab1.txt").write_text("x"), "checksum", 3),
    "one more": (lambda it: (it / "retrieved/\x1b[31m<b>").write_text("x"), "does not list", 3),
    "newer": (
        lambda it: (it / "manifest.json").write_text(json.dumps({"nblauncher_export": 2})),
        "version 2, and this nblauncher reads version 1",
        4,
    ),
    "a folder of the host": (
        lambda it: with_config(it, "source: material", "source: /etc/ssh"),
        "names places outside of it: material.source",
        4,
    ),
    "another course": (lambda it: with_config(it, "course: nbtm4", "course: nbtm5"), "and its config of", 3),
    "a bad config": (lambda it: with_config(it, "target: tutorial", "target: ../.."), "material.target", 3),
    "a costly hash": (
        lambda it: rewritten(
            it,
            "hashes.json",
            json.dumps({ADA: "argon2:$argon2id$v=19$m=999999,t=9,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA"}).encode(),
        ),
        "a hash that nblauncher did not make",
        3,
    ),
    "a bad record": (lambda it: rewritten(it, "records.json", b'{"front_port": 1e99}'), "records.json", 3),
    "a bad roster": (lambda it: rewritten(it, "students.csv", b"username\n../ada\n"), "students.csv line 2", 3),
    "a name of the host": (
        lambda it: rewritten(it, "students.csv", b"username\nnobody\n"),
        '"nobody" is an existing',
        3,
    ),
    "no export": (lambda it: (it / "manifest.json").unlink(), "has no manifest.json", 3),
}


@pytest.mark.parametrize("what", HOSTILE_EXPORTS)
def test_an_export_that_somebody_changed_is_refused_and_nothing_is_changed(
    arriving: tuple[Taught, Path], what: str
) -> None:
    room, copy = arriving
    change, words, expect = HOSTILE_EXPORTS[what]
    change(copy)
    refused(room, copy, words, expect)


def test_what_the_new_host_has_already_is_left_alone(arriving: tuple[Taught, Path]) -> None:
    """Another's port and folder; the course itself; and after `remove` there is room again."""
    room, copy = arriving
    with socket.create_server(("", room.port)):
        refused(room, copy, f"port {room.port} is taken by another program", 4)
    (room.folder / "notes.txt").write_text("mine")
    refused(room, copy, "is not empty", 3)
    (room.folder / "notes.txt").unlink()
    answer = imported(room, str(copy), "--port", str(room.port + 500))
    assert answer["students"][0]["keeps_password"]
    assert room.sudo("import", str(copy), "--port", str(room.port + 500)).stdout == "import: nothing to do.\n"
    other = new_folder()
    try:
        words = f"is on this host already from this export, into {room.folder}"
        assert words in room.sudo("import", str(copy), str(other), expect=4).stderr
        assert not list(other.iterdir())
    finally:
        other.rmdir()
    room.sudo("setup")
    ports = {one["username"]: one["port"] for one in room.json("status")["students"]}
    assert ports == {ADA: room.port + 501, BOB: room.port + 502}
    room.sudo("remove", "--yes")
    assert not room.paths.state.exists()


def test_work_that_comes_back_overwrites_nothing_and_leads_nowhere(arriving: tuple[Taught, Path]) -> None:
    """ada edited the new file already; a student's link in the place of the file is not followed, and is told."""
    room, copy = arriving
    imported(room, str(copy))
    room.sudo("setup")
    file = room.home(ADA) / "tutorial/lab1.txt"
    fresh = file.read_text()
    as_student(ADA, "ln", "-sf", "/etc/passwd", "tutorial/lab1.txt")
    answer = room.sudo_json("send", "--last-retrieved", expect=5)
    assert answer[ADA]["changes"][0]["change"] == "blocked" and file.is_symlink()
    as_student(ADA, "rm", "tutorial/lab1.txt")
    write(ADA, "tutorial/lab1.txt", f"{fresh}new\n")
    answer = room.sudo_json("send", "--last-retrieved")
    assert answer[ADA]["changes"][0]["change"] == "conflict"
    assert file.read_text() == f"{fresh}new\n"
    (beside,) = (one for one in file.parent.iterdir() if one.name.startswith("lab1 ("))
    assert beside.read_text() == "9.81\n" and beside.stat().st_uid == pwd.getpwnam(ADA).pw_uid
    assert "nothing to do" in room.sudo("send", "--last-retrieved").stdout
    room.sudo("remove", "--yes")


def test_a_full_disk_or_a_kill_in_between_is_made_up_for_by_the_next_run(arriving: tuple[Taught, Path]) -> None:
    room, copy = arriving
    rewritten(copy, "material/lab1.txt", b"x" * 3_000_000)
    room.folder.chmod(0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(room.folder)], check=True)
    try:
        os.chown(room.folder, room.uid, room.uid)
        assert "disk full" in room.sudo("import", str(copy), expect=1).stderr
        assert not (room.folder / "notebooks.cfg").exists() and not (room.folder / "material").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", str(room.folder)], check=True)
        for delay in (0.3, 0.6, 0.9):
            process = room.start("import", str(copy), env={**os.environ, "SUDO_UID": str(room.uid)})
            time.sleep(delay)
            process.kill()
            process.communicate()
        imported(room, str(copy))
        names = {"notebooks.cfg", "students.csv", "material", "retrieved"}
        assert {one.name for one in room.folder.iterdir()} == names
        assert (room.folder / "material/lab1.txt").stat().st_size == 3_000_000
        room.sudo("setup")
        into = room.folder / "full"
        subprocess.run(["mount", "-o", "remount,size=4m", str(room.folder)], check=True)
        assert "disk full" in room.sudo("export", str(into), expect=1).stderr
        assert not [one for one in room.folder.iterdir() if "full" in one.name]
        subprocess.run(["mount", "-o", "remount,size=64m", str(room.folder)], check=True)
        for delay in (0.3, 0.6, 0.9):
            target = home() / "stopped"
            process = room.start("export", str(target), env={**os.environ, "SUDO_UID": str(room.uid)})
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            process.communicate()
            assert not list(home().glob(".stopped*"))
            assert not target.exists() or (target / "manifest.json").exists()
            subprocess.run(["rm", "-rf", str(target)], check=True)
        room.sudo("remove", "--yes")
    finally:
        subprocess.run(["umount", "-l", str(room.folder)], check=True)
