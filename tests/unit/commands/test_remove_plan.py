"""What remove decides, from names and facts alone: who is deleted, who only leaves, who stays, and in which order."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from nblauncher.cli import plans
from nblauncher.cli.end import deletes_words
from nblauncher.commands import remove
from nblauncher.commands.deletion import DeleteHome
from nblauncher.errors import InputError
from nblauncher.ledger import Claim, CourseRecord, Membership
from nblauncher.model import Account, AccountState
from nblauncher.planning.plan import Plan
from nblauncher.planning.survey import Facts

COMPLETE, CHANGED, VANISHED = AccountState.COMPLETE, AccountState.CHANGED, AccountState.VANISHED
FOREIGN, GUEST, HALF_MADE = AccountState.FOREIGN, AccountState.GUEST, AccountState.HALF_MADE
NOW = datetime(2026, 11, 20, 9, 15, tzinfo=timezone.utc)


def facts(states: dict[str, AccountState], *, stage: str = "made", **more: object) -> Facts:
    """The students of a course, whose accounts are in these states."""
    accounts = {
        name: Account(name, 20000 + index, 20000 + index, Path("/home") / name, "/bin/bash", "nbl-1")
        for index, name in enumerate(states)
    }
    values: dict[str, object] = {
        "course": "c1",
        "record": CourseRecord("c1", "prof", 1000, "", 8000, True),
        "members": {name: Membership(name, 8001 + index) for index, name in enumerate(states)},
        "claims": {name: Claim(accounts[name], state is GUEST, stage) for name, state in states.items()},
        "found": {name: accounts[name] for name, state in states.items() if state is not VANISHED},
        "states": states,
    }
    return Facts(**{**values, **more})  # type: ignore[arg-type]


def planned(
    found: Facts,
    *usernames: str,
    claimed: tuple[str, ...] = (),
    despite: tuple[str, ...] = (),
    held: tuple[str, ...] = (),
) -> Plan:
    plan, _run = remove.plan(
        usernames or tuple(found.members),
        found,
        claimed=frozenset(claimed),
        despite_incomplete=frozenset(despite),
        held=frozenset(held),
        now=NOW,
    )
    return plan


def lines(*arguments: object, **options: object) -> list[str]:
    return [step.describe() for step in planned(*arguments, **options).steps]  # type: ignore[arg-type]


END = "forget the course when no student is left; its logs and the retrieved work stay"


def test_first_everything_is_retrieved_and_verified_then_it_is_deleted():
    assert lines(facts({"ada": COMPLETE})) == [
        "begin a retrieval",
        "stop 1 server",
        "lock account ada",
        "end every process of ada",
        "look for files outside of the homes",
        "retrieve the whole home of ada",
        "publish the retrieval",
        "check that everything was retrieved",
        "find who has files in temporary folders",
        "list what is left outside of the homes",
        "delete the home of ada",
        "delete account ada",
        "forget 1 student",
        END,
    ]


def test_homes_are_deleted_in_parallel_but_that_of_the_student_who_searches_the_folders_of_all():
    phases = planned(facts(dict.fromkeys(("ada", "bob", "eve"), COMPLETE))).phases
    titles = [phase.title for phase in phases if phase.steps]
    assert titles.index("look outside") == titles.index("end processes") + 1
    found = {phase.title: [step.describe() for step in phase.steps] for phase in phases}
    assert found["delete homes"] == ["delete the home of bob", "delete the home of eve"]
    assert titles.index("left outside") < titles.index("delete the first home") < titles.index("delete accounts")
    assert found["delete the first home"] == ["delete the home of ada"]
    assert [phase.parallel for phase in phases if phase.title == "delete accounts"] == [1]


def test_a_store_that_cannot_be_written_to_is_found_out_before_anybody_is_locked_out():
    assert lines(facts({"ada": COMPLETE, "bob": COMPLETE}))[0] == "begin a retrieval"


def test_a_course_without_students_is_ended_and_one_that_is_unknown_has_nothing_to_do():
    assert lines(facts({})) == [END]
    assert planned(Facts("c1")).is_empty


def test_the_course_goes_on_while_somebody_stays():
    both = facts({"ada": COMPLETE, "bob": COMPLETE})
    assert END not in lines(both, "ada")
    assert END in lines(both, "ada", "bob")
    assert END not in lines(facts({"ada": COMPLETE, "bob": CHANGED}))


def test_who_is_not_in_the_course_is_told_and_left_alone():
    plan = planned(facts({"ada": COMPLETE}), "eve")
    assert plan.is_empty
    assert plan.notes == ("eve is not in the course",)


@pytest.mark.parametrize(
    ("state", "note"),
    [
        (GUEST, "eve is a guest: only forgotten here"),
        (FOREIGN, "eve is no longer an account we made: only forgotten here"),
        (VANISHED, "eve is gone already: only forgotten here"),
    ],
)
def test_what_is_not_ours_is_not_locked_not_ended_not_read_and_not_deleted(state, note):
    plan = planned(facts({"eve": state}))
    assert [step.describe() for step in plan.steps] == ["stop 1 server", "forget eve; the account is left alone", END]
    assert plan.notes == (note,)


def test_a_student_of_another_course_only_leaves_and_takes_the_work_of_this_one_home():
    plan = planned(facts({"ada": COMPLETE}, elsewhere=frozenset({"ada"})))
    assert [step.describe() for step in plan.steps] == [
        "begin a retrieval",
        "stop 1 server",
        "retrieve the work of ada",
        "publish the retrieval",
        "forget ada; the account is left alone",
        END,
    ]
    assert plan.notes == ("ada is in another course as well: only forgotten here",)


def test_an_account_changed_by_hand_is_stopped_and_retrieved_and_stays():
    assert lines(facts({"ada": CHANGED})) == [
        "begin a retrieval",
        "stop 1 server",
        "retrieve the whole home of ada",
        "publish the retrieval",
        "keep account ada, which was changed by hand",
    ]


def test_a_claimed_account_is_made_ours_again_before_it_is_locked():
    found = lines(facts({"ada": CHANGED}), claimed=("ada",))
    assert found.index("claim account ada, which was changed by hand") < found.index("lock account ada")
    assert found.index("delete the home of ada") < found.index("delete account ada")


def test_a_claim_makes_nothing_ours_that_has_another_uid():
    assert not [line for line in lines(facts({"ada": FOREIGN}), claimed=("ada",)) if line.startswith("delete ")]


def test_a_half_made_account_is_discarded_and_one_that_was_never_made_is_forgotten():
    assert lines(facts({"ada": HALF_MADE}, stage="intended")) == ["stop 1 server", "discard half-made account ada", END]
    absent = facts({"ada": HALF_MADE}, stage="intended", found={})
    assert lines(absent) == ["stop 1 server", "forget ada; the account is left alone", END]


def test_a_home_that_we_emptied_ourselves_is_not_retrieved_again():
    found = facts({"ada": COMPLETE}, stage="emptying", without_home=frozenset({"ada"}))
    assert "retrieve the whole home of ada" not in lines(found)
    assert "delete account ada" in lines(found)


def test_a_home_that_is_merely_not_there_counts_as_work_unless_the_teacher_says_otherwise():
    found = facts({"ada": COMPLETE}, without_home=frozenset({"ada"}))
    assert "retrieve the whole home of ada" in lines(found)
    assert "delete account ada" in lines(found, despite=("ada",))


def test_a_home_that_is_there_again_is_retrieved_whatever_was_begun():
    found = facts({"ada": COMPLETE}, stage="emptying")
    assert "retrieve the whole home of ada" in lines(found)
    assert [step.is_gone for step in planned(found).steps if isinstance(step, DeleteHome)] == [False]


def test_a_class_that_goes_on_lets_go_of_those_who_left():
    both = facts({"ada": COMPLETE, "bob": COMPLETE})
    forget = "drop the removed students from the running class"
    assert forget in lines(both, "ada", held=("ada", "bob"))
    assert forget not in lines(both, "ada")
    assert lines(both, "nobody", held=("ada", "bob")) == []


def test_ports_that_a_crash_left_held_are_let_go_of():
    assert lines(facts({"bob": COMPLETE}), "nobody", held=("ada", "bob")) == [
        "drop the removed students from the running class"
    ]


def test_every_stranger_among_the_options_is_named():
    with pytest.raises(InputError) as refused:
        planned(facts({"ada": COMPLETE}), claimed=("adda",), despite=("bobb",))
    assert refused.value.problems == (
        '--claim: there is no student "adda"',
        '--despite-incomplete: there is no student "bobb"',
    )


# As a person reads it.


def shown(plan: Plan, **options: bool) -> list[str]:
    return plans.text("remove", plan, **options).splitlines()


def test_a_plan_for_many_is_a_line_for_each_kind_of_step_with_its_count():
    class_of_25 = {f"nbs{number:02}": COMPLETE for number in range(25)}
    assert shown(planned(facts(class_of_25))) == [
        "remove would, for 25 students (nbs00, nbs01, nbs02, nbs03, nbs04, nbs05, nbs06, nbs07, nbs08, nbs09 "
        "and 15 more):",
        "  begin a retrieval",
        "  stop 25 servers",
        "  lock the accounts of 25 students",
        "  end every process of 25 students",
        "  look for files outside of the homes",
        "  retrieve the whole home of 25 students",
        "  publish the retrieval",
        "  check that everything was retrieved",
        "  find who has files in temporary folders",
        "  delete the home of 24 students (nbs01, nbs02, nbs03, nbs04, nbs05, nbs06, nbs07, nbs08, nbs09, nbs10 "
        "and 14 more)",
        "  list what is left outside of the homes",
        "  delete the home of nbs00",
        "  delete the accounts of 25 students",
        "  forget 25 students",
        f"  {END}",
    ]
    assert len(shown(planned(facts(class_of_25)), every_step=True)) > 100


def test_who_differs_from_the_others_is_named():
    states = {f"nbs{number:02}": COMPLETE for number in range(6)} | {"zoe": CHANGED} | {"yan": GUEST}
    lines = shown(planned(facts(states)))
    assert "  lock the accounts of 6 students (nbs00, nbs01, nbs02, nbs03, nbs04, nbs05)" in lines
    assert "  keep account zoe, which was changed by hand" in lines
    assert "  forget yan; the account is left alone" in lines


def test_a_name_that_is_a_word_of_the_line_is_not_confused_with_it():
    states = dict.fromkeys(("account", "of", "home", "lock"), COMPLETE)
    lines = shown(planned(facts(states)))
    assert "  lock the accounts of 4 students" in lines and "  delete the accounts of 4 students" in lines


def test_the_question_says_how_many_accounts_and_that_it_is_final():
    assert deletes_words(2, None) == (
        "This deletes 2 accounts and their homes, which is final. What was retrieved stays."
    )
    assert deletes_words(1, 1_200_000) == (
        "This deletes 1 account and its home (1.2 MB), which is final. What was retrieved stays."
    )


def test_what_is_said_of_many_is_one_note():
    notes = [f"nbs{number:02} is a guest: only forgotten here" for number in range(12)]
    notes += ["zoe is not in the course", "the retrieved work stays"]
    assert plans.notes(notes) == [
        "for 12 students (nbs00, nbs01, nbs02, nbs03, nbs04, nbs05, nbs06, nbs07, nbs08, nbs09 and 2 more): "
        "NAME is a guest: only forgotten here",
        "zoe is not in the course",
        "the retrieved work stays",
    ]
    assert plans.notes(notes, every_note=True) == notes
