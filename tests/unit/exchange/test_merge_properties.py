"""What holds for any three versions: found by hypothesis, not by example."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import nbformat
from hypothesis import given, settings
from hypothesis import strategies as st

from nblauncher.exchange import merge as merging
from nblauncher.exchange.merge import UnmergeableError
from tests.notebooks import cell, notebook, sources

SOURCES = st.sampled_from(["", "x", "y", "x = 1\ny = 2\n", "x = 1\ny = 3\n", "# Title", "z\n" * 5, "été ☃"])
KINDS = st.sampled_from(["code", "markdown", "raw"])
LINES = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"\n", b"last"]), max_size=8).map(b"".join)
FAST = settings(max_examples=300, deadline=None)


@st.composite
def a_cell(draw: Any, names: bool) -> dict[str, Any]:
    name = draw(st.text("abcdef", min_size=3, max_size=6)) if names else ""
    out = draw(st.sampled_from(["", "1", "2"]))
    tags = draw(st.sampled_from([{}, {"tags": ["t"]}, {"collapsed": True}]))
    return cell(draw(SOURCES), name, draw(KINDS), out, **tags)


@st.composite
def edited(draw: Any, cells: list[dict[str, Any]], names: bool) -> list[dict[str, Any]]:
    """What a person does to a notebook: edit, run, delete, add, move, change the type."""
    cells = [dict(one) for one in cells]
    for _ in range(draw(st.integers(0, 5))):
        deed = draw(st.sampled_from(["edit", "run", "delete", "add", "move", "retype"]))
        place = draw(st.integers(0, max(0, len(cells) - 1)))
        if deed == "add":
            cells.insert(place, draw(a_cell(names)))
        elif not cells:
            continue
        elif deed == "edit":
            cells[place]["source"] = draw(SOURCES)
        elif deed == "delete":
            del cells[place]
        elif deed == "move":
            cells.insert(draw(st.integers(0, len(cells) - 1)), cells.pop(place))
        else:
            old = cells[place]
            kind = draw(KINDS) if deed == "retype" else old["cell_type"]
            metadata = draw(st.sampled_from([old["metadata"], {"tags": ["mine"]}, {}]))
            cells[place] = cell(
                old["source"], old.get("id", ""), kind, draw(st.sampled_from(["", "1", "3"])), **metadata
            )
            if kind == "code":
                cells[place]["execution_count"] = draw(st.sampled_from([None, 1, 7]))
    return cells


@st.composite
def versions(draw: Any) -> tuple[bytes, bytes, bytes]:
    """Base, student, teacher: with ids, without, or with ids that Jupyter gave when the student saved; those of the
    teacher may be missing (4.5 by hand), there twice, or different each time that a tool writes them.
    """
    names = draw(st.booleans())
    base = draw(st.lists(a_cell(names), max_size=5))
    student, teacher = draw(edited(base, names)), draw(edited(base, names))
    minor = 5 if names else 4
    student_minor = minor
    if not names and draw(st.booleans()):
        student, student_minor = [one | {"id": f"r{number}"} for number, one in enumerate(student)], 5
    deed = draw(st.sampled_from(["keep", "keep", "lose", "double", "renew"])) if names else "keep"
    if deed == "lose":
        base, teacher = ([{key: one[key] for key in one if key != "id"} for one in cells] for cells in (base, teacher))
        student = [one | {"id": f"r{number}"} for number, one in enumerate(student)]
    elif deed == "double":
        base, teacher = ([one | {"id": "same"} for one in cells] for cells in (base, teacher))
        student = [one | {"id": f"r{number}" if number else "same"} for number, one in enumerate(student)]
    elif deed == "renew":
        teacher = [one | {"id": f"t{number}"} for number, one in enumerate(teacher)]
    return notebook(*base, minor=minor), notebook(*student, minor=student_minor), notebook(*teacher, minor=minor)


def merge(*three: bytes) -> bytes:
    return merging.merge("lab.ipynb", *three).content


def written_by(student: bytes, base: bytes) -> Counter[str]:
    return Counter(sources(student)) - Counter(sources(base))


@FAST
@given(versions())
def test_merging_nothing_changes_nothing(three):
    base, student, _ = three
    assert merge(base, student, base) == student


@FAST
@given(versions())
def test_a_student_who_changed_nothing_has_what_the_teacher_has(three):
    base, _, teacher = three
    assert sources(merge(base, base, teacher)) == sources(teacher)


@FAST
@given(versions())
def test_no_source_of_the_student_is_ever_lost(three):
    base, student, teacher = three
    assert not written_by(student, base) - Counter(sources(merge(base, student, teacher)))


@FAST
@given(versions())
def test_merging_twice_is_merging_once(three):
    base, student, teacher = three
    once = merge(base, student, teacher)
    assert merge(base, once, teacher) == once
    assert merge(teacher, once, teacher) == once


@FAST
@given(versions())
def test_the_output_is_valid_and_has_no_id_twice(three):
    merged = merge(*three)
    raw = json.loads(merged)
    nbformat.validator.get_validator(4, raw["nbformat_minor"]).validate(raw)
    names = [one["id"] for one in raw["cells"] if "id" in one]
    assert len(names) == len(set(names)) or merged == three[1]  # what needs no change is left as it is


@FAST
@given(versions(), st.data())
def test_any_number_of_updates_loses_nothing(three, data):
    """The student goes on, the teacher corrects again: what is merged last holds all that was written meanwhile."""
    base, student, teacher = three
    merged = merge(base, student, teacher)
    raw = json.loads(merged)
    raw["cells"].insert(
        data.draw(st.integers(0, len(raw["cells"]))), cell("my own words", "zzzz" if "id" in str(raw) else "")
    )
    again = json.loads(teacher)
    for one in again["cells"]:
        one["source"] = data.draw(SOURCES)
    final = merge(teacher, json.dumps(raw).encode(), json.dumps(again).encode())
    assert "my own words" in sources(final)
    assert not written_by(json.dumps(raw).encode(), teacher) - Counter(sources(final))


@FAST
@given(LINES, LINES, LINES)
def test_texts_are_merged_the_same_way_or_not_at_all(base, student, teacher):
    assert merging.merge("a.txt", base, student, base).content == student
    assert merging.merge("a.txt", base, base, teacher).content == teacher
    try:
        once = merging.merge("a.txt", base, student, teacher).content
    except UnmergeableError:
        return
    assert merging.merge("a.txt", base, once, teacher).content == once
    assert not Counter(student.splitlines()) - Counter(base.splitlines()) - Counter(once.splitlines())


@FAST
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_merged_or_refused_in_words(data, is_json):
    base, teacher = notebook(cell("one", "a")), notebook(cell("two", "a"))
    student = json.dumps({"cells": [data.hex()], "nbformat": 4}).encode() if is_json else data
    try:
        merge(base, student, teacher)
    except UnmergeableError as error:
        assert "the student's version" in str(error)
