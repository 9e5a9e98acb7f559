"""Three versions of a file into one: what was handed out, what the student made of it, what the teacher has now.

Pure: bytes in, bytes out. docs/updates.md has the policy as numbered cases, and a test is named after each.
"""

from __future__ import annotations

from nblauncher.merging import texts
from nblauncher.merging.result import Merged, UnmergeableError

__all__ = ["LARGEST", "TOO_LARGE", "Merged", "UnmergeableError", "load", "merge", "what_is_wrong"]

LARGEST = 16 << 20
"""Bytes of a version; a larger one is not merged."""

_MISTAKES = (AssertionError, AttributeError, LookupError, TypeError, ValueError)

TOO_LARGE = f"it is larger than {LARGEST >> 20} MiB"


def merge(name: str, base: bytes, student: bytes, teacher: bytes, *, is_back: bool = False) -> Merged:
    """The student's version with the teacher's changes since `base`; `name` says whether it is a notebook. One that
    `is_back` was gone from its name for a while, so that it may be another.

    UnmergeableError says why the student's version has to stay as it is, with the teacher's beside it.
    """
    if max(len(base), len(student), len(teacher)) > LARGEST:
        raise UnmergeableError(TOO_LARGE)
    try:
        if name.endswith(".ipynb"):
            from nblauncher.merging import notebooks  # nbformat takes longer than many a command

            return notebooks.merge(base, student, teacher, is_back=is_back)
        return texts.merge(base, student, teacher)
    except (MemoryError, RecursionError):
        raise UnmergeableError("it takes too much memory") from None
    except _MISTAKES as error:
        # In the table for the teacher, so that it is seen: but one file must not keep all others from a student.
        raise UnmergeableError(f"merging it failed, which is a bug in nblauncher ({error!r:.100})") from error


def what_is_wrong(data: bytes) -> str:
    """Why these bytes are not a notebook that Jupyter opens; '' when they are."""
    from nblauncher.merging import notebook_file

    return notebook_file.what_is_wrong(data)


def load() -> None:
    """Have in memory what merging needs, before a child is forked for it."""
    from nblauncher.merging import notebook_file

    notebook_file.load()
