"""A student's notebook server: `python -I -m nblauncher.server`, started by a spawner, as the student.

Jupyter's own server on inherited sockets. Config with secrets, certificate and key come in sealed memory files that are
read and closed before anything of the student's is. The student's own Jupyter config is applied for whatever it wants
but port, address, sign-in, TLS, folder and base URL.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import socket
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jupyter_core.utils import ensure_event_loop
from jupyter_server.serverapp import ServerApp
from jupyterlab.labapp import LabApp
from notebook.app import JupyterNotebookApp
from tornado.ioloop import PeriodicCallback
from traitlets.config import Config

from nblauncher import server_pages
from nblauncher.model import TlsFiles
from nblauncher.plain_http import PlainHttpRedirect
from nblauncher.server_activity import IDLE, LISTENS, Activity
from nblauncher.server_auth import LoginForm, LogOut, StudentIdentity, handlers
from nblauncher.server_channels import Channels
from nblauncher.server_config import ServerConfig
from nblauncher.server_sessions import Sessions
from nblauncher.web.front_door import FrontDoor
from nblauncher.web.inputs import read_and_close, server_context

_LOOK_EVERY = 60.0
"""Seconds between two looks whether the server is idle, at most."""

KERNEL_MANAGER = "nblauncher.server_kernels.StudentKernelManager"
_INTERFACES = {"notebook": JupyterNotebookApp, "lab": LabApp}


@dataclass(frozen=True, slots=True)
class Inherited:
    """What the spawner gave us."""

    config: ServerConfig
    tls: ssl.SSLContext | None
    listening: tuple[socket.socket, ...]
    news: int | None = None
    """Where it tells the supervisor what happens."""

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"


class StudentServer(ServerApp):
    """The server application; `inherited` is set before `initialize`.

    Jupyter has no public way to pass listening sockets: `init_httpserver` and its `_http_server` are its own
    (tests/system/test_server.py fails when they change).
    """

    inherited: Inherited
    activity: Activity

    def init_ioloop(self) -> None:
        """One loop for everything: what asks jupyter_core for one later would get, and make current, another."""
        ensure_event_loop()
        super().init_ioloop()

    def init_configurables(self) -> None:
        """Every config file was read by now, extensions' too: what the student may not choose is said once more."""
        self.update_config(forced(self.inherited.config, self.inherited.scheme))
        super().init_configurables()

    def init_webapp(self) -> None:
        self.tornado_settings = {
            # A file that a widget or a cell brings comes as one message. Above this the connection just closes, so
            # that `server_channels` says it of anything above half of it.
            "websocket_max_message_size": 2 * self.max_body_size,
            **self.tornado_settings,
            "headers": {**self.tornado_settings.get("headers", {}), "Referrer-Policy": "strict-origin"},
        }
        super().init_webapp()
        templates = self.web_app.settings["jinja2_env"]
        templates.loader = server_pages.before(templates.loader)
        self.web_app.add_handlers(".*$", handlers(self.inherited.config))  # type: ignore[no-untyped-call]

    def init_httpserver(self) -> None:
        self._http_server = PlainHttpRedirect(
            self.web_app,
            ssl_options=self.inherited.tls,
            xheaders=self.inherited.config.is_behind_proxy,
            max_body_size=self.max_body_size,
            max_buffer_size=self.max_buffer_size,
        )
        self.io_loop.add_callback(self._listen)

    def _listen(self) -> None:
        self.http_server.add_sockets(self.inherited.listening)
        self.activity.tell(LISTENS)

    def init_shutdown_no_activity(self) -> None:
        """In place of Jupyter's own, which takes the requests of an open tab for somebody's."""
        limit = self.inherited.config.idle_stop
        if limit:
            PeriodicCallback(self._stop_if_idle, min(_LOOK_EVERY, limit / 4) * 1000).start()

    def _stop_if_idle(self) -> None:
        # jupyter_server_terminals says in `any_activity` that it has no terminals even when it has.
        terminals = self.web_app.settings.get("terminal_manager")
        has_terminals = terminals is not None and bool(terminals.terminals)
        if len(self.kernel_manager) or has_terminals or self.extension_manager.any_activity():  # type: ignore[no-untyped-call]
            self.activity.is_needed()
        elif self.activity.idle_seconds() > self.inherited.config.idle_stop:
            self.log.info("Nobody needs this server: it stops until somebody comes.")
            self.activity.tell(IDLE)
            self.stop()


