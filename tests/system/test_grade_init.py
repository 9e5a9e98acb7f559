"""grade init and send --assignment with the real nbgrader, for a teacher who is not root."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from tests import envelope
from tests.graded import Graded, graded_class
from tests.homework import as_student
from tests.packages import alone
from tests.taught import ADA, BOB, NAMES, TEACHER

pytestmark = [pytest.mark.system, pytest.mark.group("builder"), pytest.mark.slow]  # builds nbgrader's environment

NAMES_KNOWN = "{one.id: [one.first_name, one.last_name, one.email] for one in book.students}"
DUE = "str(book.find_assignment('ps1').duedate)"


@pytest.fixture(scope="module")
def fresh() -> Iterator[Graded]:
    """Before the first `grade init`."""
    with alone(), graded_class() as course:
        yield course


@pytest.fixture(scope="module")
def graded(fresh: Graded) -> Graded:
    fresh.room.sudo("grade", "init")
    fresh.quickstart()
    return fresh


def roster(graded: Graded, *rows: str) -> None:
    (graded.room.folder / "students.csv").write_text("\n".join(["username,name,email", *rows, ""]))
    graded.room.hand_over()


def sources_of(file: Path) -> str:
    return "".join("".join(cell["source"]) for cell in json.loads(file.read_text())["cells"])


def append(file: Path, text: str) -> None:
    """Another Markdown cell at the end of a notebook of the teacher's."""
    notebook = json.loads(file.read_text())
    notebook["cells"].append({"cell_type": "markdown", "metadata": {}, "source": text})
    file.write_text(json.dumps(notebook))


def test_before_init_a_dry_run_makes_nothing_and_an_unknown_assignment_is_named(fresh):
    said = fresh.room.sudo("grade", "init", "--dry-run").stdout
    assert "build and install the packages that grade (1 requested)" in said and not fresh.course.exists()
    refused = fresh.room.sudo("send", "--assignment", "ps1", expect=3).stderr
    assert "there is no assignment ps1" in refused and "Nothing was sent" in refused
    source = fresh.course / "source" / "ps1"
    source.mkdir(parents=True)
    fresh.room.hand_over()
    refused = fresh.room.sudo("send", "--assignment", "ps1", expect=4).stderr
    assert "Run `nblauncher grade init` first" in refused
    subprocess.run(["rm", "-r", str(fresh.course)], check=True)


def test_init_makes_environment_folder_and_roster_and_then_has_nothing_to_do(graded):
    assert graded.course.stat().st_uid == graded.room.uid and graded.course.stat().st_mode & 0o777 == 0o700
    assert graded.gradebook(NAMES_KNOWN) == {name: ["Student", name, None] for name in NAMES}
    assert graded.room.sudo("grade", "init").stdout == "grade: nothing to do.\n"
    assert "nbgrader" in graded.as_teacher("nbgrader", "--help")
    found = envelope.checked(graded.room.sudo("grade", "init", "--json").stdout, 0, "grade init")
    assert [one["imported"] for one in found["students"]] == [[], []]


def test_a_changed_roster_is_imported_and_who_left_it_is_kept_and_named(graded):
    roster(graded, f'{ADA},"van Lovelace, Ada",ada@example.org')
    said = graded.room.sudo("grade", "init")
    assert f"Changed in the gradebook: {ADA} (email, first name, last name)." in said.stdout
    assert f"in the gradebook and not in the roster: {BOB}; they and their grades stay" in said.stderr
    names = graded.gradebook(NAMES_KNOWN)
    assert names == {ADA: ["Ada", "van Lovelace", "ada@example.org"], BOB: ["Student", BOB, None]}
    graded.gradebook(f"book.update_or_create_student('{ADA}', first_name='Ada van', last_name='Lovelace').id")
    assert graded.room.sudo("grade", "init").stdout == "grade: nothing to do.\n", "the teacher splits names better"
    graded.room.write()


def test_what_the_teacher_has_is_used_and_not_overwritten(graded):
    config = graded.course / "nbgrader_config.py"
    before = config.read_text()
    own = f"{before}c.CourseDirectory.db_url = 'sqlite:///{graded.course}/own.db'\n"
    config.write_text(own)
    said = graded.room.sudo("grade", "init").stdout
    assert "Imported 2 students" in said and (graded.course / "own.db").exists()
    assert config.read_text() == own and (graded.course / "source" / "ps1" / "problem1.ipynb").exists()
    config.write_text(f"{before}c.CourseDirectory.release_directory = 'out'\n")
    assert "release_directory is out" in graded.room.sudo("grade", "init", expect=3).stderr
    config.write_text(before)


