"""A course's own Python packages (notebook.requirements): a virtual environment of root's, made from wheels alone.

What pip resolves, downloads and builds is code of strangers (a source distribution runs its setup.py), so all of that
is done by an account that is nothing and owns nothing. When none of its processes is left root copies the wheels,
records their hashes, and installs them: unpacking a wheel runs nothing of it. The environment that is used until then
stays, with its name, as kernels run with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from nblauncher import root_files, workers
from nblauncher.course import RUN_ROOT
from nblauncher.errors import BusyError, HostError, RefusedError
from nblauncher.forkserver import trusted
from nblauncher.model import Account
from nblauncher.printable import printable
from nblauncher.processes import run
from nblauncher.requirements import Requirements

log = logging.getLogger(__name__)

ALWAYS = ("ipykernel", "pip", "nbformat")
"""What every environment has beside what is asked for: kernels, `%pip`, and what plotly shows figures with."""

HASHES = "wheels.json"
"""{file name: sha256} of what was installed; written last, so that without it an environment is half made."""

_CURRENT = "current"
_BUILD = ".build"
_FORMAT = 1
_BUILDING = 3600.0
_INSTALLING = 1800.0
_TRYING = 300.0
_WHEEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,250}\.whl")
_MOST_BYTES = 4 << 30
"""In one wheel."""

_PART = 1 << 20
_MOST_SAID = 100_000
_MOST_LINES = 60
_LONGEST = 600
_PASSED_ON = re.compile(
    r"(?i)(https?|no|all)_proxy|PIP_(INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|NO_INDEX|CERT|TRUSTED_HOST|DEFAULT_TIMEOUT)"
    r"|SSL_CERT_FILE|REQUESTS_CA_BUNDLE"
)
"""Variables of root's that say where packages come from."""

_PATH = "/usr/bin:/bin"
_PIP = (sys.executable, "-I", "-m", "pip", "--disable-pip-version-check")
"""nblauncher's own, of the same Python."""


def digest_of(requirements: Requirements) -> str:
    """Names an environment: of the same lines and the same Python it is the same one."""
    about = [
        _FORMAT,
        requirements.lines,
        ALWAYS,
        sys.version_info[:3],
        getattr(sys, "_base_executable", sys.executable),
    ]
    return hashlib.sha256(json.dumps(about).encode("ascii")).hexdigest()[:16]


def current(folder: Path) -> Path | None:
    """The environment that is used now, without the link; None when none was ever finished."""
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


def build(
    folder: Path,
    requirements: Requirements,
    modules: Sequence[str],
    builder: Callable[[], Account],
    tell: Callable[[str], None],
) -> None:
    """Make the environment and use it from now on. Runs as root; takes minutes.

    `builder` ends every process of the unprivileged account and says which one it is. `modules` are imported, as that
    account, as far as they are there: the new environment must work before it is used. HostError when it does not, or
    cannot be made; the one before stays in use then.
    """
    with contextlib.ExitStack() as stack:
        _make(folder)
        stack.enter_context(_one_at_a_time())
        before, new = current(folder), folder / digest_of(requirements)
        if (new / HASHES).is_file():  # somebody goes back to what was there before
            _use(folder, new)
            return
        builder()  # what a killed run left running would go on writing there
        stack.callback(_remove, folder / _BUILD)
        stack.callback(_remove_unfinished, new)
        for left in (folder / _BUILD, new):
            _remove(left)
        run([sys.executable, "-I", "-m", "venv", "--without-pip", str(new)], timeout=_TRYING)
        tell("building the course's packages")
        home = _home_of(builder(), folder)
        _as_builder(builder, _make_wheels, str(home), requirements.lines, dict(os.environ))
        hashes = _take(home, new / "wheels", builder())
        tell(f"installing {len(hashes)} packages")
        _install(new, sorted(hashes))
        _as_builder(builder, _try, str(python_in(new)), str(home), list(modules))
        # After a power cut an environment with hashes must be whole.
        run(["sync", "-f", str(new)], timeout=_TRYING)
        root_files.replace(new / HASHES, json.dumps(hashes, indent=1, sort_keys=True))
        (new / HASHES).chmod(0o644)
        _use(folder, new)
        _keep_only(folder, (new, before))


