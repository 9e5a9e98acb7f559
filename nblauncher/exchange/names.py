"""The folders above a file, names for a copy beside one, and what a special file is called. Pure."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from nblauncher.system import files

_LONGEST_SUFFIX = 32
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


def folders_above(path: str) -> Iterator[str]:
    """Of a relative path, the nearest first."""
    while path := path.rpartition("/")[0]:
        yield path


def copy_name(label: str, name: str, number: int) -> str:
    """`lab1 (update 2026-11-20).ipynb`, then `lab1 (update 2026-11-20 2).ipynb`; a long name is shortened to fit."""
    stem, suffix = os.path.splitext(name)
    if len(suffix) > _LONGEST_SUFFIX:
        stem, suffix = name, ""
    tail = os.fsencode(f" ({label}{f' {number}' if number > 1 else ''}){suffix}")
    whole = os.fsencode(stem)
    short = whole[: 255 - len(tail)]
    # Cut between characters; bytes that are not UTF-8 stay.
    return (os.fsdecode(short) if short == whole else short.decode("utf-8", "ignore")) + os.fsdecode(tail)


def copy_folder(label: str, path: str, file: str, number: int) -> str:
    """The folder for the file at `path` where another `file` has the name of one of its folders: beside that file."""
    above, _, name = file.rpartition("/")
    beside = files.join(above, copy_name(label, name, number))
    return f"{beside}{path.rpartition('/')[0][len(file) :]}"


def special_file(status: os.stat_result) -> str:
    """What to call a file that is neither regular, nor a folder, nor a link."""
    return _KINDS.get(stat.S_IFMT(status.st_mode), "a special file")
