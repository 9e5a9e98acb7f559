"""A kernel after the fork: it becomes the student, reads the request, and then looks in every way like an ordinary
kernel, or becomes one by exec where it could not.

Everything from `settle` on runs as the student, also the reading of the request.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import runpy
import signal
import site
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from nblauncher.forkserver import first_cell, life, renewal, variables
from nblauncher.forkserver.renewal import HomePaths
from nblauncher.forkserver.requests import Place
from nblauncher.isolation import limits, spawn
from nblauncher.isolation.spawn import Child
from nblauncher.server import kernel, kernel_sockets
from nblauncher.system import privileges, wire

LAUNCHER = "ipykernel_launcher"
"""The module that IPython's kernelspecs run."""

_REQUEST_DEADLINE = 5.0
_INTERPRETERS_OWN = ("PYTHON", "LD_", "GLIBC_TUNABLES", "MALLOC_", "LANG", "LC_", "XDG_", "MPLCONFIGDIR")
"""Prefixes of the variables that are read once, when an interpreter or a library starts."""


class Ordinary(Exception):
    """This kernel must be started by exec. The text says why."""


class BadRequest(Exception):
    """What was received is not a request for a kernel."""


@dataclass
class Preloaded:
    """What a fork server had when it started and has loaded since; made once, before any fork."""

    variables: Mapping[str, str]
    """Its environment when it started."""
    library: tuple[str, ...]
    """The part of sys.path with the standard library; the rest are folders of packages."""
    threadpoolctl: ModuleType
    command_line: tuple[int, int]
    """Where it is in memory."""
    packages: frozenset[str] = frozenset()
    """Names that a package of the student must not have."""
    added: Mapping[str, str] = field(default_factory=dict)
    """Variables that modules set when they were imported."""
    home_paths: HomePaths = field(default_factory=lambda: HomePaths("", (), (), (), ()))
    pools: Any = None

    @classmethod
    def here(cls, threadpoolctl: str) -> Preloaded:
        """Call it before anything else is loaded. `threadpoolctl` is the path of that module."""
        places = site.getsitepackages()
        first = next((number for number, entry in enumerate(sys.path) if entry in places), len(sys.path))
        environment = dict(os.environ)
        module = _module("_nblauncher_threadpoolctl", threadpoolctl)
        os.environ.clear()  # it sets KMP_DUPLICATE_LIB_OK
        os.environ.update(environment)
        return cls(environment, tuple(sys.path[:first]), module, privileges.command_line())

    def look_around(self) -> None:
        """Call it when everything is loaded."""
        names = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names - {"nblauncher"}
        self.added = {name: value for name, value in os.environ.items() if name not in self.variables}
        self.packages = frozenset(names | {"sitecustomize", "usercustomize"})
        self.home_paths = HomePaths.here(os.environ["HOME"])
        self.pools = self.threadpoolctl.ThreadpoolController()


@dataclass(frozen=True, slots=True)
class Request:
    """What Jupyter would run, in which environment and folder."""

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: str

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Request:
        command, environment, folder = given.get("command"), given.get("environment"), given.get("folder")
        if not isinstance(command, list) or not command or not all(map(_is_word, command)):
            raise BadRequest("not a command")
        if not isinstance(environment, dict) or not all(map(_is_word, environment.values())):
            raise BadRequest("not an environment")
        if not _is_word(folder):
            raise BadRequest("not a folder")
        return cls(command, environment, str(folder))


