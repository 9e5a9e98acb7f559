"""The commented notebooks.cfg and the reference table, both made from the schema."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping

import yaml

from nblauncher.settings import kinds
from nblauncher.settings.schema import SCHEMA, SECTION_WORDS, Key

_HEAD = """\
# The class: what nblauncher needs to know. Relative paths are relative to this file.
# A line that is left out means what it says here. `nblauncher check` tells whether all is well.
"""


def sample(values: Mapping[str, str] | None = None) -> str:
    """A whole config with every key and its explanation; `values` replaces defaults (dotted key → YAML)."""
    values = values or {}
    lines = [_HEAD]
    section = ""
    for name, key in SCHEMA.items():
        group, _, last = name.rpartition(".")
        if group != section:
            lines += ["", f"# {SECTION_WORDS[group]}", f"{group}:"] if group else [""]
            section = group
        elif not group and name != next(iter(SCHEMA)):
            lines.append("")
        lines += _entry(last, key, values.get(name, key.default), "  " if group else "")
    return "\n".join(lines) + "\n"


def course_name(folder: str) -> str:
    """What a course in a folder of that name may be called; empty where nothing in it makes a name."""
    plain = unicodedata.normalize("NFKD", folder).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain).lstrip("0123456789-")[:20].strip("-")
    return name if kinds.COURSE.fullmatch(name) and yaml.safe_load(name) == name else ""  # not `on`, nor `null`


def reference() -> list[tuple[str, str, str]]:
    """(key, default as one writes it, explanation) for every key, in the order of the sample."""
    return [(name, key.default or "", key.explanation) for name, key in SCHEMA.items()]


def _entry(name: str, key: Key, value: str | None, indent: str) -> Iterator[str]:
    yield from textwrap.wrap(
        key.explanation, 110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_on_hyphens=False
    )
    yield f"{indent}{name}: {value}" if value is not None else f"{indent}# {name}: {key.example}"
