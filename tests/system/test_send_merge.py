"""send, where students have worked on what they were given: merged, told, trusted, and never lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.sign import NotebookNotary

from nblauncher.exchange.merge.notebooks import WORDS
from tests.classroom import system_lines
from tests.homework import as_student
from tests.notebooks import cell, named, notebook, sources
from tests.taught import ADA, BOB, NAMES, WORKER, Taught, taught_class

pytestmark = pytest.mark.system

EVE = f"nbtm{WORKER}eve"
NEWS = "News from your teacher.md"


@pytest.fixture(scope="module")
def taught() -> Iterator[Taught]:
    with taught_class() as room:
        yield room


def teach(taught: Taught, path: str, content: bytes) -> None:
    taught.teach(path, content.decode())


def save(name: str, path: str, content: bytes | str) -> Path:
    """The student saves a file of the tutorial as Jupyter does: another file takes the name."""
    script = (
        f"mkdir -p \"$(dirname 'tutorial/{path}')\"; cat > tutorial/.saving && mv tutorial/.saving 'tutorial/{path}'"
    )
    as_student(name, "sh", "-c", script, input=content if isinstance(content, str) else content.decode())
    return taught_file(name, path)


def taught_file(name: str, path: str) -> Path:
    return Path("/home") / name / "tutorial" / path


def changes(students: dict[str, dict], name: str) -> dict[str, str]:
    return {one["path"]: one["change"] for one in students[name]["changes"]}


def test_an_edited_notebook_gets_the_teachers_correction_and_keeps_the_students_answer(taught):
    teach(taught, "lab.ipynb", notebook(*named("a=question b=answer")))
    taught.sudo("send")
    save(ADA, "lab.ipynb", notebook(*named("a=question b=42")))
    teach(taught, "lab.ipynb", notebook(*named("a=better b=answer c=bonus")))
    students = taught.sudo_json("send")
    assert sources(taught_file(ADA, "lab.ipynb").read_bytes()) == ["better", "42", "bonus"]
    assert sources(taught_file(BOB, "lab.ipynb").read_bytes()) == ["better", "answer", "bonus"]
    assert (changes(students, ADA), changes(students, BOB)) == ({"lab.ipynb": "merged"}, {"lab.ipynb": "updated"})
    status = taught_file(ADA, "lab.ipynb").stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o600, taught.home(ADA).stat().st_uid)
    assert taught.sudo("send").stdout == "send: nothing to do.\n"


def test_a_second_correction_is_merged_into_what_the_first_one_made(taught):
    teach(taught, "lab.ipynb", notebook(*named("a=best b=answer c=bonus")))
    taught.sudo("send")
    assert sources(taught_file(ADA, "lab.ipynb").read_bytes()) == ["best", "42", "bonus"]


def test_where_both_changed_a_cell_both_are_there_and_the_table_says_so(taught):
    teach(taught, "lab.ipynb", notebook(*named("a=best b=hint c=bonus")))
    told = taught.sudo("send").stdout
    assert sources(taught_file(ADA, "lab.ipynb").read_bytes()) == ["best", "42", WORDS, "hint", "bonus"]
    lines = [line.split() for line in told.splitlines()]
    assert lines[0] == ["file", "change", "students"]
    assert ["lab.ipynb", "conflict", ADA, "cells"] in [line[:4] for line in lines]
    assert ["lab.ipynb", "updated", BOB] in lines


def test_a_program_is_merged_by_line_or_kept_with_the_new_one_beside_it(taught):
    taught.teach("apart.py", "one\ntwo\nthree\nfour\n")
    taught.teach("same.py", "one\ntwo\n")
    taught.sudo("send")
    save(ADA, "apart.py", "ONE\ntwo\nthree\nfour\n")
    save(ADA, "same.py", "one\nmine\n")
    taught.teach("apart.py", "one\ntwo\nthree\n4\n")
    taught.teach("same.py", "one\nnew\n")
    students = taught.sudo_json("send")
    assert taught_file(ADA, "apart.py").read_text() == "ONE\ntwo\nthree\n4\n"
    assert taught_file(ADA, "same.py").read_text() == "one\nmine\n"
    assert [file.read_text() for file in taught.tutorial(ADA).glob("same (update *).py")] == ["one\nnew\n"]
    assert changes(students, ADA) == {"apart.py": "merged", "same.py": "conflict"}
    # What is not in the file yet comes with the next version, if that can be merged.
    taught.teach("same.py", "zero\n\none\ntwo\n")
    save(ADA, "same.py", "one\ntwo\nmine\n")
    taught.sudo("send")
    assert taught_file(ADA, "same.py").read_text() == "zero\n\none\ntwo\nmine\n"


def test_the_student_is_told_in_the_home_what_changed(taught):
    news = taught_file(ADA, NEWS).read_text()
    assert news.startswith("# News from your teacher\n\n## ")
    assert "- `apart.py`: a new version; what you wrote in it is still there\n" in news
    assert "- `same.py`: you had changed it, so it stays as it is; the new version is `same (update " in news
    assert news.index("apart.py") < news.index("lab.ipynb")  # the newest first
    assert "- `lab.ipynb`: a new version\n" in taught_file(BOB, NEWS).read_text()
    save(ADA, NEWS, "my own notes")
    taught.teach("apart.py", "one\ntwo\nthree\n5\n")
    assert NEWS not in changes(taught.sudo_json("send"), ADA)
    assert taught_file(ADA, NEWS).read_text() == "my own notes"
    assert list(taught.tutorial(ADA).glob("News from your teacher (update *).md"))
    retrieved = taught.sudo("retrieve").stdout
    assert "The work is in" in retrieved
    assert not (taught.latest / BOB / "work" / NEWS).exists()
    assert (taught.latest / ADA / "work" / NEWS).read_text() == "my own notes"


def test_only_new_touches_nothing_that_a_student_ever_had(taught):
    taught.teach("apart.py", "another\n")
    taught.teach("later.txt", "later")
    save(BOB, "later.txt", "mine")
    students = taught.sudo_json("send", "--only-new")
    assert changes(students, ADA) == {"later.txt": "new"}
    assert taught_file(BOB, "later.txt").read_text() == "mine"
    assert taught_file(BOB, "apart.py").read_text() == "one\ntwo\nthree\n5\n"
    assert taught.sudo("send", "--only-new").stdout == "send: nothing to do.\n"
    assert changes(taught.sudo_json("send"), BOB)["apart.py"] == "updated"
    assert taught.sudo("send", "--only-new", "--restore-deleted", expect=2).stdout == ""


def test_who_joins_late_gets_everything_in_its_present_version(taught):
    taught.write([*NAMES, EVE])
    taught.sudo("setup")
    assert sources(taught_file(EVE, "lab.ipynb").read_bytes()) == ["best", "hint", "bonus"]
    assert not taught_file(EVE, NEWS).exists()
    assert {file.name for file in (taught.folder / "material").iterdir()} <= {
        file.name for file in taught.tutorial(EVE).iterdir()
    }


def versions(taught: Taught) -> list[bytes]:
    folder = taught.paths.versions
    return [file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()]


def test_a_version_is_kept_once_while_somebody_has_it_and_no_longer(taught):
    taught.teach("kept.txt", "version one")
    taught.teach("twin.txt", "version one")
    taught.sudo("send")
    assert versions(taught).count(b"version one") == 1
    save(ADA, "kept.txt", "mine")
    taught.teach("kept.txt", "version two")
    taught.teach("twin.txt", "version two")
    taught.sudo("send")
    assert b"version one" in versions(taught)  # ada's is made of it
    folder = taught.paths.versions
    assert {(file.stat().st_mode & 0o777, file.stat().st_uid) for file in folder.rglob("*") if file.is_file()} == {
        (0o600, 0)
    }
    as_student(ADA, "rm", "tutorial/kept.txt")
    taught.teach("kept.txt", "version three")
    taught.sudo("send")
    assert b"version one" in versions(taught)  # she may undo it
    taught.sudo("send", "--restore-deleted", "--only", ADA)
    taught.teach("twin.txt", "version three")
    taught.sudo("send")
    assert b"version one" not in versions(taught) and b"version three" in versions(taught)


def test_a_damaged_version_is_never_merged_with(taught):
    taught.teach("frail.py", "one\ntwo\nthree\n")
    taught.sudo("send")
    save(ADA, "frail.py", "ONE\ntwo\nthree\n")
    for file in taught.paths.versions.rglob("*"):
        if file.is_file() and file.read_bytes() == b"one\ntwo\nthree\n":
            file.write_bytes(b"one\ntwo\nTHREE\n")
    taught.teach("frail.py", "one\ntwo\n3\n")
    students = taught.sudo_json("send")
    (about,) = [one for one in students[ADA]["changes"] if one["path"] == "frail.py"]
    assert about["change"] == "conflict" and "is not known any more" in about["detail"]
    assert taught_file(ADA, "frail.py").read_text() == "ONE\ntwo\nthree\n"


@pytest.mark.parametrize(
    "parts, why",
    [
        ((b"not a notebook", b"", 0, b""), "is not a notebook"),
        ((b'{"worksheets": 1, "metadata": {}, "nbformat": 3, ', b'"nbformat_minor": 0}', 1, b""), "of format 4"),
        ((b"", b"[", 200_000, b""), "too much memory"),
        pytest.param(
            (b'{"cells": [], "nbformat": 4, "nbformat_minor": 5}', b" ", 200_000_000, b""),
            "larger than 16 MiB",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            (b'{"cells": [', b"[],[],", 2_700_000, b'[]], "nbformat": 4, "nbformat_minor": 5}'),
            "no cells|too much",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["text", "format-3", "brackets", "200-MB", "millions-of-lists"],
)
def test_what_cannot_be_merged_stays_with_the_new_version_beside_it(taught, parts, why):
    begin, middle, count, end = parts  # made here: what every worker has in memory, each fork of a test pays for
    content = begin + middle * count + end
    for old in taught.tutorial(ADA).glob("odd*"):
        old.unlink()
    teach(taught, "odd.ipynb", notebook(*named(f"a=one{len(content)}")))
    taught.sudo("send", "--restore-deleted", "--only", ADA)
    save(ADA, "odd.ipynb", content)
    teach(taught, "odd.ipynb", notebook(*named(f"a=two{len(content)}")))
    students = taught.sudo_json("send", "--only", ADA)
    (about,) = [one for one in students[ADA]["changes"] if one["path"] == "odd.ipynb"]
    assert about["change"] == "conflict"
    assert any(words in about["detail"] for words in why.split("|"))
    assert taught_file(ADA, "odd.ipynb").read_bytes() == content
    (beside,) = taught.tutorial(ADA).glob("odd (update *).ipynb")
    assert sources(beside.read_bytes()) == [f"two{len(content)}"]


def test_a_full_disk_of_versions_sends_nothing_and_says_which(taught):
    taught.teach("big.bin", "x" * 3_000_000)
    options = ["-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(taught.paths.versions)]
    subprocess.run(["mount", *options], check=True)
    try:
        failed = taught.sudo("send", "--only", ADA, expect=1)
        assert "objects is full" in failed.stderr
        assert not taught_file(ADA, "big.bin").exists()
        assert [file for file in taught.paths.versions.rglob("*") if file.is_file()] == []
    finally:
        subprocess.run(["umount", str(taught.paths.versions)], check=True)
    taught.sudo("send", "--only", ADA)
    assert taught_file(ADA, "big.bin").stat().st_size == 3_000_000


# Trust


SCRIPT = {"output_type": "display_data", "data": {"application/javascript": "1"}, "metadata": {}}


def with_script(source: str, name: str) -> dict:
    return cell(source, name) | {"outputs": [SCRIPT], "execution_count": 1}


def is_trusted(name: str, path: str) -> bool:
    """As the student's server judges it, with the key and the signatures of the home."""
    data = Path(f"/home/{name}/.local/share/jupyter")
    if not data.exists():
        return False
    copy = Path(f"/tmp/nbt-trust-{os.getpid()}")
    shutil.copytree(data, copy, ignore=shutil.ignore_patterns("runtime"))
    try:
        content = nbformat.reads(taught_file(name, path).read_text(), as_version=4)
        with NotebookNotary(data_dir=str(copy)) as notary:
            return notary.check_signature(content)
    finally:
        shutil.rmtree(copy)


