"""What commands may ask the supervisor, and with which fields: each request once, for both sides.

A class keeps the supervisor that it began with, also after an upgrade: fields may be added, with a default, but names
and meanings stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from nblauncher.supervisor.nginx import ProxySpec, ProxyWanted
from nblauncher.supervisor.schedule import Wanted
from nblauncher.supervisor.spawners import Preload
from nblauncher.supervisor.specs import (
    DEFAULT_GRACE,
    FrontPageSpec,
    ServerSpec,
    SpecError,
    checked_grace,
    checked_id,
    checked_port,
    checked_preload,
    checked_spawner,
    checked_texts,
    checked_username,
)

Fields = Mapping[str, Any]


class Question(Protocol):
    """A request as a command sends it. The supervisor gets it with `from_json`, which raises SpecError."""

    @property
    def name(self) -> str: ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Plain:
    """A request without fields."""

    name: str

    def to_json(self) -> dict[str, Any]:
        return {}


HELLO = Plain("hello")
FRONT_PAGE = Plain("front_page")
STOP_FRONT_PAGE = Plain("stop_front_page")


@dataclass(frozen=True, slots=True)
class PortWanted:
    """A port to be held: a student's, or the front page's when `username` is None."""

    port: int
    username: str | None = None
    uid: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"port": self.port, "username": self.username, "uid": self.uid}

    @classmethod
    def from_json(cls, fields: Fields) -> PortWanted:
        port, username = checked_port(fields.get("port")), fields.get("username")
        if username is None:
            return cls(port)
        return cls(port, checked_username(username), checked_id(fields.get("uid")))


@dataclass(frozen=True, slots=True)
class Bind:
    """Hold these ports. `addresses` are web.bind; with `proxy` its ports are held, and a socket for each student."""

    name: ClassVar[str] = "bind"
    ports: tuple[PortWanted, ...]
    addresses: tuple[str, ...] = ()
    proxy: ProxyWanted | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "ports": [wanted.to_json() for wanted in self.ports],
            "addresses": list(self.addresses),
            "proxy": None if self.proxy is None else self.proxy.to_json(),
        }

    @classmethod
    def from_json(cls, fields: Fields) -> Bind:
        proxy = fields.get("proxy")
        return cls(
            tuple(map(PortWanted.from_json, _objects(fields.get("ports")))),
            checked_texts(fields.get("addresses", [])),
            None if proxy is None else ProxyWanted.from_json(proxy),
        )


@dataclass(frozen=True, slots=True)
class Drop:
    """Close these students' ports."""

    name: ClassVar[str] = "drop"
    usernames: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"usernames": list(self.usernames)}

    @classmethod
    def from_json(cls, fields: Fields) -> Drop:
        return cls(checked_texts(fields.get("usernames")))


@dataclass(frozen=True, slots=True)
class Servers:
    """Report on these students' servers; None: on all."""

    name: ClassVar[str] = "servers"
    usernames: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        return {"usernames": optional_list(self.usernames)}

    @classmethod
    def from_json(cls, fields: Fields) -> Servers:
        return cls(optional_texts(fields.get("usernames")))


@dataclass(frozen=True, slots=True)
class StopServers:
    """Stop these students' servers; None: all."""

    name: ClassVar[str] = "stop_servers"
    usernames: tuple[str, ...] | None = None
    grace: float = DEFAULT_GRACE
    keeps_sessions: bool = False
    """A new server follows, in which the students are still signed in."""

    def to_json(self) -> dict[str, Any]:
        names, keeps = optional_list(self.usernames), self.keeps_sessions
        return {"usernames": names, "grace": self.grace, "keeps_sessions": keeps}

    @classmethod
    def from_json(cls, fields: Fields) -> StopServers:
        names, grace = optional_texts(fields.get("usernames")), checked_grace(fields.get("grace"))
        return cls(names, grace, fields.get("keeps_sessions") is True)


@dataclass(frozen=True, slots=True)
class EndKernels:
    """Have these students' servers end their kernels, and go on themselves."""

    name: ClassVar[str] = "end_kernels"
    usernames: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"usernames": list(self.usernames)}

    @classmethod
    def from_json(cls, fields: Fields) -> EndKernels:
        return cls(checked_texts(fields.get("usernames")))


@dataclass(frozen=True, slots=True)
class Prepare:
    """Get ready to start servers with this spawner: load fork servers now, or with the first server."""

    name: ClassVar[str] = "prepare"
    spawner: str
    at_first_use: bool = False
    kernels: Preload | None = None

    def to_json(self) -> dict[str, Any]:
        kernels = self.kernels
        wanted = None if kernels is None else {"python": kernels.python, "modules": list(kernels.modules)}
        return {"spawner": self.spawner, "at_first_use": self.at_first_use, "kernels": wanted}

    @classmethod
    def from_json(cls, fields: Fields) -> Prepare:
        kernels = checked_preload(fields.get("kernels"))
        return cls(checked_spawner(fields.get("spawner")), fields.get("at_first_use") is True, kernels)


