"""Changes to ipykernel and debugpy in a class's kernel, before they start: without a TCP listener only the student's
own processes can reach the kernel.

ipykernel binds a pipe for the output of forked children to a port of the loopback interface, whatever the transport,
and its debugger talks to debugpy over loopback ports without a secret: any account of the host could connect and run
code as the student. Both use unix sockets in JUPYTER_RUNTIME_DIR here, which is 0700 of the student. What cannot be
changed (another version of ipykernel, no such folder) is switched off, and the kernel says so: no debugger is better
than one that every account can use.

It runs in three ways, always as the student and with the kernels' Python, which need not have nblauncher: this file
imports the standard library only, and ipykernel and debugpy when a kernel starts.

    install()                             in a kernel that was forked
    python kernel_sockets.py -m MODULE    a kernel that is a program of its own, instead of python -m MODULE
    python kernel_sockets.py --for-server debugpy's adapter, which a kernel starts when the debugger is switched on
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and sys.path[:1] == [os.path.dirname(os.path.abspath(__file__))]:
    del sys.path[0]  # nblauncher's modules are not to be found by their short names

import atexit
import codecs
import contextlib
import errno
import importlib
import random
import runpy
import socket
import stat
from collections.abc import Iterator
from types import ModuleType
from typing import Any

_FOLDER = "JUPYTER_RUNTIME_DIR"
_PYDEVD_IS_QUIET = "PYDEVD_DISABLE_FILE_VALIDATION"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_PORTS = range(1024, 65536)


class Unsuitable(Exception):
    """The code to be changed is not as expected. The text says what."""


class LocalSocket(socket.socket):
    """Looks like a TCP socket of the loopback interface, but is a unix socket: port N is
    `kernel-debug-N` (a server that starts removes what killed kernels left under such names).
    """

    def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> None:
        if fileno is None:
            family, type, proto = socket.AF_UNIX, socket.SOCK_STREAM, 0
        super().__init__(family, type, proto, fileno)
        self._port = 0
        self._path = ""

    def bind(self, address: Any) -> None:
        wanted = _port(address)
        while True:
            port = wanted or _free_port()
            try:
                super().bind(_path(port))
            except OSError as error:
                if wanted or error.errno != errno.EADDRINUSE:
                    raise
            else:
                self._port, self._path = port, _path(port)
                return

    def connect(self, address: Any) -> None:
        super().connect(_path(_port(address)))

    def connect_ex(self, address: Any) -> int:
        return super().connect_ex(_path(_port(address)))

    def accept(self) -> tuple[socket.socket, Any]:
        accepted, _nameless = super().accept()
        return accepted, (_LOOPBACK[0], 0)

    def getsockname(self) -> Any:
        return _LOOPBACK[0], self._port

    def getpeername(self) -> Any:
        super().getpeername()  # or the error that there is none
        return _LOOPBACK[0], 0

    def setsockopt(self, level: int, *option: Any) -> None:
        if level != socket.IPPROTO_TCP:
            super().setsockopt(level, *option)

    def close(self) -> None:
        path, self._path = self._path, ""
        if path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        super().close()


def _port(address: Any) -> int:
    host, port = address[:2]
    if host not in _LOOPBACK:
        raise OSError(errno.EADDRNOTAVAIL, f"{host}: the debugger of a class's kernel is the student's alone")
    return int(port)


def _path(port: int) -> str:
    return f"{private_folder()}/kernel-debug-{port}"


def _free_port() -> int:
    """A free name. A number, because debugpy passes on nothing else."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        if not os.path.lexists(_path(port)):
            return port


def private_folder() -> str:
    """The folder of the sockets. OSError unless only the student can use it."""
    folder = os.environ.get(_FOLDER, "")
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise OSError(errno.EPERM, f"others can enter {folder}")
    return folder


