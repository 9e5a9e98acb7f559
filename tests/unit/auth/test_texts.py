"""The texts of students' pages: complete in both languages, and nothing in them or in a value is markup."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nblauncher.auth import appearance, texts, visitor_pages
from nblauncher.auth.appearance import Appearance
from nblauncher.auth.texts import Texts
from nblauncher.model import LANGUAGES
from nblauncher.server import notice_board

WEB = Path(texts.__file__).parents[1] / "web"
SLIPS = WEB.with_name("slips")
TEMPLATES = {
    path: path.read_text()
    for path in (*sorted((WEB / "templates").rglob("*.html")), *sorted(SLIPS.glob("*.html")), SLIPS / "letter.txt")
}
STRIP = (WEB.with_name("server") / "notices_extension/static/remoteEntry.js").read_text()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_shipped_language_is_complete(language):
    given = texts.shipped(language)
    assert texts.missing(given) == [] and texts.objections(given) == []
    english = texts.shipped("en")
    assert [key for key in english if english[key].count("\n") != given[key].count("\n")] == []
    assert all(text == text.strip() and text for text in given.values())


def test_every_file_of_texts_is_a_language_that_is_offered():
    assert sorted(path.stem for path in (WEB / "texts").iterdir()) == sorted(LANGUAGES)


def test_every_text_is_used_and_every_template_uses_texts_that_are_there():
    used = set(re.findall(r'\bt(?:\.raw|\.lines|\.plain)?\(\s*"(\w+)"(?! ~)', "".join(TEMPLATES.values())))
    assert used <= set(texts.shipped("en"))
    sources = "".join(TEMPLATES.values()) + "".join(path.read_text() for path in WEB.parent.rglob("*.py"))
    made = re.compile(
        r"(own_)?deadline|trust_(windows|macos|firefox|linux|chromebook|ios|android)|why_|queued_|\w+_title$"
    )
    assert [key for key in texts.shipped("en") if f'"{key}"' not in sources and not made.match(key)] == []


def test_the_strip_fills_in_exactly_the_texts_that_its_page_has():
    assert set(re.findall(r"words\('(\w+)'", STRIP)) == set(notice_board.IN_SCRIPT)


def test_plain_text_has_no_marks_of_its_own_but_those_of_a_value():
    assert Texts("en").plain("deadline_of", folder="**x**", when="`now`") == "Deadline for **x**: `now`"


def test_no_template_says_anything_itself():
    """Between tags and expressions there is punctuation, and what is a name in every language."""
    for path, source in TEMPLATES.items():
        code = r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}|<script.*?</script>|<[^>]*>| \w+=\"\w+\""
        plain = re.sub(code, " ", source.replace("{{ style }}", ""), flags=re.S)
        assert re.findall(r"[A-Za-z]{2,}", plain) == [], path


@given(st.text(), st.text())
def test_neither_a_text_nor_a_value_becomes_markup(text, value):
    html = Texts("en", {"contact": text + "{contact}"})("contact", contact=value)
    assert re.sub(r"</?(?:b|code)>", "", html).count("<") == 0
    assert Texts("en", {"contact": "{contact}"})("contact", contact=value).unescape() == value


def test_a_placeholder_is_filled_in_once_and_nothing_else_is_evaluated():
    given = {"contact": "{contact} {contact.__class__} {0} {other} %s {{ contact }}"}
    assert str(Texts("en", given)("contact", contact="{contact} **x**")) == (
        "{contact} **x** {contact.__class__} {0} {other} %s {{contact} **x**}"
    ).replace("{{contact} **x**}", "{{ contact }}")


def test_a_text_that_the_teacher_gives_comes_first_and_what_is_missing_is_english():
    french = Texts("fr", {"sign_in": "Se connecter"})
    assert (french.plain("sign_in"), french.plain("username"), french.direction) == ("Se connecter", "Username", "ltr")
    assert (Texts("de-AT").plain("sign_in"), Texts("ar").direction) == ("Anmelden", "rtl")


def test_what_is_odd_in_a_translation_is_said():
    odd = texts.objections({"sign_in": "x {name}", "deadline": "now", "no_such": "x"})
    assert odd == [
        "there is no text called no_such",
        "sign_in has {name}, which is not filled in",
        "deadline lacks {when}",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "it is over"),
        (0, "it is over"),
        (59, "less than a minute left"),
        (60, "1 min left"),
        (3599, "59 min left"),
        (7500, "2 h 5 min left"),
        (200_000, "2 d 7 h left"),
    ],
)
def test_the_time_that_is_left(seconds, words):
    assert Texts("en").left(seconds) == words


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"title": "x", "more": 1}', b"\xff"])
def test_a_damaged_file_costs_the_title_and_not_the_page(tmp_path: Path, content):
    file = tmp_path / "appearance.json"
    file.write_bytes(content)
    assert appearance.read(file) == appearance.read(tmp_path / "gone") == Appearance()


def test_what_is_written_is_read_again(tmp_path: Path):
    look = Appearance("Physik ü <b>", "fr", {"sign_in": "é"}, "Europe/Paris")
    (tmp_path / "file").write_bytes(look.to_bytes())
    assert appearance.read(tmp_path / "file") == look


@pytest.mark.parametrize("template", ["stopped.html", "closed.html", "sign_in.html", "log_out.html"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_pages_of_a_students_port_need_no_other_file(template, language):
    looks_again = template in ("stopped.html", "closed.html")
    values = (
        {"looks_again": 5}
        if looks_again
        else {"problem": "own_wrong_password", "action": "x", "xsrf": "", "username": "ada"}
    )
    values |= {"front_page": "https://x/", "is_kept": False}
    page = visitor_pages.render(template, Appearance("<i>Physics</i>", language), **values)
    assert f'<html lang="{language}" dir="ltr">' in page and "&lt;i&gt;Physics" in page and "<i>Ph" not in page
    icon = visitor_pages._OWN["icon"]
    assert re.findall(r'(?:src|href)="([^"]*)"', page) in ([icon, icon, "https://x/"], [icon, icon])
    assert f"<style>{visitor_pages.STYLE}</style>" in page and "unsafe" not in visitor_pages.POLICY
    assert ("<script>" in page) == (template != "log_out.html")
    assert page.count('http-equiv="refresh"') == page.count("<noscript>") == looks_again
    assert json.dumps(visitor_pages.SCRIPT).count("</") == 0
