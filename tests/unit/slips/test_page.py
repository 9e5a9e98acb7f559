"""The cards: every cell of a roster is text on them, and nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timezone
from html.parser import HTMLParser

import pytest

from nblauncher.auth import texts
from nblauncher.auth.texts import Texts
from nblauncher.model import Secret
from nblauncher.slips import letter, page, slip
from nblauncher.slips.slip import Course, Slip, arranged, on_paper, usual_order

TITLE = "Physics <b>101</b>"
COURSE = Course("physics101", "https://class.example.org:8000/", ":".join(["AB"] * 32))
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=file:///etc/passwd>",
    '"><svg onload=alert(1)>',
    "</style><style>*{display:none}</style>",
    "{{ course.fingerprint }}{% raw %}",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "url(https://evil.example/) @import 'x'",
    "&lt;b&gt;",
]


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def made(username: str = "ada", name: str = "Ada Lovelace", **more: object) -> Slip:
    given = {"url": f"{COURSE.front_page}{username}", "notebook_password": Secret("abcd-efgh-jkmn-pqrs"), **more}
    return Slip(username, name, **given)  # type: ignore[arg-type]


def shown(*slips: Slip, course: Course = COURSE, order: str = "name") -> str:
    return page.page(course, slips, order, "a4")


@pytest.mark.parametrize("cell", HOSTILE)
def test_a_cell_is_shown_as_it_is_and_makes_no_element(cell: str) -> None:
    plain = Elements(shown(made(section="x", seat="x", deadlines=(("x", "Fri"),)), order="section"))
    found = Elements(shown(made(name=cell, section=cell, seat=cell, deadlines=((cell, "Fri"),)), order="section"))
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in plain.elements]
    assert found.text.count(cell) == 5  # name, section twice, seat, deadline


def test_the_page_asks_nobody_for_anything_and_says_so_to_the_browser() -> None:
    html = shown(made())
    found = Elements(html)
    assert not {tag for tag, _ in found.elements} & {"link", "script", "img", "iframe", "object", "a", "form", "base"}
    assert not [
        value for _, given in found.elements for name, value in given.items() if name in ("src", "href", "style")
    ]
    policy = next(given["content"] for tag, given in found.elements if given.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'; style-src 'sha256-")
    assert not re.search(r"url\(|@import", html)


def test_a_card_has_all_that_a_student_needs() -> None:
    text = Elements(shown(made(seat="A1", section="Monday", deadlines=(("ps1", "Fri 27 Nov 2026, 17:00"),)))).text
    for part in ("Ada Lovelace", f"{COURSE.front_page}ada", "abcd-efgh-jkmn-pqrs", "Monday", "A1", "Fri 27 Nov"):
        assert part in text
    assert f"{COURSE.front_page}ca.html" in text
    assert "".join(text.split()).count(COURSE.fingerprint) == 1


def test_without_a_class_ca_nothing_is_said_about_trust() -> None:
    assert "certificate" not in Elements(shown(made(), course=Course("physics101", COURSE.front_page))).text


def test_a_card_has_the_title_of_the_class_as_text_or_else_the_name_of_the_course():
    text = Elements(shown(made(), course=Course("physics101", COURSE.front_page, title=TITLE))).text
    assert TITLE in text and "physics101" not in text.replace(COURSE.front_page, "")
    assert "physics101" in Elements(shown(made())).text


def test_cards_and_mails_are_in_the_language_of_the_class():
    """Every text of theirs, in a translation of the teacher's too, in which nothing is markup either."""
    slips = [
        made("ada", deadlines=(("<ps1>", "Fri"), ("", "Sat")), later=2, section="x", seat="7"),
        made("bob", notebook_password=Secret(""), system_password=Secret("abcd-efgh-jkmn"), section=""),
        made("eve", keeps_system_password=True),
    ]
    own = [key for key in texts.shipped("en") if key.startswith(("slip", "mail_"))]
    given = {key: f"<i>{key}</i> {texts.shipped('en')[key]}" for key in own}
    course = replace(COURSE, texts=Texts("ar", given))
    html = shown(*slips, course=course, order="section")
    sender = letter.Sender("Dr. Eve", "eve@example.org", "", "subject")
    now = datetime.now(timezone.utc)
    mails = [letter.message(course, one, "ada@example.org", sender, "cafe", now) for one in slips]
    plain = "".join(one.get_body(("plain",)).get_content() for one in mails)
    rich = "".join(one.get_body(("html",)).get_content() for one in mails)
    assert '<html lang="ar" dir="rtl">' in html and '<html lang="ar" dir="rtl">' in rich
    assert "<i>" not in html + rich and {one["Content-Language"] for one in mails} == {"ar"}
    assert [key for key in own if key not in html + rich + "mail_subject"] == []
    of_mails = ("slip_address", "slip_section", "slip_seat", "mail_intro", "slip_trust", "slip_system_kept")
    assert [key for key in (*of_mails, "slip_later_deadlines") if key not in plain] == []
    german = Elements(shown(*slips, course=replace(COURSE, texts=Texts("de")))).text
    for words in ("Adresse", "Benutzername", "Platz 7", "Abgabefrist für <ps1>: Fri", "Spätere Abgabefristen: 2"):
        assert words in german
    assert not re.search("Address|Username|Notebook password|Deadline for|certificate", german)


def test_a_card_without_a_known_password_says_so() -> None:
    text = Elements(shown(made(notebook_password=Secret("")))).text
    assert "not known any more" in text and "Notebook password" not in text


def test_what_would_move_or_hide_text_is_not_printed() -> None:
    assert on_paper("a\u202egnp.exe\nb\tc\x1b[2J\u200e") == "agnp.exe b c\ufffd[2J"
    assert on_paper("x\ud800y") == "x\ufffdy"


def test_marks_and_joiners_of_real_names_stay() -> None:
    for name in (
        "می‌خواهم",
        "👩‍🚀",
        "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
        "दे\u200dव",
        "שָׁלוֹם",
    ):
        assert on_paper(name)[-1] == name[-1] and len(on_paper(name)) >= len(name) - 1
    assert on_paper("Nguye\u0302\u0303n") == "Nguyễn"


def test_a_letter_with_a_hundred_marks_keeps_a_few() -> None:
    assert len(on_paper("Z" + "\u0351" * 100 + "oë")) < 12


def test_a_name_without_end_is_cut() -> None:
    assert len(on_paper("x" * 5000)) == 300


def test_cards_are_in_the_order_asked_for() -> None:
    slips = [
        made("bob", "Bob", section="Tuesday", seat="A10"),
        made("eve", "eve", section="Monday", seat="A2"),
        made("ada", "Ada", section="Tuesday", seat=""),
    ]

    def order(by: str) -> list[tuple[str, list[str]]]:
        return [(group.title, [one.username for one in group.slips]) for group in arranged(slips, by)]

    assert order("section") == [("Monday", ["eve"]), ("Tuesday", ["ada", "bob"])]
    assert order("seat") == [("", ["eve", "bob", "ada"])]
    assert order("name") == [("", ["ada", "bob", "eve"])]
    assert (usual_order(slips), usual_order([made()])) == ("section", "name")


def test_the_order_and_papers_of_the_command_are_those_of_the_cards() -> None:
    from nblauncher.cli import slips as command

    assert command.ORDERS == slip.ORDERS and command.PAPERS == page.PAPERS


def test_no_password_shows_in_the_slip() -> None:
    assert "abcd" not in repr(made(system_password=Secret("abcd-efgh-jkmn-pqrs")))
