"""Merges three versions of a file: what was handed out, what the student made of it, what the teacher has now.

Pure: bytes in, bytes out. docs/updates.md has the policy as numbered cases, and a test is named after each.
"""

from __future__ import annotations

from nblauncher.exchange.merge import texts
from nblauncher.exchange.merge.result import Merged, UnmergeableError

__all__ = ["LARGEST", "TOO_LARGE", "Merged", "UnmergeableError", "load", "merge", "what_is_wrong"]

LARGEST = 16 << 20
"""Bytes of a version; a larger one is not merged."""

_MISTAKES = (AssertionError, AttributeError, LookupError, TypeError, ValueError)

TOO_LARGE = f"it is larger than {LARGEST >> 20} MiB"


def merge(name: str, base: bytes, student: bytes, teacher: bytes, *, is_back: bool = False) -> Merged:
    """The student's version with the teacher's changes since `base`; `name` says whether it is a notebook. `is_back`:
    the name was free for a while, so this may be another file.

    UnmergeableError says why the student's version must stay as it is, with the teacher's beside it.
    """
    if max(len(base), len(student), len(teacher)) > LARGEST:
        raise UnmergeableError(TOO_LARGE)
    try:
        if name.endswith(".ipynb"):
            from nblauncher.exchange.merge import notebooks  # importing nbformat takes longer than many commands

            return notebooks.merge(base, student, teacher, is_back=is_back)
        return texts.merge(base, student, teacher)
    except (MemoryError, RecursionError):
        raise UnmergeableError("it takes too much memory") from None
    except _MISTAKES as error:
        # The teacher's table shows it. One file must not keep the others from a student.
        raise UnmergeableError(f"merging it failed, which is a bug in nblauncher ({error!r:.100})") from error


def what_is_wrong(data: bytes) -> str:
    """Why these bytes are not a notebook that Jupyter opens; '' when they are."""
    from nblauncher.exchange.merge import notebook_file

    return notebook_file.what_is_wrong(data)


def load() -> None:
    """Import what merging needs, before the children are forked."""
    from nblauncher.exchange.merge import notebook_file

    notebook_file.load()
