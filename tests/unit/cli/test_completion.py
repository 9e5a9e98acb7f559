"""What a shell completes, in the shells themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pexpect
import pytest

from nblauncher.cli.completion import completed
from nblauncher.cli.help import SECTIONS
from nblauncher.cli.main import cli
from tests.running import eventually

BIN = Path(sys.executable).parent
ROSTER = """username,name,section
ada,Ada Lovelace,Monday
adele,"Adele, the second",Tuesday late
bob,Bob,Monday
"""
HOSTILE = """username,name,section
$(touch pwned),x,$(touch pwned)
`touch pwned`,x,`touch pwned`
*,x,*
"a
ada;touch pwned",x,"Mon
;touch pwned"
ada|touch pwned,x,Monday|touch pwned
../ada,x,~/Monday
ada,"$(touch pwned)
`touch pwned`",\x1b]0;pwned\x07
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "students.csv").write_text(ROSTER)
    return tmp_path


def script(shell: str) -> str:
    """As install.sh writes it."""
    return subprocess.run(
        [BIN / "nblauncher"],
        env={"PATH": os.environ["PATH"], "_NBLAUNCHER_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def in_bash(folder: Path, *words: str) -> list[str]:
    """What bash offers for the last of these words, which are as it splits them."""
    program = 'eval "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); compopt() { COMPREPLY+=("<$2>"); }\n'
    program += '_nblauncher_completion nblauncher; printf "%s\\n" "${COMPREPLY[@]}"'
    answer = subprocess.run(
        ["bash", "--norc", "-c", program, "bash", script("bash"), "nblauncher", *words],
        cwd=folder,
        env={"PATH": f"{BIN}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    return answer.stdout.split("\n")[:-1] if answer.stdout.strip() else []


def test_commands_are_offered_in_the_order_of_the_help_and_none_that_is_hidden(folder: Path) -> None:
    assert in_bash(folder, "") == [name for section in SECTIONS for name in section.commands]
    assert in_bash(folder, "re") == ["reload", "restart", "restore", "retrieve", "remove"]


def test_options_and_choices_are_offered(folder: Path) -> None:
    assert {"--only", "--dry-run", "--json", "--assignment"} <= set(in_bash(folder, "send", "--"))
    assert in_bash(folder, "service", "i") == ["install"]
    assert in_bash(folder, "setup", "") == ["<default>"]


@pytest.mark.parametrize(
    "words, offered",
    [
        (["status", "--only", ""], ["ada", "adele", "bob"]),
        (["status", "--only", "ad"], ["ada", "adele"]),
        (["status", "--only", "ada,"], ["ada,adele", "ada,bob"]),
        (["status", "--only", "=", "b"], ["bob"]),
        (["remove", "--despite-incomplete", "bo"], ["bob"]),
        (["history", "ade"], ["adele"]),
        (["extend", "--deadline", "ps1", "b"], ["bob"]),
    ],
)
def test_names_of_students_are_offered(folder: Path, words: list[str], offered: list[str]) -> None:
    assert in_bash(folder, *words) == offered


def test_a_row_that_setup_would_refuse_does_not_cost_the_others(folder: Path) -> None:
    (folder / "students.csv").write_text(f"{ROSTER}Not A Name,x,\nbob,again,\nzoe,x,Monday,too,many\n")
    assert in_bash(folder, "history", "") == ["ada", "adele", "bob"]


def test_nothing_of_a_hostile_roster_reaches_a_shell_as_code(folder: Path) -> None:
    (folder / "students.csv").write_text(HOSTILE)
    assert in_bash(folder, "status", "--only", "") == ["ada"]
    assert list(folder.iterdir()) == [folder / "students.csv"]
    sections = completed(click.Option(["--section"]))
    assert sections is not None
    here = Path.cwd()
    os.chdir(folder)
    try:
        assert sections.shell_complete(click.Context(cli), click.Option(["--section"]), "") == []
    finally:
        os.chdir(here)


def test_a_roster_that_is_a_link_a_pipe_or_no_text_completes_nothing(tmp_path: Path) -> None:
    roster = tmp_path / "students.csv"
    (tmp_path / "other.csv").write_text(ROSTER)
    assert in_bash(tmp_path, "history", "") == []
    roster.symlink_to("other.csv")
    assert in_bash(tmp_path, "history", "") == []
    roster.unlink()
    os.mkfifo(roster)
    assert in_bash(tmp_path, "history", "") == []
    roster.unlink()
    roster.write_bytes(b"\0" * 2_000_000)
    assert in_bash(tmp_path, "history", "") == []


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_offers_the_same_with_what_it_means(folder: Path) -> None:
    (folder / "nblauncher.fish").write_text(script("fish"))

    def offered(line: str) -> list[str]:
        command = f"source nblauncher.fish; complete -C '{line}'"
        environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(folder), "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            ["fish", "--no-config", "-c", command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    assert offered("nblauncher status --only ada,") == ["ada,adele\tAdele, the second", "ada,bob\tBob"]
    assert offered("nblauncher status --only=b") == ["--only=bob\tBob"]
    assert offered("nblauncher seT") == [] and offered("nblauncher setu")[0].startswith("setup\t")


class Zsh:
    """An interactive zsh with the script in its `fpath`, as after an installation. Ctrl-X writes down the line."""

    def __init__(self, folder: Path) -> None:
        self._written, self._number = folder / "line", 0
        scripts = folder / "scripts"
        scripts.mkdir()
        (scripts / "_nblauncher").write_text(script("zsh"))
        environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(folder), "LC_ALL": "C.UTF-8", "TERM": "dumb"}
        size = {"dimensions": (60, 200), "encoding": "utf-8", "timeout": 60}
        self._shell = pexpect.spawn("zsh", ["-f", "-i"], cwd=str(folder), env=environment, **size)
        self._shell.sendline(
            "fpath=($PWD/scripts $fpath); autoload -Uz compinit; compinit -D -u; setopt no_beep; "
            'tell() { print -rn -- "$BUFFER" >$HOME/new && mv $HOME/new $HOME/line }; zle -N tell; bindkey "^X" tell; '
            "print be''gun"
        )
        self._shell.expect("begun\r\n")

    def line_after(self, typed: str, *, changes: bool = True) -> str:
        """What stands on the command line after this and Tab."""
        self._shell.send(f"\x15{typed}\t")
        until = time.monotonic() + 30
        while time.monotonic() < until:
            time.sleep(0.5)  # it may still look
            self._written.unlink(missing_ok=True)
            self._shell.send("\x18")
            eventually(self._written.exists, patience=30)
            if (line := self._written.read_text()) != typed or not changes:
                return line
        return typed

    def shows(self, words: str) -> None:
        self._shell.expect_exact(words)

    def close(self) -> None:
        self._shell.close(force=True)


@pytest.fixture
def zsh(folder: Path) -> Iterator[Zsh]:
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    made = Zsh(folder)
    yield made
    made.close()


def test_zsh_completes_commands_and_names_and_shows_whose_they_are(zsh: Zsh) -> None:
    assert zsh.line_after("nblauncher setu") == "nblauncher setup "
    assert zsh.line_after("nblauncher status --only bo") == "nblauncher status --only bob "
    assert zsh.line_after("nblauncher status --only=b") == "nblauncher status --only=bob "
    assert zsh.line_after("nblauncher status --only bob,adel") == "nblauncher status --only bob,adele "
    assert zsh.line_after("nblauncher status --section Tu") == r"nblauncher status --section Tuesday\ late "
    assert zsh.line_after("nblauncher history ad", changes=False) == "nblauncher history ad"
    zsh.shows("Adele, the second")


def test_the_script_for_zsh_is_ours_where_clicks_misses_the_second_tab() -> None:
    """Also where zsh is not installed: click may have changed its own."""
    assert "$funcstack[1] == _nblauncher" in script("zsh") and "zsh_eval_context" not in script("zsh")


def test_nothing_of_a_hostile_roster_reaches_zsh_as_code(folder: Path, zsh: Zsh) -> None:
    (folder / "students.csv").write_text(HOSTILE)
    before = {file.name for file in folder.iterdir()}
    assert zsh.line_after("nblauncher status --only ").startswith("nblauncher status --only ada")
    assert zsh.line_after("nblauncher status --section ", changes=False) == "nblauncher status --section "
    assert {file.name for file in folder.iterdir()} - before <= {"line", "new"}


def test_every_parameter_that_names_students_completes_them() -> None:
    def names(name: str) -> list[str]:
        return [str(parameter.name) for parameter in cli.commands[name].params if completed(parameter)]

    assert names("status") == ["only", "section"]
    assert names("remove") == ["claim", "despite_incomplete", "only", "section"]
    assert names("extend") == ["name"]
    section = click.Option(["--section"], metavar="NAME")
    assert type(completed(section)) is not type(completed(click.Argument(["name"], metavar="NAME")))
