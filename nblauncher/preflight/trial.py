"""check --security: a throw-away class of two with this course's config, in which one student attacks the other.

It is a separate course, made and removed by the normal commands, so the running class loses no port, no student's uid
and no row of its credentials. The sockets and keys of the running class are among the targets.
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

from nblauncher.errors import HostError, RefusedError
from nblauncher.isolation import namespaces
from nblauncher.isolation.cgroups import Group, choose
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.ledger import locked
from nblauncher.model import Account
from nblauncher.paths import RUN_ROOT, CoursePaths
from nblauncher.planning.host import Host
from nblauncher.preflight import trial_effects
from nblauncher.preflight.finding import Finding, ok, problem, warning
from nblauncher.preflight.trial_pair import ATTACKER, COURSE, VICTIM, Pair, nblauncher, request, run, run_in, sandbox_of
from nblauncher.server import class_files
from nblauncher.supervisor import client
from nblauncher.system import interruption, processes, workers

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
"""The attacker's jupyter_server_config.py: it runs in the attacker's server."""

_ADMITTED = {
    "receive the other's cookie at their own port": "docs/security.md, What `direct` ports cannot promise",
    "plant cookies and headers for the whole host": "docs/security.md, What `direct` ports cannot promise",
    "hold a key that is valid for the class's name": "docs/security.md, What `direct` ports cannot promise",
}

_PARTS = 7
"""That `findings` tells of."""


def findings(host: Host) -> list[Finding]:
    """Every attack, and whether it was held. RefusedError when no class runs; HostError when the throw-away class
    cannot be made. It is removed in any case.
    """
    if client.connect(host.paths) is None:
        raise RefusedError("the class does not run: there is nothing to attack", "Run `nblauncher launch` first.")
    host.tell("starting a throw-away class of two students", 0, _PARTS)
    with locked(RUN_ROOT / "trial.lock", "the security check"), _throw_away(host) as pair:
        found = []
        host.tell("opening a notebook and its debugger", 1, _PARTS)
        _have_debugged(pair)
        for part, (place, sandbox) in enumerate((("a notebook", sandbox_of(pair)), ("a login", None)), start=2):
            host.tell(f"attacking from {place}", part, _PARTS)
            results = _attack(host, pair, sandbox)
            found += [_judged(place, name, got, host) for name, got in results.items() if (place, name) != _ALLOWED]
        host.tell("attacking over the web", 4, _PARTS)
        found += _over_the_web(host, pair)
        host.tell("freezing, guessing, building packages", 5, _PARTS)
        found += [_judged(place, name, got, host) for place, name, got in trial_effects.tried(host, pair)]
        host.tell("removing the throw-away class", 6, _PARTS)
    return found


def verdict(findings: Sequence[Finding]) -> str:
    """A one-line summary."""
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
        return warning(subject, f"not held: {attack}: {got}", "Set `isolation: true` (Linux 5.8 or newer).")
    return problem(subject, f"NOT HELD: {attack}: {got}", "Report it as SECURITY.md says.")


_BY_ISOLATION = ("see the processes in /proc", "see files in /tmp, /var/tmp, /dev/shm")

_ALLOWED = ("a login", "gain privileges by sudo, crontab or at")
"""The administrator decides what every login may use."""

_OF_A_LOGIN = {
    "see the processes in /proc": "A login sees the host's /proc: mount it with hidepid=2 if that matters.",
}


@contextlib.contextmanager
def _throw_away(host: Host) -> Iterator[Pair]:
    # No command writes credentials into a system folder, and only root may write to the folders above.
    folder = Path(pwd.getpwuid(0).pw_dir) / ".nblauncher-trial"
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        port = _free_ports()
        _write_inputs(host, folder, port)
        if os.path.lexists(CoursePaths(COURSE).state):  # left by a killed run
            nblauncher(folder, "remove", "--yes")
        nblauncher(folder, "setup", "--yes")
        nblauncher(folder, "launch", "--background")
        yield _look(host, folder, port)
    finally:
        with contextlib.suppress(HostError):
            nblauncher(folder, "remove", "--yes")
        paths = CoursePaths(COURSE)
        left = [path for path in (paths.run, paths.state) if os.path.lexists(path)]
        if left:
            log.error("the throw-away class could not be removed; the next `check --security` tries again: %s", folder)
        else:
            # Only root can write to both.
            processes.run(["rm", "-rf", "--one-file-system", "--", str(folder), str(paths.logs)])


def _write_inputs(host: Host, folder: Path, port: int) -> None:
    """Write this course's config, except for what makes it a separate course."""
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
        # A trial is of this host, also where servers are jobs.
        "notebook": {"spawner": settings.notebook.spawner.replace("slurm", "process"), "preload": []},
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
    """The two students, after the victim put a secret wherever the attacker might look."""
    paths = CoursePaths(COURSE)
    supervisor = client.connect(paths)
    if supervisor is None:
        raise HostError("the throw-away class ended at once")
    with supervisor:
        reports = {report.username: report for report in supervisor.servers()}
    entries = {name: pwd.getpwnam(name) for name in (ATTACKER, VICTIM)}
    accounts = {
        name: Account(name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir), entry.pw_shell)
        for name, entry in entries.items()
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
    """Start a kernel of the victim's and use its debugger. It runs until the class ends."""
    runtime = pair.paths.students_run / str(pair.accounts[VICTIM].uid)
    variables = {"JUPYTER_RUNTIME_DIR": str(runtime), "JUPYTER_PATH": str(class_files.data_folder(pair.paths.run))}
    output = run_in(pair, VICTIM, _DEBUG.format(variables=variables, runtime=str(runtime)))
    if _DEBUGGED not in output:
        raise HostError(f"the throw-away class's kernel was not debugged: {output[-300:]}")


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
        "kernel_sockets": [str(path) for path in runtime.glob("kernel-*")] or [str(runtime / "kernel-x-ipc-1")],
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
    output = run(account, sandbox, ("-I", "-m", "nblauncher.preflight.attacks", json.dumps(facts)))
    try:
        return {str(name): str(got) for name, got in json.loads(output).items()}
    except ValueError as error:
        raise HostError(f"the attacker's output is not JSON: {output[-300:]}") from error


