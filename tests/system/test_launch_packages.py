"""A launched class whose course has packages of its own: what students find of them in kernels, terminals and pages."""

from __future__ import annotations

import json
import os
import pwd
import re
import resource
import shutil
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from nblauncher.environments import course_packages
from nblauncher.model import Account
from nblauncher.system import workers
from tests.classroom import Classroom
from tests.jupyter_client import JupyterClient
from tests.running import eventually

pytestmark = [pytest.mark.system, pytest.mark.group("builder"), pytest.mark.slow]  # builds an environment

ADA = "nbtpkada"
PORT = 28800
FORKED = "nblauncher.forkserver.kernels"
MANAGER = "@jupyter-widgets/jupyterlab-manager"
PRELOAD = ["numpy", "pandas", "polars", "tqdm.auto", "ipywidgets"]


def notebook(*requirements: str) -> dict[str, Any]:
    return {"requirements": list(requirements), "preload": PRELOAD}


LOW = {"RLIMIT_NOFILE": 200, "RLIMIT_FSIZE": 50_000_000, "RLIMIT_AS": 4 << 30, "RLIMIT_STACK": 4 << 20}


def use_low_limits() -> None:
    """As `ulimit -S` in root's shell; a container's root may not raise the hard limits again."""
    for name, value in LOW.items():
        _soft, hard = resource.getrlimit(getattr(resource, name))
        resource.setrlimit(getattr(resource, name), (value, hard))


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    """The class at first, without anything for the browser."""
    made = Classroom("nbtpk", [ADA], port=PORT, first_uid=32700)
    try:
        made.write(notebook=notebook("tqdm"))
        made.run("setup", timeout=600)
        made.run("launch", "--background", preexec_fn=use_low_limits)
        yield made
    finally:
        made.close()
        shutil.rmtree(made.paths.environments, ignore_errors=True)


@pytest.fixture(scope="module")
def client(room: Classroom) -> Iterator[JupyterClient]:
    ca = room.folder / "ca.pem"
    ca.write_bytes((room.paths.tls / "ca.pem").read_bytes())
    with JupyterClient(ADA, PORT + 1, ca) as one:
        assert one.sign_in(room.credentials[ADA]["notebook_password"]).status_code == 302
        yield one


@pytest.fixture(scope="module")
def before(room: Classroom, client: JupyterClient) -> dict[str, str]:
    return extensions(client)


@pytest.fixture(scope="module")
def said(room: Classroom, before: dict[str, str]) -> str:
    """What `reload` says when the course got packages; the student's server runs on."""
    server = server_of(room)
    room.write(notebook=notebook("pandas", "pyarrow", "polars", "tqdm", "ipywidgets", "plotly"))
    words = room.run("reload", timeout=900).stdout
    assert server_of(room) == server
    return words


def server_of(room: Classroom) -> int:
    (student,) = room.json("status")["students"]
    assert student["server"] == "ready"
    return int(student["pid"])


def environment_of(room: Classroom) -> Path:
    found = course_packages.current(room.paths.environments)
    assert found is not None
    return found


def extensions(client: JupyterClient) -> dict[str, str]:
    """The extensions that a page loads, and the file that each begins with."""
    page = client.http.get("tree").text
    found = re.search(r'<script id="jupyter-config-data" type="application/json">(.*?)</script>', page, re.S)
    assert found, page
    return {one["name"]: one["load"] for one in json.loads(found[1])["federated_extensions"]}


def test_what_packages_bring_for_the_browser_is_there_after_a_reload(room, client, before, said):
    assert MANAGER not in before
    found = extensions(client)
    assert MANAGER in found and "jupyterlab-plotly" in found
    assert set(before) <= set(found)
    for name in (MANAGER, "jupyterlab-plotly"):
        entry = client.http.get(f"lab/extensions/{name}/{found[name]}")
        assert entry.status_code == 200 and "javascript" in entry.headers["content-type"]
    for path, target in links(room).items():
        is_ours = "kernels/python3" in path or "labextensions/nblauncher" in path
        assert is_ours or str(environment_of(room)) in target


def links(room: Classroom) -> dict[str, str]:
    data = room.paths.run / "share/jupyter"
    return {str(path): os.readlink(path) for path in data.rglob("*") if path.is_symlink()}


def test_the_servers_own_extensions_are_not_replaced_by_those_of_the_course(room, client, said):
    own = Path(sys.prefix, "share/jupyter/labextensions")
    names = {str(path.parent.relative_to(own)) for path in own.glob("**/package.json")}
    assert not [path for path in links(room) if any(path.endswith(f"labextensions/{name}") for name in names)]


def test_a_kernel_has_its_picture(client, said):
    spec = client.api("GET", "kernelspecs").json()["kernelspecs"]["python3"]
    assert "logo-64x64" in spec["resources"]
    picture = client.http.get(client.origin + spec["resources"]["logo-64x64"])
    assert picture.status_code == 200 and picture.headers["content-type"] == "image/png"


def fork_server(room: Classroom) -> psutil.Process:
    processes = [one for one in psutil.process_iter(["uids", "cmdline"]) if FORKED in (one.info["cmdline"] or ())]
    home = str(room.paths.kernels_home)
    return next(one for one in processes if one.uids().real == 0 and home in " ".join(one.cmdline()))


