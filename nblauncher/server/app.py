"""A student's notebook server: `python -I -m nblauncher.server`, started by a spawner, as the student.

Jupyter's own server on inherited sockets. Config with secrets, certificate and key come in sealed memory files that are
read and closed before any file of the student. The student's own Jupyter config applies, except for port, address,
sign-in, TLS, folder and base URL.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import socket
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from nblauncher.system import late_grammar  # noqa: F401 — before jsonschema

# isort: split
from nblauncher.server import without_node  # noqa: F401 — before jupyterlab.labapp

# isort: split
from jupyter_core.utils import ensure_event_loop
from jupyter_server.serverapp import ServerApp
from jupyterlab.commands import get_user_settings_dir, get_workspaces_dir
from jupyterlab.labapp import LabApp
from notebook.app import JupyterNotebookApp
from tornado.ioloop import PeriodicCallback
from traitlets.config import Config

from nblauncher.auth import appearance, visitor_pages
from nblauncher.auth.appearance import Appearance
from nblauncher.auth.front_door import FrontDoor
from nblauncher.model import TlsFiles
from nblauncher.server import notices
from nblauncher.server.activity import IDLE, LISTENS, Activity
from nblauncher.server.auth import LoginForm, LogOut, StudentIdentity, handlers
from nblauncher.server.channels import Channels
from nblauncher.server.config import OnNode, ServerConfig
from nblauncher.server.host_link import HostLink
from nblauncher.server.notice_board import IN_SCRIPT, LOOK_EVERY, NoticeBoard
from nblauncher.server.plain_http import PlainHttpRedirect
from nblauncher.server.renewal import Renewal, cookie_secret, file_of
from nblauncher.server.reporting import Reporting
from nblauncher.server.sessions import Sessions
from nblauncher.system.descriptors import read_and_close
from nblauncher.system.tls_context import server_context

_LOOK_EVERY = 60.0
"""Seconds between two checks whether the server is idle, at most."""

KERNEL_MANAGER = "nblauncher.server.kernels.StudentKernelManager"
_BEGIN = "/nblauncher/begin"
_INTERFACES = {"notebook": JupyterNotebookApp, "lab": LabApp}


@dataclass(frozen=True, slots=True)
class Inherited:
    """What the spawner gave us."""

    config: ServerConfig
    tls: ssl.SSLContext | None
    listening: tuple[socket.socket, ...]
    news: int | None = None
    """The pipe through which it reports to the supervisor."""
    job: OnNode | None = None
    """Of a server on a node of a cluster."""

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
    board: NoticeBoard
    renewal: Renewal
    host_link: HostLink | None = None

    def init_ioloop(self) -> None:
        """One loop for everything: later callers of jupyter_core would otherwise get, and make current, another one."""
        ensure_event_loop()
        super().init_ioloop()

    def init_configurables(self) -> None:
        """By now every config file was read, extensions' too: set again what the student may not choose."""
        self.update_config(forced(self.inherited.config, self.inherited.scheme))
        super().init_configurables()

    def init_webapp(self) -> None:
        job = self.inherited.job
        self._base_secret = self.cookie_secret if job is None else job.sign_ins.encode("ascii")
        self.cookie_secret = cookie_secret(self._base_secret, self.inherited.config.hashed_password)
        self.tornado_settings = {
            # A file from a widget or a cell comes as one message. Above this limit the connection just closes, so
            # `channels` already rejects anything above half of it, with a message.
            "websocket_max_message_size": 2 * self.max_body_size,
            **self.tornado_settings,
            "page_config_hook": self._about_class,
            "headers": {**self.tornado_settings.get("headers", {}), "Referrer-Policy": "strict-origin"},
        }
        super().init_webapp()
        visitor_pages.replace_error_pages(self.web_app.settings["jinja2_env"], self._look)
        ours = handlers(self.inherited.config, self.board, self.host_link)
        self.web_app.add_handlers(".*$", ours)  # type: ignore[no-untyped-call]
        self.board.announce_with(self.event_logger)
        PeriodicCallback(self.board.look, LOOK_EVERY * 1000).start()
        run = Path(os.environ["JUPYTER_RUNTIME_DIR"]).parents[1]
        self.renewal = Renewal(file_of(run, os.getuid()), self._renew)

    def hashed_password(self) -> str:
        """Of the present notebook password."""
        return cast(StudentIdentity, self.identity_provider).hashed_password

    def _renew(self, hashed_password: str) -> None:
        self.web_app.settings["cookie_secret"] = cookie_secret(self._base_secret, hashed_password)
        cast(StudentIdentity, self.identity_provider).renew(hashed_password)

    def _look(self) -> Appearance:
        return appearance.read(Path(self.inherited.config.appearance))

    def _about_class(self, _handler: Any, page_config: dict[str, Any]) -> dict[str, Any]:
        """What labextension/ and notices_extension/ show; Jupyter calls this for every page of Notebook and Lab."""
        look, config = self._look(), self.inherited.config
        about = {
            "nblauncherCourse": look.title,
            "nblauncherStudent": config.name or config.username,
            "nblauncherLogOut": look.words.plain("log_out"),
            "nblauncherLogOutHint": look.words.plain("log_out_hint"),
            "nblauncherLanguage": look.language,
            "nblauncherTexts": json.dumps({key: look.words.raw(key) for key in IN_SCRIPT}),
        }
        return {**page_config, **about}

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
        self.renewal.listen()
        self.http_server.add_sockets(self.inherited.listening)
        self._begin_reporting()
        self.activity.tell(LISTENS)

    def _begin_reporting(self) -> None:
        manager: Any = self.kernel_manager
        reporting = Reporting(self.activity, lambda: map(manager.get_kernel, manager.list_kernel_ids()))
        self.contents_manager.register_post_save_hook(reporting.saved)  # type: ignore[no-untyped-call]
        if self.host_link is not None:
            self.host_link.reporter = reporting
        reporting.begin(self.io_loop)

    def init_shutdown_no_activity(self) -> None:
        """In place of Jupyter's own, which counts the requests of an open tab as activity."""
        limit = self.inherited.config.idle_stop
        if limit:
            every = min(_LOOK_EVERY, limit / 4)
            PeriodicCallback(lambda: self._stop_if_idle(every), every * 1000).start()

    def _stop_if_idle(self, every: float) -> None:
        self.activity.look(every)
        if self._is_used():
            self.activity.is_needed()
        elif self.activity.idle_seconds() > self.inherited.config.idle_stop:
            self.log.info("This server is not in use: it stops until the student connects.")
            self.activity.tell(IDLE)
            self.stop()

    def idle_in(self) -> float | None:
        """Seconds until it stops because it is not in use; None while it is, or where servers never stop."""
        limit = self.inherited.config.idle_stop
        return None if not limit or self._is_used() else limit - self.activity.idle_seconds()

    def _is_used(self) -> bool:
        # jupyter_server_terminals denies in `any_activity` that it has terminals even when it has.
        terminals = self.web_app.settings.get("terminal_manager")
        has_terminals = terminals is not None and bool(terminals.terminals)
        return bool(len(self.kernel_manager) or has_terminals or self.extension_manager.any_activity())  # type: ignore[no-untyped-call]


