"""The Python that runs the kernels (notebook.kernel_python), and what it has in memory for them (notebook.preload)."""

from __future__ import annotations

import functools
import json
import logging
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nblauncher import enclosure, environments, namespaces, privileges, workers
from nblauncher.children import NOWHERE
from nblauncher.course import CoursePaths
from nblauncher.errors import HostError
from nblauncher.forkserver import trusted
from nblauncher.model import Account
from nblauncher.preflight.finding import PATH, Finding, ok, problem, warning
from nblauncher.printable import printable
from nblauncher.requirements import Requirements
from nblauncher.settings import Settings
from nblauncher.spawners import Preload

log = logging.getLogger(__name__)

_PROBE = """
import importlib.util, json, sys
import ipykernel.kernelapp

def is_there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False

print(json.dumps({
    "version": list(sys.version_info[:3]), "ipykernel": ipykernel.__version__, "path": sys.path,
    "missing": [name for name in sys.argv[1:] if not is_there(name)],
}))
"""
_PATIENCE = 60.0
_NOBODY = "nobody"
_OLDEST = (3, 10)
"""Python's version that the fork server is written for."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What an interpreter says of itself when nobody runs it; or `why` it says nothing."""

    version: tuple[int, ...] = ()
    ipykernel: str = ""
    path: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """Of the modules that it was asked for."""
    why: str = ""


def python_of(settings: Settings) -> str:
    """What runs the kernels. HostError when the course's packages were never built."""
    notebook = settings.notebook
    if notebook.requirements is None:
        return str(notebook.kernel_python or sys.executable)
    environment = environments.current(CoursePaths(settings.course).environments)
    if environment is None:
        raise HostError("the course's packages are not installed", "Run `nblauncher setup`, which builds them.")
    return str(environments.python_in(environment))


def preload(settings: Settings) -> Preload | None:
    """What kernels are forked from; None where each is to be a program of its own, which the log explains."""
    notebook = settings.notebook
    if notebook.spawner != "forkserver":
        return None
    python = python_of(settings)
    found = objections(python)
    if found:
        log.warning("kernels are not forked: %s", found[0])
        return None
    return Preload(python, notebook.preload)


def objections(python: str) -> list[str]:
    """Why root must not run this interpreter, or cannot use it, to fork kernels from; empty when all is well."""
    if python == sys.executable:
        return trusted.objections()
    found = list(trusted.objections_to(Path(python)))
    if found:
        return found
    tried = _tried(python, ())
    if tried.why:
        return [f"{python} cannot run: {tried.why}"]
    if tried.version < _OLDEST:
        return [f"{python} is a Python {_dotted(tried.version)}, older than {_dotted(_OLDEST)}"]
    return trusted.objections(Path(python), tried.path)


def kernel_python(python: Path) -> Iterator[Finding]:
    """Whether students can run it, and whether it has ipykernel. It is run as nobody, never as root."""
    shown = printable(str(python))
    tried = _tried(str(python), ())
    if tried.why:
        yield problem(
            "kernels",
            f"kernels cannot run with {shown}: {printable(tried.why)}",
            f"Install ipykernel there (`{shown} -m pip install ipykernel`), or correct notebook.kernel_python.",
        )
        return
    yield ok("kernels", f"{shown}: Python {_dotted(tried.version)}, ipykernel {printable(tried.ipykernel)}")
    if found := list(trusted.objections_to(python)):
        yield warning(
            "kernels",
            f"students run {shown}, and not only root can change it: {printable(found[0])}",
            "Make it root's, unless whoever that is may act as every student.",
        )


def packages(settings: Settings, wanted: Requirements | None) -> Iterator[Finding]:
    """Whether the environment that the course asks for is there."""
    if wanted is None:
        return
    folder, subject = CoursePaths(settings.course).environments, "packages"
    found, many = environments.current(folder), f"the course's packages ({len(wanted.lines)} asked for)"
    if environments.is_built(folder, wanted):
        yield ok(subject, f"{many} are installed in {found}")
    elif privileges.is_root() and (why := enclosure.objection()):
        yield problem(subject, f"{many} cannot be built here: {why}", namespaces.APART)
    elif found is None:
        yield warning(subject, f"{many} are not installed yet", "`nblauncher setup` builds them.")
    else:
        hint = "`nblauncher setup` builds them anew."
        yield warning(subject, f"{many} are other ones than those in {found}", hint)


def preloading(settings: Settings, default: Sequence[str]) -> Iterator[Finding]:
    """How kernels are started, and what they have in memory. `default` are modules that may be missing."""
    notebook, subject = settings.notebook, "kernel fork server"
    try:
        python = python_of(settings)
    except HostError:
        return  # `packages` says it
    if found := objections(python):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        yield warning(
            subject,
            f"{printable(found[0])}{more}: every kernel is started as a program of its own",
            "Give the kernels' Python to root and let nobody else write there, or set notebook.spawner: process.",
        )
        return
    tried = _tried(python, notebook.preload)
    there = [name for name in notebook.preload if name not in tried.missing]
    what = f" with {', '.join(there)}" if there else ""
    yield ok(subject, f"kernels are forked from a preloaded process{what}")
    if missing := [name for name in tried.missing if name not in default]:
        yield warning(
            subject,
            f"notebook.preload: {printable(python)} has no {', '.join(missing)}",
            "Install it there, or take it out of notebook.preload.",
        )


@functools.cache
def _tried(python: str, modules: tuple[str, ...]) -> Tried:
    if not privileges.is_root():
        return _understood(_try(python, modules))
    try:
        entry = pwd.getpwnam(_NOBODY)
    except KeyError:
        return Tried(why=f"there is no account {_NOBODY} to try it with")
    nobody = Account(_NOBODY, entry.pw_uid, entry.pw_gid, NOWHERE)
    try:
        return _understood(workers.run_as(nobody, _try, python, modules, timeout=_PATIENCE + 10))
    except HostError as error:
        return Tried(why=error.problem)


def _try(python: str, modules: Sequence[str]) -> list[str]:
    """Runs as nobody. What the probe said, or nothing and why."""
    os.chdir("/")
    try:
        done = subprocess.run(
            [python, "-I", "-c", _PROBE, *modules],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            env={"PATH": PATH, "HOME": str(NOWHERE)},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return ["", str(error)]
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return ["", lines[-1][:300]]
    return [done.stdout[:100_000], ""]


def _understood(answer: Any) -> Tried:
    """What a program of the teacher's choice said, run by nobody: anything."""
    said, why = answer
    if why:
        return Tried(why=str(why))
    try:
        facts = json.loads(said)
        return Tried(
            tuple(int(number) for number in facts["version"]),
            str(facts["ipykernel"]),
            tuple(map(str, facts["path"])),
            tuple(map(str, facts["missing"])),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return Tried(why="it does not answer as a Python does")


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
