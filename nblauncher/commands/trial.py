"""check --security: a throw-away class of two with this course's config, in which one student attacks the other.

It is a course of its own, made and removed by the very commands, so that the class that runs loses no port, no uid of
a student's and no row of its credentials; the sockets and keys of the class that runs are among what is attacked.
"""

from __future__ import annotations

import contextlib
import csv
import http.client
import json
import logging
import os
import pwd
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import psutil
import yaml

from nblauncher import classfiles, interruption, namespaces, processes, workers
from nblauncher.cgroups import Group, choose
from nblauncher.commands import trial_effects
from nblauncher.commands.trial_pair import ATTACKER, COURSE, VICTIM, Pair, nblauncher, request, run, run_in, sandbox_of
from nblauncher.course import RUN_ROOT, CoursePaths
from nblauncher.errors import HostError, RefusedError
from nblauncher.host import Host
from nblauncher.ledger import locked
from nblauncher.model import Account
from nblauncher.preflight.finding import Finding, ok, problem, warning
from nblauncher.sandbox import Sandbox
from nblauncher.supervisor import client

log = logging.getLogger(__name__)

_SECRET = "secret.txt"  # noqa: S105
_SEEN = "seen-cookies"

_SPY = """\
import tornado.httputil as _http
_began = _http.HTTPServerRequest.__init__
def _spy(self, *arguments, **keywords):
    _began(self, *arguments, **keywords)
    with open({seen!r}, "a") as file:
        file.write(str(self.headers.get("Cookie", "")) + "\\n")
_http.HTTPServerRequest.__init__ = _spy
import tornado.http1connection as _one
_wrote = _one.HTTP1Connection.write_headers
def _steer(self, start, headers, chunk=None):
    headers.add("Set-Cookie", "nbl-trial-planted=1; Path=/")
    headers["Clear-Site-Data"] = "nbl-trial-planted"
    return _wrote(self, start, headers, chunk)
_one.HTTP1Connection.write_headers = _steer
"""
"""A student's own jupyter_server_config.py: it runs in the student's server."""

_ADMITTED = {
    "receive the other's cookie at the own port": "docs/security.md, What `direct` ports cannot promise",
    "plant cookies and headers for the whole host": "docs/security.md, What `direct` ports cannot promise",
    "hold a key that is good for the class's name": "docs/security.md, What `direct` ports cannot promise",
}


def findings(host: Host) -> list[Finding]:
    """Every attack, and whether it was held. RefusedError when there is no class that runs; HostError when the
    throw-away class cannot be made, which is taken away in any case.
    """
    if client.connect(host.paths) is None:
        raise RefusedError("the class does not run: there is nothing to attack", "Run `nblauncher launch` first.")
    with locked(RUN_ROOT / "trial.lock", "the security check"), _throw_away(host) as pair:
        found = []
        _have_debugged(pair)
        for place, sandbox in (("a notebook", sandbox_of(pair)), ("a login", None)):
            said = _attack(host, pair, sandbox)
            found += [_judged(place, name, got, host) for name, got in said.items() if (place, name) != _ALLOWED]
        found += _over_the_web(host, pair)
        found += [_judged(place, name, got, host) for place, name, got in trial_effects.tried(host, pair)]
    return found


def verdict(findings: Sequence[Finding]) -> str:
    """What it all comes to, in one line."""
    levels = [finding.level for finding in findings]
    known = f", {count} known limits" if (count := levels.count("warning")) else ""
    return f"{levels.count('ok')} of {len(levels)} attacks were held{known}, {levels.count('problem')} were not."


def _judged(place: str, attack: str, got: str, host: Host) -> Finding:
    subject = f"from {place}"
    if not got:
        return ok(subject, f"held: {attack}")
    if attack in _ADMITTED and not host.frontend.is_proxy:
        return warning(subject, f"not held: {attack}: {got}", f"Known: {_ADMITTED[attack]}. Use `frontend: nginx`.")
    if place == "a login" and attack in _OF_A_LOGIN:
        return warning(subject, f"not held: {attack}: {got}", _OF_A_LOGIN[attack])
    if attack in _BY_ISOLATION and not (host.settings.isolation and namespaces.hides_processes()):
        return warning(subject, f"not held: {attack}: {got}", "Set `isolation: on` (Linux 5.8 or newer).")
    return problem(subject, f"NOT HELD: {attack}: {got}", "Report it as SECURITY.md says.")