@dataclass(frozen=True, slots=True)
class StartServer:
    """Start a server, now or on demand. Its config and TLS files come as descriptors."""

    name: ClassVar[str] = "start_server"
    server: ServerSpec
    on_demand: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"server": self.server.to_json(), "on_demand": self.on_demand}

    @classmethod
    def from_json(cls, fields: Fields) -> StartServer:
        return cls(ServerSpec.from_json(fields.get("server")), fields.get("on_demand") is True)


@dataclass(frozen=True, slots=True)
class KeepOrder:
    """Start the student's server with this config and these TLS files from now on; one that runs is left alone."""

    name: ClassVar[str] = "keep_order"
    server: ServerSpec

    def to_json(self) -> dict[str, Any]:
        return {"server": self.server.to_json()}

    @classmethod
    def from_json(cls, fields: Fields) -> KeepOrder:
        return cls(ServerSpec.from_json(fields.get("server")))


@dataclass(frozen=True, slots=True)
class MarkReady:
    """The server with this pid, or this job, answered a real request."""

    name: ClassVar[str] = "mark_ready"
    username: str
    pid: int | None
    job: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {"username": self.username, "pid": self.pid, "job": self.job}

    @classmethod
    def from_json(cls, fields: Fields) -> MarkReady:
        return cls(checked_username(fields.get("username")), fields.get("pid"), fields.get("job"))


@dataclass(frozen=True, slots=True)
class FailServer:
    """End the server with this pid, or this job, which does not answer, for this reason."""

    name: ClassVar[str] = "fail_server"
    username: str
    pid: int | None
    reason: str
    grace: float = DEFAULT_GRACE
    job: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Fields) -> FailServer:
        grace = checked_grace(fields.get("grace"))
        username, pid, reason = fields.get("username"), fields.get("pid"), str(fields.get("reason", ""))
        return cls(checked_username(username), pid, reason, grace, fields.get("job"))


@dataclass(frozen=True, slots=True)
class StartFrontPage:
    """Its config and TLS files come as descriptors."""

    name: ClassVar[str] = "start_front_page"
    front: FrontPageSpec

    def to_json(self) -> dict[str, Any]:
        return {"front": self.front.to_json()}

    @classmethod
    def from_json(cls, fields: Fields) -> StartFrontPage:
        return cls(FrontPageSpec.from_json(fields.get("front")))


@dataclass(frozen=True, slots=True)
class RenewFrontPage:
    """Give the running front page other students and passwords. Its config comes as a descriptor."""

    name: ClassVar[str] = "renew_front_page"

    def to_json(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_json(cls, _fields: Fields) -> RenewFrontPage:
        return cls()


@dataclass(frozen=True, slots=True)
class RenewJobs:
    """Give these students' servers on nodes other passwords, which come as a descriptor (node_calls.renew)."""

    name: ClassVar[str] = "renew_jobs"
    usernames: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"usernames": list(self.usernames)}

    @classmethod
    def from_json(cls, fields: Fields) -> RenewJobs:
        return cls(checked_texts(fields.get("usernames")))


@dataclass(frozen=True, slots=True)
class StartProxy:
    name: ClassVar[str] = "start_proxy"
    proxy: ProxySpec

    def to_json(self) -> dict[str, Any]:
        return {"proxy": self.proxy.to_json()}

    @classmethod
    def from_json(cls, fields: Fields) -> StartProxy:
        return cls(ProxySpec.from_json(fields.get("proxy")))


@dataclass(frozen=True, slots=True)
class Appoint:
    """Keep this schedule in place of the present one; None: only report the present one."""

    name: ClassVar[str] = "appoint"
    appointments: Wanted | None = None

    def to_json(self) -> dict[str, Any]:
        return {"appointments": None if self.appointments is None else self.appointments.to_json()}

    @classmethod
    def from_json(cls, fields: Fields) -> Appoint:
        wanted = fields.get("appointments")
        return cls(None if wanted is None else Wanted.from_json(wanted))


@dataclass(frozen=True, slots=True)
class End:
    """End the class."""

    name: ClassVar[str] = "end"
    grace: float = DEFAULT_GRACE

    def to_json(self) -> dict[str, Any]:
        return {"grace": self.grace}

    @classmethod
    def from_json(cls, fields: Fields) -> End:
        return cls(checked_grace(fields.get("grace")))


def optional_texts(given: object) -> tuple[str, ...] | None:
    return None if given is None else checked_texts(given)


def optional_list(texts: tuple[str, ...] | None) -> list[str] | None:
    return None if texts is None else list(texts)


def _objects(given: object) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise SpecError("not a list of objects")
    return given
