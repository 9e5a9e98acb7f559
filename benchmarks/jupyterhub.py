"""JupyterHub with its default spawner: N servers, spawned through its API, until each one answers through its proxy.

    sudo python benchmarks/jupyterhub.py [--students 40] [--idle 30]

The counterpart of `launch.py` on the same machine. Installs JupyterHub, Notebook and configurable-http-proxy (from PyPI
and the npm registry; needs npm and node) into a folder of its own below /opt and removes it. Accounts are called
nbtj000..., and go again with everything they had.

Wall-clock seconds count from the first request to spawn until the last server's /api answered 200 over TLS; the start
of hub and proxy is a row of its own. CPU is user + system of hub, proxy and servers together, ended children included.
Memory is measured `--idle` seconds after the last answer: Private_Clean + Private_Dirty, and Pss, of smaps_rollup.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import secrets
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
from _shared import memory, processor_seconds, tree

PORT = 24380
API = f"https://127.0.0.1:{PORT}/hub/api"
LONGEST = 900.0
"""Seconds until every server must answer."""

HUB_CONFIG = """
import os
c = get_config()
c.JupyterHub.bind_url = "https://127.0.0.1:{port}"
c.JupyterHub.ssl_key, c.JupyterHub.ssl_cert = "{folder}/key.pem", "{folder}/cert.pem"
c.JupyterHub.hub_port = {port} + 1
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:" + str({port} + 2)
c.ConfigurableHTTPProxy.command = ["{folder}/proxy/node_modules/.bin/configurable-http-proxy"]
c.JupyterHub.spawner_class = "jupyterhub.spawner.LocalProcessSpawner"
c.JupyterHub.authenticator_class = "jupyterhub.auth.PAMAuthenticator"
c.Authenticator.allow_all = True
c.Spawner.cmd = ["{folder}/venv/bin/jupyterhub-singleuser"]
c.Spawner.start_timeout = c.Spawner.http_timeout = {longest}
c.JupyterHub.concurrent_spawn_limit = 0
c.JupyterHub.services = [{{"name": "bench", "api_token": os.environ["BENCH_TOKEN"]}}]
c.JupyterHub.load_roles = [
    {{"name": "bench", "scopes": ["admin:users", "admin:servers", "read:metrics"], "services": ["bench"]}}
]
"""


def install(folder: Path) -> None:
    python = folder / "venv/bin/python"
    subprocess.run([os.path.realpath(sys.executable), "-m", "venv", folder / "venv"], check=True)
    constraints = Path(__file__).resolve().parent.parent / "constraints.txt"
    pip = [str(python), "-m", "pip", "install", "--quiet", "-c", str(constraints), "jupyterhub", "notebook"]
    subprocess.run(pip, check=True)
    npm = ["npm", "install", "--silent", "--prefix", str(folder / "proxy"), "configurable-http-proxy"]
    subprocess.run(npm, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ),
            *("-days", "2", "-subj", "/CN=localhost", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )


@contextmanager
def accounts(names: list[str]) -> Iterator[None]:
    try:
        for name in names:
            subprocess.run(["useradd", "-m", "-s", "/bin/bash", "--", name], check=True)
        yield
    finally:
        for name in names:
            subprocess.run(["userdel", "-r", "--", name], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def running_hub(folder: Path, token: str) -> Iterator[subprocess.Popen[bytes]]:
    state = folder / "state"
    state.mkdir()
    (state / "config.py").write_text(HUB_CONFIG.format(port=PORT, folder=folder, longest=LONGEST))
    environment = {
        "PATH": f"{folder}/venv/bin:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(state),
        "BENCH_TOKEN": token,
    }
    with (state / "hub.log").open("wb") as log:
        hub = subprocess.Popen(
            [folder / "venv/bin/jupyterhub", "-f", state / "config.py"],
            cwd=state,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield hub
        except BaseException:
            print("\n".join((state / "hub.log").read_text(errors="replace").splitlines()[-20:]), file=sys.stderr)
            raise
        finally:
            end(hub)


def end(hub: subprocess.Popen[bytes]) -> None:
    """The hub with proxy and servers, by their handles."""
    below = tree(hub.pid)[1:]
    hub.terminate()
    try:
        hub.wait(60)
    except subprocess.TimeoutExpired:
        hub.kill()
        hub.wait()
    for process in below:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(below, 10)


def ask(url: str, token: str, method: str = "GET") -> int:
    """The status of a request through the proxy; 0 without an answer."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    request = urllib.request.Request(url, method=method)
    request.add_header("Authorization", f"token {token}")
    try:
        with urllib.request.urlopen(request, context=context, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def until_ok(url: str, token: str = "") -> None:
    deadline = time.monotonic() + LONGEST
    while ask(url, token) != 200:
        if time.monotonic() > deadline:
            raise SystemExit(f"{url} did not answer")
        time.sleep(0.1)


def spawn_all(names: list[str], token: str) -> None:
    for name in names:
        assert ask(f"{API}/users/{name}", token, "POST") in (201, 409), name
    with ThreadPoolExecutor(len(names)) as pool:
        answers = list(pool.map(lambda name: ask(f"{API}/users/{name}/server", token, "POST"), names))
        assert all(answer in (201, 202) for answer in answers), answers
        list(pool.map(lambda name: until_ok(f"https://127.0.0.1:{PORT}/user/{name}/api"), names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=40)
    parser.add_argument("--idle", type=float, default=30.0, help="seconds until memory is measured")
    options = parser.parse_args()
    names = [f"nbtj{number:03}" for number in range(options.students)]
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="nbtj-", dir="/opt") as made, accounts(names):
        folder = Path(made)
        folder.chmod(0o755)
        install(folder)
        begun = time.perf_counter()
        with running_hub(folder, token) as hub:
            until_ok(f"{API}/", token)
            started, used = time.perf_counter() - begun, processor_seconds(hub.pid)
            begun = time.perf_counter()
            spawn_all(names, token)
            wall, processor = time.perf_counter() - begun, processor_seconds(hub.pid) - used
            time.sleep(options.idle)
            uids = {pwd.getpwnam(name).pw_uid for name in names}
            everybody = tree(hub.pid)
            servers = [memory(one.pid) for one in everybody if one.uids().real in uids]
            others = [memory(one.pid) for one in everybody if one.uids().real not in uids]
    print(json.dumps({"students": len(names), "servers": len(servers)}), "\n")
    print("| what | wall s | CPU s | CPU s each | private MB each | PSS MB each |\n|---|---|---|---|---|---|")
    private, proportional = (statistics.median(column) for column in zip(*servers, strict=True))
    each = processor / len(names)
    print(f"| {len(names)} servers | {wall:.1f} | {processor:.1f} | {each:.2f} | {private:.0f} | {proportional:.0f} |")
    print(f"| hub and proxy | {started:.1f} | {used:.1f} | | {sum(one[0] for one in others):.0f} | |")


if __name__ == "__main__":
    main()
