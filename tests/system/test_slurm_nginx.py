"""A class on a cluster behind its nginx: each server on a node is verified, in every mode of TLS that nginx has."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nblauncher.frontends import class_ca
from nblauncher.supervisor.specs import ServerReport
from tests import launched, slurm_cluster, visits
from tests.classroom import QUICK, Classroom, set_up_class
from tests.cluster_class import nothing_is_left, uid
from tests.jupyter_client import JupyterClient
from tests.launched import reports
from tests.running import eventually
from tests.slurm_cluster import Cluster

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("nginx", path="/usr/sbin:/usr/bin") is None, reason="NO NGINX: install nginx-light"
    ),
]
cluster = slurm_cluster.cluster

NAMES = [f"nbtjx{number}" for number in range(1, 4)]
ADA, BOB, _EVE = NAMES
PORT = 28950
WEB = {"port": PORT, "frontend": "nginx", "routing": "ports", "names": ["localhost"], "bind": ["127.0.0.1"]}
ON_NODES = {**QUICK, "spawner": "slurm"}


@pytest.fixture(scope="module")
def room(cluster: Cluster) -> Iterator[Classroom]:
    for node in cluster.nodes.values():
        # A port on which a server was can be taken at once, also right after the last connection.
        node.run("sysctl", "-qw", "net.ipv4.tcp_max_tw_buckets=0")
    with set_up_class("nbtjx", NAMES, port=PORT, first_uid=34400) as made:
        made.write(
            notebook=ON_NODES,
            slurm={"config": str(cluster.config)},
            limits={"memory": "600 MB", "cpus": 1},
            web=WEB,
        )
        yield made


@pytest.fixture
def up(room: Classroom) -> Classroom:
    if not launched.is_ready(room):
        room.run("launch", "--background")
    return room


def place(cluster: Cluster, report: ServerReport) -> tuple[str, int]:
    """Where a student's server listens."""
    said = re.search(r"Comment=nbl1 run=\S+ r=0 port=([0-9]+)", cluster.run("scontrol", "show", "job", str(report.job)))
    assert said
    return cluster.nodes[report.node].address, int(said[1])


def names_on_the_node(address: tuple[str, int]) -> list[str]:
    """What the certificate is for that the server on the node shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(address) as plain, context.wrap_socket(plain) as shown:
        certificate = ssl.DER_cert_to_PEM_cert(shown.getpeercert(binary_form=True) or b"")
    said = ["openssl", "x509", "-noout", "-ext", "subjectAltName"]
    text = subprocess.run(said, input=certificate, check=True, capture_output=True, text=True).stdout
    return re.findall(r"(?:DNS|IP Address):([^,\s]+)", text)


def works(student: JupyterClient, report: ServerReport) -> None:
    """A cell runs in the student's account, on the node."""
    ran = student.run("import os, socket; print(os.getuid(), socket.gethostname())")
    assert ran == f"{uid(report.username)} {report.node}\n"


def hears(student: JupyterClient, message: str) -> None:
    eventually(lambda: visits.shown(student) == [("message", message)])


def test_students_work_on_nodes_through_nginx(room, cluster):
    said = room.json("launch", "--background")
    assert [one["server"] for one in said["students"]] == ["ready"] * len(NAMES), said
    assert {report.node for report in reports(room).values()} == {"n1", "n2"}
    for name, report in reports(room).items():
        with launched.visitor(room, name) as student:
            works(student, report)
            assert "here I am" in student.terminal("echo here I ''am", "here I am")
        # The key that a student holds is for no name that a browser visits.
        assert names_on_the_node(place(cluster, report)) == [f"{name}.localhost"]


IMPOSTOR = """
import socket, ssl, sys
leaf, address, port = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(leaf + ".pem", leaf + ".key")
with socket.create_server((address, int(port))) as door:
    print("there", flush=True)
    while True:
        plain, _from = door.accept()
        with plain, context.wrap_socket(plain, server_side=True) as client:
            print(client.recv(100), flush=True)
            client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 8\\r\\nConnection: close\\r\\n\\r\\nIMPOSTOR")
"""
"""Serves one connection after the other, and says what it was asked."""


