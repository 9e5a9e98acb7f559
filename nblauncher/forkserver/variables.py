"""Variables that libraries read when they are imported, for kernels in which they were imported before the fork.

A cell that sets OMP_NUM_THREADS or MPLBACKEND before its first import means what the import would have read. In a
forked kernel nothing reads it any more, so it is taken over when it is set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable


def watch(names: Iterable[str], take_over: Callable[[str, str], None]) -> None:
    """Call `take_over(name, value)` whenever one of these is set through os.environ, %env or os.putenv.

    os.environ calls the putenv of its own module, so that one is replaced by one that also calls `take_over`.
    """
    wanted, putenv = frozenset(names), os.putenv

    def put(name: str | bytes, value: str | bytes, /) -> None:
        putenv(name, value)
        if (text := os.fsdecode(name)) in wanted:
            take_over(text, os.fsdecode(value))

    put.__name__ = put.__qualname__ = "putenv"
    os.putenv = put  # type: ignore[assignment]