def _over_the_web(host: Host, pair: Pair) -> Iterator[Finding]:
    """Cookies and keys, as the victim's browser and the attacker's server see them."""
    victims = f"nblauncher-{VICTIM}-{pair.ports[VICTIM]}"
    cookie = f"{victims}=of-the-victim; other=1"
    where = f"/user/{VICTIM}/api"
    answer = ""
    with contextlib.suppress(OSError, http.client.HTTPException):
        request(host, pair, ATTACKER, where, {"Cookie": cookie})
        _status, answer = request(host, pair, ATTACKER, f"/user/{ATTACKER}/api", {"Cookie": cookie})
    got = "the browser gets them" if "nbl-trial-planted" in answer else ""
    yield _judged("their own server", "plant cookies and headers for the whole host", got, host)
    seen = str(workers.run_as(pair.accounts[ATTACKER], _read_seen, timeout=30))
    lured = "the server saw it" if victims in seen else ""
    yield _judged("a web page", "receive the other's cookie at their own port", lured, host)
    has_key = host.settings.tls.mode != "off" and not host.frontend.is_proxy
    got = "the attacker's certificate is for the class's name" if has_key else ""
    yield _judged("their own server", "hold a key that is valid for the class's name", got, host)
    leaks = [path for path in ("/", "/login", "/nowhere") for at in ("", VICTIM) if _names(host, pair, at, path)]
    yield _judged("the network", "learn a name without signing in", f"{leaks[0]} has it" if leaks else "", host)
    status, _body = request(host, pair, VICTIM, f"/user/{VICTIM}/api/status", {"Cookie": f"nblauncher-{ATTACKER}-1=x"})
    yield _judged(
        "a web page", "use their own cookie at the other's server", "" if status == 403 else str(status), host
    )


def _names(host: Host, pair: Pair, server: str, path: str) -> bool:
    """Whether an answer without a sign-in has the victim's name in it."""
    return VICTIM in request(host, pair, server, path, {})[1]


def _read_seen() -> str:
    """Runs as the attacker."""
    file = Path(pwd.getpwuid(os.geteuid()).pw_dir) / _SEEN
    try:
        return file.read_text(encoding="utf-8", errors="replace")[-100_000:]
    except FileNotFoundError:
        return ""


def _ticket(host: Host, pair: Pair) -> str:
    """A ticket that the front page gave to the victim, as if the attacker had seen it on the screen."""
    body = urlencode({"username": VICTIM, "password": pair.passwords[VICTIM]})
    for _ in range(20):
        _status, text = request(host, pair, "", "/", {"Content-Type": "application/x-www-form-urlencoded"}, body)
        if found := re.search(r'name="ticket" value="([^"]+)"', text):
            return found[1]
        interruption.sleep(0.5)
    raise HostError("the throw-away class's front page gives no ticket")


def _free_ports() -> int:
    """A port for the front page, followed by two more free ones."""
    taken = {connection.laddr[1] for connection in psutil.net_connections("tcp") if connection.laddr}
    for _ in range(200):
        port = 20_000 + secrets.randbelow(10_000)
        if not taken & {port, port + 1, port + 2}:
            return port
    raise HostError("there are no three free ports between 20000 and 30000")
