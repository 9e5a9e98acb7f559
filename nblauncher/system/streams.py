"""A worker that sends frames before its answer: the frames as they come, and deadlines for a stall and for all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Collection, Generator
from typing import Any

from nblauncher.errors import HostError
from nblauncher.model import Account
from nblauncher.system import workers
from nblauncher.system.workers import Frame

_PIPE_BYTES = 1 << 20
_LAST_WORDS = 10.0


class Voice:
    """The worker's end. Call `tick` during long work that sends nothing: it sends a sign of life now and then."""

    def __init__(self, output: int) -> None:
        self._output = output
        self._sent_at = time.monotonic()

    def send(self, header: dict[str, Any], payload: bytes | memoryview = b"") -> None:
        workers.write_frame(self._output, header, payload)
        self._sent_at = time.monotonic()

    def tick(self) -> None:
        if time.monotonic() - self._sent_at > 1.0:
            self.send({"kind": "tick"})


def frames_of(
    account: Account,
    function: Callable[..., None],
    *arguments: object,
    keep: Collection[int] = (),
    stall: float,
    longest: float,
) -> Generator[Frame, None, None]:
    """Run `function(output, *arguments)` as the account and yield the frames it writes to `output`, ticks left out.

    `stall` and `longest` are seconds without a frame and in all. Raises as Worker.result does, and HostError when a
    deadline passed. The worker is stopped in any case, also when the caller stops reading.
    """
    reader, output = os.pipe()
    with contextlib.suppress(PermissionError):  # tests without root may be over the user's share of pipe memory
        fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    try:
        worker = workers.start(account, function, output, *arguments, keep={output, *keep})
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(output)
    deadline = time.monotonic() + longest
    try:
        while (frame := _next(reader, account, stall, deadline)) is not None:
            if frame.header.get("kind") != "tick":
                yield frame
        worker.result(_LAST_WORDS)
    finally:
        worker.stop()
        os.close(reader)


def _next(reader: int, account: Account, stall: float, deadline: float) -> Frame | None:
    try:
        return workers.read_frame(reader, min(stall, deadline - time.monotonic()))
    except TimeoutError as error:
        is_stall = time.monotonic() < deadline
        why = f"made no progress for {stall:.0f} s" if is_stall else "took too long in all"
        raise HostError(f"a file worker of {account.username} {why} and was ended") from error
