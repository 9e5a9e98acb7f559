"""A class behind an nginx of its own: every way of routing, who may reach what, and that nobody is disconnected."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from nblauncher.frontends import class_ca
from nblauncher.isolation import cgroups
from nblauncher.model import Account, ServerState
from nblauncher.supervisor.client import Client, connect
from nblauncher.supervisor.nginx import ProxySpec
from tests import launched, visits
from tests.classroom import Classroom
from tests.jupyter_client import JupyterClient
from tests.running import eventually

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(
        shutil.which("nginx", path="/usr/sbin:/usr/bin") is None, reason="NO NGINX: install nginx-light"
    ),
]

ADA, BOB, EVE = "nbtjada", "nbtjbob", "nbtjeve"
PORT = 18640
FIRST_UID = 26450
HOST = "class.example.org"


@pytest.fixture(
    scope="module", params=["ports", *(pytest.param(one, marks=pytest.mark.slow) for one in ("hosts", "paths"))]
)
def room(request) -> Iterator[Classroom]:
    made = Classroom("nbtj-nginx", [ADA, BOB], port=PORT, first_uid=FIRST_UID)
    try:
        made.write(web={"port": PORT, "frontend": "nginx", "routing": request.param, "names": [HOST]})
        made.run("setup")
        made.run("launch", "--background")
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def names_lead_here(monkeypatch):
    """As the name service would say it: every name of the class is this host."""
    real = socket.getaddrinfo

    def lead(host, *arguments, **keywords):
        name = host.decode() if isinstance(host, bytes) else host
        return real("127.0.0.1" if name and name.endswith("example.org") else host, *arguments, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", lead)


def routing(room: Classroom) -> str:
    return room.config["web"]["routing"]


def port_of(room: Classroom, username: str) -> int:
    return room.port + 1 + room.names.index(username) if routing(room) == "ports" else room.port


def host_of(room: Classroom, username: str) -> str:
    return f"{username}.{HOST}" if routing(room) == "hosts" else HOST


def client(room: Classroom, username: str) -> JupyterClient:
    one = JupyterClient(username, port_of(room, username), room.paths.tls / "ca.pem", host_of(room, username))
    one.sign_in(room.credentials[username]["notebook_password"])
    return one


def nginx_of(room: Classroom) -> list[psutil.Process]:
    """Masters, and workers, which are in the same control group."""
    groups = cgroups.choose(room.course)
    return [
        psutil.Process(pid) for name in groups.names() if name.startswith("proxy-") for pid in groups.group(name).pids()
    ]


def test_a_student_signs_in_at_the_front_page_and_works(room):
    urls = {one["username"]: one["url"] for one in room.json("status")["students"]}
    assert urls[ADA] == f"https://{host_of(room, ADA)}:{port_of(room, ADA)}/user/{ADA}/"
    with client(room, ADA) as one:
        one.http.cookies.clear()
        front = f"https://{HOST}:{room.port}"
        typed = {"username": ADA, "password": room.credentials[ADA]["notebook_password"]}
        answer = one.http.post(f"{front}/", data=typed)
        target = re.search(r'<form method="post" action="([^"]+)"', answer.text)
        ticket = re.search(r'name="ticket" value="([^"]+)"', answer.text)
        assert target and ticket, answer.text
        assert target[1] == f"{urls[ADA]}nblauncher/ticket" and "set-cookie" not in answer.headers
        foreign = one.http.post(target[1], data={"ticket": ticket[1]}, headers={"Origin": "https://else.example.org"})
        assert foreign.status_code == 403
        landed = one.http.post(target[1], data={"ticket": ticket[1]}, headers={"Origin": front}, follow_redirects=True)
        assert landed.status_code == 200 and str(landed.url).startswith(urls[ADA])
        assert one.run("6 * 7") == "42"
        assert "here I am" in one.terminal("echo here I ''am | tr -s ' '", "here I am")


def test_what_is_said_and_a_teachers_link_arrive_through_the_proxy(room):
    room.run("message", "through the proxy")
    with client(room, ADA) as ada, client(room, BOB) as teacher:
        assert visits.shown(ada) == [("message", "through the proxy")]
        assert "through the proxy" in ada.http.get(f"https://{HOST}:{room.port}/").text
        room.run("message", "--clear")
        teacher.http.cookies.clear()
        given = visits.tickets(teacher, room.json("open", ADA)["link"], HOST)
        landed = visits.arrive(teacher, given)
        assert landed.status_code == 200 and f"/user/{ADA}/" in str(landed.url)
        assert "Your teacher" in visits.shown(ada)[0][1]
        server = str(landed.url).partition(f"/user/{ADA}/")[0] + f"/user/{ADA}/"
        assert teacher.http.get(f"{server}api/status").status_code == 200
        room.run("open", ADA, "--end")
        assert teacher.http.get(f"{server}api/status").status_code == 403
        assert visits.shown(ada) == []


def test_http2_is_spoken_and_plain_http_is_led_to_https(room):
    context = ssl.create_default_context(cafile=str(room.paths.tls / "ca.pem"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    plain = socket.create_connection(("127.0.0.1", room.port))
    with context.wrap_socket(plain, server_hostname=HOST) as secure:
        assert secure.selected_alpn_protocol() == "h2"
    answer = httpx.get(f"http://{HOST}:{room.port}/{ADA}")
    assert answer.status_code == 307 and answer.headers["location"] == f"https://{HOST}:{room.port}/{ADA}"


def test_only_the_proxy_reaches_the_servers_and_it_is_not_root(room):
    folder = room.paths.http
    facts = folder.stat()
    assert (facts.st_uid, grp.getgrgid(facts.st_gid).gr_name, facts.st_mode & 0o777) == (0, "nblauncher", 0o750)
    ada = pwd.getpwnam(ADA)
    own = folder / f"{ada.pw_uid}.sock"
    code = f"import socket; socket.socket(socket.AF_UNIX).connect({str(own)!r})"
    who = ["setpriv", f"--reuid={ada.pw_uid}", f"--regid={ada.pw_gid}", "--clear-groups"]
    tried = subprocess.run([*who, "/usr/bin/python3", "-c", code], capture_output=True, text=True)
    assert "PermissionError" in tried.stderr
    assert nginx_of(room) and {one.username() for one in nginx_of(room)} == {"nblauncher"}
    for file in room.paths.proxy.glob("nginx-*"):
        assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (0, 0o640)
    assert not (room.paths.tls / "servers").exists()  # one key, the proxy's


def test_a_neighbours_cookie_is_of_no_use(room):
    with client(room, ADA) as one:
        mine = f"nblauncher-{ADA}-{room.port + 1 + room.names.index(ADA)}"
        assert mine in one.http.cookies
        answer = one.http.get("api/status", headers={"Cookie": f"{mine}={one.http.cookies[mine]}; other=secret"})
        assert answer.status_code == 200
        # Without the own cookie nobody is signed in, whatever else is sent.
        with httpx.Client(verify=ssl.create_default_context(cafile=str(room.paths.tls / "ca.pem"))) as stranger:
            url = f"{one.origin}{one.base}api/status"
            hers = f"nblauncher-{BOB}-{room.port + 2}={one.http.cookies[mine]}"
            assert stranger.get(url, headers={"Cookie": hers}).status_code == 403


CROWD = """
import select, socket, sys
port, greeting = int(sys.argv[1]), bytes.fromhex(sys.argv[2])
crowd = []
for number in range(700):
    one = socket.socket()
    one.bind((f"127.9.{number % 7}.{number // 7 + 1}", 0))
    one.connect(("127.0.0.1", port))
    one.send(greeting)
    crowd.append(one)
