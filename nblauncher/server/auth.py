"""How a student signs in at their own notebook server: a ticket from the front page, or the password.

Runs in the student's process. Wrong guesses cost time, a right password is never refused, and neither keeps the
server from answering others.
"""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, cast
from urllib.parse import quote, urlencode

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.auth.identity import PasswordIdentityProvider, User
from jupyter_server.auth.login import LoginFormHandler
from jupyter_server.auth.security import passwd_check
from jupyter_server.base.handlers import JupyterHandler
from tornado import web
from tornado.http1connection import HTTP1Connection
from tornado.websocket import WebSocketHandler

from nblauncher.auth import appearance, passwords, sealed_tickets, tickets, visitor_pages
from nblauncher.auth.checker import PasswordChecker
from nblauncher.auth.front_door import FrontDoor, onward_of
from nblauncher.auth.guesses import Guesses
from nblauncher.model import CHECKS_LOGINS, KEEP_BEHIND_PROXY
from nblauncher.server import host_requests, notice_board
from nblauncher.server.activity import SESSION, Activity
from nblauncher.server.config import ServerConfig
from nblauncher.server.host_link import HostHandler, HostLink
from nblauncher.server.notice_board import NoticeBoard, NoticesHandler
from nblauncher.server.sessions import KEPT_DAYS, Session, Sessions
from nblauncher.system.clients import Client, Clients


class StudentIdentity(PasswordIdentityProvider):
    """One student, one password; there is no token and no other way in."""

    username: ClassVar[str] = ""
    activity: ClassVar[Activity]
    sessions: ClassVar[Sessions]
    board: ClassVar[NoticeBoard]
    front_door: ClassVar[FrontDoor]
    appearance: ClassVar[Path] = Path("/nonexistent")
    is_behind_proxy: ClassVar[bool] = False
    era: ClassVar[int] = 0
    """Counts the passwords: a check that began with an earlier one signs nobody in."""

    def get_user_cookie(self, handler: web.RequestHandler) -> User | None:
        """Called for every request of a signed-in client."""
        session = self.session_of(handler)
        if session is None or self.sessions.is_over(session):
            return None
        if session.visit and not self.board.has_visit(session.visit):
            return None
        user = cast("User | None", super().get_user_cookie(handler))
        if user is not None:
            if not _is_check(handler):
                self.activity.seen(handler.request.method or "", handler.request.path)
            if isinstance(handler, WebSocketHandler):
                self.sessions.connected(session, handler)
        return user

    def session_of(self, handler: web.RequestHandler) -> Session | None:
        """The session in the request's login cookie, whether or not it has ended."""
        content = handler.get_signed_cookie(self.get_cookie_name(handler), **self.get_secure_cookie_kwargs)
        return Session.parse(json.loads(content)) if content else None

    def sign_in(self, handler: JupyterHandler, *, is_kept: bool, visit: str = "") -> None:
        """Begin a new session, whatever cookie the browser sent. `visit` names the teacher's visit."""
        user = handler.current_user = self.generate_anonymous_user(handler)
        self._set_cookie(handler, user, Session.begin(is_kept=is_kept, visit=visit))
        if not _is_check(handler):
            self.activity.report(SESSION)

    def set_login_cookie(self, handler: web.RequestHandler, user: User) -> None:
        """Jupyter calls this when a student changes their display name or colour: the session stays the same."""
        self._set_cookie(handler, user, self.session_of(handler) or Session.begin(is_kept=False))

    def renew(self, hashed_password: str) -> None:
        """Another password, by the teacher. The cookies of all sign-ins are invalid already: see renewal."""
        self.hashed_password = hashed_password
        StudentIdentity.era += 1
        self.sessions.cut_off()

    def log_out(self, handler: JupyterHandler) -> None:
        """End the session, so that copies of the cookie are refused too, and clear the cookie."""
        session = self.session_of(handler)
        if session is not None:
            self.sessions.end(session)
        self.clear_login_cookie(handler)

    def _set_cookie(self, handler: web.RequestHandler, user: User, session: Session) -> None:
        handler.set_signed_cookie(
            self.get_cookie_name(handler),
            json.dumps({**asdict(user), **session.to_json()}),
            expires_days=KEPT_DAYS if session.is_kept else None,
            path=cast(JupyterHandler, handler).base_url,
            httponly=True,
            samesite="Lax",
            secure=handler.request.protocol == "https",
        )
        if self.is_behind_proxy and session.is_kept:
            handler.set_cookie(KEEP_BEHIND_PROXY, "1")

    def cookie_secret_hook(self, h: Any) -> Any:
        """Jupyter would add the hash of the password here; nblauncher.server.renewal does, so that it can change."""
        return h

    def passwd_check(self, password: str) -> bool:
        """Whether it is the password, in any case and grouping. 18 ms of CPU."""
        return bool(passwd_check(self.hashed_password, passwords.regroup(password)))  # type: ignore[no-untyped-call]

    def validate_security(self, app: Any, ssl_options: dict[str, Any] | None = None) -> None:
        """Jupyter would look for a certificate in its own settings and warn; ours came with the sockets."""
        if not self.hashed_password:
            raise SystemExit("no password was given for this server")

    def generate_anonymous_user(self, handler: web.RequestHandler) -> User:
        """Every signed-in client is the student."""
        name = self.username
        return User(name, name, name, name[:2].upper(), None, None)


