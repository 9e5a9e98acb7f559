"""The host: root, tools, kernel, cgroups, and the interpreter and packages that students run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import pwd
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from nblauncher.preflight.finding import PATH, Ask, Finding, ok, problem, warning
from nblauncher.printable import printable
from nblauncher.system import libc

TOOLS = ("useradd", "usermod", "userdel", "chpasswd", "groupadd", "groupdel", "gpasswd", "getent")

PACKAGES: Mapping[str, tuple[tuple[int, ...], tuple[int, ...] | None]] = {
    "notebook": ((7, 2), (8,)),
    "jupyter_server": ((2, 14), (3,)),
    "tornado": ((6, 4), None),
}
"""The oldest version, and the first one that is too new."""

_OLDEST_PYTHON = (3, 10)
# useradd knows -K HOME_MODE since shadow 4.8.1 (shadow-maint/shadow#209); RHEL 8 has it in its 4.6.
_HOME_MODE_SINCE = (4, 8)


def root(uid: int) -> Finding:
    if uid == 0:
        return ok("root", "running as root")
    return warning(
        "root", "not running as root: some things cannot be checked", "Run `sudo nblauncher check` to check them all."
    )


def platform_is_linux(system: str = "") -> Finding:
    name = system or platform.system()
    if name == "Linux":
        return ok("system", f"Linux {platform.release()}")
    return problem("system", f"accounts are Linux-only so far, and this is {name}", "Run the class on a Linux host.")


def shadow_tools(ask: Ask, which: Callable[[str], str | None]) -> Iterator[Finding]:
    """The programs that make and remove accounts, and whether useradd knows our options."""
    missing = [tool for tool in TOOLS if which(tool) is None]
    if missing:
        yield problem(
            "account tools",
            f"not found: {', '.join(missing)}",
            "Install the package passwd (Debian), shadow-utils (Fedora, RHEL) or shadow (SUSE, Arch).",
        )
    if "useradd" in missing:
        return
    usage = ask(["useradd", "--help"])
    if usage is None or "-K" not in usage.text:
        yield problem(
            "account tools",
            "useradd does not take -K: it is not the one of the shadow tools",
            "Install the shadow tools; BusyBox's useradd makes homes that all accounts can read.",
        )
        return
    version = shadow_version(ask)
    words = ".".join(map(str, version)) if version else "of an unknown version"
    if version and version < _HOME_MODE_SINCE:
        yield warning(
            "account tools",
            f"the shadow tools {words} may not know HOME_MODE, which keeps new homes private",
            "Make one account and look at the mode of its home, or upgrade the shadow tools to 4.8.1.",
        )
    elif not missing:
        yield ok("account tools", f"all there (shadow {words})")


def shadow_version(ask: Ask) -> tuple[int, ...]:
    """From the package manager, because useradd has no --version. Empty when it is unknown."""
    for command in (
        ["dpkg-query", "-W", "-f", "${Version}", "passwd"],
        ["rpm", "-q", "--qf", "%{VERSION}", "shadow-utils"],
        ["rpm", "-q", "--qf", "%{VERSION}", "shadow"],
        ["pacman", "-Q", "shadow"],
    ):
        answer = ask(command)
        if answer is not None and answer.exit_status == 0:
            match = re.search(r"(?:^|[\s:])([0-9]+(?:\.[0-9]+)+)", answer.text)
            if match:
                return tuple(map(int, match[1].split(".")))
    return ()


def which(tool: str) -> str | None:
    """Look the tool up in root's path."""
    return shutil.which(tool, path=PATH)


def pidfds() -> Finding:
    """Whether processes have descriptors (pidfd_open, Linux 5.3) and we can take listeners back (pidfd_getfd)."""
    try:
        pidfd = os.pidfd_open(os.getpid())
    except OSError as error:
        return problem("pidfd", f"pidfd_open: {os.strerror(error.errno or 0)}", "Linux 5.6 or newer is needed.")
    try:
        os.close(libc.pidfd_getfd(pidfd, pidfd))
    except OSError as error:
        return warning(
            "pidfd",
            f"pidfd_getfd: {error.strerror}; after a crash of the supervisor running servers cannot be adopted",
            "Use Linux 5.6 or newer; in a container allow the call pidfd_getfd.",
        )
    finally:
        os.close(pidfd)
    return ok("pidfd", "pidfd_open and pidfd_getfd work")


def cgroup_kind(mounts: str) -> str:
    """v2, hybrid, v1 or none, from the text of /proc/self/mounts."""
    entries = [line.split() for line in mounts.splitlines()]
    at = {entry[1]: entry[2] for entry in entries if len(entry) > 2 and entry[2] in ("cgroup", "cgroup2")}
    if at.get("/sys/fs/cgroup") == "cgroup2":
        return "v2"
    kinds = set(at.values())
    if kinds == {"cgroup", "cgroup2"}:
        return "hybrid"
    return {"cgroup": "v1", "cgroup2": "v2"}.get(next(iter(kinds), ""), "none")