@contextlib.contextmanager
def impostor(
    room: Classroom, cluster: Cluster, node: str, address: tuple[str, int], leaf: str
) -> Iterator[subprocess.Popen[str]]:
    """BOB's server at this address of the node, with the certificate of the student `leaf`."""
    bob = pwd.getpwnam(BOB)
    for kind in ("pem", "key"):
        file = room.home(BOB) / f"impostor.{kind}"
        file.write_bytes((room.paths.tls / f"servers/{leaf}.{kind}").read_bytes())
        shutil.chown(file, bob.pw_uid, bob.pw_gid)
    enter = ["nsenter", "--target", str(cluster.nodes[node].first_process()), "--net", "--mount"]
    who = ["setpriv", f"--reuid={bob.pw_uid}", f"--regid={bob.pw_gid}", "--clear-groups"]
    argv = [sys.executable, "-I", "-c", IMPOSTOR, str(room.home(BOB) / "impostor"), *map(str, address)]
    with subprocess.Popen([*enter, *who, *argv], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "there\n"
            yield process
        finally:
            process.kill()


def test_another_students_server_where_a_server_was_gets_no_request(up, cluster):
    """For a moment nobody has noticed that the job is over: the supervisor sleeps, and the relay leads to the port."""
    found = reports(up)[ADA]
    address, supervisor = place(cluster, found), launched.supervisor_pid(up)
    with launched.visitor(up, ADA) as student:
        os.kill(supervisor, signal.SIGSTOP)
        try:
            for process in launched.processes_of(uid(ADA)):
                process.kill()
            eventually(lambda: not launched.processes_of(uid(ADA)))
            with impostor(up, cluster, found.node, address, BOB) as server:
                answer = student.http.get("api/status")
                assert answer.status_code == 503 and "checks every few seconds" in answer.text
                assert server.stdout is not None and server.stdout.readline() == "b''\n"
            # The proof of the trap: with ADA's own key it would have been asked.
            with impostor(up, cluster, found.node, address, ADA):
                assert student.http.get("api/status").text == "IMPOSTOR"
        finally:
            os.kill(supervisor, signal.SIGCONT)
        eventually(lambda: reports(up)[ADA].job not in (None, found.job) and launched.is_ready(up), 60)
        assert "it was started again" in reports(up)[ADA].reason
    with launched.visitor(up, ADA) as student:
        works(student, reports(up)[ADA])


def test_a_visitor_who_leaves_in_the_middle_of_an_answer_ends_no_relay(up):
    with launched.visitor(up, ADA) as student:
        text = {"type": "file", "format": "text", "content": "x" * 20_000_000}
        student.api("PUT", "contents/large.txt", json=text)
        for _ in range(5):
            page = {"Referer": student.origin + student.base}
            with student.http.stream("GET", "files/large.txt", headers=page) as answer:
                assert answer.status_code == 200 and next(answer.iter_raw())
        assert student.http.get("api/status").status_code == 200
    assert reports(up)[ADA].pressure == ()
    # Whether a visitor's end meets a write is chance; the signal must be ignored.
    relays = [one for one in psutil.Process(launched.supervisor_pid(up)).children() if "systemd-socket" in one.name()]
    ignored = [re.search(r"SigIgn:\s*([0-9a-f]+)", Path(f"/proc/{one.pid}/status").read_text()) for one in relays]
    assert len(relays) == len(NAMES)
    assert all(found and int(found[1], 16) >> (signal.SIGPIPE - 1) & 1 for found in ignored)


def test_a_new_class_ca_keeps_nobody_out(up):
    """It may come with any start of a server. The other servers go on with certificates of the old one."""
    before = {name: one.job for name, one in reports(up).items()}
    (up.paths.tls / "ca.key").unlink()
    up.run("restart", "--yes", ADA)
    assert len(list(up.paths.tls.glob("ca-*.pem"))) == 1
    assert {name: one.job for name, one in reports(up).items() if name != ADA} == {
        name: job for name, job in before.items() if name != ADA
    }
    up.run("message", "the exam is at nine")
    for name in (ADA, BOB):
        with launched.visitor(up, name) as student:
            works(student, reports(up)[name])
            hears(student, "the exam is at nine")
    up.run("message", "--clear")


def test_the_next_launch_takes_the_sockets_behind_nginx_from_the_relays(up):
    before = reports(up)
    os.kill(launched.supervisor_pid(up), signal.SIGKILL)
    up.run("launch", "--background")
    eventually(lambda: launched.is_ready(up), 30)
    assert {name: one.job for name, one in reports(up).items()} == {name: one.job for name, one in before.items()}
    with launched.visitor(up, BOB) as student:
        works(student, before[BOB])


def test_after_shutdown_nothing_is_left(up, cluster):
    assert "Stopped" in up.run("shutdown").stdout
    nothing_is_left(cluster, up, NAMES)


def test_a_sleeper_waits_in_the_queue_with_a_page_and_then_has_a_server(room, cluster):
    room.run("shutdown")
    room.write(notebook={**ON_NODES, "start": "on-demand"})
    blocking = ("sbatch", "--parsable", "--nodes=2", "--exclusive", "--chdir=/", "--output=/dev/null")
    others = cluster.run(*blocking, "--wrap=sleep 600").strip()
    try:
        said = room.json("launch", "--background")
        assert {one["server"] for one in said["students"]} == {"asleep"}
        with launched.own_server(room, ADA) as browser:
            typed = {"username": ADA, "password": room.credentials[ADA]["notebook_password"]}
            front = f"https://localhost:{PORT}/"
            browser.http.post(front, data=typed)
            eventually(lambda: reports(room)[ADA].state.value == "queued", 30)
            assert "Waiting for a computer" in browser.http.post(front, data=typed).text
            own = browser.http.get("tree")
            assert own.status_code == 503 and "checks every few seconds" in own.text
        cluster.run("scancel", others)
        eventually(lambda: reports(room)[ADA].state.value == "ready", 60)
        # BOB comes to his own address, which waits until the server answers.
        with launched.own_server(room, BOB) as student:
            eventually(lambda: student.http.get("api").status_code == 200, 60)
            student.sign_in(room.credentials[BOB]["notebook_password"])
            works(student, reports(room)[BOB])
        with launched.visitor(room, ADA) as student:
            works(student, reports(room)[ADA])
    finally:
        cluster.run("scancel", others)
        room.write(notebook=ON_NODES)
        room.run("shutdown")
    nothing_is_left(cluster, room, NAMES)


@pytest.mark.parametrize("mode", ["files", "off"])
def test_nodes_speak_tls_with_the_classs_keys_also_where_nginx_has_another_or_none(room, cluster, mode, tmp_path):
    room.run("shutdown")
    shutil.rmtree(room.paths.tls, ignore_errors=True)  # as in a class that never had an authority
    tls = {"mode": mode}
    if mode == "files":
        authority = class_ca.ensure_class_ca(tmp_path / "ca", ["localhost"], [], "nbtjx")
        leaf = class_ca.issue_leaf(authority, ["localhost"], [])
        (room.folder / "own.pem").write_bytes(leaf.certificate)
        (room.folder / "own.key").write_bytes(leaf.key)
        (room.folder / "own.key").chmod(0o600)
        tls |= {"certificate": "own.pem", "key": "own.key"}
    room.write(tls=tls)
    ca = tmp_path / "ca/ca.pem" if mode == "files" else None
    try:
        room.run("launch", "--background", "--only", ADA)
        found = reports(room)[ADA]
        assert names_on_the_node(place(cluster, found)) == [f"{ADA}.localhost"]
        assert not list((room.paths.tls / "servers").glob(f"{BOB}*"))
        with JupyterClient(ADA, PORT + 1, ca) as student:
            page = launched.open_front_page(room, student, ADA)
            arrived = student.http.post(page.pop("target"), data=page, follow_redirects=True)
            assert arrived.status_code == 200, arrived.text
            works(student, found)
            assert ("secure" in arrived.history[0].headers["set-cookie"].lower()) is (mode == "files")
        if mode == "files":
            assert {file.read_bytes() for file in room.paths.proxy.glob("*.key")} == {leaf.key}
    finally:
        room.run("shutdown")
        room.write(tls={})


@pytest.mark.parametrize(("mode", "why"), [("files", "tls.key into its student's home"), ("off", "in the clear")])
def test_without_nginx_these_modes_are_refused_with_the_reason(room, mode, why):
    files = {"certificate": "own.pem", "key": "own.key", "share_key_with_students": True} if mode == "files" else {}
    room.write(web={**WEB, "frontend": "direct"}, tls={"mode": mode, **files})
    try:
        assert why in room.run("launch", "--background", expect=4).stderr
        found = json.loads(room.run("check", "--json", expect=None).stdout)
        assert why in json.dumps(found)
    finally:
        room.write(web=WEB, tls={})
