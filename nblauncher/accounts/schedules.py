"""What would start a student's process later, after all were ended: crontab, at jobs, linger.

They are stored outside of the home, by name or uid: the next account of that name would inherit the crontab.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.model import Account
from nblauncher.system.processes import ENVIRONMENT, run

_CRONTABS = tuple(map(Path, ("/var/spool/cron/crontabs", "/var/spool/cron/tabs", "/var/spool/cron")))
"""Debian, SUSE, Red Hat."""
_AT_JOBS = tuple(map(Path, ("/var/spool/cron/atjobs", "/var/spool/atjobs", "/var/spool/at")))
_LINGER = Path("/var/lib/systemd/linger")


def remove_schedules(account: Account) -> tuple[str, ...]:
    """Remove them. Returns what was removed. HostError when something stays."""
    return (*_remove_crontab(account), *_remove_at_jobs(account), *_remove_linger(account))


def schedules_of(account: Account) -> tuple[str, ...]:
    """What exists, in the same words; looks only."""
    found = {
        "crontab": any(_is_file(folder / account.username) for folder in _CRONTABS),
        "at jobs": any(_at_job_files(account)),
        "linger": _is_file(_LINGER / account.username),
    }
    return tuple(words for words, is_there in found.items() if is_there)


def _remove_crontab(account: Account) -> Iterator[str]:
    files = [folder / account.username for folder in _CRONTABS if _is_file(folder / account.username)]
    if not files:
        return
    if _is_installed("crontab"):
        run(["crontab", "-u", account.username, "-r"])
    for file in files:
        file.unlink(missing_ok=True)
    yield "crontab"


def _remove_at_jobs(account: Account) -> Iterator[str]:
    if not any(_at_job_files(account)):
        return
    if _is_installed("atq"):
        for line in run(["atq"]).splitlines():
            words = line.split()
            if words and words[-1] == account.username:
                # atd may have started the job in the meantime; the sweep ends it then.
                with contextlib.suppress(HostError):
                    run(["atrm", words[0]])
    for file in _at_job_files(account):
        file.unlink(missing_ok=True)
    yield "at jobs"


def _at_job_files(account: Account) -> Iterator[Path]:
    """Each job file has its account's uid; the folder belongs to the daemon, and students cannot write to it."""
    for folder in _AT_JOBS:
        if folder.is_dir():
            for entry in list(os.scandir(folder)):
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == account.uid:
                        yield Path(entry.path)


def _remove_linger(account: Account) -> Iterator[str]:
    mark = _LINGER / account.username
    if not _is_file(mark):
        return
    if Path("/run/systemd/system").is_dir() and _is_installed("loginctl"):
        with contextlib.suppress(HostError):  # logind may be gone; only the mark counts at the next boot
            run(["loginctl", "disable-linger", account.username])
    mark.unlink(missing_ok=True)
    yield "linger"


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _is_installed(tool: str) -> bool:
    return shutil.which(tool, path=ENVIRONMENT["PATH"]) is not None
