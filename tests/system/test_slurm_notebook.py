"""What the class's host tells servers on nodes, and hears from them: messages, time limits, visits, kernels, memory."""

from __future__ import annotations

import os
import pwd
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from nblauncher.server import notices
from nblauncher.server.notices import Notices
from nblauncher.supervisor.specs import ServerReport
from tests import launched, slurm_cluster, visits
from tests.classroom import QUICK, Classroom, set_up_class
from tests.jupyter_client import JupyterClient
from tests.running import eventually
from tests.slurm_cluster import Cluster

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.early]
cluster = slurm_cluster.cluster

NAMES = ADA, BOB, EVE = [f"nbtjn{number}" for number in range(1, 4)]
SLEEPER = "nbtjo1"
PORT = 29100


def on_nodes(made: Classroom, cluster: Cluster, **notebook: Any) -> None:
    made.write(
        notebook={**QUICK, "spawner": "slurm", **notebook},
        slurm={"config": str(cluster.config)},
        limits={"memory": "600 MB", "cpus": 1},
        # As in test_slurm_class: bridges of other tests' clusters must not become addresses of the class.
        web={"port": made.port, "bind": ["127.0.0.1"]},
    )


@pytest.fixture(scope="module")
def sleepers(cluster: Cluster) -> Iterator[Classroom]:
    """Another class, with a server that came when its student did. Its minute of rest passes beside the other tests."""
    with set_up_class("nbtjo", [SLEEPER], port=PORT + 20, first_uid=34850) as made:
        on_nodes(made, cluster, start="on-demand", idle_stop=1)
        said = made.json("launch", "--background")
        assert {one["server"] for one in said["students"]} == {"asleep"} and cluster.jobs() == ""
        visit(made)
        yield made


def visit(sleepers: Classroom) -> None:
    with launched.visitor(sleepers, SLEEPER) as student:
        assert student.api("GET", "me").status_code == 200
    assert report(sleepers, SLEEPER).state.value == "ready"


@pytest.fixture(scope="module")
def room(cluster: Cluster, sleepers: Classroom) -> Iterator[Classroom]:
    with set_up_class("nbtjn", NAMES, port=PORT, first_uid=34800) as made:
        on_nodes(made, cluster)
        made.run("launch", "--background")
        yield made


def report(room: Classroom, name: str) -> ServerReport:
    return launched.reports(room)[name]


def status(room: Classroom, name: str) -> dict[str, Any]:
    return launched.students(room.json("status"))[name]


def shown(browser: JupyterClient, kind: str) -> list[str]:
    return [text for found, text in visits.shown(browser) if found == kind]


CHARGED = """
import os
from nblauncher.isolation import limits
print(limits.charged_to_job(int(os.environ["SLURM_JOB_ID"])))
"""


def test_an_open_notebook_shows_messages_within_seconds_and_status_knows_what_runs(room, cluster):
    with launched.visitor(room, ADA) as ada, launched.visitor(room, BOB) as bob:
        notebook = ada.start_kernel()
        assert ada.run("data = bytearray(64 << 20); print(len(data))", notebook) == f"{64 << 20}\n"
        assert (ada.run(CHARGED, notebook) == "None\n") != cluster.has_cgroups
        began = time.monotonic()
        room.run("message", "Room 2 from now on")
        room.run("message", "only for you", "--only", ADA)
        eventually(lambda: shown(ada, "message") == ["Room 2 from now on", "only for you"], 10)
        assert shown(bob, "message") == ["Room 2 from now on"] or eventually(lambda: shown(bob, "message"), 10)
        print(f"messages were there after {time.monotonic() - began:.2f} s, two commands included")
        content = {"type": "file", "format": "text", "content": "42"}
        ada.api("PUT", "contents/answer.txt", json=content)
        eventually(lambda: status(room, ADA)["last_save"] is not None, 15)
        found = status(room, ADA)
        assert (found["kernels"], found["never_signed_in"]) == (1, False) and found["last_activity"], found
        assert 64 << 20 < found["memory_bytes"] < 600_000_000, found
        assert status(room, BOB)["last_save"] is None and status(room, BOB)["memory_bytes"], "bob saved nothing"
        (room.folder / "material" / "lab1.txt").write_text("measure the pendulum twice\n")
        room.run("send")
        changed = ["tutorial/lab1.txt"]
        eventually(lambda: ada.api("GET", "nblauncher/notices").json()["changed"] == changed, 10)
        room.run("message", "--clear")
        eventually(lambda: shown(ada, "message") == shown(bob, "message") == [], 10)


def test_only_the_kernels_of_a_student_are_restarted(room):
    with launched.visitor(room, ADA) as ada:
        kernel, job = ada.start_kernel(), report(room, ADA).job
        ada.run("x = 1", kernel)
        (said,) = room.json("restart", "--kernels", "--yes", ADA)["students"]
        assert said["kernels_ended"] >= 1, said
        assert report(room, ADA).job == job

        def forgot() -> bool:
            with ada.notebook(kernel) as notebook:
                return "NameError" in notebook.run("print(x)")

        eventually(forgot, 20)


def test_the_time_limit_is_in_the_notebook_until_it_is_raised(room, cluster):
    job = report(room, ADA).job
    with launched.visitor(room, ADA) as ada:
        assert shown(ada, "time-limit") == []
        cluster.run("scontrol", "update", f"jobid={job}", "timelimit=5")
        eventually(lambda: shown(ada, "time-limit"), 15)
        assert "time on the cluster ends at" in shown(ada, "time-limit")[0]
        cluster.run("scontrol", "update", f"jobid={job}", "timelimit=UNLIMITED")
        eventually(lambda: shown(ada, "time-limit") == [], 15)


