"""What a client sends to the supervisor about a class, and what comes back. Nothing in here is secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nblauncher.isolation.sandbox import parse_limits
from nblauncher.model import NO_LIMITS, USERNAME, Account, Handle, Limits, ServerState
from nblauncher.supervisor.spawners import Preload

DEFAULT_GRACE = 10.0
"""Seconds from SIGTERM to SIGKILL."""

SPAWNERS = ("forkserver", "process", "slurm")

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


class SpecError(ValueError):
    """A request that makes no sense."""


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """A student's server. `environment`, `spawner` and the limits are the teacher's choice (notebook.*, limits.*).
    `slurm` is the config's block for a server that is a job of the cluster, and what its node must know of the class.
    """

    username: str
    uid: int
    gid: int
    home: str
    port: int
    shell: str = "/bin/bash"
    environment: Mapping[str, str] = field(default_factory=dict)
    spawner: str = "process"
    limits: Limits = NO_LIMITS
    is_isolated: bool = False
    slurm: Mapping[str, Any] = field(default_factory=dict)

    @property
    def account(self) -> Account:
        return Account(self.username, self.uid, self.gid, Path(self.home), self.shell)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, given: object) -> ServerSpec:
        fields = _object(given)
        environment = _object(fields.get("environment", {}))
        if not all(isinstance(value, str) and key and "=" not in key for key, value in environment.items()):
            raise SpecError("the environment holds something other than text")
        return cls(
            username=checked_username(fields.get("username")),
            uid=checked_id(fields.get("uid")),
            gid=checked_id(fields.get("gid")),
            home=_path(fields.get("home")),
            port=checked_port(fields.get("port")),
            shell=_path(fields.get("shell")),
            environment=environment,
            spawner=checked_spawner(fields.get("spawner", "process")),
            limits=_limits(fields.get("limits")),
            is_isolated=fields.get("is_isolated") is True,
            slurm=_object(fields.get("slurm", {})),
        )


@dataclass(frozen=True, slots=True)
class FrontPageSpec:
    """The front page. `restart_argv` is the command that the supervisor runs as root when it died by itself: it
    prepares the secrets and starts the front page again. Empty: it stays down.
    """

    account: Account
    port: int
    restart_argv: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        account = self.account
        return {
            "username": account.username,
            "uid": account.uid,
            "gid": account.gid,
            "port": self.port,
            "restart_argv": list(self.restart_argv),
        }

    @classmethod
    def from_json(cls, given: object) -> FrontPageSpec:
        fields = _object(given)
        restart = checked_texts(fields.get("restart_argv", []))
        return cls(checked_account(fields), checked_port(fields.get("port")), restart)


@dataclass(frozen=True, slots=True)
class ServerReport:
    """The state of a student's server. `group` is its control group, empty if there is none; `started_at` Unix seconds.

    `last_lines` are the end of its log, escaped, when it failed.
    """

    username: str
    uid: int
    port: int
    state: ServerState
    handle: Handle | None = None
    reason: str = ""
    group: str = ""
    started_at: float = 0.0
    last_lines: tuple[str, ...] = ()
    unproven: tuple[int, ...] = ()
    """Where no control group can be made: the uid's processes that a stop left alone, as their origin is unproven."""
    pressure: tuple[str, ...] = ()
    """The limits that the student ran into since the server started, in words."""
    kernels: int | None = None
    """How many kernels the server says it has, and how many are busy; None: not known."""
    busy_kernels: int | None = None
    saved_at: float = 0.0
    used_at: float = 0.0
    """The last save and the last activity, Unix seconds; 0: none since the class began, or not known."""
    signed_in_at: float | None = None
    """The last sign-in; 0: never. None: the supervisor is of a release that does not report it."""
    job: int | None = None
    """The number of its job; `handle` is None then."""
    node: str = ""
    """Where the job runs."""
    memory: int | None = None
    """Bytes that the job takes, as the server says; None: not known, or it is not a job."""
    is_suspended: bool = False
    """The job's processes are stopped until it is resumed."""

    @property
    def is_there(self) -> bool:
        """Whether a process or a job is known."""
        return self.handle is not None or self.job is not None

    def to_json(self) -> dict[str, Any]:
        return {
            "username": self.username,
            "uid": self.uid,
            "port": self.port,
            "state": self.state.value,
            "pid": self.handle.pid if self.handle else None,
            "start_time": self.handle.start_time if self.handle else None,
            "reason": self.reason,
            "group": self.group,
            "started_at": self.started_at,
            "last_lines": list(self.last_lines),
            "unproven": list(self.unproven),
            "pressure": list(self.pressure),
            "kernels": self.kernels,
            "busy_kernels": self.busy_kernels,
            "saved_at": self.saved_at,
            "used_at": self.used_at,
            "signed_in_at": self.signed_in_at,
            "job": self.job,
            "node": self.node,
            "memory": self.memory,
            "is_suspended": self.is_suspended,
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> ServerReport:
        handle = None if given["pid"] is None else Handle(int(given["pid"]), int(given["start_time"]))
        return cls(
            str(given["username"]),
            int(given["uid"]),
            int(given["port"]),
            ServerState(given["state"]),
            handle,
            str(given["reason"]),
            str(given["group"]),
            float(given["started_at"]),
            tuple(given["last_lines"]),
            tuple(given["unproven"]),
            tuple(given["pressure"]),
            given.get("kernels"),
            given.get("busy_kernels"),
            float(given.get("saved_at", 0.0)),
            float(given.get("used_at", 0.0)),
            given.get("signed_in_at"),
            given.get("job"),
            str(given.get("node", "")),
            given.get("memory"),
            given.get("is_suspended") is True,
        )


def checked_username(given: object) -> str:
    if not isinstance(given, str) or not USERNAME.fullmatch(given):
        raise SpecError("not a username")
    return given


def checked_account(fields: Mapping[str, Any]) -> Account:
    """A system account that is not root."""
    uid, gid = checked_id(fields.get("uid")), checked_id(fields.get("gid"))
    return Account(checked_username(fields.get("username")), uid, gid, Path("/"))


def checked_id(given: object) -> int:
    """A uid or gid; not root's."""
    return checked_number(given, 1, 2**32 - 2)


def checked_texts(given: object) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise SpecError("not a list of texts")
    return tuple(given)


def checked_spawner(given: object) -> str:
    if given not in SPAWNERS:
        raise SpecError("no such spawner")
    return str(given)


def checked_preload(given: object) -> Preload | None:
    """None: kernels are not forked."""
    if given is None:
        return None
    fields = _object(given)
    modules = fields.get("modules")
    if not isinstance(modules, list) or not all(isinstance(name, str) and _MODULE.fullmatch(name) for name in modules):
        raise SpecError("not a list of modules")
    return Preload(_path(fields.get("python")), tuple(modules))


def checked_port(given: object) -> int:
    return checked_number(given, 1, 65535)


def checked_number(given: object, low: int, high: int) -> int:
    if type(given) is not int or not low <= given <= high:
        raise SpecError(f"not a whole number from {low} to {high}")
    return given


def checked_grace(given: object) -> float:
    if not isinstance(given, (int, float)) or isinstance(given, bool) or not 0 <= given <= 600:
        raise SpecError("not a number of seconds")
    return float(given)


def _limits(given: object) -> Limits:
    try:
        return parse_limits(given)
    except ValueError as error:
        raise SpecError(str(error)) from error


def _path(given: object) -> str:
    if not isinstance(given, str) or not given.startswith("/") or "\0" in given:
        raise SpecError("not an absolute path")
    return given


def _object(given: object) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise SpecError("not an object")
    return given
