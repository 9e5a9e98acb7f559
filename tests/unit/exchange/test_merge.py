"""The numbered cases of docs/updates.md that are about what is in a file, a test each."""

from __future__ import annotations

import json

import nbformat
import pytest

from nblauncher.exchange import merge as merging
from nblauncher.exchange.merge import UnmergeableError, notebook_file, notebooks
from nblauncher.exchange.merge.notebooks import TAG, WORDS
from tests.notebooks import cell, cells_of, named, notebook, outputs, sources


def merge(base: bytes, student: bytes, teacher: bytes) -> merging.Merged:
    merged = merging.merge("lab1.ipynb", base, student, teacher)
    nbformat.validate(json.loads(merged.content), relax_add_props=False)
    return merged


def merged_sources(base: str, student: str, teacher: str) -> list[str]:
    return sources(merge(notebook(*named(base)), notebook(*named(student)), notebook(*named(teacher))).content)


def text(base: str, student: str, teacher: str) -> str:
    return merging.merge("lab1.py", base.encode(), student.encode(), teacher.encode()).content.decode()


# Texts


def test_case_4_changes_apart_are_both_made():
    base = "one\ntwo\nthree\nfour\nfive\n"
    student = "one\nTWO\nthree\nfour\nfive\n"
    assert text(base, student, "one\ntwo\nthree\nfour\n5\nsix\n") == "one\nTWO\nthree\nfour\n5\nsix\n"


@pytest.mark.parametrize(
    "student, teacher",
    [("one\nTWO\n", "one\n2\n"), ("one\nTWO\n", "1\ntwo\n"), ("one\n", "one\ntwo more\n"), ("mine", "yours")],
)
def test_case_5_changes_of_the_same_lines_or_of_neighbours_are_no_merge(student, teacher):
    with pytest.raises(UnmergeableError, match="same lines"):
        text("one\ntwo\n", student, teacher)


def test_case_4_the_same_change_of_both_is_made_once():
    assert text("one\ntwo\n", "one\n2\n", "one\n2\n") == "one\n2\n"


def test_case_4_line_ends_and_a_missing_last_one_stay_as_they_are():
    base = "a\r\nb\r\nc\r\nd"
    assert text(base, base.replace("a", "A"), base + "\r\ne") == "A\r\nb\r\nc\r\nd\r\ne"


def test_case_6_what_is_no_text_is_not_merged():
    with pytest.raises(UnmergeableError, match="not a text"):
        merging.merge("plot.png", b"\0one", b"\0two", b"\0three")


def test_case_6_too_much_to_merge_is_said():
    with pytest.raises(UnmergeableError, match="larger than 16 MiB"):
        merging.merge("data.csv", b"", b"x" * (merging.LARGEST + 1), b"y")
    with pytest.raises(UnmergeableError, match="more than 20000 lines"):
        merging.merge("data.csv", b"a\n" * 20_001, b"b\n", b"c\n")


# Cells


def test_cell_case_1_what_the_student_did_not_touch_takes_the_new_text():
    assert merged_sources("a=one b=two", "a=one b=mine", "a=uno b=two") == ["uno", "mine"]


def test_cell_case_2_what_only_the_student_changed_stays():
    assert merged_sources("a=one b=two", "a=mine b=two", "a=one b=dos") == ["mine", "dos"]


def test_cell_case_3_the_same_change_of_both_is_no_conflict():
    merged = merge(*(notebook(*named(one)) for one in ("a=one", "a=uno", "a=uno")))
    assert (sources(merged.content), merged.conflicts) == (["uno"], 0)


def test_cell_case_4_where_both_changed_a_cell_the_students_stays_and_the_teachers_is_below_it_marked():
    merged = merge(*(notebook(*named(one)) for one in ("a=one b=two", "a=mine b=two", "a=uno b=two")))
    assert (sources(merged.content), merged.conflicts) == (["mine", WORDS, "uno", "two"], 1)
    own, words, copy, _ = cells_of(merged.content)
    assert own["id"] == "a" and own["metadata"] == {}
    assert (words["cell_type"], copy["cell_type"]) == ("markdown", "raw")
    assert [one["metadata"]["tags"] for one in (words, copy)] == [[TAG], [TAG]]
    assert len({one["id"] for one in cells_of(merged.content)}) == 4


