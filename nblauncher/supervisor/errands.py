"""Short-lived children that do what takes time: the supervisor itself waits for no program, and for no other host."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Collection
from typing import Any

from nblauncher.errors import HostError, NblauncherError
from nblauncher.model import Account
from nblauncher.supervisor.loop import Loop
from nblauncher.system import workers
from nblauncher.system.workers import Worker

log = logging.getLogger(__name__)

_MOST_BYTES = 8 << 20
_READ = 1 << 16


class Errands:
    """The loop reaps the children."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def run(
        self,
        account: Account,
        function: Callable[..., Any],
        *arguments: object,
        deadline: float,
        done: Callable[[Any], None],
        failed: Callable[[HostError], None],
        keep: Collection[int] = (),
    ) -> None:
        """Run the function in a child that becomes the account (nblauncher.system.workers). Calls `done` with what it
        returned, or `failed`; a child that is not done after `deadline` seconds is killed.
        """
        try:
            worker = workers.start(account, function, *arguments, keep=keep)
        except HostError as error:
            failed(error)
            return
        worker.leave()
        _Errand(self._loop, worker, deadline, done, failed)


class _Errand:
    def __init__(
        self,
        loop: Loop,
        worker: Worker,
        deadline: float,
        done: Callable[[Any], None],
        failed: Callable[[HostError], None],
    ) -> None:
        self._loop, self._worker, self._done, self._failed = loop, worker, done, failed
        self._received = bytearray()
        os.set_blocking(worker.answer, False)
        loop.watch(worker.answer, self._read)
        self._timer = loop.later(deadline, self._give_up)
        self._deadline = deadline

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._worker.answer, _READ):
                self._received += part
                if len(self._received) > _MOST_BYTES:
                    break
            self._end()

    def _give_up(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._worker.pidfd, signal.SIGKILL)
        self._close()
        self._failed(HostError(f"no answer within {self._deadline:.0f} s"))

    def _end(self) -> None:
        self._close()
        try:
            result = self._worker.told(bytes(self._received))
        except HostError as error:
            self._failed(error)
        except NblauncherError as error:
            self._failed(HostError(error.problem, error.hint))
        except RuntimeError as error:
            log.error("%s", error)
            self._failed(HostError("a bug in nblauncher", "The supervisor's log has the traceback."))
        else:
            self._done(result)

    def _close(self) -> None:
        self._timer.cancel()
        self._loop.forget(self._worker.answer)
        os.close(self._worker.answer)
        os.close(self._worker.pidfd)
