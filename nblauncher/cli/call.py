"""What was asked for on the command line, and the options that commands share."""

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
    is_dry_run: bool = False
    as_json: bool = False
    yes: bool = False
    log_file: Path | None = None


def acts_on_students(function: Callable[..., int]) -> Callable[..., int]:
    """The arguments and options shared by the commands that act on students."""

    @click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[STUDENTS.CSV] [CONFIG]")
    @click.option("--only", multiple=True, metavar="NAME[,NAME...]", help="Act on these students only; repeatable.")
    @click.option("--dry-run", "is_dry_run", is_flag=True, help="Print the plan and change nothing.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
    @click.option("-y", "--yes", is_flag=True, help="Do not ask.")
    @click.pass_context
    @functools.wraps(function)
    def command(
        context: click.Context,
        /,
        files: tuple[Path, ...],
        only: tuple[str, ...],
        is_dry_run: bool,
        as_json: bool,
        yes: bool,
        **more: Any,
    ) -> int:
        call: Call = context.obj
        call.command = context.info_name or ""
        call.files, call.is_dry_run, call.as_json, call.yes = files, is_dry_run, as_json, yes
        call.only = names("--only", only)
        return function(call, **more)

    return command


def names(option: str, texts: tuple[str, ...]) -> frozenset[str]:
    """`--only ada,bob --only eve` as a set; empty where the option was not given.

    BadParameter where it was given without a name: a script's empty variable must not mean the whole class.
    """
    found: set[str] = set()
    for text in texts:
        named = {name.strip() for name in text.split(",") if name.strip()}
        if not named:
            raise click.BadParameter(f'"{printable(text)}" names no student', param_hint=option)
        found |= named
    return frozenset(found)