def test_cell_case_5_a_copy_that_nobody_edited_becomes_the_next_version():
    one, two, three = (notebook(*named(text)) for text in ("a=one", "a=two", "a=three"))
    first = merge(one, notebook(*named("a=mine")), two).content
    second = merge(two, first, three)
    assert (sources(second.content), second.conflicts) == (["mine", WORDS, "three"], 1)
    assert merge(three, second.content, three).content == second.content


def test_cell_case_5_an_edited_copy_is_the_students():
    one, two, three = (notebook(*named(text)) for text in ("a=one", "a=two", "a=three"))
    raw = json.loads(merge(one, notebook(*named("a=mine")), two).content)
    raw["cells"][2]["source"] = "two, improved"
    second = merge(two, json.dumps(raw).encode(), three).content
    assert sources(second) == ["mine", WORDS, "three", WORDS, "two, improved"]


def test_cell_case_6_a_new_cell_comes_after_the_one_that_it_follows_behind_the_students_own():
    assert merged_sources("a=q1 b=q2", "a=q1 x=answer b=q2", "a=q1 n=q1b b=q2 m=q3") == [
        "q1",
        "answer",
        "q1b",
        "q2",
        "q3",
    ]
    assert merged_sources("a=one", "a=mine", "n=title a=one") == ["title", "mine"]
    assert merged_sources("a=one b=two", "b=mine", "a=one n=new b=two") == ["new", "mine"]


def test_cell_case_7_the_students_own_cells_stay_where_they_are():
    assert merged_sources("a=one b=two", "x=x a=one y=y b=two z=z", "a=uno b=dos") == ["x", "uno", "y", "dos", "z"]


def test_cell_case_8_a_removed_cell_goes_only_if_nobody_touched_it():
    assert merged_sources("a=one b=two c=three", "a=one b=mine c=three", "c=three") == ["mine", "three"]


def test_cell_case_9_a_cell_that_the_student_deleted_stays_deleted():
    assert merged_sources("a=one b=two", "a=mine", "a=one b=dos") == ["mine"]


def test_cell_case_10_the_teachers_order_is_taken_where_the_student_moved_nothing():
    base, student = "a=one b=two c=three", "a=one x=x b=mine c=three"
    assert merged_sources(base, student, "c=three a=one n=new b=two") == ["three", "one", "x", "new", "mine"]
    assert merged_sources(base, "b=mine a=one c=three", "c=three a=uno b=two") == ["mine", "uno", "three"]


def test_cell_case_11_outputs_follow_their_source():
    base = notebook(cell("one", "a", out="1"), cell("two", "b", out="2"), cell("three", "c"))
    student = notebook(cell("one", "a", out="old"), cell("mine", "b", out="my result"), cell("three", "c", out="3"))
    teacher = notebook(cell("uno", "a", out="new"), cell("two", "b", out="other"), cell("three", "c", out="three"))
    assert outputs(merge(base, student, teacher).content) == ["new", "my result", "3"]
    assert outputs(merge(base, base, teacher).content) == ["new", "other", "three"]


def test_cell_case_12_metadata_is_merged_by_key_and_the_students_wins():
    base = notebook(
        cell("one", "a", tags=["x"], editable=True), title="old", kernelspec={"name": "a", "display_name": "A"}
    )
    student = notebook(
        cell("one", "a", tags=["mine"], collapsed=True, editable=True),
        title="mine",
        kernelspec={"name": "a", "display_name": "mine"},
    )
    teacher = notebook(
        cell("uno", "a", tags=["new"], deletable=False), title="new", kernelspec={"name": "b", "display_name": "A"}
    )
    merged = json.loads(merge(base, student, teacher).content)
    assert merged["metadata"].pop("nblauncher")
    assert merged["metadata"] == {"title": "mine", "kernelspec": {"name": "b", "display_name": "mine"}}
    assert merged["cells"][0]["metadata"] == {"tags": ["mine"], "collapsed": True, "deletable": False}


