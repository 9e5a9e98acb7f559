"""What a student's server reports to the supervisor, one word a line, and how it knows that it is idle.

Runs in the student's process: the supervisor believes it about the student's own server only.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable

LISTENS = "listens"
SIGNED_IN = "signed-in"
"""A signed-in client sent a request."""
IDLE = "idle"
"""It ends now because it is not in use."""
SESSION = "session"
"""The student signed in: a session began."""
USED = "used"
"""The student did something, or a kernel had something to say."""
SAVED = "saved"
"""The student saved a file through Jupyter."""

WORDS = frozenset({LISTENS, SIGNED_IN, IDLE, SESSION, USED, SAVED})

_COUNTS = re.compile(r"(kernels|ended)=([0-9]{1,4})(?:/([0-9]{1,4}))?", re.ASCII)
KERNELS, ENDED = "kernels", "ended"

END_KERNELS = signal.SIGUSR2
"""The supervisor sends it to have the server's kernels ended, if this process handles it: see `handles`."""


def kernels_word(count: int, busy: int) -> str:
    """How many kernels it has, and how many of them are busy."""
    return f"{KERNELS}={min(count, 9999)}/{min(busy, 9999)}"


def ended_word(count: int) -> str:
    """How many kernels it ended because the teacher asked for it."""
    return f"{ENDED}={min(count, 9999)}"


def counts(word: str) -> tuple[str, int, int] | None:
    """KERNELS or ENDED with the two numbers of such a word; None for any other word."""
    found = _COUNTS.fullmatch(word)
    return None if found is None else (found[1], int(found[2]), int(found[3] or 0))


def is_known(word: str) -> bool:
    return word in WORDS or counts(word) is not None


def handles(pid: int, number: int = END_KERNELS) -> bool:
    """Whether this process has a handler for the signal, which would end a server of an older release.

    Source: proc_pid_status(5), SigCgt.
    """
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/status", "rb") as stream:
        for line in stream:
            if line.startswith(b"SigCgt:"):
                return bool(int(line.split()[1], 16) & 1 << (number - 1))
    return False


class Activity:
    """`news` is the pipe to the supervisor; `base_url` is the server's, `/user/NAME/`."""

    def __init__(self, news: int | None, base_url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._news, self._api, self._clock = news, f"{base_url}api/", clock
        self._last = self._looked = clock()
        self._sent: set[str] = set()
        self.counts = dict.fromkeys(WORDS, 0)
        """How often each word was reported."""
        self.is_used = False
        """The student did something since this was last set to False."""

    def tell(self, word: str) -> None:
        """Send each word once, whether or not a supervisor still reads it."""
        if word not in self._sent:
            self._sent.add(word)
            self.report(word)

    def report(self, word: str) -> None:
        """Send the word now. The supervisor stops reading a server that sends too many."""
        if word in self.counts:
            self.counts[word] += 1
        if self._news is not None:
            with contextlib.suppress(OSError):
                os.write(self._news, f"{word}\n".encode("ascii"))

    def seen(self, method: str, path: str) -> None:
        """A request of a signed-in client. An open tab polls the API by itself, which does not count as activity."""
        self.tell(SIGNED_IN)
        if method not in ("GET", "HEAD") or not path.startswith(self._api):
            self.is_used = True
            self.is_needed()

    def is_needed(self) -> None:
        """A kernel or a terminal runs, or the student did something."""
        self._last = self._clock()

    def look(self, every: float) -> None:
        """Called every so many seconds. A server that was frozen in between was not idle for that long."""
        late = self._clock() - self._looked - every
        self._looked += every + late
        if late > every:
            self._last += late

    def idle_seconds(self) -> float:
        return self._clock() - self._last
