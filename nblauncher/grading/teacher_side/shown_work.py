"""A student's notebook as a page of the formgrader: nbgrader's template, and nothing in it that runs.

nbgrader's own exporter puts Markdown and HTML of a submission into the page as they are. Here the notebook is first
reduced to what the template shows, then its HTML is cleaned, and the page's policy allows only those scripts that the
page of an empty notebook has.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

import bleach
import nbformat
from bleach.css_sanitizer import CSSSanitizer
from jinja2 import pass_context
from nbconvert.exporters import HTMLExporter
from nbgrader.server_extensions.formgrader.handlers import template_path
from traitlets.config import Config

_ALLOWED = (
    "a abbr acronym b blockquote br caption center code col colgroup dd del details div dl dt em figcaption figure font"
    " h1 h2 h3 h4 h5 h6 hr i img ins kbd li mark ol p pre q s samp small span strong sub summary sup table tbody td"
    " tfoot th thead tr tt u ul var"
)
_TAGS = frozenset(_ALLOWED.split())
_ATTRIBUTES = {
    "*": ["title", "style", "class", "align", "dir", "lang"],
    "a": ["href"],
    "img": ["src", "alt", "width", "height"],
    **{cell: ["colspan", "rowspan", "scope", "valign"] for cell in ("td", "th")},
    "table": ["border"],
    "ol": ["start"],
}
_CLASSES = re.compile(r"(highlight|hl-\w+|[a-z]{1,3}\d?|dataframe|ansi-[a-z0-9-]+|linenos|codehilite)")
"""Of syntax colours and of data frames. A page's other classes have behaviour."""
_STYLES = CSSSanitizer(
    allowed_css_properties=("color", "background-color", "font-weight", "font-style", "text-align", "width", "height")
)
_DROPPED = re.compile(r"<(script|style)\b.*?(</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_KINDS = ("text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain")
_NAME = re.compile(r"[\w. :-]{1,200}")
_HANDLER = re.compile(r"on[a-z]+")
_MATHJAX = "https://cdnjs.cloudflare.com/ajax/libs/mathjax/"


@dataclass(frozen=True, slots=True)
class Page:
    html: str
    scripts: frozenset[str]
    """Texts of the template's own scripts and event handlers."""


class Exporter(HTMLExporter):
    """nbgrader's template over cleaned HTML."""

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        return cleaned(super().markdown2html(context, source))

    def default_filters(self) -> Any:
        yield from ((name, known) for name, known in super().default_filters() if name != "clean_html")
        yield "clean_html", cleaned

    def register_filter(self, name: str, jinja_filter: Any) -> Any:
        """nbconvert registers the one for code when it begins with a notebook."""
        if name == "highlight_code":
            return super().register_filter(name, lambda *words, **more: cleaned(jinja_filter(*words, **more)))
        return super().register_filter(name, jinja_filter)


def page(filename: str, resources: dict[str, Any], config: Config) -> Page:
    """The notebook in this file, for the teacher's eyes."""
    exporter = _exporter(config)
    with open(filename, encoding="utf-8") as file:
        notebook = reduced(nbformat.read(file, as_version=4))
    html, _ = exporter.from_notebook_node(notebook, resources=dict(resources))
    empty, _ = exporter.from_notebook_node(nbformat.v4.new_notebook(), resources=dict(resources))
    return Page(html, _scripts(empty))


def policy(shown: Page, static: str) -> str:
    """A Content-Security-Policy. Not `'self'` for scripts: the origin also has the files that students handed in.

    MathJax 2 evaluates its configuration; a student's configuration is not in the page, because no script is.
    """
    hashes = sorted(base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in shown.scripts)
    scripts = " ".join(f"'sha256-{text}'" for text in hashes)
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {static} {_MATHJAX} 'unsafe-eval' 'unsafe-hashes' {scripts}",
            f"style-src 'self' {_MATHJAX} 'unsafe-inline'",
            f"font-src 'self' {_MATHJAX} data:",
            "img-src 'self' data:",
            "connect-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'self'",
        )
    )


def cleaned(html: str) -> str:
    """Text with markup that only formats. What is not allowed is left out, its text stays."""
    return str(
        bleach.clean(
            _DROPPED.sub("", str(html)),
            tags=_TAGS,
            attributes=_is_allowed,
            protocols=["http", "https", "mailto", "data"],
            css_sanitizer=_STYLES,
            strip=True,
        )
    )


