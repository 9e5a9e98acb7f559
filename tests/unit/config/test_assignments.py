"""Which folder is meant, and what is only nearly one."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from nblauncher.config import assignments
from nblauncher.config.assignments import Known
from nblauncher.model import EMPTY_FOLDER, Exclusion, Material

MATERIAL = Material(Path("/home/kim/waves/material"), "tutorial")
NFD = unicodedata.normalize("NFD", "Übung 1")
HELD = assignments.known(
    ["ps1/lab.ipynb", "ps2/lab.ipynb", f"{NFD}/lab.ipynb", "week1/exam/lab.ipynb", "lab1/a.txt", "part-i/a", "read.me"],
    [Exclusion("soon", EMPTY_FOLDER), Exclusion("linked", "a link is not handed out")],
)


def meaning(text: str, held: Known = HELD) -> assignments.Meaning:
    return assignments.meaning(text, MATERIAL, held)


@pytest.mark.parametrize(
    "text, folder",
    [
        *(
            (text, "ps1")
            for text in ("ps1", "ps1/", "./ps1/", " ps1 ", "tutorial/ps1", "material/ps1/", "Tutorial/ps1")
        ),
        *((text, "ps1") for text in ("~/tutorial/ps1", "/home/kim/waves/material/ps1", "material\\ps1", ".\\ps1\\")),
        *((text, NFD) for text in (NFD, "Übung 1", "tutorial/Übung 1/")),
        ("week1//exam", "week1/exam"),
        ("soon", "soon"),
    ],
)
def test_the_forms_that_people_use_for_a_folder_are_taken(text, folder):
    assert meaning(text) == assignments.Meaning(folder, True)


@pytest.mark.parametrize(
    "text, near",
    [
        *(("PS2", "ps2"), ("ps 1", "ps1"), ("ps-1", "ps1"), ("ps01", "ps1"), ("ubung 1", NFD), ("exam", "week1/exam")),
        *(("tutorial/PS2", "ps2"), ("weak1/exam", "week1/exam"), ("ps1/lab.ipynb", "ps1"), ("labb1", "lab1")),
    ],
)
def test_a_near_miss_is_named(text, near):
    assert meaning(text).objection.endswith(f"did you mean {near}?")


@pytest.mark.parametrize("text", ["ps3", "ps10", "lab10", "lab11", "part-ii", "tutorial/ps9", "ps1/extra", "project"])
def test_a_folder_that_may_still_come_is_no_near_miss(text):
    assert meaning(text) == assignments.Meaning(text.removeprefix("tutorial/"), False)


@pytest.mark.parametrize(
    "text, words",
    [
        ("read.me", "is a file of the material"),
        ("read.me/x", "is a file of the material"),
        ("linked", "never handed out: a link"),
        ("__pycache__", "never handed out"),
        ("tutorial", "the material folder itself"),
        ("material/", "the material folder itself"),
        *((text, "is not a folder") for text in ("..", "../ps1", "ps1/../..", "/etc", "", "~/ps1", ".git", "a\0b")),
    ],
)
def test_what_can_never_be_a_folder_of_the_material_is_refused(text, words):
    assert words in meaning(text).objection


def test_a_folder_of_that_very_name_goes_before_every_other_reading():
    held = assignments.known(["tutorial/ps1/a", "ps1/a", "a\\b/x", "PS1/a"])
    assert [meaning(text, held).folder for text in ("tutorial/ps1", "ps1", "a\\b", "PS1")] == [
        *("tutorial/ps1", "ps1", "a\\b", "PS1")
    ]
    twice = assignments.known([f"{NFD}/a", f"{unicodedata.normalize('NFKC', NFD)}/a"])
    assert "which differ in how accents are encoded" in meaning("Übung 1", twice).objection