def forced(config: ServerConfig, scheme: str) -> Config:
    """What the class decides, whatever a student's own config says. The most specific class names win in traitlets."""
    preferred = Path(config.home) / config.target
    server = _server_traits(config, scheme)
    interface = {"app_settings_dir": config.settings_folder, "default_url": _BEGIN}
    kernel_managers = ("KernelManager", "AsyncKernelManager", "AsyncIOLoopKernelManager", "ServerKernelManager")
    return Config(
        {
            "ServerApp": dict(server),
            "StudentServer": dict(server),
            "StudentIdentity": _identity_traits(config),
            # LabApp finds these when it is imported, which may be before the fork.
            "LabApp": {
                **interface,
                "user_settings_dir": get_user_settings_dir(),
                "workspaces_dir": get_workspaces_dir(),
            },
            "JupyterNotebookApp": dict(interface),
            "FileContentsManager": {
                "delete_to_trash": False,
                "preferred_dir": config.target if preferred.is_dir() else "",
            },
            # StudentKernelManager decides what a kernel that speaks only TCP gets.
            **{name: {"transport": "ipc"} for name in kernel_managers},
            **{
                name: {"kernel_manager_class": KERNEL_MANAGER, **_culling(config.idle_stop)}
                for name in ("MappingKernelManager", "AsyncMappingKernelManager")
            },
        }
    )


