"""Every command's `--json` on a small class, held against tests/envelope.py: what was done, nothing to do, refusals.

And what a teacher asks while it runs: status, also live, logs, restart.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pexpect
import psutil
import pytest

from nblauncher.config import times
from nblauncher.server.channels import BY_TEACHER
from tests import envelope, launched
from tests.classroom import COMMAND, Classroom
from tests.homework import as_student, become, write
from tests.jupyter_client import JupyterClient
from tests.running import eventually

pytestmark = pytest.mark.system

ADA, BOB = NAMES = ["nbtfeada", "nbtfebob"]
EVE = "nbtfeeve"


class Envelopes(Classroom):
    """A class whose every answer is looked at."""

    def ask(self, form: str, *arguments: str, expect: int = 0) -> dict[str, Any]:
        """Run the command with --json. `form`: as in tests/envelope.py, where the command's word alone does not say."""
        answer = self.run(*arguments, "--json", expect=expect)
        return envelope.checked(answer.stdout, expect, form, is_dry_run="--dry-run" in arguments)

    def students(self, *arguments: str, form: str = "", expect: int = 0) -> dict[str, dict[str, Any]]:
        asked = self.ask(form or arguments[0], *arguments, expect=expect)
        return {one["username"]: one for one in asked["students"]}

    def states(self, *arguments: str) -> dict[str, str]:
        return {name: one["server"] for name, one in self.students(*arguments).items()}


@pytest.fixture(scope="module")
def room() -> Iterator[Envelopes]:
    made = Envelopes("nbtfe1", NAMES, port=18830, first_uid=27260)
    yield made
    made.close()


@pytest.fixture(scope="module")
def up(room: Envelopes) -> Envelopes:
    """After setup and launch, which answer as they should."""
    for command in ("setup", "check"):
        room.ask(command, command, *(["--dry-run"] if command == "setup" else []), expect=0)
    students = room.students("setup")
    assert all(one["uid"] and one["files"] == 1 and one["changes"] for one in students.values())
    assert {one["uid"] for one in room.students("setup").values()} == {one["uid"] for one in students.values()}
    room.ask("launch", "launch", "--background", "--dry-run")
    assert room.states("launch", "--background") == {ADA: "ready", BOB: "ready"}
    assert room.states("launch", "--background") == {ADA: "ready", BOB: "ready"}
    return room


def soon(seconds: float) -> datetime:
    return (datetime.now().astimezone() + timedelta(seconds=seconds)).replace(microsecond=0)