def test_a_teachers_link_opens_a_server_on_a_node_once_and_its_student_sees_it(room):
    with launched.visitor(room, ADA) as ada, visits.new_teacher(room, ADA) as teacher:
        link = room.json("open", ADA)["link"]
        given = visits.tickets(teacher, link)
        assert visits.arrive(teacher, given).status_code == 200
        eventually(lambda: shown(ada, "visit") and "Your teacher" in shown(ada, "visit")[0], 10)
        eventually(lambda: "You are here" in shown(teacher, "visit")[0], 10)
        told = notices.file_of(room.paths.run, report(room, ADA).uid).read_bytes()
        (visit,) = Notices.parse(told).visits
        assert visit.until - visit.at == 3600
        assert visits.arrive(teacher, given).status_code == 403, "a ticket works once"
        secret = link.partition("#")[2]
        assert teacher.http.post(f"https://localhost:{PORT}/open.html", data={"link": secret}).status_code == 403
        room.run("open", ADA, "--end")
        eventually(lambda: teacher.http.get("api/status").status_code == 403, 10)
        eventually(lambda: shown(ada, "visit") == [], 10)


def test_sign_ins_survive_a_restart_and_a_log_out_stays_one(room):
    with launched.visitor(room, BOB) as bob, launched.visitor(room, BOB) as left:
        job, copy = report(room, BOB).job, dict(left.http.cookies)
        left.log_out()
        room.run("restart", "--yes", BOB)
        assert report(room, BOB).job != job
        assert bob.api("GET", "me").status_code == 200
        left.http.cookies.update(copy)
        assert left.http.get("api/me").status_code == 403


def test_everything_goes_on_after_the_supervisor_was_killed(room):
    with launched.visitor(room, ADA) as ada:
        room.run("message", "before")
        eventually(lambda: shown(ada, "message") == ["before"], 10)
        signed_in, job = status(room, ADA)["last_sign_in"], report(room, ADA).job
        os.kill(launched.supervisor_pid(room), signal.SIGKILL)
        room.run("launch", "--background")
        assert report(room, ADA).job == job and shown(ada, "message") == ["before"]
        room.run("message", "after")
        eventually(lambda: shown(ada, "message") == ["after"], 15)
        eventually(lambda: status(room, ADA)["kernels"] is not None, 15)
        assert status(room, ADA)["last_sign_in"] <= signed_in, "an adoption is not a sign-in"
        room.run("message", "--clear")


def test_a_new_password_ends_the_sign_ins_and_leaves_server_and_kernels_alone(room):
    with launched.visitor(room, ADA) as before:
        kernel, job = before.start_kernel(), report(room, ADA).job
        before.run("x = 41", kernel)
        (said,) = room.json("passwd", ADA)["students"]
        assert said["server"] == "kept" and report(room, ADA).job == job
        assert before.http.get("api/me").status_code == 403, "the old sign-in has ended"
    room.run("message", "with the new password")
    with launched.visitor(room, ADA) as ada:
        with ada.notebook(kernel) as notebook:
            assert notebook.run("print(x + 1)") == "42\n"
        eventually(lambda: shown(ada, "message") == ["with the new password"], 15)
        assert visits.follow(room, visits.new_teacher(room, ADA), ADA).status_code == 200
    room.run("message", "--clear")


HOSTILE = """
import os, socket, ssl, tempfile, threading, time
with tempfile.NamedTemporaryFile() as file:
    file.write({pem!r})
    file.flush()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file.name)
listening = socket.create_server(("0.0.0.0", 0))
heard = open("heard", "ab", buffering=0)
def serve(client):
    with context.wrap_socket(client, server_side=True) as connection:
        heard.write(connection.recv(65536)[:30] + b"\\n")
        time.sleep(600)
def accept():
    while True:
        threading.Thread(target=serve, args=(listening.accept()[0],)).start()
threading.Thread(target=accept, daemon=True).start()
print(listening.getsockname()[1])
"""


def test_a_student_whose_server_is_replaced_by_one_that_hangs_harms_nobody_else(room, cluster):
    certificate, job = room.paths.server_certificate(EVE), report(room, EVE).job
    pem = certificate.read_bytes() + certificate.with_suffix(".key").read_bytes()
    comment = "comment=" + cluster.run("squeue", "-h", "-j", str(job), "-O", "comment:100").strip()
    with launched.visitor(room, EVE) as eve, launched.visitor(room, ADA) as ada:
        port = eve.run(HOSTILE.format(pem=pem)).strip()
        as_eve(cluster, "scontrol", "update", f"jobid={job}", re.sub("port=[0-9]+", f"port={port}", comment))
        heard = room.home(EVE) / "heard"
        eventually(lambda: heard.read_text().startswith(f"POST /user/{EVE}/"), 15)
        for text in ("one", "two"):
            began = time.monotonic()
            room.run("message", text)
            eventually(lambda text=text: shown(ada, "message") == [text], 10)
            print(f"beside a server that hangs: a message after {time.monotonic() - began:.2f} s")
        as_eve(cluster, "scontrol", "update", f"jobid={job}", comment)
    assert {one["server"] for one in room.json("status")["students"]} == {"ready"}


def test_a_server_that_nobody_uses_ends_and_is_submitted_again_when_its_student_comes(sleepers, cluster):
    eventually(lambda: report(sleepers, SLEEPER).state.value == "asleep", 150)
    assert SLEEPER not in cluster.jobs()
    visit(sleepers)


def as_eve(cluster: Cluster, *argv: str) -> None:
    entry = pwd.getpwnam(EVE)
    account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    subprocess.run(argv, check=True, cwd="/", env=cluster.environment, **account)
