"""Run nbgrader's code as the teacher, in the environment that grades: an order in, an answer out, both JSON.

The program is started by exec in a child that has become the teacher; root never loads nbgrader, and reads no more of
the answer than it has asked for.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nblauncher.environments import course_packages
from nblauncher.errors import HostError, InputError, RefusedError
from nblauncher.forkserver import foreign
from nblauncher.model import Account
from nblauncher.printable import printable
from nblauncher.system import workers

log = logging.getLogger(__name__)

MODULE = "nblauncher.grading.teacher_side.__main__"
MOST_ANSWERED = 3 << 20
"""Bytes of an answer."""

_MOST_LOGGED = 60_000
_PATH = "/usr/local/bin:/usr/bin:/bin"


def ask(teacher: Account, python: Path, verb: str, order: Mapping[str, Any], *, folder: Path, timeout: float) -> Any:
    """What the verb answered. `folder` is its working directory.

    Raises what the verb raised, and HostError when it failed otherwise; what it said is in the log then.
    """
    refuse_root(teacher)
    said = workers.run_as(teacher, _run, python, verb, dict(order), teacher, folder, timeout, timeout=timeout + 10)
    for line in str(said["log"]).splitlines():
        log.debug("%s: %s", verb, printable(line))
    try:
        answer = json.loads(said["answer"])
    except ValueError:
        answer = None
    return result_of(verb, answer, str(said["log"]) or f"exit status {said['status']}", teacher)


def result_of(verb: str, answer: object, said: str, teacher: Account) -> Any:
    """What a process of the teacher's answered; `said` is what it printed. HostError for what is not an answer."""
    if not isinstance(answer, dict) or not {"result", "problem"} & set(answer):
        lines = [line for line in said.splitlines() if line.strip()]
        log.error("%s failed:\n%s", verb, "\n".join(map(printable, lines)))
        last = printable(lines[-1])[:300] if lines else "without a word"
        raise HostError(f"nbgrader failed as {teacher.username}: {last}", "The log has all that it said.")
    if "problem" in answer:
        kind = {"InputError": InputError, "RefusedError": RefusedError}.get(str(answer.get("kind")), HostError)
        raise kind(printable(str(answer["problem"])), printable(str(answer.get("hint", ""))))
    return answer["result"]


def refuse_root(teacher: Account) -> None:
    if teacher.uid == 0:
        raise RefusedError(
            "nbgrader is not run as root; nothing was changed",
            "Name the teacher's account as `owner:` in notebooks.cfg, or run the command with sudo as the teacher.",
        )


def python_of(environments: Path) -> Path:
    """The Python that grades. RefusedError when it was not installed yet."""
    found = course_packages.current(environments)
    if found is None:
        raise RefusedError(
            "the course has no environment that grades yet; nothing was changed", "Run `nblauncher grade init` first."
        )
    return course_packages.python_in(found)


def _run(
    python: Path, verb: str, order: Mapping[str, Any], teacher: Account, folder: Path, timeout: float
) -> dict[str, Any]:
    """As the teacher."""
    program = [str(python), "-I", "-B", foreign.__file__, MODULE, verb]
    try:
        done = subprocess.run(
            program,
            input=json.dumps(dict(order)).encode(),
            capture_output=True,
            cwd=folder,
            env=environment_of(teacher, python),
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise HostError(f"nbgrader was not done with `{verb}` after {timeout:.0f} s") from error
    if len(done.stdout) > MOST_ANSWERED:
        raise HostError(f"nbgrader's answer has {len(done.stdout)} bytes")
    return {
        "answer": done.stdout.decode(errors="replace"),
        "log": done.stderr[-_MOST_LOGGED:].decode(errors="replace"),
        "status": done.returncode,
    }


def environment_of(teacher: Account, python: Path) -> dict[str, str]:
    """Variables of a program that runs as the teacher; nothing of the caller's but the time zone.

    nbgrader starts `alembic` by its name when it makes a gradebook, so the environment's programs come first.
    """
    own = {"HOME": str(teacher.home), "USER": teacher.username, "LOGNAME": teacher.username}
    zone = {"TZ": os.environ["TZ"]} if "TZ" in os.environ else {}
    return {**own, **zone, "PATH": f"{python.parent}:{_PATH}", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
