"""A plan for a person to read: a line for each kind of step, with how many students. Prints nothing."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nblauncher.cli import render
from nblauncher.model import USERNAME
from nblauncher.printable import printable

if TYPE_CHECKING:
    from nblauncher.planning.plan import Plan, Step

_NAME = "\0"
"""Stands for a username while lines are compared."""
_FEW = 3
"""So many lines of a kind are told one by one."""
_ACCOUNT = re.compile(rf"\b(half-made )?account {_NAME}")
_PLURALS = (("which was", "which were"), ("its removal", "their removal"))


def text(command: str, plan: Plan, *, every_step: bool = False) -> str:
    """The plan of a dry run, or before a question. `every_step`: with -v, a line for each step."""
    head = [f"Note: {line}" for line in notes(plan.notes, every_note=every_step)]
    if plan.is_empty:
        return "\n".join([*head, f"{command}: nothing to do."])
    if every_step:
        return "\n".join([*head, f"{command} would:", *(f"  {printable(step.describe())}" for step in plan.steps)])
    everybody = tuple(dict.fromkeys(name for step in plan.steps for name in step.usernames))
    lines = list(_lines(plan, everybody))
    concerned = f", for {_students(everybody)}" if any(len(names) > _FEW for _, names in _groups(plan)) else ""
    return "\n".join([*head, f"{command} would{concerned}:", *(f"  {line}" for line in lines)])


def notes(given: Iterable[str], *, every_note: bool = False) -> list[str]:
    """What is said of many students in the same words becomes one note; `every_note` with -v."""
    names_of: dict[str, list[str]] = {}
    for note in given:
        name = note.partition(" ")[0]
        is_name = USERNAME.fullmatch(name) is not None and not every_note
        words = re.sub(rf"\b{name}\b(?!-)", _NAME, note) if is_name else note
        names_of.setdefault(words, []).append(name)
    lines = []
    for words, names in names_of.items():
        if len(names) <= _FEW:
            lines += [printable(words.replace(_NAME, name)) for name in names]
        else:
            lines.append(f"for {_students(names)}: {printable(words.replace(_NAME, 'NAME'))}")
    return lines


def _lines(plan: Plan, everybody: Sequence[str]) -> Iterable[str]:
    for words, names in _groups(plan):
        if len(names) <= _FEW:
            yield from (printable(words.replace(_NAME, name)) for name in names or [""])
            continue
        many = _ACCOUNT.sub(rf"the \1accounts of {_NAME}", words)
        for one, several in _PLURALS:
            many = many.replace(one, several)
        who = f"{len(names)} students" if len(names) == len(everybody) else _students(names)
        yield printable(many.replace(_NAME, who))


def _groups(plan: Plan) -> list[tuple[str, list[str]]]:
    """(words, students) in the order of the plan. Steps of a phase whose words differ in the student alone are one."""
    found: list[tuple[str, list[str]]] = []
    for phase in plan.phases:
        names_of: dict[str, list[str]] = {}
        for step in phase.steps:
            words = _words(step)
            names_of.setdefault(words, [])
            if _NAME in words:
                names_of[words].append(step.usernames[0])
        found += names_of.items()
    return found


def _words(step: Step) -> str:
    """The step's line with a sign for its one student."""
    if len(step.usernames) == 1 and dataclasses.is_dataclass(step):
        for field, value in (("username", _NAME), ("usernames", (_NAME,))):
            if any(field == known.name for known in dataclasses.fields(step)):
                return dataclasses.replace(step, **{field: value}).describe()
    return step.describe()


def _students(names: Sequence[str]) -> str:
    return f"{len(names)} students ({render.names_words(names)})"
