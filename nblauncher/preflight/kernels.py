"""The Python that runs the kernels (notebook.kernel_python), and the modules that they are forked with."""

from __future__ import annotations

import functools
import json
import logging
import pwd
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nblauncher.config.requirements import Requirements
from nblauncher.config.settings import Settings
from nblauncher.environments import course_packages
from nblauncher.errors import HostError
from nblauncher.forkserver import foreign, rehearsal
from nblauncher.isolation import enclosure, namespaces
from nblauncher.isolation.spawn import NOWHERE
from nblauncher.model import Account
from nblauncher.paths import CoursePaths
from nblauncher.preflight.finding import PATH, Finding, ok, problem, warning
from nblauncher.printable import printable
from nblauncher.server import kernel_sockets, kernel_transport, shared_data
from nblauncher.supervisor.spawners import Preload
from nblauncher.system import privileges, trusted, workers

log = logging.getLogger(__name__)

_PROBE = """
import importlib.util, json, sys
import ipykernel.kernelapp

spec = importlib.util.spec_from_file_location("kernel_sockets", sys.argv.pop(1))
kernel_sockets = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kernel_sockets)

def is_there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False

print(json.dumps({
    "version": list(sys.version_info[:3]), "ipykernel": ipykernel.__version__, "path": sys.path,
    "prefix": sys.prefix, "missing": [name for name in sys.argv[1:] if not is_there(name)],
    "no_debugger": kernel_sockets.objection(),
}))
"""
_FOREIGN = Path(foreign.__file__)
_HOSTS_DATA = (Path("/usr/local/share/jupyter"), Path("/usr/share/jupyter"))
_PATIENCE = 60.0
_ROUNDS = 4
_NOBODY = "nobody"
_OLDEST = (3, 10)
"""The oldest Python that the fork server supports."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What an interpreter reports when the account `nobody` runs it, or `why` it reports nothing."""

    version: tuple[int, ...] = ()
    ipykernel: str = ""
    path: tuple[str, ...] = ()
    prefix: str = ""
    missing: tuple[str, ...] = ()
    """Those of the requested modules that it does not have."""
    no_debugger: str = ""
    """Why its kernels have no debugger."""
    why: str = ""


def python_of(settings: Settings) -> str:
    """The interpreter that runs the kernels. HostError when the course's packages were never built."""
    notebook = settings.notebook
    if notebook.requirements is None:
        return str(notebook.kernel_python or sys.executable)
    environment = course_packages.current(CoursePaths(settings.course).environments)
    if environment is None:
        raise HostError("the course's packages are not installed", "Run `nblauncher setup`, which builds them.")
    return str(course_packages.python_in(environment))


def prefix_of(settings: Settings) -> Path:
    """The prefix of the kernels' Python, with its packages' files. HostError as `python_of`."""
    python = Path(python_of(settings))
    if settings.notebook.kernel_python is None or settings.notebook.requirements is not None:
        return python.parents[1] if settings.notebook.requirements is not None else Path(sys.prefix)
    return Path(_tried(str(python), ()).prefix or python.parents[1])


def for_the_browser(settings: Settings) -> Iterator[Finding]:
    """What the course's packages bring for Notebook and Lab, and which parts are left out."""
    try:
        offered = shared_data.offered(prefix_of(settings), python_of(settings))
    except HostError:
        return  # `packages` reports it
    kinds = [name.partition("/") for name in offered.extras.links]
    extensions = sorted(name for kind, _slash, name in kinds if kind == "labextensions")
    if extensions:
        yield ok("packages", f"for the browser they bring {printable(', '.join(extensions))}")
    for name, why in offered.left_out:
        yield warning(
            "packages", f"{printable(name)} is not offered to students: it {why}", "Students work without it."
        )


def over_tcp(settings: Settings) -> Iterator[Finding]:
    """Other kernels than the class's that would listen where other accounts can connect."""
    try:
        specs = dict(shared_data.offered(prefix_of(settings), python_of(settings)).extras.specs)
    except HostError:
        specs = {}
    for place in (Path(sys.prefix, "share/jupyter"), *_HOSTS_DATA):
        specs |= {name: spec for name, spec in shared_data.kernelspecs(place).items() if name not in specs}
    found = [name for name, spec in specs.items() if kernel_transport.of(spec["argv"], spec["metadata"]) != "ipc"]
    if found:
        yield warning(
            "kernels",
            f"{printable(', '.join(sorted(found)))}: as far as we know, such a kernel uses only TCP; every account of "
            "this host can read what it prints while it runs",
            'Tell your students, or remove it. A kernel that can use unix sockets needs `"transport": "ipc"` in the '
            "metadata of its kernel.json.",
        )


def preload(settings: Settings) -> Preload | None:
    """What kernels are forked from; None where each is started as a program, for a reason that the log has."""
    notebook = settings.notebook
    if notebook.spawner != "forkserver":
        return None
    python = python_of(settings)
    found = objections(python)
    if found:
        log.warning("kernels are not forked: %s", found[0])
        return None
    return Preload(python, notebook.preload)


def has_debugger(python: str) -> bool:
    """Whether its kernels have a debugger that only the student reaches; nblauncher's own do, or report why not."""
    return python == sys.executable or not _tried(python, ()).no_debugger


