"""Seals that only a holder of the secret can make, good once."""

from __future__ import annotations

import pytest

from nblauncher.system.seals import LIFETIME, Seals, make
from tests.fakes import Clock

HASH, OTHER = "argon2:$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA", "argon2:$argon2id$v=19$m=19456,t=2,p=1$b$Yw"


@pytest.fixture
def clock() -> Clock:
    made = Clock()
    made.now = 1_000_000.0
    return made


def test_a_seal_is_good_once(clock):
    server, seal = Seals(clock), make(HASH, "request", "ada 1", clock)
    assert server.accept(HASH, "request", "ada 1", seal)
    assert not server.accept(HASH, "request", "ada 1", seal)


def test_a_seal_is_for_one_secret_one_purpose_and_one_thing(clock):
    seal, server = make(HASH, "request", "ada 1", clock), Seals(clock)
    assert not server.accept(OTHER, "request", "ada 1", seal)
    assert not server.accept(HASH, "ticket", "ada 1", seal)
    assert not server.accept(HASH, "request", "ada 2", seal)
    assert server.accept(HASH, "request", "ada 1", seal), "what was refused is not used up"


@pytest.mark.parametrize("seconds", [-LIFETIME - 1, LIFETIME + 1])
def test_a_seal_of_another_time_is_void(clock, seconds):
    server = Seals(clock)
    clock.now += 10 * LIFETIME
    seal = make(HASH, "request", "ada", clock)
    clock.now += seconds
    assert not server.accept(HASH, "request", "ada", seal)


def test_a_used_seal_stays_used_for_as_long_as_its_time_would_be_right(clock):
    server = Seals(clock)
    clock.now += LIFETIME
    seal = make(HASH, "request", "ada", clock)
    clock.now -= LIFETIME  # the other clock is ahead
    assert server.accept(HASH, "request", "ada", seal)
    clock.now += 2 * LIFETIME
    assert not server.accept(HASH, "request", "ada", seal)


def test_a_seal_from_before_the_server_began_may_have_been_used(clock):
    seal = make(HASH, "request", "ada", clock)
    clock.now += LIFETIME / 2
    assert not Seals(clock).accept(HASH, "request", "ada", seal)


@pytest.mark.parametrize("text", ["", "x", "0" * 200, "00000000.AAAAAAAAAAAAAAAAAAAAAA." + "A" * 43, "é.a.b", "\n"])
def test_anything_else_is_not_a_seal(clock, text):
    assert not Seals(clock).accept(HASH, "request", "ada", text)


def test_a_changed_seal_is_void(clock):
    seal = make(HASH, "request", "ada", clock)
    later = f"{int(clock.now) + 1:08x}{seal[8:]}"
    assert not Seals(clock).accept(HASH, "request", "ada", later)
    assert not Seals(clock).accept(HASH, "request", "ada", seal + "\n")
