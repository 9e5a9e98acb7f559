"""The pages that a student's own server shows to whoever is not signed in, in the style of the front page.

They are whole in themselves: nothing else of this server is to be had without signing in.
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
"""Their Content-Security-Policy. Without form-action: browsers hold it against where a form's answer leads, too."""


def render(template: str, **values: Any) -> str:
    """The page; `front_page` is where it leads back to."""
    return _TEMPLATES.get_template(template).render(values)


def before(theirs: jinja2.BaseLoader) -> jinja2.BaseLoader:
    """Jupyter's templates, but its error pages (404.html, error.html) are ours: strangers see them, too."""
    return jinja2.ChoiceLoader([_LOADER, theirs])