def test_cell_case_13_older_notebooks_without_ids_are_matched_by_what_is_in_their_cells():
    long = "def mean(values):\n    return sum(values) / len(values)\n"
    base = notebook(cell("# Lab", kind="markdown"), cell(long), cell("last"), minor=4)
    edited = long.replace("sum(values)", "float(sum(values))")
    student = notebook(cell("# Lab", kind="markdown"), cell(edited), cell("last"), minor=4)
    teacher = notebook(cell("# Lab 1", kind="markdown"), cell(long), cell("new"), cell("last"), minor=4)
    assert sources(merge(base, student, teacher).content) == ["# Lab 1", edited, "new", "last"]
    assert not any("id" in one for one in cells_of(merge(base, student, teacher).content))


def test_cell_case_13_jupyter_adds_ids_when_it_saves_and_nothing_else_is_different():
    base = notebook(cell("one"), cell("two"), minor=4)
    student = notebook(cell("one", "r1"), cell("two more", "r2"), cell("x", "r3"))
    teacher = notebook(cell("one!", "s1"), cell("two", "s2"), cell("new", "s3"))
    merged = merge(base, student, teacher).content
    assert sources(merged) == ["one!", "two more", "x", "new"]
    assert [one["id"] for one in cells_of(merged)] == ["r1", "r2", "r3", "s3"]


def test_cell_case_14_a_change_of_type_or_of_attachments_is_an_edit():
    base = notebook(cell("one", "a"), cell("![](p.png)", "b", "markdown"))
    changed = cell("![](p.png)", "b", "markdown") | {"attachments": {"p.png": {"image/png": "AAAA"}}}
    student = notebook(cell("one", "a", "markdown"), changed)
    teacher = notebook(cell("uno", "a"), cell("dos", "b", "markdown"))
    merged = merge(base, student, teacher)
    assert merged.conflicts == 2
    assert cells_of(merged.content)[0]["cell_type"] == "markdown"
    assert cells_of(merged.content)[3]["attachments"] == {"p.png": {"image/png": "AAAA"}}


# What cannot be merged


@pytest.mark.parametrize(
    "student, words",
    [
        (b"", "the student's version is not a notebook"),
        (b"[]", "not a notebook of format 4"),
        (b'{"cells": 3, "nbformat": 4}', "not a notebook of format 4"),
        (b'{"cells": [3], "nbformat": 4}', "no cells"),
        (b'{"cells": [], "nbformat": 4, "nbformat_minor": "x", "metadata": {}}', "not a valid notebook"),
        (b'{"cells": [], "nbformat": 4, "nbformat_minor": 5, "metadata": []}', "not a valid notebook"),
        (
            b'{"cells": [{"cell_type": "code"}], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
            "not a valid notebook",
        ),
        (b'{"worksheets": 1, "metadata": {}, "nbformat": 3, "nbformat_minor": 0}', "of format 4"),
        (b"[" * 100_000, "too much memory"),
        (b"\xff\xfe", "is not a notebook"),
        (b'{"nbformat": ' + b"9" * 10_000 + b"}", "is not a notebook"),
    ],
)
def test_what_is_no_notebook_of_today_stays_as_it_is(student, words):
    with pytest.raises(UnmergeableError, match=words):
        merge(notebook(*named("a=one")), student, notebook(*named("a=two")))


def test_cells_with_the_same_id_are_told_apart_and_the_result_has_none():
    base, teacher = notebook(*named("a=one a=two")), notebook(*named("a=one a=dos b=three"))
    merged = merge(base, notebook(*named("a=mine a=two a=own")), teacher)
    assert sources(merged.content) == ["mine", "own", "dos", "three"]
    assert len({one["id"] for one in cells_of(merged.content)}) == 4


@pytest.mark.slow
def test_a_million_lines_of_output_are_merged():
    stream = {"output_type": "stream", "name": "stdout", "text": ["line\n"] * 1_000_000}
    noisy = cell("two", "b") | {"outputs": [stream]}
    merged = merge(notebook(*named("a=one b=two")), notebook(*named("a=one"), noisy), notebook(*named("a=uno b=two")))
    assert sources(merged.content) == ["uno", "two"]
    assert cells_of(merged.content)[1]["outputs"][0]["text"] == stream["text"]