def test_without_the_setting_nothing_is_signed(taught):
    teach(taught, "plot.ipynb", notebook(with_script("plot", "a"), cell("answer", "b")))
    taught.sudo("send")
    assert not (taught.home(ADA) / ".local/share/jupyter/nbsignatures.db").exists()


def test_the_teachers_outputs_are_trusted_and_a_students_never(taught):
    taught.write(material={"source": "material", "target": "tutorial", "trust": True})
    teach(taught, "plot.ipynb", notebook(with_script("plot 1", "a"), cell("answer", "b")))
    save(ADA, "plot.ipynb", notebook(with_script("plot", "a"), cell("42", "b")))
    save(BOB, "plot.ipynb", notebook(with_script("plot", "a"), with_script("42", "b")))
    taught.sudo("send")
    assert [is_trusted(name, "plot.ipynb") for name in (ADA, BOB, EVE)] == [True, False, True]
    folder = taught.home(ADA) / ".local/share/jupyter"
    secret = (folder / "notebook_secret").stat()
    assert (secret.st_uid, secret.st_mode & 0o777) == (taught.home(ADA).stat().st_uid, 0o600)


def test_a_student_whose_key_cannot_be_used_gets_the_material_all_the_same(taught):
    folder = taught.home(ADA) / ".local/share/jupyter"
    as_student(
        ADA, "sh", "-c", f"rm {folder}/nbsignatures.db {folder}/notebook_secret; mkfifo {folder}/notebook_secret"
    )
    teach(taught, "plot.ipynb", notebook(with_script("plot 2", "a"), cell("answer", "b")))
    students = taught.sudo_json("send")
    assert sources(taught_file(ADA, "plot.ipynb").read_bytes()) == ["plot 2", "42"]
    assert students[ADA]["status"] == "done"
    (about,) = [one for one in students[ADA]["changes"] if one["change"] == "not trusted"]
    assert "still not done" in about["detail"]
    as_student(ADA, "rm", f"{folder}/notebook_secret")


