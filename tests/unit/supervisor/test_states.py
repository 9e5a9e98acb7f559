"""The state table of a student's seat, and which phase a seat is in."""

from __future__ import annotations

import logging
from itertools import product
from pathlib import Path

import pytest

from nblauncher.isolation.cgroups import Group, Kind
from nblauncher.model import ServerState
from nblauncher.supervisor.seat import Restart, Seat, Stopping
from nblauncher.supervisor.states import TABLE, Action, Event, Phase, decide


def seat(state: ServerState, stopping: Stopping | None = None, *, is_pausing: bool = False) -> Seat:
    made = Seat("ada", 1001, 8888, Group(Kind.NONE, Path("/")))
    made.state, made.stopping, made.is_pausing = state, stopping, is_pausing
    return made


@pytest.mark.parametrize(("phase", "event"), list(product(Phase, Event)))
def test_every_event_has_an_action_in_every_phase_or_says_why_it_is_impossible(phase, event):
    entry = TABLE[phase, event]
    assert isinstance(entry, Action) or (isinstance(entry, str) and len(entry.split()) > 3)


def test_the_table_has_no_other_entries_and_uses_every_action():
    assert set(TABLE) == set(product(Phase, Event))
    assert {entry for entry in TABLE.values() if isinstance(entry, Action)} == set(Action)


def test_a_command_always_gets_an_answer():
    for phase, event in product(Phase, (Event.START, Event.ARM, Event.STOP, Event.RELEASE)):
        assert isinstance(TABLE[phase, event], Action)


def test_a_stop_is_never_refused():
    assert {TABLE[phase, Event.STOP] for phase in Phase} == {Action.SWEEP, Action.TERMINATE, Action.JOIN_STOP}


def test_a_port_is_released_only_while_no_process_can_use_it():
    released = {phase for phase in Phase if TABLE[phase, Event.RELEASE] is Action.RELEASE}
    assert released == {Phase.DOWN, Phase.ASLEEP}


def test_a_server_that_comes_too_late_is_killed_whatever_happened_meanwhile():
    assert {TABLE[phase, Event.SPAWNED_LATE] for phase in Phase} == {Action.KILL_LATE}


def test_only_a_server_that_answered_is_started_again():
    restarted = {phase for phase in Phase if TABLE[phase, Event.ENDED] is Action.CLEAR_AND_RESTART}
    assert restarted == {Phase.READY}


def test_a_server_whose_node_failed_is_started_again_whether_it_had_answered_or_not():
    restarted = {phase for phase in Phase if TABLE[phase, Event.LOST] is Action.CLEAR_AND_RESTART}
    assert restarted == {Phase.STARTING, Phase.QUEUED, Phase.READY}


def test_an_impossible_event_is_logged_and_does_nothing(caplog):
    with caplog.at_level(logging.ERROR):
        assert decide("ada", Phase.DOWN, Event.PAUSE_OVER) is Action.NOTHING
    assert "ada" in caplog.text and "PAUSE_OVER" in caplog.text


@pytest.mark.parametrize(
    ("made", "phase"),
    [
        (seat(ServerState.STOPPED), Phase.DOWN),
        (seat(ServerState.FAILED), Phase.DOWN),
        (seat(ServerState.ASLEEP), Phase.ASLEEP),
        (seat(ServerState.STARTING), Phase.STARTING),
        (seat(ServerState.READY), Phase.READY),
        (seat(ServerState.STARTING, is_pausing=True), Phase.PAUSING),
        (seat(ServerState.FAILED, Stopping(ServerState.FAILED, "")), Phase.CLEARING),
        (seat(ServerState.ASLEEP, Stopping(ServerState.ASLEEP, "")), Phase.CLEARING),
        (seat(ServerState.STARTING, Stopping(ServerState.STARTING, "", restart=Restart("", 1.0))), Phase.RESTARTING),
        (seat(ServerState.STARTING, Stopping(ServerState.STOPPED, "", is_requested=True)), Phase.STOPPING),
        (seat(ServerState.STOPPED, Stopping(ServerState.STOPPED, "", is_requested=True)), Phase.STOPPING),
    ],
)
def test_a_seat_knows_its_phase(made, phase):
    assert made.phase is phase


def test_a_stop_of_a_server_that_was_to_be_started_again_wins():
    stopping = Stopping(ServerState.STOPPED, "", is_requested=True, restart=Restart("", 1.0))
    assert seat(ServerState.STARTING, stopping).phase is Phase.STOPPING
