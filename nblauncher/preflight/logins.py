"""check --logins: every student's sign-ins with the passwords of the credentials file, tried for real.

A password is compared with its hash first, and only the right one is typed: a wrong one would count as a guess
(pam_faillock, the front page's delays), and is no fault of the host. The passwords go from the teacher's child to a
child of ours and to processes of the front page's account, into no argument and no log.
"""

from __future__ import annotations

import ctypes
import logging
import os
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from nblauncher.accounts import SYSTEM_ACCOUNTS
from nblauncher.accounts.passwd import shadow_fields
from nblauncher.auth import credentials, hashes, passwords
from nblauncher.errors import HostError, NblauncherError
from nblauncher.ledger import lockouts
from nblauncher.model import ROOT, AccountState, ServerState
from nblauncher.planning import survey
from nblauncher.planning.host import Host
from nblauncher.preflight.finding import Finding, ok, problem, warning
from nblauncher.preflight.login_attempts import LONGEST, Attempt, Door, attempt
from nblauncher.supervisor import client
from nblauncher.supervisor.ports import WILDCARDS
from nblauncher.system import interruption, memory, workers

log = logging.getLogger(__name__)

AT_A_TIME = 8
"""Sign-ins that are tried together."""

Word = Literal["ok", "failed", "not tried"]
KINDS: Mapping[str, str] = {"system": "su", "notebook": "front page"}
_NO_PASSWORDS = "students have no system password (accounts.system_password)"
_CRYPT_DATA = 1 << 16
"""Bytes for crypt_r(3); libxcrypt uses half of them."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one way in was. `reason` is empty for `ok`."""

    word: Word
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Login:
    """One student's two ways in."""

    username: str
    system: Outcome
    notebook: Outcome

    def entry(self) -> dict[str, Any]:
        """For `--json`."""
        ways = {kind: {"state": way.word, "reason": way.reason} for kind, way in self.ways.items()}
        return {"username": self.username, **ways}

    @property
    def ways(self) -> dict[str, Outcome]:
        return {"system": self.system, "notebook": self.notebook}


