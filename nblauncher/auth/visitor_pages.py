"""Pages for visitors without a sign-in, from a student's server or the porter, in the style of the front page.

Each is self-contained, style and script included: without a sign-in these addresses serve no static files.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import nblauncher
from nblauncher.auth.appearance import Appearance

_WEB = Path(nblauncher.__file__).parent / "web"
_LOADER = jinja2.FileSystemLoader([_WEB / "templates/server", _WEB / "templates/shared"])
_TEMPLATES = jinja2.Environment(
    loader=_LOADER,
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _static(name: str) -> str:
    return (_WEB / "static" / name).read_text("utf-8")


THEME = _static("theme.css")
"""Colours and type as custom properties: all that a page of another kind needs to look like ours."""
STYLE = THEME + _static("page.css")
SCRIPT = _static("page.js")
"""What pages do by themselves: the password shown, the time that is left. They work without it."""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; img-src data:; "
    "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Their Content-Security-Policy. It has no form-action, which Chromium also applies to the redirect after a form."""

# Our own files. The style stands between tags in which HTML is not escaped.
_OWN = {
    "style": Markup(STYLE),  # noqa: S704
    "script": Markup(SCRIPT),  # noqa: S704
    "icon": f"data:image/svg+xml;base64,{base64.b64encode(_static('icon.svg').encode()).decode()}",
}
_TEMPLATES.globals.update(_OWN)


def render(template: str, appearance: Appearance, **values: Any) -> str:
    """The page as HTML. Every template needs `front_page`, the address that it links to."""
    return _TEMPLATES.get_template(template).render(look=lambda: appearance, **values)


def replace_error_pages(theirs: jinja2.Environment, look: Callable[[], Appearance]) -> None:
    """Replace Jupyter's error pages (404.html, error.html), which visitors see before they sign in. `look` is asked
    for each page.
    """
    theirs.loader = jinja2.ChoiceLoader([_LOADER, *([theirs.loader] if theirs.loader else [])])
    theirs.globals.update(_OWN, look=look)
