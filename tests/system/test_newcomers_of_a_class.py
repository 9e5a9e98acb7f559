"""A student who is added to a class that exists: material, counts and notes are the newcomer's alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.classroom import Classroom, set_up_class

pytestmark = pytest.mark.system

ADA, BOB = "nbtncada", "nbtncbob"


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    with set_up_class("nbtnc-new", [ADA, BOB], port=18760, first_uid=26750) as made:
        made.run("launch", "--background")
        yield made


@pytest.mark.parametrize("command", ["reload", "setup"])
def test_new_material_goes_to_newcomers_alone_and_a_note_names_it(room, command):
    """Solutions lie in the folder until `send`: a student who is added must not hand them to the class."""
    newcomer = f"nbtnc{command}"
    solutions = room.folder / "material" / f"solutions-{command}.txt"
    solutions.write_text("9.81\n")
    room.write([*room.names, newcomer])
    answer = room.run(command)
    assert f"not sent to {len(room.names) - 1} students set up earlier: " in answer.stderr
    assert solutions.name in answer.stderr and "nblauncher send" in answer.stderr
    if command == "setup":
        assert answer.stdout.startswith("Set up 1 student.")
        assert "The class is running: `nblauncher reload` brings it up to date." in answer.stdout
    has = {name for name in room.names if (room.home(name) / "tutorial" / solutions.name).exists()}
    assert has == {newcomer}
    assert room.run("setup").stdout.startswith("setup: nothing to do.")
    room.run("send")
    assert all((room.home(name) / "tutorial" / solutions.name).exists() for name in room.names)


@pytest.mark.parametrize("command", ["reload", "setup"])
def test_a_notebook_that_nobody_can_open_is_named_when_it_is_handed_out(room, command):
    broken = room.folder / "material" / "broken.ipynb"
    broken.write_text("{\n<<<<<<< HEAD\n}")
    try:
        room.write([*room.names, f"nbtncb{command}"])
        assert "broken.ipynb: not a valid notebook: line 2 is a merge marker" in room.run(command).stderr
        assert "not a valid notebook" not in room.run("setup").stderr  # it goes to nobody
    finally:
        broken.unlink()


def test_setup_of_one_says_nothing_of_the_others(room):
    answer = room.run("setup", "--only", ADA)
    assert "no longer in the roster" not in answer.stderr


def test_a_section_is_these_students_and_an_unknown_one_is_refused(room):
    room.run("reload")
    assert "reload" not in room.run("setup").stdout
    rows = f'{ADA},Monday\n{BOB},"Monday, Lab"\nnbtncnew,Lab\n'
    (room.folder / "students.csv").write_text(f"username,section\n{rows}")
    try:
        for given, expected in (["Lab", [BOB]], ["monday", [ADA, BOB]], ["Monday, Lab", [BOB]]):
            assert [one["username"] for one in room.json("status", "--section", given)["students"]] == expected
        assert "not set up yet, and left out: nbtncnew" in room.run("send", "--section", "Lab").stderr
        both = room.json("send", "--section", "Lab", "--only", ADA)
        assert [one["username"] for one in both["students"]] == [ADA, BOB]
        plan = room.json("setup", "--section", "Lab", "--dry-run")["plan"]
        assert "create account nbtncnew" in plan
        for command in ("shutdown", "remove", "status"):
            refused = room.run(command, "--section", "Mondy", "--dry-run", expect=3)
            assert 'did you mean "Monday"?' in refused.stderr
    finally:
        room.write()


def test_a_newcomer_whose_setup_was_cut_short_gets_the_material_from_the_next_one(room):
    """Killed between the account and the material."""
    late = "nbtnclate"
    room.write([*room.names, late])
    process = room.start("setup")
    assert process.stderr is not None
    for line in process.stderr:
        if f"create account {late}" in line:
            process.kill()
            break
    process.communicate()
    room.run("setup")
    assert {file.name for file in (room.home(late) / "tutorial").iterdir()} >= {"lab1.txt"}
