"""What setup decides, from a roster and facts alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nblauncher.commands import setup
from nblauncher.config.settings import AccountSettings, RetrieveSettings, Settings
from nblauncher.errors import InputError
from nblauncher.ledger import Claim, CourseRecord, Membership
from nblauncher.model import Account, AccountState, Material, Roster, Student
from nblauncher.planning.survey import Facts

OWNER = Account("prof", 1000, 1000, Path("/home/prof"))
SETTINGS = Settings(
    course="c1",
    students=Path("/c/students.csv"),
    credentials=Path("/c/credentials.csv"),
    material=Material(Path("/c/material"), "tutorial"),
    retrieve=RetrieveSettings(Path("/c/retrieved")),
)
GUESTS = Settings(
    **{**{f: getattr(SETTINGS, f) for f in SETTINGS.__slots__}, "accounts": AccountSettings(create=False)}
)
RECORD = CourseRecord("c1", "prof", 1000, "", 8000, True)


def account(name: str, uid: int) -> Account:
    return Account(name, uid, uid, Path("/home") / name, "/bin/bash", "nbl-1")


def roster(*names: str) -> Roster:
    return Roster(tuple(Student(name, line=number) for number, name in enumerate(names, start=2)))


def facts(states: dict[str, AccountState], *, stage: str = "made", is_guest: bool = False, **more: object) -> Facts:
    """Students of course c1 whose accounts are in these states; everything of the COMPLETE ones is done."""
    ours = [name for name, state in states.items() if state not in (AccountState.ABSENT, AccountState.FOREIGN)]
    done = frozenset(name for name, state in states.items() if state in (AccountState.COMPLETE, AccountState.GUEST))
    values: dict[str, object] = {
        "course": "c1",
        "record": RECORD,
        "members": {name: Membership(name, 8001 + index) for index, name in enumerate(ours)},
        "claims": {
            name: Claim(account(name, 20000 + i), is_guest, stage, has_password=not is_guest)
            for i, name in enumerate(ours)
        },
        "found": {
            name: account(name, 20000 + index)
            for index, (name, state) in enumerate(states.items())
            if state not in (AccountState.ABSENT, AccountState.VANISHED)
        },
        "states": states,
        "in_group": done,
        "with_passwords": done,
        "spent_ports": frozenset(8001 + index for index in range(len(ours))),
    }
    return Facts(**{**values, **more})  # type: ignore[arg-type]


def lines(wanted: Roster, found: Facts, settings: Settings = SETTINGS) -> list[str]:
    return [step.describe() for step in setup.plan(wanted, found, settings, OWNER).steps]


@pytest.mark.parametrize("state", [AccountState.ABSENT, AccountState.VANISHED, AccountState.HALF_MADE])
def test_the_name_of_a_group_of_the_host_is_refused_before_anything_is_made(state):
    with pytest.raises(InputError) as caught:
        lines(roster("ada", "staff"), facts({"staff": state}, groups={"staff": 50}))
    assert caught.value.problems == (
        'students.csv line 3: "staff" is the name of a group of this host (gid 50), and each account needs a group of '
        "its own name",
    )


def test_the_group_that_a_killed_useradd_left_is_no_obstacle():
    half = facts({"ada": AccountState.HALF_MADE}, groups={"ada": 20000})
    assert "complete half-made account ada" in lines(roster("ada"), half)


def test_a_new_class_gets_everything_in_phases():
    assert lines(roster("ada", "bob"), Facts("c1")) == [
        "set up course c1 for prof",
        "reserve uids for 2 new accounts",
        "create account ada",
        "create account bob",
        "add 2 students to the course",
        "generate passwords for 2 students",
    ]


def test_a_second_run_has_nothing_to_do():
    assert lines(roster("ada"), facts({"ada": AccountState.COMPLETE})) == []


def test_new_rows_are_added_and_the_others_are_left_alone():
    plan = setup.plan(roster("ada", "bob"), facts({"ada": AccountState.COMPLETE}), SETTINGS, OWNER)
    assert {name for step in plan.steps for name in step.usernames} == {"bob"}


def test_a_newcomer_takes_the_next_never_used_port():
    plan = setup.plan(roster("ada", "bob"), facts({"ada": AccountState.COMPLETE}), SETTINGS, OWNER)
    (join,) = (step for step in plan.steps if isinstance(step, setup.JoinCourse))
    assert join.ports == {"bob": 8002}


def test_a_student_of_another_host_keeps_port_and_password_unless_the_account_is_made_again():
    brought = {"imported": {"bob": 7}, "with_imported_passwords": frozenset({"bob"})}
    plan = setup.plan(roster("ada", "bob"), Facts("c1", **brought), SETTINGS, OWNER)
    (join,) = (step for step in plan.steps if isinstance(step, setup.JoinCourse))
    assert join.ports["bob"] == 8007
    assert plan.steps[-1].describe() == "generate passwords for 2 students, 1 of whom keep their notebook password"
    done = facts({"ada": AccountState.COMPLETE, "bob": AccountState.COMPLETE}, **brought)
    assert lines(roster("ada", "bob"), done) == []


def test_a_row_that_vanished_is_reported_and_never_removed():
    plan = setup.plan(roster(), facts({"ada": AccountState.COMPLETE}), SETTINGS, OWNER)
    assert plan.is_empty
    assert "ada is no longer in the roster" in plan.notes[0]


@pytest.mark.parametrize(
    "mode, state, has_password, elsewhere, planned",
    [
        ("none", AccountState.COMPLETE, True, False, ["disable the system passwords of 1 students"]),
        ("none", AccountState.COMPLETE, True, True, []),
        ("none", AccountState.COMPLETE, False, False, []),
        ("none", AccountState.CHANGED, True, False, []),
        ("generated", AccountState.COMPLETE, False, False, ["generate system passwords for 1 students"]),
        ("generated", AccountState.COMPLETE, True, False, []),
        ("generated", AccountState.CHANGED, False, False, []),
    ],
)
def test_setup_gives_and_takes_system_passwords_as_the_config_says(mode, state, has_password, elsewhere, planned):
    wanted = replace(SETTINGS, accounts=AccountSettings(system_password=mode))
    done = frozenset({"ada"})
    found = facts(
        {"ada": state},
        claims={"ada": Claim(account("ada", 20000), False, "made", has_password=has_password)},
        elsewhere=done if elsewhere else frozenset(),
        with_passwords=done,
        in_group=done,
    )
    assert lines(roster("ada"), found, wanted) == planned


def test_guests_and_newcomers_are_never_switched():
    for mode in ("none", "generated"):
        accounts = AccountSettings(create=False, system_password=mode)
        guest = facts({"ada": AccountState.GUEST}, is_guest=True)
        assert lines(roster("ada"), guest, replace(SETTINGS, accounts=accounts)) == []
    none = replace(SETTINGS, accounts=AccountSettings(system_password="none"))
    assert lines(roster("ada"), Facts("c1"), none)[-1] == "generate passwords for 1 students"


def test_rows_that_vanished_are_one_note_with_the_command_for_all_of_them():
    plan = setup.plan(roster(), facts({"ada": AccountState.COMPLETE, "bob": AccountState.COMPLETE}), SETTINGS, OWNER)
    (note,) = plan.notes
    assert note.startswith("2 students are no longer in the roster") and "remove --only ada,bob`" in note


@pytest.mark.parametrize("create", [SETTINGS, GUESTS])
def test_all_rows_that_must_not_be_touched_are_named_at_once(create):
    found = facts(
        {"root": AccountState.FOREIGN, "daemon": AccountState.FOREIGN},
        objections={"root": "uid 0", "daemon": "a system uid"},
    )
    with pytest.raises(InputError) as refused:
        setup.plan(roster("root", "daemon"), found, create, OWNER)
    assert len(refused.value.problems) == 2
    assert "line 2" in refused.value.problems[0]


def test_an_account_that_somebody_else_made_is_refused():
    with pytest.raises(InputError, match=r"line 2.*carol.*not ours"):
        setup.plan(roster("carol"), facts({"carol": AccountState.FOREIGN}), SETTINGS, OWNER)


def test_our_own_system_accounts_are_no_students():
    with pytest.raises(InputError, match="system account"):
        setup.plan(roster("nblauncher"), Facts("c1"), SETTINGS, OWNER)


def test_an_account_deleted_by_hand_is_reported_and_made_anew_with_new_passwords_on_its_old_port():
    found = facts({"ada": AccountState.VANISHED})
    plan = setup.plan(roster("ada"), found, SETTINGS, OWNER)
    assert [step.describe() for step in plan.steps] == [
        "reserve uids for 1 new accounts",
        "create account ada",
        "add 1 students to the course",
        "generate passwords for 1 students",
    ]
    assert "deleted by hand" in plan.notes[0]
    (join,) = (step for step in plan.steps if isinstance(step, setup.JoinCourse))
    assert join.ports == {}


def test_a_half_made_account_is_completed():
    assert "complete half-made account ada" in lines(roster("ada"), facts({"ada": AccountState.HALF_MADE}))


def test_a_claim_without_an_account_is_completed_too():
    found = facts({"ada": AccountState.HALF_MADE}, stage="intended", found={})
    assert lines(roster("ada"), found)[0] == "complete half-made account ada"


def test_a_student_whose_removal_did_not_finish_is_unlocked():
    found = facts({"ada": AccountState.COMPLETE}, locked=frozenset({"ada"}))
    assert lines(roster("ada"), found) == ["unlock account ada: its removal did not finish"]


def test_an_account_whose_home_a_removal_deleted_is_made_anew_with_new_passwords():
    locked = {"locked": frozenset({"ada"}), "stage": "emptying"}
    assert lines(roster("ada"), facts({"ada": AccountState.COMPLETE}, without_home=frozenset({"ada"}), **locked)) == [
        "complete half-made account ada",
        "add 1 students to the course",
        "generate passwords for 1 students",
    ]
    assert lines(roster("ada"), facts({"ada": AccountState.COMPLETE}, **locked)) == [
        "unlock account ada: its removal did not finish"
    ]


def test_a_student_of_another_course_joins_and_keeps_the_system_password():
    other = facts({"ada": AccountState.COMPLETE}, members={}, in_group=frozenset(), with_passwords=frozenset())
    claims = {"ada": Claim(account("ada", 20000), False, "made", has_password=True)}
    found = Facts(**{**other.__dict__, "claims": claims, "elsewhere": frozenset({"ada"})})
    plan = setup.plan(roster("ada"), found, SETTINGS, OWNER)
    assert [step.describe() for step in plan.steps] == [
        "add 1 students to the course",
        "generate passwords for 1 students",
    ]
    (passwords,) = (step for step in plan.steps if isinstance(step, setup.SetPasswords))
    assert passwords.with_system_password == frozenset()


def test_an_account_changed_by_hand_is_served_and_reported():
    found = facts({"ada": AccountState.CHANGED}, in_group=frozenset({"ada"}), with_passwords=frozenset({"ada"}))
    plan = setup.plan(roster("ada"), found, SETTINGS, OWNER)
    assert plan.is_empty
    assert "--claim ada" in plan.notes[0]


def test_guests_are_recorded_and_never_get_a_system_password_a_group_or_an_account():
    found = facts({"carol": AccountState.FOREIGN}, members={}, claims={})
    plan = setup.plan(roster("carol"), found, GUESTS, OWNER)
    kinds = [type(step) for step in plan.steps]
    assert kinds == [setup.RecordGuests, setup.JoinCourse, setup.SetPasswords]
    assert plan.steps[1].grouped == ()  # type: ignore[attr-defined]
    assert plan.steps[2].with_system_password == frozenset()  # type: ignore[attr-defined]


def test_a_guest_without_an_account_is_refused():
    with pytest.raises(InputError, match='no account "carol"'):
        setup.plan(roster("carol"), Facts("c1"), GUESTS, OWNER)


def test_a_guest_whose_uid_changed_is_refused():
    found = facts({"carol": AccountState.FOREIGN}, claims={"carol": Claim(account("carol", 1), True, "made")})
    with pytest.raises(InputError, match="a different uid"):
        setup.plan(roster("carol"), found, GUESTS, OWNER)
