"""The values that rooms pass to each other: frozen, and without behaviour that touches the host."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path

COOKIE_BEHIND_PROXY = "nblauncher"
"""The name of a student's login cookie between server and proxy. The proxy knows which student's server it is."""
KEEP_BEHIND_PROXY = f"{COOKIE_BEHIND_PROXY}_keep"
"""The cookie by which a server tells the proxy that the browser should keep the login cookie."""

USERNAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")
"""A valid username: the shadow tools, URLs and file names take it without quoting."""


LANGUAGES = ("en", "de")
"""In which students' pages are shipped."""


class Secret:
    """A password or key. `repr`, `str` and logs show stars; only `reveal` returns the text."""

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
    """One row of students.csv. Only `username` is validated, and only `username` ever reaches a system file."""

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
    """An account that a child process can become. `home` is from our ledger or passwd, never from a student's files."""

    username: str
    uid: int
    gid: int
    home: Path
    shell: str = ""
    nonce: str = ""
    """The first comma-separated GECOS field of an account that we made (`nbl-…`); empty for owners and guests."""


ROOT = Account("root", 0, 0, Path("/root"))


class AccountState(str, Enum):
    """The host's account compared with the ledger's claim, if there is one (docs/security.md, promise 1)."""

    ABSENT = "absent"  # neither the ledger nor the host knows the name
    COMPLETE = "complete"  # claimed, and uid, nonce and home agree
    HALF_MADE = "half made"  # claimed, but a crash left it unfinished
    VANISHED = "vanished"  # claimed as complete, but the host no longer has it
    CHANGED = "changed by hand"  # uid and home agree, the nonce does not
    FOREIGN = "not ours"  # the host has it and we did not make it, or its uid is another
    GUEST = "guest"  # recorded by name and uid, and the host agrees


@dataclass(frozen=True, slots=True)
class Material:
    """The folder that the teacher hands out, and where it is placed below each home."""

    source: Path
    target: str
    trust: bool = False
    """Whether the teacher's notebooks are signed as the student on arrival."""
    folder: str = ""
    """Where in the target the source's content is placed; '': directly."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the work in a folder of the material is captured. Aware times."""

    name: str
    folder: str
    """Below the material folder; '' for all of it."""
    at: datetime
    starts: datetime | None = None
    """When the assignment began: a percentage of extra time refers to the time from then on."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A path that was left out. `incomplete`: it could hold work (docs/security.md, promise 3)."""

    path: str
    reason: str
    incomplete: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """The result of one student's send or retrieve."""

    files: int = 0
    bytes: int = 0
    exclusions: tuple[Exclusion, ...] = ()

    @property
    def is_incomplete(self) -> bool:
        return any(exclusion.incomplete for exclusion in self.exclusions)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one student may use; None: no limit."""

    memory: int | None = None
    """Bytes of all the student's processes together, including their files in private temporary folders."""
    cpus: float | None = None
    processes: int | None = None
    """Threads included."""
    disk: int | None = None
    """Bytes of the student's files."""


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class SlurmSettings:
    """How students' servers are submitted to Slurm; empty: what the site has by default."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    reservation: str = ""
    time: int | None = None
    """Minutes that a server may run; None: the partition's own."""
    gres: str = ""
    constraint: str = ""
    options: tuple[str, ...] = ()
    """Further options of sbatch, such as --exclude=n7."""
    prologue: tuple[str, ...] = ()
    """Lines of bash before the server starts, such as `module load python`."""
    python: str = ""
    """The nodes' interpreter; empty: where this one is."""
    config: str = ""
    """The site's slurm.conf; empty: where Slurm looks."""
    programs: str = ""
    """The folder with sbatch and squeue; empty: the system's."""


SITE_DEFAULTS = SlurmSettings()


@dataclass(frozen=True, slots=True)
class Handle:
    """Identifies a process: its pid and its start time (clock ticks since boot, proc_pid_stat(5) field 22)."""

    pid: int
    start_time: int