def test_a_forged_database_of_signatures_harms_nobody(taught):
    folder = taught.home(ADA) / ".local/share/jupyter"
    as_student(ADA, "sh", "-c", f"rm -f {folder}/nbsignatures.db; ln -s /etc/shadow {folder}/nbsignatures.db")
    before = system_lines("shadow", ADA)
    teach(taught, "plot.ipynb", notebook(with_script("plot 3", "a"), cell("answer", "b")))
    students = taught.sudo_json("send")
    assert students[ADA]["status"] == "done"
    assert system_lines("shadow", ADA) == before
    as_student(ADA, "rm", f"{folder}/nbsignatures.db")


@pytest.mark.parametrize("how", ["renamed away and back", "deleted and undone"])
def test_a_file_that_was_gone_when_a_version_came_is_merged_with_the_next_one(taught, how):
    name = f"{how[:3]}.ipynb"
    teach(taught, name, notebook(*named("a=question b=answer")))
    taught.sudo("send")
    mine = notebook(*named("a=question b=42"))
    save(ADA, name, mine)
    away = "mv tutorial/{0} tutorial/away-{0}" if how.startswith("ren") else "rm tutorial/{0}"
    as_student(ADA, "sh", "-c", away.format(name))
    teach(taught, name, notebook(*named("a=better b=answer")))
    assert changes(taught.sudo_json("send"), ADA)[name] == "kept"
    if how.startswith("ren"):
        as_student(ADA, "mv", f"tutorial/away-{name}", f"tutorial/{name}")
    else:
        save(ADA, name, mine)
    teach(taught, name, notebook(*named("a=best b=answer c=bonus")))
    assert changes(taught.sudo_json("send"), ADA)[name] == "merged"
    assert sources(taught_file(ADA, name).read_bytes()) == ["best", "42", "bonus"]