def test_a_text_that_utf8_cannot_say_is_kept():
    student = notebook(*named("a=one b=two")).replace(b'"two"', b'"\\ud800"')
    assert sources(merge(notebook(*named("a=one b=two")), student, notebook(*named("a=uno b=two"))).content) == [
        "uno",
        "\ud800",
    ]


def test_the_last_line_of_defence_sees_what_is_missing():
    base, student = (notebook_file.read(notebook(*named(one)), "it") for one in ("a=one b=two", "a=one b=mine c=two"))
    notebooks.check_nothing_is_lost(base, student, student)
    with pytest.raises(UnmergeableError, match="lose some"):
        notebooks.check_nothing_is_lost(base, student, base)


# The origin of outputs


def has_only_ours(base: bytes, student: bytes, teacher: bytes) -> bool:
    return merge(base, student, teacher).has_only_our_outputs


def test_outputs_are_ours_when_they_stand_under_the_cell_that_we_gave_them_to():
    base = notebook(cell("one", "a", out="1"), cell("two", "b", out="2"))
    teacher = notebook(cell("uno", "a", out="1b"), cell("two", "b", out="2"))
    assert has_only_ours(base, notebook(cell("one", "a", out="1"), cell("mine", "b")), teacher)
    assert not has_only_ours(base, notebook(cell("one", "a", out="1"), cell("mine", "b", out="2")), teacher)
    assert not has_only_ours(base, notebook(cell("one", "a", out="1"), cell("two", "b", out="x")), teacher)
    assert has_only_ours(base, notebook(cell("one", "a", out="other"), cell("two", "b", out="2")), teacher)
    widgets = {"application/vnd.jupyter.widget-state+json": {"version_major": 2, "version_minor": 0, "state": {}}}
    forged = notebook(cell("one", "a"), cell("two", "b", out="2"), widgets=widgets)
    assert not has_only_ours(base, forged, teacher)


def test_many_cells_with_much_output_are_merged():
    big = [cell(f"x{number} = 1\n" * 20, f"c{number}", out="y" * 1000) for number in range(1500)]
    student = [one | {"source": "mine"} if number % 3 == 0 else one for number, one in enumerate(big)]
    teacher = [one | {"source": "new"} if number % 3 == 1 else one for number, one in enumerate(big)]
    merged = merge(notebook(*big), notebook(*student), notebook(*teacher))
    assert sources(merged.content).count("mine") == sources(merged.content).count("new") == 500


# Copies that grading survives


def graded(source: str, name: str = "a", **more: object) -> dict[str, object]:
    return cell(source, name, nbgrader={"grade_id": "q1", "solution": True, "grade": True}, deletable=False, **more)


def test_a_copy_is_graded_by_nobody_does_not_run_and_can_be_deleted():
    """A second cell with the grade_id ends autograde for the whole class; a copy that runs redefines the solution."""
    base, student, teacher = (
        notebook(graded(source)) for source in ("def f(): ...", "def f(): return 1", "def f(x): ...")
    )
    merged = merge(base, student, teacher)
    own, words, copy = cells_of(merged.content)
    assert own["metadata"]["nbgrader"]["grade_id"] == "q1" and own["cell_type"] == "code"
    for one in (words, copy):
        assert one["cell_type"] in ("markdown", "raw")
        assert one["metadata"] == {"tags": [TAG], "nblauncher": {"is_update": True}}
    assert copy["source"] == ["def f(x): ..."] and merged.conflicts == 1


def test_a_cell_is_known_by_its_grade_id_whatever_became_of_its_id():
    base, student = notebook(graded("v1", "a")), notebook(graded("mine, all else", "zz9"))
    merged = merge(base, student, notebook(graded("v2", "q-7")))
    assert (sources(merged.content), merged.conflicts) == (["mine, all else", WORDS, "v2"], 1)


# Notebooks with meaningless ids


def anonymous(*texts: str) -> bytes:
    """Format 4.5 without ids, as some editors and many scripts write it."""
    return notebook(*(cell(one) for one in texts))


def saved(*texts: str, names: str = "rst") -> bytes:
    """As Jupyter saves it: with ids of its own."""
    return notebook(*(cell(one, name * 4) for one, name in zip(texts, names, strict=False)))


