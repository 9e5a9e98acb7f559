"""check --logins: what its lines say, and that a password is compared with its hash before it is typed."""

from __future__ import annotations

import pytest

from nblauncher.preflight import logins
from nblauncher.preflight.logins import Login, Outcome

OK = Outcome("ok")
CHANGED = Outcome("not tried", "the student changed the password")
SHUT = Outcome("failed", "the password is right, and the login ended with status 4")
HASH = "$6$abcdefgh$Lhx7K6G4iJgXuL4//UnkhC.H3r85cUrKCcnm3wFiCD2BE.G39PUt2XrCcR3jfTFvrH6HLkZJBizCyiKT5ONqx1"


def lines(*found: Login) -> list[str]:
    return [f"{one.level} {one.subject}: {one.message}" for one in logins.findings(found)]


def test_when_every_student_gets_in_there_is_a_line_for_each_way():
    assert lines(Login("ada", OK, OK), Login("bob", OK, OK)) == [
        "ok su: 2 of 2 students can sign in",
        "ok front page: 2 of 2 students can sign in",
    ]
    assert logins.verdict([Login("ada", OK, OK)]) == "No student was kept out."


def test_students_with_the_same_reason_share_a_line_and_a_changed_password_is_only_a_warning():
    found = [Login("ada", CHANGED, OK), Login("bob", SHUT, OK), Login("eve", CHANGED, OK)]
    assert lines(*found) == [
        "warning su: 0 of 3 students can sign in",
        "warning su: ada, eve: the student changed the password",
        "problem su: bob: the password is right, and the login ended with status 4",
        "ok front page: 3 of 3 students can sign in",
    ]
    assert logins.verdict(found) == "1 of 3 students could not get in."


@pytest.mark.parametrize(("typed", "is_right"), [("abcd-efgh-jkmn-pqrs", True), ("abcd-efgh-jkmn-pqrt", False)])
def test_a_password_is_compared_with_the_hash_of_the_system(typed, is_right):
    assert (logins.hash_of(typed, HASH) == HASH) is is_right


@pytest.mark.parametrize("hashed", ["", "!", "*", "x", "$nonsense$"])
def test_what_is_not_a_hash_matches_no_password(hashed):
    assert logins.hash_of("abcd-efgh-jkmn-pqrs", hashed) is None
