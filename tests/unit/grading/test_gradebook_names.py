"""First and last names for the gradebook, and what is left to the teacher."""

from __future__ import annotations

import pytest

from nblauncher.grading.gradebook_names import row_of, split
from nblauncher.model import Student


@pytest.mark.parametrize(
    "name, first, last",
    [
        ("Ada Lovelace", "Ada", "Lovelace"),
        ("Lovelace, Ada", "Ada", "Lovelace"),
        ("Ludwig van Beethoven", "Ludwig", "van Beethoven"),
        ("Carl Friedrich  Gauss", "Carl Friedrich", "Gauss"),
        ("Oscar de la Hoya", "Oscar", "de la Hoya"),
        ("Plato", "Plato", ""),
        ("van Gogh", "van", "Gogh"),
        ("", "", ""),
        ("Gauss,", "Gauss", ""),
    ],
)
def test_a_name_is_split_as_its_bearer_would(name, first, last):
    assert split(name) == (first, last)


def test_columns_for_the_parts_of_a_name_come_first_and_cells_are_one_line():
    student = Student(
        "ada", "Somebody Else", "ada@example.org", extra=(("Surname", "King\nLovelace"), ("Vorname", "Ada"))
    )
    assert row_of(student) == {
        "id": "ada",
        "first_name": "Ada",
        "last_name": "King Lovelace",
        "email": "ada@example.org",
    }
    assert len(row_of(Student("ada", email="x" * 1000))["email"]) == 128