@pytest.mark.parametrize("mine", ["x = 2  # mine", "print('something else entirely')"])
def test_a_cell_without_an_id_that_both_changed_is_a_conflict(mine):
    """Otherwise the teacher's stands unmarked below the student's, and wins when it runs."""
    merged = merge(
        anonymous("# Lab", "x = 1", "plot(x)"), saved("# Lab", mine, "plot(x)"), anonymous("# Lab", "x = 3", "plot(x)")
    )
    assert (sources(merged.content), merged.conflicts) == (["# Lab", mine, WORDS, "x = 3", "plot(x)"], 1)


def test_an_id_that_stands_twice_says_nothing_about_the_second_cell():
    base = notebook(cell("one", "same"), cell("two", "same"))
    student = notebook(cell("one", "same"), cell("mine", "made-up"))
    merged = merge(base, student, notebook(cell("one", "same"), cell("zwei", "same")))
    assert (sources(merged.content), merged.conflicts) == (["one", "mine", WORDS, "zwei"], 1)


def test_where_a_tool_made_all_ids_again_cells_are_found_by_what_is_in_them():
    base, student = saved("# Lab", "x = 1", "plot(x)"), saved("# Lab", "x = 2", "plot(x)")
    merged = merge(base, student, saved("# Lab", "x = 3", "plot(x)", names="uvw"))
    assert (sources(merged.content), merged.conflicts) == (["# Lab", "x = 2", WORDS, "x = 3", "plot(x)"], 1)


def test_merging_nothing_into_a_notebook_without_ids_changes_no_byte():
    base = anonymous("one", "two")
    assert merge(base, base, base).content == base
    student = saved("one", "mine")
    assert merge(base, student, base).content == student


# Results


def test_a_cell_that_ran_without_an_output_keeps_its_count():
    base = notebook(cell("x = 1", "a"))
    ran = json.loads(base)
    ran["cells"][0]["execution_count"] = 7
    student = json.dumps(ran).encode()
    assert merge(base, student, base).content == student
    assert (
        cells_of(merge(base, student, notebook(cell("x = 1", "a"), cell("new", "b"))).content)[0]["execution_count"]
        == 7
    )


# Formats to come, and mistakes of ours


@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_kind_of_cell_that_is_not_known_yet_keeps_the_student_s_version_as_it_is(version):
    versions = [notebook(*named(one), minor=6) for one in ("a=one", "a=mine", "a=uno")]
    assert sources(merging.merge("lab.ipynb", *versions).content) == ["mine", WORDS, "uno"]
    raw = json.loads(versions[version])
    raw["cells"].append({"cell_type": "prompt", "id": "p1", "text": "?"})
    versions[version] = json.dumps(raw).encode()
    with pytest.raises(UnmergeableError, match="not a valid notebook"):
        merging.merge("lab.ipynb", *versions)


def test_a_notebook_that_is_back_with_nothing_of_what_was_handed_out_is_the_students_own():
    versions = [notebook(*named(text)) for text in ("a=one b=two", "x=essay y=more z=end", "a=uno b=two")]
    with pytest.raises(UnmergeableError, match="nothing in it is of the version handed out"):
        merging.merge("lab.ipynb", *versions, is_back=True)


def test_a_notebook_of_format_3_is_merged_as_what_jupyter_makes_of_it():
    def old(*texts):
        cells = [{"cell_type": "code", "input": text, "language": "python", "outputs": []} for text in texts]
        raw = {"worksheets": [{"cells": cells}], "metadata": {"name": "old"}, "nbformat": 3, "nbformat_minor": 0}
        return json.dumps(raw).encode()

    saved = notebook(*named("a=question b=42"))
    merged = merge(old("question", "answer"), saved, old("better", "answer"))
    assert (sources(merged.content), merged.conflicts) == (["better", "42"], 0)
    assert merge(old("question", "answer"), saved, old("question", "answer")).content == saved


def test_cells_without_metadata_or_outputs_are_merged_as_if_they_were_empty():
    lacking = json.dumps(
        {"cells": [{"cell_type": "code", "source": "one"}], "nbformat": 4, "nbformat_minor": 4}
    ).encode()
    merged = merge(lacking, notebook(*named("a=one b=mine")), lacking.replace(b"one", b"two"))
    assert (sources(merged.content), merged.conflicts) == (["two", "mine"], 0)
