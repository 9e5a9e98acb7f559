"""How a student signs in at their own notebook server: a ticket from the front page, or the password.

Runs in the student's process. Wrong guesses cost time, a right password is never refused, and neither keeps the
server from answering others.
"""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, cast
from urllib.parse import quote

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.auth.identity import PasswordIdentityProvider, User
from jupyter_server.auth.login import LoginFormHandler
from jupyter_server.auth.security import passwd_check
from jupyter_server.base.handlers import JupyterHandler
from tornado import web
from tornado.http1connection import HTTP1Connection

from nblauncher import passwords, tickets
from nblauncher.clients import Client, Clients
from nblauncher.server_activity import Activity
from nblauncher.server_config import ServerConfig
from nblauncher.web.checker import PasswordChecker
from nblauncher.web.guesses import Guesses

_PORT = re.compile(r":[0-9]+$")
_HOST = re.compile(r"[a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\]")


class StudentIdentity(PasswordIdentityProvider):
    """One student, one password; there is no token and no other way in."""

    username: ClassVar[str] = ""
    activity: ClassVar[Activity]

    def get_user_cookie(self, handler: web.RequestHandler) -> User | None:
        """Every request of somebody who is signed in comes by here."""
        user = cast("User | None", super().get_user_cookie(handler))
        if user is not None:
            self.activity.seen(handler.request.method or "", handler.request.path)
        return user

    def passwd_check(self, password: str) -> bool:
        """Whether it is the password, typed in whatever case and grouping. 18 ms of CPU."""
        return bool(passwd_check(self.hashed_password, passwords.regroup(password)))  # type: ignore[no-untyped-call]

    def validate_security(self, app: Any, ssl_options: dict[str, Any] | None = None) -> None:
        """Jupyter would look for a certificate in its own settings and warn; ours came with the sockets."""
        if not self.hashed_password:
            raise SystemExit("no password was given for this server")

    def generate_anonymous_user(self, handler: web.RequestHandler) -> User:
        """Whoever gets in is the student."""
        name = self.username
        return User(name, name, name, name[:2].upper(), None, None)


class LoginForm(LoginFormHandler):
    """The server's own password form."""

    clients: ClassVar[Clients] = Clients()
    guesses: ClassVar[Guesses] = Guesses()
    checker: ClassVar[PasswordChecker | None] = None

    @allow_unauthenticated
    async def post(self) -> None:
        """Check the password elsewhere than in the event loop; a wrong one is answered later and later."""
        typed = self.get_argument("password", default="")
        client = self._client()
        if not await self._checks().is_right(client.share, "", typed):
            await asyncio.sleep(self.guesses.wrong(client.group, ""))
            self.refuse(401, "This is not the password. It stands on your slip; hyphens and capitals do not matter.")
            return
        self.sign_in()
        self._redirect_safe(self.get_argument("next", default=self.base_url))  # type: ignore[no-untyped-call]

    def _checks(self) -> PasswordChecker:
        """One for the whole server: those who guess wait in turn, as at the front page."""
        if LoginForm.checker is None:
            provider = cast(StudentIdentity, self.identity_provider)
            LoginForm.checker = PasswordChecker(
                {"": provider.hashed_password}, verify=lambda typed, _hashed: provider.passwd_check(typed)
            )
        return LoginForm.checker

    def _client(self) -> Client:
        stream = cast(HTTP1Connection, self.request.connection).stream
        return self.clients.of(stream.socket, str(self.request.remote_ip))

    def refuse(self, status: int, words: str) -> None:
        """Show the form with these words."""
        self.set_status(status)
        self._render(message={"error": words})  # type: ignore[no-untyped-call]

    def sign_in(self) -> None:
        user = self.current_user = self.identity_provider.generate_anonymous_user(self)
        self.identity_provider.set_login_cookie(self, user)


