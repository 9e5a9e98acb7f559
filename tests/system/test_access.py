"""passwd, lock, unlock and check --logins in a class that runs: who is out, who notices nothing, what a kill leaves."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import websocket

from tests import envelope, launched
from tests.classroom import COMMAND, Classroom, set_up_class
from tests.jupyter_client import JupyterClient

pytestmark = pytest.mark.system

ADA, BOB, EVE = "nbtqada", "nbtqbob", "nbtqeve"
PORT = 20350
OLD = "being changed; until then: "


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    with set_up_class("nbtq", [ADA, BOB, EVE], port=PORT, first_uid=27310) as made:
        made.run("launch", "--background")
        yield made


def password(room: Classroom, name: str) -> str:
    return room.credentials[name]["notebook_password"]


def is_out(browser: JupyterClient) -> bool:
    return browser.http.get("api/contents").status_code == 403


def is_cut_off(connection: websocket.WebSocket) -> bool:
    """Whether the server closes it, after what was on its way."""
    connection.settimeout(10)
    try:
        while connection.recv():
            pass
    except (websocket.WebSocketConnectionClosedException, ConnectionError):
        return True
    return not connection.connected


def fetch(browser: JupyterClient, fields: dict[str, str]) -> httpx.Response:
    fields = dict(fields)
    return browser.http.post(fields.pop("target"), data=fields)


def test_a_new_password_ends_every_sign_in_at_once_and_keeps_the_kernel(room):
    before = launched.handles(room)
    old = password(room, ADA)
    with launched.visitor(room, ADA, keep="1") as ada, launched.own_server(room, ADA) as thief:
        kernel = ada.start_kernel()
        ada.run("answer = 42", kernel)
        thief.http.cookies = ada.http.cookies
        terminal = ada.api("POST", "terminals").json()["name"]
        ticket = launched.open_front_page(room, launched.own_server(room, ADA), ADA)
        channels = ada.connect(f"api/kernels/{kernel}/channels?session_id=1")
        shell = ada.connect(f"terminals/websocket/{terminal}")
        assert not is_out(thief)

        said = room.json("passwd", ADA)

        assert is_out(ada) and is_out(thief)
        assert is_cut_off(channels) and is_cut_off(shell)
        with pytest.raises(websocket.WebSocketBadStatusException):
            thief.connect(f"api/kernels/{kernel}/channels?session_id=2")
        assert fetch(ada, ticket).status_code == 403
        assert thief.sign_in(old).status_code == 401
    assert said["students"][0]["server"] == "kept"
    assert launched.handles(room) == before
    new = password(room, ADA)
    assert new != old and OLD not in new and new not in str(said)
    with launched.visitor(room, ADA) as ada:
        assert ada.run("print(answer)", kernel) == "42\n"


def test_the_other_students_notice_nothing(room):
    front = launched.front_page(room)
    with launched.visitor(room, BOB) as bob, launched.visitor(room, EVE) as eve:
        kernel = bob.start_kernel()
        with bob.notebook(kernel) as tab:
            arriving = launched.open_front_page(room, launched.own_server(room, EVE), EVE)
            running = tab.begin("import time; time.sleep(3); print('done')")
            room.run("passwd", ADA)
            assert tab.finish(running) == "done\n"
        assert not is_out(bob)
        assert fetch(eve, arriving).status_code == 303
    assert launched.front_page(room).handle == front.handle


def test_the_new_password_is_shown_on_a_terminal_only(room):
    piped = room.run("passwd", BOB)
    assert password(room, BOB) not in piped.stdout + piped.stderr
    shown = subprocess.run(
        ["script", "-qec", shlex.join([*COMMAND, "passwd", BOB]), "/dev/null"],
        cwd=room.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert password(room, BOB) in shown.stdout


def test_a_cookie_is_refused_also_when_the_server_was_down_meanwhile(room):
    with launched.visitor(room, EVE) as eve:
        room.run("shutdown", "--only", EVE)
        room.run("passwd", EVE)
        room.run("launch", "--background", "--only", EVE)
        assert is_out(eve)


@pytest.mark.parametrize("pause", [0.05, *(pytest.param(pause, marks=pytest.mark.slow) for pause in (0.0, 0.2, 0.5))])
def test_after_a_kill_the_file_has_the_password_that_works_and_running_again_repairs(room, pause):
    before = password(room, BOB)
    process = room.start("passwd", BOB)
    while password(room, BOB) == before:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    time.sleep(pause)
    process.kill()
    process.communicate()
    known = re.findall(r"[a-z2-9]{4}(?:-[a-z2-9]{4}){3}", password(room, BOB))
    assert before in known or len(known) == 1
    assert any(signs_in(room, BOB, one) for one in known)

    room.run("passwd", BOB)

    (now,) = re.findall(r"[a-z2-9]{4}(?:-[a-z2-9]{4}){3}", password(room, BOB))
    assert now == password(room, BOB)
    assert signs_in(room, BOB, now) and not any(signs_in(room, BOB, one) for one in known)


def signs_in(room: Classroom, name: str, typed: str) -> bool:
    with launched.own_server(room, name) as browser:
        front = browser.origin.rpartition(":")[0] + f":{PORT}/"
        return browser.http.post(front, data={"username": name, "password": typed}).status_code == 200


def test_a_locked_student_is_out_whatever_runs_next_and_gets_everything_back(room):
    known = room.credentials[ADA]
    with launched.visitor(room, ADA) as ada:
        said = room.json("lock", ADA)
        assert [(one["locked"], one["server"]) for one in said["students"]] == [(True, "stopped")]
        assert not launched.answers(ada)
    for command in (["reload"], ["launch", "--background"], ["setup"], ["lock", ADA]):
        assert "nothing to do" in room.run(*command).stdout.lower()
    assert not signs_in(room, ADA, known["notebook_password"])
    assert launched.states(room)[ADA] == "stopped"
    assert "locked since" in launched.students(room.json("status"))[ADA]["reason"]
    assert shadow(ADA)[1].startswith("!") and shadow(ADA)[7] == "1"
    assert launched.students(room.json("retrieve", "--all", "--only", ADA))[ADA]["files"] > 0

    room.run("unlock", ADA)

    assert room.credentials[ADA] == known
    assert not shadow(ADA)[1].startswith("!") and not shadow(ADA)[7]
    with launched.visitor(room, ADA) as ada:
        assert ada.run("print(1)") == "1\n"


def test_a_lock_ends_what_the_student_runs_elsewhere_and_stays_over_a_new_system_password(room):
    uid = room.home(EVE).stat().st_uid
    session = subprocess.Popen(["sleep", "300"], user=uid, group=uid, extra_groups=[], cwd="/")
    try:
        room.run("lock", EVE)
        assert session.wait(10) != 0
        room.run("passwd", "--system", EVE)
        assert shadow(EVE)[1].startswith("!")
    finally:
        session.kill()
        session.wait()
    room.run("unlock", EVE)


def shadow(name: str) -> list[str]:
    found = subprocess.run(["getent", "shadow", name], capture_output=True, text=True, check=True)
    return found.stdout.rstrip("\n").split(":")


def logins(room: Classroom, *only: str) -> dict[str, dict[str, tuple[str, str]]]:
    """What `check --logins` says: by student and way in, the state and the reason."""
    words = ["check", "--logins", "--json", *(["--only", ",".join(only)] if only else [])]
    done = room.run(*words, expect=None)
    said = envelope.checked(done.stdout, done.returncode, "check --logins")
    ways = ("system", "notebook")
    return {one["username"]: {way: (one[way]["state"], one[way]["reason"]) for way in ways} for one in said["logins"]}


def test_every_student_is_signed_in_for_real_and_no_password_is_in_an_argument(room):
    secrets = {one[key] for one in room.credentials.values() for key in ("notebook_password", "system_password")}
    before = launched.students(room.json("status"))[EVE]["last_sign_in"]
    process = room.start("check", "--logins")
    seen: set[str] = set()
    while process.poll() is None:
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                seen.update([*one.cmdline(), *one.environ().values()])
    assert "su: 3 of 3 students" in (process.communicate()[0]) and process.returncode == 0
    assert launched.students(room.json("status"))[EVE]["last_sign_in"] == before
    assert any(Path(word).name == "su" for word in seen)
    assert not [word for word in seen if any(secret in word for secret in secrets)]
    for log in room.paths.logs.iterdir():
        assert not any(secret in log.read_text(errors="replace") for secret in secrets)


def test_who_could_not_get_in_is_named_with_the_reason(room):
    subprocess.run(["chpasswd"], input=f"{ADA}:their own choice\n", text=True, check=True)
    profile = room.home(BOB) / ".bash_profile"
    profile.write_text("echo not today; exit 4\n")
    room.run("shutdown", "--only", EVE)
    room.run("lock", EVE)
    guesses = (room.paths.logs / "_front-page.log").read_text().count("wrong guesses")
    found = logins(room)
    assert found[ADA]["system"] == ("not tried", "the student changed the password")
    assert found[BOB]["system"] == ("failed", "the password is right, and the login ended with status 4: not today")
    assert found[EVE] == {"system": ("not tried", "locked"), "notebook": ("not tried", "locked")}
    assert found[ADA]["notebook"] == found[BOB]["notebook"] == ("ok", "")
    assert (room.paths.logs / "_front-page.log").read_text().count("wrong guesses") == guesses
    profile.unlink()
    room.run("passwd", "--system", ADA)
    room.run("unlock", EVE)
    assert logins(room, ADA)[ADA]["system"] == ("ok", "")


def test_what_is_typed_before_the_shell_reads_is_typed_again(room):
    profile = room.home(BOB) / ".bash_profile"
    profile.write_text("sleep 1; python3 -c 'import termios; termios.tcflush(0, termios.TCIFLUSH)'\n")
    assert logins(room, BOB)[BOB]["system"] == ("ok", "")
    profile.unlink()


@pytest.mark.slow
def test_a_login_that_never_ends_is_bounded_and_leaves_nothing_behind(room):
    profile = room.home(BOB) / ".bash_profile"
    profile.write_text("yes nothing new\n")
    assert "there is no shell within" in logins(room, BOB)[BOB]["system"][1]
    profile.unlink()
    uid = room.home(BOB).stat().st_uid
    assert not [one for one in launched.processes_of(uid) if one.name() in ("yes", "bash")]


def test_status_says_what_roster_and_class_disagree_about(room):
    (room.folder / "students.csv").write_text(
        f"username,name,seat\n{ADA},Student {ADA},4\n{BOB},Student {BOB},\nnew,,\n"
    )
    done = room.run("status", "--json")
    said = envelope.checked(done.stdout, 0, "status")["roster"]
    assert said == {"not_set_up": ["new"], "not_in_roster": [EVE], "changed": {ADA: ["seat"]}, "problem": ""}
    shown = room.run("status").stdout
    assert (
        f"new is not set up: `nblauncher reload`; {EVE} is not in the roster: `nblauncher remove --only {EVE}`" in shown
    )
    (room.folder / "students.csv").write_text("username\nada;lovelace\n")
    assert "students.csv line 2" in room.run("status").stdout
    room.write()
    assert not room.json("status")["roster"]["not_in_roster"]


@pytest.mark.slow
def test_an_account_of_two_courses_is_locked_when_both_have_locked_the_student_out(room):
    with set_up_class("nbtr", [EVE], port=PORT + 40, first_uid=27360) as other:
        other.names = []  # the account is the first course's
        first = room.run("lock", EVE)
        assert f"{EVE} is also in nbtr: su, ssh and that class stay open" in first.stderr
        assert not shadow(EVE)[1].startswith("!")
        other.run("lock", EVE)
        assert shadow(EVE)[1].startswith("!")
        room.run("unlock", EVE)
        assert not shadow(EVE)[1].startswith("!")
        notes = room.run("passwd", "--notebook", "--system", EVE).stderr
        assert "there the notebook password stays as it is" in notes and "the system password is the same" in notes
        other.run("remove", "--yes")
