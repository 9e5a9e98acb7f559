"""What test runs could leave behind on the host, as sets that can be compared."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from tests.system_accounts import HIGHEST_GROUP

ACCOUNT_FILES = ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")
TEST_NAME = "nbt"
SHARED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
SPOOLS = (
    "/home",
    "/var/mail",
    "/var/spool/cron/crontabs",
    "/var/spool/cron",
    "/var/spool/at",
    "/var/lib/systemd/linger",
)
LISTENING = "0A"


class _Footprint:
    """Sets of lines, by what they are of."""

    def differences(self, after: _Footprint) -> list[str]:
        """One line for each thing that is new or gone."""
        lines = []
        for name in vars(self):
            old, new = getattr(self, name), getattr(after, name)
            lines += [f"{name}: left behind {item}" for item in sorted(new - old)]
            lines += [f"{name}: gone {item}" for item in sorted(old - new)]
        return lines


@dataclass(frozen=True)
class NamespaceFootprint(_Footprint):
    """What belongs to our mount namespace: always this run's own."""

    processes: frozenset[str]
    ports: frozenset[str]
    mounts: frozenset[str]

    @classmethod
    def taken(cls) -> NamespaceFootprint:
        ours = _processes_of_our_namespace()
        return cls(
            processes=frozenset(_described(pid) for pid in ours),
            ports=frozenset(_listening_sockets(ours)),
            mounts=frozenset(line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()),
        )


@dataclass(frozen=True)
class HostFootprint(_Footprint):
    """What is the whole host's."""

    accounts: frozenset[str]
    folders: frozenset[str]
    orphans: frozenset[str]
    cgroups: frozenset[str]

    @classmethod
    def taken(cls) -> HostFootprint:
        return cls(
            accounts=frozenset(_account_lines()),
            folders=frozenset(
                str(entry) for folder in SPOOLS for entry in _entries(folder) if entry.name.startswith(TEST_NAME)
            ),
            orphans=frozenset(
                str(entry) for folder in SHARED_FOLDERS for entry in _entries(folder) if _has_no_owner(entry)
            ),
            cgroups=frozenset(_cgroups()),
        )


def _processes_of_our_namespace() -> list[int]:
    """Every process in this mount namespace but ourselves and what pytest itself runs under."""
    namespace = os.readlink("/proc/self/ns/mnt")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if os.readlink(entry / "ns/mnt") == namespace and _state(entry) != "Z":
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def _state(process: Path) -> str:
    return (process / "stat").read_text().rpartition(")")[2].split()[0]


def _described(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return f"{pid} uid {Path(f'/proc/{pid}').stat().st_uid} {command}"
    except OSError:
        return f"{pid} (ended)"


def _listening_sockets(pids: list[int]) -> set[str]:
    """Addresses in /proc/net form that a process of ours, or we ourselves, listen on."""
    held = {link for pid in [*pids, os.getpid()] for link in _descriptors(pid)}
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if Path(table).exists():
            for line in Path(table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == LISTENING and f"socket:[{columns[9]}]" in held:
                    ports.add(columns[1])
    return ports


def _descriptors(pid: int) -> list[str]:
    links = []
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            links.append(os.readlink(descriptor))
    except OSError:
        return links
    return links


def _account_lines() -> set[str]:
    return {
        f"{file}: {line.split(':')[0]}"
        for file in ACCOUNT_FILES
        if Path("/etc", file).exists()
        for line in Path("/etc", file).read_text().splitlines()
        if not line.startswith(f"{HIGHEST_GROUP}:")  # the test runs' own, from the first to the last
    }


def _entries(folder: str) -> list[Path]:
    return list(Path(folder).iterdir()) if Path(folder).is_dir() else []


def _has_no_owner(entry: Path) -> bool:
    try:
        pwd.getpwuid(entry.lstat().st_uid)
    except KeyError:
        return True
    except (FileNotFoundError, PermissionError):
        return False  # the second: a FUSE file system of an account's, which denies root
    return False


def _cgroups() -> set[str]:
    """Without those that we cannot have made: in a container, the hierarchies of the host are mounted read-only."""
    return {
        os.path.join(folder, name)
        for folder, names, _files in os.walk("/sys/fs/cgroup")
        for name in names
        if ("nblauncher" in name or f"{TEST_NAME}-" in name) and os.access(folder, os.W_OK)
    }
