"""Bytes of notebooks.cfg in, checked `Settings` out. The YAML is composed into nodes and never constructed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from nblauncher.config.settings import kinds
from nblauncher.config.settings.rules import violations
from nblauncher.config.settings.schema import SCHEMA, SECTIONS
from nblauncher.config.settings.values import (
    AccountSettings,
    GradingSettings,
    HistorySettings,
    MailSettings,
    NotebookSettings,
    RetrieveSettings,
    Settings,
    TlsSettings,
    WebSettings,
)
from nblauncher.errors import InputError
from nblauncher.model import Limits, Material, SlurmSettings
from nblauncher.printable import printable

Problem = tuple[int, str]
"""A line, counted from 1, and what is wrong in it."""


def parse(data: bytes, file: Path, *, uid_min: int = 1000) -> Settings:
    """The settings in `data`, which was read from `file` (relative paths are relative to its folder).

    `uid_min` is the host's first uid for users (UID_MIN in login.defs). InputError lists every problem; only a YAML
    error ends the search.
    """
    file = Path(os.path.normpath(file.absolute()))
    source = printable(file.name)
    reading = _Reading(file.parent)
    root = _compose(data, source)
    reading.read(root)
    problems = list(reading.problems)
    settings = None
    if not problems:
        settings = _settings(reading.values, file)
        problems = [(reading.lines.get(key, 1), words) for key, words in violations(settings, uid_min)]
    if settings is None or problems:
        raise InputError([f"{source} line {line}: {words}" for line, words in sorted(problems)], _HINT)
    return settings


_HINT = "Nothing was changed. `nblauncher init` writes a sample with every key explained."


def _compose(data: bytes, source: str) -> yaml.Node | None:
    try:
        return yaml.compose(data.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        line = 1 + data[: error.start].count(b"\n")
        raise InputError(f"{source} line {line}, byte {error.start + 1}: not UTF-8", _HINT) from None
    except yaml.MarkedYAMLError as error:
        raise InputError(f"{source} {_yaml_words(error)}", _HINT) from None
    except yaml.YAMLError as error:
        raise InputError(f"{source}: {printable(' '.join(str(error).split()))}", _HINT) from None
    except RecursionError:
        raise InputError(f"{source}: too many brackets inside each other", _HINT) from None


def _yaml_words(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}" if mark else "line 1"
    words = f"{error.context or ''} {error.problem or ''}".strip()
    if "'\\t'" in words:
        return f"{where}: there is a tab; indent with spaces"
    return f"{where}: this is not YAML: {printable(words)}"


class _Reading:
    """One pass over the nodes: the values of all keys, their lines, and every problem."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.values: dict[str, Any] = {}
        self.lines: dict[str, int] = {}
        self.problems: list[Problem] = []

    def read(self, root: yaml.Node | None) -> None:
        if root is not None and not kinds.is_null(root):
            self._read_group(root, "")
        for name, key in SCHEMA.items():
            if key.is_required and name not in self.lines:
                self.problems.append((1, f"the key {name} is missing, such as `{name}: {key.default}`"))
            if name not in self.lines:
                self.values[name] = _default(name, self.folder)

    def _read_group(self, group: yaml.Node, section: str) -> None:
        what = f"{section} is a group of keys" if section else "the file is a list of `key: value`"
        if not isinstance(group, yaml.MappingNode):
            self._complain(group, f"{what}, not {kinds.shown(group)}")
            return
        for key, value in group.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else ""
            full_name = f"{section}.{name}" if section else name
            if full_name in self.lines:
                self._complain(key, f"the key {full_name} is there twice, in line {self.lines[full_name]} already")
            elif full_name in SCHEMA:
                self.lines[full_name] = _line(key)
                self._read_value(full_name, value)
            elif not section and name in SECTIONS:
                self.lines[name] = _line(key)
                if not kinds.is_null(value):  # every key of it commented out
                    self._read_group(value, name)
            else:
                self._complain(key, f"unknown key {kinds.quoted(full_name)}{_nearest(full_name)}")

    def _read_value(self, name: str, node: yaml.Node) -> None:
        try:
            self.values[name] = SCHEMA[name].kind(node, self.folder)
        except ValueError as error:
            self._complain(node, f"{name}: {error}")

    def _complain(self, node: yaml.Node, words: str) -> None:
        self.problems.append((_line(node), words))


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _nearest(name: str) -> str:
    """`; did you mean web.port?`: in the same group first, then a key of that name in any group."""
    section, _, last = name.rpartition(".")
    from difflib import get_close_matches

    siblings = [key for key in (*SCHEMA, *SECTIONS) if key.rpartition(".")[0] == section]
    by_last = {key.rpartition(".")[2]: key for key in reversed(tuple(SCHEMA))}
    near = get_close_matches(name, siblings, 1, 0.7)
    if not near:
        near = [by_last[match] for match in get_close_matches(last, by_last, 1, 0.7)]
    if not near:
        near = get_close_matches(name, [*siblings, *SCHEMA], 1, 0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _default(name: str, folder: Path) -> Any:
    node = yaml.compose(SCHEMA[name].default or "", Loader=yaml.SafeLoader)
    return None if node is None else SCHEMA[name].kind(node, folder)


def _settings(values: Mapping[str, Any], file: Path) -> Settings:
    def section(name: str) -> dict[str, Any]:
        return dict(_below(values, name))

    return Settings(
        **{name: value for name, value in values.items() if "." not in name},
        accounts=AccountSettings(**section("accounts")),
        material=Material(**section("material")),
        retrieve=RetrieveSettings(**section("retrieve")),
        history=HistorySettings(**section("history")),
        web=WebSettings(**section("web")),
        tls=TlsSettings(**section("tls")),
        notebook=NotebookSettings(**section("notebook")),
        limits=Limits(**section("limits")),
        slurm=SlurmSettings(**section("slurm")),
        grading=GradingSettings(**section("grading")),
        mail=_mail(section("mail")),
        file=file,
    )


def _mail(values: dict[str, Any]) -> MailSettings:
    return MailSettings(sender=values.pop("from"), **values)


def _below(values: Mapping[str, Any], section: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if name.startswith(f"{section}."):
            yield name.removeprefix(f"{section}."), value
