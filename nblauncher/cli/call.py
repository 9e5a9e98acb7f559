"""The request on the command line, and the options that commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from nblauncher.printable import printable


@dataclass
class Call:
    """One command line."""

    config: Path | None = None
    verbosity: int = 0
    command: str = ""
    files: tuple[Path, ...] = ()
    only: frozenset[str] = frozenset()
    """The students to act on, those of `sections` too once the roster was read; empty: all."""
    sections: tuple[str, ...] = ()
    is_dry_run: bool = False
    as_json: bool = False
    yes: bool = False
    log_file: Path | None = None

    @property
    def is_about_some(self) -> bool:
        """Whether --only or --section was given."""
        return bool(self.only or self.sections)


def acts_on_students(function: Callable[..., int]) -> Callable[..., int]:
    """The arguments and options shared by the commands that act on students."""

    @click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[STUDENTS.CSV] [CONFIG]")
    @click.option("--only", multiple=True, metavar="NAME[,NAME...]", help="Act on these students only. Repeatable.")
    @click.option(
        "--section",
        multiple=True,
        metavar="NAME[,NAME...]",
        help="Act on the students of these sections of the roster. Repeatable.",
    )
    @click.option("--dry-run", "is_dry_run", is_flag=True, help="Print the plan and change nothing.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
    @click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
    @click.option("-v", "--verbose", count=True, hidden=True, help="As before the command.")
    @click.pass_context
    @functools.wraps(function)
    def command(
        context: click.Context,
        /,
        files: tuple[Path, ...],
        only: tuple[str, ...],
        section: tuple[str, ...],
        is_dry_run: bool,
        as_json: bool,
        yes: bool,
        verbose: int,
        **more: Any,
    ) -> int:
        call: Call = context.obj
        call.command = context.info_name or ""
        call.files, call.is_dry_run, call.as_json, call.yes = files, is_dry_run, as_json, yes
        call.only = names("--only", only)
        call.verbosity = max(call.verbosity, verbose)
        if section:
            names("--section", section, "section")
            call.sections = section  # whole: a comma may be part of a section's name
        return function(call, **more)

    return command


def names(option: str, texts: tuple[str, ...], noun: str = "student") -> frozenset[str]:
    """`--only ada,bob --only eve` as a set; empty where the option was not given.

    BadParameter where it was given without a name: a script's empty variable must not mean the whole class.
    """
    found: set[str] = set()
    for text in texts:
        named = {name.strip() for name in text.split(",") if name.strip()}
        if not named:
            raise click.BadParameter(f'"{printable(text)}" does not name a {noun}', param_hint=option)
        found |= named
    return frozenset(found)
