"""Pages for visitors who are not signed in, from a student's own server or the porter, in the style of the front page.

Each is self-contained, style included: a visitor who is not signed in gets no static files from these addresses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

_WEB = Path(__file__).parent / "web"
_LOADER = jinja2.FileSystemLoader([_WEB / "templates/server", _WEB / "static"])
_TEMPLATES = jinja2.Environment(
    loader=_LOADER,
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
"""Their Content-Security-Policy. It has no form-action, which Chromium also applies to the redirect after a form."""


def render(template: str, **values: Any) -> str:
    """The page as HTML. Every template needs `front_page`, the address that it links to."""
    return _TEMPLATES.get_template(template).render(values)


def before(theirs: jinja2.BaseLoader) -> jinja2.BaseLoader:
    """A loader that replaces Jupyter's error pages (404.html, error.html), which visitors who are not signed in see."""
    return jinja2.ChoiceLoader([_LOADER, theirs])
