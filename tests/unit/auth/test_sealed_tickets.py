"""Tickets that a server on a node checks by itself."""

from __future__ import annotations

import pytest

from nblauncher.auth.sealed_tickets import LIFETIME, Redeemed, issue

HASH, OTHER = "argon2:$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA", "argon2:$argon2id$v=19$m=19456,t=2,p=1$b$Yw"


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_ticket_signs_in_once(clock):
    server, ticket = Redeemed(clock), issue("ada", HASH, clock)
    assert server.redeem("ada", HASH, ticket)
    assert not server.redeem("ada", HASH, ticket)


def test_a_ticket_is_for_one_student_and_one_password(clock):
    ticket = issue("ada", HASH, clock)
    assert not Redeemed(clock).redeem("bob", HASH, ticket)
    assert not Redeemed(clock).redeem("ada", OTHER, ticket)
    assert not Redeemed(clock).redeem("bob", OTHER, ticket)


@pytest.mark.parametrize("seconds", [-LIFETIME - 1, LIFETIME + 1])
def test_a_ticket_of_another_time_is_void(clock, seconds):
    server = Redeemed(clock)
    clock.now += 10 * LIFETIME
    ticket = issue("ada", HASH, clock)
    clock.now += seconds
    assert not server.redeem("ada", HASH, ticket)


def test_a_used_ticket_stays_used_for_as_long_as_its_time_would_be_right(clock):
    server = Redeemed(clock)
    clock.now += LIFETIME
    ticket = issue("ada", HASH, clock)
    clock.now -= LIFETIME  # the front page's clock is ahead
    assert server.redeem("ada", HASH, ticket)
    clock.now += 2 * LIFETIME
    assert not server.redeem("ada", HASH, ticket)


@pytest.mark.parametrize("text", ["", "x", "0" * 200, "00000000.AAAAAAAAAAAAAAAAAAAAAA." + "A" * 43, "é.a.b", "\n"])
def test_anything_else_is_no_ticket(clock, text):
    assert not Redeemed(clock).redeem("ada", HASH, text)


def test_a_ticket_from_before_the_server_began_may_have_been_used(clock):
    ticket = issue("ada", HASH, clock)
    clock.now += LIFETIME / 2
    assert not Redeemed(clock).redeem("ada", HASH, ticket)


def test_a_changed_ticket_is_void(clock):
    ticket = issue("ada", HASH, clock)
    later = f"{int(clock.now) + 1:08x}{ticket[8:]}"
    assert not Redeemed(clock).redeem("ada", HASH, later)
    assert not Redeemed(clock).redeem("ada", HASH, ticket + "\n")
