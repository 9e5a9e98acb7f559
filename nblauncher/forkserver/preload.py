"""What a fork server has in memory before it forks: found by a warm-up in a child, imported by the parent."""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from nblauncher import privileges, root_files, workers
from nblauncher.errors import HostError
from nblauncher.model import Account

log = logging.getLogger(__name__)

WARM_UP_DEADLINE = 15.0
_FORMAT = 2
"""Of what is noted. A finding of another format is made anew; the first one had its names in another order."""

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_MOST = 5000
_GRAMMAR = "rfc3987_syntax"


@dataclass(frozen=True, slots=True)
class Found:
    """What a fork server is to load."""

    names: tuple[str, ...] = ()
    """In the order in which a real program imported them. Another order is another program: with `_asyncio` before
    `asyncio` the two disagree for ever on which task runs.
    """
    left_out: Mapping[str, str] = field(default_factory=dict)
    """What the teacher wants and is not loaded, and why, in words that follow the name."""


def found_by(warm_up: Callable[[Path], None], account: Account) -> tuple[str, ...]:
    """The modules that `warm_up(home)` loads beyond those of this process, in its order.

    It runs in a forked child as `account`, which must not be root, in an empty home that is gone afterwards. Without an
    answer there are none: preloading only saves time.
    """
    try:
        answer = workers.run_as(account, _report, warm_up, timeout=WARM_UP_DEADLINE)
    except HostError as error:
        log.warning("the warm-up failed: %s", error.problem)
        return ()
    return names_in(answer)


def environment() -> list[object]:
    """What a finding holds for: this interpreter, and the folders that it imports from as they are now.

    A package that is installed, upgraded or removed changes the time of its folder.
    """
    folders = [entry for entry in sys.path if os.path.exists(entry)]
    return [_FORMAT, sys.version, sys.prefix, [[entry, os.stat(entry).st_mtime_ns] for entry in folders]]


def note(file: Path, environment: list[object], found: Found) -> None:
    """Keep a finding for the next fork server of the same environment."""
    try:
        noted = {"environment": environment, "modules": found.names, "left_out": dict(found.left_out)}
        root_files.replace(file, json.dumps(noted))
    except OSError as error:
        log.warning("cannot write %s: %s", file, error)


def recall(file: Path, environment: list[object]) -> Found | None:
    """What was noted for this environment. None when there is nothing, or nothing that root alone wrote."""
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
    """What is a module's name in what came from a process that is not root's."""
    names = answer if isinstance(answer, list) else []
    return tuple(name for name in names[:_MOST] if isinstance(name, str) and _NAME.fullmatch(name))


def postpone_grammar() -> None:
    """Have the grammar of IRIs made when somebody checks one. Call it before jsonschema is imported.

    rfc3987_syntax makes an Earley parser when it is imported, which takes as long as all of Jupyter's modules together;
    jsonschema imports it for the formats `iri` and `iri-reference`, which no schema of Jupyter's uses.
    """
    if _GRAMMAR in sys.modules or importlib.util.find_spec(_GRAMMAR) is None:
        return
    stand_in = ModuleType(_GRAMMAR)

    def is_valid_syntax(term: str, value: str) -> bool:
        if sys.modules.get(_GRAMMAR) is stand_in:
            del sys.modules[_GRAMMAR]
        return bool(importlib.import_module(_GRAMMAR).is_valid_syntax(term, value))

    vars(stand_in)["is_valid_syntax"] = is_valid_syntax
    sys.modules[_GRAMMAR] = stand_in


def remember_entry_points() -> None:
    """Read what the installed packages offer once for all servers. Call it before Jupyter is imported.

    jupyter_lsp alone asks five times in each server, and each time every package's file is read and parsed.
    """
    everything = importlib.metadata.entry_points()
    importlib.metadata.entry_points = everything.select


def load(names: Iterable[str]) -> list[str]:
    """Import them in this order; what cannot be imported here is left to those who need it, and returned."""
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
    """Nothing in memory now is looked at by a garbage collector again, and pages stay small: both keep them shared."""
    with contextlib.suppress(OSError):
        privileges.disable_huge_pages()
    gc.collect()
    gc.freeze()


def threads() -> int:
    """How many there are in this process; a fork server must have one."""
    return len(os.listdir("/proc/self/task"))


class _Begun:
    """A finder (importlib.abc.MetaPathFinder) that finds nothing and keeps who was looked for, the first one first.

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