def objections(python: str) -> list[str]:
    """Why root must not or cannot fork kernels from this interpreter; empty when it can."""
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
    """Whether students can run it, and whether it has ipykernel. The account `nobody` runs it, never root."""
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
    if tried.no_debugger:
        yield warning(
            "kernels",
            f"notebooks have no debugger: {printable(tried.no_debugger)}",
            "Install the newest ipykernel and debugpy there. A debugger that others could reach is switched off.",
        )
    if found := list(trusted.objections_to(python)):
        yield warning(
            "kernels",
            f"students run {shown}, and other accounts than root can change it: {printable(found[0])}",
            "Make root its owner, unless that account may act as every student.",
        )


def packages(settings: Settings, wanted: Requirements | None) -> Iterator[Finding]:
    """Whether the environment that the course needs is installed."""
    if wanted is None:
        return
    folder, subject = CoursePaths(settings.course).environments, "packages"
    found, many = course_packages.current(folder), f"the course's packages ({len(wanted.lines)} asked for)"
    if course_packages.is_built(folder, wanted):
        yield ok(subject, f"{many} are installed in {found}")
    elif privileges.is_root() and (why := enclosure.objection()):
        yield problem(subject, f"{many} cannot be built here: {why}", namespaces.APART)
    elif found is None:
        yield warning(subject, f"{many} are not installed yet", "`nblauncher setup` builds them.")
    else:
        hint = "`nblauncher setup` builds them again."
        yield warning(subject, f"{many} differ from those in {found}", hint)


def preloading(settings: Settings, default: Sequence[str]) -> Iterator[Finding]:
    """How kernels are started, and with which modules. `default` are modules that may be missing."""
    notebook, subject = settings.notebook, "kernel fork server"
    try:
        python = python_of(settings)
    except HostError:
        return  # `packages` reports it
    if found := objections(python):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        yield warning(
            subject,
            f"{printable(found[0])}{more}: every kernel is started as a program of its own",
            "Make root its owner and let no other account write there, or set notebook.spawner: process.",
        )
        return
    tried = _tried(python, notebook.preload)
    there = tuple(name for name in notebook.preload if name not in tried.missing)
    left_out = _left_out(python, there)
    there = tuple(name for name in there if name not in left_out)
    what = f" with {', '.join(there)}" if there else ""
    yield ok(subject, f"kernels are forked from a preloaded process{what}")
    for name, why in left_out.items():
        yield warning(
            subject,
            f"notebook.preload: kernels are forked without {name} in memory: it {printable(why)}",
            "It still works, and takes its time to import. Remove it from notebook.preload to end this warning.",
        )
    if missing := [name for name in tried.missing if name not in default]:
        yield warning(
            subject,
            f"notebook.preload: {printable(python)} has no {', '.join(missing)}",
            "Install it there, or remove it from notebook.preload.",
        )


@functools.cache
def _tried(python: str, modules: tuple[str, ...]) -> Tried:
    return _understood(_as_nobody(_try, python, modules))


def _as_nobody(function: Callable[..., list[str]], *arguments: object) -> list[str]:
    """The function's answer, or an empty one and the reason. Without root it runs as the caller."""
    if not privileges.is_root():
        return function(*arguments)
    try:
        entry = pwd.getpwnam(_NOBODY)
    except KeyError:
        return ["", f"there is no account {_NOBODY} to try it with"]
    account = Account(_NOBODY, entry.pw_uid, entry.pw_gid, NOWHERE)
    try:
        output, why = workers.run_as(account, function, *arguments, timeout=_PATIENCE + 10)
    except HostError as error:
        return ["", error.problem]
    return [str(output), str(why)]


def _try(python: str, modules: Sequence[str]) -> list[str]:
    """Runs as that account. The probe's output, or none and the reason."""
    return _output_of([python, "-I", "-c", _PROBE, kernel_sockets.__file__, *modules])


def _output_of(command: Sequence[str]) -> list[str]:
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd="/",
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


@functools.cache
def _left_out(python: str, modules: tuple[str, ...]) -> dict[str, str]:
    """Modules that a fork server would not load, with the reasons, found as the fork server finds them."""
    culprits: dict[str, str] = {}
    because: dict[str, str] = {}
    for _round in range(_ROUNDS):
        output, why = _as_nobody(_rehearse, python, sorted(culprits), modules)
        try:
            seen = rehearsal.Seen.parse(json.loads(output))
        except (ValueError, RecursionError):
            return dict.fromkeys(modules, f"could not be tried: {why}")
        because |= seen.because
        culprits |= seen.culprits
        if not seen.culprits:
            break
    return rehearsal.left_out(modules, culprits, because)


def _rehearse(python: str, avoid: Sequence[str], modules: Sequence[str]) -> list[str]:
    """Runs as that account."""
    module = "nblauncher.forkserver.rehearsal"
    return _output_of([python, str(_FOREIGN), module, ",".join(avoid), *modules])


def _understood(answer: Any) -> Tried:
    """Parse the output of a program that the teacher chose: it may be anything."""
    output, why = answer
    if why:
        return Tried(why=str(why))
    try:
        facts = json.loads(output)
        return Tried(
            tuple(int(number) for number in facts["version"]),
            str(facts["ipykernel"]),
            tuple(map(str, facts["path"])),
            str(facts["prefix"]),
            tuple(map(str, facts["missing"])),
            str(facts["no_debugger"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return Tried(why="it does not answer as a Python does")


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