def _is_check(handler: web.RequestHandler) -> bool:
    """Whether the request says that it is no student's: it does not count as activity. A student may say so too."""
    return handler.request.headers.get("User-Agent") == CHECKS_LOGINS


class LoginForm(LoginFormHandler):
    """The server's own password form."""

    clients: ClassVar[Clients] = Clients()
    guesses: ClassVar[Guesses] = Guesses()
    checker: ClassVar[PasswordChecker | None] = None

    @allow_unauthenticated
    def get(self) -> None:
        """Send a visitor that requested another page of this server to the front page. Only `login` itself shows the
        form: it still works while the front page is closed.
        """
        following = self.get_query_argument("next", "")
        page = self.provider.front_door.page(self.request, self.provider.username, onward_of(following, self.base_url))
        if self.current_user is None and following and page is not None:
            self.redirect(page)
        else:
            super().get()  # type: ignore[no-untyped-call]

    @allow_unauthenticated
    async def post(self) -> None:
        """Check the password outside the event loop; wrong guesses are answered after longer and longer delays."""
        typed = self.get_argument("password", default="")
        client, era = self._client(), self.provider.era
        if not await self._checks().is_right(client.share, "", typed) or self.provider.era != era:
            await asyncio.sleep(self.guesses.wrong(client.group, ""))
            self.refuse(401, "own_wrong_password")
            return
        self.provider.sign_in(self, is_kept=self.is_kept)
        self._redirect_safe(self.get_argument("next", default=self.base_url))  # type: ignore[no-untyped-call]

    def _checks(self) -> PasswordChecker:
        """One for the whole server: guesses wait in turn, as at the front page."""
        if LoginForm.checker is None:
            provider = self.provider
            LoginForm.checker = PasswordChecker(
                {"": provider.hashed_password}, verify=lambda typed, _hashed: provider.passwd_check(typed)
            )
        return LoginForm.checker

    def _client(self) -> Client:
        stream = cast(HTTP1Connection, self.request.connection).stream
        return self.clients.of(stream.socket, str(self.request.remote_ip))

    @property
    def provider(self) -> StudentIdentity:
        return cast(StudentIdentity, self.identity_provider)

    @property
    def is_kept(self) -> bool:
        """Whether the student ticked that the computer is their own."""
        return bool(self.get_body_argument("keep", ""))

    def refuse(self, status: int, problem: str) -> None:
        """Show the form with this problem: the name of a text."""
        self.set_status(status)
        self._render(message={"error": problem})

    def _render(self, message: dict[str, str] | None = None) -> None:
        """Jupyter's own `get` calls this as well."""
        query = urlencode({"next": self.get_argument("next", default=self.base_url)})
        action = f"{self.base_url}login?{query}"
        about = {"problem": (message or {}).get("error", ""), "is_kept": self.is_kept}
        show(self, "sign_in.html", action=action, username=self.provider.username, **about)


