"""`--help` and the man page: every command, whole, with examples."""

from __future__ import annotations

import functools
import shlex
import shutil
import subprocess
from datetime import date
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from nblauncher.cli import manual
from nblauncher.cli.call import Call
from nblauncher.cli.help import SECTIONS, Command, summary
from nblauncher.cli.main import EXIT_BUG, cli
from nblauncher.config.settings.schema import SCHEMA

SHOWN = {name: command for name, command in cli.commands.items() if command.name == name and not command.hidden}
DAY = date(2026, 11, 29)
VERBOSE = ["-v", "--verbose"]
"""Explained once, before the command."""


def help_of(*arguments: str) -> str:
    """As on a terminal of 80 columns."""
    result = CliRunner().invoke(cli, [*arguments, "--help"], obj=Call(), prog_name="nblauncher", terminal_width=80)
    assert result.exit_code == 0
    return result.output


def without_spaces(text: str) -> str:
    return "".join(text.split())


def test_every_command_is_in_one_section() -> None:
    listed = [name for section in SECTIONS for name in section.commands]
    assert sorted(listed) == sorted(SHOWN)


def test_the_help_lists_every_command_with_its_whole_summary_and_every_section_with_its_example() -> None:
    text = help_of()
    for section in SECTIONS:
        assert f"\n{section.title}:\n" in text and f"  Example: {section.example}\n" in text
        for name in section.commands:
            assert without_spaces(f"{name}{summary(SHOWN[name])}") in without_spaces(text)


@pytest.mark.parametrize("name", ["", *sorted(SHOWN)])
def test_no_line_of_the_help_is_cut_off_or_longer_than_80_columns(name: str) -> None:
    text = help_of(*filter(None, [name]))
    assert max(map(len, text.splitlines())) <= 80
    named = ("NAME[,NAME...]", "NAME...", "[ARGS]...")
    assert "..." not in functools.reduce(lambda rest, word: rest.replace(word, ""), named, text)


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_a_commands_help_explains_each_option_and_ends_with_examples(name: str) -> None:
    command, text = SHOWN[name], help_of(name)
    assert isinstance(command, Command) and command.examples
    assert text.endswith(f"    {command.examples[-1][1]}\n")
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help and without_spaces(parameter.help) in without_spaces(text)


@pytest.mark.parametrize(
    "line",
    [
        *(section.example for section in SECTIONS),
        *(line for command in SHOWN.values() if isinstance(command, Command) for _, line in command.examples),
    ],
)
def test_an_example_is_a_command_line_that_is_accepted(line: str) -> None:
    words = shlex.split(line.removeprefix("sudo "))
    assert words[0] == "nblauncher"
    command = cli.commands[words[1]]
    assert command.make_context(words[1], words[2:]).command is command


def test_the_man_page_names_every_command_option_example_key_and_exit_code() -> None:
    page = manual.page(cli, DAY)
    assert page.isascii()
    for name, command in SHOWN.items():
        assert rf"\fBnblauncher {name}".replace("-", r"\-") in page
        assert isinstance(command, Command)
        for _, line in command.examples:
            assert line.replace("-", r"\-") in page
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert all(option.replace("-", r"\-") in page for option in parameter.opts)
            is_hidden = getattr(parameter, "hidden", False) and parameter.opts != VERBOSE
            assert not is_hidden or parameter.opts[0].replace("-", r"\-") not in page
    for key in SCHEMA:
        assert rf"\fB{key}" in page
    assert EXIT_BUG in manual.EXIT_CODES


def test_no_line_of_the_man_page_is_a_request_by_accident() -> None:
    known = ("TH", "SH", "SS", "TP", "PP", "RS", "RE", "nf", "fi")
    for line in manual.page(cli, DAY).splitlines():
        assert line and (not line.startswith((".", "'")) or line[1:].split()[0] in known)


@pytest.mark.parametrize(
    "program",
    [
        ("mandoc", "-T", "lint", "-W", "style"),
        ("groff", "-man", "-T", "utf8", "-ww", "-z"),
    ],
)
def test_formatters_have_nothing_to_say_about_the_man_page(tmp_path: Path, program: tuple[str, ...]) -> None:
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed")
    file = tmp_path / "nblauncher.1"
    file.write_text(manual.page(cli, DAY))
    checked = subprocess.run([*program, file], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
