"""A job of one student that looks around on a node as a server would: home, interpreter, and the way back to here."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import sys
import time
from dataclasses import dataclass

import nblauncher
from nblauncher.config.settings import Settings
from nblauncher.errors import HostError
from nblauncher.model import Account
from nblauncher.preflight.finding import Finding, ok, problem, warning
from nblauncher.printable import printable
from nblauncher.slurm import control, jobs, words
from nblauncher.slurm.jobs import Job, JobState
from nblauncher.slurm.submission import submission, submit
from nblauncher.system.workers import run_as

PATIENCE = 45.0
"""Seconds for the job to begin and to report."""

_PAUSE = 0.3
_ANSWER = 5.0
_NO_HOME, _NO_SCONTROL, _NO_INTERPRETER = 72, 71, (126, 127)
"""How the job's script ends."""

_PROBE = """
import hashlib, os, socket, subprocess, sys
try:
    from nblauncher import __version__ as version
except ImportError:
    version = "-"
names = "\\0".join(sorted(os.listdir(os.environ["HOME"])))
home = f"{os.stat(os.environ['HOME']).st_ino}:{hashlib.sha256(os.fsencode(names)).hexdigest()[:16]}"
family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
server = socket.create_server(("", 0), family=family, dualstack_ipv6=family == socket.AF_INET6)
server.settimeout(60)
said = f"nbl {sys.argv[1]} {server.getsockname()[1]} {version} {home}"
try:
    done = subprocess.run(["scontrol", "update", "jobid=" + os.environ["SLURM_JOB_ID"], "comment=" + said])
except FileNotFoundError:
    sys.exit(71)
if done.returncode:
    sys.exit(71)
server.accept()[0].sendall(sys.argv[1].encode())
"""


@dataclass(frozen=True, slots=True)
class _Report:
    """What the job wrote into its comment."""

    port: int
    version: str
    home: str


def findings(settings: Settings, account: Account, *, patience: float = PATIENCE) -> list[Finding]:
    """Submits a job as the student, and cancels it at the end. For root."""
    nonce = secrets.token_hex(8)
    python = settings.slurm.python or sys.executable
    asked = submission(
        settings.slurm,
        settings.limits,
        account,
        [python, "-I", "-c", _PROBE, nonce],
        course=f"{settings.course}-check",  # never taken for a server of the class
        run=f"check-{nonce}",
    )
    try:
        number = submit(settings.slurm, asked, account)
    except HostError as error:
        return [problem("trial job", error.problem, error.hint or "Ask the cluster's administrator.")]
    try:
        return _watched(settings, account, number, nonce, python, patience)
    except HostError as error:
        return [problem("trial job", error.problem, error.hint or "Run `nblauncher check` again.")]
    finally:
        _end(settings, number, account)


def _watched(
    settings: Settings, account: Account, number: int, nonce: str, python: str, patience: float
) -> list[Finding]:
    deadline = time.monotonic() + patience
    while True:
        job = jobs.poll(settings.slurm, [number])[number]
        report = _read(job, nonce)
        if report is not None:
            return _judged(settings, account, job, report, nonce, python)
        if not job.is_live and job.state is not JobState.UNKNOWN:
            return [_ended(job, account, python)]
        if job.state is JobState.HELD or job.reason in words.HOPELESS or time.monotonic() > deadline:
            return [_waiting(job, account)]
        time.sleep(_PAUSE)


def _read(job: Job, nonce: str) -> _Report | None:
    parts = job.comment.split(" ")
    if len(parts) != 5 or parts[:2] != ["nbl", nonce] or not parts[2].isdecimal():
        return None
    return _Report(int(parts[2]), parts[3], parts[4])


def _judged(settings: Settings, account: Account, job: Job, report: _Report, nonce: str, python: str) -> list[Finding]:
    node = printable(job.node)
    found = [ok("trial job", f"a job of {account.username} ran on {node}")]
    here = run_as(account, _home_here, str(account.home)).split(":")
    there = report.home.split(":")
    if not set(here) & set(there):
        found.append(
            problem(
                "homes",
                f"{account.home} on {node} is not the home of {account.username} on this host",
                "Homes must be on a file system that this host and the nodes share, at the same path.",
            )
        )
    else:
        found.append(ok("homes", f"{account.home} is the same on {node}"))
    found.append(_version(report.version, node, python))
    found.append(_reached(settings, job.node, report.port, nonce))
    return found


def _version(version: str, node: str, python: str) -> Finding:
    hint = "Install this release where the nodes see it, and name its Python in slurm.python."
    if version == "-":
        return problem("interpreter", f"{printable(python)} on {node} has no nblauncher", hint)
    if version != nblauncher.__version__:
        words = (
            f"{printable(python)} on {node} has nblauncher {printable(version)}, and this is {nblauncher.__version__}"
        )
        return problem("interpreter", words, hint)
    return ok("interpreter", f"{printable(python)} on {node} has nblauncher {version}")


def _reached(settings: Settings, node: str, port: int, nonce: str) -> Finding:
    try:
        address = control.node_address(settings.slurm, node)
        with socket.create_connection((address, port), _ANSWER) as connection:
            connection.settimeout(_ANSWER)
            is_ours = connection.recv(64) == nonce.encode()
    except (HostError, OSError) as error:
        words = error.problem if isinstance(error, HostError) else str(error.strerror or error)
        return problem(
            "network",
            f"this host does not reach a port of {printable(node)}: {words}",
            "Let this host open TCP connections to the nodes' ports above 1024: students' browsers come through it.",
        )
    if not is_ours:
        return problem("network", f"port {port} of {printable(node)} is answered by another program", "Try again.")
    return ok("network", f"this host reaches ports of {printable(node)} ({address})")


def _ended(job: Job, account: Account, python: str) -> Finding:
    status = os.waitstatus_to_exitcode(job.wait_status)
    node = printable(job.node) or "its node"
    if status == _NO_HOME:
        return problem(
            "homes",
            f"{account.home} cannot be entered on {node} as {account.username}",
            "Homes must be on a file system that this host and the nodes share, at the same path.",
        )
    if status in _NO_INTERPRETER:
        return problem(
            "interpreter",
            f"{printable(python)} cannot be run on {node}",
            "Install nblauncher where the nodes see it, and name its Python in slurm.python.",
        )
    if status == _NO_SCONTROL:
        return problem(
            "trial job",
            f"the job could not write its comment: scontrol does not work on {node}",
            "Install Slurm's client programs on the nodes (Debian: slurm-client).",
        )
    return problem(
        "trial job", f"a job of {account.username}: {words.plain(job)}", "Look into the log of slurmd there."
    )


def _waiting(job: Job, account: Account) -> Finding:
    said = f"a job of {account.username} did not begin in time: {words.plain(job)}"
    if job.state is JobState.HELD or job.reason in words.HOPELESS:
        return problem("trial job", said, "Correct the keys of slurm: in notebooks.cfg, or ask the administrator.")
    return warning("trial job", said, "Homes, interpreter and network were not tried. Try again when a node is free.")


def _end(settings: Settings, number: int, account: Account) -> None:
    try:
        control.cancel(settings.slurm, {number: account.uid})
    except HostError:
        return  # it ends by itself after a minute


def _home_here(home: str) -> str:
    """In a child that is the student: root may not look into a home on NFS."""
    names = "\0".join(sorted(os.listdir(home)))
    return f"{os.stat(home).st_ino}:{hashlib.sha256(os.fsencode(names)).hexdigest()[:16]}"
