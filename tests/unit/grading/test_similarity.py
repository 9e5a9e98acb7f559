"""Similar submissions: copies come first, what was handed out says nothing, and no file stops the comparison."""

from __future__ import annotations

import html
import json
import os
import re
import runpy
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nblauncher.cli import similar as similar_text
from nblauncher.commands.grading import similar
from nblauncher.config import settings
from nblauncher.errors import HostError, RefusedError
from nblauncher.grading.similarity import report, tokens
from nblauncher.model import Account
from nblauncher.planning.host import this_host

make_class = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks/_similar_class.py"))["make"]

BUBBLE = """def ordered(values):
    \"\"\"Sort them.\"\"\"
    n = len(values)  # how many
    for i in range(n):
        for j in range(0, n - i - 1):
            if values[j] > values[j + 1]:
                values[j], values[j + 1] = values[j + 1], values[j]
    return values
"""
BUBBLE_TOO = """def sort_list( stuff ):
    # my own comment
    count = len(stuff)
    for outer in range(count):

      for inner in range(0, count - outer - 1):
        if stuff[inner] > stuff[inner + 1]:
            stuff[inner], stuff[inner + 1] = stuff[inner + 1], stuff[inner]
    return stuff
"""
GCD = "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a\nprint(gcd(12, 18), gcd(7, 21))\n"
OTHER = (
    "import re\nfound = {word.lower(): len(word) for word in re.findall('[a-z]+', open('x').read()) if word}\nfound\n"
)