def test_an_assignment_goes_out_without_solutions_and_its_deadline_is_nbgraders_due_date(graded):
    due = datetime(2031, 5, 2, 15, 30, tzinfo=timezone.utc)
    graded.room.write(deadlines={"ps1": due.isoformat()})
    plan = json.loads(graded.room.sudo("send", "--assignment", "ps1", "--dry-run", "--json").stdout)["plan"]
    assert plan == [
        "generate release/ps1 with nbgrader and set nbgrader's due date of ps1 to 2031-05-02T15:30:00+00:00"
    ]
    students = graded.room.sudo_json("send", "--assignment", "ps1")
    new = ["ps1/jupyter.png", "ps1/problem1.ipynb", "ps1/problem2.ipynb"]
    assert sorted(one["path"] for one in students[ADA]["changes"]) == new
    notebook = graded.room.tutorial(ADA) / "ps1" / "problem1.ipynb"
    assert "raise NotImplementedError" in sources_of(notebook) and "BEGIN SOLUTION" not in sources_of(notebook)
    assert notebook.stat().st_uid != graded.room.uid
    assert graded.gradebook(DUE) == "2031-05-02 15:30:00"
    assert graded.room.sudo("send", "--assignment", "ps1").stdout == "send: nothing to do.\n"
    assert graded.room.sudo("send").stdout == "send: nothing to do.\n"


def test_a_corrected_source_is_merged_with_what_students_wrote(graded):
    graded.room.sudo("send", "--assignment", "ps1")
    answer = (
        "import json; p = 'tutorial/ps1/problem2.ipynb'; n = json.load(open(p)); n['cells'][1]['source'] = 'mine'; "
    )
    as_student(ADA, "/usr/bin/python3", "-c", f"{answer}json.dump(n, open(p, 'w'))")
    append(graded.course / "source" / "ps1" / "problem2.ipynb", "A hint.")
    students = graded.room.sudo_json("send", "--assignment", "./ps1/")
    assert [(one["path"], one["change"]) for one in students[ADA]["changes"]] == [("ps1/problem2.ipynb", "merged")]
    assert [(one["path"], one["change"]) for one in students[BOB]["changes"]] == [("ps1/problem2.ipynb", "updated")]
    said = sources_of(graded.room.tutorial(ADA) / "ps1" / "problem2.ipynb")
    assert "mine" in said and "A hint." in said
    graded.room.sudo("retrieve")
    assert (graded.room.latest / ADA / "work" / "ps1" / "problem2.ipynb").exists()
    assert not (graded.room.latest / BOB / "work" / "ps1").exists(), "what was handed out is not the student's work"


def test_what_nbgrader_refuses_is_told_and_nothing_is_sent(graded):
    graded.room.sudo("send", "--assignment", "ps1")
    source, release = (graded.course / kind / "ps1" / "problem2.ipynb" for kind in ("source", "release"))
    good, released = source.read_text(), release.read_text()
    notebook = json.loads(good)
    notebook["cells"] += [cell for cell in notebook["cells"] if "nbgrader" in cell["metadata"]]
    source.write_text(json.dumps(notebook))
    refused = graded.room.sudo("send", "--assignment", "ps1", expect=3).stderr
    assert "problem2.ipynb: Duplicate grade id" in refused and "Nothing was sent" in refused
    assert release.read_text() == released
    source.write_text(good)
    assert graded.room.sudo("send", "--assignment", "ps1").stdout == "send: nothing to do.\n"


def test_an_assignment_that_the_material_has_too_is_refused(graded):
    mine = graded.room.teach("ps1/notes.txt", "the material's")
    refused = graded.room.sudo("send", "--assignment", "ps1", expect=3).stderr
    assert "ps1/notes.txt too" in refused and "Nothing was sent" in refused
    mine.unlink()
    mine.parent.rmdir()


def test_a_locked_gradebook_is_said(graded):
    code = "import sqlite3, sys; book = sqlite3.connect('gradebook.db'); book.execute('begin exclusive'); "
    code += "print(1, flush=True); sys.stdin.read()"
    line = ["runuser", "-u", TEACHER, "--", str(graded.python), "-c", code]
    roster(graded, f"{ADA},Ada Byron,ada@example.org")
    with subprocess.Popen(line, cwd=graded.course, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline()
        assert "the gradebook is locked" in graded.room.sudo("grade", "init", expect=1).stderr
        holder.communicate()
    graded.room.write()