def test_pandas_with_pyarrow_is_forked_and_what_cannot_be_is_told(room, client, said):
    python = str(course_packages.python_in(environment_of(room)))
    assert python in fork_server(room).cmdline() and fork_server(room).num_threads() == 1
    code = "import os, sys; print('pandas' in sys.modules, 'polars' in sys.modules, os.getppid())"
    assert client.run(code) == f"True False {fork_server(room).pid}\n"
    for words in (said, room.run("status").stdout, room.json("status")["kernels"]):
        assert "kernels are forked without polars, tqdm.auto, ipywidgets in memory" in words
        assert re.search(r"polars (imports \S+, which )?starts a thread when it is imported", words)
        assert "ipywidgets looks for the running kernel when it is imported" in words
        assert "pandas" not in words and "numpy" not in words
    checked = [one["message"] for one in room.json("check", expect=None)["findings"]]
    assert [one for one in checked if "kernels are forked from a preloaded process with numpy, pandas" in one]
    for name in ("polars", "tqdm.auto", "ipywidgets"):
        assert [one for one in checked if f"kernels are forked without {name} in memory: it " in one]


ARROW = """
import pandas, pyarrow, pyarrow.parquet, os
frame = pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]})
frame.to_parquet("nbt.parquet")
print(pandas.read_parquet("nbt.parquet").equals(frame), pyarrow.compute.sum(pyarrow.array(range(10**6))))
os.unlink("nbt.parquet")
"""


def test_pyarrow_works_in_a_forked_kernel(client, said):
    assert client.run(ARROW) == "True 499999500000\n"


WIDGET = "[application/vnd.jupyter.widget-view+json]"


def test_a_progress_bar_is_a_widget_and_not_text(client, said):
    assert WIDGET in client.run("from tqdm.auto import tqdm; list(tqdm(range(3)))")
    assert WIDGET in client.run("import ipywidgets; display(ipywidgets.IntSlider())")


def test_plotly_finds_what_it_needs_to_be_shown(client, said):
    code = "import plotly.graph_objects as go; go.Figure(go.Scatter(y=[1])).show(renderer='plotly_mimetype')"
    assert client.run(code) == "[application/vnd.plotly.v1+json]"


def test_cells_and_terminals_find_the_students_programs_and_then_the_courses(room, client, said):
    own, course = room.home(ADA) / ".local/share/nblauncher/python/bin", environment_of(room) / "bin"
    found = client.run("!command -v python pip jupyter tqdm").split()
    assert found == [f"{own}/python", f"{own}/pip", f"{course}/jupyter", f"{course}/tqdm"]
    typed = client.terminal("command -v python pip jupyter tqdm; echo e''nd", until="end")
    assert re.findall(r"/\S+/bin/\w+", typed) == found
    assert client.terminal("echo $0 $PATH e''nd", until="end").count("/usr/bin") == 1


def test_pip_in_a_cell_and_in_a_terminal_installs_where_the_magic_does(room, client, said):
    wheel = made_wheel(room.folder)
    assert "Successfully installed nbtown-1" in client.run(f"!pip install --no-index {wheel}")
    assert client.run("import nbtown; print(nbtown.__file__)").startswith(str(room.home(ADA)))
    client.terminal("pip uninstall -y nbtown && echo g''one", until="gone")
    assert "ModuleNotFoundError" in client.run("import nbtown")


def made_wheel(folder: Path) -> Path:
    wheel = folder / "nbtown-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("nbtown.py", "")
        archive.writestr("nbtown-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: nbtown\nVersion: 1\n")
        archive.writestr("nbtown-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("nbtown-1.dist-info/RECORD", "")
    wheel.chmod(0o644)
    return wheel


TCP_ONLY = """
import json, os, sys
from pathlib import Path
file = Path(sys.argv[1])
while json.loads(file.read_text())["transport"] != "tcp":
    import time
    time.sleep(60)  # as kernels do that know nothing else
os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", "-f", sys.argv[1]])
"""


def test_a_kernel_that_speaks_tcp_only_works_and_all_others_use_unix_sockets(room, client, said):
    kernels = room.home(ADA) / ".local/share/jupyter/kernels"
    python = str(course_packages.python_in(environment_of(room)))
    argv = {
        "tcponly": [python, "-c", textwrap.dedent(TCP_ONLY), "{connection_file}"],
        "another": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
    }

    def put() -> None:
        for name, command in argv.items():
            (kernels / name).mkdir(parents=True)
            spec = {"argv": command, "display_name": name, "language": "python"}
            (kernels / name / "kernel.json").write_text(json.dumps(spec))

    entry = pwd.getpwnam(ADA)
    workers.run_as(Account(ADA, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir)), put)
    seen = {}
    for name in ("tcponly", "another", "python3"):
        kernel = client.api("POST", "kernels", json={"name": name}).json()["id"]
        assert client.run("print(6 * 7)", kernel) == "42\n"
        (file,) = (room.paths.students_run / str(entry.pw_uid)).glob(f"kernel-{kernel}.json")
        seen[name] = json.loads(file.read_text())["transport"]
        client.api("DELETE", f"kernels/{kernel}")
    assert seen == {"tcponly": "tcp", "another": "ipc", "python3": "ipc"}
    log = room.paths.logs / f"{ADA}.log"
    eventually(lambda: "The kernel tcponly speaks TCP only" in log.read_text())


LIMITS = "import json, resource; print(json.dumps({one: resource.getrlimit(getattr(resource, one)) for one in %r}))"


def test_a_low_ulimit_of_roots_shell_reaches_no_kernel(client, said):
    found = json.loads(client.run(LIMITS % list(LOW)))
    assert not [name for name, (soft, _hard) in found.items() if -1 < soft <= LOW[name]]


def test_a_message_of_fifty_megabytes_arrives(client, said):
    """A file that is dropped on a widget comes so; what is too large is told in test_server.py."""
    kernel = client.start_kernel()
    with client.notebook(kernel) as tab:
        content = {"code": "print(6 * 7)", "silent": False, "store_history": False, "file": "x" * 50_000_000}
        assert tab.finish(tab.send("shell", "execute_request", content)) == "42\n"
