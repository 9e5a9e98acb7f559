"""What send decides, from material, ledger and facts alone: who lacks what, and what has to be read for it."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from nblauncher.commands import send
from nblauncher.commands.send import MATERIAL, PROFILE, Outgoing, Parcel, ReadParcels, SendTo
from nblauncher.exchange.send.material import Index
from nblauncher.exchange.send.teacher_side import Item
from nblauncher.ledger import Membership
from nblauncher.model import Account, AccountState, HandedOut
from nblauncher.planning.plan import Phase
from nblauncher.planning.survey import Facts

LAB1, LAB2, STARTUP = Item("lab1.ipynb", 3, "a1"), Item("lab2.ipynb", 3, "b1"), Item("startup/00.py", 3, "c1")
GIVEN = {item.path: HandedOut(item.sha256, item.size, 1, 2, 3) for item in (LAB1, LAB2, STARTUP)}
NAMES = ("ada", "bob")


def outgoing(*items: Item, profile: tuple[Item, ...] = ()) -> Outgoing:
    parcels = [Parcel(MATERIAL, "tutorial", Index(items))]
    if profile:
        parcels.insert(0, Parcel(PROFILE, ".ipython/profile_lab", Index(profile)))
    return Outgoing(tuple(parcels), date(2026, 11, 20))


def facts(**changed: object) -> Facts:
    whole: dict[str, object] = {
        "course": "c1",
        "members": {name: Membership(name, 8001 + number) for number, name in enumerate(NAMES)},
        "found": {name: Account(name, 20000, 20000, Path("/home") / name) for name in NAMES},
        "states": dict.fromkeys(NAMES, AccountState.COMPLETE),
        "with_records": frozenset(NAMES),
    }
    return Facts(**{**whole, **changed})  # type: ignore[arg-type]


def sent_to(phases: tuple[Phase, ...]) -> list[str]:
    return [step.username for phase in phases for step in phase.steps if isinstance(step, SendTo)]


def read(phases: tuple[Phase, ...]) -> dict[str, list[str]]:
    step = next(step for phase in phases for step in phase.steps if isinstance(step, ReadParcels))
    return {kind: sorted(needed.paths) for kind, needed in step.needed.items()}


def given(**paths: str) -> dict[str, dict[str, dict[str, HandedOut]]]:
    """`ada="lab1.ipynb lab2.ipynb"`: what of the material these students have been given."""
    return {MATERIAL: {name: {path: GIVEN[path] for path in text.split()} for name, text in paths.items()}}


def test_only_who_lacks_something_gets_something():
    phases = send.plan(NAMES, facts(), outgoing(LAB1, LAB2), given(ada="lab1.ipynb lab2.ipynb"))
    assert sent_to(phases) == ["bob"]


def test_a_second_run_has_nothing_to_do():
    everything = given(ada="lab1.ipynb lab2.ipynb", bob="lab1.ipynb lab2.ipynb")
    assert send.plan(NAMES, facts(), outgoing(LAB1, LAB2), everything) == ()


def test_a_new_version_goes_to_everybody_who_had_the_old_one():
    newer = Item("lab1.ipynb", 3, "a2")
    phases = send.plan(NAMES, facts(), outgoing(newer), given(ada="lab1.ipynb", bob="lab1.ipynb"))
    assert sent_to(phases) == ["ada", "bob"]


def test_only_what_somebody_lacks_is_read_from_the_material():
    phases = send.plan(NAMES, facts(), outgoing(LAB1, LAB2), given(ada="lab1.ipynb", bob="lab1.ipynb"))
    assert read(phases) == {MATERIAL: ["lab2.ipynb"]}


def test_profile_and_material_are_read_and_sent_together():
    phases = send.plan(NAMES, facts(), outgoing(LAB1, profile=(STARTUP,)), given(ada="lab1.ipynb", bob="lab1.ipynb"))
    assert read(phases) == {PROFILE: ["startup/00.py"], MATERIAL: []}
    assert sent_to(phases) == ["ada", "bob"]


def test_what_was_given_to_an_earlier_account_of_the_name_is_void():
    remade = facts(with_records=frozenset({"bob"}))
    assert sent_to(send.plan(NAMES, remade, outgoing(LAB1), given(ada="lab1.ipynb", bob="lab1.ipynb"))) == ["ada"]


def test_an_empty_folder_of_material_is_nothing_to_do():
    assert send.plan(NAMES, facts(), outgoing(), {}) == ()
