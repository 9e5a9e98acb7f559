"""What kernels listen on: unix sockets in a folder of the student's own, or nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nblauncher.server import kernel, kernel_sockets
from nblauncher.server.kernel_sockets import LocalSocket

IOSTREAM = """
class IOPubThread:
    def __init__(self, socket, pipe=False):
        self.pipe = pipe
"""
DEBUGGER = """
_is_debugpy_available = True
class Debugger:
    def start(self):
        return True
"""
SHOW = """
import ipykernel.debugger, ipykernel.iostream
print(ipykernel.iostream.IOPubThread(None, pipe=True).pipe)
print(ipykernel.debugger._is_debugpy_available, ipykernel.debugger.Debugger().start())
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A student's runtime folder."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    (tmp_path / "runtime").mkdir(mode=0o700)
    return tmp_path / "runtime"


def run(folder: Path, packages: Path) -> subprocess.CompletedProcess[str]:
    """`python -m show --option`, by the file that kernels are run by."""
    return subprocess.run(
        [sys.executable, kernel_sockets.__file__, "-m", "show", "--option"],
        env={**os.environ, "JUPYTER_RUNTIME_DIR": str(folder), "PYTHONPATH": str(packages)},
        cwd=packages,
        capture_output=True,
        text=True,
        check=True,
    )


def test_a_port_of_the_debugger_is_a_unix_socket_in_the_students_folder(folder):
    with LocalSocket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        host, port = listening.getsockname()
        assert listening.family == socket.AF_UNIX and host == "127.0.0.1"
        assert [path.name for path in folder.iterdir()] == [f"kernel-debug-{port}"]
        with LocalSocket() as client:
            client.connect((host, port))
            accepted, address = listening.accept()
            with accepted:
                client.sendall(b"hello")
                assert accepted.recv(10) == b"hello" and address[0] == "127.0.0.1"
    assert not list(folder.iterdir())


def test_a_port_that_is_taken_is_not_taken_again(folder):
    with LocalSocket() as one, LocalSocket() as another:
        one.bind(("127.0.0.1", 5678))
        with pytest.raises(OSError, match="in use"):
            another.bind(("127.0.0.1", 5678))


def test_the_debugger_does_not_listen_on_the_network(folder):
    with LocalSocket() as one, pytest.raises(OSError, match="the student's alone"):
        one.bind(("0.0.0.0", 5678))
    with LocalSocket() as one, pytest.raises(OSError, match="the student's alone"):
        one.connect(("192.0.2.1", 5678))


@pytest.mark.parametrize("mode", [0o750, 0o701])
def test_a_folder_that_others_can_enter_holds_no_socket(folder, mode):
    folder.chmod(mode)
    with LocalSocket() as one, pytest.raises(PermissionError, match="others can enter"):
        one.bind(("127.0.0.1", 0))
    assert not list(folder.iterdir())


@pytest.mark.parametrize("is_private", [True, False])
def test_an_ipykernel_that_cannot_be_made_private_has_no_pipe_and_no_debugger(folder, tmp_path, is_private):
    """Whatever message asks for one."""
    folder.chmod(0o700 if is_private else 0o755)
    (tmp_path / "ipykernel").mkdir()
    for name, text in {"__init__": "", "iostream": IOSTREAM, "debugger": DEBUGGER}.items():
        (tmp_path / "ipykernel" / f"{name}.py").write_text(text)
    (tmp_path / "show.py").write_text(SHOW)
    done = run(folder, tmp_path)
    assert done.stdout.splitlines()[:2] == ["False", "False False"]
    assert "processes that a cell forks cannot print" in done.stderr and "there is no debugger" in done.stderr


def test_a_python_says_whether_its_kernels_have_a_debugger(folder, tmp_path):
    code = "import kernel_sockets; print(kernel_sockets.objection())"
    (tmp_path / "kernel_sockets.py").write_text(Path(kernel_sockets.__file__).read_text())
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout == "\n"
    (tmp_path / "ipykernel").mkdir()
    (tmp_path / "ipykernel" / "__init__.py").write_text("")
    (tmp_path / "ipykernel" / "debugger.py").write_text(DEBUGGER)
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "this version has no get_host_port" in said


def test_a_module_is_run_as_python_does_it(folder, tmp_path):
    (tmp_path / "show.py").write_text("import sys; print(sys.argv[1:], sys.orig_argv[1:], __name__, sys.path[0])")
    said = run(folder, tmp_path).stdout.strip()
    assert said == f"['--option'] ['-m', 'show', '--option'] __main__ {tmp_path}"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("-m ipykernel_launcher -f x", "FILE -m ipykernel_launcher -f x"),
        ("-Xfrozen_modules=off -m ipykernel_launcher", "-Xfrozen_modules=off FILE -m ipykernel_launcher"),
        ("-c pass -m", "-c pass -m"),
        ("program.py -m x", "program.py -m x"),
        ("", ""),
    ],
)
def test_what_a_kernelspec_runs_by_m_is_run_with_private_sockets(given, expected):
    said = " ".join(kernel._with_private_sockets(given.split()))
    assert said == expected.replace("FILE", kernel_sockets.__file__)
