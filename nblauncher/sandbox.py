"""What holds a student's processes: their control group, their limits, their mount namespace."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nblauncher import limits as controllers
from nblauncher import namespaces
from nblauncher.cgroups import Group, Kind
from nblauncher.model import NO_LIMITS, Limits


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Root made and recorded all of it. `namespace` is what to enter it by; None: the host's own."""

    group: Group
    limits: Limits = NO_LIMITS
    namespace: Path | None = None
    score: int = controllers.SERVER
    """oom_score_adj of what is started in it."""

    def enter(self) -> None:
        """The calling process, forked and with one thread, still root, and whatever it starts are held from now on."""
        self.group.enter(os.getpid())
        controllers.settle(self.group, self.limits, self.score)
        if self.namespace is not None:
            namespaces.enter(self.namespace)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.group.kind.value,
            "path": str(self.group.path),
            "beside": {name: str(path) for name, path in self.group.beside},
            "limits": asdict(self.limits),
            "namespace": None if self.namespace is None else str(self.namespace),
        }

    @classmethod
    def parse(cls, given: object) -> Sandbox:
        """ValueError for what is none."""
        if not isinstance(given, Mapping):
            raise ValueError("that is no sandbox")
        path, beside, namespace = given.get("path"), given.get("beside"), given.get("namespace")
        if not isinstance(path, str) or "\0" in path or not isinstance(beside, Mapping):
            raise ValueError("that is no control group")
        if not all(isinstance(one, str) and one.startswith("/") for one in beside.values()):
            raise ValueError("that is no control group")
        if namespace is not None and not (isinstance(namespace, str) and namespace.startswith("/")):
            raise ValueError("that is no namespace")
        group = Group(Kind(given.get("kind")), Path(path), tuple((str(k), Path(v)) for k, v in beside.items()))
        return cls(group, parse_limits(given.get("limits")), None if namespace is None else Path(namespace))


def parse_limits(given: object) -> Limits:
    """ValueError for what are none."""
    if not isinstance(given, Mapping) or set(given) != {"memory", "cpus", "processes", "disk"}:
        raise ValueError("those are no limits")
    for name, value in given.items():
        kinds = (int, float) if name == "cpus" else (int,)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds) or value <= 0):
            raise ValueError(f"{name} is no limit")
    return Limits(**given)