def forced(config: ServerConfig, scheme: str) -> Config:
    """What the class decides, whatever a student's own config says. The most specific class names win in traitlets."""
    preferred = Path(config.home) / config.target
    server = {
        "base_url": config.base_url,
        "port": config.port,
        "ip": "",
        "custom_display_url": f"{scheme}://localhost:{config.port}{config.base_url}",
        "sock": "",
        "certfile": "",
        "keyfile": "",
        "client_ca": "",
        "root_dir": config.home,
        "default_url": "/nblauncher/begin",
        "identity_provider_class": StudentIdentity,
        "kernel_websocket_connection_class": Channels,
        "allow_remote_access": True,
        "allow_origin": "",
        "allow_origin_pat": "",
        "disable_check_xsrf": False,
        "trust_xheaders": False,
        "open_browser": False,
        "quit_button": False,
        "terminals_enabled": True,
        "shutdown_no_activity_timeout": 0,
    }
    identity = {
        "hashed_password": config.hashed_password,
        "password_required": True,
        "allow_password_change": False,
        "token": "",
        "cookie_name": config.cookie_name,
        "login_handler_class": LoginForm,
        "logout_handler_class": LogOut,
    }
    kernel_managers = ("KernelManager", "AsyncKernelManager", "AsyncIOLoopKernelManager", "ServerKernelManager")
    return Config(
        {
            "ServerApp": dict(server),
            "StudentServer": dict(server),
            "StudentIdentity": identity,
            "LabApp": {"app_settings_dir": config.settings_folder, "default_url": "/nblauncher/begin"},
            "JupyterNotebookApp": {"app_settings_dir": config.settings_folder, "default_url": "/nblauncher/begin"},
            "FileContentsManager": {
                "delete_to_trash": False,
                "preferred_dir": config.target if preferred.is_dir() else "",
            },
            # What a kernel that speaks only TCP gets, StudentKernelManager decides.
            **{name: {"transport": "ipc"} for name in kernel_managers},
            **{
                name: {"kernel_manager_class": KERNEL_MANAGER, **_culling(config.idle_stop)}
                for name in ("MappingKernelManager", "AsyncMappingKernelManager")
            },
        }
    )


def _culling(idle_stop: float) -> dict[str, object]:
    """With idle_stop a kernel that does nothing and that no tab is connected to ends as well; a busy one never does."""
    if not idle_stop:
        return {}
    return {
        "cull_idle_timeout": max(1, round(idle_stop)),
        "cull_interval": max(1, round(min(_LOOK_EVERY, idle_stop / 4))),
        "cull_connected": False,
        "cull_busy": False,
    }


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The numbers under which a server finds what it inherits: sockets, and sealed memory files."""

    listening: tuple[int, ...]
    config: int
    certificate: int | None = None
    key: int | None = None
    news: int | None = None
    """The pipe to the supervisor: see server_activity."""


def main(arguments: Sequence[str] | None = None) -> int:
    return serve(parse_arguments(arguments))


def serve(given: Descriptors) -> int:
    """Serve until SIGTERM. Returns the exit status; refuses to be root."""
    if 0 in (*os.getresuid(), *os.getresgid()):
        print("a student's server does not run as root", file=sys.stderr)
        return 4
    inherited = take_over(given)
    _forget_old_kernels(Path(os.environ["JUPYTER_RUNTIME_DIR"]))
    application = make_application(inherited)
    application.start()
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> Descriptors:
    parser = argparse.ArgumentParser(prog="python -m nblauncher.server", allow_abbrev=False)
    parser.add_argument("--listen", required=True, type=lambda text: tuple(int(part) for part in text.split(",")))
    parser.add_argument("--config", required=True, type=int, metavar="FD")
    for name in ("--tls-certificate", "--tls-key", "--news"):
        parser.add_argument(name, type=int, metavar="FD")
    given = parser.parse_args(arguments)
    return Descriptors(given.listen, given.config, given.tls_certificate, given.tls_key, given.news)


def take_over(given: Descriptors) -> Inherited:
    """Read and close what is to be read; keep the sockets from kernels and terminals."""
    for descriptor in given.listening:
        os.set_inheritable(descriptor, False)
    config = ServerConfig.parse(read_and_close(given.config))
    tls = None
    if given.certificate is not None and given.key is not None:
        tls = server_context(TlsFiles(read_and_close(given.certificate), read_and_close(given.key)))
    if given.news is not None:
        os.set_inheritable(given.news, False)
        os.set_blocking(given.news, False)
    return Inherited(config, tls, tuple(socket.socket(fileno=one) for one in given.listening), given.news)


def make_application(inherited: Inherited) -> StudentServer:
    """The application, configured and ready to start."""
    extension = _INTERFACES[inherited.config.interface]
    activity = Activity(inherited.news, inherited.config.base_url)
    of = inherited.config
    StudentIdentity.username, StudentIdentity.activity = of.username, activity
    StudentIdentity.front_door = FrontDoor(of.front_port, of.own_label)
    StudentIdentity.is_behind_proxy = of.is_behind_proxy
    StudentIdentity.sessions = Sessions(Path(os.environ["JUPYTER_RUNTIME_DIR"]) / "logged-out")
    application = StudentServer.instance(
        jpserver_extensions={extension.get_extension_package(): True}, config=forced(inherited.config, inherited.scheme)
    )
    application.inherited, application.activity = inherited, activity
    application.log_level = logging.INFO
    application.no_browser_open_file = True
    application.initialize(argv=[], starter_extension=extension.name)
    return application


def _forget_old_kernels(folder: Path) -> None:
    """Sockets and connection files of kernels that a killed server left behind."""
    with contextlib.suppress(OSError):
        for entry in folder.iterdir():
            if entry.name.startswith("kernel-"):
                with contextlib.suppress(OSError):
                    entry.unlink()


if __name__ == "__main__":
    sys.exit(main())
