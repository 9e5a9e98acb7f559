"""A ticket signs in one student, once, within half a minute."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from nblauncher.auth.tickets import MAX_LINE, Admission, TicketBook, admission_in, answer_line, is_well_formed, redeem
from tests.fakes import Clock


def test_a_ticket_is_redeemed_once():
    book = TicketBook()
    ticket = book.issue("ada")
    assert book.redeem(ticket) == "ada"
    assert book.redeem(ticket) is None


def test_a_ticket_is_good_for_thirty_seconds():
    clock = Clock()
    book = TicketBook(clock=clock)
    early, late = book.issue("ada"), book.issue("ada")
    clock.now += 29.9
    assert book.redeem(early) == "ada"
    clock.now += 0.1
    assert book.redeem(late) is None
    assert len(book) == 0


def test_a_neighbour_can_neither_use_nor_spoil_a_ticket():
    book = TicketBook()
    ticket = book.issue("ada")
    assert book.redeem(ticket, lambda username: username == "bob") is None
    assert book.redeem(ticket, lambda username: username == "ada") == "ada"


def test_tickets_are_kept_as_hashes():
    book = TicketBook()
    ticket = book.issue("ada")
    assert ticket not in repr(vars(book))
    assert is_well_formed(ticket)


def test_one_student_cannot_crowd_out_anothers_ticket():
    book = TicketBook(per_student=3)
    hers = book.issue("ada")
    his = [book.issue("bob") for _ in range(100)]
    assert len(book) == 4
    assert [book.redeem(ticket) for ticket in his[-3:]] == ["bob"] * 3
    assert book.redeem(his[0]) is None
    assert book.redeem(hers) == "ada"


@pytest.mark.parametrize("text", ["", "x", "A" * 23, "A" * 21 + "\n", "A" * 21 + "é", "\ud800" * 22])
def test_text_that_is_no_ticket_is_not_redeemed(text):
    assert not is_well_formed(text)
    assert TicketBook().redeem(text) is None


def served(path: Path, answer: bytes | None) -> threading.Thread:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, listener:
            connection.recv(64)
            if answer is not None:
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("answer", "is_good"),
    [
        (answer_line(True), True),
        (answer_line(False), False),
        (b"", False),
        (b"[]\n", False),
        (b'{"ok": 1}\n', False),
        (b"\xff\n", False),
        (b"x" * 500, False),
    ],
)
def test_only_a_clear_yes_redeems(tmp_path, answer, is_good):
    thread = served(tmp_path / "s", answer)
    assert redeem(tmp_path / "s", TicketBook().issue("ada")) is is_good
    thread.join()


def test_nobody_there_is_a_no(tmp_path):
    assert not redeem(tmp_path / "absent", TicketBook().issue("ada"))


def test_what_is_no_ticket_is_not_even_sent(tmp_path):
    assert not redeem(tmp_path / "absent", "A\n" * 11)


def test_a_teachers_ticket_names_the_visit():
    book = TicketBook()
    entry = book.take(book.issue("ada", visit="0123456789abcdef"))
    assert entry is not None and (entry.username, entry.visit) == ("ada", "0123456789abcdef")
    answer = answer_line(True, entry.visit)
    assert len(answer) < MAX_LINE
    assert admission_in(answer) == Admission("0123456789abcdef")
    assert admission_in(answer_line(True)) == Admission("")
    assert answer_line(False, entry.visit) == answer_line(False)


@pytest.mark.parametrize("visit", ["x", 7, None, "0123456789ABCDEF", "0" * 17, ["0" * 16]])
def test_a_yes_with_something_else_for_a_visit_is_a_no(visit):
    """It must never become a session of the student's own, which would not end with the visit."""
    assert admission_in(json.dumps({"ok": True, "visit": visit}).encode()) is None


def test_a_full_queue_is_waited_for(tmp_path):
    """Any student can fill it for a moment, and a unix socket then says EAGAIN at once."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen(0)
    hog = socket.socket(socket.AF_UNIX)
    hog.connect(str(tmp_path / "s"))
    answers = []
    asking = threading.Thread(
        target=lambda: answers.append(redeem(tmp_path / "s", TicketBook().issue("ada"), timeout=30))
    )
    with socket.socket(socket.AF_UNIX) as another, listener, hog:
        another.setblocking(False)
        with pytest.raises(BlockingIOError):
            another.connect(str(tmp_path / "s"))
        asking.start()
        listener.accept()[0].close()
        connection, _ = listener.accept()
        with connection:
            connection.recv(64)
            connection.sendall(answer_line(True))
        asking.join()
    assert answers == [True]
