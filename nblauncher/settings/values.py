"""The values of a whole, checked notebooks.cfg."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nblauncher.model import Deadline, Limits, Material

DEFAULT_LIMITS = Limits(memory=1_000_000_000, cpus=1.0, processes=256)
DEFAULT_PRELOAD = ("numpy", "pandas", "matplotlib.pyplot")


@dataclass(frozen=True, slots=True)
class AccountSettings:
    create: bool = True
    """False: accounts come from elsewhere (LDAP); students are guests (DESIGN promise 1)."""
    home: Path = Path("/home")
    shell: str = "/bin/bash"
    uid_range: range = range(20000, 30000)


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
    """Names of the host as students type them; the first one stands in every URL."""
    bind: tuple[str, ...] = ()
    """Addresses to listen on; empty: the v4 and v6 wildcard."""
    port: int = 8000
    """The front page's port; students get the following ones."""
    frontend: str = "direct"
    """direct | nginx"""
    routing: str = "ports"
    """ports | hosts | paths: with nginx."""


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
    """forkserver | process"""
    environment: Mapping[str, str] = field(default_factory=dict)
    start_deadline: int = 120
    """Seconds a server may take until its URL answers."""
    start: str = "all"
    """all | on-demand"""
    idle_stop: int = 0
    """Minutes without anything to do after which a server stops until somebody comes; 0: never."""
    preload: tuple[str, ...] = DEFAULT_PRELOAD
    """Modules that kernels have in memory when they start."""
    preload_when: str = "launch"
    """launch | first-use: when the fork servers begin to load."""
    requirements: Path | tuple[str, ...] | None = None
    """The course's packages: a requirements file, or its lines."""
    kernel_python: Path | None = None
    """What runs the kernels; None: the environment of the requirements, else the Python that runs nblauncher."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole, checked notebooks.cfg. Every path is absolute."""

    course: str
    students: Path
    credentials: Path
    material: Material
    retrieve: RetrieveSettings
    owner: str = ""
    """The teacher's account; empty: who ran sudo, else root."""
    accounts: AccountSettings = AccountSettings()
    profile: str = ""
    deadlines: tuple[Deadline, ...] = ()
    history: HistorySettings = HistorySettings()
    web: WebSettings = WebSettings()
    tls: TlsSettings = TlsSettings()
    notebook: NotebookSettings = NotebookSettings()
    limits: Limits = DEFAULT_LIMITS
    isolation: bool = True
    file: Path | None = None
    """Where it was read from."""