def tried(host: Host, usernames: Sequence[str]) -> list[Login]:
    """Try all of them, a few at a time, each within LONGEST seconds. HostError when none can be tried."""
    helper = host.accounts.lookup(SYSTEM_ACCOUNTS[0])
    if helper is None:
        raise HostError(
            f"the system account {SYSTEM_ACCOUNTS[0]} is missing", "Run `nblauncher setup`, which makes it."
        )
    kept = {kind: reasons(host, usernames, kind) for kind in KINDS}
    patience = 60.0 + LONGEST * (1 + len(usernames) // AT_A_TIME)
    found = workers.run_as(ROOT, _in_child, host, tuple(usernames), kept, timeout=patience)
    return [Login(name, *(Outcome(*kept[kind].get(name) or found[name][kind]) for kind in KINDS)) for name in usernames]


def findings(logins: Sequence[Login]) -> list[Finding]:
    """A line for each way in, and one for each student who could not get in, or was not tried."""
    lines = []
    for kind, title in KINDS.items():
        ways = {login.username: login.ways[kind] for login in logins}
        if ways and all(way.reason == _NO_PASSWORDS for way in ways.values()):
            lines.append(ok(title, _NO_PASSWORDS))
            continue
        inside = sum(way.word == "ok" for way in ways.values())
        level = ok if inside == len(ways) else warning
        hint = "" if inside == len(ways) else "Look at the lines below."
        lines.append(_line(level, title, f"{inside} of {len(ways)} students can sign in", hint))
        causes: dict[Outcome, list[str]] = {}
        for name, way in ways.items():
            if way.word != "ok":
                causes.setdefault(way, []).append(name)
        for way, names in causes.items():
            level = problem if way.word == "failed" else warning
            lines.append(_line(level, title, f"{', '.join(names)}: {way.reason}", _hint(kind, way, names)))
    return lines


def verdict(logins: Sequence[Login]) -> str:
    """The result in one line."""
    failed = [login.username for login in logins if any(way.word == "failed" for way in login.ways.values())]
    return f"{len(failed)} of {len(logins)} students could not get in." if failed else "No student was kept out."


def reasons(host: Host, usernames: Collection[str], kind: str) -> dict[str, tuple[Word, str]]:
    """Students for whom there is nothing to try, and why."""
    found: dict[str, tuple[Word, str]] = {}
    facts = survey.survey(host, usernames)
    locked = lockouts.read(host.paths.lockouts)
    states = _server_states(host) if kind == "notebook" else {}
    room = memory.room().servers(host.settings.notebook.spawner)
    for name in usernames:
        if name not in facts.members or name not in facts.with_passwords:
            found[name] = ("failed", "not set up")
        elif name in locked:
            found[name] = ("not tried", "locked")
        elif kind == "system":
            if host.settings.accounts.create and not host.settings.accounts.has_system_passwords:
                found[name] = ("not tried", _NO_PASSWORDS)
            elif facts.state(name) is not AccountState.COMPLETE:
                is_guest = facts.state(name) is AccountState.GUEST
                why = "a guest, whose password nblauncher does not know" if is_guest else facts.state(name).value
                found[name] = ("not tried", f"the account is {why}")
        elif not states:
            found[name] = ("not tried", "the class does not run")
        elif states.get(name) is ServerState.ASLEEP and (room := room - 1) < 0:
            found[name] = ("not tried", "the server sleeps, and the host has no memory for one more")
    return found


def _server_states(host: Host) -> dict[str, ServerState]:
    supervisor = client.connect(host.paths)
    if supervisor is None:
        return {}
    with supervisor:
        if supervisor.front_page().state is not ServerState.READY:
            return {}
        return {report.username: report.state for report in supervisor.servers()}


def _in_child(
    host: Host, usernames: Sequence[str], kept: Mapping[str, Mapping[str, object]]
) -> dict[str, dict[str, tuple[Word, str]]]:
    """As root, in a process that ends with the passwords that it has seen."""
    found: dict[str, dict[str, tuple[Word, str]]] = {name: {} for name in usernames}
    typed = credentials.passwords_in(host.owner, host.settings.credentials)
    attempts = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checked = pool.map(lambda name: _checked(host, name, typed.get(name, {}), kept), usernames)
        for name, (objections, wanted) in zip(usernames, checked, strict=True):
            found[name] |= objections
            if wanted.system is not None or wanted.notebook is not None:
                attempts.append(wanted)
    for name, answers in _all(host, attempts).items():
        for kind, reason in answers.items():
            found[name][kind] = ("failed", reason) if reason else ("ok", "")
    return found


def _checked(
    host: Host, name: str, cells: Mapping[str, str], kept: Mapping[str, Mapping[str, object]]
) -> tuple[dict[str, tuple[Word, str]], Attempt]:
    """What need not be tried, and what is to be."""
    objections: dict[str, tuple[Word, str]] = {}
    wanted: dict[str, str | None] = dict.fromkeys(KINDS)
    for kind in KINDS:
        if name in kept[kind]:
            continue
        text = cells.get(f"{kind}_password", "")
        if not passwords.is_well_formed(text):
            objections[kind] = ("not tried", "the credentials file has no password for it")
        elif kind == "system" and (why := _system_objection(name, text)):
            objections[kind] = ("not tried", why)
        elif kind == "notebook" and not passwords.is_right(text, hashes.read(host.paths.hashes).get(name, "")):
            objections[kind] = ("failed", "the credentials file has another password than the class")
        else:
            wanted[kind] = text
    claim = host.ledger.claim(name)
    uid = claim.account.uid if claim is not None else -1
    return objections, Attempt(name, uid, wanted["system"], wanted["notebook"], _door(host))


def _system_objection(name: str, text: str) -> str:
    fields = shadow_fields(name)
    if fields is None:
        return "the account has no password on this host"
    hashed = hash_of(text, fields[1].lstrip("!"))
    if hashed is None:
        return "this host's crypt(3) cannot be asked whether the password is right"
    return "" if hashed == fields[1].lstrip("!") else "the student changed the password"


def _all(host: Host, attempts: Sequence[Attempt]) -> dict[str, dict[str, str]]:
    """Some at a time, each in a process of the front page's account."""
    helper = host.accounts.lookup(SYSTEM_ACCOUNTS[0])
    found: dict[str, dict[str, str]] = {}
    waiting, running = list(attempts), dict[int, _Running]()
    try:
        while helper is not None and (waiting or running):
            while waiting and len(running) < AT_A_TIME:
                wanted = waiting.pop(0)
                worker = workers.start(helper, attempt, wanted)
                running[worker.fileno()] = _Running(wanted, worker, time.monotonic() + LONGEST)
            first = min(one.until for one in running.values())
            ready = interruption.wait(list(running), max(0.0, first - time.monotonic()))
            late = [number for number, one in running.items() if one.until <= time.monotonic()]
            for number in {*ready, *late}:
                one = running.pop(number)
                found[one.wanted.username] = _result(one, is_late=number not in ready)
    finally:
        for one in running.values():
            one.worker.stop()
    return found


@dataclass(frozen=True, slots=True)
class _Running:
    wanted: Attempt
    worker: workers.Worker
    until: float
    """Ended then: what a student's shell and server answer may never end."""


def _result(one: _Running, *, is_late: bool) -> dict[str, str]:
    try:
        answer = one.worker.result(0.1)
        return {kind: str(answer[kind]) for kind in KINDS if kind in answer}
    except NblauncherError as error:
        kinds = {"system": one.wanted.system, "notebook": one.wanted.notebook}
        why = f"it took more than {LONGEST:.0f} s" if is_late else error.problem
        return {kind: why for kind, text in kinds.items() if text is not None}


def _door(host: Host) -> Door:
    bound = [address for address in host.settings.web.bind if address not in WILDCARDS]
    ca = (host.paths.tls / "ca.pem").read_text("ascii") if host.settings.tls.mode == "class-ca" else ""
    return Door(host.frontend.front_page, bound[0] if bound else "127.0.0.1", ca)


def _line(level: Any, subject: str, message: str, hint: str) -> Finding:
    return level(subject, message) if level is ok else level(subject, message, hint)


def _hint(kind: str, way: Outcome, names: Sequence[str]) -> str:
    if way.reason == "not set up":
        return "Run `nblauncher setup`."
    if way.reason == "locked":
        return f"`nblauncher unlock {names[0]}` lets the student in again."
    if way.reason == "the class does not run":
        return "Run `nblauncher launch`, then this again."
    if "password" in way.reason and way.word != "failed":
        return f"`nblauncher passwd --{kind} {names[0]}` makes a new one."
    return "`nblauncher status` and the logs say more." if kind == "notebook" else "Try `su -l` as a normal account."


@cache
def _crypt_function() -> Any:
    for name in ("libcrypt.so.1", "libcrypt.so.2"):
        try:
            function = ctypes.CDLL(name).crypt_r
        except (OSError, AttributeError):
            continue
        function.restype = ctypes.c_char_p
        function.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p)
        return function
    return None


def hash_of(text: str, setting: str) -> str | None:
    """The hash of a password as in /etc/shadow; None where it cannot be computed (crypt(3))."""
    function = _crypt_function()
    if function is None or not setting.startswith("$"):
        return None
    made = function(text.encode(), setting.encode(), ctypes.create_string_buffer(_CRYPT_DATA))
    return None if made is None or made.startswith(b"*") else made.decode()
