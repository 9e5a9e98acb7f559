"""One HTML page with a card for each student, which needs nothing else. Printed by a browser or by `pdf`. Pure."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import jinja2
import segno
from markupsafe import Markup

import nblauncher
from nblauncher.slips.slip import Course, Slip, arranged

PAPERS = ("a4", "letter")

_HERE = Path(__file__).parent
_THEME = Path(nblauncher.__file__).parent / "web/static/theme.css"
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE),
    autoescape=jinja2.select_autoescape(["html"]),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _isolated(text: str) -> Markup:
    """Its direction does not change what is beside it."""
    return Markup("<bdi>{}</bdi>").format(text)


_TEMPLATES.filters["isolated"] = _isolated


def page(course: Course, slips: Iterable[Slip], order: str, paper: str) -> str:
    """The cards of `slips`, two in a row, for one of PAPERS."""
    if paper not in PAPERS:
        raise ValueError(f"no paper {paper!r}")
    colours = _THEME.read_text("utf-8").partition("\n@media")[0] + "\n"  # those of the day
    style = colours + (_HERE / "slips.css").read_text("utf-8") + f"@page {{ size: {paper}; }}\n"
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return template("slips.html").render(
        course=course,
        t=course.texts,
        groups=arranged(tuple(slips), order),
        style=Markup(style),  # noqa: S704 — a file of ours
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        qr=qr,
    )


def template(name: str) -> jinja2.Template:
    return _TEMPLATES.get_template(name)


@cache
def qr(url: str) -> Markup:
    """The address as an SVG element without a size."""
    stream = io.BytesIO()
    segno.make(url, micro=False, error="m").save(
        stream, kind="svg", xmldecl=False, svgns=False, omitsize=True, border=0, svgclass=None, lineclass=None, nl=False
    )
    return Markup(stream.getvalue().decode())  # noqa: S704 — squares only: the address is not in it
