"""Passwords are checked in a small thread pool, taking turns: who guesses a lot waits for himself.

argon2 takes 18 ms of CPU and releases the interpreter lock. Clients take turns, and within a client the names: a flood
of guesses from elsewhere doubles a student's wait at most, and one under the same NAT address costs one turn per name
guessed. In a crowd (of clients, of names, of guesses at one name) every second turn is the newest arrival's, the others
go by age: those who keep guessing are never new for long, so somebody who signs in once hardly waits for them, and
nobody waits longer than for twice the queue. The queue needs no length limit of its own: a waiting check belongs to an
open connection, those are bounded, and one whose client went away is dropped.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from nblauncher import passwords
from nblauncher.clients import address_group

THREADS = 2

CROWD = 8
"""As many wait strictly in order."""

_LONGEST_TYPED = 200
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(eq=False, slots=True)
class _Check:
    """One password to be checked, and who waits for the verdict."""

    typed: str
    hashed: str
    verdict: asyncio.Future[bool]


class Rota(Generic[_Key, _Value]):
    """Whose turn it is: in order, and in a crowd alternately the newest who has had none yet."""

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
        """What waits under this key; `value` when nothing did."""
        if key not in self._waiting:
            self._waiting[key], self._new[key] = value, None
        return self._waiting[key]

    def next(self) -> tuple[_Key, _Value]:
        """Who is next, and behind all others from now on."""
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
    """Checks that wait, by client and name. `take` goes around the clients, and around the names of each."""

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
        """Forget a check whose client went away; nothing happens when its turn has come already."""
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
        self._nobodys_hash = passwords.jupyter_hash(passwords.generate())
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._free_threads = threads
        self._turns = Turns()

    async def is_right(self, client: str, username: str, typed: str) -> bool:
        """Whether `typed` is the password of this student, once it is this client and name's turn. `client` is an
        address, or a share of nblauncher.clients.
        """
        loop = asyncio.get_running_loop()
        hashed = self._hashes.get(username, self._nobodys_hash)
        check = _Check(typed[:_LONGEST_TYPED], hashed, loop.create_future())
        key = (address_group(client), username)
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
