"""check --security: attacks that give no access to another student, but harm another all the same.

A frozen student goes on writing; one student's bytes push another's versions out of the history; wrong guesses from
many loopback addresses count as many clients; a package's build leaves something on the host.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

from nblauncher.environments import course_packages
from nblauncher.errors import HostError
from nblauncher.planning.host import Host
from nblauncher.preflight.trial_pair import ATTACKER, VICTIM, Pair, nblauncher, request, run, run_in
from nblauncher.system import interruption, workers

BUDGET = "16 MB"
"""For the history of the throw-away class, both students together."""

_FILL = 6_000_000
_SNAPSHOTS = 4
_COUNTER = "counter-{place}"
_LOOK = 0.5
"""Seconds in which a running process writes several times."""
_GUESSES = 6
_SLOWED = 2.0
"""Seconds by which the last of so many guesses of one client is delayed at least (nblauncher.auth.guesses)."""


def tried(host: Host, pair: Pair) -> Iterator[tuple[str, str, str]]:
    """The place, the attack, and what it got; empty if it was held."""
    yield from _freezing(pair)
    yield "a notebook", "push another's versions out of the history", _history(pair)
    if not host.settings.web.bind:
        yield "a login", "pass for many clients by loopback addresses", _guesses(host, pair)
    yield "a package's build", "stay on the host", _building(host, pair)


_WRITER = """
import os, pathlib, signal, time
if os.fork():
    os._exit(0)
os.setsid()
nothing = os.open(os.devnull, os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(nothing, number)
file = pathlib.Path.home() / {counter!r}
until = time.monotonic() + 60
number = 0
while time.monotonic() < until:
    if {hops} and os.fork():
        os._exit(0)
    number += 1
    file.write_text(str(number))
    try:
        os.kill(-1, signal.SIGCONT)
    except OSError:
        pass
    time.sleep(0.01)
"""
"""It sends SIGCONT to all processes that it may signal, and in the class it also forks all the time: a process that
forks so in a login, on a host without systemd, may escape (docs/deadlines.md, What happens).
"""


def _freezing(pair: Pair) -> Iterator[tuple[str, str, str]]:
    places = {"a notebook": "class", "a login": "login"}
    run_in(pair, ATTACKER, _WRITER.format(counter=_COUNTER.format(place="class"), hops=True))
    code = _WRITER.format(counter=_COUNTER.format(place="login"), hops=False)
    run(pair.accounts[ATTACKER], None, ("-I", "-c", code))
    for place in places.values():
        _await_change(pair, place)
    nblauncher(pair.folder, "freeze", "--only", ATTACKER)
    try:
        before = {place: _counter(pair, place) for place in places.values()}
        interruption.sleep(_LOOK)
        after = {place: _counter(pair, place) for place in places.values()}
    finally:
        nblauncher(pair.folder, "thaw", "--only", ATTACKER)
    for where, place in places.items():
        yield where, "write while frozen", "" if before[place] == after[place] else "a file changed after `freeze`"


def _await_change(pair: Pair, place: str) -> None:
    """Wait until the counter changes, or a freeze could not be seen later. HostError when it does not."""
    until, first = time.monotonic() + 10, _counter(pair, place)
    while _counter(pair, place) == first:
        if time.monotonic() > until:
            raise HostError(f"the attacker's writer ({place}) does not run")
        interruption.sleep(0.05)


def _counter(pair: Pair, place: str) -> str:
    return str(workers.run_as(pair.accounts[ATTACKER], _read, _COUNTER.format(place=place), timeout=30))


def _read(path: str) -> str:
    """Runs as the attacker."""
    try:
        return (Path(pwd.getpwuid(os.geteuid()).pw_dir) / path).read_text("ascii")
    except FileNotFoundError:
        return ""


_WRITE = """
import os, pathlib
file = pathlib.Path.home() / {path!r}
file.parent.mkdir(exist_ok=True)
file.write_bytes({content})
"""


def _history(pair: Pair) -> str:
    """The attacker's snapshots together are larger than the budget for both students."""
    run_in(pair, VICTIM, _WRITE.format(path="trial/essay.txt", content="b'mine'"))
    nblauncher(pair.folder, "snapshot")
    first = _versions(pair)
    for _ in range(_SNAPSHOTS):
        run_in(pair, ATTACKER, _WRITE.format(path="trial/noise", content=f"os.urandom({_FILL})"))
        nblauncher(pair.folder, "snapshot", "--only", ATTACKER)
    lost = len(first) - len(_versions(pair))
    return f"{lost} versions are gone" if lost or not first else ""


def _versions(pair: Pair) -> list[object]:
    answer = json.loads(nblauncher(pair.folder, "history", VICTIM, "essay.txt", "--json"))
    return list(answer["versions"])


def _guesses(host: Host, pair: Pair) -> str:
    """Each guess comes from another address; the last one must be delayed as if it were the same client."""
    name, waited = f"unknown-{secrets.token_hex(4)}", 0.0
    for number in range(_GUESSES):
        body = urlencode({"username": name, "password": "wrong"})
        began = time.monotonic()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        request(host, pair, "", "/", headers, body, source=f"127.9.{number}.{1 + secrets.randbelow(250)}")
        waited = time.monotonic() - began
    return "" if waited >= _SLOWED else f"guess {_GUESSES} was answered after {waited:.1f} s"


_STAY = r"""
import ctypes, os, pathlib, subprocess, time
for folder in ("/tmp", "/var/tmp", "/dev/shm", "/run/lock", "/var/crash"):
    try:
        pathlib.Path(folder, "nbl-trial-left").write_text("x")
    except OSError:
        pass
for command, job in ((["crontab", "-"], b"* * * * * true\n"), (["at", "now", "+", "1", "hour"], b"true\n")):
    try:
        subprocess.run(command, input=job, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        pass
ctypes.CDLL(None).shmget(0, 4096, 0o1600)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(300)
    os._exit(0)
"""


def _building(host: Host, pair: Pair) -> str:
    """What the account that builds packages has left on the host; it is removed then."""
    place = pair.paths.environments  # packages are built here, and it is removed with the course
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="build-", dir=place))
    folder.chmod(0o711)
    failed = course_packages.run_apart(folder, host.accounts.idle_builder, (sys.executable, "-I", "-c", _STAY))
    if failed:
        raise HostError(f"the attacker's build does not run: {failed}")
    left = host.accounts.leftovers_of_builder()
    host.accounts.idle_builder()
    return ", ".join(left)
