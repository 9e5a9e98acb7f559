"""A course's own Python packages (notebook.requirements): root's virtual environment, made from wheels only.

What pip resolves, downloads and builds is strangers' code (a source distribution runs its setup.py), so an account that
owns nothing does all of that, isolated from the host (see wheels). Root copies the wheels, records their hashes and
installs them: unpacking a wheel runs none of its code. The previous environment keeps its name, because kernels still
run with it.

`build` takes minutes and blocks no other command; `use` takes a moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nblauncher.config.requirements import Requirements
from nblauncher.errors import BusyError, HostError, RefusedError
from nblauncher.model import Account
from nblauncher.paths import RUN_ROOT
from nblauncher.system import interruption, root_files, trusted
from nblauncher.system.processes import run

if TYPE_CHECKING:
    from nblauncher.environments.wheels import Workshop

log = logging.getLogger(__name__)

ALWAYS = ("ipykernel", "pip", "nbformat")
"""What every environment has besides the requirements: kernels, `%pip`, and what plotly needs to show figures."""

HASHES = "wheels.json"
"""{file name: sha256} of what was installed; written last: an environment without it is unfinished."""

_CURRENT = "current"
_BUILD = ".build"
_FORMAT = 1
_INSTALLING = 1800.0
_TRYING = 300.0
_ENDING = 30.0
_PATIENCE = 10.0
"""Seconds to wait for another build, as for other locks."""

_PIP = (sys.executable, "-I", "-m", "pip", "--disable-pip-version-check")
"""The pip of nblauncher's own Python."""


def digest_of(requirements: Requirements) -> str:
    """The name of an environment: the same for the same lines and the same Python."""
    about = [
        _FORMAT,
        requirements.lines,
        ALWAYS,
        sys.version_info[:3],
        getattr(sys, "_base_executable", sys.executable),
    ]
    return hashlib.sha256(json.dumps(about).encode("ascii")).hexdigest()[:16]


def current(folder: Path) -> Path | None:
    """The environment in use, with the link resolved; None when none was ever finished."""
    try:
        name = os.readlink(folder / _CURRENT)
    except OSError:
        return None
    return folder / name if "/" not in name and (folder / name / HASHES).is_file() else None


def python_in(environment: Path) -> Path:
    return environment / "bin" / "python"


def is_built(folder: Path, requirements: Requirements) -> bool:
    found = current(folder)
    return found is not None and found.name == digest_of(requirements)


def is_there(folder: Path, requirements: Requirements) -> bool:
    """Whether `use` has something to use."""
    return (folder / digest_of(requirements) / HASHES).is_file()


def build(
    folder: Path,
    requirements: Requirements,
    modules: Sequence[str],
    builder: Callable[[], Account],
    tell: Callable[[str], None],
) -> None:
    """Make the environment, unless it exists, and use it from now on. Runs as root; takes minutes.

    `builder` ends all processes and deletes all files of the unprivileged account, and returns it. As that account,
    those of `modules` that are installed are imported: the new environment must work before it is used. HostError when
    it does not, or cannot be made; the previous one then stays in use.
    """
    prepare(folder, requirements, modules, builder, tell)
    use(folder, requirements)


def prepare(
    folder: Path,
    requirements: Requirements,
    modules: Sequence[str],
    builder: Callable[[], Account],
    tell: Callable[[str], None],
) -> None:
    """As `build`, without using it yet. RefusedError when the course was removed meanwhile, with its folder."""
    if is_there(folder, requirements):  # the course returns to an earlier environment
        return
    with _one_at_a_time(), _held(folder) as is_still_there:
        if is_there(folder, requirements):  # the build that we waited for made it
            return
        try:
            _prepare(folder, folder / digest_of(requirements), requirements, modules, builder, tell)
        except (HostError, OSError) as error:
            if is_still_there():
                raise
            raise _is_over(folder) from error
        if not is_still_there():
            raise _is_over(folder)


def run_apart(folder: Path, builder: Callable[[], Account], argv: Sequence[str]) -> str:
    """Run a program as packages are built, without a network; why it failed. Only root can write to `folder`.

    For `check --security`. HostError when this host cannot enclose it.
    """
    from nblauncher.environments.wheels import Workshop

    with _one_at_a_time():
        workshop = Workshop(folder, builder(), {})
        return workshop.run(workshop.stage("trial", {}), argv, has_network=False, timeout=_TRYING)


def use(folder: Path, requirements: Requirements) -> None:
    """Start kernels with what `prepare` made from now on. RefusedError when it is missing."""
    before, new = current(folder), folder / digest_of(requirements)
    if not is_there(folder, requirements):
        raise _is_over(folder)
    _use(folder, new)
    _keep_only(folder, (new, before))


def remove(folder: Path) -> None:
    """Delete a removed course's packages. A build that is running finds its folder gone, and ends. HostError."""
    gone = folder.with_name(f".{folder.name}.removed")
    if os.path.lexists(folder) and not os.path.lexists(gone):
        folder.rename(gone)
    deadline = time.monotonic() + _ENDING
    while True:
        try:
            _remove(gone)
            _remove(folder)
            break
        except HostError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    with contextlib.suppress(OSError):  # another course has packages too
        folder.parent.rmdir()


