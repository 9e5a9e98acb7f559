"""The commented notebooks.cfg, made from the schema. It is also the reference of all keys."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping

import yaml

from nblauncher.config.settings import kinds
from nblauncher.config.settings.keys import TAKEN_WORDS, Key
from nblauncher.config.settings.schema import SCHEMA, SECTION_WORDS

_HEAD = """\
# The class: what nblauncher needs to know. Relative paths are relative to this file.
# A line that is left out means what it says here. `nblauncher check` says whether the class can start.
#
# The word in brackets says what takes a changed value over:
"""


def sample(values: Mapping[str, str] | None = None) -> str:
    """A whole config with every key and its explanation; `values` replaces defaults (dotted key → YAML)."""
    values = values or {}
    lines = [_HEAD + "\n".join(_legend())]
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
    """A course name made from a folder's name; empty when that is impossible."""
    plain = unicodedata.normalize("NFKD", folder).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain).lstrip("0123456789-")[:20].strip("-")
    return name if kinds.COURSE.fullmatch(name) and yaml.safe_load(name) == name else ""  # not `on`, nor `null`


def _legend() -> Iterator[str]:
    width = max(len(taken.value) for taken in TAKEN_WORDS) + len("[] ")
    return (f"#   {f'[{taken.value}]':{width}}{words}" for taken, words in TAKEN_WORDS.items())


def _entry(name: str, key: Key, value: str | None, indent: str) -> Iterator[str]:
    allowed = f" ({key.allowed})" if key.allowed else ""
    yield from textwrap.wrap(
        f"{key.explanation}{allowed} [{key.taken.value}]",
        110,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_on_hyphens=False,
    )
    yield f"{indent}{name}: {value}" if value is not None else f"{indent}# {name}: {key.example}"