_BY_ISOLATION = ("see the processes in /proc", "see files in /tmp, /var/tmp, /dev/shm")

_ALLOWED = ("a login", "become more by sudo, crontab or at")
"""What the host lets every account use is the administrator's to say."""

_OF_A_LOGIN = {
    "see the processes in /proc": "A login sees the host's /proc: mount it with hidepid=2 if that matters.",
}


@contextlib.contextmanager
def _throw_away(host: Host) -> Iterator[Pair]:
    # In a folder of the system's no command would write credentials, and all folders above must be root's alone.
    folder = Path(pwd.getpwuid(0).pw_dir) / ".nblauncher-trial"
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        port = _free_ports()
        _write_inputs(host, folder, port)
        if os.path.lexists(CoursePaths(COURSE).state):  # a run that was killed left it
            nblauncher(folder, "remove", "--yes")
        nblauncher(folder, "setup", "--yes")
        nblauncher(folder, "launch", "--background")
        yield _look(host, folder, port)
    finally:
        with contextlib.suppress(HostError):
            nblauncher(folder, "remove", "--yes")
        paths = CoursePaths(COURSE)
        left = [str(one) for one in (paths.run, paths.state) if os.path.lexists(one)]
        if left:
            log.error("the throw-away class could not be removed; the next `check --security` tries again: %s", folder)
        else:
            # Both are root's alone; no student could write into them.
            processes.run(["rm", "-rf", "--one-file-system", "--", str(folder), str(paths.logs)])


def _write_inputs(host: Host, folder: Path, port: int) -> None:
    """This course's config, but for what makes it a course of its own."""
    settings = host.settings
    config = {
        "course": COURSE,
        "owner": "root",
        "accounts": {
            "home": str(settings.accounts.home),
            "shell": settings.accounts.shell,
            "uid_range": f"{settings.accounts.uid_range.start}-{settings.accounts.uid_range.stop - 1}",
        },
        "material": {"source": "material", "target": "trial"},
        "retrieve": {"target": "retrieved"},
        "web": {
            "port": port,
            "frontend": settings.web.frontend,
            "routing": settings.web.routing,
            "names": list(settings.web.names),
            "bind": list(settings.web.bind),
        },
        "tls": {"mode": "off" if settings.tls.mode == "off" else "class-ca"},
        "notebook": {"spawner": settings.notebook.spawner, "preload": []},
        "limits": {
            "memory": "none" if settings.limits.memory is None else f"{settings.limits.memory} B",
            "processes": settings.limits.processes or "none",
            "cpus": settings.limits.cpus or "none",
        },
        "isolation": settings.isolation,
        "history": {"budget": trial_effects.BUDGET},
    }
    (folder / "notebooks.cfg").write_text(yaml.safe_dump(config), encoding="ascii")
    (folder / "students.csv").write_text(f"username\n{ATTACKER}\n{VICTIM}\n", encoding="ascii")
    (folder / "material").mkdir(exist_ok=True)


