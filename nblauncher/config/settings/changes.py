"""What a changed notebooks.cfg changes, in the words of the file. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from nblauncher.config.settings.keys import TAKEN_WORDS, Taken
from nblauncher.config.settings.schema import SCHEMA
from nblauncher.printable import printable

_LONGEST = 80
_MOST_NODES = 10_000
"""Of one value."""
_LATER = (Taken.LAUNCH, Taken.RESTART, Taken.NEVER)
"""Not taken over by `setup` or `reload`, which show the changes."""


def changes(old: bytes, new: bytes) -> tuple[str, ...]:
    """A line for each key with another value, safe to show. Nothing for a file that cannot be read."""
    try:
        before, after = dict(written(old)), dict(written(new))
    except (ValueError, RecursionError, yaml.YAMLError):
        return ()
    return tuple(
        f"notebooks.cfg: {name} was {_shown(name, before)}, is {_shown(name, after)}{_later(name)}"
        for name in SCHEMA
        if _value(name, before) != _value(name, after)
    )


def written(data: bytes) -> Iterator[tuple[str, str]]:
    """The keys in a file, each with its value as it is written there, comments and line breaks left out. Raises
    ValueError, RecursionError or yaml.YAMLError for what cannot be read.
    """
    root = yaml.compose(data.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    groups = [("", root)] if root is not None else []
    while groups:
        section, group = groups.pop()
        for key, value in group.value if isinstance(group, yaml.MappingNode) else ():
            name = f"{section}{key.value}"
            if name in SCHEMA:
                yield name, _text(value, iter(range(_MOST_NODES)))
            else:
                groups.append((f"{name}.", value))


def _text(node: yaml.Node, left: Iterator[int]) -> str:
    """ValueError when `left` is used up: aliases of aliases can stand for more nodes than fit into memory."""
    if next(left, None) is None:
        raise ValueError("too many values")
    if isinstance(node, yaml.MappingNode):
        return ", ".join(f"{_text(key, left)}: {_text(value, left)}" for key, value in node.value)
    if isinstance(node, yaml.SequenceNode):
        return ", ".join(_text(one, left) for one in node.value)
    return str(node.value)


def _value(name: str, written: dict[str, str]) -> str:
    return written.get(name) or SCHEMA[name].default or ""


def _shown(name: str, written: dict[str, str]) -> str:
    value = printable(_value(name, written))
    return (value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…") or "not set"


def _later(name: str) -> str:
    taken = SCHEMA[name].taken
    return f" (taken over by: {TAKEN_WORDS[taken]})" if taken in _LATER else ""
