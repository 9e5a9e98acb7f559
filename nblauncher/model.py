"""The values that travel between the layers: frozen, without behaviour that touches the host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path

COOKIE_BEHIND_PROXY = "nblauncher"
"""How a student's server calls its login cookie towards the class's proxy, which knows whose server it is."""
KEEP_BEHIND_PROXY = f"{COOKIE_BEHIND_PROXY}_keep"
"""The cookie by which it tells the proxy that the browser is to keep the login cookie."""


class Secret:
    """A password or key. `repr`, `str` and logs show stars; `reveal` is the one way to the text."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(********)"

    def __str__(self) -> str:
        return "********"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True, slots=True)
class Student:
    """One row of students.csv. Only `username` is judged and only `username` ever reaches a system file."""

    username: str
    name: str = ""
    email: str = ""
    student_id: str = ""
    section: str = ""
    seat: str = ""
    extra_time: str = ""
    extra: tuple[tuple[str, str], ...] = ()
    line: int = 0


@dataclass(frozen=True, slots=True)
class Roster:
    """All rows of students.csv, in the order of the file; usernames are unique."""

    students: tuple[Student, ...] = ()

    def __iter__(self) -> Iterator[Student]:
        return iter(self.students)

    def __len__(self) -> int:
        return len(self.students)

    @property
    def usernames(self) -> tuple[str, ...]:
        return tuple(student.username for student in self.students)

    def only(self, usernames: Iterable[str]) -> Roster:
        wanted = frozenset(usernames)
        return Roster(tuple(student for student in self.students if student.username in wanted))


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a child process becomes. `home` is as recorded by us or by passwd, never taken from a student's files."""

    username: str
    uid: int
    gid: int
    home: Path
    shell: str = ""
    nonce: str = ""
    """The first comma-separated GECOS field of an account we made (`nbl-…`); empty for owners and guests."""


class AccountState(str, Enum):
    """What the host says about an account that the ledger may or may not claim (DESIGN promise 1)."""

    ABSENT = "absent"  # neither the ledger nor the host knows the name
    COMPLETE = "complete"  # claimed, and uid, nonce and home agree
    HALF_MADE = "half made"  # claimed, but a crash left it unfinished
    VANISHED = "vanished"  # claimed as complete, but the host no longer has it
    CHANGED = "changed by hand"  # uid and home agree, the nonce does not
    FOREIGN = "not ours"  # the host has it and we did not make it, or its uid is another
    GUEST = "guest"  # recorded by name and uid, and the host agrees


@dataclass(frozen=True, slots=True)
class Material:
    """The folder the teacher hands out and where it lands below each home."""

    source: Path
    target: str
    trust: bool = False
    """Whether the teacher's notebooks are signed as the student when they arrive."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the work of a folder below the material is captured. Aware times."""

    name: str
    folder: str
    """Below the material folder; '' for all of it."""
    at: datetime
    starts: datetime | None = None
    """When the assignment began: what a percentage of extra time is a percentage of."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A path that was not handled as planned. `incomplete` says that it could have held work (promise 3)."""

    path: str
    reason: str
    incomplete: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """What one student's send or retrieve amounted to."""

    files: int = 0
    bytes: int = 0
    exclusions: tuple[Exclusion, ...] = ()

    @property
    def is_incomplete(self) -> bool:
        return any(exclusion.incomplete for exclusion in self.exclusions)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one student may take; None: as much as the host has."""

    memory: int | None = None
    """Bytes, of all the student's processes together, their files in private temporary folders included."""
    cpus: float | None = None
    processes: int | None = None
    """Threads count as well."""
    disk: int | None = None
    """Bytes that the student's files take."""


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Handle:
    """How to find a process again: its pid and its start time (clock ticks since boot, proc_pid_stat(5) field 22)."""

    pid: int
    start_time: int


class ServerState(str, Enum):
    """What `status` says of a student's server."""

    READY = "ready"
    STARTING = "starting"
    ASLEEP = "asleep"
    STOPPED = "stopped"
    FAILED = "failed"
    UNKNOWN = "unknown"
    FROZEN = "frozen"


@dataclass(frozen=True, slots=True)
class Route:
    """Where a student's own server is: its base address `https://HOST:PORT/user/NAME/`."""

    username: str
    port: int
    url: str


@dataclass(frozen=True, slots=True)
class Server:
    """A student's notebook server as the supervisor last saw it: bytes, CPU-seconds, Unix seconds."""

    username: str
    state: ServerState
    port: int
    handle: Handle | None = None
    memory_bytes: int | None = None
    cpu_seconds: float | None = None
    last_activity: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A certificate chain and its private key, PEM, as bytes in memory: they travel on as sealed memfds."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class HandedOut:
    """The version of a file that a student was given last, and the file as it stood right after we wrote it.

    Times in nanoseconds, size in bytes; zero times: this version does not stand at that name.
    """

    sha256: str
    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int
    base: str = ""
    """The sha256 of the version that the student's file was made of, when it is another; UNRELATED: of none. Behind
    GONE when the file was not there.
    """

    @property
    def made_of(self) -> str:
        """As `base`, also when it is this version; '' for UNRELATED."""
        return "" if self.base == UNRELATED else self.base.removeprefix(GONE) or self.sha256

    @property
    def was_gone(self) -> bool:
        return self.base.startswith(GONE)


GONE = "gone:"
"""The student had deleted the file, or renamed it, when this version came."""

UNRELATED = "unrelated"
"""The student has made a file of their own at this name."""

FORGOTTEN = HandedOut("", 0, 0, 0, 0)
"""What was given at a name does not count any more: a file where a folder was, or the other way round."""
