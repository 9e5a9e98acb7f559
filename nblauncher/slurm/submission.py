"""A student's job: what is submitted, and the child that submits it as the student.

Never as root with `sbatch --uid`: such a job has root's group (docs/decisions/slurm.md). The job is ours by its number,
its uid, and an AdminComment, which only root can write.
"""

from __future__ import annotations

import contextlib
import math
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nblauncher.errors import HostError
from nblauncher.model import Account, Limits, SlurmSettings
from nblauncher.printable import printable
from nblauncher.slurm import tools
from nblauncher.system.processes import last_words
from nblauncher.system.workers import run_as

_MIB = 1 << 20
_RUN = re.compile(r"[A-Za-z0-9-]{1,32}")
_ALREADY_OVER = "already finished"


@dataclass(frozen=True, slots=True)
class Submission:
    """What a child that is the student runs: sbatch, with the script as its standard input."""

    argv: tuple[str, ...]
    script: str
    environment: Mapping[str, str]
    admin_comment: str


def admin_comment(course: str, run: str) -> str:
    """By which root knows a job of ours again."""
    if not _RUN.fullmatch(run):
        raise ValueError(f"not the name of a run: {run}")
    return f"{mark_of(course)}{run}"


def mark_of(course: str) -> str:
    """How the AdminComments of all its jobs begin."""
    return f"nbl:{course}:"


def job_name(course: str) -> str:
    """What students see in squeue, and may change."""
    return f"nbl-{course}"


def submission(
    settings: SlurmSettings,
    limits: Limits,
    account: Account,
    command: Sequence[str],
    *,
    course: str,
    run: str,
    variables: Mapping[str, str] | None = None,
    output: str = "/dev/null",
) -> Submission:
    """`command` is what the script ends in, by exec, in the student's home. `variables` join HOME, USER and the like,
    which a node without the account would not know. `output` is a path on the node, written by the student.
    """
    wanted = {
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "reservation": settings.reservation,
        "gres": settings.gres,
        "constraint": settings.constraint,
        "time": str(settings.time) if settings.time else "",
        "mem": f"{math.ceil(limits.memory / _MIB)}M" if limits.memory else "",
        "cpus-per-task": str(max(1, math.ceil(limits.cpus))) if limits.cpus else "",
    }
    marker = admin_comment(course, run)
    argv = (
        *("sbatch", "--parsable", "--export=NIL", "--propagate=NONE", "--no-requeue", "--nodes=1", "--ntasks=1"),
        *(f"--{name}={value}" for name, value in wanted.items() if value),
        *settings.options,
        # Behind the site's own options: of one that is there twice, sbatch takes the last.
        *(f"--job-name={job_name(course)}", f"--comment={marker}", f"--chdir={account.home}"),
        *(f"--output={output}", "--open-mode=append"),
    )
    return Submission(argv, _script(settings, account, command, variables or {}), tools.environment(settings), marker)


def submit(settings: SlurmSettings, asked: Submission, account: Account, *, timeout: float = 30.0) -> int:
    """Submit it as the student and mark it as ours. Returns the job's number.

    Waits for Slurm: the supervisor calls it in a child of its own. UnansweredError when it is not known whether there
    is a job; HostError when Slurm refused it.
    """
    status, said, complaints = run_as(
        account, _sbatch, list(asked.argv), asked.script, dict(asked.environment), timeout, timeout=timeout + 5
    )
    if status != 0:
        raise _refused(account, complaints or said)
    number = said.strip().partition(";")[0]  # with --clusters: `id;cluster`
    if not (number.isascii() and number.isdecimal()):
        raise HostError(f"sbatch answered {printable(said.strip()[:80])} instead of a job's number")
    try:
        mark(settings, int(number), asked.admin_comment)
    except HostError:
        # Nobody would know this job for ours, so there must be none.
        with contextlib.suppress(HostError):
            tools.call(settings, "scancel", number)
        raise
    return int(number)


def mark(settings: SlurmSettings, number: int, marker: str) -> None:
    """Write the AdminComment. A job that is over already needs none."""
    try:
        tools.call(settings, "scontrol", "update", f"jobid={number}", f"admincomment={marker}")
    except HostError as error:
        if _ALREADY_OVER not in error.problem:
            raise


def _sbatch(argv: list[str], script: str, environment: dict[str, str], timeout: float) -> tuple[int, str, str]:
    """In the child that is the student."""
    try:
        done = subprocess.run(
            argv,
            input=script,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            cwd="/",
            umask=0o077,  # the job has it too
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        return 127, "", "sbatch is not installed"
    except subprocess.TimeoutExpired:
        return 124, "", f"sbatch was still not done after {timeout:.0f} s"
    return done.returncode, done.stdout[:1000], done.stderr[-4000:]


def _refused(account: Account, words: str) -> HostError:
    last = last_words(words).removeprefix("sbatch: ").removeprefix("error: ")
    found = tools.explained("sbatch", last)
    if found.hint:
        return found
    plain = last.removeprefix("Batch job submission failed: ")
    first = words.strip().splitlines()[0].removeprefix("sbatch: ").removeprefix("error: ") if words.strip() else ""
    detail = f" ({printable(first[:200])})" if first and first != last else ""
    hint = "Look at the keys of slurm: in notebooks.cfg, or ask the cluster's administrator."
    if "Invalid account" in plain:
        hint = (
            f"The site gives jobs only to users in its accounting: `sacctmgr add user {account.username} account=...`."
        )
    return HostError(f"Slurm refused the job of {account.username}: {printable(plain)}{detail}", hint)


def _script(settings: SlurmSettings, account: Account, command: Sequence[str], variables: Mapping[str, str]) -> str:
    set_here = {
        "HOME": str(account.home),
        "USER": account.username,
        "LOGNAME": account.username,
        "SHELL": account.shell or "/bin/bash",
        "LANG": "C.UTF-8",
        **variables,
    }
    if settings.config:
        set_here["SLURM_CONF"] = settings.config
    path = f"{settings.programs}:/usr/local/bin:/usr/bin:/bin" if settings.programs else "/usr/local/bin:/usr/bin:/bin"
    # /etc/profile defines `module`, and may set what our variables then replace.
    prologue = ["[ -r /etc/profile ] && . /etc/profile", *settings.prologue] if settings.prologue else []
    exports = [f"export {name}={shlex.quote(value)}" for name, value in set_here.items()]
    return "\n".join(
        [
            "#!/bin/bash",
            f"export PATH={shlex.quote(path)}",
            *exports,
            *prologue,
            *(exports if prologue else []),
            "umask 077",
            "unset SLURM_EXPORT_ENV SLURM_TIME_FORMAT",  # an srun would inherit nothing, squeue show Unix seconds
            'cd "$HOME" || exit 72',
            f"exec {shlex.join(command)}",
            "",
        ]
    )
