"""The result of a check, and how checks run the host's programs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `check`. `hint` says what to do; it is empty only for `ok`."""

    level: Level
    subject: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The standard output and exit status of a program."""

    exit_status: int
    text: str


Ask = Callable[[Sequence[str]], Answer | None]
"""Runs a program that changes nothing; None when the host does not have it."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def ask(command: Sequence[str]) -> Answer | None:
    """Run a system program in the C locale, for at most 15 s, without standard input."""
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": PATH, "LC_ALL": "C"},
            timeout=15,
            check=False,
        )
    except (FileNotFoundError, PermissionError):
        return None
    except subprocess.TimeoutExpired:
        return Answer(124, "")
    return Answer(done.returncode, done.stdout.decode("utf-8", "replace"))


def ok(subject: str, message: str) -> Finding:
    return Finding("ok", subject, message)


def warning(subject: str, message: str, hint: str) -> Finding:
    return Finding("warning", subject, message, hint)


def problem(subject: str, message: str, hint: str) -> Finding:
    return Finding("problem", subject, message, hint)
