"""The values of a whole, checked notebooks.cfg."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nblauncher.model import SITE_DEFAULTS, Deadline, Limits, Material, SlurmSettings

DEFAULT_LIMITS = Limits(memory=1_000_000_000, cpus=1.0, processes=256)
DEFAULT_PRELOAD = ("numpy", "pandas", "matplotlib.pyplot")


@dataclass(frozen=True, slots=True)
class AccountSettings:
    create: bool = True
    """False: accounts come from elsewhere (LDAP); students are guests (docs/security.md, promise 1)."""
    home: Path = Path("/home")
    shell: str = "/bin/bash"
    system_password: str = "generated"  # noqa: S105 (not a password)
    """generated | none"""
    uid_range: range = range(70000, 80000)

    @property
    def has_system_passwords(self) -> bool:
        """Whether students get a password for the host."""
        return self.create and self.system_password == "generated"  # noqa: S105


@dataclass(frozen=True, slots=True)
class RetrieveSettings:
    """Limits of one student's retrieval: bytes for max_file and max_student, entries, levels."""

    target: Path
    max_file: int = 100_000_000
    max_student: int = 1_000_000_000
    max_files: int = 20_000
    max_depth: int = 64
    layout: str = "plain"
    """plain | nbgrader: of `retrieve --assignment`."""


@dataclass(frozen=True, slots=True)
class HistorySettings:
    """How often snapshots are taken while the class runs, and how long they are kept."""

    every: int = 0
    """Minutes; 0: only by `nblauncher snapshot`."""
    keep: int = 200
    """Snapshots of one student."""
    days: int = 60
    budget: int = 2_000_000_000
    """Bytes on disk for the contents of all snapshots of the course."""


@dataclass(frozen=True, slots=True)
class WebSettings:
    names: tuple[str, ...] = ()
    """Names of the host as students type them; every URL has the first one."""
    bind: tuple[str, ...] = ()
    """Addresses to listen on; empty: the v4 and v6 wildcard."""
    port: int = 8000
    """The front page's port; students get the following ones."""
    frontend: str = "direct"
    """direct | nginx"""
    routing: str = "ports"
    """ports | hosts | paths: with nginx."""
    title: str = ""
    """Empty: the course's name."""
    greeting: str = ""
    contact: str = ""
    language: str = "en"
    texts: Path | None = None
    """The teacher's own texts."""
    time_zone: str = ""
    """On whose clock students see times; empty: the host's."""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    mode: str = "class-ca"
    """class-ca | files | off"""
    certificate: Path | None = None
    key: Path | None = None
    share_key_with_students: bool = False


@dataclass(frozen=True, slots=True)
class NotebookSettings:
    interface: str = "notebook"
    """notebook | lab"""
    spawner: str = "forkserver"
    """forkserver | process | slurm"""
    environment: Mapping[str, str] = field(default_factory=dict)
    start_deadline: int = 120
    """Seconds a server may take until its URL answers."""
    start: str = "all"
    """all | on-demand"""
    idle_stop: int = 0
    """Idle minutes after which a server stops until its student returns; 0: never."""
    preload: tuple[str, ...] = DEFAULT_PRELOAD
    """Modules that kernels have in memory when they start."""
    preload_when: str = "launch"
    """launch | first-use: when the fork servers begin to load."""
    requirements: Path | tuple[str, ...] | None = None
    """The course's packages: a requirements file, or its lines."""
    kernel_python: Path | None = None
    """What runs the kernels; None: the environment of the requirements, else the Python that runs nblauncher."""


@dataclass(frozen=True, slots=True)
class GradingSettings:
    """Where grading happens, and the limits of one submission while it is graded."""

    course: Path = Path("/grading")
    """The teacher's folder in nbgrader's layout."""
    requirements: Path | tuple[str, ...] = ("nbgrader",)
    """The packages of the environment that grades: a requirements file, or its lines."""
    command: tuple[str, ...] = ()
    """What grades a submission instead of nbgrader; empty: nbgrader."""
    parallel: int = 0
    """Submissions at the same time; 0: two for each processor."""
    seconds: int = 600
    memory: int = 1_000_000_000
    cpus: float = 1.0
    processes: int = 128
    disk: int = 500_000_000
    """Bytes of files that a submission may write."""
    output: int = 10_000_000
    """Bytes of output that are kept."""
    uid_range: range = range(59000, 60000)
    name: str | None = None
    """The host's name for grading by hand; None: only the teacher's ssh leads there."""
    port: int | None = None
    """Where grading by hand is reached; None: the port before web.port."""


@dataclass(frozen=True, slots=True)
class MailSettings:
    """The server through which `mail` sends, and what the mails say about their sender."""

    host: str | None = None
    port: int | None = None
    security: str = "starttls"
    """starttls | tls | none"""
    sender: tuple[str, str] | None = None
    """mail.from: name and address."""
    reply_to: tuple[str, str] | None = None
    login: Path | None = None
    """The file with the name and the password; None: no login."""
    authority: Path | None = None
    """PEM; None: the authorities of the system."""

    @property
    def real_port(self) -> int:
        return self.port or {"starttls": 587, "tls": 465}.get(self.security, 25)


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole, checked notebooks.cfg. Every path is absolute."""

    course: str
    students: Path
    credentials: Path
    material: Material
    retrieve: RetrieveSettings
    owner: str = ""
    """The teacher's account; empty: the account that ran sudo, else root."""
    accounts: AccountSettings = AccountSettings()
    profile: str = ""
    deadlines: tuple[Deadline, ...] = ()
    history: HistorySettings = HistorySettings()
    web: WebSettings = WebSettings()
    tls: TlsSettings = TlsSettings()
    notebook: NotebookSettings = NotebookSettings()
    limits: Limits = DEFAULT_LIMITS
    isolation: bool = True
    slurm: SlurmSettings = SITE_DEFAULTS
    grading: GradingSettings = GradingSettings()
    mail: MailSettings = MailSettings()
    file: Path | None = None
    """Where it was read from."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """What web.texts holds."""

    @property
    def grading_port(self) -> int:
        return self.grading.port or self.web.port - 1