def _look(host: Host, folder: Path, port: int) -> Pair:
    """Who they are, and a secret of the victim's in every place where a neighbour might look."""
    paths = CoursePaths(COURSE)
    supervisor = client.connect(paths)
    if supervisor is None:
        raise HostError("the throw-away class ended at once")
    with supervisor:
        reports = {report.username: report for report in supervisor.servers()}
    entries = {name: pwd.getpwnam(name) for name in (ATTACKER, VICTIM)}
    accounts = {
        name: Account(name, one.pw_uid, one.pw_gid, Path(one.pw_dir), one.pw_shell) for name, one in entries.items()
    }
    with (folder / "credentials.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    pair = Pair(
        paths,
        port,
        accounts,
        {name: report.handle.pid for name, report in reports.items() if report.handle},
        {row["username"]: row["notebook_password"] for row in rows},
        {name: report.port for name, report in reports.items()},
        folder,
    )
    run_in(pair, VICTIM, _PLANT.format(secret=_SECRET))
    seen = str(accounts[ATTACKER].home / _SEEN)
    workers.run_as(accounts[ATTACKER], _write_spy, _SPY.format(seen=seen), timeout=30)
    nblauncher(folder, "shutdown", "--only", ATTACKER)
    nblauncher(folder, "launch", "--background", "--only", ATTACKER)
    with client.start(paths) as again:
        servers = {report.username: report.handle.pid for report in again.servers() if report.handle}
    return replace(pair, servers=servers)


_PLANT = """
import os, pathlib
pathlib.Path.home().joinpath({secret!r}).write_text("mine")
for folder in ("/tmp", "/var/tmp", "/dev/shm"):
    pathlib.Path(folder, "nbl-trial-secret").write_text("mine")
"""


def _have_debugged(pair: Pair) -> None:
    """A kernel of the victim's, as a notebook has one after a click on the bug, which stays until the class ends."""
    runtime = pair.paths.students_run / str(pair.accounts[VICTIM].uid)
    variables = {"JUPYTER_RUNTIME_DIR": str(runtime), "JUPYTER_PATH": str(classfiles.data_folder(pair.paths.run))}
    said = run_in(pair, VICTIM, _DEBUG.format(variables=variables, runtime=str(runtime)))
    if _DEBUGGED not in said:
        raise HostError(f"the throw-away class's kernel was not debugged: {said[-300:]}")


_DEBUGGED = "debugged"
_DEBUG = """
import os, sys, threading
if os.fork():
    os._exit(0)
os.setsid()
sys.stderr = os.fdopen(os.dup(1), "w")  # not the kernel's: it is read until it is closed
nothing = os.open(os.devnull, os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(nothing, number)
os.environ.update({variables!r})
from jupyter_client.manager import KernelManager
manager = KernelManager(
    transport="ipc", ip={runtime!r} + "/kernel-trial-ipc", connection_file={runtime!r} + "/kernel-trial.json"
)
manager.start_kernel()
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=40)
for number, command in enumerate(("initialize", "attach", "disconnect"), 1):
    content = {{"type": "request", "seq": number, "command": command, "arguments": {{"adapterID": ""}}}}
    client.control_channel.send(client.session.msg("debug_request", content))
    answer = client.control_channel.get_msg(timeout=20)["content"]
    assert answer["success"], answer
print("debugged", file=sys.stderr)
sys.stderr.close()
threading.Event().wait()
"""


def _write_spy(text: str) -> None:
    """Runs as the attacker."""
    folder = Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".jupyter"
    folder.mkdir(exist_ok=True)
    (folder / "jupyter_server_config.py").write_text(text, encoding="utf-8")


def _attack(host: Host, pair: Pair, sandbox: Sandbox | None) -> dict[str, str]:
    victim, account = pair.accounts[VICTIM], pair.accounts[ATTACKER]
    groups = [choose(COURSE).of_student(victim.uid), Group(choose(COURSE).kind, choose(COURSE).root.parent)]
    runtime = pair.paths.students_run / str(victim.uid)
    facts = {
        "uid": victim.uid,
        "home": str(victim.home),
        "secret": _SECRET,
        "pid": pair.servers[VICTIM],
        "temporary": [f"{folder}/nbl-trial-secret" for folder in ("/tmp", "/var/tmp", "/dev/shm")],  # noqa: S108
        "ports": [pair.ports[VICTIM], pair.port, host.settings.web.port],
        "runtime": str(runtime),
        "kernel_sockets": [str(one) for one in runtime.glob("kernel-*")] or [str(runtime / "kernel-x-ipc-1")],
        "sockets": [
            *(str(paths.http / f"{victim.uid}.sock") for paths in (pair.paths, host.paths)),
            *(str(paths.front_socket) for paths in (pair.paths, host.paths)),
            *(str(paths.supervisor_socket) for paths in (pair.paths, host.paths)),
        ],
        "tickets": str(pair.paths.tickets_socket),
        "ticket": _ticket(host, pair),
        "keys": [
            str(file)
            for paths in (pair.paths, host.paths)
            for file in (*paths.tls.rglob("*.key"), *paths.proxy.glob("*.key"), paths.hashes)
        ],
        "groups": [f"{path}/cgroup.procs" for group in groups for path in (group.path, *dict(group.beside).values())],
    }
    said = run(account, sandbox, ("-I", "-m", "nblauncher.attacks", json.dumps(facts)))
    try:
        return {str(name): str(got) for name, got in json.loads(said).items()}
    except ValueError as error:
        raise HostError(f"the attacker said nothing that can be read: {said[-300:]}") from error