def reduced(notebook: Any) -> Any:
    """The notebook with only those fields that the template shows, each of the kind that it should have."""
    made = nbformat.v4.new_notebook()
    language = notebook.metadata.get("language_info", {})
    lexer = language.get("pygments_lexer", language.get("name", "ipython3")) if isinstance(language, dict) else ""
    made.metadata["language_info"] = {"name": "python", "pygments_lexer": _word(lexer) or "ipython3"}
    made.cells = [_cell(cell) for cell in notebook.cells if cell.get("cell_type") in ("code", "markdown", "raw")]
    return made


def _cell(cell: Any) -> Any:
    new = {
        "code": nbformat.v4.new_code_cell,
        "markdown": nbformat.v4.new_markdown_cell,
        "raw": nbformat.v4.new_raw_cell,
    }
    made = new[cell["cell_type"]](str(cell.get("source", "")))
    made.metadata.update(_marks(cell.get("metadata", {}).get("nbgrader")))
    if cell["cell_type"] == "code":
        made.execution_count = _count(cell.get("execution_count"))
        made.outputs = [output for given in cell.get("outputs", []) if (output := _output(given)) is not None]
    elif isinstance(pictures := cell.get("attachments"), dict):
        made.attachments = {str(name): _data(data) for name, data in pictures.items() if isinstance(data, dict)}
    return made


def _marks(nbgrader: Any) -> dict[str, Any]:
    """The cell's place in the gradebook."""
    if not isinstance(nbgrader, dict) or not _word(nbgrader.get("grade_id")):
        return {}
    flags = {name: nbgrader.get(name) is True for name in ("grade", "solution", "task", "locked")}
    points = nbgrader.get("points", 0)
    is_number = isinstance(points, (int, float)) and not isinstance(points, bool)
    return {"nbgrader": {**flags, "grade_id": nbgrader["grade_id"], "points": points if is_number else 0}}


def _output(output: Any) -> Any:
    kind = output.get("output_type")
    if kind == "stream":
        name = "stderr" if output.get("name") == "stderr" else "stdout"
        return nbformat.v4.new_output("stream", name=name, text=str(output.get("text", "")))
    if kind == "error":
        lines = [str(line) for line in output.get("traceback", [])]
        return nbformat.v4.new_output("error", ename="", evalue="", traceback=lines)
    if kind not in ("display_data", "execute_result"):
        return None
    given = output.get("data", {})
    made = nbformat.v4.new_output(kind, data=_data(given) if isinstance(given, dict) else {})
    if kind == "execute_result":
        made.execution_count = _count(output.get("execution_count"))
    return made


def _data(data: dict[str, Any]) -> dict[str, str]:
    return {kind: str(data[kind]) for kind in _KINDS if kind in data}


def _count(given: Any) -> int | None:
    return given if isinstance(given, int) and not isinstance(given, bool) else None


def _word(given: Any) -> str:
    return given if isinstance(given, str) and _NAME.fullmatch(given) else ""


def _is_allowed(tag: str, name: str, value: str) -> bool:
    if name == "class":
        return all(_CLASSES.fullmatch(word) for word in value.split())
    if name in ("src", "href") and value.strip().lower().startswith("data:"):
        return tag == "img" and value.strip().lower().startswith("data:image/")
    return name in _ATTRIBUTES["*"] or name in _ATTRIBUTES.get(tag, ())


def _exporter(config: Config) -> Exporter:
    own = Config(config)
    own.Exporter = Config({"template_name": "formgrade", "extra_template_basedirs": [template_path]})
    own.HTMLExporter = own.Exporter
    return Exporter(config=own, template_name="formgrade", extra_template_basedirs=[template_path], sanitize_html=True)


def _scripts(html: str) -> frozenset[str]:
    finder = _ScriptFinder()
    finder.feed(html)
    finder.close()
    return frozenset(finder.found)


class _ScriptFinder(HTMLParser):
    """Collects the texts of inline scripts and of event handlers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._text: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {value for name, value in attrs if value and _HANDLER.fullmatch(name)}
        if tag == "script":
            self._text = []

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "script" and self._text is not None:
            self.found |= {"".join(self._text)} - {""}
            self._text = None
