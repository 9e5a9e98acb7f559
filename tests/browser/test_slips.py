"""The page of slips in a real browser: what is printed from there, and that nothing leaves its card."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pypdf
import pytest

from nblauncher.model import Secret
from nblauncher.slips import page
from nblauncher.slips.slip import Course, Slip
from tests.browsing import browser_page, picture, require_browser

pytestmark = pytest.mark.browser

COURSE = Course("physics101", "https://class.example.org:8000/", ":".join(["AB"] * 32))
NAMES = [
    "Ada Lovelace",
    "مُحَمَّد بن موسى الخوارزمي",
    "漢" * 200,
    "Wolfeschlegelstein" * 11 + "ab",
    "Z" + "\u0351\u0328" * 90,
    "राजेश " * 40,
    "<img src=x onerror=document.title='broken'></style>",
]
LEAVES_ITS_CARD = """() => [...document.querySelectorAll(".half")].flatMap(half => {
    const box = half.getBoundingClientRect();
    return [...half.querySelectorAll("*")].filter(one => {
        const own = one.getBoundingClientRect();
        return own.left < box.left - 1 || own.right > box.right + 1 || own.bottom > box.bottom + 1
            || one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).display === "block";
    }).map(one => `${one.tagName} ${one.textContent.slice(0, 20)}`);
})"""


def test_every_card_is_printed_whole_and_nothing_is_asked_for(driver: Any, tmp_path: Path) -> None:
    require_browser()
    password = Secret("abcd-efgh-jkmn-pqrs")
    slips = [
        Slip(f"s{number}", name, f"{COURSE.front_page}s{number}", section="AB"[number % 2], notebook_password=password)
        for number, name in enumerate(NAMES)
    ]
    file = tmp_path / "cards.html"
    file.write_text(page.page(COURSE, slips, "section", "a4"), encoding="utf-8")
    with browser_page(driver, tmp_path / "home", None) as tab:
        asked: list[str] = []
        said: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: said.append(message.text))
        tab.goto(file.as_uri())
        assert asked == [file.as_uri()] and not said and tab.title() == "Slips of physics101"
        assert tab.locator(".card").count() == len(NAMES)
        assert tab.evaluate(LEAVES_ITS_CARD) == []
        assert tab.locator(".code svg").first.bounding_box()["width"] > 60
        picture(tab.locator(".card:has-text('Ada Lovelace')"), "slip", tmp_path)
        printed = pypdf.PdfReader(io.BytesIO(tab.pdf(prefer_css_page_size=True)))
    assert len(printed.pages) == 2
    assert [round(side) for side in printed.pages[0].mediabox[2:]] == [595, 842]
    assert sum(one.extract_text().count("abcd-efgh-jkmn-pqrs") for one in printed.pages) == len(NAMES)
