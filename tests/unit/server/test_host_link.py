"""How a server on a node takes the requests of the class's host."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from nblauncher.server import activity, host_requests
from nblauncher.server.activity import Activity
from nblauncher.server.host_link import HostLink
from nblauncher.server.host_requests import HostAnswer, HostRequest
from nblauncher.server.job_memory import JobMemory
from nblauncher.server.notice_board import NoticeBoard
from nblauncher.server.notices import Message, Notices
from nblauncher.server.sessions import Sessions

HASH, NOW = "argon2:$argon2id$v=19$c2FsdA$aGFzaA", int(time.time())


class Reporter:
    ended = 0

    def kernels(self) -> tuple[int, int]:
        return 3, 1

    async def end_kernels(self) -> int:
        self.ended += 1
        return 3


class Server:
    def __init__(self, folder: Path) -> None:
        self.file = folder / "notices" / "1001.json"
        self.board = NoticeBoard(self.file, folder, Sessions(folder / "logged-out"))
        self.activity, self.reporter = Activity(None, "/user/ada/"), Reporter()
        self.passwords = [HASH]
        password = (lambda: self.passwords[-1]), self.passwords.append
        self.link = HostLink("0a", "ada", *password, self.file, self.board, self.activity, JobMemory(""))

    def take(self, *messages: Message, end_kernels: str = "") -> HostAnswer:
        return asyncio.run(self.link.take(HostRequest(Notices(messages).to_bytes(), end_kernels)))


@pytest.fixture
def server(tmp_path: Path) -> Server:
    made = Server(tmp_path)
    made.link.reporter = made.reporter
    return made


def test_what_the_student_is_told_is_shown_until_it_is_taken_back(server: Server):
    server.take(Message("1", "Five minutes left", NOW))
    assert [one["text"] for one in server.board.shown()["notices"]] == ["Five minutes left"]
    server.take()
    assert server.board.shown()["notices"] == []


def test_a_spoilt_file_is_written_again(server: Server):
    told = Message("1", "Five minutes left", NOW)
    server.take(told)
    server.file.write_bytes(b"{")
    server.take(told)
    assert [one["text"] for one in server.board.shown()["notices"]] == ["Five minutes left"]
    server.file.unlink()
    server.file.mkdir()
    with pytest.raises(OSError, match="directory"):
        server.take(told)
    server.file.rmdir()
    server.take(told)
    assert [one["text"] for one in server.board.shown()["notices"]] == ["Five minutes left"]


def test_it_says_how_often_something_was_done(server: Server):
    for word in (activity.SAVED, activity.USED, activity.USED, activity.SESSION):
        server.activity.report(word)
    answer = server.take()
    assert (answer.kernels, answer.busy) == (3, 1)
    assert (answer.saves, answer.uses, answer.sign_ins, answer.memory) == (1, 2, 1, None)


def test_kernels_are_ended_once_for_each_wish(server: Server):
    answer = server.take(end_kernels="0" * 16)
    assert (answer.ended, answer.ended_kernels, server.reporter.ended) == ("0" * 16, 3, 1)
    server.take(end_kernels="0" * 16)
    server.take()
    assert server.reporter.ended == 1
    server.take(end_kernels="1" * 16)
    assert server.reporter.ended == 2


def test_before_it_listens_it_has_no_kernels_and_ends_none(server: Server):
    server.link.reporter = None
    answer = server.take(end_kernels="0" * 16)
    assert (answer.kernels, answer.ended) == (0, "")


def test_the_seal_is_checked_with_the_present_password(server: Server):
    body = HostRequest(Notices().to_bytes()).to_bytes()
    seal = host_requests.seal(HASH, "ada", "0a", body)
    server.passwords.append("argon2:another")
    assert not server.link.is_sealed(seal, body)
    server.passwords.append(HASH)
    assert server.link.is_sealed(seal, body)


def test_another_password_is_taken_over_from_a_request_under_the_old_one(server: Server):
    body = HostRequest(Notices().to_bytes(), hashed_password="argon2:new").to_bytes()
    assert server.link.is_sealed(host_requests.seal(HASH, "ada", "0a", body), body)
    asyncio.run(server.link.take(HostRequest.parse(body)))
    assert server.passwords == [HASH, "argon2:new"]
    server.take()
    assert server.passwords[-1] == "argon2:new", "other requests leave it alone"