def _server_traits(config: ServerConfig, scheme: str) -> dict[str, object]:
    return {
        "base_url": config.base_url,
        "port": config.port,
        "ip": "",
        "custom_display_url": f"{scheme}://localhost:{config.port}{config.base_url}",
        "sock": "",
        "certfile": "",
        "keyfile": "",
        "client_ca": "",
        "root_dir": config.home,
        "default_url": _BEGIN,
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


def _identity_traits(config: ServerConfig) -> dict[str, object]:
    return {
        "hashed_password": config.hashed_password,
        "password_required": True,
        "allow_password_change": False,
        "token": "",
        "cookie_name": config.cookie_name,
        "login_handler_class": LoginForm,
        "logout_handler_class": LogOut,
    }


def _culling(idle_stop: float) -> dict[str, object]:
    """With idle_stop an idle kernel without a connected tab ends as well; a busy one never does."""
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
    """The pipe to the supervisor: see nblauncher.server.activity."""


def main(arguments: Sequence[str] | None = None) -> int:
    return serve(parse_arguments(arguments))


def serve(given: Descriptors) -> int:
    """Serve until SIGTERM. Returns the exit status; refuses to be root."""
    if 0 in (*os.getresuid(), *os.getresgid()):
        print("a student's server does not run as root", file=sys.stderr)
        return 4
    return run(take_over(given))


def run(inherited: Inherited) -> int:
    """Serve until SIGTERM. Returns the exit status."""
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
    """Read and close the memory files; keep the sockets from kernels and terminals."""
    for descriptor in given.listening:
        os.set_inheritable(descriptor, False)
    config = ServerConfig.parse(read_and_close(given.config))
    tls = None
    if given.certificate is not None and given.key is not None:
        tls = server_context(TlsFiles(read_and_close(given.certificate), read_and_close(given.key)))
    if given.news is not None:
        os.set_inheritable(given.news, False)
        os.set_blocking(given.news, False)
    return Inherited(config, tls, tuple(socket.socket(fileno=number) for number in given.listening), given.news)


def make_application(inherited: Inherited) -> StudentServer:
    """The application, configured and ready to start."""
    extension = _INTERFACES[inherited.config.interface]
    activity = Activity(inherited.news, inherited.config.base_url)
    config = inherited.config
    StudentIdentity.username, StudentIdentity.activity = config.username, activity
    StudentIdentity.front_door = FrontDoor(config.front_port, config.own_label)
    StudentIdentity.is_behind_proxy, StudentIdentity.appearance = config.is_behind_proxy, Path(config.appearance)
    runtime = Path(os.environ["JUPYTER_RUNTIME_DIR"])
    job = inherited.job
    logged_out = runtime / "logged-out" if job is None else job.logged_out
    sessions = StudentIdentity.sessions = Sessions(logged_out)
    application = StudentServer.instance(
        jpserver_extensions={extension.get_extension_package(): True}, config=forced(inherited.config, inherited.scheme)
    )
    application.inherited, application.activity = inherited, activity
    file = notices.file_of(runtime.parents[1], os.getuid())
    board = NoticeBoard(file, Path(config.home), sessions, application.idle_in, look=application._look)
    board.lost_node = config.lost_node
    application.board = StudentIdentity.board = board
    if job is not None:
        password = application.hashed_password, application._renew
        application.host_link = HostLink(job.run, config.username, *password, file, board, activity)
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
