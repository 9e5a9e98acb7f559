"""An earlier version of a file, written into the home beside the present one by a child that is the student."""

from __future__ import annotations

from dataclasses import dataclass

from nblauncher.errors import HostError
from nblauncher.exchange.names import copy_folder, copy_name
from nblauncher.exchange.send import existing
from nblauncher.exchange.send.spool import Content
from nblauncher.exchange.students import student
from nblauncher.model import Account
from nblauncher.system import drafts, files, libc, workers

_MOST_COPIES = 99
_LONGEST = 300.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which content, and where: `path` below `target` below the home; `label` distinguishes the copy from the file."""

    target: str
    path: str
    label: str
    sha256: str
    size: int


def restore(account: Account, wanted: Wanted, content: int) -> str:
    """Write the content of root's open file beside the student's; the path of the copy below the target.

    An existing copy is reused. RefusedError for uid 0; HostError when the disk is full or something is in the way. No
    existing file is ever changed.
    """
    student(account)
    return str(workers.run_as(account, _restore, account, wanted, content, keep={content}, timeout=_LONGEST))


def _restore(account: Account, wanted: Wanted, content: int) -> str:
    above, _, name = wanted.path.rpartition("/")
    try:
        target = existing.enter(existing.open_home(account.home), wanted.target, can_make=True)
        folder, above = _enter(target, above, wanted)
        with Content(wanted.size, b"", content).draft(folder, 0o600) as draft:
            copy = _appear(draft, wanted, name, folder)
        libc.syncfs(folder)
    except (existing.Blocked, existing.Changed) as error:
        raise HostError(f"{wanted.path} was not restored: {error or 'the folder kept changing'}") from error
    return files.join(above, copy)


def _enter(target: int, above: str, wanted: Wanted) -> tuple[int, str]:
    """The folder for the copy; beside a file that now has the name of one of the folders."""
    try:
        return existing.enter(target, above, can_make=True), above
    except existing.BlockedByFile as error:
        beside = copy_folder(f"version {wanted.label}", wanted.path, error.path, 1)
        return existing.enter(target, beside, can_make=True), beside


def _appear(draft: drafts.Draft, wanted: Wanted, name: str, folder: int) -> str:
    for number in range(1, _MOST_COPIES + 1):
        copy = copy_name(f"version {wanted.label}", name, number)
        try:
            draft.appear(copy)
        except FileExistsError:
            with existing.look(copy, folder) as found:
                if found and found.has(wanted.sha256, wanted.size):
                    return copy
        else:
            return copy
    raise existing.Blocked(f"there are {_MOST_COPIES} copies of that time beside it")
