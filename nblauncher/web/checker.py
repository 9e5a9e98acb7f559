"""Passwords are checked in a small thread pool, taking turns: who guesses a lot waits for himself.

argon2 takes 18 ms of CPU and releases the interpreter lock. Addresses take turns, and within an address the names: a
flood of guesses from elsewhere doubles a student's wait at most, and one under the same NAT address costs one turn per
name guessed. The queue needs no length limit of its own: a waiting check belongs to an open connection, those are
bounded, and one whose client went away is dropped.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from nblauncher import passwords
from nblauncher.web.guesses import address_group

THREADS = 2

_LONGEST_TYPED = 200


@dataclass(eq=False, slots=True)
class _Check:
    """One password to be checked, and who waits for the verdict."""

    typed: str
    hashed: str
    verdict: asyncio.Future[bool]


class Turns:
    """Checks that wait, by address and name. `take` goes around the addresses, and around the names of each."""

    def __init__(self) -> None:
        self._addresses: OrderedDict[str, OrderedDict[str, deque[_Check]]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._addresses)

    def add(self, address: str, username: str, check: _Check) -> None:
        self._addresses.setdefault(address, OrderedDict()).setdefault(username, deque()).append(check)

    def take(self) -> _Check:
        address, names = next(iter(self._addresses.items()))
        username, checks = next(iter(names.items()))
        check = checks.popleft()
        names.move_to_end(username)
        self._addresses.move_to_end(address)
        self._tidy(address, username)
        return check

    def discard(self, address: str, username: str, check: _Check) -> None:
        """Forget a check whose client went away; nothing happens when its turn has come already."""
        names = self._addresses.get(address)
        checks = names.get(username) if names is not None else None
        if checks is not None and check in checks:
            checks.remove(check)
            self._tidy(address, username)

    def _tidy(self, address: str, username: str) -> None:
        names = self._addresses[address]
        if not names[username]:
            del names[username]
        if not names:
            del self._addresses[address]


class PasswordChecker:
    """Answers whether a name and password belong together; an unknown name takes as long as a known one."""

    def __init__(
        self,
        hashes: Mapping[str, str],
        *,
        threads: int = THREADS,
        verify: Callable[[str, str], bool] = passwords.is_right,
    ) -> None:
        self._hashes = hashes
        self._verify = verify
        self._nobodys_hash = passwords.jupyter_hash(passwords.generate())
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._free_threads = threads
        self._turns = Turns()

    async def is_right(self, address: str, username: str, typed: str) -> bool:
        """Whether `typed` is the password of this student, once it is this address and name's turn."""
        loop = asyncio.get_running_loop()
        hashed = self._hashes.get(username, self._nobodys_hash)
        check = _Check(typed[:_LONGEST_TYPED], hashed, loop.create_future())
        key = (address_group(address), username)
        self._turns.add(*key, check)
        self._start_waiting()
        try:
            return await check.verdict and username in self._hashes
        finally:
            self._turns.discard(*key, check)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start_waiting(self) -> None:
        while self._turns and self._free_threads:
            check = self._turns.take()
            if check.verdict.done():
                continue
            self._free_threads -= 1
            running = asyncio.get_running_loop().run_in_executor(self._pool, self._verify, check.typed, check.hashed)
            running.add_done_callback(lambda done, check=check: self._finish(check, done))  # type: ignore[misc]

    def _finish(self, check: _Check, done: asyncio.Future[bool]) -> None:
        self._free_threads += 1
        if not check.verdict.done():
            error = done.exception()
            if error is None:
                check.verdict.set_result(done.result())
            else:
                check.verdict.set_exception(error)
        self._start_waiting()