@dataclass(frozen=True, slots=True)
class JobHandle:
    """Identifies a job of Slurm: its number, the student's uid, and the AdminComment, which only root can set."""

    job: int
    uid: int
    mark: str


ServerHandle = Handle | JobHandle
"""A server is a process of this host or a job of the cluster. Only a process can be signalled."""


def handle_words(handle: ServerHandle | None) -> str:
    """`pid 4711` or `job 12`, for logs."""
    if handle is None:
        return "pid 0"
    return f"job {handle.job}" if isinstance(handle, JobHandle) else f"pid {handle.pid}"


class ServerState(str, Enum):
    """The state of a student's server, as `status` shows it."""

    READY = "ready"
    QUEUED = "queued"
    STARTING = "starting"
    ASLEEP = "asleep"
    STOPPED = "stopped"
    FAILED = "failed"
    UNKNOWN = "unknown"
    FROZEN = "frozen"


@dataclass(frozen=True, slots=True)
class Route:
    """The address of a student's server: its base URL is `https://HOST:PORT/user/NAME/`."""

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
    """A certificate chain and its private key, PEM, as bytes in memory: they are passed on as sealed memfds."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class HandedOut:
    """The version of a file that a student was given last, and the file's status right after we wrote it.

    Times in nanoseconds, size in bytes; zero times: the file at that name does not have this version.
    """

    sha256: str
    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int
    base: str = ""
    """The sha256 of the version that the student's file is based on, if it is another; UNRELATED: on none. With the
    prefix GONE if the file did not exist.
    """

    @property
    def made_of(self) -> str:
        """The sha256 of the version that the file is based on; '' for UNRELATED."""
        return "" if self.base == UNRELATED else self.base.removeprefix(GONE) or self.sha256

    @property
    def was_gone(self) -> bool:
        return self.base.startswith(GONE)


GONE = "gone:"
"""The student had deleted the file, or renamed it, when this version came."""

UNRELATED = "unrelated"
"""The student has made another file of this name."""

FORGOTTEN = HandedOut("", 0, 0, 0, 0)
"""A name that is no longer tracked: a file where a folder was, or the other way round."""

Stamp = tuple[int, int, int, int]
"""Size, mtime, ctime (both in ns) and inode: they change with each write to the file."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A file of an earlier retrieval or snapshot, as it is stored."""

    stamp: Stamp
    sha256: str

    @property
    def size(self) -> int:
        return self.stamp[0]


def stamp_of(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


CHECKS_LOGINS = "nblauncher check --logins"
"""The User-Agent of the command that signs in as every student."""

LEFT_OUT = frozenset({".ipynb_checkpoints", "__pycache__", ".git", ".DS_Store"})
"""Names of files and folders in the material that are never handed out."""
EMPTY_FOLDER = "an empty folder is not handed out"

# Why a server is down, as the supervisor reports it; `status` shows the whole reason, which contains one of these.
OUT_OF_MEMORY = "because memory ran out"
SHUT_DOWN = "it was shut down"
ENDED_ITSELF = "it ended by itself"
NO_ANSWER = "it did not answer in time"
STAYS_DOWN = "and stays down"
NOT_CONFIRMED = "the cluster does not confirm that it has"
GOES_ON = "{node} does not answer, and what ran there may go on until it is back"
IS_GOING_ON = GOES_ON.partition("}")[2]
"""The sign of it in a reason."""

_PLAIN = {
    OUT_OF_MEMORY: "memory",
    SHUT_DOWN: "teacher",
    ENDED_ITSELF: "ended",
    NO_ANSWER: "silent",
    STAYS_DOWN: "again",
}


def plain_reason(reason: str) -> str:
    """Which of the plain reasons the student is told; empty if it is none of them."""
    return next((name for sign, name in _PLAIN.items() if sign in reason), "")