def written(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S")


@pytest.fixture(scope="module")
def ada(up: Envelopes) -> Iterator[JupyterClient]:
    """In her browser."""
    with launched.visitor(up, ADA) as browser:
        yield browser


ACTING = ["setup", "send", "launch", "reload", "status", "retrieve", "snapshot", "freeze", "thaw", "shutdown", "remove"]


@pytest.mark.parametrize("command", [*ACTING, "deadlines"])
def test_who_is_not_there_is_a_refusal(up, command):
    assert EVE in up.ask(command, command, "--only", EVE, expect=3)["errors"][0]


@pytest.mark.parametrize("command", [one for one in ACTING if one != "status"])
def test_a_dry_run_has_a_plan_and_no_students(up, command):
    up.ask(command, command, "--dry-run")


@pytest.mark.parametrize(
    "form, words, code",
    [
        ("history NAME", ("history", EVE), 3),
        ("history NAME FILE", ("history", ADA, "../x"), 3),
        ("restore", ("restore", ADA, "lab1.txt", "--at", "2001-01-01 00:00"), 3),
        ("extend", ("extend", ADA, "15m"), 3),
        ("retrieve --cancel", ("retrieve", "--cancel", "nothing"), 3),
        ("retrieve --at", ("retrieve", "--at", "2001-01-01 00:00"), 3),
        ("retrieve --assignment", ("retrieve", "--assignment", "nothing"), 3),
        ("verify-receipt", ("verify-receipt", "notebooks.cfg"), 3),
        ("remove", ("remove", "--claim", EVE), 3),
        ("remove", ("remove",), 4),
    ],
)
def test_a_refusal_has_its_reason_and_nothing_else(up, form, words, code):
    answer = up.ask(form, *words, expect=code)
    assert answer["errors"] and not answer["students"]


def test_material_snapshots_and_history(up):
    (up.folder / "material" / "lab2.txt").write_text("measure it again\n")
    assert {one["files"] for one in up.students("send").values()} == {1}
    assert {one["status"] for one in up.students("send").values()} == {"unchanged"}
    write(ADA, "tutorial/lab.py", "one")
    up.students("snapshot")
    write(ADA, "tutorial/lab.py", "two")
    assert up.students("snapshot")[ADA]["changed"] == 1
    up.students("snapshot")
    first, *_ = up.ask("history NAME", "history", ADA)["snapshots"]
    assert len(up.ask("history NAME FILE", "history", ADA, "lab.py")["versions"]) == 2
    up.ask("history NAME FILE", "history", ADA, "none.py")
    path = up.ask("restore", "restore", ADA, "lab.py", "--at", first["time"])["path"]
    assert (up.home(ADA) / path).read_text() == "one"


# What a teacher asks.


def test_status_says_what_each_student_does(up, ada):
    kernel = ada.start_kernel()
    ada.start_kernel()
    ada.api("PUT", "contents/tutorial/essay.txt", json={"type": "file", "format": "text", "content": "hello"})
    with ada.notebook(kernel) as notebook:
        notebook.begin("import time; time.sleep(60)")
        eventually(lambda: up.students("status")[ADA]["busy_kernels"] == 1)
        found = up.students("status")
        assert found[ADA]["kernels"] == 2 and not found[ADA]["never_signed_in"]
        now = datetime.now().astimezone()
        for key in ("last_activity", "last_save", "last_sign_in"):
            assert timedelta(0) <= now - datetime.fromisoformat(found[ADA][key]) < timedelta(seconds=60)
        assert found[BOB]["kernels"] == 0 and found[BOB]["never_signed_in"] and found[BOB]["last_save"] is None
        told = up.run("status", env={**os.environ, "COLUMNS": "60"}).stdout.splitlines()
        assert max(map(len, told)) <= 60
        assert re.fullmatch(rf"{ADA} +ready +just now +2, 1 busy +\S+ MB.*", told[1])
        assert re.fullmatch(rf"{BOB} +ready +never signed in +0 +\S+ MB.*", told[2])


@pytest.mark.timeout(120)
def test_a_hung_notebook_gets_a_new_kernel_and_its_tab_is_told(up, ada):
    before, kernel = launched.handles(up), ada.start_kernel()
    with ada.notebook(kernel) as notebook:
        notebook.run("x = 1; import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)")
        cell = notebook.begin("while True: pass")
        notebook.receive(lambda one: one["content"].get("execution_state") == "busy")
        assert "asks" not in up.run("restart", ADA, "--kernels", expect=4).stdout, "it is not asked without a terminal"
        (answer,) = up.students("restart", ADA, "--kernels", "--yes").values()
        assert answer["kernels_ended"] >= 1 and answer["status"] == "done"
        told = notebook.receive(lambda one: one["msg_type"] == "stream")
        assert told["content"]["text"].strip() == BY_TEACHER and told["parent_header"]["msg_id"] == cell
        notebook.receive(lambda one: one["content"].get("execution_state") == "restarting")
        notebook.wait_for_new_kernel()
        assert "NameError" in notebook.run("x")
    assert launched.handles(up) == before, "the server stays"


def test_one_student_gets_a_new_server_and_the_other_notices_nothing(up, ada):
    before = launched.handles(up)
    plan = up.ask("restart", "restart", ADA, "--dry-run")
    assert plan["plan"] == ["stop 1 server", "start 1 server"]
    assert any(f"{ADA} has " in note for note in plan["notes"]) and "variables" in plan["notes"][-1]
    answer = up.students("restart", ADA, "--yes")[ADA]
    assert (answer["server"], answer["status"], answer["kernels_ended"]) == ("ready", "done", None)
    after = launched.handles(up)
    assert after[ADA] != before[ADA] and after[BOB] == before[BOB]
    assert ada.http.get("api/status").status_code == 200, "her session goes on"
    said = up.students("status")[ADA]
    assert said["last_sign_in"] and said["last_save"], "what she did before is not forgotten"
    for wrong in (EVE, "../x"):
        assert wrong in up.ask("restart", "restart", wrong, "--yes", expect=3)["errors"][0]
    up.run("restart", expect=2)


def test_logs_are_followed_and_escape_sequences_do_not_arrive(up):
    assert "front page" in up.run("logs", "-n", "200").stdout
    process = up.start("logs", ADA, "-f", "-n", "3")
    assert process.stdout is not None
    os.write(_output_of(launched.handles(up)[ADA].pid), b"\x1b[2J\x1b]0;evil\x07 done\n")
    seen = ""
    while "done" not in seen:
        seen += (line := process.stdout.readline())
        assert line.rstrip("\n").isprintable()
    assert "\\x1b[2J\\x1b]0;evil\\x07 done" in seen
    process.send_signal(signal.SIGINT)
    assert (process.wait(20), process.communicate()[1]) == (0, "")


def _output_of(pid: int) -> int:
    """The pipe to which a server writes, as any program that it starts may."""
    return os.open(f"/proc/{pid}/fd/1", os.O_WRONLY)


@pytest.mark.parametrize("end", ["q", signal.SIGINT, signal.SIGTERM])
def test_the_live_table_ends_and_leaves_the_terminal_as_it_was(up, end):
    watching = pexpect.spawn(
        "/bin/sh",
        ["-c", 'trap : INT; stty -a; "$@"; echo over=$?; stty -a', "sh", *COMMAND, "status", "--watch"],
        cwd=str(up.folder),
        env={**os.environ, "TERM": "xterm"},
        dimensions=(24, 60),
        timeout=60,
    )
    watching.expect("q quit")
    watching.send("m")
    watching.expect("sorted by memory")
    watching.expect(ADA)
    if isinstance(end, str):
        watching.send(end)
    elif end is signal.SIGINT:
        watching.sendintr()
    else:
        (child,) = psutil.Process(watching.pid).children()
        child.terminate()
    watching.expect("over=0")
    screen = watching.before.decode()
    assert "\x1b[?1049l" in screen and "\x1b[?25h" in screen
    watching.expect(pexpect.EOF)
    assert " icanon" in watching.before.decode() and " echo " in watching.before.decode()


def test_the_live_table_needs_a_terminal(up):
    refused = up.run("status", "--watch", expect=4)
    assert "--watch needs a terminal" in refused.stderr and "\x1b" not in refused.stdout
    up.run("status", "--watch", "--json", expect=2)


def test_without_root_the_answer_is_to_use_sudo(up):
    for words in (("status",), ("logs", ADA), ("restart", ADA)):
        command = [*become(ADA), *COMMAND, "-c", str(up.folder / "notebooks.cfg"), *words]
        said = subprocess.run(command, check=False, capture_output=True, text=True)
        assert "sudo nblauncher" in said.stderr and "Traceback" not in said.stderr and said.returncode == 4


def test_retrieving(up):
    write(ADA, "tutorial/ps1/lab.py", "one")
    write(BOB, "tutorial/ps1/large.bin", "x" * 2_000_000)
    up.write(retrieve={"target": "retrieved", "max_file": "1 MB"})
    assert up.students("retrieve", expect=5)[BOB]["exceptions"]
    up.write(retrieve={"target": "retrieved"})
    up.students("retrieve", "--all")
    up.students("retrieve")
    assert {one["status"] for one in up.students("retrieve").values()} == {"unchanged"}
    words = ("retrieve", "--assignment", "ps1")
    assert all(one["handed_in"] for one in up.students(*words, form="retrieve --assignment").values())
    away = up.home(BOB).with_name("nbtfe-away")
    up.home(BOB).rename(away)
    try:
        assert up.students("retrieve", expect=5)[BOB]["changed"] is None
        assert up.students(*words, form="retrieve --assignment", expect=5)[BOB]["handed_in"] is None
        up.students("retrieve", "--only", BOB, expect=1)
    finally:
        away.rename(up.home(BOB))


def test_who_is_frozen_is_shown_as_frozen(up):
    assert {one["status"] for one in up.students("freeze", "--only", ADA).values()} == {"done"}
    up.students("freeze", "--only", ADA)
    assert up.states("status") == {ADA: "frozen", BOB: "ready"}
    assert "until `nblauncher thaw`" in up.students("status")[ADA]["reason"]
    assert up.states("launch", "--background") == {ADA: "frozen", BOB: "ready"}
    told = up.run("status").stdout
    assert "1 frozen, 1 ready" in told and f"{ADA}  frozen" in told
    up.students("thaw")
    up.students("thaw")
    assert up.states("status") == {ADA: "ready", BOB: "ready"}


def test_a_capture_names_those_who_have_more_time(up):
    (up.folder / "students.csv").write_text(f"username,extra_time\n{ADA},\n{BOB},10m\n")
    up.students("reload")
    at = soon(600)
    words = ("retrieve", "--at", written(at))
    assert any(BOB in line for line in up.ask("retrieve --at", *words, "--dry-run")["plan"])
    said = up.ask("retrieve --at", *words)
    (later,) = said["later"]
    assert (later["username"], datetime.fromisoformat(later["at"])) == (BOB, at + timedelta(minutes=10))
    assert {one["deadlines"][0]["extra_seconds"] for one in up.students("deadlines").values()} == {0, 600}
    assert datetime.fromisoformat(up.ask("extend", "extend", ADA, "5m")["at"]) == at + timedelta(minutes=5)
    assert up.ask("retrieve --cancel", "retrieve", "--cancel", said["deadline"])["deadline"] == said["deadline"]
    told = up.run(*words).stdout
    assert f"Later, because of extra time, at {times.words(at + timedelta(minutes=10))}: {BOB}." in told
    up.ask("retrieve --cancel", "retrieve", "--cancel", said["deadline"])


def test_a_class_that_was_shut_down(up):
    (up.folder / "students.csv").write_text(f"username,extra_time\n{ADA},\n{BOB},10m\n{EVE},\n")
    assert up.students("reload")[EVE]["files"] > 0
    up.students("shutdown", "--only", ADA)
    assert up.students("shutdown", "--only", ADA)[ADA]["server"] == "stopped"
    up.students("shutdown")
    assert {one["server"] for one in up.students("shutdown").values()} == {"stopped"}
    assert up.ask("reload", "reload", expect=4)["errors"]
    up.students("status")


def waiting(room: Envelopes, at: datetime) -> subprocess.Popen[str]:
    """`retrieve --at --json` of a class that does not run."""
    room.run("shutdown")
    process = room.start("retrieve", "--at", written(at), "--json")
    assert process.stderr is not None
    while "waiting here" not in process.stderr.readline():
        assert process.poll() is None
    return process


def test_an_interruption_has_its_answer(up):
    process = waiting(up, soon(600))
    process.send_signal(signal.SIGINT)
    out, _err = process.communicate(timeout=60)
    assert envelope.checked(out, process.returncode, "retrieve --at")["exit_code"] == 130


def test_a_course_that_is_busy_is_a_refusal(up):
    with (up.paths.state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (up.folder / "material" / "lab3.txt").write_text("and again\n")
        up.ask("send", "send", expect=6)


def test_a_waiting_capture_that_comes_late_says_so_in_its_json_as_well(up):
    (up.folder / "students.csv").write_text(f"username\n{ADA}\n{BOB}\n{EVE}\n")
    up.students("setup")
    at = soon(8)
    process = waiting(up, at)
    process.send_signal(signal.SIGSTOP)
    assert datetime.now().astimezone() < at, "too slow to stop it before the capture"
    eventually(lambda: datetime.now().astimezone() > at + timedelta(seconds=11))
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=120)
    said = envelope.checked(out, process.returncode, "retrieve --at")
    assert (process.returncode, said["status"], len(said["errors"])) == (5, "partial", 3), out + err
    assert {one["late"] for one in said["students"]} == {True}
    (receipt, *_) = sorted((up.home(ADA) / "receipts").glob("*.json"))
    about = up.ask("verify-receipt", "verify-receipt", str(receipt))["receipt"]
    assert about["username"] == ADA
    assert json.loads(receipt.read_text())["files"] == about["files"]
    assert {one["deadlines"][0]["state"] for one in up.students("status").values()} == {"late"}


def test_an_incomplete_student_is_kept_and_the_others_are_removed(up):
    as_student(BOB, "sh", "-c", "echo x > secret; truncate -s 1G hole")
    answer = up.students("remove", "--yes", "--only", f"{ADA},{EVE}")
    assert all(one["deleted"] for one in answer.values())
    up.students("remove", "--yes", expect=5)
    up.students("remove", "--yes", "--despite-incomplete", BOB)
    up.write([])
    up.ask("check", "check", expect=1)
