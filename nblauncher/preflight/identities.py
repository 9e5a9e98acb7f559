"""Where accounts come from, and whether there are uids, homes and a shell for new ones."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from nblauncher.accounts import home_folders
from nblauncher.config.settings import AccountSettings
from nblauncher.errors import RefusedError
from nblauncher.preflight.finding import Finding, ok, problem, warning
from nblauncher.printable import printable

_FROM_NETWORK = frozenset({"sss", "ldap", "nis", "nisplus", "winbind", "hesiod", "compat"})
# https://systemd.io/UIDS-GIDS
_HIGHEST_UID = 2_000_000_000
_SYSTEMD_RANGES: Mapping[str, range] = {
    "systemd-homed": range(60001, 60514),
    "systemd's dynamic users": range(61184, 65520),
    "systemd's containers": range(524288, 1879048192),
}


def account_sources(nsswitch: str, *, creates: bool) -> Finding:
    """Judge the text of /etc/nsswitch.conf. `creates`: the course makes its accounts."""
    line = re.search(r"^\s*passwd\s*:([^#\n]*)", nsswitch, re.MULTILINE)
    sources = re.sub(r"\[[^\]]*\]", " ", line[1]).split() if line else ["files"]
    network = [source for source in sources if source in _FROM_NETWORK]
    if not network:
        return ok("accounts", f"passwd comes from this host ({' '.join(sources)})")
    words = f"passwd also comes from the network ({printable(' '.join(sources))})"
    if not creates:
        return ok("accounts", f"{words}, and this course makes no accounts")
    if "files" not in sources or sources.index(network[0]) < sources.index("files"):
        return warning(
            "accounts",
            f"{words}, which is asked before this host: a network account may hide one that we make",
            "Put files first in /etc/nsswitch.conf, or set accounts.create: false if students have network accounts.",
        )
    return warning(
        "accounts",
        f"{words}: a network account may have one of our uids, also later",
        "Set accounts.uid_range to uids that the network never uses, or accounts.create: false.",
    )


def uid_range(
    wanted: range, students: int, login_defs: str, taken: Mapping[int, str], ours: Collection[int]
) -> Iterator[Finding]:
    """`taken`: uid → name of every account on the host; `ours`: uids that we have ever assigned."""
    limits = _limits(login_defs)
    subject = "uid range"
    shown = f"{wanted.start}-{wanted.stop - 1}"
    least, most = limits.get("UID_MIN", 1000), limits.get("UID_MAX", 60000)
    if wanted.start < least:
        yield problem(subject, f"{shown} begins below UID_MIN, {least}", "Choose a higher accounts.uid_range.")
    for name, others in _reserved(limits).items():
        if max(wanted.start, others.start) < min(wanted.stop, others.stop):
            yield warning(
                subject,
                f"{shown} overlaps {others.start}-{others.stop - 1}, used by {name}",
                "Choose another accounts.uid_range.",
            )
    strangers = {uid: name for uid, name in taken.items() if uid in wanted and uid not in ours}
    free = len(wanted) - len({*strangers, *(uid for uid in ours if uid in wanted)})
    if free < students:
        yield problem(subject, f"{shown} has {free} uids left for {students} students", "Widen accounts.uid_range.")
    elif strangers:
        some = ", ".join(f"{printable(name)} ({uid})" for uid, name in sorted(strangers.items())[:3])
        yield warning(
            subject,
            f"{len(strangers)} uids of {shown} belong to accounts that we did not make: {some}",
            "They are left alone; choose a range for the class alone to keep them apart.",
        )
    else:
        ordinary = max(wanted.start, least) <= most
        remark = f"; the host's next ordinary useradd may take one of them (UID_MAX is {most})" if ordinary else ""
        yield ok(subject, f"{shown}: {free} left{remark}")


def range_for(login_defs: str, usual: range) -> range:
    """`usual`, or, where this host's own useradd assigns its uids or they are reserved, the next range that is free."""
    limits = _limits(login_defs)
    taken = [*_reserved(limits).values(), range(limits.get("UID_MAX", 60000) + 1)]
    for first in (usual.start, *range(usual.start + len(usual), _HIGHEST_UID, len(usual))):
        found = range(first, first + len(usual))
        if not any(max(found.start, one.start) < min(found.stop, one.stop) for one in taken):
            return found
    return usual


def _limits(login_defs: str) -> dict[str, int]:
    found = re.findall(r"^\s*(UID_M\w+|SUB_UID_M\w+)\s+(\d+)", login_defs, re.M)
    return {name: int(value) for name, value in found}


def _reserved(limits: Mapping[str, int]) -> Mapping[str, range]:
    return {**_SYSTEMD_RANGES, "subordinate uids": _subordinate(limits)}


def _subordinate(limits: Mapping[str, int]) -> range:
    """The uids for containers that useradd assigns (login.defs: SUB_UID_MIN, SUB_UID_MAX)."""
    return range(limits.get("SUB_UID_MIN", 100000), limits.get("SUB_UID_MAX", 600100000) + 1)


def new_accounts(settings: AccountSettings, shells: str) -> Iterator[Finding]:
    """The folder for homes and the login shell. `shells` is the text of /etc/shells."""
    if not settings.create:
        return
    try:
        home_folders.refuse_unsafe_root(settings.home)
    except PermissionError as error:
        hint = "Run `sudo nblauncher check`."
        yield warning("homes", f"the path to {printable(str(settings.home))} cannot be checked: {error}", hint)
    except RefusedError as error:
        yield problem("homes", printable(error.problem), printable(error.hint) or "Choose another accounts.home.")
    if not Path(settings.shell).is_file() or not os.access(settings.shell, os.X_OK):
        yield problem("shell", f"{printable(settings.shell)} is not a program", "Set accounts.shell.")
    elif settings.shell not in {line.strip() for line in shells.splitlines()}:
        yield warning(
            "shell", f"{printable(settings.shell)} is not in /etc/shells", "Some services refuse such accounts; add it."
        )
