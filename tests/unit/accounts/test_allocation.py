"""Uids and ports for newcomers."""

import pytest

from nblauncher.accounts import allocation
from nblauncher.errors import HostError

RANGE = range(20000, 20010)


def test_uids_come_after_the_highest_ever_given_even_when_lower_ones_are_free_again():
    assert allocation.uids(2, within=RANGE, spent=frozenset({20003}), is_free=lambda uid: True) == [20004, 20005]


def test_a_uid_that_the_host_knows_is_passed_over():
    assert allocation.uids(2, within=RANGE, spent=frozenset(), is_free=lambda uid: uid != 20000) == [20001, 20002]


def test_uids_of_another_range_do_not_move_the_counter():
    assert allocation.uids(1, within=RANGE, spent=frozenset({30000, 1000}), is_free=lambda uid: True) == [20000]


def test_too_few_uids_is_an_error_that_names_the_key():
    with pytest.raises(HostError, match="uid_range"):
        allocation.uids(11, within=RANGE, spent=frozenset(), is_free=lambda uid: True)


def ports(newcomers, spent=(), taken=()):
    return allocation.ports(newcomers, front_port=8000, spent=frozenset(spent), taken=frozenset(taken))


def test_a_first_class_gets_the_ports_after_the_front_page_in_the_order_of_the_roster():
    assert ports(["ada", "bob"]) == {"ada": 8001, "bob": 8002}


def test_later_rows_take_the_next_never_used_port():
    assert ports(["eve"], spent=[8001, 8007]) == {"eve": 8008}


def test_a_port_that_somebody_else_holds_is_replaced_by_one_after_the_range():
    assert ports(["ada", "bob", "eve"], taken=[8002, 8004]) == {"ada": 8001, "bob": 8005, "eve": 8003}


def test_ports_that_browsers_block_are_nobodys():
    given = allocation.ports(
        [f"s{number}" for number in range(40)], front_port=6660, spent=frozenset(), taken=frozenset({6672})
    )
    assert len(set(given.values())) == 40
    assert not set(given.values()) & {6665, 6666, 6667, 6668, 6669, 6679, 6697, 6672}
    assert given["s0"] == 6661 and given["s9"] == 6670
    assert allocation.ports(["ada"], front_port=5059, spent=frozenset(), taken=frozenset()) == {"ada": 5062}


def test_no_two_students_ever_get_the_same_port():
    given = ports([f"s{number}" for number in range(50)], taken=range(8010, 8030))
    assert len(set(given.values())) == 50
    assert not set(given.values()) & set(range(8010, 8030))


def test_a_student_of_another_host_keeps_the_port_if_nobody_has_it():
    given = allocation.ports(
        ["ada", "bob", "eve", "kim"],
        front_port=8000,
        spent=frozenset(),
        taken=frozenset({8003}),
        wanted={"ada": 8007, "bob": 8003, "eve": 8000, "zoe": 8009},
    )
    assert given["ada"] == 8007
    assert len(set(given.values())) == 4 and not {8000, 8003}.intersection(given.values())


def test_running_out_of_ports_is_an_error():
    with pytest.raises(HostError, match="no free port"):
        allocation.ports(["ada"], front_port=65535, spent=frozenset(), taken=frozenset())
