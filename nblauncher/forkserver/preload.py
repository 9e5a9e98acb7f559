"""What a fork server has in memory before it forks: found by a warm-up in a child, imported by the parent."""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.metadata
import json
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from nblauncher.errors import HostError
from nblauncher.model import Account
from nblauncher.system import privileges, root_files, workers

log = logging.getLogger(__name__)

WARM_UP_DEADLINE = 15.0
_FORMAT = 3
"""Of the note. One of another format is not used; the first had the names in another order, the second fewer."""

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_MOST = 5000
_ENDING, _PAUSE = 1.0, 0.005


@dataclass(frozen=True, slots=True)
class Found:
    """What a fork server should load."""

    names: tuple[str, ...] = ()
    """In the order in which a real program imported them, which matters: with `_asyncio` before `asyncio` the two
    disagree for ever on which task runs.
    """
    left_out: Mapping[str, str] = field(default_factory=dict)
    """What the teacher wants and is not loaded; the reason is worded to follow the name."""


def found_by(warm_up: Callable[[Path], None], account: Account) -> tuple[str, ...]:
    """The modules that `warm_up(home)` loads beyond those of this process, in its order.

    It runs in a forked child as `account`, which must not be root, in an empty home that is removed afterwards. Without
    an answer the result is empty: preloading only saves time.
    """
    try:
        answer = workers.run_as(account, _report, warm_up, timeout=WARM_UP_DEADLINE)
    except HostError as error:
        log.warning("the warm-up failed: %s", error.problem)
        return ()
    return names_in(answer)


def environment() -> list[object]:
    """What a note is valid for: this interpreter, and the folders that it imports from as they are now.

    A package that is installed, upgraded or removed changes the modification time of its folder.
    """
    folders = [entry for entry in sys.path if os.path.exists(entry)]
    return [_FORMAT, sys.version, sys.prefix, [[entry, os.stat(entry).st_mtime_ns] for entry in folders]]


def note(file: Path, environment: list[object], found: Found) -> None:
    """Note what was found for the next fork server of the same environment."""
    try:
        noted = {"environment": environment, "modules": found.names, "left_out": dict(found.left_out)}
        root_files.replace(file, json.dumps(noted))
    except OSError as error:
        log.warning("cannot write %s: %s", file, error)


def recall(file: Path, environment: list[object]) -> Found | None:
    """What was noted for this environment. None without a note, or when not only root can have written it."""
    text = root_files.read(file)
    if text is None:
        return None
    try:
        content = json.loads(text)
        if content["environment"] != environment:
            return None
        return Found(names_in(content["modules"]), {str(name): str(why) for name, why in content["left_out"].items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is damaged and is not used: %s", file, error)
        return None


def names_in(answer: object) -> tuple[str, ...]:
    """The module names in an answer from a process that is not root's, and so is not trusted."""
    names = answer if isinstance(answer, list) else []
    return tuple(name for name in names[:_MOST] if isinstance(name, str) and _NAME.fullmatch(name))


def remember_entry_points() -> None:
    """Read the entry points of all installed packages once, for all servers. Call it before Jupyter is imported.

    jupyter_lsp alone asks for them five times in each server, and each time the file of every package is parsed.
    """
    everything = importlib.metadata.entry_points()
    importlib.metadata.entry_points = everything.select


def load(names: Iterable[str]) -> list[str]:
    """Import them in this order. Returns the names that cannot be imported here, and are left to later imports."""
    missing = []
    for name in names:
        if name not in sys.modules:
            try:
                importlib.import_module(name)
            except (ImportError, AttributeError, OSError, ValueError) as error:
                log.debug("not preloaded: %s (%s)", name, error)
                missing.append(name)
    return missing


def freeze() -> None:
    """Keep memory shared after the fork: the garbage collector skips what is there now, and pages stay small."""
    with contextlib.suppress(OSError):
        privileges.disable_huge_pages()
    gc.collect()
    gc.freeze()


def threads(wanted: int = sys.maxsize) -> int:
    """How many there are in this process; a fork server must have one. Waits a second for more than `wanted` to end:
    matplotlib cancels the timer that it starts while it looks for fonts, and a busy host is late in ending it.
    """
    until = time.monotonic() + _ENDING
    while (count := len(os.listdir("/proc/self/task"))) > wanted and time.monotonic() < until:
        time.sleep(_PAUSE)
    return count


class _Begun:
    """A finder (importlib.abc.MetaPathFinder) that finds nothing and records the names that were looked for, in order.

    sys.modules has another order: a module moves to its end when its import is over, behind all that it imported.
    """

    def __init__(self) -> None:
        self.names: dict[str, None] = {}

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> None:
        self.names.setdefault(name)


def _report(warm_up: Callable[[Path], None]) -> list[str]:
    """Runs as the account."""
    before, begun = set(sys.modules), _Begun()
    sys.meta_path.insert(0, begun)
    with tempfile.TemporaryDirectory(prefix="nblauncher-warm-up-", ignore_cleanup_errors=True) as home:
        warm_up(Path(home))
    loaded = {name for name, module in list(sys.modules.items()) if getattr(module, "__spec__", None) is not None}
    return [name for name in begun.names if name in loaded - before]