def install() -> None:
    """Call it in a kernel before ipykernel starts. Whatever cannot be made private is switched off."""
    try:
        iostream = importlib.import_module("ipykernel.iostream")
    except ImportError:
        return  # not IPython's kernel, or one that cannot start and says so itself
    try:
        _use_unix_pipe(iostream, private_folder())
    except (Unsuitable, OSError) as error:
        _say(f"processes that a cell forks cannot print: {error}")
        _have_no_pipe(iostream)
    try:
        with _quiet():
            debugger = importlib.import_module("ipykernel.debugger")
    except ImportError:
        return  # an ipykernel without one
    if not getattr(debugger, "_is_debugpy_available", False):
        return
    try:
        _use_unix_debugger(debugger, private_folder())
    except (Unsuitable, OSError, ImportError) as error:
        _say(f"there is no debugger: {error}")
        _have_no_debugger(debugger)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """At import pydevd warns that its own files were frozen. A student cannot do anything about that, and a write to
    the log of a server without a supervisor (it was killed) would break the kernel's output for good.
    """
    was_set = _PYDEVD_IS_QUIET in os.environ
    os.environ.setdefault(_PYDEVD_IS_QUIET, "1")
    try:
        yield
    finally:
        if not was_set:
            del os.environ[_PYDEVD_IS_QUIET]


def objection() -> str:
    """Why kernels of this Python would have no debugger; empty if they would have one. Changes this process."""
    try:
        debugger = importlib.import_module("ipykernel.debugger")
        _use_unix_debugger(debugger, "")
    except (Unsuitable, ImportError) as error:
        return str(error)
    return "" if getattr(debugger, "_is_debugpy_available", False) else "debugpy is not installed"


def _say(words: str) -> None:
    print(f"nblauncher: {words}", file=sys.stderr, flush=True)


def _known(holder: Any, *names: str) -> None:
    if missing := [name for name in names if not hasattr(holder, name)]:
        raise Unsuitable(f"this version has no {missing[0]} in {getattr(holder, '__name__', holder)}")


def _use_unix_pipe(iostream: ModuleType, folder: str) -> None:
    """Forked children send their output over a unix socket."""
    thread: Any = getattr(iostream, "IOPubThread", None)
    _known(thread, "_setup_pipe_in", "_setup_pipe_out", "_handle_pipe_msg")
    zmq, streams = iostream.zmq, iostream.ZMQStream

    def _setup_pipe_in(self: Any) -> None:
        self._pipe_uuid = os.urandom(16)
        path = f"{folder}/kernel-output-{os.getpid()}-{os.urandom(4).hex()}"
        self._pipe_address = f"ipc://{path}"
        pipe = self.socket.context.socket(zmq.PULL)
        pipe.linger = 0
        try:
            pipe.bind(self._pipe_address)
        except zmq.ZMQError as error:
            _say(f"processes that a cell forks cannot print: {self._pipe_address}: {error}")
            self._pipe_flag = False
            pipe.close()
            return
        atexit.register(_remove, path, os.getpid())
        self._pipe_in = streams(pipe, self.io_loop)
        self._pipe_in.on_recv(self._handle_pipe_msg)

    def _setup_pipe_out(self: Any) -> tuple[Any, Any]:
        context = zmq.Context()  # a context does not survive a fork
        pipe = context.socket(zmq.PUSH)
        pipe.linger = 3000
        pipe.connect(self._pipe_address)
        return context, pipe

    thread._setup_pipe_in, thread._setup_pipe_out = _setup_pipe_in, _setup_pipe_out


def _remove(path: str, owner: int) -> None:
    """Do nothing in a forked child that ends."""
    if os.getpid() == owner:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _have_no_pipe(iostream: ModuleType) -> None:
    thread: Any = iostream.IOPubThread
    began = thread.__init__

    def __init__(self: Any, pub_socket: Any, pipe: bool = False, *more: Any, **named: Any) -> None:
        del pipe
        began(self, pub_socket, False, *more, **named)

    thread.__init__ = __init__