@dataclass(frozen=True, slots=True)
class Kernel:
    """A newly forked child."""

    place: Place
    preloaded: Preloaded

    def live(self, connection: socket.socket) -> NoReturn:
        """Run until the kernel ends."""
        life.live(lambda: self._live(connection))

    def _live(self, connection: socket.socket) -> int:
        self._become_the_student(connection)
        request, output = self._read(connection)
        self._answer(connection)
        _enter(request, output)
        return self._run(request)

    def _become_the_student(self, connection: socket.socket) -> None:
        account = self.place.account
        nothing = os.open(os.devnull, os.O_WRONLY)
        spawn.settle(Child(account, (), {}, (connection.fileno(),), account.home, self.place.sandbox), nothing)
        # Line-buffered, unlike the one that `settle` made; the request brings the descriptor behind it.
        sys.stderr = sys.__stderr__
        os.umask(self.place.umask)
        # As after an exec: the student's own tools may inspect it. It holds nothing of other accounts.
        privileges.set_dumpable(True)
        privileges.set_name("kernel")
        limits.go_first()  # not before: /proc/self was root's

    def _read(self, connection: socket.socket) -> tuple[Request, list[int]]:
        """The request, and two descriptors for the output. This process ends if none comes."""
        reader = wire.Reader()
        deadline = time.monotonic() + _REQUEST_DEADLINE
        try:
            while (message := reader.next()) is None:
                connection.settimeout(max(0.01, deadline - time.monotonic()))
                if not reader.feed(connection):
                    raise BadRequest("it hung up")
            fields, output = message
            reader.close()
            if len(output) != 2:
                raise BadRequest("a kernel needs two descriptors for its output")
            return Request.parse(fields), output
        except (BadRequest, wire.WireError, OSError) as error:
            os.write(connection.fileno(), wire.pack({"problem": str(error)}))
            os._exit(0)

    def _answer(self, connection: socket.socket) -> None:
        """Send the asking server a pidfd of this process, which ends if that server no longer waits."""
        pidfd = os.pidfd_open(os.getpid())
        try:
            connection.settimeout(_REQUEST_DEADLINE)
            wire.send(connection, {"pid": os.getpid()}, [pidfd])
        except OSError:
            os._exit(0)
        os.close(pidfd)
        connection.close()

    def _run(self, request: Request) -> int:
        try:
            arguments, prefix = self._arguments(request)
            self._adopt(prefix, request.environment)
        except Ordinary as reason:
            print(f"nblauncher: an ordinary kernel is started: {reason}", file=sys.stderr, flush=True)
            # As subprocess.Popen(restore_signals=True) does.
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            os.execvpe(request.command[0], list(request.command), dict(request.environment))  # noqa: S606
        renewal.use_pythons_signals()
        privileges.disable_huge_pages(False)
        self._count_threads(request.environment)
        self._listen(request.environment)
        kernel_sockets.install()
        first_cell.know_cells()
        python, module = sys.executable, importlib.util.find_spec(LAUNCHER)
        sys.orig_argv = [python, "-m", LAUNCHER, *arguments]
        sys.argv[:] = [str(module.origin) if module else LAUNCHER, *arguments]
        privileges.set_command_line(self.preloaded.command_line, sys.orig_argv)
        for name in [name for name in sys.modules if name.partition(".")[0] == "nblauncher"]:
            del sys.modules[name]
        runpy.run_module(LAUNCHER, run_name="__main__", alter_sys=True)
        return 0

    def _arguments(self, request: Request) -> tuple[list[str], str]:
        """The kernel's arguments, and its prefix below the home. Ordinary for any kernelspec but the class's own."""
        python, *rest = request.command
        if python != sys.executable or rest[:1] != ["-I"] or rest[3:5] != ["-m", LAUNCHER] or len(rest) < 3:
            raise Ordinary("its kernelspec is not the class's")
        changed = _interpreters_own(request.environment).items() ^ _interpreters_own(self.preloaded.variables).items()
        own = [name for name, value in QUIET.items() if request.environment.get(name, value) != value]
        if changed or own:
            names = sorted({name for name, _value in changed} | set(own))
            raise Ordinary(f"the environment has {', '.join(names)}, which an interpreter reads when it starts")
        return rest[5:], rest[2]

    def _adopt(self, prefix: str, environment: Mapping[str, str]) -> None:
        """Become like an interpreter that was started in the student's environment."""
        known = set(sys.path)
        renewal.renew({**self.preloaded.added, **environment})
        home = os.environ.get("HOME", "")
        try:
            python = kernel.prepare(Path(home) / prefix)
        except OSError as error:
            raise Ordinary(f"%pip has no place to install to: {error}") from error
        os.environ["PATH"] = kernel.search_path(Path(home) / prefix, os.environ.get("PATH", os.defpath))
        renewal.use_virtual_environment(python, self.preloaded.library)
        _look_for_own(self.preloaded.packages, [entry for entry in sys.path if entry not in known], home)
        self.preloaded.home_paths.renew(home)
        renewal.use_backend(environment)

    def _listen(self, environment: Mapping[str, str]) -> None:
        """Notice variables that a cell sets for libraries before it imports them: they are loaded already."""
        known = dict(environment)

        def take_over(name: str, value: str) -> None:
            known[name] = value
            if name == _BACKEND:
                renewal.use_backend(known)
            else:
                self._count_threads(known)

        variables.watch((*ONE_THREAD, _BACKEND), take_over)

    def _count_threads(self, environment: Mapping[str, str]) -> None:
        """The libraries were loaded with one thread each. Set the number that they would have found themselves."""
        cpus = len(os.sched_getaffinity(0))
        for library in self.preloaded.pools.lib_controllers:
            names = [name for name in _THREADS.get(library.internal_api, ()) if environment.get(name, "").isdigit()]
            library.set_num_threads(int(environment[names[0]]) if names else cpus)


_MATPLOTLIBS = (
    *(".config/matplotlib/matplotlibrc", ".config/matplotlib/stylelib", ".matplotlib"),
    *(".fonts", ".local/share/fonts"),
)
"""What matplotlib reads below a home when it is imported."""

_THREADS = {
    "openblas": ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"),
    "mkl": ("MKL_NUM_THREADS", "OMP_NUM_THREADS"),
    "blis": ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"),
    "openmp": ("OMP_NUM_THREADS",),
}
"""The variables with each library's number of threads, in order of precedence."""

ONE_THREAD = dict.fromkeys(sorted({name for names in _THREADS.values() for name in names}), "1")
"""For a fork server: a library must not start a thread before the fork."""

_BACKEND = "MPLBACKEND"

QUIET = {
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "_RJEM_MALLOC_CONF": "background_thread:false",
    "OPENBLAS_THREAD_TIMEOUT": "20",
}
"""For a fork server too: they keep the jemalloc of pyarrow, and of packages written in Rust, from starting threads; and
OpenBLAS' threads wait for work actively for 2^20 cycles of the processor instead of 2^26, which every kernel would
spend when it gets them (26 ms of each processor).
"""


def _look_for_own(packages: frozenset[str], folders: Sequence[str], home: str) -> None:
    """Ordinary when the student has a module that an interpreter would have preferred to the loaded one."""
    for folder in folders:
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        if own := sorted({name.partition(".")[0] for name in names} & packages):
            raise Ordinary(f"{', '.join(own)} in {folder} comes before the class's")
    if "matplotlib" in sys.modules:
        places = [
            os.environ.get("MATPLOTLIBRC", ""),
            "matplotlibrc",
            *(os.path.join(home, place) for place in _MATPLOTLIBS),
        ]
        if own := [place for place in places if place and os.path.exists(place)]:
            raise Ordinary(f"matplotlib finds {own[0]} when it is imported")


def _enter(request: Request, output: list[int]) -> None:
    for number, descriptor in zip((1, 2), output, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request.folder)


def _interpreters_own(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_INTERPRETERS_OWN)}


@functools.cache
def _module(name: str, file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a module")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _is_word(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value
