"""The front page's real process, with real accounts, under fire."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from re import search

import httpx
import psutil
import pytest

from nblauncher.auth import tickets
from nblauncher.system import workers
from tests import front_page as tools
from tests.slow_descriptor import slow_descriptor_sent

pytestmark = [pytest.mark.system, pytest.mark.group("front page")]

PORT = 18710
URL = f"https://localhost:{PORT}"


@pytest.fixture(scope="module")
def people() -> Iterator[dict[str, tools.Account]]:
    with tools.accounts(26000) as made:
        yield made


@pytest.fixture
def front(people) -> Iterator[tools.FrontPageProcess]:
    made = tools.FrontPageProcess(PORT, students(people))
    yield made
    made.close()


def students(people):
    return {"nbtwada": (people["nbtwada"], PORT + 1), "nbtwbob": (people["nbtwbob"], PORT + 2)}


@pytest.fixture
def client(front) -> Iterator[httpx.Client]:
    with httpx.Client(verify=trust(front), timeout=60) as made:
        yield made


def trust(front: tools.FrontPageProcess) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=front.ca.certificate.decode())


def ticket_for(client: httpx.Client, name: str) -> str:
    response = client.post(URL, data={"username": name, "password": tools.PASSWORD})
    assert response.status_code == 200
    found = search(r'name="ticket" value="([^"]+)"', response.text)
    assert found is not None, response.text
    return found[1]


def redeem_as(account, path: Path, ticket: str) -> bool:
    """What the account's own process hears from the front page."""
    return workers.run_as(account, tickets.redeem, path, ticket)


def test_a_student_signs_in_and_arrives_signed_in_at_their_own_server(front, client, people):
    server = tools.StudentServer(people["nbtwada"], PORT + 1, front.tickets_path, front.leaf())
    try:
        ticket = ticket_for(client, "nbtwada")
        target = f"https://localhost:{PORT + 1}/user/nbtwada/nblauncher/ticket"
        arrived = client.post(target, data={"ticket": ticket}, follow_redirects=True)
        again = client.post(target, data={"ticket": ticket})
    finally:
        server.close()
    assert arrived.text.endswith(f"uid {people['nbtwada'].uid} signed in</p>")
    assert again.status_code == 403
    assert set(front.asked) == {"nbtwada"}


def test_only_the_students_own_uid_redeems_and_a_neighbour_spoils_nothing(front, client, people):
    ticket = ticket_for(client, "nbtwada")
    assert not redeem_as(people["nbtwbob"], front.tickets_path, ticket)
    assert not redeem_as(people[tools.FRONT_ACCOUNT], front.tickets_path, ticket)
    assert not tickets.redeem(front.tickets_path, ticket), "root is no student"
    assert redeem_as(people["nbtwada"], front.tickets_path, ticket)
    assert not redeem_as(people["nbtwada"], front.tickets_path, ticket)


def hog(path: str) -> int:
    """A student who opens connections, says nothing or nonsense, and counts how many stay open."""
    connections = []
    for number in range(200):
        one = socket.socket(socket.AF_UNIX)
        one.connect(path)
        one.settimeout(30)
        if number % 3 == 0:
            one.send(b"\xff" * 50)
        connections.append(one)
    open_ones = 0
    for one in connections:
        try:
            open_ones += one.recv(64) != b""
        except ConnectionResetError:
            continue
    return open_ones


def test_a_student_who_hogs_the_ticket_socket_keeps_nobody_out(front, client, people):
    hogging = workers.start(people["nbtwbob"], hog, str(front.tickets_path))
    for _ in range(20):
        assert redeem_as(people["nbtwada"], front.tickets_path, ticket_for(client, "nbtwada"))
    assert hogging.result(timeout=120) == 0
    assert redeem_as(people["nbtwbob"], front.tickets_path, ticket_for(client, "nbtwbob"))


def test_a_message_that_takes_minutes_to_close_delays_nobody(front, client, people):
    (desk,) = psutil.Process(front.process.pid).children()
    with slow_descriptor_sent(people["nbtwbob"], str(front.tickets_path), desk):
        ticket = ticket_for(client, "nbtwada")
        assert redeem_as(people["nbtwada"], front.tickets_path, ticket)
    assert redeem_as(people["nbtwbob"], front.tickets_path, ticket_for(client, "nbtwbob"))


