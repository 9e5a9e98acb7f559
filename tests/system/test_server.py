"""What a student meets at their own notebook server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from nblauncher.model import Account, ServerState
from nblauncher.server.class_files import PIP_PREFIX
from nblauncher.supervisor import registry
from nblauncher.system import workers
from nblauncher.system.libc import pidfd_getfd
from tests.jupyter_client import JupyterClient
from tests.running import PASSWORD, TARGET, RunningClass, eventually, made_account, running_class

pytestmark = pytest.mark.system

ADA_PORT, BOB_PORT = 18501, 18502


@dataclass(frozen=True)
class Class:
    running: RunningClass
    ada: Account
    bob: Account
    ca: Path

    def client(self, account: Account, port: int) -> JupyterClient:
        return JupyterClient(account.username, port, self.ca)


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Class]:
    folder = tmp_path_factory.mktemp("class")
    with (
        made_account("nbtvada", 25000) as ada,
        made_account("nbtvbob", 25001) as bob,
        running_class(folder, "nbtv-server", 18500) as running,
    ):
        ca = folder / "ca.pem"
        ca.write_bytes(running.ca.certificate)
        running.ready((ada, ADA_PORT), (bob, BOB_PORT))
        yield Class(running, ada, bob, ca)


@pytest.fixture
def ada(course: Class) -> Iterator[JupyterClient]:
    """Signed in."""
    with course.client(course.ada, ADA_PORT) as client:
        assert client.sign_in(PASSWORD).status_code == 302
        yield client


def test_a_student_signs_in_over_tls_and_runs_a_cell_as_themselves(course, ada):
    assert ada.run("import os; print(os.getuid(), os.getcwd())") == f"{course.ada.uid} {course.ada.home}\n"


@pytest.mark.parametrize("typed", [PASSWORD.upper(), PASSWORD.replace("-", ""), f" {PASSWORD.replace('-', ' ')} "])
def test_the_password_is_taken_however_it_is_grouped(course, typed):
    with course.client(course.ada, ADA_PORT) as client:
        assert client.sign_in(typed).status_code == 302
        assert client.api("GET", "status").json()["kernels"] >= 0


def test_a_stranger_gets_the_form_and_nothing_else(course):
    with course.client(course.ada, ADA_PORT) as client:
        assert client.http.get("api/status").status_code == 403
        to_login = client.http.get("tree").headers["location"]
        assert to_login == "/user/nbtvada/login?next=%2Fuser%2Fnbtvada%2Ftree"
        assert (
            client.http.get(f"{client.origin}{to_login}").headers["location"]
            == "https://localhost:18500/nbtvada?next=tree"
        )
        assert client.sign_in("wrong").status_code == 401
        assert client.http.get("api/status").status_code == 403


def test_a_neighbours_cookie_opens_nothing(course, ada):
    with course.client(course.bob, BOB_PORT) as bob:
        for cookie in ada.http.cookies.jar:
            bob.http.cookies.set(cookie.name, cookie.value or "", path=f"/user/{course.bob.username}/")
        assert bob.http.get("api/status").status_code == 403


def test_wrong_guesses_wait_and_a_right_one_does_not(course):
    with course.client(course.bob, BOB_PORT) as client, ThreadPoolExecutor(16) as pool:
        form = client.http.get("login").text
        xsrf = re.search(r'name="_xsrf" value="([^"]+)"', form)
        assert xsrf

        def guess(password: str) -> int:
            return client.http.post("login", data={"_xsrf": xsrf[1], "password": password}).status_code

        wrong = [pool.submit(guess, f"wrong {number}") for number in range(13)]
        eventually(lambda: sum(one.done() for one in wrong) >= 3)
        assert guess(PASSWORD) == 302
        assert not all(one.done() for one in wrong), "wrong guesses are answered late, and keep nobody waiting"
        assert {one.result() for one in wrong} == {401}


def test_plain_http_is_sent_to_https(course):
    answer = httpx.get(f"http://localhost:{ADA_PORT}/user/nbtvada/tree?a=b")
    assert (answer.status_code, answer.headers["location"]) == (
        307,
        f"https://localhost:{ADA_PORT}/user/nbtvada/tree?a=b",
    )


def test_pages_say_strict_origin(course, ada):
    for path in ("login", "tree", "api/status", "nblauncher/ticket", "api/kernels"):
        assert ada.http.get(path).headers["referrer-policy"] == "strict-origin", path


def test_a_student_lands_in_the_material_folder_while_it_is_there(course, ada):
    assert ada.http.get("", follow_redirects=True).url.path == f"/user/nbtvada/tree/{TARGET}"
    folder = course.ada.home / TARGET
    folder.rename(course.ada.home / "away")
    try:
        assert ada.http.get("", follow_redirects=True).url.path == "/user/nbtvada/tree"
    finally:
        (course.ada.home / "away").rename(folder)


def test_autosave_comes_every_fifteen_seconds_and_nothing_asks_the_internet(course, ada):
    """What Notebook's pages read their settings from."""
    schema = ada.http.get("lab/api/settings/@jupyterlab/docmanager-extension:plugin").json()
    assert schema["schema"]["properties"]["autosaveInterval"]["default"] == 15
    schema = ada.http.get("lab/api/settings/@jupyterlab/apputils-extension:notification").json()
    assert schema["schema"]["properties"]["fetchNews"]["default"] == "false"


