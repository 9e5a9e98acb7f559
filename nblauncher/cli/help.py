"""How `--help` shows the commands: in groups, with examples, and never cut off."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from click.shell_completion import CompletionItem

from nblauncher.cli.completion import completed
from nblauncher.cli.status_line import line

Example = tuple[str, str]
"""What it is for, and the command line."""


@dataclass(frozen=True)
class Section:
    """Commands that belong together, in the order in which they are used."""

    title: str
    commands: tuple[str, ...]
    example: str


SECTIONS = (
    Section("Prepare", ("init", "roster", "check", "setup"), "sudo nblauncher setup students.csv"),
    Section(
        "Teach",
        ("send", "launch", "reload", "message", "freeze", "thaw"),
        "sudo nblauncher launch --background",
    ),
    Section("Hand out passwords", ("slips", "mail"), "sudo nblauncher slips"),
    Section("Look and help", ("status", "logs", "restart", "open"), "sudo nblauncher status --watch"),
    Section("Students", ("passwd", "lock", "unlock"), "sudo nblauncher passwd ada"),
    Section("Go back", ("snapshot", "history", "restore"), "sudo nblauncher history ada ps1/lab1.ipynb"),
    Section("Collect", ("deadlines", "extend", "retrieve", "verify-receipt"), "sudo nblauncher retrieve"),
    Section("Grade", ("grade", "feedback", "grades"), "sudo nblauncher grade init"),
    Section("End", ("shutdown", "remove"), "sudo nblauncher shutdown"),
    Section("Move", ("export", "import"), "sudo nblauncher export ../waves-export"),
    Section("Host", ("service",), "sudo nblauncher service install"),
)


class Commands(MutableMapping[str, click.Command]):
    """The commands by name. A command's module is imported when the command is looked up."""

    def __init__(self, modules: Mapping[str, str], aliases: Mapping[str, str]) -> None:
        self._modules = {name: module for module, names in modules.items() for name in names.split()}
        self._aliases = aliases
        self._found: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        """The function of `verify-receipt` is called `verify_receipt_command`."""
        if name not in self._found:
            own = self._aliases.get(name, name)
            module = importlib.import_module(f"nblauncher.cli.{self._modules[own]}")
            self._found[name] = getattr(module, f"{own.replace('-', '_')}_command")
        return self._found[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._found[name] = command

    def __delitem__(self, name: str) -> None:
        del self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._modules, *self._aliases, *self._found)))

    def __len__(self) -> int:
        return len(list(iter(self)))


class Command(click.Command):
    """A command with examples, the last part of its help."""

    def __init__(self, *args: Any, examples: Sequence[Example] = (), **more: Any) -> None:
        super().__init__(*args, **more)
        self.examples = tuple(examples)
        for parameter in self.params:
            parameter.type = completed(parameter) or parameter.type

    def invoke(self, ctx: click.Context) -> Any:
        """A terminal shows a character before the command imports what it works with."""
        if not ctx.params.get("verbose"):
            line.show(f"{ctx.info_name} ...")
        return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for purpose, line in self.examples:
                    formatter.write_text(f"{purpose}:")
                    formatter.write(f"{'':{formatter.current_indent}}  {line}\n")


class Group(click.Group):
    """Lists its commands in sections, each with an example."""

    command_class = Command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """In the order of `--help`. Not click's, which imports the hidden commands too."""
        names = [name for section in SECTIONS for name in section.commands if name.startswith(incomplete)]
        commands = [CompletionItem(name, help=summary(self.commands[name])) for name in names]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(len(name) for section in SECTIONS for name in section.commands)
        for section in SECTIONS:
            with formatter.section(section.title):
                rows = [(f"{name:{width}}", summary(self.commands[name])) for name in section.commands]
                formatter.write_dl(rows)
                formatter.write_text(f"Example: {section.example}")


def summary(command: click.Command) -> str:
    """The first sentence of a command's help, whole."""
    return command.get_short_help_str(limit=1000)


def aliases(group: click.Group) -> Iterator[tuple[str, str]]:
    """(other name, name) of the commands that have one."""
    yield from ((name, command.name or "") for name, command in group.commands.items() if command.name != name)