def _prepare(
    folder: Path,
    new: Path,
    requirements: Requirements,
    modules: Sequence[str],
    builder: Callable[[], Account],
    tell: Callable[[str], None],
) -> None:
    from nblauncher.environments import wheels

    with contextlib.ExitStack() as stack:
        account = builder()  # processes of a killed run would go on writing there
        stack.callback(builder)
        stack.callback(_remove, folder / _BUILD)
        stack.callback(_remove_unfinished, new)
        # One build at a time: another course's build folder was left by a killed run.
        for left in (new, *folder.parent.glob(f"*/{_BUILD}")):
            _remove(left)
        run([sys.executable, "-I", "-m", "venv", "--without-pip", str(new)], timeout=_TRYING)
        tell("building the packages")
        (folder / _BUILD).mkdir(mode=0o700)
        workshop = wheels.Workshop(folder / _BUILD, account, dict(os.environ))
        try:
            hashes = wheels.provide(new / "wheels", [*requirements.lines, *ALWAYS], workshop)
            tell(f"installing {len(hashes)} packages")
            _install(new, sorted(hashes))
            _try(new, modules, workshop)
        except wheels.BuildFailed as error:
            log.error("as %s: %s", account.username, error.output)
            raise
        # After a power cut, an environment that has hashes must be complete.
        run(["sync", "-f", str(new)], timeout=_TRYING)
        root_files.replace(new / HASHES, json.dumps(hashes, indent=1, sort_keys=True), mode=0o644)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[Callable[[], bool]]:
    """Make the folder, readable for all and writable for root only; yields a check that it is still the same."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    for place in (folder, folder.parent):
        place.chmod(0o755)
    if objections := list(trusted.objections_to(folder)):
        raise RefusedError(f"the course's packages cannot lie in {folder}: {objections[0]}", "Give it back to root.")
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def is_still_there() -> bool:
        try:
            return os.path.samestat(os.stat(folder), os.fstat(held))
        except FileNotFoundError:
            return False

    try:
        yield is_still_there
    finally:
        if not is_still_there():
            _remove(folder)  # what was made after the removal
            with contextlib.suppress(OSError):
                folder.parent.rmdir()
        os.close(held)


def _is_over(folder: Path) -> RefusedError:
    return RefusedError(
        f"the course was removed or changed while its packages were built, and {folder} is gone",
        "Nothing else was changed. Run the command again if the course is still wanted.",
    )


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """All courses of the host share one builder's account."""
    RUN_ROOT.mkdir(mode=0o711, exist_ok=True)
    lock = os.open(RUN_ROOT / "build.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _PATIENCE
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BusyError(
                        f"another nblauncher is still building packages on this host after {_PATIENCE:.0f} s",
                        "Nothing was changed. One course's packages are built at a time: run the command again later.",
                    ) from None
                interruption.sleep(0.1)
        yield
    finally:
        os.close(lock)


def _try(new: Path, modules: Sequence[str], workshop: Workshop) -> None:
    """As the builder, without a network."""
    from nblauncher.environments import wheels

    home = workshop.stage("try", {})
    command = [str(python_in(new)), "-I", "-c", _PROBE, "ipykernel.kernelapp", *modules]
    wheels.succeed(workshop.run(home, command, has_network=False, timeout=_TRYING))


_PROBE = """
import importlib, importlib.util, sys
for name in sys.argv[1:]:
    if importlib.util.find_spec(name.partition(".")[0]) is not None:
        importlib.import_module(name)
"""


def _install(new: Path, names: Sequence[str]) -> None:
    """As root: install these wheels and nothing else, running none of their code. With uv if root has one.

    Both start the new Python while it is still empty, and never afterwards.
    """
    files = [str(new / "wheels" / name) for name in names]
    uv = _uv()
    if uv is not None:
        command = [str(uv), "pip", "install", "--python", str(python_in(new)), "--no-config"]
        command += ["--no-index", "--no-deps", "--offline", "--no-cache", "--link-mode", "copy"]
    else:
        command = [*_PIP, "--isolated", "--python", str(python_in(new)), "install", "--quiet", "--no-index"]
        command += ["--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--no-compile"]
        command += ["--no-warn-script-location"]
    run([*command, *files], timeout=_INSTALLING)
    _remove(new / "wheels")
    # With our own Python: the new one would read .pth files as root. On all cores, which pip does not use; files that
    # cannot be compiled are for another Python. Students could not write the compiled files.
    compile_all = [sys.executable, "-I", "-m", "compileall", "-q", "-q", "-j", "0", str(new / "lib")]
    with contextlib.suppress(HostError):
        run(compile_all, timeout=_INSTALLING)
    run(["chmod", "-R", "a+rX,go-w", "--", str(new)])


def _uv() -> Path | None:
    """The host's uv, if only root can change it."""
    for folder in ("/usr/local/bin", "/usr/bin"):
        uv = Path(folder) / "uv"
        if uv.is_file() and not list(trusted.objections_to(uv)):
            return uv
    return None


def _use(folder: Path, new: Path) -> None:
    link = folder / f"{_CURRENT}.new"
    link.unlink(missing_ok=True)
    link.symlink_to(new.name)
    link.replace(folder / _CURRENT)


def _keep_only(folder: Path, kept: Sequence[Path | None]) -> None:
    """Keep the previous environment, because kernels may still run with it; delete older ones."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink() and entry not in kept and entry.name != _BUILD:
            _remove(entry)


def _remove_unfinished(new: Path) -> None:
    if not (new / HASHES).is_file():
        _remove(new)


def _remove(folder: Path) -> None:
    if os.path.lexists(folder):
        run(["rm", "-rf", "--one-file-system", "--", str(folder)], timeout=_TRYING)
