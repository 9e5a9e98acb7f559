"""Start a notebook server, visit it and stop it, to learn what a server loads. Not run as root."""

from __future__ import annotations

import http.cookies
import logging
import os
import socket
from pathlib import Path
from urllib.parse import urlencode

from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from nblauncher.auth import passwords
from nblauncher.server.app import Inherited, make_application
from nblauncher.server.config import ServerConfig

_USERNAME = "warm-up"
_PAGES = (
    "api",
    "api/status",
    "api/contents?content=1",
    "api/kernelspecs",
    "api/terminals",
    "api/me",
    "nblauncher/begin",
)
_INTERFACES = ("tree", "lab", "lab/api/settings")


def serve_once(home: Path) -> None:
    """A whole server on a free port of the loopback interface, a sign-in, and the pages that a student sees first."""
    runtime = home / "runtime"
    runtime.mkdir()
    os.environ.update({"HOME": str(home), "JUPYTER_RUNTIME_DIR": str(runtime), "JUPYTER_CONFIG_PATH": ""})
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    listening.setblocking(False)
    port = listening.getsockname()[1]
    password = passwords.generate()
    config = ServerConfig(
        username=_USERNAME,
        hashed_password=passwords.jupyter_hash(password),
        port=port,
        front_port=port,
        tickets_socket=str(home / "none"),
        home=str(home),
        target="",
        settings_folder=str(home / "settings"),
    )
    application = make_application(Inherited(config, None, (listening,)))
    application.log_level = logging.CRITICAL

    async def visit() -> None:
        try:
            await _visit(f"http://127.0.0.1:{port}{config.base_url}", password.reveal())
        finally:
            application.io_loop.stop()

    application.io_loop.add_callback(visit)
    application.start()


async def _visit(base: str, password: str) -> None:
    client = AsyncHTTPClient()
    page = await client.fetch(f"{base}login", raise_error=False)
    cookies = _cookies(page)
    form = urlencode({"password": password, "_xsrf": cookies.get("_xsrf", "")})
    answer = await client.fetch(
        f"{base}login", method="POST", body=form, headers=_header(cookies), follow_redirects=False, raise_error=False
    )
    cookies |= _cookies(answer)
    for path in (*_PAGES, *_INTERFACES):
        await client.fetch(f"{base}{path}", headers=_header(cookies), raise_error=False)


def _cookies(answer: HTTPResponse) -> dict[str, str]:
    jar: http.cookies.SimpleCookie = http.cookies.SimpleCookie()
    for line in answer.headers.get_list("Set-Cookie"):
        jar.load(line)
    return {name: morsel.value for name, morsel in jar.items()}


def _header(cookies: dict[str, str]) -> dict[str, str]:
    return {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