def _use_unix_debugger(debugger: ModuleType, folder: str) -> None:
    """Every socket that debugpy makes in this process, in its adapter, and between it and ipykernel."""
    sockets: Any = importlib.import_module("debugpy.common.sockets")
    server: Any = importlib.import_module("debugpy.server.api")
    pydevd: Any = importlib.import_module("_pydevd_bundle.pydevd_comm")
    iostream: Any = importlib.import_module("tornado.iostream")
    _known(sockets, "create_server", "create_client", "get_address", "socket")
    _known(server, "adapter", "sockets", "listen", "_config")
    _known(pydevd, "start_client", "create_server_socket", "socket")
    client: Any = getattr(debugger, "DebugpyClient", None)
    _known(client, "get_host_port", "connect_tcp_socket", "disconnect_tcp_socket", "receive_dap_frame", "_send_request")
    if not isinstance(sockets.socket, ModuleType) or pydevd.socket not in (socket.socket, LocalSocket):
        raise Unsuitable("debugpy makes its sockets in another way")
    private = ModuleType("socket")
    vars(private).update({**vars(socket), "socket": LocalSocket})
    sockets.socket, pydevd.socket = private, LocalSocket
    # debugpy runs the folder of this "file" as the adapter.
    server.adapter = ModuleType("adapter")
    server.adapter.__file__ = os.path.join(os.path.abspath(__file__), "adapter")
    debugger.DebugpyClient = _client(debugger, server, iostream, folder)  # type: ignore[attr-defined]


def _client(debugger: Any, server: Any, iostream: Any, folder: str) -> type:
    """ipykernel's side of the debugger, in place of its own, which uses ZMQ_STREAM and so TCP only."""

    class Client(debugger.DebugpyClient):  # type: ignore[misc]
        debugpy_port: Any
        stream: Any = None

        def get_host_port(self) -> tuple[str, str]:
            if self.debugpy_port == -1:
                self.debugpy_port = str(_free_port())
                # A program that a cell starts has no LocalSocket: it would look for the adapter on a TCP port.
                server._config.update(subProcess=False, pythonEnv={**os.environ, _FOLDER: folder})
            return self.debugpy_host, self.debugpy_port

        def connect_tcp_socket(self) -> None:
            connected = LocalSocket()
            connected.connect((self.debugpy_host, self.debugpy_port))
            self.stream = iostream.IOStream(connected)
            self.stream.io_loop.add_callback(self.listen, self.stream)

        async def listen(self, stream: Any) -> None:
            decoder = codecs.getincrementaldecoder("utf-8")()
            with contextlib.suppress(iostream.StreamClosedError):
                while True:
                    self.receive_dap_frame(decoder.decode(await stream.read_bytes(65536, partial=True)))

        def disconnect_tcp_socket(self) -> None:
            if self.stream is not None:
                self.stream.close()
            self.stream = None
            self.init_event = debugger.Event()
            self.init_event_seq = -1
            self.wait_for_attach = True

        def _send_request(self, msg: Any) -> None:
            content = debugger.jsonapi.dumps(msg, default=debugger.json_default, ensure_ascii=False, allow_nan=False)
            self.stream.write(b"Content-Length: %d\r\n\r\n%s" % (len(content), content))

    return Client


def _have_no_debugger(debugger: Any) -> None:
    """Never offer a debugger, and never start one."""
    for name in ("ipykernel.debugger", "ipykernel.ipkernel", "ipykernel.kernelbase"):
        if hasattr(sys.modules.get(name), "_is_debugpy_available"):
            vars(sys.modules[name])["_is_debugpy_available"] = False
    debugger.Debugger.start = lambda _self: False


def _run_module(name: str, arguments: list[str]) -> None:
    """As `python -m NAME ARGUMENTS` does."""
    install()
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        sys.path.insert(0, os.getcwd())
    sys.argv[:] = [name, *arguments]
    sys.orig_argv[:] = [word for word in sys.orig_argv if word != __file__]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _run_adapter() -> None:
    """debugpy's adapter, which is a program of its own: every socket that it makes is a LocalSocket."""
    private_folder()
    vars(socket)["socket"] = LocalSocket
    importlib.import_module("debugpy.adapter.__main__").main()


if __name__ == "__main__":
    if sys.argv[1:2] == ["-m"]:
        _run_module(sys.argv[2], sys.argv[3:])
    else:
        _run_adapter()
