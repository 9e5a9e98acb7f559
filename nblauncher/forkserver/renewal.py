"""What a forked process must renew: all that Python and libraries computed for the process it was forked from.

CPython itself reseeds `random` and renews locks and thread numbers (os.register_at_fork); OpenSSL notices a fork too.
What stays shared is written in docs/security.md: the layout of memory and the hash seed.
"""

from __future__ import annotations

import importlib
import locale
import logging
import os
import signal
import site
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import CellType, FunctionType
from typing import Any


def renew(environment: Mapping[str, str]) -> None:
    """Call it in the child, as the student, before anything else."""
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    locale.setlocale(locale.LC_CTYPE, _known_locale())
    tempfile.tempdir = None
    site.USER_BASE = site.USER_SITE = None
    # The fork server's own log: a program's modules begin without a handler, as after an exec.
    logging.getLogger().handlers.clear()
    logging.getLogger().setLevel(logging.WARNING)
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process().authkey = os.urandom(32)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def use_pythons_signals() -> None:
    """As CPython sets them when it starts (Python/pylifecycle.c, Modules/signalmodule.c)."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)


def use_virtual_environment(python: Path, library: Iterable[str], *, runs_pth_lines: bool = True) -> None:
    """Become like `python` at its start: an interpreter of a virtual environment, as the module `site` makes it.

    `library` is the part of sys.path with the standard library. The .pth files of the environment are read, as at a
    start; without `runs_pth_lines` only their paths are used, and none of their lines is executed.
    """
    prefix = str(python.parents[1])
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    sys.executable, sys.prefix, sys.exec_prefix = str(python), prefix, prefix
    site.PREFIXES[:] = [prefix]
    site.ENABLE_USER_SITE = False
    site.getusersitepackages()
    sys.path[:] = library
    packages = f"{prefix}/lib/{version}/site-packages"
    (site.addsitedir if runs_pth_lines else _add_paths)(packages)
    importlib.invalidate_caches()
    if "sysconfig" in sys.modules:
        importlib.reload(sys.modules["sysconfig"])
    for module, name, value in (
        ("jupyter_core.paths", "ENV_JUPYTER_PATH", [f"{prefix}/share/jupyter"]),
        ("jupyter_core.paths", "ENV_CONFIG_PATH", [f"{prefix}/etc/jupyter"]),
        ("IPython.core.application", "_env_config_dir", f"{prefix}/etc/ipython"),
        ("IPython.core.application", "ENV_CONFIG_DIRS", [f"{prefix}/etc/ipython"]),
        ("pydevd_file_utils", "_library_dir", packages),
    ):
        _put(module, name, value)


def _add_paths(packages: str) -> None:
    """As site.addsitedir, but for the lines of .pth files that are code."""
    if not os.path.isdir(packages):
        return
    sys.path.append(packages)
    for name in sorted(name for name in os.listdir(packages) if name.endswith(".pth") and not name.startswith(".")):
        with open(os.path.join(packages, name), encoding="utf-8", errors="replace") as stream:
            lines = [line.strip() for line in stream]
        for line in lines:
            if line and not line.startswith(("#", "import ", "import\t")):
                path = os.path.abspath(os.path.join(packages, line))
                if "\0" not in path and os.path.exists(path) and path not in sys.path:
                    sys.path.append(path)


def _put(module: str, name: str, value: Any) -> None:
    """What the module computed from the prefix at its import. The list is changed in place: others may hold it."""
    names = getattr(sys.modules.get(module), "__dict__", {})
    if isinstance(names.get(name), list):
        names[name][:] = value
    elif name in names:
        names[name] = value


def use_backend(environment: Mapping[str, str]) -> None:
    """matplotlib reads MPLBACKEND at its import; after the first figure a change has no effect."""
    matplotlib, pyplot = sys.modules.get("matplotlib"), sys.modules.get("matplotlib.pyplot")
    has_begun = getattr(pyplot, "_backend_mod", None) is not None
    if matplotlib is not None and not has_begun and environment.get("MPLBACKEND"):
        matplotlib.rcParams["backend"] = matplotlib.rcParamsOrig["backend"] = environment["MPLBACKEND"]


@dataclass(frozen=True, slots=True)
class HomePaths:
    """Where modules keep paths below the home that they found at their import."""

    home: str
    values: tuple[tuple[MutableMapping[str, Any], str, str | PurePath], ...]
    attributes: tuple[tuple[type, str, str | PurePath], ...]
    lists: tuple[tuple[list[Any], tuple[Any, ...]], ...]
    cells: tuple[tuple[CellType, str | PurePath], ...]

    @classmethod
    def here(cls, home: str) -> HomePaths:
        """Look through all modules: their values, lists of them, attributes of their classes, and what their functions
        remember (matplotlib.get_cachedir).
        """
        values, attributes, lists, cells = [], [], [], []
        for module in list(sys.modules.values()):
            names = getattr(module, "__dict__", {})
            for name, value in list(names.items()):
                if _is_below(home, value):
                    values.append((names, name, value))
                elif type(value) is list and any(_is_below(home, entry) for entry in value):
                    lists.append((value, tuple(value)))
                elif isinstance(value, FunctionType):
                    cells += [
                        (cell, content)
                        for cell in value.__closure__ or ()
                        if _is_below(home, content := _content(cell))
                    ]
                elif isinstance(value, type) and value.__module__ == getattr(module, "__name__", None):
                    attributes += [(value, key, path) for key, path in vars(value).items() if _is_below(home, path)]
        return cls(home, tuple(values), tuple(attributes), tuple(lists), tuple(cells))

    def renew(self, home: str) -> None:
        """Put this home in place of the old one."""
        for names, name, value in self.values:
            names[name] = self._moved(value, home)
        for kind, name, value in self.attributes:
            setattr(kind, name, self._moved(value, home))
        for cell, value in self.cells:
            cell.cell_contents = self._moved(value, home)
        for target, entries in self.lists:
            target[:] = [self._moved(entry, home) if _is_below(self.home, entry) else entry for entry in entries]

    def _moved(self, value: str | PurePath, home: str) -> str | PurePath:
        text = str(value).replace(self.home, home)
        return text if isinstance(value, str) else type(value)(text)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def _is_below(home: str, value: object) -> bool:
    return isinstance(value, (str, PurePath)) and home in str(value)


def _known_locale() -> str:
    """Set the environment's locale; C if the host does not have it, as Python does when it starts."""
    try:
        locale.setlocale(locale.LC_CTYPE, "")
    except locale.Error:
        return "C"
    return locale.setlocale(locale.LC_CTYPE)
