"""An earlier version of a file back into a home, beside the present one: a child that is the student writes it."""

from __future__ import annotations

from dataclasses import dataclass

from nblauncher import drafts, files, standing, swaps, workers
from nblauncher.errors import HostError, RefusedError
from nblauncher.model import Account
from nblauncher.spool import Content
from nblauncher.updating import folder_beside

_MOST_COPIES = 99
_LONGEST = 300.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which content, and where: `path` below `target` below the home; `label` tells the copy from the file."""

    target: str
    path: str
    label: str
    sha256: str
    size: int


def restore(account: Account, wanted: Wanted, content: int) -> str:
    """Write the content, which a descriptor of root's holds, beside the file; the path of the copy below the target.

    A copy that is there already will do. RefusedError for uid 0; HostError when the disk is full or something is in
    the way. Nothing that has a name is ever changed.
    """
    if account.uid == 0:
        raise RefusedError(f"{account.username} has uid 0; a student's home is never handled by root")
    return str(workers.run_as(account, _restore, account, wanted, content, keep={content}, timeout=_LONGEST))


def _restore(account: Account, wanted: Wanted, content: int) -> str:
    above, _, name = wanted.path.rpartition("/")
    try:
        target = standing.enter(standing.open_home(account.home), wanted.target, can_make=True)
        folder, above = _enter(target, above, wanted)
        with Content(wanted.size, b"", content).draft(folder, 0o600) as draft:
            copy = _appear(draft, wanted, name, folder)
        drafts.sync(folder)
    except (standing.InTheWay, standing.Raced) as error:
        raise HostError(f"{wanted.path} was not restored: {error or 'the folder kept changing'}") from error
    return files.join(above, copy)


def _enter(target: int, above: str, wanted: Wanted) -> tuple[int, str]:
    """The folder for the copy; beside a file that has the name of one of the folders by now."""
    try:
        return standing.enter(target, above, can_make=True), above
    except standing.FileInTheWay as error:
        beside = folder_beside(wanted.path, error.path, "version", wanted.label, 1)
        return standing.enter(target, beside, can_make=True), beside


def _appear(draft: drafts.Draft, wanted: Wanted, name: str, folder: int) -> str:
    for number in range(1, _MOST_COPIES + 1):
        copy = swaps.beside_name(name, "version", wanted.label, number)
        try:
            draft.appear(copy)
        except FileExistsError:
            with standing.look(copy, folder) as found:
                if found and found.has(wanted.sha256, wanted.size):
                    return copy
        else:
            return copy
    raise standing.InTheWay(f"there are {_MOST_COPIES} copies of that time beside it")
