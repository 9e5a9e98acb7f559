"""A student's server on a node of a cluster: `python -I -m nblauncher.server.node FILE RUN`, by the job's script.

It serves on a port that it picks itself, always with TLS, and says so in the job's comment. It has no socket to the
class's host and no pipe: what it needs to know of the class is in FILE (nblauncher.server.job_file), and what changes
comes with requests of that host (nblauncher.server.host_link).
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from nblauncher.auth.appearance import Appearance
from nblauncher.errors import HostError, NblauncherError
from nblauncher.model import TlsFiles
from nblauncher.server import class_files, job_file
from nblauncher.server.config import OnNode, ServerConfig
from nblauncher.server.job_file import JobFile
from nblauncher.server.node_words import NodeWords, is_lasting
from nblauncher.system.tls_context import server_context

_BACKLOG = 128
_PATIENCE = 10.0
"""Seconds for one question to the controller, and for its last words at the end."""

_LOOK = 5.0
"""Seconds between two looks whether the class has started another server over this home, and until what the controller
did not take is said again.
"""
_LAST_MOMENTS = 15.0
"""Seconds in which a server that is not wanted any more should end."""

_READ = 4096
_ADDRESS = re.compile(r"\bNodeAddr=(\S+)")


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM. Returns the exit status."""
    file, run = arguments
    if 0 in (*os.getresuid(), *os.getresgid()):
        print("a student's server does not run as root", file=sys.stderr)
        return 4
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    os.umask(0o077)
    try:
        given = job_file.take(Path(file))
    except NblauncherError as error:
        print(f"Error: {error.problem}\n       {error.hint}", file=sys.stderr)
        return error.exit_code
    folder = Path(tempfile.mkdtemp(prefix="nbl-"))
    try:
        return _serve(given, run, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _serve(given: JobFile, run: str, folder: Path) -> int:
    listening = _listen(_addresses())
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    words = NodeWords(run, int(restarts) if restarts.isdigit() else 0, listening.getsockname()[1])
    folder_of_jobs = job_file.folder_of(Path(os.environ["HOME"]))
    reporter, news = _begin_reporting(
        words, lambda: job_file.is_superseded(folder_of_jobs, given.course, run) if given.course else False
    )
    _prepare(given, folder)
    tls = server_context(TlsFiles(given.certificate.encode("ascii"), given.key.encode("ascii")))
    config = replace(
        ServerConfig.parse(given.config.encode("ascii")),
        settings_folder=str(class_files.settings_folder(folder)),
        appearance=str(_appearance_file(folder)),
        tickets_socket="",
        lost_node=given.lost_node,
    )
    job = OnNode(run, given.sign_ins, job_file.logged_out(Path(config.home), given.sign_ins))
    try:
        return _run(config, tls, listening, news, job)
    finally:
        os.close(news)
        _wait_for(reporter)


def _run(config: ServerConfig, tls: ssl.SSLContext, listening: socket.socket, news: int, job: OnNode) -> int:
    from nblauncher.server import app  # Jupyter looks at the environment when it is imported

    return app.run(app.Inherited(config, tls, (listening,), news, job))


def _prepare(given: JobFile, folder: Path) -> None:
    """What the class's host has in its runtime folder for all servers, made here for this one."""
    runtime = folder / "student" / str(os.getuid())
    runtime.mkdir(mode=0o700, parents=True)
    class_files.write(folder, _kernels(given.kernel))
    _appearance_file(folder).write_bytes(Appearance(**given.appearance).to_bytes())
    for name in [name for name in os.environ if name.startswith("JUPYTER")]:
        del os.environ[name]
    os.environ.update(given.environment)
    os.environ.pop("SLURM_EXPORT_ENV", None)
    os.environ["JUPYTER_CONFIG_PATH"] = str(class_files.config_folder(folder))
    os.environ["JUPYTER_PATH"] = str(class_files.data_folder(folder))
    os.environ["JUPYTER_RUNTIME_DIR"] = str(runtime)


def _kernels(given: Mapping[str, Any]) -> class_files.Kernels:
    python = given.get("python") or sys.executable
    if not os.access(python, os.X_OK):
        print(f"{python} is not on this node: kernels run with {sys.executable}", file=sys.stderr)
        python = sys.executable
    return class_files.Kernels(given.get("spec"), python)


def _appearance_file(folder: Path) -> Path:
    return class_files.config_folder(folder) / "appearance.json"


def _listen(addresses: Sequence[str]) -> socket.socket:
    """On a port that the kernel picks, at the address by which the cluster knows this node."""
    problem: OSError | None = None
    for address in addresses:
        try:
            family, _kind, _protocol, _name, place = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
            listening = socket.socket(family, socket.SOCK_STREAM)
            listening.bind(place)
        except OSError as error:
            problem = error
            continue
        listening.listen(_BACKLOG)
        listening.setblocking(False)
        return listening
    raise HostError(f"cannot listen on {', '.join(addresses)}: {problem}")


def _addresses() -> list[str]:
    """As `scontrol` names this node; its own host name if the controller does not answer."""
    name = os.environ.get("SLURMD_NODENAME", "")
    found = _ADDRESS.search(_ask("show", "node", name) or "") if name else None
    return [*([found[1]] if found else []), socket.gethostname()]


def _begin_reporting(words: NodeWords, is_superseded: Callable[[], bool]) -> tuple[int, int]:
    """A small process that writes the comment, forked before Jupyter is imported. Its pid, and the pipe to it. It also
    ends a server that has a successor: a cluster that lost this node cannot.
    """
    pipe, news = os.pipe()
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(news)
        _report(pipe, words, _update, lambda: _end(server) if is_superseded() else None)
    os.close(pipe)
    os.set_blocking(news, False)
    return pid, news


def _end(server: int) -> None:
    """The student's own process, and still our parent if it exists."""
    print("the class has started another server over this home, or wants none: this one ends", file=sys.stderr)
    sys.stderr.flush()
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + _LAST_MOMENTS
        while os.getppid() == server and time.monotonic() < until:
            os.kill(server, number)
            time.sleep(0.5)


def _report(
    pipe: int, words: NodeWords, update: Callable[[str], bool], look: Callable[[], object] = lambda: None
) -> NoReturn:
    """Until the server hangs up. The end of the job reaches the whole job: it must be able to say its last words. What
    the controller did not take is said again, and nothing waits for it: `look` is called all the same.
    """
    status, rest, is_told = 1, "", True
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while True:
            if select.select([pipe], [], [], _LOOK)[0]:
                if not (part := os.read(pipe, _READ)):
                    break
                *lines, rest = (rest + part.decode("ascii", errors="replace")).split("\n")
                said = words.said | {line for line in lines if is_lasting(line)}
                if said == words.said:
                    continue
                words, is_told = replace(words, said=said), False
            else:
                look()
            is_told = is_told or update(words.to_comment())
        status = 0
    finally:
        os._exit(status)


def _update(comment: str) -> bool:
    return _ask("update", f"JobId={os.environ.get('SLURM_JOB_ID', '')}", f"comment={comment}") is not None


def _ask(*arguments: str) -> str | None:
    """What scontrol says; None when it fails."""
    program = shutil.which("scontrol")
    if program is None:
        print("scontrol is not installed on this node: the class cannot learn this server's port", file=sys.stderr)
        return None
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"scontrol: {error}", file=sys.stderr)
        return None
    if done.returncode:
        print(f"scontrol: {done.stderr.strip()[:200]}", file=sys.stderr)
        return None
    return done.stdout


def _wait_for(reporter: int) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(reporter, os.WNOHANG) == (0, 0):
                time.sleep(0.05)
                continue
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
