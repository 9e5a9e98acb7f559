"""A notebook that was renamed, copied or moved is found again by its cells and by what was handed out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nblauncher.grading import found_again
from nblauncher.grading.found_again import Candidate, Original


def notebook(*grade_ids: str, ids: tuple[str, ...] = ()) -> bytes:
    cells: list[dict[str, Any]] = [
        {"cell_type": "code", "source": "x", "metadata": {"nbgrader": {"grade_id": one, "grade": True}}}
        for one in grade_ids
    ]
    cells += [{"cell_type": "code", "source": 'print("id": "forged")', "metadata": {}, "id": one} for one in ids]
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}, indent=1).encode()


PROBLEM1 = found_again.original(notebook("q1", "q2", "q3", ids=("a1", "a2")))
PROBLEM2 = found_again.original(notebook("r1", "r2", ids=("b1", "b2")))
BOTH = {"problem1.ipynb": PROBLEM1, "problem2.ipynb": PROBLEM2}


def candidate(path: str, data: bytes, *, mtime_ns: int = 0) -> Candidate:
    return Candidate(path, "", 0, mtime_ns, *found_again.ids_in(data, BOTH.values()))


def test_the_ids_of_a_notebook():
    assert (PROBLEM1.grade_ids, PROBLEM1.cell_ids) == ({"q1", "q2", "q3"}, {"a1", "a2"})
    assert found_again.ids_in(notebook("q1", "x", ids=("b2", "y")), BOTH.values()) == ({"q1"}, {"b2"})


def test_ids_are_found_as_any_program_writes_them():
    wanted = found_again.original(notebook("Übung 1", 'a "b"'))
    for data in (notebook("Übung 1", 'a "b"'), '{"grade_id" :\n "Übung 1", "grade_id":"a \\"b\\""}'.encode()):
        assert found_again.ids_in(data, [wanted])[0] == {"Übung 1", 'a "b"'}


@pytest.mark.parametrize(
    "text", ['"source": "\\"grade_id\\": \\"q1\\""', '"grade_id": 1', '"grade_id": ["q1"]', "grade_id: q1"]
)
def test_what_stands_in_a_text_or_is_no_text_is_not_an_id(text):
    assert found_again.ids_in(f"{{{text}}}".encode(), BOTH.values()) == (frozenset(), frozenset())


@pytest.mark.parametrize("data", [b"", b"not JSON", b"[" * 100_000, b'{"cells": 3}', b'{"cells": [3, {}]}', b"\xff"])
def test_what_is_not_a_notebook_has_no_ids(data):
    assert found_again.original(data) == Original()
    assert found_again.ids_in(data, BOTH.values()) == (frozenset(), frozenset())


def test_a_notebook_that_is_cut_off_is_still_found():
    assert found_again.ids_in(notebook("q1", "q2")[:-150], BOTH.values())[0] == {"q1"}


def test_renamed_and_moved_notebooks_get_their_names_back():
    mine = [candidate("sub/mine.ipynb", notebook("q1", "q2", "q3")), candidate("p2.ipynb.json", notebook("r1", "r2"))]
    found = found_again.match(BOTH, mine)
    assert found.renamed == {"problem1.ipynb": "sub/mine.ipynb", "problem2.ipynb": "p2.ipynb.json"}
    assert found.others == {} and found.missing == ()


def test_the_right_name_wins_over_any_copy_and_the_copies_are_named():
    mine = [
        candidate("problem1.ipynb", b"not JSON"),
        candidate("problem1-Copy1.ipynb", notebook("q1", "q2", "q3"), mtime_ns=9),
    ]
    found = found_again.match(BOTH, mine)
    assert found.renamed == {} and found.missing == ("problem2.ipynb",)
    assert found.others == {"problem1.ipynb": ("problem1-Copy1.ipynb",)}


def test_of_several_the_one_with_the_most_cells_then_the_newest():
    mine = [
        candidate("old.ipynb", notebook("q1", "q2", "q3"), mtime_ns=1),
        candidate("new.ipynb", notebook("q1", "q2", "q3"), mtime_ns=2),
        candidate("less.ipynb", notebook("q1", "q2"), mtime_ns=3),
    ]
    found = found_again.match(BOTH, mine)
    assert found.renamed == {"problem1.ipynb": "new.ipynb"}
    assert found.others == {"problem1.ipynb": ("old.ipynb", "less.ipynb")}


def test_a_file_stands_for_one_name_only():
    shared = {"a.ipynb": PROBLEM1, "b.ipynb": PROBLEM1}
    assert found_again.match(shared, [candidate("x.ipynb", notebook("q1", "q2", "q3"))]).missing == ("b.ipynb",)


def test_another_assignments_notebook_with_one_id_in_common_is_not_it():
    ten = {"problem1.ipynb": found_again.original(notebook(*(f"q{number}" for number in range(10))))}
    one = Candidate("ps0.ipynb", "", 0, 0, *found_again.ids_in(notebook("q1", "other"), ten.values()))
    assert found_again.match(ten, [one]) == found_again.Found(missing=("problem1.ipynb",))


def test_without_ids_it_is_what_was_handed_out():
    plain = {"lab.ipynb": Original(sha256="abc", inode=7)}
    assert found_again.match(plain, [Candidate("mine.ipynb", "def", 7)]).renamed == {"lab.ipynb": "mine.ipynb"}
    assert found_again.match(plain, [Candidate("mine.ipynb", "abc", 8)]).renamed == {"lab.ipynb": "mine.ipynb"}
    assert found_again.match(plain, [Candidate("mine.ipynb", "def", 8)]).missing == ("lab.ipynb",)
    with_ids = {"problem1.ipynb": Original(PROBLEM1.grade_ids, inode=7)}
    assert found_again.match(with_ids, [Candidate("scratch.ipynb", "def", 7)]).missing == ("problem1.ipynb",)


def test_checkpoints_are_not_candidates():
    paths = ["a.ipynb", "A.IPYNB", "a.ipynb.txt", "a.json", ".ipynb_checkpoints/a-checkpoint.ipynb", "a.py"]
    assert list(map(found_again.may_be_a_notebook, paths)) == [True, True, True, True, False, False]
