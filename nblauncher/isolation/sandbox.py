"""A student's control group, limits and mount namespace, for the processes that are started in them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nblauncher.isolation import limits as controllers
from nblauncher.isolation import namespaces
from nblauncher.isolation.cgroups import Group, Kind
from nblauncher.model import NO_LIMITS, Limits


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Root made and recorded all of it. `namespace` is a path to enter it by; None: the host's namespace."""

    group: Group
    limits: Limits = NO_LIMITS
    namespace: Path | None = None
    apart: tuple[Path, ...] = ()
    """Paths to enter namespaces of other kinds by: the network's, IPC's."""
    score: int = controllers.SERVER
    """oom_score_adj of processes that are started in it."""

    def enter(self) -> None:
        """Put the calling process, forked, with one thread and still root, and its descendants into it."""
        self.group.enter(os.getpid())
        controllers.settle(self.group, self.limits, self.score)
        if self.namespace is not None:
            namespaces.enter(self.namespace, self.apart)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.group.kind.value,
            "path": str(self.group.path),
            "beside": {name: str(path) for name, path in self.group.beside},
            "limits": asdict(self.limits),
            "namespace": None if self.namespace is None else str(self.namespace),
            "apart": [str(path) for path in self.apart],
        }

    @classmethod
    def parse(cls, given: object) -> Sandbox:
        """ValueError when it is not a sandbox."""
        if not isinstance(given, Mapping):
            raise ValueError("not a sandbox")
        path, beside, namespace = given.get("path"), given.get("beside"), given.get("namespace")
        apart = given.get("apart")
        if not isinstance(path, str) or "\0" in path or not isinstance(beside, Mapping):
            raise ValueError("not a control group")
        if not all(isinstance(path, str) and path.startswith("/") for path in beside.values()):
            raise ValueError("not a control group")
        if namespace is not None and not (isinstance(namespace, str) and namespace.startswith("/")):
            raise ValueError("not a namespace")
        if not isinstance(apart, list) or not all(isinstance(path, str) and path.startswith("/") for path in apart):
            raise ValueError("not namespaces")
        group = Group(Kind(given.get("kind")), Path(path), tuple((str(k), Path(v)) for k, v in beside.items()))
        where = None if namespace is None else Path(namespace)
        return cls(group, parse_limits(given.get("limits")), where, tuple(map(Path, apart)))


def parse_limits(given: object) -> Limits:
    """ValueError when they are not limits."""
    if not isinstance(given, Mapping) or set(given) != {limit.name for limit in fields(Limits)}:
        raise ValueError("not limits")
    for name, value in given.items():
        kinds = (int, float) if name == "cpus" else (int,)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds) or value <= 0):
            raise ValueError(f"{name} is not a limit")
    return Limits(**given)