def notebook(*sources: str, language: str = "python", **metadata: Any) -> str:
    cells = [{"cell_type": "code", "source": source, "metadata": metadata} for source in sources]
    about = {"kernelspec": {"name": language, "language": language}}
    return json.dumps({"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture
def course(tmp_path: Path) -> Path:
    return tmp_path / "course"


def hand_in(course: Path, name: str, **files: str | bytes) -> Path:
    return write(course / "submitted" / name / "ps1", **files)


def write(folder: Path, **files: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / re.sub("_(?=[^_]*$)", ".", name)).write_bytes(data)
    return folder


def compared(course: Path, *names: str) -> dict[frozenset[str], dict[str, Any]]:
    said = report.report(str(course), "ps1", names, "optics, ps1")
    return {frozenset((pair["one"], pair["other"])): pair for pair in said["pairs"]}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_planted_copies_are_on_top_of_a_class_of_honest_solutions(course, seed):
    names = [f"student{number}" for number in range(36)]
    planted = {frozenset(pair) for pair in make_class(course, names, seed=seed)}
    pairs = compared(course, *names)
    assert set(list(pairs)[:3]) == planted
    assert all(pairs[pair]["one_in_other"] > 0.9 for pair in planted)


def test_names_comments_and_order_do_not_count(course):
    hand_in(course, "ada", p_ipynb=notebook(BUBBLE, GCD), extra_py=OTHER)
    hand_in(course, "bob", renamed_ipynb=notebook(GCD.replace("gcd", "hcf"), BUBBLE_TOO), extra_py=OTHER)
    hand_in(course, "cyd", p_ipynb=notebook("total = sum(x for x in range(100) if x % 3 == 0 or x % 5 == 0)"))
    pairs = compared(course, "ada", "bob", "cyd")
    assert pairs[frozenset(("ada", "bob"))]["one_in_other"] == 1
    assert frozenset(("ada", "cyd")) not in pairs


def test_one_that_holds_the_whole_of_another_is_told_from_equal_ones(course):
    hand_in(course, "ada", p_ipynb=notebook(BUBBLE))
    hand_in(course, "bob", p_ipynb=notebook(BUBBLE, GCD, OTHER))
    pair = compared(course, "ada", "bob")[frozenset(("ada", "bob"))]
    assert pair["one_in_other"] == 1
    assert pair["other_in_one"] < 0.7


def test_what_was_handed_out_says_nothing(course):
    write(course / "release/ps1", p_ipynb=notebook(BUBBLE, "def answer():\n    # YOUR CODE HERE\n    pass"))
    for name in ("ada", "bob"):
        hand_in(course, name, p_ipynb=notebook(BUBBLE, BUBBLE_TOO, "def answer():\n    return 42"))
    assert compared(course, "ada", "bob") == {}


def test_without_a_release_the_solutions_in_the_source_do_not_count_as_handed_out(course):
    solution = f"### BEGIN SOLUTION\n{BUBBLE}### END SOLUTION"
    write(course / "source/ps1", p_ipynb=notebook(f"{GCD}\n{solution}"))
    for name in ("ada", "bob"):
        hand_in(course, name, p_ipynb=notebook(f"{GCD}\n{BUBBLE}"))
    (pair,) = compared(course, "ada", "bob").values()
    assert pair["one_in_other"] == 1
    assert "source/ps1" in (course / "similar/ps1.html").read_text()


def test_a_solution_that_everybody_has_counts_less_than_one_that_two_have(course):
    names = [f"student{number}" for number in range(20)]
    for name in names:
        rare = [OTHER] if name in names[:2] else []
        hand_in(course, name, p_ipynb=notebook(BUBBLE, GCD, *rare))
    pairs = compared(course, *names)
    best, second, *_ = pairs.values()
    assert {best["one"], best["other"]} == set(names[:2])
    assert second["score"] < best["score"] / 2


@pytest.mark.parametrize(
    "one, other, language",
    [
        ("f <- function(x, n) { # power\n for (i in 1:n) x <- x * i\n x + sapply(x, mean) }", "g <- function(", "r"),
        ("function f(x, n)\n for i in 1:n\n  x = x * i + sum(x[i:end])\n end\n x\nend", "function g(", "julia"),
        ("int f(int x, int n) { for (int i = 0; i < n; i++) x += x * i; /* so */ return x; }", "int g(", "java"),
    ],
)
def test_notebooks_of_other_kernels_are_compared(course, one, other, language):
    renamed = one.replace("x", "value").replace(one[: len(other)].replace("g", "f"), other)
    hand_in(course, "ada", p_ipynb=notebook(one, language=language))
    hand_in(course, "bob", p_ipynb=notebook(renamed, language=language))
    (pair,) = compared(course, "ada", "bob").values()
    assert pair["one_in_other"] == 1


@pytest.mark.parametrize("suffix", ["R", "jl", "java", "c", "txt", "py", "m", "sql"])
def test_files_of_many_kinds_are_compared(course, suffix):
    text = "the x = (one + 2) * (three + 4) of all (five + 6) and of these a b c d e f g h i j\n" * 2
    for name in ("ada", "bob"):
        hand_in(course, name, **{f"a_{suffix}": text})
    assert len(compared(course, "ada", "bob")) == 1


def test_python_that_is_broken_is_still_compared():
    whole, broken = tokens.tokens_of(BUBBLE, "python"), tokens.tokens_of(f"{BUBBLE}x = 'open\n", "python")
    assert len(broken.codes) == len(whole.codes) + 3
    assert broken.codes[: len(whole.codes)] == whole.codes


def test_magics_are_no_python_and_cells_of_other_languages_are_read_as_these():
    plain = tokens.tokens_of("x = 1\n", "python")
    assert tokens.tokens_of("%matplotlib inline\n!ls *.csv 'x\nx = 1\nhelp?\n", "python").codes == plain.codes
    assert tokens.tokens_of("%%time\nx = 1", "python").codes == plain.codes
    assert len(tokens.tokens_of("%%bash\n# it's\ncd x\n", "python").codes) == 5


HOSTILE = {
    "deep.ipynb": (b'{"cells":' + b"[" * 200_000, "is nested too deeply"),
    "open.ipynb": (b'{"cells": [', "is not JSON"),
    "list.ipynb": (b"[]", "is not a notebook"),
    "text.ipynb": (b'{"cells": "none"}', "is not a notebook"),
    "cells.ipynb": (b'{"cells": [' + b"{}," * 5000 + b"{}]}", "has more than 2000 cells"),
    "wide.ipynb": (lambda: b'{"cells": [' + b"[]," * 8_000_000 + b"[]]}", "needs too much memory"),
    "long.py": (b"x = 1\n" * 300_000, "has more than 1 MB"),
    "bytes.py": (bytes(range(256)), None),
    "odd.ipynb": (b'{"cells": [1, {"cell_type": "code", "source": [1, "x\\ud800"]}, {"cell_type": []}]}', None),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_cannot_be_read_is_left_out_and_named(course, name):
    content, reason = HOSTILE[name]
    if callable(content):  # made here: for what every worker has in memory each fork of a test pays
        content = content()
    for student in ("ada", "bob"):
        hand_in(course, student, p_ipynb=notebook(BUBBLE))
    (course / "submitted/ada/ps1" / name).write_bytes(content)
    said = report.report(str(course), "ps1", ["ada", "bob"], "optics, ps1")
    assert {one["path"]: one["reason"] for one in said["left_out"]}.get(name) == reason
    assert [pair["other_in_one"] for pair in said["pairs"]] == [1]


def test_files_without_code_are_counted_by_kind(course):
    hand_in(course, "ada", p_ipynb=notebook(BUBBLE), data_csv="1,2\n", plot_png=b"\x89PNG")
    hand_in(course, "bob", p_ipynb=notebook(BUBBLE), data_csv="1,2\n")
    compared(course, "ada", "bob")
    assert "Files of other kinds were not read: 2 .csv, 1 .png." in (course / "similar/ps1.html").read_text()


def test_links_are_not_followed(course):
    hand_in(course, "ada", p_ipynb=notebook(BUBBLE))
    (hand_in(course, "bob", q_py=GCD) / "p.ipynb").symlink_to(course / "submitted/ada/ps1/p.ipynb")
    (course / "submitted/cyd").mkdir()
    (course / "submitted/cyd/ps1").symlink_to(course / "submitted/ada/ps1")
    assert compared(course, "ada", "bob", "cyd") == {}


def test_the_page_needs_nothing_else_and_shows_code_as_text(course):
    evil = '</pre><script>alert(1)</script><img src="https://example.org/x">\u202e'
    for name in ("ada", "bob"):
        hand_in(course, name, p_ipynb=notebook(f"{BUBBLE}# {evil}\n"))
    said = report.report(str(course), "ps1", ["ada", "bob", "eve"], "optics, <b>ps1</b>")
    page = Path(said["page"]).read_text()
    assert "default-src 'none'" in html.unescape(page)
    assert not re.findall(
        r"<(script|img|link|iframe|object|b)\b|\bstyle=|\bsrc=\"|url\(|@import", page.replace("&", "")
    )
    assert "&lt;script&gt;" in page and "\u202e" not in page and r"\u202e" in page
    assert stat.S_IMODE(os.stat(said["page"]).st_mode) == 0o600
    assert "Nothing handed in: eve" in page
    targets, anchors = set(re.findall(r'href="#([^"]+)"', page)), re.findall(r'\bid="([^"]+)"', page)
    assert targets <= set(anchors)
    assert len(anchors) == len(set(anchors))


def test_clusters_are_students_connected_by_alike_pairs(course):
    for name in ("ada", "bob", "cyd"):
        hand_in(course, name, p_ipynb=notebook(BUBBLE, GCD))
    for name in ("dan", "eve", "fay", "gil", "hal", "ida"):
        own = " ".join(f"x{number} = [{'a, ' * (len(name) + ord(name[0]) - 95 + number)}b];" for number in range(9))
        hand_in(course, name, p_ipynb=notebook(own))
    compared(course, *("ada", "bob", "cyd", "dan", "eve", "fay", "gil", "hal", "ida"))
    page = (course / "similar/ps1.html").read_text()
    assert "<td>ada, bob, cyd</td>" in page
    assert "3 pairs stand out" in page and "one half is below 0" in page


@pytest.fixture
def teacher() -> Iterator[tuple[Account, Path]]:
    """An account that is not root, and a folder of its own that it can reach."""
    uid, gid = (65534, 65534) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    folder = Path(tempfile.mkdtemp(prefix="nbt-similar-", dir="/var/tmp"))
    os.chown(folder, uid, gid)
    yield Account("teacher", uid, gid, folder), folder
    shutil.rmtree(folder)


def test_the_command_reads_and_writes_as_the_teacher(teacher):
    account, folder = teacher
    for name in ("ada", "bob"):
        hand_in(folder, name, p_ipynb=notebook(BUBBLE))
    os.chown(folder, account.uid, account.gid)
    course = settings.parse(f"course: optics\ngrading:\n  course: {folder}\n".encode(), folder / "notebooks.cfg")
    page, rows, notes = similar.carry_out(this_host(course, account), "ps1", ["ada", "bob", "eve"])
    assert page.stat().st_uid == account.uid
    assert [(row["one"], row["other"], row["one_in_other"]) for row in rows] == [("ada", "bob", 1.0)]
    text = similar_text.text(page, rows, notes, 80)
    assert "ada  bob" in text and str(page) in text
    assert "1 of 3 have no submission to compare" in text
    with pytest.raises(RefusedError, match="1 of 1 students"):
        similar.carry_out(this_host(course, account), "ps1", ["ada"])


def test_a_page_that_cannot_be_written_is_an_error_with_its_reason(course):
    for name in ("ada", "bob"):
        hand_in(course, name, p_ipynb=notebook(BUBBLE))
    (course / "similar/ps1.html").mkdir(parents=True)
    with pytest.raises(HostError, match=r"ps1\.html cannot be written: is a directory"):
        report.report(str(course), "ps1", ["ada", "bob"], "optics, ps1")


REPEATED = {
    "one token": "x " * 150_000,
    "a period": "x+y-z*" * 50_000,
    "open brackets": "[" * 300_000,
    "open strings": "'''\"" * 70_000,
    "short lines": "x\n" * 150_000,
    "one line": "a" * 350_000,
}


@pytest.mark.parametrize("text", REPEATED.values(), ids=REPEATED)
def test_text_that_is_made_to_take_long_does_not(course, text):
    for name in ("ada", "bob"):
        hand_in(course, name, p_ipynb=notebook(text))
    began = time.process_time()
    report.report(str(course), "ps1", ["ada", "bob"], "optics, ps1")
    assert time.process_time() - began < 15
    assert (course / "similar/ps1.html").stat().st_size < 1_000_000


def test_each_passage_is_linked_with_the_same_passage_of_the_other(course):
    hand_in(course, "ada", p_ipynb=notebook(BUBBLE, GCD))
    hand_in(course, "bob", p_ipynb=notebook(GCD, BUBBLE_TOO))
    report.report(str(course), "ps1", ["ada", "bob"], "optics, ps1")
    page = html.unescape((course / "similar/ps1.html").read_text())
    marks = dict(re.findall(r'<a id="(pair-1-[ab]-\d+)" href="#(pair-1-[ab]-\d+)"', page))
    assert marks == {f"pair-1-{a}-{n}": f"pair-1-{b}-{n}" for n in (1, 2) for a, b in ("ab", "ba")}
    first = re.findall(r"<sup>1</sup>(.*?)</a>", page)
    assert first == ["def ordered(values):", "def sort_list( stuff ):"]


def test_the_command_refuses_a_teacher_who_is_root(tmp_path):
    course = settings.parse(b"course: optics\n", tmp_path / "notebooks.cfg")
    with pytest.raises(RefusedError, match="not read as root"):
        similar.carry_out(this_host(course, Account("root", 0, 0, Path("/root"))), "ps1", ["ada"])