class TicketHandler(LoginForm):
    """`POST nblauncher/ticket`: the front page's form brings a ticket, which is used up here (DESIGN section 5)."""

    pool: ClassVar[ThreadPoolExecutor] = ThreadPoolExecutor(2, thread_name_prefix="ticket")

    def initialize(self, front_port: int, tickets_socket: Path, own_label: str) -> None:
        self._front_port, self._tickets_socket, self._own_label = front_port, tickets_socket, own_label

    def check_xsrf_cookie(self) -> None:
        """The form is another page's and has no cookie of ours: `is_from_front_page` and the ticket replace it."""

    @allow_unauthenticated
    def get(self) -> None:
        """Somebody came back here by hand."""
        self.redirect(self.base_url)

    @allow_unauthenticated
    async def post(self) -> None:
        """Sign in and go to a clean URL; a ticket that is not good leads to the password form."""
        if not self.is_from_front_page():
            self.refuse(403, "This sign-in did not come from the class's own page. Sign in with your password instead.")
            return
        ticket = self.get_body_argument("ticket", "")
        loop = asyncio.get_running_loop()
        if not await loop.run_in_executor(self.pool, tickets.redeem, self._tickets_socket, ticket):
            self.refuse(403, "This sign-in took too long or was used before. Sign in with your password instead.")
            return
        self.sign_in()
        self.redirect(self.base_url, status=303)

    def is_from_front_page(self) -> bool:
        """The same host without the student's own label, on the front page's port. A request with neither header comes
        from no browser.
        """
        origin = self.request.headers.get("Origin")
        site = self.request.headers.get("Sec-Fetch-Site")
        if origin is None:
            return site is None
        host = _PORT.sub("", self.request.host).lower().removeprefix(self._own_label)
        default = {"https": 443, "http": 80}[self.request.protocol]
        port = "" if self._front_port == default else f":{self._front_port}"
        return site != "cross-site" and origin.lower() == f"{self.request.protocol}://{host}{port}".lower()


class BeginHandler(JupyterHandler):
    """Where a student lands: in the material folder while there is one."""

    def initialize(self, interface: str, home: Path, target: str) -> None:
        self._interface, self._home, self._target = interface, home, target

    @web.authenticated
    def get(self) -> None:
        self.redirect(self.base_url + self._page())

    def _page(self) -> str:
        if self._interface == "lab":
            # Lab remembers where a student was; it begins in the server's preferred_dir.
            return "lab"
        is_there = self._target and (self._home / self._target).is_dir()
        return f"tree/{quote(self._target)}" if is_there else "tree"


class Elsewhere(web.RequestHandler):
    """Outside of the student's own path: for whoever tries ports, Jupyter's own pages would say whose server it is."""

    def initialize(self, front_port: int, own_label: str) -> None:
        self._front_port, self._own_label = front_port, own_label

    def check_xsrf_cookie(self) -> None:
        """Nothing is done here."""

    def prepare(self) -> None:
        host = _PORT.sub("", self.request.host).lower().removeprefix(self._own_label)
        if self.request.path == "/" and _HOST.fullmatch(host):
            self.redirect(f"{self.request.protocol}://{host}:{self._front_port}/")
            return
        self.set_status(404)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish("There is nothing here.\n")


def handlers(config: ServerConfig) -> list[tuple[str, type[web.RequestHandler], dict[str, object]]]:
    """What nblauncher adds to a notebook server."""
    entrance = {
        "front_port": config.front_port,
        "tickets_socket": Path(config.tickets_socket),
        "own_label": config.own_label,
    }
    elsewhere = {"front_port": config.front_port, "own_label": config.own_label}
    begin = {"interface": config.interface, "home": Path(config.home), "target": config.target}
    return [
        (f"{config.base_url}nblauncher/ticket", TicketHandler, entrance),
        (f"{config.base_url}nblauncher/begin", BeginHandler, begin),
        (rf"(?!{config.base_url}|{config.base_url[:-1]}$).*", Elsewhere, elsewhere),
    ]
