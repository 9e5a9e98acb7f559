"""The calls to servers on nodes, in short-lived children: one that is root seals the requests, one that is not sends
them and reads what students' servers answer.

Each server has a thread and a few seconds of its own: one that hangs delays no other. A server is believed to be a
student's if it has the key of that student's certificate.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nblauncher.errors import HostError
from nblauncher.paths import CoursePaths
from nblauncher.server import host_requests
from nblauncher.server.host_requests import LARGEST_ANSWER, HostAnswer, HostRequest
from nblauncher.supervisor import relays
from nblauncher.system import root_files, workers
from nblauncher.system.descriptors import read_and_close

if TYPE_CHECKING:
    import ssl

log = logging.getLogger(__name__)

PATIENCE = 4.0
"""Seconds for a call, from the connection to the end of the answer."""

HASTE, EACH = 1.0, 0.01
"""Seconds for servers that have answered well so far, and as many for each of them: the handshakes take this host's
time. One that needs longer is asked apart from the others the next time, with more patience.
"""

AT_A_TIME = 256
_HEAD = 4096
"""Bytes of an answer's head."""
_MORE = 4.0
_STACK = 256 << 10

Found = HostAnswer | str
"""What a server answered, or what is wrong."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request to this student's server. `run` names the server's start."""

    username: str
    run: str
    address: str
    port: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Call:
    """The same, sealed. `certificate` is the one that the server must have, in DER."""

    wanted: Wanted
    certificate: bytes
    seal: str


def ask(paths: CoursePaths, wanted: Sequence[Wanted], patience: float = PATIENCE) -> dict[str, Any]:
    """In a child that is root. The answers by username, as JSON (`found_in`)."""
    return _sealed_and_sent(paths, json.loads(root_files.read(paths.hashes) or "{}"), wanted, patience)


def renew(paths: CoursePaths, wanted: Sequence[Wanted], passwords: int) -> list[str]:
    """In a child that is root: give these servers other passwords. `passwords` is a memory file with JSON: username →
    the hash of the last password and that of the new one. Returns the students whose servers have taken it over.
    """
    given = json.loads(read_and_close(passwords))
    bodies = {
        one.username: replace(HostRequest.parse(one.body), hashed_password=given[one.username][1]) for one in wanted
    }
    renewed = [replace(one, body=bodies[one.username].to_bytes()) for one in wanted]
    found = _sealed_and_sent(paths, {name: old for name, (old, _new) in given.items()}, renewed, PATIENCE)
    return sorted(name for name, answer in found.items() if isinstance(found_in(answer), HostAnswer))


def _sealed_and_sent(
    paths: CoursePaths, hashed: Mapping[str, str], wanted: Sequence[Wanted], patience: float
) -> dict[str, Any]:
    authority = root_files.read(paths.tls / "ca.pem")
    if authority is None:
        raise HostError(f"{paths.tls / 'ca.pem'} is missing", "Run `nblauncher launch` again.")
    # Servers go on with certificates of a CA that was replaced.
    authority += "".join(filter(None, map(root_files.read, sorted(paths.tls.glob("ca-*.pem")))))
    calls, answers = [], {}
    for one in wanted:
        certificate = _der(root_files.read(paths.server_certificate(one.username)) or "")
        if not certificate or one.username not in hashed:
            answers[one.username] = "the class has no certificate or no password of this student"
            continue
        seal = host_requests.seal(hashed[one.username], one.username, one.run, one.body)
        calls.append(Call(one, certificate, seal))
    if calls:
        given = (authority, calls, patience)
        answers |= workers.run_as(relays.account(), call_all, *given, timeout=patience + _MORE)
    return answers


def found_in(given: object) -> Found:
    """One of `ask`. It comes from a child that talked to a student's server."""
    if isinstance(given, str):
        return given
    try:
        return HostAnswer.of(given)
    except ValueError as error:
        return str(error)


def call_all(authority: str, calls: Sequence[Call], patience: float = PATIENCE) -> dict[str, Any]:
    """In a child that is not root. Servers that do not answer in time are told as such, whatever they do."""
    until = time.monotonic() + patience
    context = _context(authority)
    answers: dict[str, Any] = {}

    def call(one: Call) -> None:
        try:
            answers[one.wanted.username] = _post(context, one, until).to_json()
        except (OSError, ValueError) as error:
            answers[one.wanted.username] = _words(error)

    threading.stack_size(_STACK)
    threads = [threading.Thread(target=call, args=(one,), daemon=True) for one in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return {one.wanted.username: _words(TimeoutError()) for one in calls} | dict(answers)


def _post(context: ssl.SSLContext, call: Call, until: float) -> HostAnswer:
    """OSError, and ValueError for an answer that a server of ours does not give."""
    wanted = call.wanted
    with socket.create_connection((wanted.address, wanted.port), timeout=_rest(until)) as plain:
        plain.settimeout(_rest(until))
        with context.wrap_socket(plain) as connection:
            if connection.getpeercert(binary_form=True) != call.certificate:
                raise ValueError("it has another student's certificate, or an old one")
            connection.settimeout(_rest(until))
            connection.sendall(_request(call))
            return HostAnswer.parse(_body(_answer(connection, until)))


def _request(call: Call) -> bytes:
    wanted = call.wanted
    host = f"[{wanted.address}]" if ":" in wanted.address else wanted.address
    lines = (
        f"POST /user/{wanted.username}/{host_requests.PATH} HTTP/1.1",
        f"Host: {host}:{wanted.port}",
        f"{host_requests.HEADER}: {call.seal}",
        "Content-Type: application/json",
        f"Content-Length: {len(wanted.body)}",
        "Connection: close",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii") + wanted.body


def _answer(connection: ssl.SSLSocket, until: float) -> bytes:
    """All of it, as long as that is within the limits."""
    answer = b""
    while True:
        connection.settimeout(_rest(until))
        part = connection.recv(_HEAD)
        if not part:
            return answer
        answer += part
        if len(answer) > _HEAD + LARGEST_ANSWER:
            raise ValueError("the answer is too long")


def _body(answer: bytes) -> bytes:
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator or not head.startswith(b"HTTP/1.1 200 "):
        is_refused = head.startswith(b"HTTP/1.1 403 ")
        raise ValueError("it refuses the request: is its clock right?" if is_refused else "it answers something else")
    return body


def _context(authority: str) -> ssl.SSLContext:
    """For certificates of the class's CA. The name in them is the class's; `_post` compares the whole certificate."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=authority)
    return context


def _der(certificate: str) -> bytes:
    """Empty if it is damaged."""
    import ssl

    try:
        return ssl.PEM_cert_to_DER_cert(certificate)
    except ValueError:
        return b""


def _words(error: OSError | ValueError) -> str:
    """Nothing in here is the student's own."""
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    if isinstance(error, OSError):
        return f"it cannot be reached: {type(error).__name__}"
    return str(error)


def _rest(until: float) -> float:
    rest = until - time.monotonic()
    if rest <= 0:
        raise TimeoutError
    return rest