def test_a_terminal_is_the_students(course, ada):
    seen = ada.terminal("echo I-am-$(id -un)-$((40+2))", until="I-am-nbtvada-42")
    assert "root" not in seen


def links_of(pid: int) -> set[str]:
    """What a process has open; without what it closes meanwhile."""
    links = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return links


def test_a_server_holds_its_own_descriptors_and_privileges_only(course):
    pid = course.running.handle(course.ada).pid
    links = links_of(pid)
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    assert not [
        link for link in links if "memfd" in link or ".log" in link or "/var/" in link or "servers.json" in link
    ]
    listening = {f"socket:[{one.inode}]" for one in registry_entry(course, "nbtvada").listeners}
    assert len(listening) == 2 and listening <= links
    assert not links & {f"socket:[{one.inode}]" for one in registry_entry(course, "nbtvbob").listeners}
    status = Path(f"/proc/{pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status and f"Uid:\t{course.ada.uid}\t{course.ada.uid}\t" in status
    assert "Umask:\t0077" in status
    assert os.getsid(pid) == pid


def test_a_kernel_inherits_no_listening_socket_and_is_reached_by_ipc_only(course, ada):
    kernel = ada.start_kernel()
    pid = ada.run("import os; print(os.getpid())", kernel).strip()
    # ipykernel takes the output of forked children on a loopback port: it only receives, and only what begins with 16
    # random bytes of its own. Nothing can be read there.
    listening = [one.laddr for one in psutil.Process(int(pid)).net_connections("tcp") if one.status == "LISTEN"]
    assert len(listening) <= 1 and {address.ip for address in listening} <= {"127.0.0.1"}
    links = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
    listening = {f"socket:[{one.inode}]" for one in registry_entry(course, "nbtvada").listeners}
    assert not listening & set(links)
    assert ada.run("%connect_info", kernel).count('"transport": "ipc"') == 1


def test_the_environment_is_built_from_nothing(course, ada):
    names = set(ada.run("import os; print(*sorted(os.environ))").split())
    theirs = {name for name in names if not name.startswith(("JPY_", "JUPYTER_"))}
    assert theirs <= {
        *("HOME", "USER", "LOGNAME", "SHELL", "LANG", "PATH", "TZ"),
        *(
            "PYDEVD_USE_FRAME_EVAL",
            "TERM",
            "CLICOLOR",
            "FORCE_COLOR",
            "CLICOLOR_FORCE",
            "PAGER",
            "GIT_PAGER",
            "MPLBACKEND",
        ),
    }, theirs
    assert not [name for name in names if "SUDO" in name or "PASSWORD" in name]


def test_a_neighbour_reads_neither_kernel_traffic_nor_memory_nor_key(course, ada):
    kernel = ada.start_kernel()
    ada.run("1", kernel)
    pid = course.running.handle(course.ada).pid
    runtime = course.running.paths.students_run / str(course.ada.uid)
    sockets = [str(one) for one in runtime.iterdir() if one.is_socket()]
    assert sockets

    def try_everything() -> list[str]:
        got = []
        for what in (
            lambda: os.listdir(runtime),
            lambda: socket.socket(socket.AF_UNIX).connect(sockets[0]),
            lambda: os.listdir(f"/proc/{pid}/fd"),
            lambda: Path(f"/proc/{pid}/environ").read_bytes(),
            lambda: os.open(f"/proc/{pid}/mem", os.O_RDONLY),
            lambda: os.kill(pid, 0),
            lambda: pidfd_getfd(os.pidfd_open(pid), 0),
            lambda: os.listdir(course.running.paths.logs),
            lambda: socket.socket(socket.AF_UNIX).connect(str(course.running.paths.supervisor_socket)),
            lambda: (course.running.paths.run / "servers.json").read_text(),
        ):
            try:
                got.append(repr(what()))
            except PermissionError:
                continue
        return got

    assert workers.run_as(course.bob, try_everything) == []


def test_a_student_cannot_open_the_class_by_their_own_config(course, tmp_path):
    """Every file that Jupyter would read, with everything that would make a server something else."""
    hostile = {
        "port": 18590,
        "ip": "127.0.0.1",
        "base_url": "/",
        "root_dir": "/tmp",
        "certfile": "/nonexistent",
        "sock": "/tmp/nbtv.sock",
        "token": "let-me-in",
        "password": "",
        "allow_root": True,
        "disable_check_xsrf": True,
        "allow_origin": "*",
        "identity_provider_class": "jupyter_server.auth.identity.IdentityProvider",
        "default_url": "/nowhere",
    }
    identity = {"token": "let-me-in", "hashed_password": "", "password_required": False, "cookie_name": "x"}
    sections = {
        "ServerApp": hostile,
        "StudentServer": hostile,
        "NotebookApp": {"password": "", "token": "let-me-in"},
        "IdentityProvider": identity,
        "PasswordIdentityProvider": identity,
        "StudentIdentity": identity,
        "KernelManager": {"transport": "tcp"},
        "ServerKernelManager": {"transport": "tcp"},
        "JupyterNotebookApp": {"app_settings_dir": "/tmp", "default_url": "/x"},
        "FileContentsManager": {"delete_to_trash": True},
        "MappingKernelManager": {"cull_idle_timeout": 4242},
    }
    lines = [f"c.{name}.{key} = {value!r}" for name, entries in sections.items() for key, value in entries.items()]

    def plant() -> None:
        for folder in (course.bob.home / ".jupyter", course.bob.home, course.bob.home / ".local/etc/jupyter"):
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("jupyter_config", "jupyter_server_config", "jupyter_notebook_config", "jupyter_lab_config"):
                (folder / f"{name}.py").write_text("\n".join(["c = get_config()", *lines]))
                (folder / f"{name}.json").write_text(json.dumps(sections))

    workers.run_as(course.bob, plant)
    try:
        course.running.supervisor.stop_servers([course.bob.username])
        environment = {"JUPYTER_TOKEN": "let-me-in", "HOME": "/tmp", "PORT": "1"}
        course.running.ready((course.bob, BOB_PORT), environment=environment)
        with course.client(course.bob, BOB_PORT) as client:
            assert client.http.get("api/status?token=let-me-in").status_code == 403
            assert client.http.get("api/status", headers={"Authorization": "token let-me-in"}).status_code == 403
            assert client.sign_in("let-me-in").status_code == 401
            assert client.sign_in(PASSWORD).status_code == 302
            assert f"nblauncher-nbtvbob-{BOB_PORT}" in client.http.cookies
            assert client.http.get("", follow_redirects=True).url.path == f"/user/nbtvbob/tree/{TARGET}"
            kernel = client.start_kernel()
            assert (
                client.run("import os; print(os.getcwd(), os.environ['HOME'])", kernel)
                == "/home/nbtvbob /home/nbtvbob\n"
            )
            assert '"transport": "ipc"' in client.run("%connect_info", kernel)
            schema = client.http.get("lab/api/settings/@jupyterlab/docmanager-extension:plugin").json()
            assert schema["schema"]["properties"]["autosaveInterval"]["default"] == 15
            answer = client.http.post("api/kernels", headers={"Origin": "https://evil.example"}, json={})
            assert answer.status_code in (403, 404)
    finally:
        subprocess.run(["rm", "-rf", course.bob.home / ".jupyter", course.bob.home / ".local/etc"], check=True)
        for file in course.bob.home.glob("jupyter_*"):
            file.unlink()
    assert not Path("/tmp/nbtv.sock").exists()


def test_a_students_other_wishes_are_granted(course):
    def wish() -> None:
        folder = course.bob.home / ".jupyter"
        folder.mkdir(exist_ok=True)
        line = "c.ServerApp.tornado_settings = {'headers': {'X-Wish': 'granted'}}\n"
        (folder / "jupyter_server_config.py").write_text(line)
        (folder / "custom").mkdir(exist_ok=True)
        (folder / "custom" / "custom.css").write_text("body { color: teal }")

    workers.run_as(course.bob, wish)
    course.running.supervisor.stop_servers([course.bob.username])
    course.running.ready((course.bob, BOB_PORT))
    with course.client(course.bob, BOB_PORT) as client:
        client.sign_in(PASSWORD)
        answer = client.http.get("custom/custom.css")
        assert "teal" in answer.text and answer.headers["X-Wish"] == "granted"
    subprocess.run(["rm", "-rf", course.bob.home / ".jupyter"], check=True)


def test_a_message_that_is_too_large_is_told_in_the_cell_and_the_page_stays_connected(course):
    def lower() -> None:
        folder = course.bob.home / ".jupyter"
        folder.mkdir(exist_ok=True)
        (folder / "jupyter_server_config.py").write_text("c.ServerApp.max_body_size = 20_000_000\n")

    workers.run_as(course.bob, lower)
    course.running.supervisor.stop_servers([course.bob.username])
    course.running.ready((course.bob, BOB_PORT))
    try:
        with course.client(course.bob, BOB_PORT) as client:
            client.sign_in(PASSWORD)
            with client.notebook(client.start_kernel()) as tab:
                assert tab.run("print(6 * 7)") == "42\n"
                cell = tab.begin("import time; time.sleep(5); print('done')")
                tab.send("shell", "comm_msg", {"comm_id": "x", "data": "x" * 30_000_000})
                shown = tab.finish(cell)
                assert "This page sent 30 MB at once, but a kernel accepts 20 MB" in shown and shown.endswith("done\n")
    finally:
        subprocess.run(["rm", "-rf", course.bob.home / ".jupyter"], check=True)
    assert "This page sent 30 MB" in (course.running.paths.logs / f"{course.bob.username}.log").read_text()


def test_a_servers_start_does_not_ask_npm(course):
    """jupyter_lsp would, which takes long and leaves a folder in the home."""
    assert not (course.bob.home / ".npm").exists()


def wheel(folder: Path, name: str, version: str, code: str) -> Path:
    """A wheel, as the packaging specification has it."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    file = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for path, content in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(path, content)
    file.chmod(0o644)
    return file


@pytest.mark.slow
def test_pip_in_a_cell_adds_upgrades_and_leaves_the_courses_packages_alone(course, ada):
    folder = Path(tempfile.mkdtemp(prefix="nbtv-wheels-"))
    folder.chmod(0o755)
    try:
        new = wheel(folder, "nbtvnew", "1.0", "where = 'new'\n")
        newer = wheel(folder, "nbtvnew", "2.0", "where = 'newer'\n")
        upgrade = wheel(folder, "webcolors", "99.0", "__version__ = 'the upgrade'\n")
        kernel = ada.start_kernel()
        assert "Successfully installed nbtvnew-1.0" in ada.run(f"%pip install --no-index {new}", kernel)
        assert ada.run("import nbtvnew; print(nbtvnew.where, nbtvnew.__file__)", kernel).startswith(
            f"new {course.ada.home}/{PIP_PREFIX}/"
        )
        assert "Successfully installed nbtvnew-2.0" in ada.run(f"%pip install --no-index --upgrade {newer}", kernel)
        assert "Successfully installed webcolors-99.0" in ada.run(
            f"%pip install --no-index --no-deps -U {upgrade}", kernel
        )
        fresh = ada.start_kernel()
        code = "import nbtvnew, webcolors; print(nbtvnew.where, getattr(webcolors, '__version__', ''))"
        assert ada.run(code, fresh) == "newer the upgrade\n"
        assert "Successfully uninstalled webcolors-99.0" in ada.run("%pip uninstall -y webcolors", fresh)
        assert "outside environment" in ada.run("%pip uninstall -y webcolors", fresh), "the course's own stays"
        code = "import webcolors; print(getattr(webcolors, '__version__', ''))"
        assert "99" not in ada.run(code, ada.start_kernel())
        with course.client(course.bob, BOB_PORT) as bob:
            bob.sign_in(PASSWORD)
            assert "ModuleNotFoundError" in bob.run("import nbtvnew"), "it is ada's alone"
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)


def test_lab_is_served_when_the_class_wants_it(course, tmp_path):
    with running_class(tmp_path, "nbtv-lab", 18510, interface="lab") as lab:
        lab.ready((course.bob, 18511))
        ca = tmp_path / "ca.pem"
        ca.write_bytes(lab.ca.certificate)
        with JupyterClient(course.bob.username, 18511, ca) as client:
            client.sign_in(PASSWORD)
            page = client.http.get("", follow_redirects=True)
            assert page.url.path == "/user/nbtvbob/lab"
            found = re.search(r'"preferredPath": "([^"]*)"', page.text)
            assert found and found[1].strip("/") == TARGET
            assert client.run("6 * 7") == "42"


def test_a_class_without_tls_works(course, tmp_path):
    with running_class(tmp_path, "nbtv-plain", 18515) as plain:
        plain.ready((course.bob, 18516), tls=None)
        with JupyterClient(course.bob.username, 18516, None) as client:
            assert client.sign_in(PASSWORD).status_code == 302
            assert client.run("6 * 7") == "42"


def test_a_home_that_cannot_be_entered_still_gets_a_server_that_says_so(course, tmp_path):
    course.running.supervisor.stop_servers([course.bob.username])
    course.bob.home.chmod(0)
    try:
        outcomes = course.running.up((course.bob, BOB_PORT))
        assert outcomes[0].state in (ServerState.READY, ServerState.FAILED)
        assert course.running.report(course.ada).state is ServerState.READY
    finally:
        course.bob.home.chmod(0o700)


def registry_entry(course: Class, username: str) -> registry.Remembered:
    return next(one for one in registry.load(course.running.paths.run / registry.FILE) if one.username == username)