def test_another_file_in_the_place_of_a_deleted_one_stays_the_students_own(taught):
    teach(taught, "again.ipynb", notebook(*named("a=question b=answer")))
    taught.sudo("send")
    as_student(ADA, "rm", "tutorial/again.ipynb")
    teach(taught, "again.ipynb", notebook(*named("a=better b=answer")))
    taught.sudo("send")
    save(ADA, "again.ipynb", notebook(*named("x=essay y=more z=end")))
    for version in ("best", "last"):
        teach(taught, "again.ipynb", notebook(*named(f"a={version} b=answer c=bonus")))
        assert changes(taught.sudo_json("send"), ADA)["again.ipynb"] == "conflict"
        assert sources(taught_file(ADA, "again.ipynb").read_bytes()) == ["essay", "more", "end"]


def test_a_notebook_of_a_later_format_stops_no_other_file(taught):
    teach(taught, "future.ipynb", notebook(*named("a=one"), minor=6))
    teach(taught, "plain.txt", b"one\n")
    taught.sudo("send")
    later = {"cell_type": "prompt", "id": "p", "metadata": {}, "source": "?"}
    save(ADA, "future.ipynb", notebook(*named("a=mine"), later, minor=6))
    teach(taught, "future.ipynb", notebook(*named("a=two"), later, minor=6))
    teach(taught, "plain.txt", b"two\n")
    said = changes(taught.sudo_json("send"), ADA)
    assert (said["future.ipynb"], said["plain.txt"]) == ("conflict", "updated")
    assert sources(taught_file(ADA, "future.ipynb").read_bytes()) == ["mine", "?"]


