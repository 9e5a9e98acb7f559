"""The kinds of values in notebooks.cfg: a YAML node in, a Python value or a ValueError in words out."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from nblauncher.config import assignments, texts, times
from nblauncher.config.requirements import objection
from nblauncher.model import Deadline
from nblauncher.printable import printable
from nblauncher.system import mail_address

Kind = Callable[[yaml.Node, Path], Any]
"""Turns a node into a value; the path is the folder that relative paths are relative to."""

COURSE = re.compile(r"[a-z][a-z0-9-]{0,19}")

_TAG = "tag:yaml.org,2002:"
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_HOST = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\.?"
)
_OURS = re.compile(r"HOME|USER|LOGNAME|SHELL|PATH|LD_.*|PYTHON.*|JUPYTER_.*")


def text(pattern: str = "(?s:.*)", words: str = "") -> Kind:
    """Text that matches the whole pattern; `words` says what it may be."""

    def read(node: yaml.Node, _folder: Path) -> str:
        value = _text_of(node)
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{quoted(value)} is not {words}")
        if not value.isprintable():
            raise ValueError(f"{quoted(value)} has control characters")
        return value

    return read


def words(most: int, *, has_lines: bool = False) -> Kind:
    """Text for people, in any script; shown as text, never as markup."""

    def read(node: yaml.Node, _folder: Path) -> str:
        value = _text_of(node).strip()
        if why := texts.objection(value, most):
            raise ValueError(f"{quoted(value)}: {why}")
        if "\n" in value and not has_lines:
            raise ValueError(f"{quoted(value)} has several lines")
        return value

    return read


def time_zone(node: yaml.Node, _folder: Path) -> str:
    """`Europe/Berlin`; empty: the host's."""
    value = _text_of(node)
    return times.named_zone(value).key if value else ""


def choice(*values: str) -> Kind:
    """One of a few words. A bare `off`, a boolean in YAML, is the word here."""

    def read(node: yaml.Node, _folder: Path) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.value not in values:
            allowed = values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"
            raise ValueError(f"{shown(node)} is not {'' if len(values) == 1 else 'one of '}{allowed}")
        return str(node.value)

    return read


def boolean(node: yaml.Node, _folder: Path) -> bool:
    if node.tag != f"{_TAG}bool":
        raise ValueError(f"{shown(node)} is not true or false")
    return str(node.value).lower() in ("true", "yes", "on")


def whole_number(least: int, most: int) -> Kind:
    def read(node: yaml.Node, _folder: Path) -> int:
        if node.tag != f"{_TAG}int" or not re.fullmatch(r"[+-]?(0|[1-9][0-9]{0,18})", node.value):
            raise ValueError(f"{shown(node)} is not a whole number")
        value = int(node.value)
        if not least <= value <= most:
            raise ValueError(f"{value} is not between {least} and {most}")
        return value

    return read


def size(node: yaml.Node, _folder: Path) -> int:
    """Bytes, written with a unit: `100 MB`, `1.5 GB`, `512 MiB`."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([A-Za-z]+)", node.value) if _is_scalar(node) else None
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise ValueError(f"{shown(node)} is not a size with a unit, such as 100 MB or 1 GB")
    value = int(Decimal(match[1]) * unit)
    if not 0 < value < 2**60:
        raise ValueError(f"{shown(node)} is not a size that a file can have")
    return value


def decimal(least: float, most: float) -> Kind:
    """A number, whole or not: `2`, `0.5`."""

    def read(node: yaml.Node, _folder: Path) -> float:
        if node.tag not in (f"{_TAG}int", f"{_TAG}float") or not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", node.value):
            raise ValueError(f"{shown(node)} is not a number such as 1 or 0.5")
        value = float(node.value)
        if not least <= value <= most:
            raise ValueError(f"{node.value} is not between {least:g} and {most:g}")
        return value

    return read


def or_none(kind: Kind) -> Kind:
    """The word `none` as well: no limit."""

    def read(node: yaml.Node, folder: Path) -> Any:
        return None if _is_scalar(node) and node.value == "none" else kind(node, folder)

    return read


def uid_range(node: yaml.Node, _folder: Path) -> range:
    """`20000-29999`, both ends included."""
    match = re.fullmatch(r"([0-9]{1,9}) ?- ?([0-9]{1,9})", node.value) if _is_scalar(node) else None
    if match is None:
        raise ValueError(f"{shown(node)} is not a range such as 20000-29999")
    first, last = int(match[1]), int(match[2])
    if first > last:
        raise ValueError(f"{shown(node)} ends before it begins")
    if first <= 65535 and last >= 65534:
        raise ValueError(f"{shown(node)} holds 65534 or 65535, which are reserved")
    return range(first, last + 1)


def path(node: yaml.Node, folder: Path) -> Path:
    """A path, made absolute: relative ones are relative to the config's folder."""
    value = _text_of(node)
    if not value or not value.isprintable():
        raise ValueError(f"{quoted(value)} is not a path")
    if value.startswith("~"):
        raise ValueError(f"{quoted(value)}: ~ means another folder for each user; write the whole path")
    return Path(os.path.normpath(folder / value))