def test_without_the_ticket_desk_the_front_page_ends_and_is_started_again_by_the_supervisor(front):
    (desk,) = psutil.Process(front.process.pid).children()
    desk.kill()
    assert front.process.wait(30) == 0
    assert "the ticket desk is gone" in front.log.read_text()


def test_the_ticket_desk_ends_with_the_front_page(front):
    (desk,) = psutil.Process(front.process.pid).children()
    front.process.kill()
    assert desk.wait(30) is None


def silent_connections(count: int, first_bytes: bytes) -> list[socket.socket]:
    made = []
    for _ in range(count):
        one = socket.create_connection(("127.0.0.1", PORT))
        if first_bytes:
            one.sendall(first_bytes)
        made.append(one)
    return made


def test_two_hundred_silent_clients_do_not_stop_the_front_page_and_are_shown_out(front, client):
    handshaken = []
    for _ in range(20):
        raw = socket.create_connection(("127.0.0.1", PORT))
        handshaken.append(trust(front).wrap_socket(raw, server_hostname="localhost"))
        handshaken[-1].sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    crowd: list[socket.socket] = [
        *silent_connections(200, b""),
        *silent_connections(50, b"\x16\x03\x01\x02\x00\x01"),
        *silent_connections(20, b"GET / HTTP/1.1\r\n"),
        *handshaken,
    ]
    assert client.get(f"{URL}/nbtwada").status_code == 200
    assert ticket_for(client, "nbtwada")
    for one in crowd:
        one.settimeout(60)
        assert is_shown_out(one)
        one.close()


def is_shown_out(connection: socket.socket) -> bool:
    """Whether the other side ends it, keeping nothing open; TimeoutError when it never does."""
    try:
        return connection.recv(1) == b""
    except (ConnectionError, ssl.SSLError):
        return True


@pytest.mark.slow
def test_a_client_that_drips_its_header_is_shown_out_all_the_same(front):
    with trust(front).wrap_socket(socket.create_connection(("127.0.0.1", PORT)), server_hostname="localhost") as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        slow.settimeout(0.5)
        for _ in range(240):
            try:
                slow.send(b"x")
                if slow.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return
    raise AssertionError("still connected")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 100_000,
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + b"fff\r\n" + b"x" * 100_000,
        b"\0\xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n",
    ],
    ids=["long header", "long body", "long chunks", "noise", "two hosts"],
)
def test_an_oversized_or_senseless_request_gets_no_page_and_the_next_student_does(front, client, request_bytes):
    with trust(front).wrap_socket(socket.create_connection(("127.0.0.1", PORT)), server_hostname="localhost") as rude:
        rude.settimeout(60)
        answer = b""
        try:
            rude.sendall(request_bytes)
            while part := rude.recv(65536):
                answer += part
                if b"</html>" in answer:
                    break
        except (OSError, ssl.SSLError):
            pass
    assert b"200 OK" not in answer
    assert client.get(URL).status_code == 200
    assert front.process.poll() is None


def test_a_lack_of_descriptors_is_survived(people):
    front = tools.FrontPageProcess(PORT, students(people), nofile=100)
    try:
        crowd = silent_connections(150, b"") + silent_connections(150, b"\x16")
        with httpx.Client(verify=trust(front), timeout=60) as client:
            assert ticket_for(client, "nbtwada")
        for one in crowd:
            one.close()
        assert front.process.poll() is None
    finally:
        front.close()


def test_a_right_password_gets_through_a_flood_of_guesses(front, client):
    def guess(number: int) -> int:
        with httpx.Client(verify=trust(front), timeout=120) as guesser:
            return guesser.post(URL, data={"username": f"nbtw{number % 7}", "password": "no"}).status_code

    with ThreadPoolExecutor(20) as crowd:
        guesses = [crowd.submit(guess, number) for number in range(40)]
        assert ticket_for(client, "nbtwada")
        assert {one.result() for one in guesses} == {403}


def test_plain_http_on_the_tls_port_is_redirected(front):
    response = httpx.get(f"http://localhost:{PORT}/nbtwada")
    assert response.status_code == 303
    assert response.headers["Location"] == f"{URL}/nbtwada"


def test_the_front_page_ends_with_its_supervisor_and_on_sigterm(people):
    for end in (tools.FrontPageProcess.hang_up, terminate):
        front = tools.FrontPageProcess(PORT, students(people))
        try:
            assert end(front) == 0
        finally:
            front.close()


