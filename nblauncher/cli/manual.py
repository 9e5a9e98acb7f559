"""The man page nblauncher(1), made from the commands, the config's keys and the exit codes. man(7) is the format."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from datetime import date
from typing import cast

import click

from nblauncher import __version__
from nblauncher.cli.help import SECTIONS, Command, aliases
from nblauncher.config.settings.keys import TAKEN_WORDS
from nblauncher.config.settings.schema import SCHEMA

EXIT_CODES: Mapping[int, str] = {
    0: "Done, or nothing to do.",
    1: "The host refused and nothing was achieved. For check: there is a problem.",
    2: "The command line is wrong.",
    3: "The roster or the config is wrong. Nothing was changed.",
    4: "It would not be safe, or the caller is not root. Nothing was changed.",
    5: "Some students failed or are incomplete. The others are done; run the command again.",
    6: "Another nblauncher was still changing this course or the accounts, or building packages.",
    70: "A bug. The path of the log with the traceback is printed.",
    130: "Interrupted at the next safe point. What was done is reported.",
}
_FILES = {
    "./notebooks.cfg, /etc/nblauncher/notebooks.cfg": "The config, unless -c names another.",
    "/var/lib/nblauncher": "What nblauncher remembers of courses and accounts.",
    "/var/log/nblauncher/COURSE": "Logs.",
}


@click.command("manual", hidden=True)
@click.pass_context
def manual_command(context: click.Context) -> int:
    """Print the man page nblauncher(1), which install.sh installs."""
    click.echo(page(cast(click.Group, context.find_root().command), date.today()), nl=False)
    return 0


def page(cli: click.Group, today: date) -> str:
    """The whole page, in ASCII."""
    lines = [
        f'.TH NBLAUNCHER 1 "{today.isoformat()}" "nblauncher {__version__}" "User Commands"',
        ".SH NAME",
        r"nblauncher \- run a Jupyter classroom on one Linux host",
        ".SH SYNOPSIS",
        r"\fBnblauncher\fR [\fIOPTIONS\fR] \fICOMMAND\fR [\fIARGUMENTS\fR]",
        ".SH DESCRIPTION",
        _prose(cli.help or ""),
        _prose("Every command does only what is missing, so that it can be run again at any time."),
        ".SH OPTIONS",
        *_options(cli, click.Context(cli, info_name="nblauncher")),
        ".SH COMMANDS",
        *_commands(cli),
        ".SH CONFIGURATION",
        _prose("The keys of notebooks.cfg, each with its default."),
        _prose("The word in brackets says what takes a changed value over:"),
        *_terms({f"[{taken.value}]": words for taken, words in TAKEN_WORDS.items()}),
        *_keys(),
        ".SH EXIT STATUS",
        *_terms({str(code): words for code, words in EXIT_CODES.items()}),
        ".SH FILES",
        *_terms(_FILES),
    ]
    return "\n".join(lines) + "\n"


def _commands(cli: click.Group) -> Iterator[str]:
    other_names = {name: other for other, name in aliases(cli)}
    for section in SECTIONS:
        yield f'.SS "{section.title}"'
        for name in section.commands:
            command = cli.commands[name]
            context = click.Context(command, info_name=name, parent=click.Context(cli, info_name="nblauncher"))
            also = f" Also called {other_names[name]}." if name in other_names else ""
            usage = " ".join(command.collect_usage_pieces(context))
            yield from (".TP", f"{_bold(f'nblauncher {name}')} {_code(usage)}")
            yield _prose((command.help or "") + also)
            yield from (".RS", *_options(command, context), *_examples(command), ".RE")


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        is_repeated = "--help" in parameter.opts and context.parent is not None
        if isinstance(parameter, click.Option) and record is not None and not is_repeated:
            yield from (".TP", _bold(record[0]), _prose(record[1]))


def _examples(command: click.Command) -> Iterator[str]:
    for purpose, line in command.examples if isinstance(command, Command) else ():
        yield from (".PP", f"{_prose(purpose)}:", ".RS", ".nf", _line(_code(line)), ".fi", ".RE")


def _keys() -> Iterator[str]:
    for name, key in SCHEMA.items():
        default = f": {key.default}" if key.default is not None else ""
        allowed = f" ({key.allowed})" if key.allowed else ""
        yield from (".TP", _bold(f"{name}{default}"), _prose(f"{key.explanation}{allowed} [{key.taken.value}]"))


def _terms(terms: Mapping[str, str]) -> Iterator[str]:
    for term, words in terms.items():
        yield from (".TP", _bold(term), _prose(words))


def _bold(text: str) -> str:
    return rf"\fB{_code(text)}\fR"


def _prose(text: str) -> str:
    """A paragraph; `quoted` words are bold."""
    plain = _escaped(" ".join(text.split()))
    marked = re.sub(r"`([^`]+)`", lambda quoted: rf"\fB{_hyphened(quoted[1])}\fR", plain)
    # A sentence begins a line: troff then knows where it ends.
    sentences = re.split(r"(?<=[.:]) (?=[A-Z])", marked)
    return "\n".join(
        _line(line) for sentence in sentences for line in textwrap.wrap(sentence, 78, break_on_hyphens=False)
    )


def _code(text: str) -> str:
    return _hyphened(_escaped(text))


def _hyphened(text: str) -> str:
    r"""`\-` is the character that a person types; a bare one may become a typographical hyphen."""
    return text.replace("-", r"\-")


def _escaped(text: str) -> str:
    return text.replace("\\", r"\e")


def _line(text: str) -> str:
    """Not a request, whatever it begins with."""
    return rf"\&{text}" if text.startswith((".", "'")) else text
