"""What may be loaded before a fork: tried first in an unprivileged child, which checks each module as it is imported.

Two kinds of modules, and all modules that import them, are left to the kernels that need them:

- a module that starts a thread at its import: a forked process would not have that thread;
- a module that looks for the running kernel at its import (`get_ipython`): before the fork there is none, and the
  module would for ever behave as outside a notebook.

`PYTHON foreign.py nblauncher.forkserver.rehearsal AVOID MODULE...` tries these and prints the result as JSON.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

from nblauncher.errors import HostError
from nblauncher.forkserver import preload
from nblauncher.forkserver.kernel_child import ONE_THREAD, QUIET
from nblauncher.forkserver.preload import Found
from nblauncher.model import Account
from nblauncher.system import workers

log = logging.getLogger(__name__)

VARIABLES = {**ONE_THREAD, **QUIET, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
"""For a fork server while it loads. The backend is the one that ipykernel sets before matplotlib can be imported."""

IN_A_KERNEL_ONLY = ("matplotlib_inline",)
"""Packages that attach themselves to the running kernel when they are imported."""

_PLATFORM = ("ipykernel.kernelapp", "IPython.core.interactiveshell")
"""What every kernel has before a student imports anything."""

_HARMLESS = ("IPython", "ipykernel", "traitlets", "pandas", "matplotlib")
"""They ask for the kernel as well; a test compares the result with that in a kernel that was started."""

_STARTS_A_THREAD = "starts a thread when it is imported"
_LOOKS_FOR_THE_KERNEL = "looks for the running kernel when it is imported"

_DEADLINE = 90.0
_ROUNDS = 6


@dataclass(frozen=True, slots=True)
class Seen:
    """What one child saw."""

    loaded: tuple[str, ...]
    """The names that may be loaded, in the requested order."""
    culprits: Mapping[str, str]
    """More modules that must not be loaded, beyond those that the child was to avoid, and why."""
    because: Mapping[str, str]
    """name → the module to be avoided that it imports."""

    @classmethod
    def parse(cls, answer: Any) -> Seen:
        """Only module names are accepted: the answer comes from an unprivileged process."""
        given = answer if isinstance(answer, dict) else {}
        culprits, because = _table(given.get("culprits")), _table(given.get("because"))
        return cls(
            preload.names_in(given.get("loaded")),
            {name: _reason(culprits[name]) for name in preload.names_in(list(culprits))},
            {name: str(because[name]) for name in preload.names_in(list(because))},
        )


def rehearsed(names: Sequence[str], wanted: Sequence[str], account: Account) -> Found:
    """Which of `names` and then `wanted` may be loaded, as tried by children with this account.

    Each child starts with what this process has; the last one loaded exactly what is returned, and had one thread.
    """
    everything = (*names, *(name for name in wanted if name not in names))
    to_try: tuple[str, ...] = everything
    culprits: dict[str, str] = {}
    because: dict[str, str] = {}
    for _round in range(_ROUNDS):
        try:
            answer = workers.run_as(account, _try, to_try, sorted(culprits), timeout=_DEADLINE)
        except HostError as error:
            log.warning("nothing is preloaded: the trial failed: %s", error.problem)
            return Found((), dict.fromkeys(wanted, "could not be tried"))
        seen = Seen.parse(answer)
        because |= {name: why for name, why in seen.because.items() if name not in because}
        culprits |= seen.culprits
        if not seen.culprits and not seen.because:
            return Found(seen.loaded, left_out(wanted, culprits, because))
        to_try = everything if seen.culprits else seen.loaded
    return Found((), dict.fromkeys(wanted, "starts threads, and the module that does was not found"))


def left_out(wanted: Sequence[str], culprits: Mapping[str, str], because: Mapping[str, str]) -> dict[str, str]:
    """The reason for each of `wanted` that is not loaded, worded to follow its name."""
    found = {}
    for name in wanted:
        if name in culprits:
            found[name] = culprits[name]
        elif name in because and because[name] in culprits:
            found[name] = f"imports {because[name]}, which {culprits[because[name]]}"
    return found


@contextlib.contextmanager
def as_in_a_kernel() -> Iterator[None]:
    """What modules check when they are imported: pandas shows wide tables differently on a terminal."""
    stdout = sys.stdout
    vars(builtins)["get_ipython"] = lambda: SimpleNamespace(kernel=None, config={})
    with open(os.devnull, "w", encoding="UTF-8") as sys.stdout:  # spelled as ipykernel's own stream says it
        try:
            yield
        finally:
            sys.stdout = stdout
            del vars(builtins)["get_ipython"]


def main(arguments: list[str]) -> int:
    """Try these modules as the caller's account; the first argument has those to be avoided (`a,b.c`)."""
    avoid, *wanted = arguments
    os.environ.update(VARIABLES)
    print(json.dumps(_try((*_PLATFORM, *wanted), tuple(filter(None, avoid.split(","))))))
    return 0


