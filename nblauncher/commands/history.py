"""history and restore: which versions of a student's files there are, and one of them back beside the present file."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

from nblauncher import files, moments, restoring, survey
from nblauncher.errors import HostError, InputError
from nblauncher.host import Host
from nblauncher.printable import printable


def snapshots(host: Host, username: str) -> list[dict[str, Any]]:
    """Oldest first: time, files, bytes, how many files changed, whether everything could be kept."""
    return [
        {
            "time": moments.iso(one.time),
            "files": one.files,
            "bytes": one.bytes,
            "changed": one.changed,
            "complete": one.is_complete,
        }
        for one in host.history.snapshots(username)
    ]


def versions(host: Host, username: str, path: str) -> list[dict[str, Any]]:
    """Of one file, oldest first: from when to when it was seen so, its size and its sha256."""
    return [
        {
            "first": moments.iso(one.first),
            "last": moments.iso(one.last),
            "present": one.until is None,
            "bytes": one.size,
            "sha256": one.sha256,
        }
        for one in host.history.versions(username, path)
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

    InputError when there is none; HostError when the content is damaged or the home says no.
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
            f"{path} was not there in the snapshot of {moments.words(snapshot.time)}",
            f"`nblauncher history {username} {printable(path)}` lists its versions.",
        )
    account = survey.student_account(host, username)
    if not host.contents.is_whole(version.sha256):
        raise HostError(f"the kept content of {path} is damaged or gone", "Try another time.")
    descriptor = os.open(host.contents.path(version.sha256), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        label = moments.short(snapshot.time).rpartition(" ")[0].replace(":", ".")
        wanted = restoring.Wanted(host.settings.material.target, path, label, version.sha256, version.size)
        return restoring.restore(account, wanted, descriptor)
    finally:
        os.close(descriptor)
