"""The teacher's texts for students' pages (web.texts): bytes of YAML in, names and texts out. Nothing in it is markup.

Which names there are and what a text may hold is judged by nblauncher.auth.texts.
"""

from __future__ import annotations

import yaml

from nblauncher.errors import InputError
from nblauncher.printable import printable

MOST_BYTES = 1 << 16

_LONGEST = 4000
_HINT = "Nothing was changed. The file is a list of `name: text`, like nblauncher/web/texts/en.json."
_TEXT = "tag:yaml.org,2002:str"


def parse(data: bytes, source: str) -> dict[str, str]:
    """InputError with every problem: what is not a text, is too long, has control characters or stands there twice."""
    root = _composed(data, source)
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{source} line {root.start_mark.line + 1}: not a list of `name: text`", _HINT)
    found: dict[str, str] = {}
    problems = []
    for key, value in root.value:
        name = str(key.value) if isinstance(key, yaml.ScalarNode) else ""
        if why := _objection(value, name in found):
            problems.append(f"{source} line {key.start_mark.line + 1}: {printable(name[:60])}: {why}")
        else:
            found[name] = str(value.value).strip()
    if problems:
        raise InputError(problems, _HINT)
    return found


def objection(text: str, most: int) -> str:
    """Why it cannot be shown. Joiners and marks of direction are part of some scripts."""
    if len(text) > most:
        return f"longer than {most} characters"
    if any((ord(letter) < 32 and letter != "\n") or 127 <= ord(letter) < 160 for letter in text):
        return "has control characters"
    return ""


def _composed(data: bytes, source: str) -> yaml.Node | None:
    try:
        return yaml.compose(data.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        line = 1 + data[: error.start].count(b"\n")
        raise InputError(f"{source} line {line}: not UTF-8", _HINT) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = printable(f"{error.context or ''} {error.problem or ''}".strip())
        raise InputError(f"{source} line {mark.line + 1 if mark else 1}: this is not YAML: {words}", _HINT) from None
    except (yaml.YAMLError, RecursionError) as error:
        words = printable(" ".join(str(error).split())[:200])
        raise InputError(f"{source}: this is not YAML: {words}", _HINT) from None


def _objection(value: yaml.Node, is_known: bool) -> str:
    if is_known:
        return "is there twice"
    if not isinstance(value, yaml.ScalarNode) or value.tag != _TEXT:
        return "not a text; put it in quotes"
    if not value.value.strip():
        return "empty; leave it out for the English text"
    return objection(value.value, _LONGEST)
