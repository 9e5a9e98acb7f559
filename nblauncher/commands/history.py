"""history and restore: which versions of a student's files there are, and one of them back beside the present file."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

from nblauncher.config import times
from nblauncher.errors import HostError, InputError
from nblauncher.exchange.history import restore as restoring
from nblauncher.planning import survey
from nblauncher.planning.host import Host
from nblauncher.printable import printable
from nblauncher.system import files


def snapshots(host: Host, username: str) -> list[dict[str, Any]]:
    """Oldest first: time, files, bytes, how many files changed, whether everything could be kept."""
    return [
        {
            "time": times.iso(snapshot.time),
            "files": snapshot.files,
            "bytes": snapshot.bytes,
            "changed": snapshot.changed,
            "complete": snapshot.is_complete,
        }
        for snapshot in host.history.snapshots(username)
    ]


def versions(host: Host, username: str, path: str) -> list[dict[str, Any]]:
    """The versions of one file, oldest first: when each was seen first and last, size, sha256."""
    return [
        {
            "first": times.iso(version.first),
            "last": times.iso(version.last),
            "present": version.until is None,
            "bytes": version.size,
            "sha256": version.sha256,
        }
        for version in host.history.versions(username, path)
    ]


def checked_path(text: str) -> str:
    """A file below the material folder; InputError when it leads elsewhere."""
    try:
        parts = files.parts_of(text)
    except HostError as error:
        raise InputError(error.problem) from None
    if not parts:
        raise InputError("no file was named")
    return text


def restore(host: Host, username: str, path: str, time: datetime) -> str:
    """Put the version of that time beside the present file, as the student; the path of the copy below the material.

    InputError when there is none; HostError when the content is damaged or the home cannot be written.
    """
    found = host.history.at(username, path, time)
    if found is None:
        raise InputError(
            f"there is no snapshot of {username} from that time or before",
            f"`nblauncher history {username}` lists them.",
        )
    snapshot, version = found
    if version is None:
        raise InputError(
            f"{path} did not exist in the snapshot of {times.words(snapshot.time)}",
            f"`nblauncher history {username} {printable(path)}` lists its versions.",
        )
    account = survey.student_account(host, username)
    if not host.contents.is_whole(version.sha256):
        raise HostError(f"the kept content of {path} is damaged or gone", "Try another time.")
    descriptor = os.open(host.contents.path(version.sha256), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        label = times.short(snapshot.time).rpartition(" ")[0].replace(":", ".")
        wanted = restoring.Wanted(host.settings.material.target, path, label, version.sha256, version.size)
        return restoring.restore(account, wanted, descriptor)
    finally:
        os.close(descriptor)