def _try(names: Sequence[str], avoid: Collection[str]) -> dict[str, Any]:
    """Runs as the account, in a process that ends afterwards and takes all imports with it."""
    watch = _Watch(frozenset(avoid))
    loaded: list[str] = []
    because: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="nblauncher-rehearsal-", ignore_cleanup_errors=True) as home:
        os.environ.update({"HOME": home, "MPLCONFIGDIR": home})
        with as_in_a_kernel(), watch:
            for name in names:
                if name.partition(".")[0] in IN_A_KERNEL_ONLY:
                    continue
                try:
                    importlib.import_module(name)
                except _Avoided as avoided:
                    because[name] = str(avoided)
                except Exception as error:  # whatever a package does when it is imported: it is left out
                    log.debug("not preloaded: %s (%s)", name, error)
                else:
                    loaded.append(name)
    return {"loaded": loaded, "culprits": watch.culprits, "because": because}


class _Avoided(BaseException):
    """A module that must not be loaded was imported. Packages that tolerate an ImportError do not catch this."""


@dataclass
class _Watch(AbstractContextManager[None]):
    """Looks at every module while it is loaded; a finder (importlib.abc.MetaPathFinder) before all others."""

    avoid: frozenset[str]
    culprits: dict[str, str] = field(default_factory=dict)
    _loading: list[list[Any]] = field(default_factory=list)
    """[name, threads that modules which it imported have started]: the innermost last."""

    def __enter__(self) -> None:
        sys.meta_path.insert(0, self)

    def __exit__(self, *error: object) -> None:
        sys.meta_path.remove(self)

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(name, path, target) if find else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment]
                return spec
        return None

    @contextlib.contextmanager
    def looks_at(self, name: str) -> Iterator[None]:
        before = preload.threads()
        self._loading.append([name, 0])
        try:
            yield
        finally:
            _name, of_others = self._loading.pop()
            started = preload.threads(before + of_others) - before
            if started > of_others:
                self.culprits.setdefault(name, _STARTS_A_THREAD)
            if self._loading:
                self._loading[-1][1] += started

    def listen(self) -> None:
        """From now on record which module asks for the running kernel, shell or application."""
        configurable = sys.modules["traitlets.config.configurable"].SingletonConfigurable

        def initialized(_kind: type) -> bool:
            name = self._loading[-1][0] if self._loading else ""
            if name and name.partition(".")[0] not in _HARMLESS:
                self.culprits.setdefault(name, _LOOKS_FOR_THE_KERNEL)
            return False

        configurable.initialized = classmethod(initialized)


class _Loader:
    """A module's own loader, watched."""

    def __init__(self, loader: Any, watch: _Watch) -> None:
        self._loader, self._watch = loader, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        if spec.name in self._watch.avoid:
            raise _Avoided(spec.name)
        with self._watch.looks_at(spec.name):
            module: ModuleType | None = self._loader.create_module(spec)
            return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        with self._watch.looks_at(module.__name__):
            self._loader.exec_module(module)
        if module.__name__ == "traitlets.config.configurable":
            self._watch.listen()


def _table(given: object) -> dict[str, object]:
    return given if isinstance(given, dict) else {}


def _reason(given: object) -> str:
    return _LOOKS_FOR_THE_KERNEL if given == _LOOKS_FOR_THE_KERNEL else _STARTS_A_THREAD
