"""The command line without a host: usage, inputs, errors."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from nblauncher.cli import render
from nblauncher.cli.call import names
from nblauncher.config import times as moments
from nblauncher.planning.plan import Report
from tests import commands


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"]}
    if commands.is_served():  # beside system tests: importing is done
        return commands.run(arguments, folder, environment, 60)
    return subprocess.run(
        [sys.executable, "-I", "-m", "nblauncher", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=environment,
    )


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("setup", "--nonsense"), ("--only", "ada", "setup")])
def test_a_wrong_command_line_is_2(tmp_path, arguments):
    assert run(tmp_path, *arguments).returncode == 2


HOSTILE = "x\x1b[2J\x07\x7f\x9b\u202e"


@pytest.mark.parametrize(
    "arguments",
    [
        *((HOSTILE,), ("setup", f"--{HOSTILE}"), ("setup", HOSTILE), ("-c", HOSTILE, "setup", "--json")),
        *(("setup", "--only", HOSTILE), ("history", HOSTILE), ("verify-receipt", HOSTILE), ("restore", "a", HOSTILE)),
        ("check", "--json"),
    ],
)
def test_nothing_that_was_typed_or_read_reaches_the_terminal_as_a_command(tmp_path, arguments):
    (tmp_path / "notebooks.cfg").write_text(f'course: physics101\n"{HOSTILE[0]}\\e\\u009b\\u202e": 1\nprofile: "\\e"\n')
    (tmp_path / "students.csv").write_text(f"username,{HOSTILE}\n{HOSTILE},\n")
    answer = run(tmp_path, *arguments)
    for text in (answer.stdout, answer.stderr):
        assert all(line.isprintable() for line in text.split("\n")), repr(text)


def test_without_a_config_it_says_how_to_get_one(tmp_path):
    answer = run(tmp_path, "setup")
    assert answer.returncode == 3
    assert "nblauncher init" in answer.stderr
    assert answer.stderr.count("there is no notebooks.cfg") == 1


def test_refusals_are_one_json_object_too(tmp_path):
    answer = run(tmp_path, "setup", "--json")
    said = json.loads(answer.stdout)
    assert (said["nblauncher"], said["command"], said["status"], said["exit_code"]) == (1, "setup", "refused", 3)
    assert said["students"] == [] and len(said["errors"]) == 1


def test_a_class_list_becomes_a_private_roster_without_root_and_without_a_config(tmp_path):
    (tmp_path / "list.csv").write_text("First name,Last name,Email address,Groups\nAda,Lovelace,ada@uni.example,Lab\n")
    shown = run(tmp_path, "roster", "import", "list.csv", "--dry-run")
    assert shown.returncode == 0 and "Ada Lovelace" in shown.stdout and not (tmp_path / "students.csv").exists()
    assert run(tmp_path, "roster", "import", "list.csv").returncode == 4  # nobody said yes
    assert run(tmp_path, "roster", "import", "list.csv", "--yes").returncode == 0
    assert (tmp_path / "students.csv").read_text() == (
        "username,name,email,section\nada,Ada Lovelace,ada@uni.example,Lab\n"
    )
    assert stat.S_IMODE((tmp_path / "students.csv").stat().st_mode) == 0o600
    assert "Nothing to do." in run(tmp_path, "roster", "import", "list.csv").stdout
    assert run(tmp_path, "init").returncode == 0
    assert "ada," in (tmp_path / "students.csv").read_text()


ONE_AFTER_THE_OTHER = f"""
import json, os, sys
{commands.IMPORTED}
for words in json.loads(sys.argv[1]):
    if (pid := os.fork()) == 0:
        sys.argv[1:] = words
        life.live(main)
    print(words, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""Of a command line that is wrong, importing takes all the time: here it is done once for all of them."""
LISTS = [
    *((command, "--only") for command in ("setup", "send", "launch", "reload", "status", "retrieve", "shutdown")),
    *((command, "--only") for command in ("remove", "snapshot", "freeze", "thaw")),
    ("remove", "--claim"),
    ("remove", "--despite-incomplete"),
    ("remove", "--section"),
]


def test_a_list_of_names_that_is_given_and_empty_is_a_wrong_command_line(tmp_path):
    """`remove --only "$LEAVERS" --yes` with an empty variable must not remove the class."""
    lines = [
        [*words, given, "--dry-run"]
        for option in LISTS
        for given in ("", ",", " ", " , ,", "\t")
        for words in (option, [*option, "ada", option[-1]])
    ]
    answer = subprocess.run(
        [sys.executable, "-I", "-c", ONE_AFTER_THE_OTHER, json.dumps(lines)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"]},
    )
    assert answer.stdout.splitlines() == [f"{words} 2" for words in lines], answer
    of_sections = sum("--section" in words for words in lines)
    assert answer.stderr.count("does not name a section") == of_sections
    assert answer.stderr.count("does not name a student") == len(lines) - of_sections


@pytest.mark.parametrize("limit", ["--only", "--section"])
@pytest.mark.parametrize("option", ["--at", "--cancel"])
def test_a_capture_of_the_whole_class_is_not_limited_to_some_students(tmp_path, option, limit):
    answer = run(tmp_path, "retrieve", option, "2036-11-27 17:00", limit, "ada")
    assert answer.returncode == 2 and "cannot be combined with --only or --section" in answer.stderr


@pytest.mark.parametrize("arguments", [("setup", "--json"), ("check", "--json"), ("--version",), ("--help",)])
def test_an_answer_that_finds_no_room_is_the_hosts_fault_and_no_bug(tmp_path, arguments):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-I", "-m", "nblauncher", *arguments],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "no space left on device" in done.stderr
    assert "bug" not in done.stderr and "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_every_bad_key_and_every_bad_row_is_named_at_once(tmp_path):
    (tmp_path / "notebooks.cfg").write_text("course: X\nnonsense: 1\n")
    (tmp_path / "students.csv").write_text("username\nA\nb c\n")
    answer = run(tmp_path, "setup", "--dry-run", "--json")
    assert answer.returncode == 3
    assert len(json.loads(answer.stdout)["errors"]) == 4


def test_init_writes_samples_and_never_overwrites(tmp_path):
    assert run(tmp_path, "init", "class").returncode == 0
    before = {file: file.read_bytes() for file in (tmp_path / "class").rglob("*") if file.is_file()}
    assert {"notebooks.cfg", "students.csv"} <= {file.name for file in before}
    assert run(tmp_path, "init", "class").returncode in (3, 4)
    assert {file: file.read_bytes() for file in before} == before


def test_two_configs_are_refused(tmp_path):
    assert run(tmp_path, "setup", "a.cfg", "b.cfg").returncode == 3
    assert run(tmp_path, "setup", "a.csv", "b.csv").returncode == 3


def test_text_from_outside_cannot_play_with_the_terminal(tmp_path):
    (tmp_path / "notebooks.cfg").write_text("course: c\n")
    (tmp_path / "students.csv").write_text("username\n\x1b[31mred\n")
    answer = run(tmp_path, "setup", "--dry-run")
    assert answer.returncode == 3
    assert "\x1b" not in answer.stderr + answer.stdout


@pytest.mark.parametrize("width", [70, 80, 100])
def test_times_in_a_table_stay_in_one_piece(width):
    times = ["2026-11-27T17:00:00.123+01:00", "2026-11-28T17:00:00.456+01:00"]
    version = {"first": times[0], "last": times[1], "bytes": 12_345, "sha256": "ab" * 32, "present": True}
    lines = render.versions_text([version], width).splitlines()
    assert any(all(moments.short(datetime.fromisoformat(one)) in line for one in times) for line in lines), lines


def test_only_takes_names_apart():
    assert names("--only", ("ada,bob", " eve ", "ada,")) == {"ada", "bob", "eve"}


def test_a_failure_is_told_with_who_and_why_and_what_about_the_others():
    report = Report.of(["ada", "bob", "eve"])
    report.fail("ada", "disk full")
    words = render.failures_text(report, "{ratio} students were not set up", "Run it again.")
    assert words.splitlines()[0] == "Error: 1 of 3 students were not set up: ada (disk full)"
    assert "The other 2 are done." in words
    report.fail("bob", "disk full")
    words = render.failures_text(report, "{ratio} students were not set up", "Run it again.")
    assert "The other one is done." in words


def test_a_failure_of_a_whole_class_is_told_once():
    report = Report.of([f"s{number:03}" for number in range(500)])
    for student in list(report.students):
        report.fail(student, "disk full" if student != "s499" else "gone")
    words = render.failures_text(report, "{ratio} students were not set up", "Run it again.")
    assert words.startswith("Error: 500 of 500 students were not set up: s000, s001, s002,")
    assert "s009 and 489 more (disk full), s499 (gone)" in words.splitlines()[0]


@pytest.mark.parametrize(("count", "words"), [(None, "-"), (999, "999 B"), (1500, "1.5 kB"), (2_500_000_000, "2.5 GB")])
def test_sizes_are_shown_in_decimal_units(count, words):
    assert render.bytes_text(count) == words


def test_the_envelope_has_these_keys_in_every_version_1():
    said = json.loads(render.envelope("setup", "ok", 0))
    assert set(said) == {"nblauncher", "command", "status", "exit_code", "students", "errors"}
    assert said["nblauncher"] == 1
