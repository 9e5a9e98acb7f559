"""Check passwords in a small thread pool, in turns: a client that guesses a lot only delays itself.

argon2 takes 18 ms of CPU and releases the interpreter lock. Clients take turns, and within a client its names: a flood
of guesses from another client at most doubles a student's wait, and one under the same NAT address costs a turn for
each guessed name. In a crowd (of clients, of names, of guesses at one name) every second turn goes to the newest
arrival, and the others by age: a client that keeps guessing is not new for long, so a student who signs in once hardly
waits for it, and no check waits longer than for twice the queue. The queue needs no limit of its own: a waiting check
belongs to an open connection, the number of those is limited, and a check is dropped when its client goes away.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from nblauncher.auth import passwords
from nblauncher.system.clients import address_group

THREADS = 2

CROWD = 8
"""Up to this many wait strictly in order."""

_LONGEST_TYPED = 200
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(eq=False, slots=True)
class _Check:
    """A password to be checked, and the future for its verdict."""

    typed: str
    hashed: str
    verdict: asyncio.Future[bool]


class Rota(Generic[_Key, _Value]):
    """Round robin; in a crowd every second turn goes to the newest key that has not had a turn yet."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[_Key, _Value] = OrderedDict()
        self._new: OrderedDict[_Key, None] = OrderedDict()
        self._is_newests_turn = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __contains__(self, key: object) -> bool:
        return key in self._waiting

    def get(self, key: _Key) -> _Value | None:
        return self._waiting.get(key)

    def join(self, key: _Key, value: _Value) -> _Value:
        """Queue `value` under this key, unless the key is there already. Returns the queued value."""
        if key not in self._waiting:
            self._waiting[key], self._new[key] = value, None
        return self._waiting[key]

    def next(self) -> tuple[_Key, _Value]:
        """The next key and its value; it goes to the end of the queue."""
        key = next(iter(self._waiting))
        if len(self._waiting) > CROWD:
            self._is_newests_turn = not self._is_newests_turn
            if self._is_newests_turn and self._new:
                key = next(reversed(self._new))
        self._new.pop(key, None)
        self._waiting.move_to_end(key)
        return key, self._waiting[key]

    def leave(self, key: _Key) -> None:
        del self._waiting[key]
        self._new.pop(key, None)


class Turns:
    """The waiting checks, by client and name. `take` goes round the clients, and round the names of each."""

    def __init__(self) -> None:
        self._clients: Rota[str, Rota[str, Rota[_Check, None]]] = Rota()

    def __bool__(self) -> bool:
        return bool(self._clients)

    def add(self, client: str, username: str, check: _Check) -> None:
        self._clients.join(client, Rota()).join(username, Rota()).join(check, None)

    def take(self) -> _Check:
        client, names = self._clients.next()
        username, checks = names.next()
        check, _ = checks.next()
        self.discard(client, username, check)
        return check

    def discard(self, client: str, username: str, check: _Check) -> None:
        """Forget a check when its client went away; does nothing if it had its turn already."""
        names = self._clients.get(client)
        checks = names.get(username) if names is not None else None
        if names is None or checks is None or check not in checks:
            return
        checks.leave(check)
        if not checks:
            names.leave(username)
        if not names:
            self._clients.leave(client)


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
        self._unknown_hash = passwords.jupyter_hash(passwords.generate())
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._free_threads = threads
        self._turns = Turns()

    async def is_right(self, client: str, username: str, typed: str) -> bool:
        """Whether `typed` is this student's password. Waits for the turn of this client and name.

        `client` is an address, or a share of nblauncher.system.clients.
        """
        loop = asyncio.get_running_loop()
        hashed = self._hashes.get(username, self._unknown_hash)
        check = _Check(typed[:_LONGEST_TYPED], hashed, loop.create_future())
        key = (address_group(client), username)
        self._turns.add(*key, check)
        self._start_waiting()
        try:
            # The password may have been changed meanwhile.
            return await check.verdict and self._hashes.get(username) == hashed
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