def _over_the_web(host: Host, pair: Pair) -> Iterator[Finding]:
    """Cookies and keys, as the victim's browser and the attacker's server see them."""
    victims = f"nblauncher-{VICTIM}-{pair.ports[VICTIM]}"
    cookie = f"{victims}=of-the-victim; other=1"
    where = f"/user/{VICTIM}/api"
    said = ""
    with contextlib.suppress(OSError, http.client.HTTPException):
        request(host, pair, ATTACKER, where, {"Cookie": cookie})
        _status, said = request(host, pair, ATTACKER, f"/user/{ATTACKER}/api", {"Cookie": cookie})
    got = "the browser gets them" if "nbl-trial-planted" in said else ""
    yield _judged("the own server", "plant cookies and headers for the whole host", got, host)
    seen = str(workers.run_as(pair.accounts[ATTACKER], _read_seen, timeout=30))
    lured = "the server saw it" if victims in seen else ""
    yield _judged("a web page", "receive the other's cookie at the own port", lured, host)
    has_key = host.settings.tls.mode != "off" and not host.frontend.is_proxy
    got = "the own server's certificate is for the class's name" if has_key else ""
    yield _judged("the own server", "hold a key that is good for the class's name", got, host)
    told = [path for path in ("/", "/login", "/nowhere") for whose in ("", VICTIM) if _names(host, pair, whose, path)]
    yield _judged("the network", "learn a name without signing in", f"{told[0]} tells it" if told else "", host)
    status, _body = request(host, pair, VICTIM, f"/user/{VICTIM}/api/status", {"Cookie": f"nblauncher-{ATTACKER}-1=x"})
    yield _judged("a web page", "use the own cookie at the other's server", "" if status == 403 else str(status), host)


def _names(host: Host, pair: Pair, whose: str, path: str) -> bool:
    """Whether an answer to somebody who is not signed in has the victim's name in it."""
    return VICTIM in request(host, pair, whose, path, {})[1]


def _read_seen() -> str:
    """Runs as the attacker."""
    file = Path(pwd.getpwuid(os.geteuid()).pw_dir) / _SEEN
    try:
        return file.read_text(encoding="utf-8", errors="replace")[-100_000:]
    except FileNotFoundError:
        return ""


def _ticket(host: Host, pair: Pair) -> str:
    """One that the front page gave to the victim, as somebody who looked over a shoulder would have it."""
    body = urlencode({"username": VICTIM, "password": pair.passwords[VICTIM]})
    for _ in range(20):
        _status, text = request(host, pair, "", "/", {"Content-Type": "application/x-www-form-urlencoded"}, body)
        if found := re.search(r'name="ticket" value="([^"]+)"', text):
            return found[1]
        interruption.sleep(0.5)
    raise HostError("the throw-away class's front page gives no ticket")


def _free_ports() -> int:
    """A front page's port with two free ones behind it."""
    taken = {one.laddr[1] for one in psutil.net_connections("tcp") if one.laddr}
    for _ in range(200):
        port = 20_000 + secrets.randbelow(10_000)
        if not taken & {port, port + 1, port + 2}:
            return port
    raise HostError("there are no three free ports between 20000 and 30000")