def cgroups(mounts: str, *, has_systemd: bool) -> Finding:
    """Whether students' processes can be grouped. `has_systemd`: it is PID 1 (sd_booted(3))."""
    kind = cgroup_kind(mounts)
    manager = "systemd" if has_systemd else "no systemd"
    if kind == "none":
        return warning(
            "cgroups",
            f"none is mounted ({manager}): processes of a student's server cannot be grouped",
            "`shutdown` will end what is provably the class's and list the rest. Boot with cgroups to fix that.",
        )
    words = {
        "v2": "v2",
        "hybrid": "v1 with v2 beside it; students are kept in v2",
        "v1": "v1 only; students are kept in a v1 hierarchy",
    }
    return ok("cgroups", f"{words[kind]} ({manager})")


def systemd_runs() -> bool:
    return Path("/run/systemd/system").is_dir()


def reachable(subject: str, places: Mapping[str, Path]) -> Iterator[Finding]:
    """Whether students can reach these files and folders, and only root can replace them. Name → path."""
    judged: dict[Path, Finding | None] = {}
    for name, place in places.items():
        if not place.exists():
            gone = f"{name} {_shown(place)} does not exist"
            judged[place] = problem(subject, gone, "Install nblauncher again with ./install.sh.")
            continue
        for step in _steps(place):
            if step not in judged:
                judged[step] = _judge(subject, name, step)
    found = [finding for finding in judged.values() if finding is not None]
    yield from found
    if not found:
        yield ok(subject, f"students can run {_shown(next(iter(places.values())))}")


def preloading(objections: Sequence[str]) -> Finding:
    """Whether root may import what servers are forked from; `objections` are those of `system.trusted`."""
    if not objections:
        return ok("fork server", "servers are forked from a preloaded process")
    more = f" (and {len(objections) - 1} more)" if len(objections) > 1 else ""
    return warning(
        "fork server",
        f"{printable(objections[0])}{more}: root imports nothing from there, and each server is started as a program",
        "Make root its owner and let no other account write there, or set notebook.spawner: process.",
    )


def _steps(place: Path) -> Iterator[Path]:
    """The path as written and with links resolved, each with every folder above."""
    for path in dict.fromkeys((place.absolute(), place.resolve())):
        yield from reversed((path, *path.parents))


def _judge(subject: str, name: str, step: Path) -> Finding | None:
    status = step.stat()
    if stat.S_ISDIR(status.st_mode):
        is_open, needed = bool(status.st_mode & stat.S_IXOTH), "o+x"
    else:
        is_open, needed = status.st_mode & 0o005 == 0o005, "o+rx"
    if not is_open:
        return problem(
            subject,
            f"students cannot reach {name}: {_shown(step)} is closed to others",
            f"Install nblauncher with ./install.sh (into /opt/nblauncher), or run `chmod {needed} {_shown(step)}`.",
        )
    is_sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_uid != 0 or (status.st_mode & stat.S_IWOTH and not is_sticky):
        writer = _owner(status.st_uid) if status.st_uid != 0 else "every account"
        return problem(
            subject,
            f"{writer} can change {_shown(step)}, and root runs {name} through it",
            "Install nblauncher with ./install.sh: what root runs must belong to root.",
        )
    if status.st_mode & stat.S_IWGRP and status.st_gid != 0:
        return warning(
            subject,
            f"a group can change {_shown(step)}, and root runs {name} through it",
            f"Run `chmod g-w {_shown(step)}`.",
        )
    return None


def versions(found: Mapping[str, str | None], python: tuple[int, ...]) -> Iterator[Finding]:
    """`found`: package → installed version, None when it is not installed."""
    if python < _OLDEST_PYTHON:
        yield problem("versions", f"Python {_dotted(python)} is too old", "Python 3.10 or newer is needed.")
    good = [f"Python {_dotted(python)}"] if python >= _OLDEST_PYTHON else []
    for package, (least, too_new) in PACKAGES.items():
        version = found.get(package)
        numbers = tuple(map(int, re.findall(r"[0-9]+", version or "")[:3]))
        if version is None:
            yield problem("versions", f"{package} is not installed", "Install nblauncher again with ./install.sh.")
        elif numbers < least or (too_new is not None and numbers >= too_new):
            wanted = f"{_dotted(least)} or newer" + (f", before {_dotted(too_new)}" if too_new else "")
            yield problem("versions", f"{package} {version}, but {wanted} is needed", "Run ./install.sh again.")
        else:
            good.append(f"{package} {version}")
    if good:
        yield ok("versions", ", ".join(good))


def installed() -> dict[str, str | None]:
    """The installed versions of PACKAGES, from their metadata, without importing them."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _shown(path: Path) -> str:
    return printable(str(path))