print("there", flush=True)
left = select.poll()
for one in crowd:
    left.register(one, select.POLLRDHUP)
gone = set()
while len(gone) < 200:
    for number, _ in left.poll():
        gone.add(number)
        left.unregister(number)
print("gone", flush=True)
sys.stdin.read()
"""
"""Connects from many addresses of the host's own, sends what it is told to, and says when 200 of 700 were ended."""


@pytest.mark.parametrize("greeting", ["", "160301"], ids=["silent", "in the middle of a handshake"])
def test_connections_that_ask_for_nothing_are_limited_for_each_account(room, greeting):
    bob = pwd.getpwnam(BOB)
    who = ["setpriv", f"--reuid={bob.pw_uid}", f"--regid={bob.pw_gid}", "--clear-groups"]
    before = len(ended_by_us(room))
    with client(room, ADA) as one:
        kernel = one.start_kernel()
        with (
            one.notebook(kernel) as tab,
            subprocess.Popen(
                [*who, "/usr/bin/python3", "-c", CROWD, str(port_of(room, ADA)), greeting],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as crowd,
        ):
            assert crowd.stdout and crowd.stdin
            assert crowd.stdout.readline() == "there\n"
            with client(room, ADA) as another:
                assert another.run("6 * 7") == "42"
            # nginx itself would end all of them together, after ten seconds.
            assert crowd.stdout.readline() == "gone\n"
            eventually(lambda: sum(ended_by_us(room)[before:]) == 200)
            assert tab.run("print(6 * 7)") == "42\n"  # over the connection that was there before
            crowd.stdin.close()


def ended_by_us(room: Classroom) -> list[int]:
    """How many connections the supervisor said it ended, each time."""
    words = (room.paths.logs / "nblauncher.log").read_text()
    return [int(count) for count in re.findall(r"ended (\d+) of \d+ connections", words)]


def test_who_is_not_there_has_a_page_that_looks_again(room):
    try:
        room.run("shutdown", "--only", BOB)
        with httpx.Client(verify=ssl.create_default_context(cafile=str(room.paths.tls / "ca.pem"))) as visitor:
            url = f"https://{host_of(room, BOB)}:{port_of(room, BOB)}/user/{BOB}/tree"
            answer = visitor.get(url)
            assert answer.status_code == 503 and "checks every few seconds" in answer.text
            assert 'http-equiv="refresh"' in answer.text and answer.headers["cache-control"] == "no-store"
            room.run("launch", "--background", "--only", BOB)
            assert visitor.get(url, follow_redirects=True).status_code == 200
    finally:
        room.run("launch", "--background", "--only", BOB)


def test_nobody_is_disconnected_when_a_student_comes_and_goes(room):
    with client(room, ADA) as one:
        kernel = one.start_kernel()
        with one.notebook(kernel) as tab:
            assert tab.run("x = 42; print(x)") == "42\n"
            before = {process.pid for process in nginx_of(room)}
            room.write([ADA, BOB, EVE])
            room.run("reload")
            assert {process.pid for process in nginx_of(room)} - before
            assert tab.run("print(x)") == "42\n"  # over the same connection, in the old nginx
            with client(room, EVE) as newcomer:
                assert newcomer.run("6 * 7") == "42"
            assert tab.run("print(x + 1)") == "43\n"
    eventually(lambda: not before & {process.pid for process in nginx_of(room)}, patience=30)


def test_a_config_that_nginx_does_not_take_leaves_the_last_one_in_charge(room):
    before = {process.pid for process in nginx_of(room)}
    (room.paths.proxy / "nginx-99.conf").write_text("nonsense;")
    with client_of(room) as supervisor:
        account = Account("nblauncher", pwd.getpwnam("nblauncher").pw_uid, grp.getgrnam("nblauncher").gr_gid, Path("/"))
        supervisor.start_proxy(ProxySpec("/usr/sbin/nginx", account, str(room.paths.proxy / "nginx-99.conf"), ()))
        eventually(lambda: not supervisor.front_page().proxy_is_starting)
        report = supervisor.front_page()
        assert report.state is ServerState.READY and "nonsense" in report.last_lines[-1]
    assert {process.pid for process in nginx_of(room)} == before
    with client(room, ADA) as one:
        assert one.http.get("api/status").status_code == 200


def client_of(room: Classroom) -> Client:
    supervisor = connect(room.paths)
    assert supervisor is not None
    return supervisor


def test_an_nginx_whose_master_dies_is_started_again_and_the_ports_stay_ours(room):
    orphans = nginx_of(room)
    next(process for process in orphans if "master" in " ".join(process.cmdline())).kill()
    psutil.wait_procs(orphans, timeout=10)
    assert not any(process.is_running() for process in orphans)  # workers go with their master
    with pytest.raises(OSError), socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", room.port))
        squatter.listen()
    eventually(lambda: nginx_of(room) and launched.said_states(room)[""] == "ready", patience=60)
    with client(room, ADA) as one:
        assert one.http.get("api/status").status_code == 200


def test_a_sleeper_wakes_when_somebody_comes(room):
    room.run("shutdown")
    room.run("launch", "--background", "--on-demand")
    assert {one["server"] for one in room.json("status")["students"]} == {"asleep"}
    with client(room, ADA) as one:
        assert one.run("6 * 7") == "42"
    states = {one["username"]: one["server"] for one in room.json("status")["students"]}
    assert states[ADA] == "ready" and states[BOB] == "asleep"


def test_after_shutdown_nothing_is_left(room):
    room.run("shutdown")
    assert nginx_of(room) == []
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", room.port))


def test_the_administrators_own_key_is_nginxs_alone_and_must_be_good_for_everybody(tmp_path: Path):
    made = Classroom("nbtj-files", [ADA], port=PORT + 20, first_uid=FIRST_UID)
    authority = class_ca.ensure_class_ca(tmp_path / "ca", [HOST], [], "nbtj-files")
    web = {"port": PORT + 20, "frontend": "nginx", "names": [HOST]}
    files = {"mode": "files", "certificate": "server.pem", "key": "server.key"}
    try:
        leaf = class_ca.issue_leaf(authority, [HOST], [])
        (made.folder / "server.pem").write_bytes(leaf.certificate)
        (made.folder / "server.key").write_bytes(leaf.key)
        (made.folder / "server.key").chmod(0o600)
        made.write(web={**web, "routing": "hosts"}, tls=files)
        made.run("setup")
        refused = made.run("launch", "--background", expect=3)
        assert f"does not cover {ADA}.{HOST}" in refused.stderr
        assert nginx_of(made) == [] and made.json("status")["students"][0]["server"] == "stopped"
        made.write(web={**web, "routing": "ports"})
        made.run("launch", "--background")
        with JupyterClient(ADA, PORT + 21, tmp_path / "ca/ca.pem", HOST) as one:
            one.sign_in(made.credentials[ADA]["notebook_password"])
            assert one.http.get("api/status").status_code == 200
        uid = pwd.getpwnam(ADA).pw_uid
        mine = launched.processes_of(uid)
        assert mine and not any("memfd:nblauncher" in line for one in mine for line in _open_files(one.pid))
    finally:
        made.close()


def _open_files(pid: int) -> list[str]:
    folder = Path(f"/proc/{pid}/fd")
    return [os.readlink(folder / name) for name in os.listdir(folder)]


def test_a_students_port_that_somebody_else_has_is_one_students_failure():
    made = Classroom("nbtj-taken", [ADA, BOB], port=PORT + 30, first_uid=FIRST_UID)
    try:
        made.write(web={"port": PORT + 30, "frontend": "nginx", "names": [HOST], "routing": "ports"})
        made.run("setup")
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port_of(made, BOB)))
            taken.listen()
            failed = made.run("launch", "--background", expect=5)
            assert BOB in failed.stderr and "already used" in failed.stderr
            with client(made, ADA) as one:
                assert one.http.get("api/status").status_code == 200
        made.run("launch", "--background")
        with client(made, BOB) as one:
            assert one.http.get("api/status").status_code == 200
    finally:
        made.close()


def test_trouble_is_one_clear_message_and_nothing_is_begun(tmp_path: Path):
    made = Classroom("nbtj-bad", ["nbtj_x"], port=PORT + 10, first_uid=FIRST_UID)
    try:
        made.write(web={"port": PORT + 10, "frontend": "nginx", "routing": "hosts", "names": [HOST]})
        made.run("setup")
        refused = made.run("launch", "--background", expect=3)
        assert "nbtj_x cannot be a host name" in refused.stderr
        made.write(web={"port": PORT + 10, "frontend": "direct", "routing": "paths"})
        assert "web.routing: paths needs `frontend: nginx`" in made.run("launch", "--background", expect=3).stderr
        made.write(web={"port": PORT + 10, "frontend": "nginx"})
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", PORT + 10))
            taken.listen()
            assert f"port {PORT + 10} is already used" in made.run("launch", "--background", expect=None).stderr
        assert json.loads(made.run("status", "--json").stdout)["students"][0]["server"] == "stopped"
        assert nginx_of(made) == []
    finally:
        made.close()
        assert not os.path.lexists(made.paths.run)
