"""What the class's host asks of a server on a node, and which answers it takes."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from nblauncher.server import host_requests
from nblauncher.server.host_requests import LARGEST, LARGEST_ANSWER, HostAnswer, HostRequest
from nblauncher.server.notices import Message, Notices
from nblauncher.system.seals import Seals

HASH, OTHER = "argon2:$argon2id$v=19$c2FsdA$aGFzaA", "argon2:$argon2id$v=19$b$Yw"
ASKED = HostRequest(Notices((Message("1", "Fünf Minuten", 1),)).to_bytes(), "0123456789abcdef")
ANSWER = HostAnswer(2, 1, 3, 4, 1, 81_000_000, "0123456789abcdef", 2)
GIVEN = asdict(ANSWER)


def is_sealed(seal: str, body: bytes, username: str = "ada", run: str = "0a", hashed: str = HASH) -> bool:
    about = {"hashed_password": hashed, "username": username, "run": run}
    return host_requests.is_sealed(Seals(), seal, body=body, **about)


def test_request_and_answer_come_through():
    assert HostRequest.parse(ASKED.to_bytes()) == ASKED
    assert HostAnswer.parse(ANSWER.to_bytes()) == ANSWER
    assert HostAnswer.parse(replace(ANSWER, memory=None).to_bytes()).memory is None


def test_a_request_is_for_one_student_one_start_and_one_content():
    body = ASKED.to_bytes()
    seal = host_requests.seal(HASH, "ada", "0a", body)
    assert is_sealed(seal, body)
    assert not is_sealed(seal, body, username="bob")
    assert not is_sealed(seal, body, run="0b")
    assert not is_sealed(seal, body, hashed=OTHER)
    assert not is_sealed(seal, body.replace(b"1", b"2"))
    used = Seals()
    about = {"hashed_password": HASH, "username": "ada", "run": "0a", "body": body}
    assert host_requests.is_sealed(used, seal, **about) and not host_requests.is_sealed(used, seal, **about)


def test_a_request_that_is_too_large_is_refused():
    body = b" " * (LARGEST + 1)
    assert not is_sealed(host_requests.seal(HASH, "ada", "0a", body), body)


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 1000,
        b'{"kernels": ' + b"1" * 900 + b"}",
        b" " * LARGEST_ANSWER + ANSWER.to_bytes(),
        *(json.dumps({**GIVEN, key: -1}).encode() for key in ("kernels", "busy", "saves", "uses", "memory")),
        *(json.dumps({**GIVEN, "kernels": wrong}).encode() for wrong in (True, "1", 1.0, None, 10_000, [1])),
        *(json.dumps({**GIVEN, "memory": wrong}).encode() for wrong in (2**60, "1", 1.5)),
        *(json.dumps({**GIVEN, "ended": wrong}).encode() for wrong in (None, 1, "x", "0" * 17, "0123456789abcdef\n")),
        json.dumps({key: value for key, value in GIVEN.items() if key != "uses"}).encode(),
    ],
)
def test_whatever_else_a_server_answers_is_refused(given):
    with pytest.raises(ValueError, match=r"."):
        HostAnswer.parse(given)
