"""A kernel's life from the fork on: it becomes the student, reads what is wanted, and is an ordinary kernel in all that
a student can see, or becomes one by exec where it could not be.

Everything from `settle` on runs as the student, and so does the reading of the request.
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

from nblauncher import children, kernel, kernel_sockets, limits, privileges, wire
from nblauncher.children import Child
from nblauncher.fork_requests import Place
from nblauncher.forkserver import life, renewal, variables
from nblauncher.forkserver.renewal import HomePaths

LAUNCHER = "ipykernel_launcher"
"""The module that a kernelspec of IPython's runs."""

_REQUEST_DEADLINE = 5.0
_INTERPRETERS_OWN = ("PYTHON", "LD_", "GLIBC_TUNABLES", "MALLOC_", "LANG", "LC_", "XDG_", "MPLCONFIGDIR")
"""Beginnings of the variables that are read once, when an interpreter or a library starts."""


class Ordinary(Exception):
    """This kernel must be started by exec; why, in words."""


class BadRequest(Exception):
    """What came is no request for a kernel."""


@dataclass
class Preloaded:
    """What a fork server had at its start and has loaded since; made once, before any fork."""

    variables: Mapping[str, str]
    """Its environment as it began."""
    library: tuple[str, ...]
    """The part of sys.path that is Python's own; what follows are folders of packages."""
    threadpoolctl: ModuleType
    command_line: tuple[int, int]
    """Where it is in memory."""
    packages: frozenset[str] = frozenset()
    """Names that a package of the student's own must not have."""
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
    """What Jupyter would run, with which environment, where."""

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: str

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Request:
        command, environment, folder = given.get("command"), given.get("environment"), given.get("folder")
        if not isinstance(command, list) or not command or not all(map(_is_word, command)):
            raise BadRequest("that is no command")
        if not isinstance(environment, dict) or not all(map(_is_word, environment.values())):
            raise BadRequest("that is no environment")
        if not _is_word(folder):
            raise BadRequest("that is no folder")
        return cls(command, environment, str(folder))


@dataclass(frozen=True, slots=True)
class Kernel:
    """A child that was just forked."""

    place: Place
    preloaded: Preloaded

    def live(self, connection: socket.socket) -> NoReturn:
        """Until the kernel ends."""
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
        children.settle(Child(account, (), {}, (connection.fileno(),), account.home, self.place.sandbox), nothing)
        # Written to line by line, unlike the one that `settle` made; where it leads, the request says.
        sys.stderr = sys.__stderr__
        # As after an exec: the student's own tools may look at it. Nothing in here is somebody else's.
        privileges.set_dumpable(True)
        privileges.set_name("kernel")
        limits.go_first()  # not before: /proc/self was root's

    def _read(self, connection: socket.socket) -> tuple[Request, list[int]]:
        """What is wanted, and where its output goes: two descriptors. A connection without a request ends with us."""
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
                raise BadRequest("that needs two descriptors for its output")
            return Request.parse(fields), output
        except (BadRequest, wire.WireError, OSError) as error:
            os.write(connection.fileno(), wire.pack({"problem": str(error)}))
            os._exit(0)

    def _answer(self, connection: socket.socket) -> None:
        """Whoever asked knows us by a pidfd from now on; when nobody waits any more, nobody needs us."""
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
        python, module = sys.executable, importlib.util.find_spec(LAUNCHER)
        sys.orig_argv = [python, "-m", LAUNCHER, *arguments]
        sys.argv[:] = [str(module.origin) if module else LAUNCHER, *arguments]
        privileges.set_command_line(self.preloaded.command_line, sys.orig_argv)
        for name in [name for name in sys.modules if name.partition(".")[0] == "nblauncher"]:
            del sys.modules[name]
        runpy.run_module(LAUNCHER, run_name="__main__", alter_sys=True)
        return 0

    def _arguments(self, request: Request) -> tuple[list[str], str]:
        """Those of the kernel, and its prefix below the home. Ordinary for anything but the class's own kernelspec."""
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
        """Become what an interpreter is that starts in the student's own environment."""
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
        """To what a cell sets for libraries that it has not imported yet, and that are there all the same."""
        known = dict(environment)

        def take_over(name: str, value: str) -> None:
            known[name] = value
            if name == _BACKEND:
                renewal.use_backend(known)
            else:
                self._count_threads(known)

        variables.watch((*ONE_THREAD, _BACKEND), take_over)

    def _count_threads(self, environment: Mapping[str, str]) -> None:
        """The libraries were loaded with one thread each; they get what they would have found by themselves."""
        cpus = len(os.sched_getaffinity(0))
        for library in self.preloaded.pools.lib_controllers:
            names = [name for name in _THREADS.get(library.internal_api, ()) if environment.get(name, "").isdigit()]
            library.set_num_threads(int(environment[names[0]]) if names else cpus)


_MATPLOTLIBS = (
    *(".config/matplotlib/matplotlibrc", ".config/matplotlib/stylelib", ".matplotlib"),
    *(".fonts", ".local/share/fonts"),
)
"""What matplotlib reads of a home when it is imported."""

_THREADS = {
    "openblas": ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"),
    "mkl": ("MKL_NUM_THREADS", "OMP_NUM_THREADS"),
    "blis": ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"),
    "openmp": ("OMP_NUM_THREADS",),
}
"""What each library reads for its number of threads, the first one first."""

ONE_THREAD = dict.fromkeys(sorted({name for names in _THREADS.values() for name in names}), "1")
"""A fork server's: a library must start no thread before the fork."""

_BACKEND = "MPLBACKEND"

QUIET = {"JE_ARROW_MALLOC_CONF": "background_thread:false", "_RJEM_MALLOC_CONF": "background_thread:false"}
"""A fork server's as well: they tell the jemalloc of pyarrow, and of packages written in Rust, to start no thread."""


def _look_for_own(packages: frozenset[str], folders: Sequence[str], home: str) -> None:
    """Ordinary when the student has something that an interpreter would have taken instead of what is loaded."""
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
            *(os.path.join(home, one) for one in _MATPLOTLIBS),
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
        raise ImportError(f"{file} is no module")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _is_word(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value