def absolute_path(node: yaml.Node, folder: Path) -> Path:
    if not _text_of(node).startswith("/"):
        raise ValueError(f"{shown(node)} must be a whole path, beginning with /")
    return path(node, folder)


def program(node: yaml.Node, folder: Path) -> str:
    return str(absolute_path(node, folder))


def folder_below_home(node: yaml.Node, _folder: Path) -> str:
    """A plain relative path without a hidden folder: material must not land in ~/.ssh."""
    value = _text_of(node)
    parts = value.split("/")
    is_plain = all(part and not part.startswith(".") and len(os.fsencode(part)) <= 255 for part in parts)
    if not is_plain or not value.isprintable() or value != value.strip() or value.startswith("~"):
        raise ValueError(f"{quoted(value)} is not a plain folder name below the home (no /, .. or . at a beginning)")
    return value


def hosts(node: yaml.Node, folder: Path) -> tuple[str, ...]:
    return _each(node, _host)


def host_name(node: yaml.Node, _folder: Path) -> str:
    """The name of a host; an address is not one."""
    value = _text_of(node)
    try:
        _address(value)
    except ValueError:
        return _host(value).lower().removesuffix(".")
    raise ValueError(f"{quoted(value)} is an address, and a name is needed")


def host(node: yaml.Node, _folder: Path) -> str:
    """The name or address of a host."""
    return _host(_text_of(node)).lower()


def mailbox(node: yaml.Node, _folder: Path) -> tuple[str, str]:
    """Name and address: `Physics 101 <kim@uni.example>`."""
    value = _text_of(node)
    try:
        return mail_address.mailbox(value)
    except ValueError as error:
        raise ValueError(f"{quoted(value)} {error}") from None


def requirements(node: yaml.Node, folder: Path) -> Path | tuple[str, ...]:
    """A requirements file, or its lines as a list."""
    return _each(node, _requirement) if isinstance(node, yaml.SequenceNode) else path(node, folder)


def command(node: yaml.Node, folder: Path) -> tuple[str, ...]:
    """A program and its arguments, as a list."""
    if not isinstance(node, yaml.SequenceNode):
        raise ValueError(f"{shown(node)} is not a list such as [pytest, -q]")
    words = tuple(_text_of(item) for item in node.value)
    if (words and not words[0]) or any("\0" in word for word in words):
        raise ValueError(f"{shown(node)} is not a program with its arguments")
    return words


def modules(node: yaml.Node, folder: Path) -> tuple[str, ...]:
    return _each(node, _module)


def addresses(node: yaml.Node, folder: Path) -> tuple[str, ...]:
    return _each(node, _address)


