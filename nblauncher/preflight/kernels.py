"""The Python that runs the kernels (notebook.kernel_python)."""

from __future__ import annotations

import functools
import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

from nblauncher import privileges, workers
from nblauncher.children import NOWHERE
from nblauncher.errors import HostError
from nblauncher.forkserver import trusted
from nblauncher.model import Account
from nblauncher.preflight.finding import PATH, Finding, ok, problem, warning
from nblauncher.printable import printable

_PROBE = "import sys, ipykernel.kernelapp; print('%d.%d.%d' % sys.version_info[:3], ipykernel.__version__)"
_PATIENCE = 60.0
_NOBODY = "nobody"


def kernel_python(python: Path) -> Iterator[Finding]:
    """Whether students can run it, and whether it has ipykernel. It is run as nobody, never as root."""
    shown = printable(str(python))
    versions, why = _tried(python)
    if why:
        yield problem(
            "kernels",
            f"kernels cannot run with {shown}: {printable(why)}",
            f"Install ipykernel there (`{shown} -m pip install ipykernel`), or correct notebook.kernel_python.",
        )
        return
    version, ipykernel = versions.split()[:2]
    yield ok("kernels", f"{shown}: Python {printable(version)}, ipykernel {printable(ipykernel)}")
    if objections := list(trusted.objections_to(python)):
        yield warning(
            "kernels",
            f"students run {shown}, and not only root can change it: {printable(objections[0])}",
            "Make it root's, unless whoever that is may act as every student.",
        )


@functools.cache
def _tried(python: Path) -> tuple[str, str]:
    """What it says of its versions, or why it does not."""
    if not privileges.is_root():
        return _try(str(python))
    try:
        entry = pwd.getpwnam(_NOBODY)
    except KeyError:
        return "", f"there is no account {_NOBODY} to try it with"
    nobody = Account(_NOBODY, entry.pw_uid, entry.pw_gid, NOWHERE)
    try:
        versions, why = workers.run_as(nobody, _try, str(python), timeout=_PATIENCE + 10)
    except HostError as error:
        return "", error.problem
    return str(versions), str(why)


def _try(python: str) -> tuple[str, str]:
    """Runs as nobody."""
    os.chdir("/")
    try:
        done = subprocess.run(
            [python, "-I", "-c", _PROBE],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            env={"PATH": PATH, "HOME": str(NOWHERE)},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    if done.returncode != 0 or len(done.stdout.split()) < 2:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return "", lines[-1][:300]
    return done.stdout[:100], ""
