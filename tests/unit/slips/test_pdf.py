"""A roster in many scripts as a PDF. Needs Pango and fonts, which run-tests.sh installs."""

from __future__ import annotations

import io
import unicodedata

import pytest

from nblauncher.errors import HostError
from nblauncher.model import Secret
from nblauncher.slips import page, pdf
from nblauncher.slips.slip import Course, Slip

pypdf = pytest.importorskip("pypdf")

NAMES = {
    "latin": "Zoë Ångström-Nguyễn",
    "greek": "Γιώργος Παπαδόπουλος",
    "cyrillic": "Ирина Иванова",
    "arabic": "محمد الخوارزمي",
    "hebrew": "דוד בן־גוריון",
    "chinese": "李小龍",
    "japanese": "やまだ タロウ",
    "korean": "김철수",
    "devanagari": "राम कमल",
    "tamil": "தமிழ் அமல்",
    "thai": "มานะ รักไทย",
    "georgian": "ქეთევან",
    "emoji": "Ada 👩‍🚀",
    "long": "Wolfeschlegelstein" * 11 + "ab",
    "hostile": "<img src=file:///etc/hostname> url(file:///etc/hostname)",
}
WITHOUT_GAPS = {"chinese", "japanese", "korean", "thai"}
COURSE = Course("physics101", "https://class.example.org:8000/", ":".join(["AB"] * 32))


def slips() -> list[Slip]:
    password = Secret("abcd-efgh-jkmn-pqrs")
    return [
        Slip(name, text, f"{COURSE.front_page}{name}", seat=f"A{number}", notebook_password=password)
        for number, (name, text) in enumerate(NAMES.items())
    ]


@pytest.fixture(scope="module")
def made() -> tuple[bytes, list[str]]:
    html = page.page(COURSE, slips(), "seat", "letter")
    try:
        content, without_font = pdf.made(html, {**NAMES, "unassigned": "\U0003ffff"})
    except HostError as error:
        if pdf.HINT not in error.hint:
            raise
        pytest.skip(error.problem)
    return content, list(without_font)


def letters(text: str) -> str:
    """What can be compared: a PDF has glyphs in the order of their places, and shapes of letters."""
    return "".join(sorted(unicodedata.normalize("NFKC", "".join(text.split()))))


def test_every_script_is_in_the_pdf(made: tuple[bytes, list[str]]) -> None:
    if set(made[1]) & NAMES.keys():
        pytest.skip(f"the fonts are missing: {pdf.FONTS}")
    pages = [one.extract_text() for one in pypdf.PdfReader(io.BytesIO(made[0])).pages]
    text = unicodedata.normalize("NFKC", "\n".join(pages))
    for script in ("latin", "greek", "cyrillic", "chinese", "japanese", "korean", "georgian"):
        assert NAMES[script] in " ".join(text.split()), script
    for script in ("arabic", "hebrew", "devanagari", "tamil", "thai"):
        missing = set(letters(NAMES[script])) - set(letters(text))
        assert not missing, (script, missing)


def test_the_paper_is_the_one_asked_for(made: tuple[bytes, list[str]]) -> None:
    first = pypdf.PdfReader(io.BytesIO(made[0])).pages[0].mediabox
    assert (round(first.width), round(first.height)) == (612, 792)


def test_a_character_that_no_font_has_is_named(made: tuple[bytes, list[str]]) -> None:
    assert "unassigned" in made[1] and "latin" not in made[1]


def test_nothing_is_read_or_fetched_for_a_page(made: tuple[bytes, list[str]]) -> None:
    """Not even if a cell got into the page as it is."""
    secret = "<p>before <img src='file:///etc/passwd' alt='refused'><link rel=stylesheet href='file:///etc/passwd'>"
    style = "<style>@import 'file:///etc/passwd'; p { background: url(file:///etc/passwd) }</style>"
    attached = "<link rel=attachment href='file:///etc/passwd'>"
    content, _ = pdf.made(f"<html>{style}{attached}{secret}</html>", {})
    reader = pypdf.PdfReader(io.BytesIO(content))
    assert "before" in reader.pages[0].extract_text()
    assert b"root:" not in content and not reader.attachments


def test_a_page_that_breaks_the_program_is_one_message() -> None:
    with pytest.raises(HostError, match="WeasyPrint failed"):
        pdf.made("\ud800", {})