def environment(node: yaml.Node, _folder: Path) -> dict[str, str]:
    """Names and texts. The variables that make a server safe cannot be set."""
    if is_null(node):  # every name of it commented out
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{shown(node)} is not a list of `NAME: value`")
    values: dict[str, str] = {}
    for key, value in node.value:
        name = str(key.value) if _is_scalar(key) else ""
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"{shown(key)} is not a name for a variable (letters, digits and _)")
        if _OURS.fullmatch(name):
            raise ValueError(f"{name} is set by nblauncher and cannot be set here")
        if name in values:
            raise ValueError(f"{name} is there twice")
        try:
            values[name] = _text_of(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if "\0" in values[name]:
            raise ValueError(f"{name} holds a NUL byte")
    return values


def deadlines(node: yaml.Node, folder: Path) -> tuple[Deadline, ...]:
    """`ps1: 2026-11-27 17:00`, or `ps2: {at: ..., starts: ...}`, by folder below the material."""
    if is_null(node):
        return ()
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{shown(node)} is not a list of `FOLDER: TIME`")
    found: dict[str, Deadline] = {}
    for key, value in node.value:
        name = _folder_of_material(key)
        if name in found:
            raise ValueError(f"{quoted(name)} is there twice")
        try:
            found[name] = _deadline(name, value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return tuple(found.values())


def is_null(node: yaml.Node) -> bool:
    return node.tag == f"{_TAG}null"


def shown(node: yaml.Node) -> str:
    """The node in words."""
    if isinstance(node, yaml.ScalarNode):
        return quoted(node.value) if node.value else "an empty value"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a group of keys"


def quoted(value: str) -> str:
    return f'"{printable(value if len(value) <= 60 else value[:57] + "...")}"'


def _folder_of_material(node: yaml.Node) -> str:
    """The name as written, normalized. Which folder it means depends on the material."""
    value = _text_of(node)
    name = f"{'/' if value.startswith('/') else ''}{assignments.plain(value)}"
    if name in ("", "/") or not name.isprintable():
        raise ValueError(f"{shown(node)} is not a folder of the material")
    return name


def _deadline(name: str, node: yaml.Node) -> Deadline:
    moments: dict[str, datetime] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            word = str(key.value) if _is_scalar(key) else ""
            if word not in ("at", "starts") or word in moments:
                raise ValueError(f"{shown(key)} is not `at` or `starts`")
            moments[word] = _moment(value)
    else:
        moments["at"] = _moment(node)
    if "at" not in moments:
        raise ValueError("`at` is missing")
    if "starts" in moments and moments["starts"] >= moments["at"]:
        raise ValueError("it starts after it ends")
    return Deadline(name, name, moments["at"], moments.get("starts"))


def _moment(node: yaml.Node) -> datetime:
    """A time; YAML reads one with seconds as a timestamp, not a text."""
    if not isinstance(node, yaml.ScalarNode) or node.tag not in (f"{_TAG}str", f"{_TAG}timestamp"):
        raise ValueError(f"{shown(node)} is not a time such as 2026-11-27 17:00")
    return times.parsed(node.value)


def _is_scalar(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode)


def _text_of(node: yaml.Node) -> str:
    if is_null(node):
        raise ValueError('there is no value; write "" or remove the line')
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError(f"{shown(node)} is not a text")
    if node.tag != f"{_TAG}str":
        what = node.tag.removeprefix(_TAG)
        raise ValueError(f"{shown(node)} is not a text for YAML ({printable(what)}); put it in quotes")
    return str(node.value)


def _each(node: yaml.Node, read: Callable[[str], str]) -> tuple[str, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise ValueError(f"{shown(node)} is not a list such as [one, two]")
    values = tuple(read(_text_of(item)) for item in node.value)
    if len(set(values)) != len(values):
        raise ValueError("the same value is there twice")
    return values


def _host(value: str) -> str:
    if not _HOST.fullmatch(value):
        try:
            return _address(value)
        except ValueError:
            raise ValueError(f"{quoted(value)} is not the name or address of a host (no https://, no port)") from None
    return value


def _requirement(value: str) -> str:
    if why := objection(value):
        raise ValueError(why)
    return value


def _module(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", value, re.ASCII):
        raise ValueError(f"{quoted(value)} is not the name of a module, such as numpy or matplotlib.pyplot")
    return value


def _address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError(f"{quoted(value)} is not an IP address") from None
