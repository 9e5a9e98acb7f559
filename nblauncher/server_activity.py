"""What a student's server tells the supervisor, a word and a newline each, and how it knows that it is idle.

Runs in the student's process: the supervisor believes it only about the student's own server.
"""

from __future__ import annotations

import contextlib
import os
import time

LISTENS = "listens"
SIGNED_IN = "signed-in"
"""Somebody who is signed in asked for something."""
IDLE = "idle"
"""It ends now because nobody needs it."""

WORDS = frozenset({LISTENS, SIGNED_IN, IDLE})


class Activity:
    """`news` is the pipe to the supervisor; `base_url` the server's, `/user/NAME/`."""

    def __init__(self, news: int | None, base_url: str) -> None:
        self._news, self._api = news, f"{base_url}api/"
        self._last = time.monotonic()
        self._told: set[str] = set()

    def tell(self, word: str) -> None:
        """Each word once; nobody has to listen."""
        if self._news is not None and word not in self._told:
            self._told.add(word)
            with contextlib.suppress(OSError):
                os.write(self._news, f"{word}\n".encode("ascii"))

    def seen(self, method: str, path: str) -> None:
        """A request of somebody who is signed in. An open tab asks the API by itself, and changes nothing by that."""
        self.tell(SIGNED_IN)
        if method not in ("GET", "HEAD") or not path.startswith(self._api):
            self.is_needed()

    def is_needed(self) -> None:
        """A kernel or a terminal runs, or the student did something."""
        self._last = time.monotonic()

    def idle_seconds(self) -> float:
        return time.monotonic() - self._last