def terminate(front: tools.FrontPageProcess) -> int:
    front.process.send_signal(signal.SIGTERM)
    return front.process.wait(30)


def test_the_front_page_refuses_to_be_root():
    command = [sys.executable, "-I", "-m", "nblauncher.web", "--listen", "3", "--config", "4"]
    refused = subprocess.run(
        [*command, "--supervisor", "5", "--tickets", "6"], capture_output=True, check=False, timeout=60
    )
    assert refused.returncode == 4
    assert b"does not run as root" in refused.stderr


def test_nothing_of_the_process_is_open_to_others(front, client):
    """No secret in argv; memory and descriptors root's, so that another course's front page cannot ptrace it."""
    ticket_for(client, "nbtwada")
    process = Path("/proc") / str(front.process.pid)
    assert b"argon2" not in (process / "cmdline").read_bytes()
    assert os.stat(process / "mem").st_uid == 0
    assert not [link for link in (process / "fd").iterdir() if "memfd" in os.readlink(link)]
    status = (process / "status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Groups:\t \n" in status or search(r"Groups:\t\s*\n", status)


def test_the_log_names_nobody(front, client):
    client.get(f"{URL}/nbtwada")
    client.post(URL, data={"username": "nbtwbob", "password": "wrong-guess"})
    ticket = ticket_for(client, "nbtwada")
    assert front.hang_up() == 0
    log = front.log.read_text()
    assert "ready" in log
    for secret in ("nbtwada", "nbtwbob", "wrong-guess", tools.PASSWORD, ticket, "Traceback"):
        assert secret not in log


def test_without_tls_the_class_is_served_over_http(people):
    front = tools.FrontPageProcess(PORT, students(people), has_tls=False)
    try:
        page = httpx.post(f"http://[::1]:{PORT}/", data={"username": "nbtwada", "password": tools.PASSWORD}, timeout=60)
    finally:
        front.close()
    assert f'action="http://[::1]:{PORT + 1}/user/nbtwada/nblauncher/ticket"' in page.text


FLOOD = """
import asyncio, os, ssl, sys
port, names = int(sys.argv[1]), sys.argv[2]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

async def guess(number):
    while True:
        try:
            source = (f"127.{1 + number % 200}.{number // 200}.9", 0)
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, local_addr=source)
            while True:
                name = f"n{number}" if names == "many" else "nbtwada"
                body = f"username={name}&password=wrong{number}".encode()
                head = f"POST / HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: {len(body)}\\r\\n"
                head += "Content-Type: application/x-www-form-urlencoded\\r\\n\\r\\n"
                writer.write(head.encode() + body)
                answer = await reader.readuntil(b"\\r\\n\\r\\n")
                length = int(answer.lower().split(b"content-length: ")[1].split(b"\\r\\n")[0])
                await reader.readexactly(length)
                os.write(1, b".")
        except (OSError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.1)

async def main():
    await asyncio.gather(*(guess(number) for number in range(600)))

asyncio.run(main())
"""
"""600 connections, each from a loopback address of its own, that guess without end; a dot for each answer."""


def sign_in(port: int, authority: str, name: str) -> str:
    """Runs as a student of the host."""
    context = ssl.create_default_context(cadata=authority)
    with httpx.Client(verify=context, timeout=120) as one:
        return one.post(f"https://localhost:{port}", data={"username": name, "password": tools.PASSWORD}).text


def test_six_hundred_loopback_addresses_that_guess_put_no_other_account_off(front, people):
    flood = subprocess.Popen([sys.executable, "-c", FLOOD, str(PORT), "many"], stdout=subprocess.PIPE)
    assert flood.stdout is not None
    dots = flood.stdout.fileno()
    try:
        seen = 0
        while seen < 60:
            seen += len(os.read(dots, 65536))
        os.set_blocking(dots, False)
        authority = front.ca.certificate.decode()
        for _ in range(3):
            _drain(dots)
            page = workers.run_as(people["nbtwbob"], sign_in, PORT, authority, "nbtwada")
            assert 'name="ticket"' in page
            assert _drain(dots) < 100, "checks of the flood's guesses came before an honest one"
    finally:
        flood.kill()
        flood.wait()
        flood.stdout.close()


def _drain(pipe: int) -> int:
    count = 0
    while True:
        try:
            count += len(os.read(pipe, 65536))
        except BlockingIOError:
            return count
