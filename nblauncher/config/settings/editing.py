"""Other values in the text of notebooks.cfg; everything else in it stays, comments too. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from nblauncher.config.settings.changes import written
from nblauncher.errors import InputError

_BY_HAND = "Write it in the way of the sample, `key: value` on a line of its own (`nblauncher init` makes one)."


def with_values(data: bytes, values: Mapping[str, str]) -> bytes:
    """`values`: dotted key → YAML of one line. InputError when the file is written in a way that this cannot edit."""
    text = data.decode("utf-8-sig")
    for name, value in values.items():
        text = _with_value(text, name, value)
    result = text.encode("utf-8")
    try:
        expected = {**dict(written(data)), **{name: _plain(value) for name, value in values.items()}}
        is_right = dict(written(result)) == expected
    except (yaml.YAMLError, ValueError, RecursionError):
        is_right = False
    if not is_right:
        raise InputError(f"{' and '.join(values)} cannot be changed in this config", _BY_HAND)
    return result


def _plain(value: str) -> str:
    node = yaml.compose(value, Loader=yaml.SafeLoader)
    return "" if node is None else str(node.value)


def _with_value(text: str, name: str, value: str) -> str:
    section, _, last = name.rpartition(".")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    holder = _child(root, section) if section else root
    node = _child(holder, last)
    if node is not None:
        return _replaced(text, node, value)
    if isinstance(holder, yaml.MappingNode):
        return _inserted(text, holder, f"{last}: {value}")
    if holder is not None:  # a section whose keys are all commented out
        return _replaced(text, holder, f"{{{last}: {value}}}")
    line = f"{section}: {{{last}: {value}}}" if section else f"{last}: {value}"
    if isinstance(root, yaml.MappingNode):
        return _inserted(text, root, line)
    return f"{text.rstrip()}\n{line}\n".lstrip()


def _child(node: yaml.Node | None, name: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((value for key, value in pairs if key.value == name), None)


def _replaced(text: str, node: yaml.Node, value: str) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    space = "" if start < end or text[start - 1 : start].isspace() else " "
    return f"{text[:start]}{space}{value}{text[end:]}"


def _inserted(text: str, holder: yaml.MappingNode, line: str) -> str:
    """Before the first key of the mapping."""
    if holder.flow_style:
        place = holder.start_mark.index + 1
        return f"{text[:place]}{line}{', ' if holder.value else ''}{text[place:]}"
    first = holder.value[0][0].start_mark
    return f"{text[: first.index]}{line}\n{' ' * first.column}{text[first.index :]}"
