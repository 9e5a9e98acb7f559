"""Other students and passwords for a front page that runs."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace

import pytest

from nblauncher.auth import passwords
from nblauncher.auth.checker import PasswordChecker
from nblauncher.auth.tickets import TicketBook
from nblauncher.web.inputs import ClassPage, Enrolled, render_config
from nblauncher.web.renewals import Renewals

PAGE = ClassPage(
    course="waves",
    interface="notebook",
    front_port=8000,
    hosts=frozenset({"localhost"}),
    has_tls=False,
    ca_pem=None,
    ca_fingerprint=None,
    students={"ada": Enrolled(1001, 8001, "argon2:old")},
)
NEW = replace(PAGE, students={"ada": Enrolled(1001, 8001, "argon2:new", is_locked=True)})


def told(config: bytes) -> tuple[bytes, list[ClassPage]]:
    """The front page's answer to this config, and what it took over."""
    taken: list[ClassPage] = []

    async def talk() -> bytes:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        renewals = Renewals(theirs, PAGE, taken.append)
        try:
            with memory_file(config) as file:
                socket.send_fds(ours, [b"renew"], [file.fileno()])
            ours.setblocking(False)
            return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ours, 64), 5)
        finally:
            renewals.close()
            ours.close()

    return asyncio.run(talk()), taken


def memory_file(content: bytes):
    file = open(os.memfd_create("config"), "r+b")  # noqa: SIM115
    file.write(content)
    file.flush()
    return file


def test_students_and_passwords_are_taken_over():
    assert told(render_config(NEW)) == (b"taken", [NEW])


@pytest.mark.parametrize("config", [b"", b"{}", b"[]", render_config(replace(NEW, course="optics"))])
def test_anything_but_this_class_with_other_students_is_refused(config):
    assert told(config) == (b"refused", [])


def test_a_check_that_began_with_the_old_password_admits_no_student():
    old = passwords.generate()
    hashes = {"ada": passwords.jupyter_hash(old)}

    async def check(changes: bool) -> bool:
        checker = PasswordChecker(hashes)
        try:
            running = asyncio.ensure_future(checker.is_right("192.0.2.1", "ada", old.reveal()))
            await asyncio.sleep(0)
            if changes:
                hashes["ada"] = passwords.jupyter_hash(passwords.generate())
            return await running
        finally:
            checker.close()

    assert asyncio.run(check(changes=False))
    assert not asyncio.run(check(changes=True))


def test_the_tickets_of_one_student_are_void_and_no_others():
    book = TicketBook()
    adas, bobs = book.issue("ada"), book.issue("bob")
    book.forget("ada")
    assert book.redeem(adas) is None
    assert book.redeem(bobs) == "bob"