def _make(folder: Path) -> None:
    """Where it lies, everybody reads and nobody but root writes."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    for one in (folder, folder.parent):
        one.chmod(0o755)
    if objections := list(trusted.objections_to(folder)):
        raise RefusedError(f"the course's packages cannot lie in {folder}: {objections[0]}", "Give it back to root.")


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """The builder's account is one for all courses of the host."""
    RUN_ROOT.mkdir(mode=0o711, exist_ok=True)
    lock = os.open(RUN_ROOT / "build.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BusyError("another course's packages are being built", "Run the command again in some minutes.") from None
    finally:
        os.close(lock)


def _home_of(builder: Account, folder: Path) -> Path:
    """A folder for the builder alone, in one of root's."""
    (folder / _BUILD).mkdir(mode=0o711)
    (folder / _BUILD).chmod(0o711)
    home = folder / _BUILD / "home"
    home.mkdir(mode=0o700)
    os.chown(home, builder.uid, builder.gid)
    return home


def _as_builder(builder: Callable[[], Account], function: Callable[..., str], *arguments: object) -> None:
    """Run it as that account; nothing of it runs afterwards. HostError with what it says."""
    account = builder()
    try:
        why = workers.run_as(account, function, *arguments, timeout=_BUILDING + 60)
    finally:
        builder()
    if why:
        lines = [printable(line) for line in str(why).splitlines()]
        log.error("as %s: %s", account.username, "\n".join(lines))
        said = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
        raise HostError(f"the course's packages cannot be built: {' '.join(said)[:_LONGEST]}", _HINT)


_HINT = (
    "The log has all of it. Correct notebook.requirements and run `nblauncher setup` again; kernels still have what "
    "they had before."
)


def _make_wheels(home: str, lines: Sequence[str], environment: Mapping[str, str]) -> str:
    """Runs as the builder."""
    os.chdir(home)
    wanted = Path("requirements.txt")
    wanted.write_text("\n".join([*lines, *ALWAYS]) + "\n", encoding="utf-8")
    for name in ("scratch", "wheels"):
        os.mkdir(name)
    command = [*_PIP, "--no-input", "wheel", "--no-cache-dir"]
    command += ["--progress-bar", "off", "--use-pep517", "--wheel-dir", "wheels", "-r", str(wanted)]
    passed_on = {name: value for name, value in environment.items() if _PASSED_ON.fullmatch(name)}
    return _said(command, home, passed_on, _BUILDING)


def _try(python: str, home: str, modules: Sequence[str]) -> str:
    """Runs as the builder."""
    os.chdir(home)
    return _said([python, "-I", "-c", _PROBE, "ipykernel.kernelapp", *modules], home, {}, _TRYING)


_PROBE = """
import importlib, importlib.util, sys
for name in sys.argv[1:]:
    if importlib.util.find_spec(name.partition(".")[0]) is not None:
        importlib.import_module(name)
"""


def _said(command: Sequence[str], home: str, environment: Mapping[str, str], timeout: float) -> str:
    """Nothing, or what went wrong."""
    environment = {"PATH": _PATH, "HOME": home, "TMPDIR": f"{home}/scratch", "LANG": "C.UTF-8", **environment}
    with open("said", "w+b") as said:  # not a pipe, which who is left behind would keep open
        try:
            done = subprocess.run(
                command,
                check=False,
                cwd=home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                timeout=timeout,
            )
        except OSError as error:
            return f"{command[0]}: {error.strerror}"
        except subprocess.TimeoutExpired:
            return f"it was not done after {timeout / 60:.0f} minutes"
        said.seek(max(0, said.tell() - _MOST_SAID))
        lines = said.read().decode(errors="replace").strip().splitlines()
    if done.returncode == 0:
        return ""
    return "\n".join(lines[-_MOST_LINES:] or [f"exit status {done.returncode}"])


def _take(home: Path, target: Path, builder: Account) -> dict[str, str]:
    """Copy the wheels; their hashes. Nobody changes them any more, but somebody may have put other things there."""
    target.mkdir(mode=0o755)
    try:
        with _opened("wheels", home) as folder:
            return {name: _copied(name, folder, target, builder) for name in sorted(os.listdir(folder))}
    except OSError as error:
        raise HostError(f"the built packages cannot be taken over: {error.strerror}", _HINT) from error


@contextlib.contextmanager
def _opened(name: str, above: Path) -> Iterator[int]:
    """A folder of the builder's, in one that root made; no link is followed."""
    how = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    outer = os.open(above, how)
    try:
        folder = os.open(name, how, dir_fd=outer)
    finally:
        os.close(outer)
    try:
        yield folder
    finally:
        os.close(folder)


def _copied(name: str, folder: int, target: Path, builder: Account) -> str:
    """The sha256 of what was copied. HostError for anything but a wheel of the builder's own."""
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(source, "rb") as stream:
        facts = os.fstat(source)
        is_file = stat.S_ISREG(facts.st_mode) and facts.st_uid == builder.uid and facts.st_nlink == 1
        if not _WHEEL.fullmatch(name) or not is_file or facts.st_size > _MOST_BYTES:
            raise HostError(f"the course's packages cannot be built: {printable(name)} is no wheel", _HINT)
        digest = hashlib.sha256()
        with open(target / name, "xb") as copy:
            while part := stream.read(_PART):
                digest.update(part)
                copy.write(part)
    return digest.hexdigest()


def _install(new: Path, names: Sequence[str]) -> None:
    """As root: wheels that lie there, nothing else; nothing of them runs. By uv where root has one.

    The new Python is started by both before there is anything in it, and never afterwards.
    """
    wheels = [str(new / "wheels" / name) for name in names]
    uv = _uv()
    if uv is not None:
        command = [str(uv), "pip", "install", "--python", str(python_in(new)), "--no-config"]
        command += ["--no-index", "--no-deps", "--offline", "--no-cache", "--link-mode", "copy"]
    else:
        command = [*_PIP, "--isolated", "--python", str(python_in(new)), "install", "--quiet", "--no-index"]
        command += ["--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--no-compile"]
        command += ["--no-warn-script-location"]
    run([*command, *wheels], timeout=_INSTALLING)
    _remove(new / "wheels")
    # By our own Python: the new one would read .pth files as root. On all cores, which pip does not; what cannot be
    # compiled is for another Python. Students could not write it.
    compile_all = [sys.executable, "-I", "-m", "compileall", "-q", "-q", "-j", "0", str(new / "lib")]
    with contextlib.suppress(HostError):
        run(compile_all, timeout=_INSTALLING)
    run(["chmod", "-R", "a+rX,go-w", "--", str(new)])


def _uv() -> Path | None:
    """The host's, if root alone can change it."""
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
    """Kernels may still run with the one before; those before that go."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink() and entry not in kept and entry.name != _BUILD:
            _remove(entry)


def _remove_unfinished(new: Path) -> None:
    if not (new / HASHES).is_file():
        _remove(new)


def _remove(folder: Path) -> None:
    if os.path.lexists(folder):
        run(["rm", "-rf", "--one-file-system", "--", str(folder)], timeout=_TRYING)
