"""Tickets that a server on a node checks by itself."""

from __future__ import annotations

import pytest

from nblauncher.auth.sealed_tickets import Redeemed, issue
from nblauncher.auth.tickets import Admission
from tests.fakes import Clock

HASH, OTHER = "argon2:$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA", "argon2:$argon2id$v=19$m=19456,t=2,p=1$b$Yw"
VISIT = "0123456789abcdef"


@pytest.fixture
def clock() -> Clock:
    made = Clock()
    made.now = 1_000_000.0
    return made


def test_a_ticket_signs_in_once(clock):
    server, ticket = Redeemed(clock), issue("ada", HASH, clock=clock)
    assert server.redeem("ada", HASH, ticket) == Admission()
    assert server.redeem("ada", HASH, ticket) is None


def test_a_ticket_is_for_one_student_and_one_password(clock):
    ticket = issue("ada", HASH, clock=clock)
    for username, hashed in (("bob", HASH), ("ada", OTHER), ("bob", OTHER)):
        assert Redeemed(clock).redeem(username, hashed, ticket) is None


def test_the_ticket_of_a_link_names_the_visit_and_works_once(clock):
    server, ticket = Redeemed(clock), issue("ada", HASH, VISIT, clock)
    assert server.redeem("ada", HASH, ticket) == Admission(VISIT)
    assert server.redeem("ada", HASH, ticket) is None


def test_a_visit_can_be_neither_added_nor_exchanged_nor_left_out(clock):
    plain, visit = issue("ada", HASH, clock=clock), issue("ada", HASH, VISIT, clock)
    added, left_out, exchanged = f"{plain}.{VISIT}", visit.removesuffix(f".{VISIT}"), visit[:-1] + "0"
    for forged in (added, left_out, exchanged, f"{plain}.", f"{visit}.{VISIT}"):
        assert Redeemed(clock).redeem("ada", HASH, forged) is None


@pytest.mark.parametrize("text", ["", "x", "é.a.b", "é.a.b.0123456789abcdef", "\n"])
def test_anything_else_is_not_a_ticket(clock, text):
    assert Redeemed(clock).redeem("ada", HASH, text) is None
