"""`check --security`: what one student tries against another, on a real class, with both front ends."""

from __future__ import annotations

import os
import pwd
import shutil
import time
from collections.abc import Iterator

import pytest

from nblauncher.paths import CoursePaths
from nblauncher.preflight import trial, trial_pair
from tests.classroom import Classroom
from tests.packages import alone
from tests.running import eventually

# A trial takes a minute, and builds a package.
pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.group("builder")]

ADA = "nbtoada"
PORT = 18690
FIRST_UID = 26500
NGINX = pytest.mark.skipif(shutil.which("nginx", path="/usr/sbin:/usr/bin") is None, reason="NO NGINX")


@pytest.fixture(autouse=True)
def no_other_build() -> Iterator[None]:
    with alone():
        yield


@pytest.fixture(scope="module", params=["direct", pytest.param("nginx", marks=NGINX)])
def room(request) -> Iterator[Classroom]:
    made = Classroom("nbto-trial", [ADA], port=PORT, first_uid=FIRST_UID)
    try:
        made.write(web={"port": PORT, "frontend": request.param, "names": ["localhost"]})
        made.run("setup")
        made.run("launch", "--background")
        yield made
    finally:
        made.close()


def test_nothing_succeeds_but_what_the_docs_admit(room):
    before = room.json("status")["students"], room.credentials
    said = room.json("check", "--security")
    findings = said["findings"]
    assert len(findings) > 35 and all(one["level"] != "problem" for one in findings), findings
    lacking = {one["message"] for one in findings if one["level"] == "warning" and one["subject"] != "from a login"}
    if room.config["web"]["frontend"] == "nginx":
        assert lacking == set()
    else:
        assert {one.split(": ")[1] for one in lacking} == set(trial._ADMITTED)
    held = [one["message"] for one in findings if one["subject"] == "from a notebook" and one["level"] == "ok"]
    assert any("see the processes" in one for one in held) and any("stolen ticket" in one for one in held)
    everything = [one["message"] for one in findings if one["level"] == "ok"]
    tried = ("write while frozen", "out of the history", "many clients by loopback addresses", "stay on the host")
    for attack in tried:
        assert any(attack in one for one in everything), attack
    assert any("attach to the other's debugger" in one for one in held)
    # Nothing is left of it, and the class noticed nothing.
    for name in (trial_pair.ATTACKER, trial_pair.VICTIM):
        with pytest.raises(KeyError):
            pwd.getpwnam(name)
    assert not any(
        os.path.lexists(path) for path in (CoursePaths(trial_pair.COURSE).run, CoursePaths(trial_pair.COURSE).state)
    )
    after = room.json("status")["students"], room.credentials
    assert [one["pid"] for one in after[0]] == [one["pid"] for one in before[0]] and after[1] == before[1]


def test_after_a_kill_the_next_run_begins_anew_and_leaves_nothing(room):
    process = room.start("check", "--security")
    eventually(lambda: CoursePaths(trial_pair.COURSE).supervisor_socket.exists())
    process.kill()
    process.communicate()
    eventually(lambda: pwd.getpwnam(trial_pair.VICTIM))
    time.sleep(2)  # what it had started goes on by itself
    assert all(one["level"] != "problem" for one in room.json("check", "--security")["findings"])
    assert not os.path.lexists(CoursePaths(trial_pair.COURSE).state)


def test_what_is_weaker_is_found(room):
    """A check that cannot fail is none: without isolation the processes are seen."""
    kept = dict(room.config)
    try:
        room.write(isolation=False)
        said = room.json("check", "--security")
        lacking = [one["message"] for one in said["findings"] if one["level"] != "ok"]
        assert any("see the processes in /proc" in one for one in lacking)
        assert any("see files in /tmp" in one for one in lacking)
    finally:
        room.config = kept
        room.write()


def test_without_a_class_there_is_nothing_to_attack(room):
    room.run("shutdown")
    try:
        assert "does not run" in room.run("check", "--security", expect=4).stderr
    finally:
        room.run("launch", "--background")
