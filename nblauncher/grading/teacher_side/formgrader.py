"""`PYTHON foreign.py nblauncher.grading.teacher_side.formgrader FD`: nbgrader's formgrader on inherited sockets.

A Jupyter server whose extensions are the formgrader, JupyterLab and notebook 7, for one person who knows the password.
FD is a sealed memory file with the order. Sessions end with the process: their secret is never written.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_core.utils import ensure_event_loop
from jupyter_server.serverapp import ServerApp
from tornado.httpserver import HTTPServer
from traitlets.config import Config

from nblauncher.grading.teacher_side.formgrader_pages import guard, handlers
from nblauncher.model import TlsFiles
from nblauncher.system.descriptors import read_and_close
from nblauncher.system.tls_context import server_context

LISTENS = b"listens"
FIRST_PAGE = "/formgrader/manage_assignments"
EXTENSIONS = {
    "nbgrader.server_extensions.formgrader": True,
    "jupyterlab": True,
    "notebook": True,
    # They serve the exchange, and students.
    "nbgrader.server_extensions.assignment_list": False,
    "nbgrader.server_extensions.course_list": False,
    "nbgrader.server_extensions.validate_assignment": False,
    "jupyter_server_terminals": False,
    "jupyter_lsp": False,
}


@dataclass(frozen=True, slots=True)
class Order:
    """What root gave us: numbers of descriptors, and words."""

    listening: tuple[int, ...]
    link: int
    """To the command that started us: we say `LISTENS`, and stop when it closes its end."""
    hashed_password: str
    folder: str
    """The teacher's course folder."""
    host: str
    """The host in the address, without a port."""
    cookie_name: str
    certificate: int | None = None
    key: int | None = None

    @classmethod
    def read(cls, descriptor: int) -> Order:
        given = json.loads(read_and_close(descriptor))
        return cls(**{**given, "listening": tuple(given["listening"])})


class Formgrader(ServerApp):
    """The application; `order` is set before `initialize`. See nblauncher.server.app for Jupyter's own parts."""

    name = "formgrader"
    order: Order
    tls: ssl.SSLContext | None

    def init_ioloop(self) -> None:
        ensure_event_loop()
        super().init_ioloop()

    def init_configurables(self) -> None:
        """Every config file was read by now, the teacher's own too: set again what they must not change."""
        self.update_config(forced(self.order, has_tls=self.tls is not None))
        super().init_configurables()

    def init_webapp(self) -> None:
        self.tornado_settings = {
            **self.tornado_settings,
            "cookie_secret": os.urandom(32),
            "headers": {"Referrer-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin"},
        }
        super().init_webapp()
        self.web_app.default_router.rules.insert(0, guard("https" if self.tls else "http", self.order.host))
        self.web_app.add_handlers(".*$", handlers())

    def init_httpserver(self) -> None:
        self._http_server = HTTPServer(
            self.web_app,
            ssl_options=self.tls,
            max_body_size=self.max_body_size,
            max_buffer_size=self.max_buffer_size,
        )
        self.io_loop.add_callback(self._listen)

    def _listen(self) -> None:
        for number in self.order.listening:
            os.set_inheritable(number, False)
        self.http_server.add_sockets([socket.socket(fileno=number) for number in self.order.listening])
        asyncio.get_event_loop().add_reader(self.order.link, self._end)
        os.write(self.order.link, LISTENS)

    def _end(self) -> None:
        """The command that started us ended."""
        asyncio.get_event_loop().remove_reader(self.order.link)
        self.stop()


def forced(order: Order, *, has_tls: bool) -> Config:
    """What a Jupyter config of the teacher's does not change."""
    server = {
        "base_url": "/",
        "ip": "localhost",
        "port": 0,
        "sock": "",
        "certfile": "",
        "keyfile": "",
        "client_ca": "",
        "root_dir": order.folder,
        "default_url": FIRST_PAGE,
        "custom_display_url": "http://localhost/",
        "allow_remote_access": False,
        "local_hostnames": [order.host],
        "allow_origin": "",
        "allow_origin_pat": "",
        "allow_credentials": False,
        "disable_check_xsrf": False,
        "trust_xheaders": False,
        "open_browser": False,
        "quit_button": False,
        "terminals_enabled": False,
        "jpserver_extensions": dict(EXTENSIONS),
        "identity_provider_class": "jupyter_server.auth.identity.PasswordIdentityProvider",
    }
    identity = {
        "hashed_password": order.hashed_password,
        "password_required": True,
        "allow_password_change": False,
        "token": "",
        "cookie_name": order.cookie_name,
        "secure_cookie": has_tls,
        "cookie_options": {"httponly": True, "samesite": "Strict", "path": "/", "expires_days": None},
    }
    kernels = ("KernelManager", "AsyncKernelManager", "AsyncIOLoopKernelManager", "ServerKernelManager")
    return Config(
        {
            "ServerApp": dict(server),
            "Formgrader": dict(server),
            "PasswordIdentityProvider": identity,
            "LabApp": {"extension_manager": "readonly", "news_url": None},
            "FileContentsManager": {"delete_to_trash": False},
            "CourseDirectory": {"root": order.folder},
            **{name: {"transport": "ipc"} for name in kernels},
        }
    )


def main(arguments: list[str]) -> int:
    if 0 in (*os.getresuid(), *os.getresgid()):
        raise SystemExit("the formgrader does not run as root")
    order = Order.read(int(arguments[0]))
    os.set_inheritable(order.link, False)
    tls = None
    if order.certificate is not None and order.key is not None:
        tls = server_context(TlsFiles(read_and_close(order.certificate), read_and_close(order.key)))
    os.chdir(Path(order.folder))
    application: Any = Formgrader.instance(config=forced(order, has_tls=tls is not None))
    application.order, application.tls = order, tls
    application.log_level = logging.WARNING
    application.no_browser_open_file = True
    application.initialize(argv=[])
    application.start()
    return 0