class TicketHandler(LoginForm):
    """`POST nblauncher/ticket`: the front page's form brings a ticket, used up here (docs/decisions/tickets.md)."""

    pool: ClassVar[ThreadPoolExecutor] = ThreadPoolExecutor(2, thread_name_prefix="ticket")

    redeemed: ClassVar[sealed_tickets.Redeemed] = sealed_tickets.Redeemed()

    def initialize(self, tickets_socket: Path | None) -> None:
        """None: on a node, from which the front page cannot be reached."""
        self._tickets_socket = tickets_socket

    def check_xsrf_cookie(self) -> None:
        """The form is on another site and has no cookie of ours: `is_from_front_page` and the ticket replace it."""

    @allow_unauthenticated
    def get(self) -> None:
        """A browser was sent back here by hand."""
        self.redirect(self.base_url)

    @allow_unauthenticated
    async def post(self) -> None:
        """Sign in and go to a clean URL; an invalid ticket leads to the password form."""
        if not self.is_from_front_page():
            self.refuse(403, "not_from_front_page")
            return
        ticket = self.get_body_argument("ticket", "")
        loop, era = asyncio.get_running_loop(), self.provider.era
        if self._tickets_socket is None:
            provider = self.provider
            admission = self.redeemed.redeem(provider.username, provider.hashed_password, ticket)
            if admission is not None and admission.visit:
                provider.board.admit(admission.visit)
        else:
            admission = await loop.run_in_executor(self.pool, tickets.admission, self._tickets_socket, ticket)
        if admission is None or self.provider.era != era:
            self.refuse(403, "ticket_used")
            return
        self.provider.sign_in(self, is_kept=self.is_kept, visit=admission.visit)
        following = f"{self.base_url}{self.get_body_argument('next', '')}"
        self.redirect(f"{self.base_url}{onward_of(following, self.base_url)}", status=303)

    def is_from_front_page(self) -> bool:
        """A request with neither header does not come from a browser."""
        origin = self.request.headers.get("Origin")
        site = self.request.headers.get("Sec-Fetch-Site")
        if origin is None:
            return site is None
        return site != "cross-site" and origin.lower() == self.provider.front_door.origin(self.request)


class LogOut(JupyterHandler):
    """Ends the session and leads to the front page. Our own pages ask for it with a form or a link."""

    @allow_unauthenticated
    def get(self) -> None:
        """Ask first, unless the student followed a link of ours: no other page, and no picture, can log out."""
        if self._is_followed_here():
            self._end()
            return
        show(self, "log_out.html", action=f"{self.base_url}logout")

    @allow_unauthenticated
    def post(self) -> None:
        """Jupyter has checked _xsrf by now."""
        self._end()

    def _is_followed_here(self) -> bool:
        """Whether the student followed a link on a page of this server or typed the address. Browsers send no
        Sec-Fetch-Site without TLS; the Referer has to do then.
        """
        headers = self.request.headers
        site = headers.get("Sec-Fetch-Site")
        if site is None:
            return "Referer" not in headers or self.check_referer()
        return site in ("none", "same-origin") and headers.get("Sec-Fetch-Dest") == "document"

    def _end(self) -> None:
        provider = cast(StudentIdentity, self.identity_provider)
        provider.log_out(self)
        self.redirect(provider.front_door.page(self.request, provider.username) or self.base_url, status=303)


def show(handler: JupyterHandler, template: str, **values: object) -> None:
    """Finish with a page of nblauncher.auth.visitor_pages."""
    provider = cast(StudentIdentity, handler.identity_provider)
    handler.set_header("Content-Security-Policy", visitor_pages.POLICY)
    handler.set_header("Cache-Control", "no-store")
    page = provider.front_door.page(handler.request, provider.username) or handler.base_url
    look = appearance.read(provider.appearance)
    handler.finish(visitor_pages.render(template, look, front_page=page, xsrf=handler.xsrf_form_html(), **values))


class BeginHandler(JupyterHandler):
    """Where a student lands: in the material folder if there is one."""

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
    """Outside the student's path: Jupyter's own pages would tell a port scanner which student has this server."""

    def initialize(self, front_door: FrontDoor) -> None:
        self._front_door = front_door

    def check_xsrf_cookie(self) -> None:
        """Nothing is done here."""

    def prepare(self) -> None:
        page = self._front_door.page(self.request)
        if self.request.method in ("GET", "HEAD") and page is not None:
            self.redirect(page)
            return
        self.set_status(404)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish("There is nothing here.\n")


def handlers(
    config: ServerConfig, board: NoticeBoard, host_link: HostLink | None = None
) -> list[tuple[str, type[web.RequestHandler], dict[str, object]]]:
    """What nblauncher adds to a notebook server. `host_link` is that of a server on a node."""
    entrance: dict[str, object] = {"tickets_socket": Path(config.tickets_socket) if config.tickets_socket else None}
    elsewhere: dict[str, object] = {"front_door": FrontDoor(config.front_port, config.own_label)}
    begin: dict[str, object] = {"interface": config.interface, "home": Path(config.home), "target": config.target}
    of_node: list[tuple[str, type[web.RequestHandler], dict[str, object]]] = []
    if host_link is not None:
        of_node.append((f"{config.base_url}{host_requests.PATH}", HostHandler, {"link": host_link}))
    return [
        *of_node,
        (f"{config.base_url}nblauncher/ticket", TicketHandler, entrance),
        (f"{config.base_url}nblauncher/begin", BeginHandler, begin),
        (f"{config.base_url}{notice_board.PATH}", NoticesHandler, {"board": board}),
        (rf"(?!{config.base_url}|{config.base_url[:-1]}$).*", Elsewhere, elsewhere),
    ]
