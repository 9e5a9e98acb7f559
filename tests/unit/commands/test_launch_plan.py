"""What launch decides to do, and how status and shutdown are put into words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from nblauncher.commands.accepted import AcceptInputs
from nblauncher.commands.running import launch, shutdown, status
from nblauncher.commands.running.launch import NotSetUp
from nblauncher.commands.running.starting import ClassNow, StartServers
from nblauncher.errors import HostError, RefusedError
from nblauncher.ledger import Membership
from nblauncher.model import AccountState
from nblauncher.planning.plan import Plan, Report
from nblauncher.planning.survey import Facts
from nblauncher.system import memory

NAMES = ("ada", "bob", "eve")


def facts(**changed: object) -> Facts:
    whole: dict[str, object] = {
        "course": "physics101",
        "members": {name: Membership(name, 8001 + number) for number, name in enumerate(NAMES)},
        "states": dict.fromkeys(NAMES, AccountState.COMPLETE),
        "with_passwords": frozenset(NAMES),
    }
    return Facts(**{**whole, **changed})  # type: ignore[arg-type]


def planned(
    found: Facts,
    *usernames: str,
    running: tuple[str, ...] = (),
    front: bool = False,
    outdated: Sequence[str] = (),
    **more: object,
) -> Plan:
    now = ClassNow(served=running, outdated=outdated, front_page_is_current=front)
    return launch.plan(usernames or NAMES, found, now, **more)  # type: ignore[arg-type]


def described(plan: Plan) -> list[str]:
    return [step.describe() for step in plan.steps]


def test_a_class_begins_with_its_ports_and_ends_with_the_front_page():
    assert described(planned(facts())) == ["hold the class's ports", "start 3 servers", "start the front page"]


def test_what_runs_is_left_alone():
    plan = planned(facts(), running=("ada", "eve"), front=True)
    assert described(plan) == ["hold the class's ports", "start 1 server"]
    assert planned(facts(), running=NAMES, front=True).is_empty
    assert described(planned(facts(), running=NAMES)) == ["hold the class's ports", "start the front page"]


def test_servers_that_memory_has_no_room_for_are_not_started(monkeypatch):
    monkeypatch.setattr(memory, "room", lambda: memory.Room(0, 2 * memory.server_bytes("forkserver")))
    with pytest.raises(RefusedError, match="3 servers need 78 MB of memory and 52 MB are left"):
        launch.refuse_what_does_not_fit(planned(facts()), "forkserver")
    launch.refuse_what_does_not_fit(planned(facts(), running=("ada",)), "forkserver")
    launch.refuse_what_does_not_fit(planned(facts(), on_demand=True), "forkserver")


@pytest.mark.parametrize("state", [AccountState.CHANGED, AccountState.GUEST])
def test_accounts_changed_by_hand_and_guests_are_served(state):
    plan = planned(facts(states=dict.fromkeys(NAMES, state)))
    assert plan.steps[1] == StartServers(NAMES)


@pytest.mark.parametrize(
    "changed",
    [
        {"states": {"ada": AccountState.COMPLETE, "bob": AccountState.VANISHED, "eve": AccountState.COMPLETE}},
        {"states": {"ada": AccountState.COMPLETE, "bob": AccountState.FOREIGN, "eve": AccountState.COMPLETE}},
        {"with_passwords": frozenset({"ada", "eve"})},
        {"members": {"ada": Membership("ada", 8001), "eve": Membership("eve", 8003)}},
    ],
)
def test_who_is_not_set_up_fails_and_the_others_are_started(changed):
    plan = planned(facts(**changed))
    assert plan.steps[0] == NotSetUp(("bob",))
    assert plan.steps[2] == StartServers(("ada", "eve"))


def test_who_is_being_removed_is_not_served_and_is_said():
    plan = planned(facts(locked=frozenset({"bob"})))
    assert plan.steps[1] == StartServers(("ada", "eve"))
    assert [note for note in plan.notes if note.startswith("bob ")]


def test_the_inputs_are_remembered_before_the_front_page_which_restarts_from_them():
    accepted = AcceptInputs((("notebooks.cfg", b"course: physics101\n"),))
    plan = planned(facts(), running=NAMES, new_inputs=accepted)
    assert plan.steps[-2:] == (accepted, plan.steps[-1])
    assert plan.steps[-1].describe() == "start the front page"
    assert planned(facts(), running=NAMES, front=True, new_inputs=accepted).steps == (accepted,)


def test_before_setup_there_is_nothing_to_launch():
    with pytest.raises(HostError, match="no student is set up"):
        planned(Facts("physics101"), "ada")


def test_warnings_become_notes():
    assert planned(facts(), warnings=["tls.mode is off"]).notes == ("tls.mode is off",)


def test_servers_with_an_older_config_are_left_alone_and_said():
    plan = planned(facts(), running=NAMES, front=True, outdated=["ada", "bob"])
    assert plan.is_empty
    (note,) = plan.notes
    assert note.startswith("ada, bob: running with an older config") and "nblauncher shutdown" in note
    assert planned(facts(), running=NAMES, front=True, outdated=[*"abcdef"]).notes[0].startswith("6 servers:")


def test_status_in_one_line():
    entries = [{"server": "ready"}, {"server": "failed"}, {"server": "ready"}]
    assert status.summary(entries, "stopped") == "1 failed, 2 ready; the front page is stopped"
    assert status.summary([], "stopped") == "no students; the front page is stopped"


def test_shutdown_lists_processes_that_it_could_not_prove_to_be_the_classs():
    report = Report.of(["ada", "bob"])
    report.add("ada", {"server": "stopped", "unproven": [4711, 4712]})
    report.add("bob", {"server": "stopped"})
    assert shutdown.summary(report).splitlines()[1:] == [
        "  ada: 4711, 4712 may come from the server; nblauncher cannot prove it"
    ]
    assert shutdown.summary(Report.of(["ada", "bob"])) == ""
