"""`init`: samples that work, and nothing overwritten."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import nbformat
import pytest

from nblauncher.commands.init import sample_files, write_samples
from nblauncher.config import roster, settings
from nblauncher.errors import HostError, InputError

TOP = Path(__file__).parents[3]
NOTEBOOKS = sorted([*TOP.glob("examples/*.ipynb"), *TOP.glob("nblauncher/commands/samples/material/*.ipynb")])


def test_the_samples_are_a_class_that_can_be_set_up(tmp_path: Path) -> None:
    written = write_samples(tmp_path / "new" / "class")
    assert [file.relative_to(tmp_path / "new" / "class").as_posix() for file in written] == [
        "notebooks.cfg",
        "students.csv",
        "material/welcome.ipynb",
    ]
    course = settings.parse(written[0].read_bytes(), written[0])
    assert len(roster.parse(course.students.read_bytes(), "students.csv")) == 6
    assert (course.material.source / "welcome.ipynb").is_file()


@pytest.mark.parametrize(
    "folder, course",
    [
        ("optics", "optics"),
        ("Optics 2026", "optics-2026"),
        ("2026_Physik für Anfänger", "physik-fur-anfanger"),
        ("on", "physics101"),
        ("null", "physics101"),
        ("---", "physics101"),
        ("光学", "physics101"),
    ],
)
def test_the_course_is_called_as_its_folder(tmp_path: Path, folder: str, course: str) -> None:
    """Two folders are two courses."""
    config = write_samples(tmp_path / folder)[0]
    assert settings.parse(config.read_bytes(), config).course == course


@pytest.mark.parametrize(
    "name, kind",
    [
        *((name, kind) for name in ("notebooks.cfg", "material") for kind in ("file", "folder", "dangling link")),
        *(("students.csv", "folder"), ("students.csv", "dangling link")),
    ],
)
def test_nothing_is_written_when_any_of_them_exists(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("elsewhere")
    with pytest.raises(InputError) as caught:
        write_samples(tmp_path)
    assert caught.value.problems == (f"{path} exists already",)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert kind != "file" or path.read_text() == "mine"


def test_a_roster_that_is_there_is_kept(tmp_path: Path) -> None:
    """`roster import` may come before `init`."""
    (tmp_path / "students.csv").write_text("username\nzoe\n")
    assert [file.name for file in write_samples(tmp_path)] == ["notebooks.cfg", "welcome.ipynb"]
    assert (tmp_path / "students.csv").read_text() == "username\nzoe\n"


def test_every_file_that_is_in_the_way_is_named(tmp_path: Path) -> None:
    write_samples(tmp_path)
    with pytest.raises(InputError) as caught:
        write_samples(tmp_path)
    assert len(caught.value.problems) == 2


def test_a_folder_that_cannot_be_made_is_an_error_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="cannot write the samples"):
        write_samples(tmp_path / "file" / "below")


def test_the_packaged_roster_is_the_one_at_the_top() -> None:
    assert sample_files()["students.csv"] == (TOP / "students.csv").read_bytes()


def test_the_sample_roster_shows_the_optional_columns() -> None:
    students = roster.parse((TOP / "students.csv").read_bytes(), "students.csv").students
    assert len(students) == 6
    assert all(any(getattr(student, name) for student in students) for name in roster.COLUMNS)
    assert any(value for student in students for _, value in student.extra)


def test_the_example_class_has_its_material() -> None:
    course = settings.parse((TOP / "notebooks.cfg").read_bytes(), TOP / "notebooks.cfg")
    assert course.material.source == TOP / "examples"
    assert course.students == TOP / "students.csv"
    assert len(list(course.material.source.glob("*.ipynb"))) == 3


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.name)
def test_every_notebook_is_valid_clean_and_prints_from_its_first_cell(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = json.loads(file.read_bytes())
    nbformat.validate(notebook)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    monkeypatch.chdir(file.parent)
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        exec("".join(cell["source"]), names)
        assert number > 0 or capsys.readouterr().out.strip()


def test_the_data_of_the_example_is_a_table_of_numbers() -> None:
    text = (TOP / "examples" / "data" / "falling_ball.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 13 and all(float(row["distance_m"]) >= 0 for row in rows)