def test_a_notebook_of_format_3_is_merged_with_what_jupyter_made_of_it(taught):
    old = json.dumps(
        {
            "worksheets": [
                {
                    "cells": [
                        {"cell_type": "code", "input": text, "language": "python", "outputs": []}
                        for text in ("question one", "answer")
                    ]
                }
            ],
            "metadata": {"name": "old"},
            "nbformat": 3,
            "nbformat_minor": 0,
        }
    )
    taught.teach("old.ipynb", old)
    taught.sudo("send")
    save(ADA, "old.ipynb", notebook(*named("a=question b=42")).replace(b'"question"', b'"question one"'))
    taught.teach("old.ipynb", old.replace("question one", "a better question"))
    assert changes(taught.sudo_json("send"), ADA)["old.ipynb"] == "merged"
    assert sources(taught_file(ADA, "old.ipynb").read_bytes()) == ["a better question", "42"]


@pytest.mark.parametrize(
    "content, words",
    [
        (b"{\n<<<<<<< HEAD\n=======\n>>>>>>> main\n}", "line 2 is a merge marker"),
        (b'{"cells": []\n,}', "line 2 is not JSON"),  # Python 3.13 names the comma's line
        (
            b'{"cells": [{"cell_type": "code", "source": ""}], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}',
            "cell 1 has no metadata",
        ),
    ],
    ids=["merge markers", "trailing comma", "missing keys"],
)
def test_the_teacher_is_told_which_notebook_is_broken_and_how(taught, content, words):
    teach(taught, "broken.ipynb", content)
    try:
        assert f"broken.ipynb is not a valid notebook: {words}" in taught.sudo("check", expect=None).stdout
        sent = taught.sudo("send")
        assert f"broken.ipynb: not a valid notebook: {words}" in sent.stdout + sent.stderr
    finally:
        (taught.folder / "material/broken.ipynb").unlink()
